"""Plate checks: independence of the repetitions of a plate, checked as sites are recorded.

Element n of a site in a plate may depend, of the sites in the same plate, on elements n alone,
directly or through any others. For each source the ledger keeps the dimensions along which it
stands apart: those that index the plate by every path from a site in it. One step composes with
what is known of the parents, so that a site costs as much as it has direct parents.

Repetitions that come in turn have no dimension; there the number of the turn takes its place.
"""

from collections.abc import Iterator
from typing import NamedTuple

from ancestral.provenance.algebra.alignment_loss import mixes_of, running
from ancestral.provenance.algebra.provenance import Provenance, Source
from ancestral.trace.graph.find_plates import kept
from ancestral.trace.nodes.node import Node, place_in
from ancestral.trace.nodes.plate_frame import Plate, PlateError, is_same


def mixed_by(provenance: Provenance, source: Source, dim: int) -> str:
    """Return the op and the line that mixed dimension `dim` of a source, "" where unknown."""
    mixes = mixes_of(provenance, source, dim) or mixes_of(provenance, source, dim, running)
    return ", ".join(map(str, mixes))


def direct(found: Provenance | None) -> Iterator[tuple[Source, tuple[int, ...]]]:
    """Yield the sources that a provenance names, and which of theirs each dimension indexes."""
    for alignment, members in () if found is None else found.entries:
        dims = kept(alignment)
        for source in members:
            yield source, dims


class _Standing(NamedTuple):
    """How the values of a source stand to a plate that a member of it reaches them from.

    `apart` are their dimensions that index the plate, or the one turn that they are of; none where
    repetitions were mixed, by `mixed`.
    """

    apart: frozenset[int]
    member: Node
    mixed: str = ""


_Standings = dict[str, _Standing]  # by the name of the plate


class Ledger:
    """The plates of a recording, and how its sources stand to them."""

    def __init__(self) -> None:
        self._plates: dict[str, Plate] = {}
        self._standings: dict[Source, _Standings] = {}

    def admit(self, node: Node) -> None:
        """Check a node that is about to be recorded, and take it in.

        Raises:
            PlateError: if what a plate around it claims does not hold.
        """
        if not node.cond_indep_stack and not self._standings:
            return
        # What has no density may mix repetitions: of it, no plate claims anything.
        plates = [plate for plate in node.cond_indep_stack if plate.is_checked]
        if node.type == "deterministic":
            plates = []
        if not plates and not self._standings:
            return
        claimed = {plate.name: self._claimed(node, plate) for plate in plates}
        standings = self._inherited(node, claimed)
        for name, place in claimed.items():
            standings[name] = _Standing(frozenset((place,)), node)
        if standings:
            self._standings[node.source] = standings

    def apart(self, found: Provenance | None, name: str) -> frozenset[int] | None:
        """Return which dimensions of a tensor index a plate; None if nothing in it reaches it."""
        known: frozenset[int] | None = None
        for source, dims in direct(found):
            before = self._of(source).get(name)
            if before is not None:
                now = self._moved(before, name, dims).apart
                known = now if known is None else known & now
        return known

    def reaches(self, source: Source, name: str) -> bool:
        """Return whether anything in a plate is, or reaches, a source."""
        return name in self._of(source)

    def _claimed(self, node: Node, plate: Plate) -> int:
        """Return the dimension of a node's shape that a plate around it is, or the turn."""
        first = self._plates.setdefault(plate.name, plate)
        is_part = plate.subsample_size < plate.size
        if (
            (first.size, first.subsample_size) != (plate.size, plate.subsample_size)
            or (first.dim is None) is not (plate.dim is None)
            or (first.serial != plate.serial and (is_part or _is_reordered(first, plate)))
        ):
            raise PlateError(_reopened(node, first, plate))
        place = place_in(node, plate)
        if place is None:
            assert plate.turn is not None
            return plate.turn
        if place < 0 or node.shape[place] != plate.subsample_size:
            raise PlateError(_missized(node, plate))
        return place

    def _inherited(self, node: Node, claimed: dict[str, int]) -> _Standings:
        """Return how a node stands to the plates that it depends on; raise where it must not."""
        found: _Standings = {}
        for source, dims in direct(node.param_provenance):
            for name, before in self._of(source).items():
                now = self._moved(before, name, dims)
                if before.apart and not now.apart:
                    assert node.param_provenance is not None
                    now = now._replace(
                        mixed=mixed_by(node.param_provenance, source, min(before.apart))
                    )
                if name in claimed and self._is_broken(name, claimed[name], now):
                    plate = next(p for p in node.cond_indep_stack if p.name == name)
                    is_direct = before.member.source is source
                    through = None if is_direct else source
                    raise PlateError(_dependence(node, plate, before.member, through, now.mixed))
                found[name] = now if name not in found else _joined(found[name], now)
        return found

    def _moved(self, before: _Standing, name: str, dims: tuple[int, ...]) -> _Standing:
        """Return how what indexes a source with these dimensions stands to a plate."""
        plate = self._plates[name]
        if plate.dim is None or plate.subsample_size == 1:  # one element is all there is
            return before
        apart = frozenset(i for i, dim in enumerate(dims) if dim in before.apart)
        return before._replace(apart=apart)

    def _is_broken(self, name: str, place: int, standing: _Standing) -> bool:
        plate = self._plates[name]
        is_single = plate.dim is not None and plate.subsample_size == 1
        return place not in standing.apart and not is_single

    def _of(self, source: Source) -> _Standings:
        """Return how a source stands; decisions and junctions as what they stand for makes them."""
        pending = [source]
        while pending:
            top = pending[-1]
            if top in self._standings or top.stands_for is None:
                pending.pop()
                continue
            unknown = [
                s
                for s, _ in direct(top.stands_for)
                if s.stands_for is not None and s not in self._standings
            ]
            pending.extend(unknown)
            if not unknown:
                self._standings[top] = self._behind(top)
        return self._standings.get(source, {})

    def _behind(self, top: Source) -> _Standings:
        found: _Standings = {}
        for source, dims in direct(top.stands_for):
            for name, standing in self._standings.get(source, {}).items():
                now = self._moved(standing, name, () if top.is_decision else dims)
                found[name] = now if name not in found else _joined(found[name], now)
        return found


def _joined(a: _Standing, b: _Standing) -> _Standing:
    return a._replace(apart=a.apart & b.apart, mixed=a.mixed or b.mixed)


def _is_reordered(first: Plate, second: Plate) -> bool:
    assert first.indices is not None
    assert second.indices is not None
    return not is_same(first.indices, second.indices)


def _dependence(node: Node, plate: Plate, member: Node, through: Source | None, mixed: str) -> str:
    """Say that repetitions of a plate depend on each other, through what, and what mixed them."""
    way = "" if through is None else f", through {_source_named(through)}"
    step = f"; mixed by {mixed}" if mixed else ""
    if plate.dim is None:
        claim = f"it is of turn {plate.turn} and may depend on no other turn"
        found = f"it depends on {_named(member)}, of another turn"
        advice = "carry no drawn value from one turn to another, or leave the plate before"
    else:
        claim = (
            f"element n along dimension {plate.dim} (size {plate.subsample_size}) may depend "
            "on elements n alone of what is in the plate"
        )
        found = f"it depends on other elements of {_named(member)} too"
        advice = (
            "keep the repetitions apart (LayerNorm for BatchNorm, no mean, roll, cumsum or "
            "sort along the plate), or leave the plate before"
        )
    cure = (
        "decide with tensors (torch.where), end the taint with `with an.control_scope():`, or "
        "decide before the plate"
        if through is not None and through.is_decision
        else advice
    )
    return (
        f"{_named(node)} is within plate {plate.name!r}, where {claim}; but {found}"
        f"{way}{step}; {cure}"
    )


def _missized(node: Node, plate: Plate) -> str:
    """Say that a node within a plate has not the plate's size at the plate's dimension."""
    assert plate.dim is not None
    batch = node.shape[: len(node.shape) - node.event_dims]
    has = (
        f"dimension {plate.dim} has size {batch[plate.dim]}"
        if -plate.dim <= len(batch)
        else f"there is no dimension {plate.dim}"
    )
    words = "shape" if node.type == "cost" else "batch shape"
    return (
        f"{_named(node)} is within plate {plate.name!r}, so dimension {plate.dim} of its "
        f"{words}, counted from the right, must have size {plate.subsample_size}; its {words} "
        f"is {list(batch)}, where {has}; expand it, group the dimensions of one event with "
        "torch.distributions.Independent, or give the plate another dim"
    )


def _reopened(node: Node, first: Plate, second: Plate) -> str:
    """Say how two plates of one name differ."""
    if first.size != second.size or first.subsample_size != second.subsample_size:
        sizes = [f"size {p.size} and subsample_size {p.subsample_size}" for p in (first, second)]
        problem = f"was opened with {sizes[0]} before, and now with {sizes[1]}"
    elif (first.dim is None) is not (second.dim is None):
        problem = "was opened both with `with` and with `for`"
    else:
        problem = "has two subsamples; make the plate once, and open that again"
    return f"{_named(node)}: plate {first.name!r} {problem}"


def _named(node: Node) -> str:
    kind = "cost" if node.type == "cost" else "observation" if node.is_observed else "site"
    return f"{kind} {node.name!r} ({node.location})"


def _source_named(source: Source) -> str:
    if source.is_named:
        return f"the value {source.name!r}"
    return f"site {source.name!r}" if source.stands_for is None else source.name
