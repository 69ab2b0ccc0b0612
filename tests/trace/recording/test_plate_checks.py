"""What a plate claims is checked: what mixes repetitions raises, and what does not passes.

The oracle changes one repetition of a draw and looks which others of the result move.
"""
# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import itertools
from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal
from torch.nn.functional import batch_norm, layer_norm, normalize

import ancestral as an
from ancestral.errors import PlateError

SIZE = 4
LOGITS = torch.linspace(-1.0, 1.0, SIZE * 3).reshape(SIZE, 3).requires_grad_()
Step = Callable[[Tensor], Tensor]

KEEPING: dict[str, Step] = {
    "pointwise": lambda z: z.exp() * 2 - 1,
    "linear": nn.Linear(3, 3),
    "layer_norm": lambda z: layer_norm(z, (3,)),
    "softmax over units": lambda z: z.softmax(1),
    "cumsum over units": lambda z: z.cumsum(1),
    "sort of units": lambda z: z.sort(1).values,
    "there and back": lambda z: (z.T + 1).T,
    "normalize": lambda z: normalize(z + 1, dim=1),
    "where": lambda z: torch.where(z > 0.5, z, -z),
}
MIXING: dict[str, Step] = {
    "batch_norm": lambda z: batch_norm(z, None, None, training=True),
    "mean": lambda z: z - z.mean(0),
    "roll": lambda z: z.roll(1, 0),
    "slices that are swapped": lambda z: torch.cat([z[1:], z[:1]]),
    "flip": lambda z: z.flip(0),
    "cumsum": lambda z: z.cumsum(0),
    "sort": lambda z: z.sort(0).values,
    "softmax": lambda z: z.softmax(0),
    "one for all": lambda z: z[0].expand(SIZE, 3),
    "matmul": lambda z: torch.ones(SIZE, SIZE) @ z,
    "attention": lambda z: (z @ z.T).softmax(1) @ z,
    "permuted": lambda z: z[torch.tensor([1, 0, 3, 2])],
}


def moves_others(step: Step) -> bool:
    """Whether some change of one repetition changes another one's result."""
    for bits in itertools.product((0.0, 1.0), repeat=SIZE):
        z = torch.tensor(bits)[:, None].expand(SIZE, 3).clone()
        z[:, 1] = 1 - z[:, 1]
        for n in range(SIZE):
            other = z.clone()
            other[n] = 1 - other[n]
            changed = (step(z) - step(other)).abs().amax(1) > 1e-6
            if changed[torch.arange(SIZE) != n].any():
                return True
    return False


def within(step: Step, end: str) -> None:
    """Draw z within a plate, take a step, and end in a site, an observation or a cost."""
    with an.plate("data", SIZE, dim=-2):
        z = Bernoulli(logits=LOGITS).sample()
        result = step(z)
        if end == "site":
            Bernoulli(logits=result).sample()
        elif end == "observation":
            Normal(result, 1.0).log_prob(torch.zeros(SIZE, 3))
        else:
            an.cost("energy", result)


@pytest.mark.parametrize("name", [*KEEPING, *MIXING])
def test_the_oracle_agrees_which_steps_mix(name: str) -> None:
    assert moves_others((KEEPING | MIXING)[name]) == (name in MIXING)


@pytest.mark.parametrize("end", ["site", "observation", "cost"])
@pytest.mark.parametrize("name", KEEPING)
def test_a_step_that_keeps_repetitions_apart_is_let_through(name: str, end: str) -> None:
    with an.record() as trace:
        within(KEEPING[name], end)
    (data,) = (extent for extent in trace.plates if extent.is_declared)
    assert [dim for _, dim in data.dims] == [0, 0]


@pytest.mark.parametrize("end", ["site", "observation", "cost"])
@pytest.mark.parametrize("name", MIXING)
def test_a_step_that_mixes_repetitions_raises(name: str, end: str) -> None:
    with an.record() as trace:
        with pytest.raises(an.errors.PlateError):
            within(MIXING[name], end)
        assert [n.name for n in trace.stochastic_nodes] == ["z"]


def test_the_error_names_the_plate_both_sites_and_both_lines() -> None:
    with an.record() as trace, pytest.raises(PlateError) as error:
        within(MIXING["mean"], "cost")
    text = str(error.value)
    assert "cost 'energy' (" in text
    assert "within plate 'data'" in text
    assert "dimension -2 (size 4)" in text
    assert f"site 'z' ({trace['z'].location})" in text
    assert text.count(f"{__file__}:") == 3  # the cost, the site, the step


@pytest.mark.parametrize("name", MIXING)
def test_the_error_names_the_op_that_mixed_and_its_line(name: str) -> None:
    with (
        an.record(),
        pytest.raises(PlateError, match=r"; mixed by \w+ at .*test_plate_checks\.py:\d+"),
    ):
        within(MIXING[name], "site")


def test_the_op_that_mixed_before_an_outer_site_is_named_too() -> None:
    def run() -> None:
        with an.plate("data", SIZE, dim=-2):
            z = Bernoulli(logits=LOGITS).sample()
        total = Normal(z.mean(), 1.0).rsample()
        twice = Normal(total, 1.0).rsample()
        with an.plate("data", SIZE, dim=-2):
            an.cost("c", twice + LOGITS)

    with (
        an.record(),
        pytest.raises(
            PlateError,
            match=r"through site 'twice'; mixed by mean at .*test_plate_checks\.py:\d+; ",
        ),
    ):
        run()


def test_the_dimension_of_the_plate_must_map_to_that_of_the_plate() -> None:
    with an.record(), an.plate("data", 3):
        z = Bernoulli(logits=torch.zeros(3, 3, requires_grad=True)).sample()
        an.cost("kept", z * 2)
        with pytest.raises(PlateError, match="it depends on"):
            an.cost("turned", z.T * 2)


def test_a_source_outside_of_the_plate_may_reach_all_repetitions() -> None:
    with an.record(), an.plate("data", SIZE, dim=-2):
        with an.control_scope():
            pass
        noise = an.track(torch.ones(SIZE, 3), "noise")
        an.cost("c", noise.mean(0).expand(SIZE, 3))
    with an.record():
        w = Bernoulli(logits=LOGITS).sample()
        with an.plate("data", SIZE, dim=-2):
            Bernoulli(logits=w.roll(1, 0)).sample()


def test_a_path_through_a_site_outside_of_the_plate_counts() -> None:
    with an.record():
        with an.plate("data", SIZE, dim=-2):
            z = Bernoulli(logits=LOGITS).sample()
        total = Normal(z.mean(), 1.0).rsample()
        with an.plate("others", SIZE, dim=-2):
            Bernoulli(logits=LOGITS + total).sample()  # claims nothing about the first
        refused = pytest.raises(PlateError, match=r"site 'z' .*, through site 'total'")
        with an.plate("data", SIZE, dim=-2), refused:
            Bernoulli(logits=LOGITS + total).sample()


def test_a_path_that_leaves_the_plate_and_keeps_its_dimension_is_let_through() -> None:
    with an.record() as trace:
        with an.plate("data", SIZE, dim=-2):
            z = Bernoulli(logits=LOGITS).sample()
        turned = Bernoulli(logits=z.T).sample()
        with an.plate("data", SIZE, dim=-2):
            an.cost("c", turned.T + z)
    assert len([e for e in trace.plates if e.is_declared]) == 1


def test_each_of_two_nested_plates_is_checked() -> None:
    def run(step: Step) -> None:
        with an.record(), an.plate("units", 3), an.plate("data", SIZE):
            z = Bernoulli(logits=LOGITS).sample()
            an.cost("c", step(z))

    run(torch.exp)
    with pytest.raises(PlateError, match="'data'"):
        run(lambda z: z.roll(1, 0))
    with pytest.raises(PlateError, match="'units'"):
        run(lambda z: z.roll(1, 1))


def test_an_escape_within_a_plate_ties_what_follows_and_its_line_is_named() -> None:
    def run(control: str) -> None:
        with an.record(control=control), an.plate("data", SIZE, dim=-2):
            z = Bernoulli(logits=LOGITS).sample()
            sign = 1 if z.any() else -1
            Bernoulli(logits=sign * LOGITS).sample()

    line = run.__code__.co_firstlineno + 3
    for control in ("strict", "after"):
        match = rf"through the decision at {__file__}:{line}; decide with tensors"
        with pytest.raises(PlateError, match=match):
            run(control)
    run("ignore")


def test_an_escape_within_a_control_scope_is_let_through() -> None:
    with an.record(), an.plate("data", SIZE, dim=-2):
        z = Bernoulli(logits=LOGITS).sample()
        with an.control_scope():
            assert z.max().item() <= 1
        Bernoulli(logits=LOGITS).sample()


def test_an_escape_of_what_came_before_the_plate_is_let_through() -> None:
    with an.record():
        w = Bernoulli(logits=LOGITS).sample()
        sign = 1 if w.any() else -1
        with an.plate("data", SIZE, dim=-2):
            z = Bernoulli(logits=sign * LOGITS).sample()
            an.cost("c", z)


def test_a_thousand_escapes_are_followed() -> None:
    with an.record():
        with an.plate("data", SIZE, dim=-2):
            z = Bernoulli(logits=LOGITS).sample()
        for n in range(1000):
            (z + an.track(torch.ones(()), f"own {n}")).any().item()
        with an.plate("data", SIZE, dim=-2), pytest.raises(PlateError, match="it depends on"):
            Bernoulli(logits=LOGITS).sample()


def test_more_sources_than_one_provenance_lists_are_followed() -> None:
    def run(step: Step) -> None:
        with an.record(), an.plate("data", SIZE, dim=-2):
            total = LOGITS
            for _ in range(100):
                total = total + Bernoulli(logits=LOGITS).sample()
            an.cost("c", step(total))

    run(torch.exp)
    with pytest.raises(PlateError, match="it depends on"):
        run(lambda total: total.roll(1, 0))


def test_a_plate_of_one_repetition_has_nothing_to_mix() -> None:
    with an.record(), an.plate("data", 9, subsample_size=1, dim=-2):
        z = Bernoulli(logits=LOGITS[:1]).sample()
        x = Bernoulli(logits=z - z.mean(0)).sample()
        an.cost("c", (x + z).cumsum(0))


def test_turns_of_a_plate_may_depend_on_what_came_before_it_and_on_themselves() -> None:
    with an.record() as trace:
        w = Bernoulli(logits=LOGITS).sample()
        for i in an.plate("steps", 3):
            z = Bernoulli(logits=LOGITS + w.mean()).sample()
            x = Bernoulli(logits=z.roll(1, 0)).sample()
            an.cost(f"c_{i}", x.sum() + z.sum())
    (steps,) = (extent for extent in trace.plates if extent.is_declared)
    assert (steps.size, len(steps.sites)) == (3, 9)
    assert [trace[name].cond_indep_stack[0].turn for name in ("z", "z_1", "z_2")] == [0, 1, 2]


def test_a_turn_that_depends_on_another_raises() -> None:
    def chain() -> None:
        state = LOGITS
        for _ in an.plate("steps", 3):
            z = Bernoulli(logits=state).sample()
            state = z * 2

    with an.record(), pytest.raises(PlateError) as error:
        chain()
    text = str(error.value)
    assert "site 'z_1'" in text
    assert "plate 'steps', where it is of turn 1" in text
    assert "depends on site 'z'" in text


def test_a_turn_that_depends_on_another_through_an_outer_site_raises() -> None:
    def run(name: str) -> None:
        with an.record():
            total = LOGITS.sum()
            for _ in an.plate("steps", 3):
                total = total + Bernoulli(logits=LOGITS).sample().sum()
            w = Normal(total, 1.0).rsample()
            for _ in an.plate(name, 3):
                Bernoulli(logits=LOGITS + w).sample()

    run("others")
    with pytest.raises(PlateError, match=", through site 'w'"):
        run("steps")


def test_the_same_turn_of_a_second_loop_is_the_same_repetition() -> None:
    def run(chosen: list[int]) -> None:
        steps = an.plate("steps", 3)
        with an.record():
            draws = [Bernoulli(logits=LOGITS).sample() for _ in steps]
            for i in steps:
                an.cost(f"c_{i}", draws[chosen[i]])

    run([0, 1, 2])
    with pytest.raises(PlateError, match="cost 'c_1'"):
        run([0, 0, 2])


def test_an_escape_in_a_turn_ties_the_turns_after_it() -> None:
    def run(is_ended: bool) -> None:
        with an.record():
            for i in an.plate("steps", 2):
                z = Bernoulli(logits=LOGITS).sample()
                if is_ended:
                    with an.control_scope():
                        z.any().item()
                else:
                    z.any().item()
                an.cost(f"c_{i}", z)

    run(is_ended=True)
    with pytest.raises(PlateError, match="through the decision at"):
        run(is_ended=False)


def negative_elbo(theta: Tensor, normalized: Step, z: Tensor) -> Tensor:
    """Return log q(z) - log p(z) - log p(x | z) [3] at x = 1."""
    prior = Bernoulli(logits=torch.zeros(3, dtype=torch.float64))
    likelihood = Normal(normalized(z), torch.tensor(1.0, dtype=torch.float64))
    log_q = Bernoulli(logits=theta).log_prob(z)
    return log_q - prior.log_prob(z) - likelihood.log_prob(torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("is_mixed", [False, True])
def test_batch_norm_in_a_plate_biases_pyro_unseen_and_raises_here(is_mixed: bool) -> None:
    """Both expectations run over all eight outcomes: they are exact."""
    pyro = pytest.importorskip("pyro", reason="pyro is compared with where it is installed")

    def normalized(z: Tensor) -> Tensor:
        column = z[:, None]
        return (batch_norm(column, None, None, training=True) if is_mixed else column * 2)[:, 0]

    start = torch.tensor([0.3, -0.8, 0.1], dtype=torch.float64)
    ones, zeros = torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    pyro.clear_param_store()

    def guide() -> Tensor:
        theta = pyro.param("theta", start.clone())
        with pyro.plate("data", 3):
            return pyro.sample("z", pyro.distributions.Bernoulli(logits=theta))

    def model() -> None:
        with pyro.plate("data", 3):
            z = pyro.sample("z", pyro.distributions.Bernoulli(logits=zeros))
            pyro.sample("x", pyro.distributions.Normal(normalized(z), ones), obs=ones)

    theta = start.clone().requires_grad_()
    mean, exact = torch.zeros(3, dtype=torch.float64), torch.zeros(())
    for bits in itertools.product((0.0, 1.0), repeat=3):
        z = torch.tensor(bits, dtype=torch.float64)
        probability = Bernoulli(logits=theta).log_prob(z).sum().exp()
        exact = exact + probability * negative_elbo(theta, normalized, z).sum()
        with mock.patch.object(Bernoulli, "sample", lambda self, shape=(), z=z: z.clone()):
            pyro.infer.TraceGraph_ELBO().loss_and_grads(model, guide)
        leaf = pyro.param("theta").unconstrained()
        mean, leaf.grad = mean + probability.detach() * leaf.grad, None
    truth = torch.autograd.grad(exact, theta)[0]
    assert torch.allclose(mean, truth) == (not is_mixed)

    def ours() -> None:
        with an.record(), an.plate("data", 3):
            z = Bernoulli(logits=theta).sample()
            Normal(normalized(z), ones).log_prob(ones)

    if is_mixed:
        with pytest.raises(PlateError, match="plate 'data'"):
            ours()
    else:
        ours()
