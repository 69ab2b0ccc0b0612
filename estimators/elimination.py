"""Elimination: sums of products of factors, over sites that repeat in plates.

The deepest repetitions come first: their sites are summed out, one after the other, then what is
left of each factor is multiplied over the repetitions that none of its sites is in. Obermeyer et
al. (2019), "Tensor variable elimination for plated factor graphs", algorithm 1.
"""

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ancestral.estimators.factors import LogFactor, Repetition, is_same_scale
from ancestral.estimators.log_space import Table, along, multiplied, product, summed
from ancestral.trace.enumerated import Variable
from ancestral.trace.enumeration_errors import EnumerationError

Places = Mapping[Variable, frozenset[Repetition]]
"""The repetitions that each enumerated site is in."""


class IntractablePlatesError(EnumerationError):
    """The joint values of all repetitions would have to be listed."""

    def __init__(self, factor: LogFactor, places: Places) -> None:
        """Name the site, and those that it joins across plates."""
        sites = ", ".join(map(str, factor.variables))
        inner = ", ".join(str(sorted(map(str, places[v]))) for v in factor.variables)
        super().__init__(
            f"site {factor.name!r} joins the enumerated sites {sites}, whose repetitions are along "
            f"{inner}, in each of {sorted(map(str, factor.repetitions))}: to sum them out is "
            "exponential in the size of a plate (Obermeyer et al. 2019, section 3.3); put a site "
            "within both plates between them, run one of the plates in turn, or draw one of the "
            'sites: infer={"enumerate": False}'
        )


class ScaleError(EnumerationError):
    """Sites that are summed out together count differently often."""

    def __init__(self, first: LogFactor, second: LogFactor, variable: Variable) -> None:
        """Name the sites."""
        super().__init__(
            f"to sum out the enumerated site {variable}, sites {first.name!r} and {second.name!r} "
            "are multiplied, but their scales differ, and it does not count once either, so that "
            "how often the sum counts is unclear; put all three within the same an.handlers.scale "
            "and the same subsampled plates"
        )


def eliminated(factors: Sequence[LogFactor]) -> Tensor:
    """Return the logarithm of the sum, over all enumerated sites, of the product of factors: [].

    Raises:
        IntractablePlatesError: if that is exponential in the size of a plate.
        ScaleError: if sites that are multiplied count differently often.
    """
    owners = {factor.own: factor for factor in factors if factor.own is not None}
    places = {variable: owner.repetitions for variable, owner in owners.items()}
    _refuse_mixed_scales(owners)
    pending = list(factors)
    total: list[Tensor] = []
    while pending:
        deepest = max(pending, key=lambda factor: len(factor.repetitions)).repetitions
        here = [factor for factor in pending if factor.repetitions == deepest]
        pending = [factor for factor in pending if factor.repetitions != deepest]
        local = {v: owner for v, owner in owners.items() if places[v] == deepest}
        for factor in _summed_out(here, local):
            around = frozenset[Repetition]().union(*(places[v] for v in factor.variables))
            if not around < deepest and (around or deepest):
                raise IntractablePlatesError(factor, places)
            left = _over(factor, deepest - around)
            if left.variables:
                pending.append(left)
            else:
                total.append(_scaled(left).log)
    return torch.stack(total).sum() if total else torch.zeros(())


def _refuse_mixed_scales(owners: Mapping[Variable, LogFactor]) -> None:
    """Raise if an enumerated site counts more or less often than one that it depends on."""
    for variable, owner in owners.items():
        for parent in owner.variables:
            other = owners[parent]
            is_beside = other.repetitions == owner.repetitions
            if is_beside and not is_same_scale(owner.scale, other.scale):
                raise ScaleError(other, owner, variable)


def _over(factor: LogFactor, repetitions: frozenset[Repetition]) -> LogFactor:
    """Return the product of a factor over repetitions, each as often as it counts."""
    for repetition in sorted(repetitions, key=str):
        if isinstance(factor.scale, Table) and repetition in factor.scale.axes:
            factor = replace(factor, table=_scaled(factor), scale=1.0)
        table = factor.table
        if repetition in table.axes:
            table = multiplied(table, repetition)
        count = factor.plate_scales.get(repetition, 1.0)
        if count != 1:
            table = replace(table, log=table.log * count)
        factor = replace(factor, table=table)
    return replace(factor, repetitions=factor.repetitions - repetitions)


def _scaled(factor: LogFactor) -> Table:
    """Return the table of a factor as often as it counts."""
    table, scale = factor.table, factor.scale
    if not isinstance(scale, Table):
        return table if scale == 1 else replace(table, log=table.log * scale)
    axes = tuple(dict.fromkeys((*table.axes, *scale.axes)))
    return Table(along(table, axes) * along(scale, axes), axes)


def _summed_out(
    factors: Sequence[LogFactor], owners: Mapping[Variable, LogFactor]
) -> list[LogFactor]:
    """Return factors whose product is the sum over variables, the cheapest of which go first."""
    alive = dict(enumerate(factors))
    buckets: dict[Variable, set[int]] = {variable: set() for variable in owners}
    for number, factor in alive.items():
        for variable in factor.variables:
            if variable in buckets:
                buckets[variable].add(number)
    order = {variable: rank for rank, variable in enumerate(buckets)}
    costs = {variable: _cost(alive[n] for n in bucket) for variable, bucket in buckets.items()}
    heap = [(cost, order[variable], variable) for variable, cost in costs.items()]
    heapq.heapify(heap)
    while heap:
        cost, _, variable = heapq.heappop(heap)
        if variable not in buckets or cost != costs[variable]:
            continue
        bucket = sorted(buckets.pop(variable))
        if not bucket:
            continue
        made = _sum_of([alive.pop(number) for number in bucket], variable, owners[variable])
        number = len(factors) + len(order) - len(buckets)
        alive[number] = made
        for neighbour in made.variables:
            if neighbour in buckets:
                buckets[neighbour] = (buckets[neighbour] - set(bucket)) | {number}
                costs[neighbour] = _cost(alive[n] for n in buckets[neighbour])
                heapq.heappush(heap, (costs[neighbour], order[neighbour], neighbour))
    return list(alive.values())


def _cost(factors: Iterable[LogFactor]) -> int:
    """Return how many elements the product of factors has."""
    return math.prod({k: n for f in factors for k, n in f.table.sizes.items()}.values())


def _sum_of(factors: Sequence[LogFactor], variable: Variable, owner: LogFactor) -> LogFactor:
    """Return the sum over a variable of the product of the factors that depend on it."""
    tables: list[Table] = []
    for factor in factors:
        is_same = is_same_scale(factor.scale, owner.scale)
        if not (is_same or owner.scale == 1) or not _is_within_same_plates(factor, owner):
            raise ScaleError(owner, factor, variable)
        tables.append(factor.table if is_same else _scaled(factor))
    tables.sort(key=lambda table: table.log.numel())
    return replace(owner, table=summed(product(tables), variable))


def _is_within_same_plates(first: LogFactor, second: LogFactor) -> bool:
    places = first.repetitions | second.repetitions
    return all(first.plate_scales.get(p, 1.0) == second.plate_scales.get(p, 1.0) for p in places)
