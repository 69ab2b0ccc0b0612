"""Benchmarks of recordings: programs of many sites, beside the same draws in plain torch."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Normal

from ancestral.tools.bench.rows import Row, ratios
from ancestral.trace.program.primitives import sample
from ancestral.trace.recording.record import record

Draw = Callable[[str, Distribution], Tensor]


def recording_rows(size: int = 1_000, rounds: int = 15) -> list[Row]:
    """Measure what it costs to record a program of many sites."""
    return [
        Row(f"{size:,} {words}, recorded, to plain torch", _ratio(program, size, rounds), 3.0)
        for words, program in PROGRAMS.items()
    ]


def _ratio(program: Callable[[Draw, int], None], size: int, rounds: int) -> float:
    def recorded() -> None:
        with record():
            program(sample, size)

    return ratios([lambda: program(_drawn, size), recorded], 1, rounds)[1]


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
