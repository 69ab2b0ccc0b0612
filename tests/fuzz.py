"""Fuzz: random programs without end, each with the exact gradient by enumeration.

One of ten is a model whose classes are enumerated, one writes into memory through views of it; of
the others, two of three are programs in Python, one is made of the ops of `programs.random`.

    python tests/fuzz.py --examples 20000 --seed 1
"""

import argparse
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import torch
from programs.choose import Choose
from programs.memory import MemoryProgram, random_memory_program, verdict_on_memory
from programs.mixtures import Mixture, random_mixture, verdict_on_mixture
from programs.python import PythonProgram, Writer, beside, compiled
from programs.random import random_program
from programs.verdict import Generated, Verdict, verdict_on
from torch import Tensor
from torch.distributions import Distribution

from ancestral.trace.context.switch import switch
from oracles import Walk, forcing

PERIOD = 10.0
"""Seconds between two lines of progress."""
SHOWN = (
    *("paths", "with an escape", "write", "branch", "loop", "early return", "exception"),
    *("text", "size", "memory", "pathwise", "density", "mixture", "thread", "out", "op by op"),
    *("trivial", "impossible", "caught", "biased", "refused"),
)


@contextmanager
def standing() -> Iterator[None]:
    """Keep the methods of torch replaced between recordings, which is most of a short one."""

    def first(fn: Distribution, shape: torch.Size) -> Tensor:
        return Walk(()).draw(fn, shape)

    with forcing(first):
        switch.enter()
        try:
            yield
        finally:
            switch.leave()


AnyProgram = Generated | Mixture | MemoryProgram


def judged(program: AnyProgram) -> Verdict:
    """Return the verdict on a program of any kind."""
    if isinstance(program, Mixture):
        return verdict_on_mixture(program)
    if isinstance(program, MemoryProgram):
        return verdict_on_memory(program)
    if isinstance(program, PythonProgram):
        return verdict_on(program, beside(program.parameters[0]))
    return verdict_on(program)


def generated(seed: int) -> AnyProgram:
    """Return the program with this number."""
    numbers = random.Random(seed)
    choose = Choose(lambda bound: int(numbers.random() * bound))
    if seed % 10 == 9:
        return random_mixture(choose, seed)
    if seed % 10 == 4:
        return random_memory_program(choose)
    return Writer(choose).program() if seed % 3 else random_program(choose)


def simpler(lines: list[str]) -> Iterator[list[str]]:
    """Yield the source without a statement, or with what a block holds in its place."""
    for at in range(1, len(lines)):
        if lines[at].rstrip().endswith("+= 1"):
            continue  # without its step a loop would not end
        depth = len(lines[at]) - len(lines[at].lstrip())
        end = at + 1
        while end < len(lines) and len(lines[end]) - len(lines[end].lstrip()) > depth:
            end += 1
        yield lines[:at] + lines[end:]
        if end > at + 1:
            yield lines[:at] + [line[4:] for line in lines[at + 1 : end]] + lines[end:]


def parts_of(program: AnyProgram) -> Iterator[AnyProgram]:
    """Yield a program without one of its statements; of other kinds, nothing."""
    if isinstance(program, MemoryProgram):
        for at in range(len(program.lines)):
            yield replace(program, lines=program.lines[:at] + program.lines[at + 1 :])
    elif isinstance(program, PythonProgram):
        for lines in simpler(program.source.splitlines()):
            with suppress(SyntaxError):
                yield compiled("\n".join(lines) + "\n", program.features)


def shrunk(program: AnyProgram, verdict: Verdict) -> AnyProgram:
    """Return a program that fails in the same way, of which no statement can be left out."""
    for other in parts_of(program):
        try:
            found = judged(other)
        except (NameError, UnboundLocalError, TypeError, AttributeError, RuntimeError, IndexError):
            continue  # the rest of it does not run
        if found.kind == verdict.kind and found.text[:20] == verdict.text[:20]:
            return shrunk(other, found)
    return program


@dataclass
class Tally:
    """What has been seen."""

    began: float = field(default_factory=time.monotonic)
    counts: Counter[str] = field(default_factory=Counter[str])
    failures: list[tuple[AnyProgram, Verdict]] = field(
        default_factory=list[tuple[AnyProgram, Verdict]]
    )

    def add(self, program: AnyProgram, verdict: Verdict) -> None:
        """Count a program; trivial and impossible ones are counted as such alone."""
        self.counts[verdict.kind] += 1
        if verdict.kind in ("trivial", "impossible"):
            return
        self.counts["programs"] += 1
        self.counts["paths"] += verdict.paths
        self.counts["with an escape"] += verdict.is_escaping
        for feature in getattr(program, "features", ("op by op",)):
            self.counts[feature] += 1
        if verdict.is_failure:
            self.failures.append((program, verdict))

    def __str__(self) -> str:
        """Show the counts."""
        seconds = time.monotonic() - self.began
        found = ", ".join(f"{self.counts[name]} {name}" for name in SHOWN)
        return f"{seconds:.0f} s: {self.counts['programs']} programs; {found}"


def fuzz(examples: int, seed: int) -> Tally:
    """Judge that many programs that are neither trivial nor impossible."""
    tally = Tally()
    shown, number = tally.began, seed * 1_000_000_007
    with standing():
        while tally.counts["programs"] < examples:
            program = generated(number)
            verdict = judged(program)
            tally.add(program, verdict)
            if verdict.is_failure:
                print(f"number {number}, {verdict.kind}: {verdict.text}\n{program.source}")
            number += 1
            if time.monotonic() - shown > PERIOD:
                shown = time.monotonic()
                print(tally, flush=True)
    return tally


def smallest(tally: Tally) -> str:
    """Return the source of the smallest failing program, after it was made smaller."""
    program, verdict = min(tally.failures, key=lambda failure: len(failure[0].source))
    program = shrunk(program, verdict)
    found = judged(program)
    return f"{program.source}\n{found.kind}: {found.text}"


def main() -> int:
    """Fuzz, and return 1 if a program failed."""
    parser = argparse.ArgumentParser(description="Fuzz with random programs.")
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    tally = fuzz(options.examples, options.seed)
    print(tally)
    if not tally.failures:
        return 0
    print(f"{len(tally.failures)} programs failed; the smallest:\n{smallest(tally)}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
