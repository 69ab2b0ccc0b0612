"""Enumeration: finite sites take all their values at once, and what depends on them follows."""

from collections.abc import Callable

import pytest
import torch
from enumerated import P, finite, refused
from torch import Tensor
from torch import distributions as d

import ancestral as an
from ancestral.trace import handlers as h
from ancestral.trace.handlers import enumerate as enumeration
from ancestral.trace.handlers import mask as masked
from ancestral.trace.nodes.enum_dims import Variable

Mixed = Callable[[Tensor], Tensor]


def own(trace: an.Trace, name: str) -> Variable:
    enumerated = trace[name].enumeration
    assert enumerated is not None
    assert enumerated.own is not None
    return enumerated.own


@pytest.mark.parametrize(
    ("fn", "values"),
    [
        (d.Bernoulli(torch.tensor(0.3)), torch.tensor([0.0, 1.0])),
        (d.Categorical(P), torch.arange(3)),
        (d.Binomial(2, torch.tensor(0.3)), torch.tensor([0.0, 1.0, 2.0])),
        (d.OneHotCategorical(P), torch.eye(3).double()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_finite_site_takes_all_its_values(fn: d.Distribution, values: Tensor) -> None:
    with an.record() as trace, enumeration(first_dim=-3):
        an.sample("z", fn)
    node = trace["z"]
    event = len(fn.event_shape)
    assert torch.equal(node.value, values.reshape(len(values), 1, 1, *values.shape[1:]))
    assert node.is_enumerated
    assert not node.is_drawn
    assert own(trace, "z").dim == -3
    assert node.log_prob.shape == (len(values), 1, 1)
    assert node.value.dim() == 3 + event


def test_the_values_of_a_site_in_a_plate_stand_once_for_each_repetition() -> None:
    with an.record() as trace, enumeration(first_dim=-3), an.plate("outer", 4, dim=-2):
        z = an.sample("z", d.Categorical(P))
        with an.plate("inner", 5, dim=-1):
            w = an.sample("w", d.Bernoulli(P[z]))
    assert z.shape == (3, 4, 1)
    assert w.shape == (2, 1, 4, 5)
    assert trace["w"].log_prob.shape == (2, 3, 4, 5)


def test_every_further_site_is_one_dimension_further_left() -> None:
    with an.record() as trace, enumeration(first_dim=-2):
        for i in range(4):
            an.sample(f"z{i}", d.Categorical(P))
    assert [own(trace, f"z{i}").dim for i in range(4)] == [-2, -3, -4, -5]


def test_the_graph_has_the_edges_that_the_program_has() -> None:
    with an.record() as trace, enumeration():
        a = an.sample("a", d.Categorical(P))
        b = an.sample("b", d.Bernoulli(P[a]))
        an.observe("x", d.Normal(a + b, torch.ones(5)), torch.zeros(5))
    assert not trace["a"].parents
    assert trace["b"].parents == {"a"}
    assert trace["x"].parents == {"a", "b"}


def test_data_stays_as_large_as_it_is() -> None:
    with an.record() as trace, enumeration(), an.plate("data", 5):
        z = an.sample("z", d.Categorical(P))
        an.observe("x", d.Normal(z.double(), 1.0), torch.zeros(5).double())
    assert trace["x"].value.shape == (5,)
    assert trace["x"].log_prob.shape == (3, 1, 1, 1, 5)


def test_events_are_summed_within_the_density_of_what_is_observed() -> None:
    with an.record() as trace, enumeration(first_dim=-2), an.plate("data", 5):
        z = an.sample("z", d.Categorical(P))
        fn = d.Independent(d.Normal(z[..., None] * torch.ones(4).double(), 1.0), 1)
        an.observe("x", fn, torch.zeros(5, 4).double())
    assert trace["x"].log_prob.shape == (3, 5)
    assert trace["x"].elementwise_log_prob.shape == (3, 5, 4)


def test_what_is_infinite_is_drawn() -> None:
    with an.record() as trace, enumeration():
        an.sample("x", d.Normal(0.0, 1.0))
        an.sample("n", d.Poisson(torch.tensor(3.0)))
    assert trace["x"].is_drawn
    assert trace["n"].is_drawn


@pytest.mark.parametrize("is_inside", [True, False])
def test_infer_config_leaves_a_site_to_be_drawn_inside_and_outside(is_inside: bool) -> None:
    config = h.infer_config(lambda message: {"enumerate": message.name != "z"})
    inner, outer = (config, enumeration()) if is_inside else (enumeration(), config)
    with an.record() as trace, outer, inner:
        an.sample("z", d.Categorical(P))
        an.sample("w", d.Categorical(P))
    assert (trace["z"].is_drawn, trace["w"].is_enumerated) == (True, True)


def test_infer_leaves_a_site_to_be_drawn() -> None:
    with an.record() as trace, enumeration():
        an.sample("z", d.Categorical(P), infer={"enumerate": False})
    assert trace["z"].value.shape == ()
    assert trace["z"].is_drawn


@pytest.mark.parametrize("is_inside", [True, False])
@pytest.mark.parametrize("verb", [h.condition, h.substitute, h.do])
def test_a_value_that_a_handler_gives_is_taken_inside_and_outside(
    verb: Callable[..., h.condition], is_inside: bool
) -> None:
    giving = verb({"z": torch.tensor(1)})
    inner, outer = (giving, enumeration()) if is_inside else (enumeration(), giving)
    with an.record() as trace, outer, inner:
        an.sample("z", d.Categorical(P))
        an.sample("w", d.Categorical(P))
    assert trace["z"].value.shape == ()
    assert not trace["z"].is_enumerated
    assert own(trace, "w").dim == -5


@pytest.mark.parametrize("is_inside", [True, False])
def test_a_drawn_site_is_replayed_under_what_is_enumerated(is_inside: bool) -> None:
    def model() -> None:
        z = an.sample("z", d.Categorical(P))
        with an.plate("data", 4):
            an.sample("x", d.Normal(z.double(), 1.0))

    with an.record() as guide, an.plate("data", 4):
        an.sample("x", d.Normal(torch.zeros(()).double(), 1.0))
    replaying = h.replay(guide)
    inner, outer = (replaying, enumeration()) if is_inside else (enumeration(), replaying)
    with an.record() as trace, outer, inner:
        model()
    assert torch.equal(trace["x"].value, guide["x"].value)
    assert trace["x"].log_prob.shape == (3, 1, 1, 1, 4)


def test_an_enumerated_site_is_replayed_with_its_dimension() -> None:
    with an.record():
        with an.record() as guide, enumeration():
            an.sample("z", d.Categorical(P))
        with an.record() as model, h.replay(guide), enumeration():
            an.sample("w", d.Categorical(P))
            an.sample("z", d.Categorical(P.flip(0)))
    assert own(model, "z") is own(guide, "z")
    assert own(model, "w").dim == -6


def test_a_blocked_site_is_drawn_out_of_scope() -> None:
    with an.record() as trace, enumeration(), h.block("z"):
        z = an.sample("z", d.Categorical(P))
        an.sample("w", d.Bernoulli(P[z]))
    assert z.shape == ()
    assert list(trace) == ["w"]
    assert trace["w"].is_enumerated


def test_a_block_can_be_run_again_with_all_dimensions_free() -> None:
    handled = enumeration()(lambda: an.sample("z", d.Categorical(P)))
    for _ in range(3):
        with an.record() as trace:
            handled()
        assert own(trace, "z").dim == -5


def test_a_site_with_one_value_has_that_one() -> None:
    with an.record() as trace, enumeration():
        z = an.sample("z", d.Categorical(torch.ones(1).double()))
        an.observe("x", d.Normal(z.double(), 1.0), torch.tensor(0.0).double())
    assert an.infer.marginals(trace)["z"].tolist() == [0.0]


# Programs that a network, a table or an embedding makes of a value keep the values apart.


@pytest.mark.parametrize(
    "logits",
    [
        lambda z: torch.rand(3, 3)[z],
        lambda z: torch.rand(4, 3, 3)[torch.arange(4), z],
        lambda z: torch.nn.functional.one_hot(z, 3).float() @ torch.rand(3, 3),
        lambda z: torch.nn.Linear(1, 3)(z[..., None].float()).relu(),
        lambda z: torch.nn.functional.embedding(z, torch.rand(3, 3)),
        lambda z: torch.stack([z.float(), z.float() ** 2, (z > 1).float()], -1),
        lambda z: torch.where((z == 1)[..., None], torch.rand(3), torch.rand(3)),
    ],
)
def test_what_keeps_the_values_apart_passes(logits: Callable[[Tensor], Tensor]) -> None:
    with an.record() as trace, enumeration(), an.plate("data", 4):
        z = an.sample("z", d.Categorical(P))
        an.sample("w", d.Categorical(logits=logits(z)))
    assert trace["w"].log_prob.shape == (3, 3, 1, 1, 1, 4)


# What would be silently wrong raises.


@pytest.mark.parametrize(
    "mixed",
    [
        lambda z: z.double().mean(0, keepdim=True),
        lambda z: z.flip(0),
        lambda z: z.double().softmax(0),
        lambda z: z.double().cumsum(0),
        lambda z: z[1],
        lambda z: z.squeeze(),
        lambda z: z.double().transpose(0, 1),
    ],
)
def test_what_mixes_or_moves_the_values_of_a_site_raises(mixed: Mixed) -> None:
    refused(
        lambda: an.sample("x", d.Normal(mixed(finite()).double(), 1.0)),
        r"site 'x' \(.*test_enumerate.py:\d+\) depends on site 'z', .* dimension -3; .* mixes",
    )


def test_the_op_that_mixes_the_values_is_named() -> None:
    refused(
        lambda: an.sample("x", d.Normal(finite().double().cumsum(0), 1.0)), r"mixed by cumsum at"
    )


@pytest.mark.parametrize(
    "mixed", [lambda z: z.sum(-1, True), lambda z: z[..., :1], lambda z: z.flip(-1)]
)
def test_what_mixes_or_selects_the_repetitions_of_a_site_raises(mixed: Mixed) -> None:
    def program() -> None:
        with an.plate("data", 4):
            z = finite()
        an.sample("x", d.Normal(mixed(z).double(), 1.0))

    refused(program, r"site 'x' .* several repetitions of .* 'z', those along dimension -1")


def test_a_plate_on_a_dimension_of_values_raises() -> None:
    def program() -> None:
        with an.plate("data", 4, dim=-3):
            finite()

    refused(program, r"plate 'data' .* dimension -3; .*first_dim=.* such as -4")


def test_a_batch_on_a_dimension_of_values_raises() -> None:
    refused(
        lambda: an.sample("x", d.Normal(torch.zeros(5, 1, 1), 1.0)),
        r"site 'x' .*dimension -3 of the batch \[5, 1, 1\] has size 5; .* such as -4",
    )


def test_a_batch_as_large_as_the_values_of_a_site_raises_too() -> None:
    def program() -> None:
        finite()
        an.sample("x", d.Normal(torch.zeros(3, 1, 1), 1.0))

    refused(program, r"dimension -3 of the batch .* 'z' .*3 of them")


@pytest.mark.parametrize("what", ["value", "mask", "scale"])
def test_data_masks_and_scales_on_a_dimension_of_values_raise(what: str) -> None:
    wide = torch.ones(3, 1, 1).double()

    def program() -> None:
        fn = d.Normal(finite().double(), 1.0)
        if what == "value":
            an.observe("x", fn, wide)
        else:
            handler = masked(wide > 0) if what == "mask" else an.handlers.scale(wide)
            with handler:
                an.observe("x", fn, torch.zeros(()).double())

    refused(program, rf"dimension -3 of the {what}")


def test_what_is_infinite_and_is_to_be_enumerated_raises() -> None:
    refused(
        lambda: an.sample("n", d.Poisson(torch.tensor(3.0)), infer={"enumerate": True}),
        r"site 'n' .*cannot be enumerated: Poisson has infinitely many",
    )


def test_values_that_cannot_be_listed_raise() -> None:
    refused(
        lambda: an.sample("n", d.Binomial(torch.tensor([1.0, 2.0]), torch.tensor(0.5))),
        r"site 'n' .*Binomial cannot list its values",
    )


def test_a_choice_that_means_nothing_raises() -> None:
    refused(
        lambda: an.sample("z", d.Categorical(P), infer={"enumerate": "sequential"}),
        r'site \'z\' .*must be True \("parallel"\) or False, not \'sequential\'',
    )


def test_two_enumerations_of_one_block_raise() -> None:
    with (
        enumeration(),
        pytest.raises(an.errors.EnumerationError, match="enumerate is open already"),
        enumeration(),
    ):
        pass


def test_a_site_of_an_earlier_block_is_out_of_scope() -> None:
    with an.record():
        with enumeration():
            z = finite()
        with enumeration(), pytest.raises(an.errors.EnumerationError, match=r"z.* out of scope"):
            an.sample("x", d.Normal(z.double(), 1.0))


def test_a_site_is_replayed_where_its_dimension_stands_for_values() -> None:
    with an.record() as guide, enumeration(first_dim=-1):
        finite()
    pattern = r"site 'z' .* along dimension -1; but this block enumerates from dimension -2 .* -2$"
    with (
        an.record(),
        h.replay(guide),
        enumeration(first_dim=-2),
        pytest.raises(an.errors.EnumerationError, match=pattern),
    ):
        finite()


def test_a_vector_of_the_free_choices_leaves_out_what_is_enumerated() -> None:
    with an.record() as trace, enumeration():
        finite()
        an.sample("x", d.Normal(0.0, 1.0))
    assert trace.pack().shape == (1,)
    with pytest.raises(an.errors.SiteError, match=r"site 'z' .*is enumerated"):
        trace.pack(["z"])


def test_a_site_is_replayed_with_all_its_values_only_where_others_have_theirs() -> None:
    with an.record() as guide, enumeration(first_dim=-1):
        finite()
    with (
        an.record(),
        h.replay(guide),
        an.plate("data", 3),
        pytest.raises(
            an.errors.EnumerationError, match=r"site 'z' .*which was enumerated; run .* within"
        ),
    ):
        finite()


@pytest.mark.parametrize(
    "decide",
    [
        lambda z: bool((z > 0).any()),
        lambda z: z.sum().item(),
        lambda z: z.tolist(),
        lambda z: int(z[0]),
        lambda z: z[z > 0],
        lambda z: bool((z * 2 > 0).all()),
    ],
)
def test_a_decision_of_python_on_an_enumerated_value_raises_and_names_the_line(
    decide: Callable[[Tensor], object],
) -> None:
    with an.record(), enumeration():
        z = finite()
        pattern = r"test_enumerate\.py:\d+: .*'z', which has all its values at once"
        with pytest.raises(an.errors.ConfinedError, match=pattern):
            decide(z)


def test_to_look_at_an_enumerated_value_without_a_decision_is_no_error() -> None:
    with an.record() as trace, enumeration():
        z = finite()
        assert an.untrack(z).flatten().tolist() == [0, 1, 2]
    assert not trace.escapes
