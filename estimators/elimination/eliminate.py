"""Variable elimination: sums of products of factors, over sites that repeat in plates.

The deepest repetitions come first: their sites are summed out, one after the other, then what is
left of each factor is multiplied over the repetitions that none of its sites is in. Obermeyer et
al. (2019), "Tensor variable elimination for plated factor graphs", algorithm 1.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ancestral.estimators.elimination.factors import LogFactor, Repetition, is_same_scale
from ancestral.estimators.elimination.log_table import Table, along, multiplied, product, summed
from ancestral.estimators.elimination.order import steps_of
from ancestral.trace.context.errors import EnumerationError
from ancestral.trace.nodes.enum_dims import Variable

Note = Callable[[Variable, Table], None]
"""Is told of each site that is summed out, with the product that is summed along it."""


def _nothing(_: Variable, __: Table) -> None:
    pass


Places = Mapping[Variable, frozenset[Repetition]]
"""The repetitions that each enumerated site is in."""


def eliminated(factors: Sequence[LogFactor], note: Note = _nothing) -> Tensor:
    """Return the logarithm of the sum, over all enumerated sites, of the product of factors: [].

    What is noted of a site is its posterior, unnormalized, given those that are noted after it.

    Raises:
        EnumerationError: if that is exponential in the size of a plate; if sites that are
            multiplied count differently often.
    """
    left = [whole(factor) for factor in summed_out(factors, factors, note)]
    return torch.stack(left).sum() if left else torch.zeros(())


def whole(factor: LogFactor) -> Tensor:
    """Return the logarithm of a factor of repetitions alone: of their product, as it counts: []."""
    return over_all_but(factor, frozenset()).log


def over_all_but(factor: LogFactor, kept: frozenset[Repetition]) -> Table:
    """Return the product of a factor over its other repetitions, as it counts within those kept."""
    return _scaled(_over(factor, factor.repetitions - kept))


def summed_out(
    factors: Sequence[LogFactor], own: Iterable[LogFactor], note: Note = _nothing
) -> list[LogFactor]:
    """Return factors whose product is that of some, summed over the sites whose own ones are given.

    What each of them leaves is multiplied over no more repetitions than have to be.

    Raises:
        EnumerationError: if that is exponential in the size of a plate; if sites that are
            multiplied count differently often.
    """
    owners = {factor.own: factor for factor in own if factor.own is not None}
    places = {f.own: f.repetitions for f in factors if f.own is not None}
    places |= {variable: owner.repetitions for variable, owner in owners.items()}
    pending, done = list(factors), list[LogFactor]()
    while pending:
        deepest = max(pending, key=lambda factor: len(factor.repetitions)).repetitions
        here = [factor for factor in pending if factor.repetitions == deepest]
        pending = [factor for factor in pending if factor.repetitions != deepest]
        local = {v: owner for v, owner in owners.items() if places[v] == deepest}
        # Sites that do not count once go first: afterwards, what they were in may count once.
        scaled = {v: owner for v, owner in local.items() if not is_same_scale(owner.scale, 1.0)}
        for group in (scaled, {v: local[v] for v in local if v not in scaled}):
            here = summed_each(here, group, note)
        for factor in here:
            if owners.keys() & factor.variables:
                pending.append(_multiplied(factor, owners, places))
            else:
                done.append(factor)
    return done


def _multiplied(
    factor: LogFactor, owners: Mapping[Variable, LogFactor], places: Places
) -> LogFactor:
    """Return the product of a factor over the repetitions of none that is to be summed out."""
    summed = [variable for variable in factor.variables if variable in owners]
    around = frozenset[Repetition]().union(*(places[v] for v in summed))
    outer = factor.repetitions - around
    kept = (v for v in factor.variables if v not in owners)
    if not around < factor.repetitions or any(places[v] & outer for v in kept):
        sites = ", ".join(map(str, factor.variables))
        inner = ", ".join(str(sorted(map(str, places[v]))) for v in factor.variables)
        raise EnumerationError(
            f"site {factor.name!r} joins the enumerated sites {sites}, whose repetitions are along "
            f"{inner}, in each of {sorted(map(str, factor.repetitions))}: to sum them out is "
            "exponential in the size of a plate (Obermeyer et al. 2019, section 3.3); put a site "
            "within both plates between them, run one of the plates in turn, or draw one of the "
            'sites: infer={"enumerate": False}'
        )
    return _over(factor, outer)


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


def summed_each(
    factors: Sequence[LogFactor], owners: Mapping[Variable, LogFactor], note: Note = _nothing
) -> list[LogFactor]:
    """Return factors whose product is, in each repetition, the sum over some variables.

    Raises:
        EnumerationError: if sites that are multiplied count differently often.
    """
    sizes = {axis: size for factor in factors for axis, size in factor.table.sizes.items()}
    steps = steps_of([frozenset(f.table.axes) for f in factors], sizes, list(owners))
    found = list(factors)
    for step in steps:
        joined = [found[number] for number in step.joined]
        owner = owners[step.variable]
        table = _product_of(joined, step.variable, owner)
        note(step.variable, table)
        found.append(replace(owner, table=summed(table, step.variable)))
    spent = {number for step in steps for number in step.joined}
    return [factor for number, factor in enumerate(found) if number not in spent]


def _product_of(factors: Sequence[LogFactor], variable: Variable, owner: LogFactor) -> Table:
    """Return the product of the factors that depend on a variable, each as often as it counts."""
    tables: list[Table] = []
    for factor in factors:
        is_same = is_same_scale(factor.scale, owner.scale)
        if not (is_same or is_same_scale(owner.scale, 1.0)) or not _is_within_same_plates(
            factor, owner
        ):
            raise EnumerationError(
                f"to sum out the enumerated site {variable}, sites {owner.name!r} and "
                f"{factor.name!r} are multiplied, but their scales differ, and it does not count "
                "once either, so that how often the sum counts is unclear; put all three within "
                "the same an.handlers.scale and the same subsampled plates"
            )
        tables.append(factor.table if is_same else _scaled(factor))
    tables.sort(key=lambda table: table.log.numel())
    return product(tables)


def _is_within_same_plates(first: LogFactor, second: LogFactor) -> bool:
    places = first.repetitions | second.repetitions
    return all(first.plate_scales.get(p, 1.0) == second.plate_scales.get(p, 1.0) for p in places)
