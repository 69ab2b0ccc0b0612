"""Plates as a program declares them: indices, dimensions, shapes, scale, and every wrong use."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributions as d

import ancestral as an
from ancestral.errors import PlateError
from ancestral.trace.nodes.plate_frame import open_plates
from oracles import Parameters, Program, flat, mean_and_truth

P4 = torch.full((4,), 0.4, requires_grad=True)


def stack_of(node: an.Node) -> list[tuple[str, int | None]]:
    return [(plate.name, plate.dim) for plate in node.cond_indep_stack]


def test_a_plate_gives_all_indices_or_a_part_of_them_without_repetition() -> None:
    with an.plate("data", 5) as index:
        assert index.tolist() == [0, 1, 2, 3, 4]
    with an.plate("data", 50, subsample_size=20) as part:
        assert len(set(part.tolist())) == 20
        assert set(part.tolist()) <= set(range(50))
    assert sorted(an.plate("data", 5, subsample_size=5)) == [0, 1, 2, 3, 4]


def test_the_generator_of_torch_draws_the_indices_which_are_no_site() -> None:
    drawn: list[list[int]] = []
    for _ in range(2):
        torch.manual_seed(3)
        with an.record() as trace, an.plate("data", 50, subsample_size=9) as index:
            drawn.append(index.tolist())
    assert drawn[0] == drawn[1]
    assert not trace.stochastic_nodes
    assert trace["data"].type == "plate"
    assert trace["data"].value.tolist() == drawn[1]
    assert not trace.escapes


def test_a_plate_has_the_indices_that_it_is_given_and_counts_for_the_whole() -> None:
    batch = torch.tensor([4, 1])
    with an.record() as trace, an.plate("data", 6, subsample=batch) as index:
        an.sample("x", d.Normal(0.0, 1.0), obs=torch.arange(6.0)[index])
        assert an.subsample(torch.arange(6.0)).tolist() == [4.0, 1.0]
    with an.plate("all", 3, subsample=torch.tensor([2, 0, 1])):
        assert an.subsample(torch.arange(3.0)).tolist() == [2.0, 0.0, 1.0]
    given = an.plate("data", 6, subsample=batch)
    batch.fill_(0)  # it has a copy
    assert index.tolist() == list(given) == [4, 1]
    assert trace["x"].scale == 3.0
    assert trace["x"].value.tolist() == [4.0, 1.0]


def test_a_guide_and_a_model_that_are_given_the_same_indices_are_one_plate() -> None:
    def program(batch: Tensor) -> None:
        with an.plate("data", 6, subsample=batch):
            an.sample("z", d.Normal(0.0, 1.0))

    batch = torch.tensor([4, 1])
    with an.record():
        with an.record() as guide:
            program(batch)
        with an.record() as model, an.handlers.replay(guide):
            program(batch.clone())
        with pytest.raises(PlateError, match=r"\[4, 1\]"), an.handlers.replay(guide):
            program(batch.flip(0))
    assert torch.equal(model["z"].value, guide["z"].value)
    loss = an.infer.elbo(program, program, batch)
    assert loss.value == 0


def test_what_is_at_indices_that_are_drawn_depends_on_their_draw() -> None:
    data = torch.arange(4.0)

    def program() -> None:
        i = an.sample("i", d.Categorical(torch.ones(4)).expand(torch.Size([2])))
        with an.plate("data", 4, subsample=i) as index:
            an.sample("x", d.Normal(data[index], 1.0), obs=torch.zeros(2))

    values = {"i": torch.tensor([1, 3])}
    with an.record():
        with an.record() as first, an.handlers.substitute(values):
            program()
        with an.record() as second, an.handlers.replay(first):
            program()
    assert first["x"].parents == second["x"].parents == {"i"}


def test_two_plates_of_one_name_in_different_orders_are_not_one_plate() -> None:
    with an.record():
        with an.plate("data", 3):
            an.sample("z", d.Normal(0.0, 1.0))
        with an.plate("data", 3, subsample=torch.arange(3)):
            an.sample("x", d.Normal(0.0, 1.0))
        refused = pytest.raises(PlateError, match="has two subsamples")
        with refused, an.plate("data", 3, subsample=torch.tensor([2, 0, 1])):
            an.sample("y", d.Normal(0.0, 1.0))


def test_a_plate_that_is_opened_again_has_the_same_indices() -> None:
    data = an.plate("data", 50, subsample_size=4)
    with data as first:
        pass
    with data as second:
        assert torch.equal(first, second)
    assert list(data) == first.tolist()


def test_sites_observations_and_costs_know_the_plates_around_them_outermost_first() -> None:
    data = torch.zeros(3, 4)
    with an.record() as trace:
        with an.plate("a", 4):
            z = d.Bernoulli(P4).sample()
            with an.plate("b", 3):
                fit = d.Normal(z.expand(3, 4), 1.0).log_prob(data)
                an.cost("c", -fit)
        w = torch.bernoulli(P4)
    assert stack_of(trace["z"]) == [("a", -1)]
    assert stack_of(trace["data"]) == stack_of(trace["c"]) == [("a", -1), ("b", -2)]
    assert stack_of(trace["w"]) == []
    assert trace["z"].cond_indep_stack == (an.Plate("a", 4, 4, -1),)
    assert w.shape == (4,)


def test_the_dimension_is_the_rightmost_that_is_free() -> None:
    def dims() -> list[int | None]:
        return [plate.dim for plate in open_plates()]

    with an.plate("a", 2), an.plate("b", 2, dim=-3), an.plate("c", 2), an.plate("d", 2):
        assert dims() == [-1, -3, -2, -4]
    with an.plate("a", 2, dim=-2), an.plate("b", 2):
        assert dims() == [-2, -1]


@pytest.mark.parametrize(
    "fn",
    [
        d.Normal(P4, 1.0),
        d.Independent(d.Normal(P4[:, None].expand(4, 3), 1.0), 1),
        d.Independent(d.Independent(d.Normal(P4[:, None, None].expand(4, 3, 2), 1.0), 1), 1),
        d.MultivariateNormal(P4[:, None].expand(4, 3), torch.eye(3)),
        d.Independent(d.MultivariateNormal(P4[:, None, None].expand(4, 3, 2), torch.eye(2)), 1),
    ],
)
def test_dimensions_of_an_event_are_not_counted(fn: d.Distribution) -> None:
    value = torch.zeros(fn.batch_shape + fn.event_shape)
    with an.record() as trace, an.plate("data", 4, dim=-1):
        drawn = fn.sample()
        fn.log_prob(value)
    assert [(e.name, e.dims) for e in trace.plates if e.is_declared] == [
        ("data", (("drawn", 0), ("value", 0)))
    ]
    assert drawn.shape[0] == 4


def test_dimensions_of_samples_are_counted() -> None:
    with an.record() as trace, an.plate("data", 4), an.plate("draws", 5):
        z = d.Bernoulli(P4).sample((5,))
    assert z.shape == (5, 4)
    assert len(trace["z"].cond_indep_stack) == 2


@pytest.mark.parametrize(
    ("draw", "batch"),
    [
        (lambda: d.Bernoulli(P4[:3]).sample(), "[3], where dimension -1 has size 3"),
        (lambda: d.Bernoulli(P4[:1]).sample(), "[1], where dimension -1 has size 1"),
        (lambda: d.Bernoulli(P4[0]).sample(), "[], where there is no dimension -1"),
        (lambda: d.MultivariateNormal(P4, torch.eye(4)).sample(), "[], where there is no"),
        (lambda: d.Independent(d.Bernoulli(P4), 1).sample(), "[], where there is no dimension -1"),
        (
            lambda: d.Independent(d.Normal(P4, 1.0), 1).log_prob(torch.zeros(4)),
            "[], where there is",
        ),
        (lambda: torch.bernoulli(P4[:, None].expand(4, 3)), "[4, 3], where dimension -1 has"),
        (lambda: an.cost("c", P4.sum()), "[], where there is no dimension -1"),
        (lambda: d.Normal(P4[:2], 1.0).log_prob(torch.zeros(2)), "[2], where dimension -1"),
    ],
)
def test_a_wrong_size_names_the_dimension_what_was_expected_and_what_came(
    draw: Callable[[], Any], batch: str
) -> None:
    with an.record() as trace:
        with pytest.raises(PlateError) as error, an.plate("data", 4):
            draw()
        assert list(trace) == ["data"]  # the plate itself
    text = str(error.value)
    assert "plate 'data'" in text
    assert "dimension -1" in text
    assert "must have size 4" in text
    assert batch in text
    assert f"{__file__}:" in text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"size": 0}, "size must be an int greater than 0, not 0"),
        ({"size": -2}, "size must be an int greater than 0, not -2"),
        ({"size": 2.0}, "size must be an int greater than 0, not 2.0"),
        ({"size": True}, "size must be an int greater than 0, not True"),
        ({"size": 3, "subsample_size": 4}, "subsample_size must be no greater than the size 3"),
        ({"size": 3, "subsample_size": 0}, "subsample_size must be an int greater than 0"),
        ({"size": 3, "subsample_size": 1.5}, "subsample_size must be an int greater than 0"),
        ({"size": 3, "dim": 0}, "dim must be a negative int"),
        ({"size": 3, "dim": 2}, "dim must be a negative int"),
        ({"size": 3, "dim": "x"}, "dim must be a negative int"),
        ({"size": 3, "dim": False}, "dim must be a negative int"),
        ({"size": 3, "subsample": [0]}, "subsample must be a tensor of different indices"),
        ({"size": 3, "subsample": torch.zeros(2)}, "from 0 to 2, of one dimension"),
        ({"size": 3, "subsample": torch.tensor([True])}, "from 0 to 2, of one dimension"),
        ({"size": 3, "subsample": torch.tensor(1)}, "from 0 to 2, of one dimension"),
        ({"size": 3, "subsample": torch.tensor([1, 1])}, "different indices"),
        ({"size": 3, "subsample": torch.tensor([3])}, "not [3]"),
        ({"size": 3, "subsample": torch.tensor([-1])}, "not [-1]"),
        (
            {"size": 3, "subsample_size": 2, "subsample": torch.tensor([1])},
            "subsample must be 2 indices, not [1]",
        ),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(PlateError) as error:
        an.plate("data", **arguments)
    assert text in str(error.value)
    assert "plate 'data'" in str(error.value)


def test_a_name_must_be_text() -> None:
    with pytest.raises(an.errors.PlateError, match="its name must be a text"):
        an.plate(7, 3)  # type: ignore[arg-type]


def test_two_open_plates_cannot_share_a_dimension_or_a_name() -> None:
    with an.plate("a", 2, dim=-2) as _, an.plate("b", 3):
        with pytest.raises(PlateError, match=r"-2 is that of plate 'a'.*dim=-3"):
            an.plate("c", 2, dim=-2).__enter__()
        with pytest.raises(PlateError, match=r"'a' .* open already"):
            an.plate("a", 2).__enter__()
        with pytest.raises(PlateError, match="open already"):
            list(an.plate("b", 3))
    assert open_plates() == ()


def test_a_plate_cannot_be_opened_within_itself() -> None:
    data = an.plate("data", 3)
    with data, pytest.raises(PlateError, match="open already"):
        data.__enter__()
    for _ in data:
        with pytest.raises(PlateError, match="open already"):
            data.__enter__()
        break
    assert open_plates() == ()


def test_a_dimension_cannot_be_given_to_repetitions_in_turn() -> None:
    with pytest.raises(PlateError, match="in turn have no dimension"):
        list(an.plate("data", 3, dim=-1))


@pytest.mark.parametrize("way", ["with", "for"])
def test_a_plate_that_an_exception_leaves_is_closed(way: str) -> None:
    def fail() -> None:
        if way == "with":
            with an.plate("a", 2), an.plate("b", 2):
                raise LookupError
        for _ in an.plate("a", 2):
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert open_plates() == ()


def test_a_loop_that_ends_early_closes_its_plate() -> None:
    for i in an.plate("a", 5):
        assert [plate.turn for plate in open_plates()] == [i]
        if i == 2:
            break
    assert open_plates() == ()


def test_plates_that_close_in_another_order_leave_the_others_open() -> None:
    first, second = iter(an.plate("a", 3)), an.plate("b", 2)
    next(first)
    with second:
        first.close()  # type: ignore[attr-defined]
        assert [plate.name for plate in open_plates()] == ["b"]
    assert open_plates() == ()


def test_plates_of_one_name_must_be_alike() -> None:
    def run(*plates: an.plate) -> None:
        with an.record():
            for each in plates:
                with each as index:
                    d.Bernoulli(P4[:1].expand(len(index))).sample()

    run(an.plate("data", 4), an.plate("data", 4))
    part = an.plate("data", 9, subsample_size=4)
    run(part, part)
    with pytest.raises(PlateError, match="size 4 and subsample_size 4 before, and now with"):
        run(an.plate("data", 4), an.plate("data", 3))
    with pytest.raises(PlateError, match="two subsamples; make the plate once"):
        run(part, an.plate("data", 9, subsample_size=4))
    with an.record(), an.plate("data", 4):
        d.Bernoulli(P4).sample()  # another recording knows nothing of the first


def test_a_plate_is_opened_with_or_in_turn_but_not_both() -> None:
    def run() -> None:
        with an.plate("data", 4):
            d.Bernoulli(P4).sample()
        for _ in an.plate("data", 4):
            d.Bernoulli(P4[0]).sample()

    with an.record(), pytest.raises(PlateError, match="both with `with` and with `for`"):
        run()


def test_outside_a_recording_a_plate_gives_indices_and_checks_nothing() -> None:
    with an.plate("data", 4) as index:
        an.cost("c", d.Bernoulli(P4[:3]).sample())
        assert index.tolist() == [0, 1, 2, 3]


def test_a_recording_within_a_plate_is_within_it() -> None:
    with an.plate("data", 4), an.record() as trace:
        z = d.Bernoulli(P4).sample()
    assert stack_of(trace["z"]) == [("data", -1)]
    assert z.shape == (4,)


def test_threads_have_plates_of_their_own_and_inherit_those_they_were_started_in() -> None:
    seen: dict[str, list[str]] = {}

    def work(name: str) -> None:
        with an.plate(name, 2):
            barrier.wait()
            seen[name] = [plate.name for plate in open_plates()]
            barrier.wait()

    barrier = threading.Barrier(2)
    with an.record(), an.plate("around", 4):
        threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [plate.name for plate in open_plates()] == ["around"]
    assert seen == {"a": ["around", "a"], "b": ["around", "b"]}


def test_tasks_that_take_turns_have_plates_of_their_own() -> None:
    async def work(name: str) -> list[str]:
        with an.plate(name, 2):
            await asyncio.sleep(0)
            return [plate.name for plate in open_plates()]

    async def both() -> list[list[str]]:
        return list(await asyncio.gather(work("a"), work("b")))

    assert asyncio.run(both()) == [["a"], ["b"]]


def scaled(theta: Tensor) -> Tensor:
    """Declare costs within two plates, one subsampled; return what they should add up to."""
    with an.plate("data", 10, subsample_size=2):
        z = d.Bernoulli(logits=theta).sample()
        x = d.Bernoulli(logits=z * theta).sample()
        squares = an.cost("squares", (z - x + theta) ** 2)
        an.cost("counts", x.long())
    outside = an.cost("outside", theta.exp().sum())
    return 5 * squares.sum() + 5 * x.sum() + outside  # type: ignore[no-any-return]


def of_costs(program: Program, parameters: Parameters) -> Tensor:
    """Estimate by `Trace.backward`."""
    for parameter in parameters:
        parameter.grad = None
    with an.record() as trace:
        program(*parameters)
    trace.backward()
    return flat([p.grad for p in parameters if p.grad is not None])


def test_costs_within_a_subsampled_plate_count_as_often_as_it_was_thinned() -> None:
    theta = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(*mean_and_truth(scaled, [theta], of_costs))


def test_scales_multiply_and_log_probabilities_count_as_often() -> None:
    data = torch.zeros(3, 2)
    with an.record() as trace, an.plate("a", 10, subsample_size=2):
        z = d.Bernoulli(P4[:2]).sample()
        with an.plate("b", 9, subsample_size=3):
            d.Normal(z.expand(3, 2), 1.0).log_prob(data)
    assert trace["z"].scale == 5.0
    assert trace["data"].scale == 15.0
    unscaled = d.Bernoulli(P4[:2]).log_prob(trace["z"].value)
    torch.testing.assert_close(trace["z"].unscaled_log_prob, unscaled)
    torch.testing.assert_close(trace["z"].log_prob, 5 * unscaled)
    seen = d.Normal(trace["z"].value.expand(3, 2), 1.0).log_prob(data)
    torch.testing.assert_close(trace.log_prob_sum(), 5 * unscaled.sum() + 15 * seen.sum())


def test_a_loss_that_is_summed_by_hand_is_not_scaled() -> None:
    theta = torch.tensor([0.3, -0.8], requires_grad=True)
    with an.record(), an.plate("data", 10, subsample_size=2):
        z = d.Normal(theta, 1.0).rsample()
        loss = an.cost("c", z).sum()
    an.backward(loss)
    assert theta.grad is not None
    assert theta.grad.tolist() == [1.0, 1.0]


def test_a_computed_value_is_in_the_plates_around_it() -> None:
    def program() -> None:
        a = an.sample("a", d.Normal(0.0, 1.0))
        with an.plate("rows", 4):
            an.deterministic("line", a * torch.arange(4.0))
            z = an.sample("z", d.Normal(a, 1.0))
            an.deterministic("wide", z[:, None] * torch.ones(4))  # aligned: rows is the first
            an.deterministic("mixed", z.mean().expand(4))
            an.deterministic("scalar", a)
            with an.plate("columns", 3, dim=-2):
                an.deterministic("both", z * torch.ones(3, 1))
                an.deterministic("event", torch.ones(3, 4, 3, 4), event_dim=2)
        for step in an.plate("steps", 2):
            an.deterministic(f"step_{step}", a)

    with an.record() as trace:
        program()
    shown = {line.split()[0]: line.split()[1:] for line in trace.format_shapes().split("\n")}
    assert shown["line"] == ["value", "4", "|", "rows"]
    assert shown["wide"] == ["value", "4", "|", "4", "rows"]
    assert shown["mixed"] == ["value", "|", "4", "rows"]  # its elements are no repetitions
    assert shown["scalar"] == ["value", "|", "rows"]
    assert shown["both"] == ["value", "3", "4", "|", "rows,", "columns"]
    assert shown["event"] == ["value", "3", "4", "|", "3", "4", "rows,", "columns"]
    assert shown["step_1"] == ["value", "|", "steps[1]"]
    rows = next(extent for extent in trace.plates if extent.name == "rows")
    expected = (("line", 0), ("z", 0), ("wide", 0), ("both", 1), ("event", 1))
    assert rows.dims == expected
    stored = an.Trace.from_dict(trace.to_dict())
    assert stored.format_shapes() == trace.format_shapes()
    assert stored.plates == trace.plates
    for name, node in trace.items():
        assert stored[name].cond_indep_stack == node.cond_indep_stack


def test_a_computed_value_has_no_more_events_than_dimensions() -> None:
    with pytest.raises(ValueError, match=r"'v' has 1 dimensions; event_dim must be one of 0 to"):
        an.deterministic("v", torch.zeros(2), event_dim=2)


def test_a_site_that_is_drawn_otherwise_or_set_stays_in_its_plates() -> None:
    def program() -> None:
        with an.plate("rows", 4):
            an.sample("z", d.Independent(d.Normal(torch.zeros(4, 4), 1.0), 1))

    handlers = (
        an.handlers.reparam({"z": an.handlers.LocScale()}),
        an.handlers.do({"z": torch.zeros(4, 4)}),
    )
    for handler in handlers:
        with an.record() as trace, handler:
            program()
        assert [plate.name for plate in trace["z"].cond_indep_stack] == ["rows"]
        rows = next(extent for extent in trace.plates if extent.name == "rows")
        assert ("z", 0) in rows.dims
        assert ("z", 1) not in rows.dims
