"""Elimination order: the sequence of sums that keeps tables small.

The order is chosen from the axes of the tables alone, before anything is summed. A step is named
by the tables that it multiplies: those given come first, then what each step leaves.
"""

import heapq
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from opt_einsum import get_symbol
from opt_einsum.paths import greedy

from ancestral.trace.nodes.enum_dims import Variable

T = TypeVar("T", bound=Hashable)
Axes = frozenset[Hashable]
"""A variable that a table has an axis for."""
_MOST_SHARED = 256
"""How many tables may share a site where pairs of them are compared: there are as many pairs."""


@dataclass(frozen=True)
class Step:
    """The tables that a site is in are multiplied, and it is summed out.

    `joined` are the numbers of the tables, `elements` the size of their product.
    """

    variable: Variable
    joined: tuple[int, ...]
    elements: int


def steps_of(
    tables: Sequence[Axes], sizes: Mapping[Hashable, int], variables: Sequence[Variable]
) -> list[Step]:
    """Return how to sum out those variables that the tables have, at the least cost found.

    opt_einsum weighs pairs of tables, though all tables of a site are multiplied before it is
    summed out. Its order takes half the elements of the other in dense networks, and up to half
    again as many in sparse ones, so that both are tried.
    """
    # Steps of training are alike: an order is kept by the numbers of axes, which are new each time.
    numbers = {axis: number for number, axis in enumerate(sizes)}
    there = frozenset[Hashable]().union(*tables)
    present = [variable for variable in variables if variable in there]
    found = _ordered(
        tuple([frozenset([numbers[axis] for axis in axes]) for axes in tables]),
        tuple(sizes.values()),
        tuple([numbers[variable] for variable in present]),
        _MOST_SHARED,
    )
    by_number = {numbers[variable]: variable for variable in present}
    return [Step(by_number[number], joined, elements) for number, joined, elements in found]


_Numbered = tuple[int, tuple[int, ...], int]
"""A step whose site goes by its number."""


@lru_cache(maxsize=256)
def _ordered(
    tables: tuple[frozenset[int], ...],
    sizes: tuple[int, ...],
    variables: tuple[int, ...],
    most_shared: int,
) -> tuple[_Numbered, ...]:
    """Return the steps of the axes with these numbers."""
    shared = Counter(axis for axes in tables for axis in axes)
    found, by_number = [_least_first(_Joining(tables, sizes, variables))], dict(enumerate(sizes))
    if 1 < max((shared[variable] for variable in variables), default=0) <= most_shared:
        joining = _Joining(tables, sizes, variables)
        found.append([joining.summed_out(v) for v in _path_order(tables, by_number, variables)])
    return tuple(min(found, key=lambda steps: sum(elements for _, _, elements in steps)))


class _Joining:
    """The tables that are left, and which of them each site is in."""

    def __init__(
        self, tables: Sequence[frozenset[int]], sizes: Sequence[int], variables: Sequence[int]
    ) -> None:
        self.tables = list(tables)
        self.sizes = sizes
        self.within: dict[int, set[int]] = {variable: set() for variable in variables}
        for number, axes in enumerate(tables):
            for axis in axes & self.within.keys():
                self.within[axis].add(number)

    def product(self, variable: int) -> frozenset[int]:
        """Return the axes of the product of all tables that a site is in."""
        return frozenset().union(*(self.tables[n] for n in self.within[variable]))

    def elements(self, variable: int) -> int:
        """Return how many elements that product has."""
        return math.prod(self.sizes[axis] for axis in self.product(variable))

    def summed_out(self, variable: int) -> _Numbered:
        """Sum a site out."""
        axes = self.product(variable) - {variable}
        step = (variable, tuple(sorted(self.within[variable])), self.elements(variable))
        gone = self.within.pop(variable)
        for other in axes & self.within.keys():
            self.within[other] -= gone
            self.within[other].add(len(self.tables))
        self.tables.append(axes)
        return step


def _least_first(joining: _Joining) -> list[_Numbered]:
    """Return the steps that form the smallest product each, of equals the first."""
    ranks = {variable: rank for rank, variable in enumerate(joining.within)}
    costs = {variable: joining.elements(variable) for variable in ranks}
    heap = [(cost, ranks[variable], variable) for variable, cost in costs.items()]
    heapq.heapify(heap)
    steps: list[_Numbered] = []
    while heap:
        cost, _, variable = heapq.heappop(heap)
        if variable not in joining.within or cost != costs[variable]:
            continue
        steps.append(joining.summed_out(variable))
        for other in joining.tables[-1] & joining.within.keys():
            costs[other] = joining.elements(other)
            heapq.heappush(heap, (costs[other], ranks[other], other))
    return steps


def _path_order(
    tables: Sequence[frozenset[T]], sizes: Mapping[T, int], variables: Sequence[T]
) -> list[T]:
    """Return the variables in the order in which the greedy path of opt_einsum loses them.

    Only the order is taken from it: its own contractions know neither weights of zero nor what a
    tensor depends on. No product of the order is larger than the table in which the path loses the
    same variable, as it has no factor more. The other paths of opt_einsum are no choice: those that
    branch list the values of three steps of a short chain together, and dynamic programming took
    a third of a second for a dozen tables.
    """
    ranks = {variable: rank for rank, variable in enumerate(variables)}
    used = [axes for axes in tables if axes & ranks.keys()]
    symbols = {axis: get_symbol(number) for number, axis in enumerate(sizes)}
    path = greedy(
        [frozenset(symbols[axis] for axis in axes) for axes in used],
        frozenset(symbol for axis, symbol in symbols.items() if axis not in ranks),
        {symbols[axis]: size for axis, size in sizes.items()},
    )
    left = [[v for v in axes if v in ranks] for axes in used]
    counts = Counter(variable for some in left for variable in some)
    order: list[T] = []
    for places in path:
        taken = Counter(v for place in sorted(places, reverse=True) for v in left.pop(place))
        counts.subtract({variable: count - 1 for variable, count in taken.items()})
        lost = {variable for variable in taken if counts[variable] == 1}
        order += sorted(lost, key=ranks.__getitem__)
        left.append([variable for variable in taken if variable not in lost])
    return order
