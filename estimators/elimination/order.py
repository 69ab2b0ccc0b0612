"""Elimination order: the sequence of sums that keeps tables small.

The order is chosen from the axes of the tables alone, before anything is summed. A step is named
by the tables that it multiplies: those given come first, then what each step leaves.
"""

import heapq
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from opt_einsum import get_symbol
from opt_einsum.paths import greedy

from ancestral.trace.nodes.enum_dims import Variable

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
    shared = Counter(axis for axes in tables for axis in axes)
    present = [variable for variable in variables if variable in shared]
    found = [_least_first(_Joining(tables, sizes, present))]
    if 1 < max((shared[variable] for variable in present), default=0) <= _MOST_SHARED:
        joining = _Joining(tables, sizes, present)
        found.append([joining.summed_out(v) for v in _path_order(tables, sizes, present)])
    return min(found, key=lambda steps: sum(step.elements for step in steps))


class _Joining:
    """The tables that are left, and which of them each site is in."""

    def __init__(
        self, tables: Sequence[Axes], sizes: Mapping[Hashable, int], variables: Sequence[Variable]
    ) -> None:
        self.tables = list(tables)
        self.sizes = sizes
        self.within: dict[Variable, set[int]] = {variable: set() for variable in variables}
        for number, axes in enumerate(tables):
            for axis in axes:
                if isinstance(axis, Variable) and axis in self.within:
                    self.within[axis].add(number)

    def product(self, variable: Variable) -> Axes:
        """Return the axes of the product of all tables that a site is in."""
        return frozenset().union(*(self.tables[n] for n in self.within[variable]))

    def elements(self, variable: Variable) -> int:
        """Return how many elements that product has."""
        return math.prod(self.sizes[axis] for axis in self.product(variable))

    def summed_out(self, variable: Variable) -> Step:
        """Sum a site out."""
        axes = self.product(variable) - {variable}
        step = Step(variable, tuple(sorted(self.within[variable])), self.elements(variable))
        gone = self.within.pop(variable)
        for other in axes & self.within.keys():
            assert isinstance(other, Variable)
            self.within[other] -= gone
            self.within[other].add(len(self.tables))
        self.tables.append(axes)
        return step


def _least_first(joining: _Joining) -> list[Step]:
    """Return the steps that form the smallest product each, of equals the first."""
    ranks = {variable: rank for rank, variable in enumerate(joining.within)}
    costs = {variable: joining.elements(variable) for variable in ranks}
    heap = [(cost, ranks[variable], variable) for variable, cost in costs.items()]
    heapq.heapify(heap)
    steps: list[Step] = []
    while heap:
        cost, _, variable = heapq.heappop(heap)
        if variable not in joining.within or cost != costs[variable]:
            continue
        steps.append(joining.summed_out(variable))
        for other in joining.tables[-1] & joining.within.keys():
            assert isinstance(other, Variable)
            costs[other] = joining.elements(other)
            heapq.heappush(heap, (costs[other], ranks[other], other))
    return steps


def _path_order(
    tables: Sequence[Axes], sizes: Mapping[Hashable, int], variables: Sequence[Variable]
) -> list[Variable]:
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
    left = [[v for v in axes if isinstance(v, Variable) and v in ranks] for axes in used]
    counts = Counter(variable for some in left for variable in some)
    order: list[Variable] = []
    for places in path:
        taken = Counter(v for place in sorted(places, reverse=True) for v in left.pop(place))
        counts.subtract({variable: count - 1 for variable, count in taken.items()})
        lost = {variable for variable in taken if counts[variable] == 1}
        order += sorted(lost, key=ranks.__getitem__)
        left.append([variable for variable in taken if variable not in lost])
    return order
