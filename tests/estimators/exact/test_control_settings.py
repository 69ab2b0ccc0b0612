"""What each setting of `control` promises, on programs that branch in Python."""

import asyncio
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import programs.control  # noqa: F401 (registers the programs)
import pytest
import torch
from programs.control.register import CONTROL, Control, coin, num
from programs.control.rollouts import BY_HAND
from programs.estimates import by, fresh, gradients, is_refusal
from torch import Tensor
from torch.distributions import Bernoulli

from ancestral.estimators.gradient.loss_pytree import LossError
from ancestral.estimators.gradient.surrogate import backward
from ancestral.provenance.tensor.control_flow import control_scope
from ancestral.trace.program.primitives import cost
from ancestral.trace.recording.record import record
from oracles import (
    Estimate,
    Parameters,
    Path,
    Program,
    autograd,
    enumerated,
    estimates,
    estimates_on,
    exact_gradient,
    mean_and_truth,
    moments,
    moments_of,
    replaying,
)

PARAMETERS = CONTROL["a_log_line"].parameters
close = functools.partial(torch.testing.assert_close, rtol=1e-6, atol=1e-9)


def taken(loss: Tensor) -> None:
    """Take the gradient; the plain one of a loss that nothing followed, as a user would."""
    try:
        backward(loss)
    except LossError:
        loss.backward()


def estimate(control: str) -> Estimate:
    """Return what is left in ``.grad`` under this setting."""
    return by(taken, control=control)


def is_exact(found: Tensor, expected: Tensor) -> bool:
    assert expected.abs().max() > 1e-3
    return torch.allclose(found, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


# Of each setting: the programs for which it is exact, and those for which it must not be.
# "after" is exact where finished terms count regardless, "ignore" where nothing is decided.
PROMISES: dict[str, Callable[[Control], bool | None]] = {
    "after": lambda c: c.is_regardless,
    "ignore": lambda c: c.escapes is False or (not c.decides if c.escapes else None),
}


@pytest.mark.parametrize(
    ("setting", "name"),
    [(s, n) for n, c in CONTROL.items() for s, exact in PROMISES.items() if exact(c) is not None],
)
def test_a_setting_is_exact_where_it_promises_so_and_biased_where_it_does_not(
    setting: str, name: str
) -> None:
    runs, exact = outcomes(name)
    mean = moments_of(
        *estimates_on(runs, CONTROL[name].program, PARAMETERS, estimate(setting))
    ).mean
    assert is_exact(mean, exact) is PROMISES[setting](CONTROL[name])


@functools.cache
def outcomes(name: str) -> tuple[list[Path], Tensor]:
    """Return every path of a program, and the exact gradient."""
    return enumerated(CONTROL[name].program, PARAMETERS)


def refusals(name: str) -> list[bool]:
    """Return for each path whether its escape is refused."""
    control, found = CONTROL[name], list[bool]()
    for path in outcomes(name)[0]:
        # The draws after the refusal are not asked for.
        try:
            with replaying(path, is_whole=False), record(control="error"):
                control.program(*control.parameters)
            found.append(False)
        except Exception as error:
            if not is_refusal(error):
                raise
            found.append(True)
    return found


@pytest.mark.parametrize("name", [n for n, c in CONTROL.items() if c.escapes])
def test_error_refuses_every_path_of_a_program_that_escapes(name: str) -> None:
    assert all(refusals(name))


@pytest.mark.parametrize("name", [n for n, c in CONTROL.items() if c.escapes is False])
def test_error_lets_a_program_run_that_keeps_its_values_in_tensors(name: str) -> None:
    assert not any(refusals(name))


@pytest.mark.parametrize("name", BY_HAND)
def test_a_rollout_has_reward_to_go_under_after(name: str) -> None:
    program, parameters = CONTROL[name].alone, CONTROL[name].parameters
    ours = estimates(program, parameters, estimate("after"))
    theirs = estimates(BY_HAND[name], parameters, autograd)
    close(ours, theirs)
    close(moments_of(*ours).variance, moments_of(*theirs).variance)


@pytest.mark.parametrize("name", BY_HAND)
def test_a_rollout_has_more_variance_under_strict(name: str) -> None:
    program, parameters = CONTROL[name].alone, CONTROL[name].parameters
    strict = moments(program, parameters, estimate("strict")).variance
    after = moments(program, parameters, estimate("after")).variance
    assert strict.sum() > after.sum()


def silent(theta: Tensor) -> Tensor:
    z, w = coin(theta[0]), coin(theta[1])
    return (z - 0.4) ** 2 + 2 * w


def logged(
    theta: Tensor, around: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Tensor:
    z, w = coin(theta[0]), coin(theta[1])
    with around():
        assert z.item() < 2
    return (z - 0.4) ** 2 + 2 * w


@pytest.mark.parametrize(
    ("around", "setting"), [(nullcontext, "ignore"), (control_scope, "strict")]
)
def test_a_log_line_costs_nothing_under_ignore_and_in_a_scope(around: Any, setting: str) -> None:
    program = functools.partial(logged, around=around)
    without = estimates(silent, PARAMETERS, estimate("strict"))
    close(estimates(program, PARAMETERS, estimate(setting)), without)


def test_a_log_line_costs_variance_under_strict() -> None:
    without = moments(silent, PARAMETERS, estimate("strict"))
    found = moments(logged, PARAMETERS, estimate("strict"))
    close(found.mean, exact_gradient(logged, PARAMETERS))
    assert found.variance.sum() > without.variance.sum()


def rollout(theta: Tensor, finished: Callable[[str, Tensor], Tensor]) -> Tensor:
    """Play until a coin shows heads, and hand each cost over as soon as it is there."""
    total = num(0.0)
    for step in range(3):
        z = coin(theta[step % 2])
        total = total + finished(f"cost_{step}", ((z + 0.3 * step) * theta[0]).exp())
        if z > 0:
            break
    return total


def declared(_: Program, parameters: Parameters) -> Tensor:
    """Estimate under "strict" from costs that are declared when they are finished."""
    leaves = fresh(parameters)
    with record() as trace:
        rollout(leaves[0], cost)
    trace.backward()
    return gradients(leaves)


def test_after_treats_finished_terms_on_every_path_as_declared_costs() -> None:
    def summed(theta: Tensor) -> Tensor:
        return rollout(theta, lambda _, term: term)

    _, after = estimates(summed, PARAMETERS, estimate("after"))
    _, strict = estimates(summed, PARAMETERS, estimate("strict"))
    _, costs = estimates(summed, PARAMETERS, declared)
    assert len(after) == 4
    close(after, costs)
    assert not torch.allclose(after, strict)


async def decided_late(z: Tensor, theta: Tensor) -> Tensor:
    """Read a draw in a scope that stays open while those of other tasks end, and compute by it."""
    with control_scope():
        is_one = bool(z)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        price = torch.tensor(7.0 if is_one else 3.0).double()
        return (price + price * (z - 0.45) ** 2) * theta.exp()


async def decided_at_once(z: Tensor, theta: Tensor) -> Tensor:
    with control_scope():
        await asyncio.sleep(0)
        return torch.tensor(2.0 if z else 5.0).double() * theta.exp()


@pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")
@pytest.mark.parametrize("control", ["strict", "after"])
@pytest.mark.parametrize("first", [0, 1])
def test_the_scope_of_a_task_that_ends_leaves_the_reads_of_other_tasks(
    first: int, control: str
) -> None:
    """Two tasks read two draws, or one and the same."""

    def program(theta: Tensor) -> Tensor:
        z = Bernoulli(logits=theta).sample()

        async def main() -> tuple[Tensor, Tensor]:
            return await asyncio.gather(
                decided_at_once(z[first], theta[0]), decided_late(z[1], theta[1])
            )

        return torch.stack(asyncio.run(main())).sum()

    theta = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)
    close(*mean_and_truth(program, [theta], estimate(control)))


@pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")
@pytest.mark.parametrize("others", [("ignore", "strict"), ("ignore", "ignore")])
def test_the_settings_of_tasks_that_overlap_are_those_of_each_alone(
    others: tuple[str, str],
) -> None:
    """Neither a task that is at work nor one that has ended changes what a read does elsewhere."""

    async def watching(control: str, turns: int) -> None:
        with record(control=control):
            for _ in range(turns):
                await asyncio.sleep(0)

    async def deciding(theta: Tensor, turns: int) -> Tensor:
        z = Bernoulli(logits=theta).sample()
        for _ in range(turns):
            await asyncio.sleep(0)
        return torch.tensor(7.0 if z else 3.0).double() * theta.exp()

    def program(theta: Tensor) -> Tensor:
        async def main() -> Tensor:
            short, long = (watching(control, 2 + n) for n, control in enumerate(others))
            results = await asyncio.gather(deciding(theta[0], 1), short, long)
            return results[0] + await deciding(theta[1], 0)

        return asyncio.run(main())

    theta = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)
    close(*mean_and_truth(program, [theta], estimate("strict")))
