"""Benchmarks of dependencies: seconds and memory for many sites, beside Pyro in one process.

>>> list(recorded([[], [0]]))
['z0', 'z1']
"""

import random
import time
import tracemalloc
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.distributions import Normal

from ancestral.tools.bench.rows import Row
from ancestral.tools.bench.scale import chain, layered
from ancestral.trace.program.primitives import sample
from ancestral.trace.recording.get_dependencies import posterior_dependencies, prior_dependencies
from ancestral.trace.recording.record import record
from ancestral.trace.recording.trace import Trace

SIZES = (1_000, 2_000, 4_000)


def recorded(parents: Iterable[Sequence[int]]) -> Trace:
    """Return the trace of sites with these parents."""
    values: list[Tensor] = []
    with record() as trace:
        for number, above in enumerate(parents):
            mean = sum((values[place] for place in above), torch.zeros(()))
            values.append(sample(f"z{number}", Normal(mean, 1.0)))
    return trace


def dependency_rows(sizes: Sequence[int] = SIZES) -> Iterator[Row]:
    """Measure the dependencies of chains and layers, and those of a chain in Pyro."""
    start = time.process_time()
    trace = recorded(chain(sizes[0], random.Random(0)))
    between = time.process_time()
    _both(trace)
    end = time.process_time()
    theirs = _pyro_seconds(sizes[0])
    yield Row(f"dependencies of a chain of {sizes[0]:,} sites, seconds", end - between, 1.0)
    yield Row("  with the recording, to Pyro's get_dependencies", (end - start) / theirs, 1 / 10)
    for shape in (chain, layered):
        for size in sizes:
            used = _bytes_of(recorded(shape(size, random.Random(0))))
            yield Row(f"  bytes for each dependency, {shape.__name__} of {size:,}", used, 512.0)


def _both(trace: Trace) -> int:
    """Return how many dependencies there are, before and after the data."""
    return sum(
        len(sites)
        for found in (prior_dependencies, posterior_dependencies)
        for sites in found(trace).values()
    )


def _bytes_of(trace: Trace) -> float:
    """Return the peak of the memory of each dependency."""
    tracemalloc.start()
    count = _both(trace)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / count


def _pyro_seconds(size: int) -> float:
    import pyro
    import pyro.distributions as dist
    from pyro.infer.inspect import get_dependencies

    def model() -> None:
        z = torch.zeros(())
        for number in range(size):
            z = pyro.sample(f"z{number}", dist.Normal(z, 1.0))

    start = time.process_time()
    get_dependencies(model)
    return time.process_time() - start
