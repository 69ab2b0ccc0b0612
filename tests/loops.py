"""What a loss that is summed in a loop costs: seconds and memory for each step.

Run as a script, it prints a table: python tests/loops.py 1000 10000 100000
"""

import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import ancestral as an
from ancestral.estimators.gradient.loss_terms import terms_of
from ancestral.provenance.algebra import pattern

Add = Callable[[Tensor, Tensor, int], Tensor]
DISCOUNT = torch.tensor(0.9)


def _in_place(loss: Tensor, cost: Tensor, step: int) -> Tensor:
    loss += cost
    return loss


LOOPS: dict[str, Add] = {
    "loss = loss + c": lambda loss, cost, step: loss + cost,
    "loss += c": _in_place,
    "loss = loss + w * c": lambda loss, cost, step: loss + DISCOUNT * cost,
    "loss = loss + 0.9**t * c": lambda loss, cost, step: loss + 0.9**step * cost,
    "loss = loss + c + 1": lambda loss, cost, step: loss + cost + 1.0,
}


@dataclass(frozen=True)
class Cost:
    """Seconds of this thread to add up and to take apart, and megabytes held, of a whole loop."""

    adding: float
    taking_apart: float
    megabytes: float
    terms: int


def _megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def looped(add: Add, steps: int) -> Cost:
    """Sum the costs of a loop of this many steps, the first of its kind; take the loss apart."""
    pattern.forget()
    with an.record():
        x = an.track(torch.rand(steps).requires_grad_(), "x")
        costs = [row.cos() for row in x.unbind()]
        gc.collect()
        held, started = _megabytes(), time.thread_time()
        loss = torch.zeros(())
        for step, cost in enumerate(costs):
            loss = add(loss, cost, step)
        added = time.thread_time()
    parts = terms_of(loss)
    done = time.thread_time()
    return Cost(added - started, done - added, _megabytes() - held, len(parts.terms))


def main(sizes: list[int]) -> None:
    """Print a line for each kind of loop and each size."""
    for name, add in LOOPS.items():
        for steps in sizes:
            cost = looped(add, steps)
            micro = 1e6 / steps
            print(
                f"{name:26s} {steps:7d} steps: adding {cost.adding * micro:6.1f} us a step, "
                f"taking apart {cost.taking_apart * micro:6.1f} us a step, "
                f"{cost.megabytes / steps * 1e3:6.2f} kB a step"
            )


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])
