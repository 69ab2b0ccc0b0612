"""Benchmarks of recordings: programs of many sites, beside the same draws in plain torch."""

import math
import timeit
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Normal

from ancestral.tools.bench.rows import Row, ratios
from ancestral.trace.context.switch import restore_torch
from ancestral.trace.program.primitives import sample
from ancestral.trace.recording.record import record

Draw = Callable[[str, Distribution], Tensor]


def recording_rows(size: int = 1_000, rounds: int = 15) -> list[Row]:
    """Measure what it costs to record a program of many sites, or nothing."""
    return [
        Row("an empty recording, to a Bernoulli(64) made, sampled and scored", _empty(), 0.5),
        *(
            Row(f"{words}, between recordings, to torch restored", _between(call), 1.03)
            for words, call in BETWEEN.items()
        ),
        *_program_rows(size, rounds),
    ]


def _program_rows(size: int, rounds: int) -> list[Row]:
    return [
        Row(f"{size:,} {words}, recorded, to plain torch", _ratio(program, size, rounds), 3.0)
        for words, program in PROGRAMS.items()
    ]


def _ratio(program: Callable[[Draw, int], None], size: int, rounds: int) -> float:
    def recorded() -> None:
        with record():
            program(sample, size)

    return ratios([lambda: program(_drawn, size), recorded], 1, rounds)[1]


def _coin() -> None:
    fn = Bernoulli(_P)
    fn.log_prob(fn.sample())


def _nothing() -> None:
    with record():
        pass


def _empty() -> float:
    return ratios([_coin, _nothing], 20, rounds=100)[1]


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
