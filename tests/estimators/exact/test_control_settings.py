"""What each setting of `control` promises, on programs that branch in Python."""

import functools
from collections.abc import Callable

import programs.control  # noqa: F401 (registers the programs)
import pytest
import torch
from programs.control.register import CONTROL, Control, coin, num
from programs.control.rollouts import BY_HAND
from programs.estimates import is_refusal
from torch import Tensor

from ancestral.estimators.gradient.nested_loss import LossError
from ancestral.estimators.gradient.surrogate import backward
from ancestral.provenance.tensor.control_flow import control_scope
from ancestral.trace.program.primitives import cost
from ancestral.trace.recording.record import record
from oracles import (
    Estimate,
    Moments,
    Parameters,
    Program,
    autograd,
    derivatives,
    estimates,
    estimates_on,
    exact_gradient,
    expectation,
    flat,
    moments,
    moments_of,
    paths,
    replaying,
)

close = functools.partial(torch.testing.assert_close, rtol=1e-6, atol=1e-9)


def estimate(control: str) -> Estimate:
    """Return what `backward` leaves in ``.grad`` under this setting."""

    def run(program: Program, parameters: Parameters) -> Tensor:
        leaves = [p.detach().clone().requires_grad_() for p in parameters]
        with record(control=control):
            loss = program(*leaves)
        try:
            backward(loss)
        except LossError:  # nothing followed the loss: its plain gradient is what one would take
            loss.backward()
        return flat([torch.zeros_like(p) if p.grad is None else p.grad for p in leaves])

    return run


def outcome(control: Control, setting: str) -> tuple[Moments, Tensor]:
    """Return the moments of the estimate under a setting, and the exact gradient."""
    program, parameters = control.program, control.parameters
    runs = paths(program, parameters)
    found = moments_of(*estimates_on(runs, program, parameters, estimate(setting)))
    return found, derivatives(expectation(runs), parameters)


def is_exact(found: Tensor, expected: Tensor) -> bool:
    assert expected.abs().max() > 1e-3
    return torch.allclose(found, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("name", [n for n, c in CONTROL.items() if c.is_regardless])
def test_after_is_exact_where_finished_terms_count_regardless(name: str) -> None:
    found, expected = outcome(CONTROL[name], "after")
    assert is_exact(found.mean, expected)


@pytest.mark.parametrize("name", [n for n, c in CONTROL.items() if not c.is_regardless])
def test_after_is_biased_where_python_chooses_among_finished_terms(name: str) -> None:
    found, expected = outcome(CONTROL[name], "after")
    assert not is_exact(found.mean, expected)


@pytest.mark.parametrize("name", [n for n, c in CONTROL.items() if c.escapes is False])
def test_ignore_is_exact_where_nothing_escapes(name: str) -> None:
    found, expected = outcome(CONTROL[name], "ignore")
    assert is_exact(found.mean, expected)


@pytest.mark.parametrize("name", [n for n, c in CONTROL.items() if c.escapes and c.decides])
def test_ignore_is_biased_where_something_is_decided(name: str) -> None:
    """Of each program that escapes, the escape is what makes it hard."""
    found, expected = outcome(CONTROL[name], "ignore")
    assert not is_exact(found.mean, expected)


@pytest.mark.parametrize("name", [n for n, c in CONTROL.items() if c.escapes and not c.decides])
def test_ignore_is_exact_where_nothing_is_decided(name: str) -> None:
    found, expected = outcome(CONTROL[name], "ignore")
    assert is_exact(found.mean, expected)


def refusals(control: Control) -> list[bool]:
    """Return for each path whether its escape is refused."""
    found: list[bool] = []
    for path in paths(control.program, control.parameters):
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
    assert all(refusals(CONTROL[name]))


@pytest.mark.parametrize("name", [n for n, c in CONTROL.items() if c.escapes is False])
def test_error_lets_a_program_run_that_keeps_its_values_in_tensors(name: str) -> None:
    assert not any(refusals(CONTROL[name]))


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


def logged(theta: Tensor) -> Tensor:
    z, w = coin(theta[0]), coin(theta[1])
    assert z.item() < 2
    return (z - 0.4) ** 2 + 2 * w


def logged_in_a_scope(theta: Tensor) -> Tensor:
    z, w = coin(theta[0]), coin(theta[1])
    with control_scope():
        assert z.item() < 2
    return (z - 0.4) ** 2 + 2 * w


def test_a_log_line_costs_nothing_under_ignore() -> None:
    parameters = CONTROL["a_log_line"].parameters
    without = estimates(silent, parameters, estimate("strict"))
    close(estimates(logged, parameters, estimate("ignore")), without)


def test_a_log_line_costs_nothing_in_a_scope() -> None:
    parameters = CONTROL["a_log_line"].parameters
    without = estimates(silent, parameters, estimate("strict"))
    close(estimates(logged_in_a_scope, parameters, estimate("strict")), without)


def test_a_log_line_costs_variance_under_strict() -> None:
    parameters = CONTROL["a_log_line"].parameters
    without = moments(silent, parameters, estimate("strict"))
    found = moments(logged, parameters, estimate("strict"))
    close(found.mean, exact_gradient(logged, parameters))
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
    leaves = [p.detach().clone().requires_grad_() for p in parameters]
    with record() as trace:
        rollout(leaves[0], cost)
    trace.backward()
    return flat([torch.zeros_like(p) if p.grad is None else p.grad for p in leaves])


def test_after_treats_finished_terms_on_every_path_as_declared_costs() -> None:
    def summed(theta: Tensor) -> Tensor:
        return rollout(theta, lambda _, term: term)

    parameters = CONTROL["a_walk"].parameters
    _, after = estimates(summed, parameters, estimate("after"))
    _, strict = estimates(summed, parameters, estimate("strict"))
    _, costs = estimates(summed, parameters, declared)
    assert len(after) == 4
    close(after, costs)
    assert not torch.allclose(after, strict)
