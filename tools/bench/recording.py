"""Benchmarks of recordings: programs of many sites, and their dependencies.

The first stand beside the same draws in plain torch, the others beside Pyro, in one process.

>>> list(recorded([[], [0]]))
['z0', 'z1']
"""

import math
import random
import time
import timeit
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Normal

from ancestral.tools.bench.rows import Row, ratios
from ancestral.tools.bench.scale import chain, layered
from ancestral.trace.context.switch import restore_torch
from ancestral.trace.program.primitives import sample
from ancestral.trace.recording.get_dependencies import posterior_dependencies, prior_dependencies
from ancestral.trace.recording.record import record
from ancestral.trace.recording.trace import Trace

Draw = Callable[[str, Distribution], Tensor]


def recording_rows(size: int = 1_000, rounds: int = 15) -> list[Row]:
    """Measure what it costs to record a program of many sites, or nothing."""
    return [
        Row("an empty recording, to a Bernoulli(64) made, sampled and scored", _empty(), 0.5),
        Row("  where a user has defined a class of distributions", _beside_a_class(), 0.5),
        *(
            Row(f"{words}, between recordings, to torch restored", _between(call), 1.03)
            for words, call in BETWEEN.items()
        ),
        *_program_rows(size, rounds),
    ]


def _program_rows(size: int, rounds: int) -> list[Row]:
    return [
        Row(f"{size:,} {words}, recorded, to plain torch", _ratio(program, size, rounds), 1.5)
        for words, program in PROGRAMS.items()
    ]


def _ratio(program: Callable[[Draw, int], None], size: int, rounds: int) -> float:
    def step() -> None:
        with record():
            program(sample, size)

    return ratios([lambda: program(_drawn, size), step], 1, rounds)[1]


def _coin() -> None:
    fn = Bernoulli(_P)
    fn.log_prob(fn.sample())


def _nothing() -> None:
    with record():
        pass


def _empty() -> float:
    return ratios([_coin, _nothing], 20, rounds=100)[1]


def _beside_a_class() -> float:
    own: Any = type("Own", (Bernoulli,), {"sample": _sample, "log_prob": _log_prob})
    assert own(_P).sample().shape == _P.shape
    return _empty()


def _sample(self: Any, *args: Any) -> Any:
    return Bernoulli.sample(self, *args)


def _log_prob(self: Any, value: Tensor) -> Any:
    return Bernoulli.log_prob(self, value)


def _between(call: Callable[[], object]) -> float:
    """Return what a call takes after a recording, as a ratio to the same when torch is restored.

    A few percent are seen in many short rounds only. The interpreter forgets what it knew of a
    class that is changed, which the first calls learn again.
    """
    before = after = math.inf
    for _ in range(50):
        restore_torch()
        timeit.timeit(call, number=200)
        before = min(before, *timeit.repeat(call, number=20, repeat=5))
        _nothing()
        timeit.timeit(call, number=200)
        after = min(after, *timeit.repeat(call, number=20, repeat=5))
    return after / before


_P = torch.full((64,), 0.3)
_FN, _X = Bernoulli(_P), torch.ones(64)
BETWEEN: dict[str, Callable[[], object]] = {
    "a Bernoulli(64) made, sampled and scored": _coin,
    "a draw of a Bernoulli(64)": _FN.sample,
    "its density": lambda: _FN.log_prob(_X),
    "torch.tensor of a number": lambda: torch.tensor(0.5),
    "Tensor.detach": _X.detach,
}


def _drawn(_: str, fn: Distribution) -> Tensor:
    """Draw in plain torch."""
    return fn.rsample() if fn.has_rsample else fn.sample()


def _chain(draw: Draw, size: int) -> None:
    z = torch.zeros(())
    for number in range(size):
        z = draw(f"z{number}", Normal(z, 1.0))


def _coins(draw: Draw, size: int) -> None:
    logits = torch.tensor(0.3)
    for number in range(size):
        draw(f"z{number}", Bernoulli(logits=logits))


def _classes(draw: Draw, size: int) -> None:
    logits = torch.tensor([0.3, -0.2, 0.1])
    for number in range(size):
        draw(f"z{number}", Categorical(logits=logits))


PROGRAMS: dict[str, Callable[[Draw, int], None]] = {
    "sites of a Normal chain": _chain,
    "independent Bernoulli sites": _coins,
    "independent Categorical sites": _classes,
}


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
