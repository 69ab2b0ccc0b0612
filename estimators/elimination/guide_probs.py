"""Joint probabilities of the values of those sites that a guide enumerates.

Those of a few sites are a sum over all that they depend on. Where that passes through one site
alone, as in a chain, the probabilities of this one stand for all before it, and are kept.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ancestral.estimators.elimination.eliminate import summed_each
from ancestral.estimators.elimination.factors import LogFactor
from ancestral.estimators.elimination.log_table import Table, product
from ancestral.trace.nodes.enum_dims import Variable


class Listed:
    """The sites that a guide enumerates, numbered in its order."""

    def __init__(self, factors: Sequence[LogFactor]) -> None:
        """Take the probabilities of each site, given those that it depends on."""
        # A probability is one however often what it weighs counts.
        self._factors = [replace(factor, scale=1.0, plate_scales={}) for factor in factors]
        self._owners = {f.own: f for f in self._factors if f.own is not None}
        self._numbers = {variable: number for number, variable in enumerate(self._owners)}
        self._upstream: list[int] = []  # of each site: itself, and all that it depends on, as bits
        for number, factor in enumerate(self._factors):
            bits = 1 << number
            for parent in self._parents(factor):
                bits |= self._upstream[parent]
            self._upstream.append(bits)
        self._single: dict[int, LogFactor] = {}

    def joint(self, variables: Iterable[Variable]) -> Table:
        """Return the logarithms of the probabilities of the values of some sites.

        They have an axis for each of these, and for each of their repetitions.
        """
        return self._joint([self._numbers[variable] for variable in variables]).table

    def _joint(self, numbers: Sequence[int]) -> LogFactor:
        found: list[LogFactor] = []
        pending = sum(1 << number for number in numbers)
        while pending:
            latest = pending.bit_length() - 1
            pending ^= 1 << latest
            if [latest] != numbers and self._is_apart(latest, pending):
                found.append(self._probabilities(latest))
            else:
                found.append(self._factors[latest])
                pending |= sum(1 << number for number in self._parents(self._factors[latest]))
        kept = {self._factors[number].own for number in numbers}
        left = summed_each(found, {v: f for v, f in self._owners.items() if v not in kept})
        return replace(left[0], table=product([factor.table for factor in left]))

    def _is_apart(self, latest: int, pending: int) -> bool:
        """Return whether a site depends on nothing that some others are or depend on."""
        return not any(self._upstream[latest] & self._upstream[n] for n in _numbers(pending))

    def _probabilities(self, number: int) -> LogFactor:
        if number not in self._single:
            self._single[number] = self._joint([number])
        return self._single[number]

    def _parents(self, factor: LogFactor) -> list[int]:
        return [self._numbers[v] for v in factor.variables if v is not factor.own]


def _numbers(bits: int) -> Iterator[int]:
    """Yield which bits are set.

    >>> list(_numbers(0b1011))
    [0, 1, 3]
    """
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest
