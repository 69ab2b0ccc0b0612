"""The library's estimates on a program, in the form that the oracles take."""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ancestral.estimators.credit.blur import BlurredCreditWarning
from ancestral.estimators.credit.credit import Baseline, Estimator, by_element
from ancestral.estimators.gradient.subtraction import Baselines
from ancestral.estimators.gradient.surrogate import backward, surrogate
from ancestral.provenance.dispatch.escape import EscapeError
from ancestral.trace.recording.record import record
from oracles import Estimate, Parameters, Path, Program, derivatives, flat, paths, replaying
from programs.example import Example


def fresh(parameters: Parameters) -> list[Tensor]:
    """Return new leaves with the values of the parameters."""
    return [p.detach().clone().requires_grad_() for p in parameters]


def gradients(leaves: Parameters) -> Tensor:
    """Return the ``.grad`` of all leaves as one vector, zeros where there is none."""
    return flat([torch.zeros_like(p) if p.grad is None else p.grad for p in leaves])


@contextmanager
def blurring() -> Iterator[None]:
    """Ask for the gradient of programs that read on purpose, for what they decide on it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlurredCreditWarning)
        yield


def by(ask: Callable[[Tensor], object] = backward, **options: Any) -> Estimate:
    """Return what asking for the gradient of a recorded loss leaves in the ``.grad``."""

    def estimate(program: Program, parameters: Parameters) -> Tensor:
        leaves = fresh(parameters)
        with record(**options):
            loss = program(*leaves)
        with blurring():
            ask(loss)
        return gradients(leaves)

    return estimate


def library(estimator: Estimator = by_element, baseline: Baselines = "auto") -> Estimate:
    """Return what `backward` leaves in the ``.grad`` by this estimator, less this baseline."""
    # A baseline that learns must meet every path in the same state.
    return by(lambda loss: backward(loss, credit=estimator, baseline=copy.deepcopy(baseline)))


def higher_derivatives(order: int, baseline: Baselines = "auto") -> Estimate:
    """Return the derivatives of this order of the surrogate."""

    def estimate(program: Program, parameters: Parameters) -> Tensor:
        with record():
            loss = program(*parameters)
        with blurring():
            made = surrogate(loss, baseline=copy.deepcopy(baseline))
        return derivatives(made, parameters, order)

    return estimate


def learn(baseline: Baseline, example: Example, path: Path) -> None:
    """Take one step with these draws."""
    with replaying(path), record():
        loss = example.program(*example.parameters)
    with blurring():
        backward(loss, baseline=baseline)


def experienced(make: Callable[[], Baseline], example: Example) -> Baseline:
    """Return a baseline that has learned from some steps with other draws."""
    torch.manual_seed(0)
    baseline = make()
    for path in paths(example.program, example.parameters)[-3:]:
        learn(baseline, example, path)
    return baseline


def is_refusal(error: BaseException | None) -> bool:
    """Return whether an error is an `EscapeError`, or was caused by one."""
    while error is not None and not isinstance(error, EscapeError):
        error = error.__cause__
    return error is not None
