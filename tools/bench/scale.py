"""Scaling: time and memory by the number of sites, from a thousand to a hundred thousand.

A structure of some shape is made without a recording, and the downstream sums of all its sites are
timed; a chain of draws is recorded, and a whole gradient step is timed. Every case runs in a
separate process, so that its peak of memory is its own too (the import of torch included).

    python -m ancestral.tools.bench.scale --sizes 1000 10000 --limit 60
"""

import argparse
import json
import math
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ancestral.estimators.credit.credit import by_element
from ancestral.provenance.algebra.alignment import Alignment
from ancestral.provenance.algebra.pattern import forget
from ancestral.tools.bench.chain import Chain
from ancestral.trace.graph.structure import Entries, Structure, TermShape, Vertex

SIZES = (1_000, 10_000, 100_000)
BATCHES = (1, 64)
MEMORY = 4 * 2**30
"""Bytes that a case may take."""
RECORDED = "recorded chain"
BY_HAND = "chain by hand"
"""The estimator of the recorded chain in plain torch: what torch and Python's collector take."""

Parents = Iterator[Sequence[int]]
"""The parents of each site in program order, by number."""


def chain(size: int, rng: random.Random) -> Parents:
    """Each site depends on the one before."""
    return ([n - 1] if n else [] for n in range(size))


def tree(size: int, rng: random.Random) -> Parents:
    """A binary tree, numbered as a heap."""
    return ([(n - 1) // 2] if n else [] for n in range(size))


def independent(size: int, rng: random.Random) -> Parents:
    """No site depends on another."""
    return ([] for _ in range(size))


def layered(size: int, rng: random.Random, width: int = 64, fan_in: int = 8) -> Parents:
    """Each site depends on some of the layer before."""
    for n in range(size):
        first = (n // width - 1) * width
        yield rng.sample(range(first, first + width), fan_in) if first >= 0 else []


def dag(size: int, rng: random.Random, in_degree: int = 4) -> Parents:
    """Each site depends on some of all the earlier ones: from none to twice the mean."""
    for n in range(size):
        yield rng.sample(range(n), min(n, rng.randint(0, 2 * in_degree)))


SHAPES: dict[str, Callable[[int, random.Random], Parents]] = {
    "chain": chain,
    "tree": tree,
    "independent": independent,
    "layered": layered,
    "dag": dag,
}


def structure_of(parents: Iterable[Sequence[int]], batch: int) -> Structure:
    """Return the structure of sites with these parents, each with its own cost.

    >>> [site.name for site in structure_of([[], [0]], batch=1).sites]
    ['z0', 'z1']
    """
    shape = () if batch == 1 else (batch,)
    along = tuple(range(len(shape)))
    sites = tuple(
        Vertex(f"z{number}", shape, entries(along, of), needs_score=True)
        for number, of in enumerate(parents)
    )
    terms = tuple(TermShape(shape, entries(along, [number])) for number in range(len(sites)))
    return Structure(sites, terms)


def entries(dims: tuple[int, ...], parents: Sequence[int]) -> Entries:
    """Return the dependency on these sites, with one alignment."""
    return ((Alignment(dims), tuple(sorted(parents))),) if parents else ()


@dataclass(frozen=True)
class Case:
    """One measurement: a shape of `SHAPES`, `RECORDED`, or `BY_HAND`."""

    shape: str
    batch: int
    size: int

    def run(self) -> float:
        """Return the seconds that the case takes, here and now: the least of some repeats.

        A small one goes before, so that what torch does once is in none.
        """
        repeats = max(1, min(5, 5_000 // self.size))
        Case(self.shape, self.batch, 100)._once()
        return min(self._once() for _ in range(repeats))

    def _once(self) -> float:
        if self.shape == RECORDED:
            forget()  # each is the first of its shape: what a second one finds is no growth
            return elapsed(Chain(self.size).ancestral)
        if self.shape == BY_HAND:
            return elapsed(Chain(self.size).estimator)
        rng = random.Random(0)
        structure = structure_of(SHAPES[self.shape](self.size, rng), self.batch)
        values = list(torch.rand(self.size, *structure.sites[0].shape))
        return elapsed(lambda: by_element(structure, values))


def elapsed(step: Callable[[], object]) -> float:
    """Return the seconds of the processor that a step takes, whatever else the machine does."""
    start = time.process_time()
    step()
    return time.process_time() - start


@dataclass(frozen=True)
class Cost:
    """What a case took; nothing where it was stopped, and `reason` says why."""

    seconds: float = math.nan
    megabytes: float = math.nan
    reason: str = ""


def measured(case: Case, limit: float) -> Cost:
    """Return what a case takes in its own process.

    Args:
        case: what to run.
        limit: the seconds after which it is stopped.
    """
    arguments = ["--case", case.shape, str(case.batch), str(case.size)]
    command = [sys.executable, "-m", "ancestral.tools.bench.scale", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, timeout=limit, check=False, text=True)
    except subprocess.TimeoutExpired:
        return Cost(reason=f"> {limit:g} s")
    if any(text in done.stderr for text in ("MemoryError", "can't allocate memory")):
        return Cost(reason=f"> {MEMORY / 2**30:g} GiB")
    if done.returncode != 0:
        raise RuntimeError(f"{case} failed (status {done.returncode}): {done.stderr[-2000:]}")
    return Cost(**json.loads(done.stdout))


def _run_case(case: Case) -> None:
    """Run a case in this process, with no more memory than it may take, and print its cost."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    seconds = case.run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # counts in KiB on Linux
    print(json.dumps({"seconds": seconds, "megabytes": peak}))


@dataclass(frozen=True)
class Growth:
    """What the cases of one shape took, by size."""

    shape: str
    batch: int
    costs: dict[int, Cost]

    @property
    def exponent(self) -> float:
        """The slope of log time over log size; not a number below two sizes."""
        done = {size: cost.seconds for size, cost in self.costs.items() if not cost.reason}
        return exponent(list(done), list(done.values())) if len(done) > 1 else math.nan

    @property
    def megabytes(self) -> float:
        """The peak of the largest size that was not stopped."""
        return max((c.megabytes for c in self.costs.values() if not c.reason), default=math.nan)

    def cells(self) -> list[str]:
        """Return the cells of a line of the table."""
        times = [cost.reason or f"{cost.seconds:.3g} s" for cost in self.costs.values()]
        return [
            *(self.shape, str(self.batch), *times),
            *(f"{self.megabytes:,.0f}", f"{self.exponent:.2f}"),
        ]


def growth(shape: str, batch: int, sizes: Sequence[int], limit: float) -> Growth:
    """Measure a shape at all sizes; what is larger than a size that was stopped is not run."""
    costs: dict[int, Cost] = {}
    stopped = ""
    for size in sizes:
        cost = Cost(reason=stopped) if stopped else measured(Case(shape, batch, size), limit)
        stopped = "not run" if cost.reason else ""
        costs[size] = cost
    return Growth(shape, batch, costs)


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Return the slope of log time over log size, by least squares.

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    xs, ys = [math.log(size) for size in sizes], [math.log(time) for time in times]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
    return above / sum((a - x) ** 2 for a in xs)


def report(
    sizes: Sequence[int] = SIZES, limit: float = 180.0, batches: Sequence[int] = BATCHES
) -> list[Growth]:
    """Measure every shape with every batch and then chains of draws; print a line for each.

    Args:
        sizes: the numbers of sites.
        limit: the seconds after which a structure is stopped; a recording may take twice that.
        batches: the elements of each site.
    """
    print("Seconds of the processor, each case in its own process:")
    _print_line(["shape", "batch", *(f"{size:,}" for size in sizes), "peak MB", "exponent"])
    found: list[Growth] = []
    cases = [(shape, batch, limit) for batch in batches for shape in SHAPES]
    for shape, batch, most in [*cases, (BY_HAND, 1, 2 * limit), (RECORDED, 1, 2 * limit)]:
        found.append(growth(shape, batch, sizes, most))
        _print_line(found[-1].cells())
    return found


def _print_line(cells: Sequence[str]) -> None:
    first, *others = cells
    print(first.ljust(14), *(cell.rjust(10) for cell in others), flush=True)


def main() -> int:
    """Print the table, or run one case."""
    parser = argparse.ArgumentParser(description="How time and memory grow with the sites.")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--limit", type=float, default=180.0, help="seconds for each case")
    parser.add_argument("--case", nargs=3, metavar=("SHAPE", "BATCH", "SIZE"))
    options = parser.parse_args()
    if options.case:
        shape, batch, size = options.case
        _run_case(Case(shape, int(batch), int(size)))
        return 0
    report(options.sizes, options.limit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
