"""Trips: the calls of the library's functions, and the files they lie in, for one operation.

    python -m ancestral.tools.bench.call_counts

Each line has the calls, the files, and how often a call leads from one file to another: in the
first step of a program, and in the second, which finds what the first has kept.
"""

import sys
from collections.abc import Callable
from itertools import pairwise
from types import FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from ancestral.estimators.gradient.surrogate import backward
from ancestral.estimators.inference.elbo import elbo
from ancestral.provenance.algebra.pattern import forget
from ancestral.provenance.tensor.frame_owner import module_of, owner_of
from ancestral.trace.handlers.seed import seed
from ancestral.trace.handlers.weight import scale
from ancestral.trace.program.primitives import sample
from ancestral.trace.recording.record import record


class Trip(NamedTuple):
    """The way of one operation through the library."""

    calls: int
    files: int
    changes: int


def trip(operation: Callable[[], Any]) -> Trip:
    """Return the way that an operation takes."""
    way: list[str] = []

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and owner_of(frame) == "library":
            way.append(module_of(frame))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        operation()
    finally:
        sys.setprofile(before)
    changes = sum(one != other for one, other in pairwise(way))
    return Trip(len(way), len(set(way)), changes)


def model() -> None:
    """Draw one value and observe another."""
    z = sample("z", Normal(0.0, 1.0))
    sample("x", Normal(z, 1.0), obs=torch.tensor(0.5))


def guide() -> None:
    """Draw the value from a parameter."""
    sample("z", Normal(_LOC, 1.0))


_LOC = torch.tensor(0.0, requires_grad=True)


def opened() -> None:
    """Open a recording, and close it."""
    with record():
        pass


def step() -> dict[str, Trip]:
    """Return the way of each operation in one step, by its name."""
    found = {"opening a recording": trip(opened)}
    coin = Bernoulli(logits=torch.zeros(3, requires_grad=True))
    with record():
        y = torch.ones(3)
        z: Tensor = coin.sample()
        found["z + y"] = trip(lambda: z + y)
        found["torch.where(z > 0, z, y)"] = trip(lambda: torch.where(z > 0, z, y))
    with record():
        drawn = list[Tensor]()
        found["Bernoulli.sample()"] = trip(lambda: drawn.append(coin.sample()))
        loss = (drawn[0] - 0.45).pow(2).sum()
    found["an.backward"] = trip(lambda: backward(loss))
    with record(), seed(0), scale(2.0):
        fn, data = Normal(torch.zeros(()), 1.0), torch.tensor(0.5)
        sample("first", fn, obs=data)
        found["an.sample(obs=) under two handlers"] = trip(lambda: sample("x", fn, obs=data))
    found["an.infer.elbo"] = trip(lambda: elbo(model, guide))
    return found


def trips() -> dict[str, tuple[Trip, Trip]]:
    """Return the way of each operation, by its name: in the first step, and in the second."""
    opened()
    elbo(model, guide)
    step()
    forget()
    first, second = step(), step()
    return {name: (first[name], second[name]) for name in first}


def main() -> int:
    """Print the table."""
    print(f"{'calls / files / changes':38s} {'the first step':>22s} {'the second':>22s}")
    for name, ways in trips().items():
        told = (f"{way.calls:,} / {way.files} / {way.changes}" for way in ways)
        print(f"{name:38s} {next(told):>22s} {next(told):>22s}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
