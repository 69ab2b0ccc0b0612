"""Lifting: parameters that are drawn from a prior, alone and among the other handlers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch import distributions as d

import ancestral as an
from ancestral.trace import handlers as h
from oracles import derivatives, mean_and_truth

DATA = torch.tensor([1.0, 3.0], dtype=torch.float64)
PRIOR = d.Normal(torch.tensor(0.0, dtype=torch.float64), 2.0)


def model() -> Tensor:
    """Observe data whose means are a parameter."""
    mean = an.param("mean", torch.zeros(2, dtype=torch.float64))
    return an.sample("x", d.Independent(d.Normal(mean, 1.0), 1), obs=DATA)


def lifted(prior: d.Distribution, init: Tensor) -> an.Node:
    """Return the node of a parameter that is lifted."""
    with an.record() as trace, h.lift(prior), h.seed(0):
        an.param("w", init)
    return trace["w"]


# What a parameter becomes


def test_the_joint_density_is_that_of_the_model_with_a_prior() -> None:
    with an.record() as trace, h.lift(PRIOR), h.seed(0):
        model()
    mean = trace["mean"].value
    assert trace["mean"].is_stochastic
    assert trace.param_nodes == []
    assert trace["x"].parents == {"mean"}
    expected = d.Normal(0.0, 2.0).log_prob(mean).sum() + d.Normal(mean, 1.0).log_prob(DATA).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)


@pytest.mark.parametrize(
    ("prior", "shape"),
    [
        (d.Normal(0.0, 1.0), ()),
        (d.Normal(0.0, 1.0), (2, 3)),
        (d.Normal(torch.zeros(3), 1.0), (2, 3)),
        (d.Normal(torch.zeros(2, 1), 1.0), (2, 3)),
        (d.Independent(d.Normal(torch.zeros(3), 1.0), 1), (2, 3)),
        (d.Dirichlet(torch.ones(3)), (3,)),
        (d.Dirichlet(torch.ones(3)), (4, 2, 3)),
    ],
)
def test_a_prior_is_expanded_to_one_event_of_the_shape_of_the_parameter(
    prior: d.Distribution, shape: tuple[int, ...]
) -> None:
    node = lifted(prior, torch.zeros(shape))
    assert node.fn is not None
    assert (tuple(node.fn.batch_shape), tuple(node.fn.event_shape)) == ((), shape)
    assert (tuple(node.value.shape), tuple(node.log_prob.shape)) == (shape, ())
    assert node.is_reparameterized
    torch.testing.assert_close(node.log_prob, prior.log_prob(node.value).sum())


def test_some_parameters_are_lifted_by_name_or_by_a_function() -> None:
    def program() -> None:
        an.param("a", torch.zeros(2))
        an.param("b", torch.ones(2), d.constraints.positive)

    def positive(message: h.Message) -> d.Distribution | None:
        is_positive = message.options["constraint"] is d.constraints.positive
        return d.Gamma(1.0, 1.0) if is_positive else None

    for prior in ({"b": d.Gamma(1.0, 1.0)}, positive):
        store = an.ParamStore()
        with store, an.record() as trace, h.lift(prior), h.seed(0):
            program()
        assert {name: node.type for name, node in trace.items()} == {"a": "param", "b": "sample"}
        assert list(store) == ["a"]


def test_the_shape_is_that_of_the_init_of_the_store_or_of_the_prior() -> None:
    calls: list[int] = []

    def init() -> Tensor:
        calls.append(1)
        return torch.zeros(3)

    prior, store = h.lift(d.Normal(0.0, 1.0)), an.ParamStore()
    for _ in range(2):
        assert prior(lambda: an.param("w", init))().shape == (3,)
    assert len(calls) == 1
    store(lambda: an.param("w", torch.zeros(4)))()
    for function in (prior(store(lambda: an.param("w"))), store(prior(lambda: an.param("w")))):
        assert function().shape == (4,)
    assert h.lift(d.Normal(torch.zeros(5), 1.0))(lambda: an.param("v"))().shape == (5,)


def test_the_shape_is_that_of_what_was_loaded() -> None:
    store = an.ParamStore()
    store.load_state_dict({"w": torch.zeros(3), "p": torch.zeros(3)})
    with store, h.lift({"w": d.Normal(0.0, 1.0), "p": d.Dirichlet(torch.ones(4))}):
        assert an.param("w").shape == (3,)
        assert an.param("p", constraint=d.constraints.simplex).shape == (4,)
    refused = pytest.raises(an.errors.ParamError, match=r"\[4\]")
    with store, h.lift(d.Dirichlet(torch.ones(3))), refused:
        an.param("p", constraint=d.constraints.simplex)
    refused = pytest.raises(an.errors.ParamError, match="expected an instance of a constr")
    with store, h.lift(PRIOR), refused:
        an.param("w", constraint=d.constraints.interval)  # type: ignore[arg-type]


def test_a_parameter_is_one_draw_of_a_recording_however_often_it_is_asked_for() -> None:
    def program() -> Tensor:
        return torch.stack([an.param("w", torch.zeros(2)) for _ in range(3)])

    with h.lift(d.Normal(0.0, 1.0)):
        with an.record() as first:
            found = program()
        with an.record() as second:
            program()
    assert bool((found == first["w"].value).all())
    assert an.provenance_of(found) == {"w"}
    assert not torch.equal(first["w"].value, second["w"].value)
    values = h.lift(d.Normal(0.0, 1.0))(program)()  # no recording: one draw of the block
    assert bool((values == values[0]).all())


def test_a_prior_in_a_plate_is_drawn_once() -> None:
    with an.record() as trace, h.lift(d.Normal(0.0, 1.0)), an.plate("data", 10, subsample_size=5):
        mean = an.param("mean", torch.zeros(()))
        an.sample("x", d.Normal(mean, 1.0))
    node = trace["mean"]
    assert (node.shape, node.cond_indep_stack, node.scale) == ((), (), 1.0)
    assert trace["x"].shape == (5,)


def test_the_exact_gradient_in_the_parameters_of_a_prior() -> None:
    def program(theta: Tensor) -> Tensor:
        with h.lift(d.Bernoulli(logits=theta)):
            w = an.param("w", torch.zeros(2, 2, dtype=torch.float64))
        x = an.sample("x", d.Bernoulli(logits=w.sum() - 1))
        return (w.sum(0) - DATA).square().sum() * (x + 1)

    def estimate(_: object, given: object) -> Tensor:
        with an.record():
            loss = program(*given)  # type: ignore[misc]
        return derivatives(an.surrogate(loss), given)  # type: ignore[arg-type]

    theta = [torch.tensor([[0.3, -0.2]], dtype=torch.float64, requires_grad=True)]
    torch.testing.assert_close(*mean_and_truth(program, theta, estimate))


def test_the_prior_of_a_linear_gaussian_model_gives_its_posterior() -> None:
    # The prior has variance 4, the data 1: the mode is x / (1 + 1 / 4), where no gradient is left.
    mode = (DATA / 1.25).requires_grad_()
    with an.record() as trace, h.substitute({"mean": mode}), h.lift(PRIOR):
        model()
    gradient = torch.autograd.grad(trace.log_prob_sum(), mode)[0]
    torch.testing.assert_close(gradient, torch.zeros_like(DATA))


# Among other handlers


def test_handlers_around_it_condition_a_lifted_parameter() -> None:
    value = torch.tensor([0.5, 0.25], dtype=torch.float64)
    with an.record() as trace, h.condition({"mean": value}), h.lift(PRIOR):
        model()
    assert trace["mean"].is_observed
    expected = d.Normal(0.0, 2.0).log_prob(value).sum() + d.Normal(value, 1.0).log_prob(DATA).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)


def test_handlers_within_it_see_a_parameter() -> None:
    handler = h.condition({"mean": DATA})
    refused = pytest.raises(h.UnknownSiteError, match="no site 'mean'")
    with refused, an.record(), h.lift(PRIOR), handler:
        model()
    with an.record() as trace, h.lift(PRIOR), h.substitute({"mean": DATA}):
        model()
    assert trace["mean"].type == "param"  # its value is given, there is nothing to draw


def test_a_lifted_parameter_is_set_from_outside() -> None:
    with an.record() as trace, h.do({"mean": DATA}), h.lift(PRIOR):
        assert torch.equal(model(), DATA)
    assert trace["mean"].type == "deterministic"
    torch.testing.assert_close(trace.log_prob_sum(), d.Normal(DATA, 1.0).log_prob(DATA).sum())


def test_a_lifted_parameter_is_replayed() -> None:
    with an.record() as first, h.lift(PRIOR), h.seed(0):
        model()
    with an.record() as second, h.replay(first), h.lift(PRIOR):
        model()
    assert torch.equal(second["mean"].value, first["mean"].value)
    torch.testing.assert_close(second.log_prob_sum(), first.log_prob_sum())
    with an.record() as third, h.lift(PRIOR), h.seed(1), h.replay(first):  # replay sees a parameter
        model()
    assert not torch.equal(third["mean"].value, first["mean"].value)


def test_a_guide_is_replayed_in_a_lifted_model() -> None:
    mean = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    with an.record():
        with an.record() as guide, h.seed(0):
            an.sample("mean", d.Independent(d.Normal(mean, 1.0), 1))
        with an.record() as run, h.replay(guide), h.lift(PRIOR):
            model()
    assert run["mean"].tracked_value.requires_grad
    torch.testing.assert_close(run["mean"].value, guide["mean"].value)


@pytest.mark.parametrize("hide", [h.block("mean"), h.expose("x")])
def test_a_lifted_parameter_is_hidden_from_those_around(hide: an.handlers.Handler) -> None:
    with an.record() as trace, hide, h.lift(PRIOR), h.seed(0):
        model()
    assert list(trace) == ["x"]
    store = an.ParamStore()
    no_effect = pytest.warns(an.errors.NoEffectWarning, match="lift at .* no parameter")
    with no_effect, store, an.record() as trace, h.lift(PRIOR), hide:  # lift does not see it
        model()
    assert (list(trace), list(store)) == (["x"], ["mean"])


@pytest.mark.parametrize("is_outside", [False, True])
def test_a_seed_gives_the_same_draw(is_outside: bool) -> None:
    def drawn() -> Tensor:
        prior = h.lift(PRIOR)
        program: Callable[[], Tensor] = lambda: an.param("w", torch.zeros(2).double())  # noqa: E731
        return (h.seed(0)(prior(program)) if is_outside else prior(h.seed(0)(program)))()

    assert torch.equal(drawn(), drawn())


def test_weights_around_it_count_and_those_within_it_do_not() -> None:
    with an.record() as outside, h.scale(3.0), h.lift(PRIOR), h.seed(0):
        model()
    with an.record() as inside, h.lift(PRIOR), h.scale(3.0), h.mask(False), h.seed(0):
        model()
    assert (outside["mean"].scale, inside["mean"].scale) == (3.0, 1.0)
    assert inside["mean"].mask is None


def test_the_inner_prior_wins() -> None:
    with (
        an.record() as trace,
        h.lift(d.Normal(0.0, 1.0)),
        h.lift({"w": d.Normal(100.0, 1.0)}),
        h.seed(0),
    ):
        for _ in range(2):
            an.param("w", torch.zeros(2))
    assert bool((trace["w"].value > 50).all())


# Bad input


@pytest.mark.parametrize(
    ("prior", "shape"),
    [
        (d.Normal(torch.zeros(3), 1.0), (2,)),
        (d.Normal(torch.zeros(2, 3), 1.0), (3,)),
        (d.Dirichlet(torch.ones(3)), (4,)),
        (d.Dirichlet(torch.ones(3)), ()),
    ],
)
def test_a_prior_of_another_shape_is_refused(prior: d.Distribution, shape: tuple[int, ...]) -> None:
    with pytest.raises(an.errors.ParamError) as caught:
        lifted(prior, torch.zeros(shape))
    batch, event = list(prior.batch_shape), list(prior.event_shape)
    for part in (
        *("parameter 'w'", f"{__file__}:", type(prior).__name__, f"batch {batch}"),
        *(f"event {event}", f"the parameter's {list(shape)}"),
    ):
        assert part in str(caught.value)


def test_a_prior_that_draws_what_the_parameter_cannot_be_is_refused() -> None:
    with pytest.raises(an.errors.ParamError) as caught, h.lift(d.Normal(-100.0, 1.0)):
        an.param("w", torch.ones(2), d.constraints.positive)
    for part in ("parameter 'w'", f"{__file__}:", "2 of 2", "a prior within GreaterThan"):
        assert part in str(caught.value)


def test_a_prior_that_no_parameter_asked_for_is_an_error() -> None:
    with pytest.raises(h.UnknownSiteError) as caught, h.lift({"maen": PRIOR}), an.ParamStore():
        model()
    for part in (f"lift at {__file__}:", "no site 'maen'", "'mean'"):
        assert part in str(caught.value)


def test_a_prior_that_is_no_distribution_is_refused() -> None:
    with pytest.raises(an.errors.SiteError, match=r"'mean' \(.*:\d+\) is drawn from a float"):
        h.lift(lambda message: 1.0)(model)()  # type: ignore[arg-type, return-value]
