"""Traces that are stored: programs with one of everything, and what comes back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal

import ancestral as an


class Blank(Distribution):
    """A distribution of the user that has no density."""

    arg_constraints: Any = {}  # noqa: RUF012 (as torch writes it)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return torch.rand(self._extended_shape(sample_shape))


class Triangle(Blank):
    """A distribution of the user, of one width."""

    def log_prob(self, value: Tensor) -> Tensor:
        return (1 - value.abs()).log()


def triangle(*shape: int) -> Distribution:
    return Independent(Triangle(torch.Size(shape), validate_args=False), 1)


def everything() -> None:
    scale = torch.ones(3, requires_grad=True)
    z = an.sample("z", Bernoulli(torch.tensor([0.3, 0.6])), infer={"rank": 2, "f": print})
    w = scale * an.sample("w", triangle(3))
    for i in an.plate("steps", 2):
        an.sample(f"t_{i}", Normal(z.sum(), 1.0))
    with an.plate("data", 10, 4) as index, an.handlers.scale(2.0):
        m = an.deterministic("m", z[:1] + w.sum() + index)
        with an.handlers.mask(torch.tensor([True, False, True, True])):
            an.sample("x", Normal(m, 1.0), obs=torch.ones(4))
    an.factor("f", -(m[0] ** 2))
    with an.handlers.block():
        an.sample("untracked", Bernoulli(0.5))
    an.cost("c", m.sum())


def names() -> None:
    for name in ("it's", 'a"b', "a/b\\c", "\u00e9\u2603", "x\ny", "\x00", "\ud800", "a.b"):
        an.sample(name, Normal(0.0, 1.0))


def run(program: Callable[[], object]) -> an.Trace:
    torch.manual_seed(0)
    with an.record() as trace:
        program()
    return trace


def again(trace: an.Trace) -> an.Trace:
    return an.Trace.from_dict(trace.to_dict())


def of_everything() -> an.Trace:
    """Return the trace of a program with one of everything."""
    trace = run(everything)
    trace.backward()
    return trace


def file_in(tmp_path: Path) -> Path:
    """Return where a trace is stored."""
    return tmp_path / "a.trace"
