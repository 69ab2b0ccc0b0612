"""The verdict on a random program: whether the mean of the library's estimate is exact."""

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from ancestral.estimators.gradient.problem import CaughtError
from ancestral.estimators.gradient.surrogate import backward
from ancestral.trace.recording.record import record
from oracles import (
    Parameters,
    Path,
    Program,
    TooManyPathsError,
    derivatives,
    estimates_on,
    expectation,
    moments_of,
    paths,
)
from programs.estimates import blurring, fresh, gradients

MOST_PATHS = 64

Kind = Literal["exact", "trivial", "impossible", "caught", "biased", "refused"]
"""Trivial: the draws do not matter. Impossible: torch itself cannot run or differentiate it, or it
has too many paths. Caught: an op raised on a path because of a value, the program caught that, and
the library says so. Refused: the library raises otherwise."""


class Generated(Protocol):
    """A program that was generated."""

    @property
    def source(self) -> str: ...
    @property
    def parameters(self) -> tuple[Tensor, ...]: ...
    def __call__(self, *parameters: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Verdict:
    """What came out, of how many paths, and whether a value escaped on one of them."""

    kind: Kind
    paths: int = 0
    is_escaping: bool = False
    text: str = ""

    @property
    def is_failure(self) -> bool:
        """Whether the library is wrong, or raised."""
        return self.kind in ("biased", "refused")


_OF_TORCH = (RuntimeError, ValueError, IndexError, AssertionError)


def verdict_on(program: Generated, beside: Tensor | None = None) -> Verdict:
    """Return the verdict on a program, part of whose gradient is that of the coin beside it."""
    parameters = program.parameters
    try:
        runs = paths(program, parameters, most=MOST_PATHS)
        truth = derivatives(expectation(runs), parameters)
        held = [Path(run.draws, run.log_prob.detach(), run.loss) for run in runs]
        by_scores = truth - derivatives(expectation(held), parameters)
    except (TooManyPathsError, *_OF_TORCH) as error:
        return Verdict("impossible", text=str(error))
    if not torch.isfinite(truth).all():
        return Verdict("impossible", len(runs), text="not finite")
    if beside is not None:
        by_scores = by_scores - beside
    if float(by_scores.abs().max()) < 1e-9:
        return Verdict("trivial", len(runs))
    escaping: list[bool] = []

    def estimate(program: Program, parameters: Parameters) -> Tensor:
        leaves = fresh(parameters)
        with record() as trace:
            loss = program(*leaves)
        escaping.append(bool(trace.escapes))
        with blurring():
            backward(loss)
        return gradients(leaves)

    try:
        mean = moments_of(*estimates_on(runs, program, parameters, estimate)).mean
    except Exception as error:
        if isinstance(error, CaughtError) and "rescue" in getattr(program, "features", ()):
            return Verdict("caught", len(runs), any(escaping))
        return Verdict("refused", len(runs), any(escaping), f"{type(error).__name__}: {error}")
    scale = max(1.0, float(truth.abs().max()))
    is_exact = torch.allclose(mean, truth, rtol=1e-6, atol=1e-6 * scale)
    text = "" if is_exact else f"the mean is {mean.tolist()}, the gradient {truth.tolist()}"
    return Verdict("exact" if is_exact else "biased", len(runs), any(escaping), text)
