"""Clusters: frames that a picture nests around its nodes, modules and plates.

Frames can only be drawn where each two are nested or apart. Larger plates come first, a plate that
overlaps one before is none, and its sites say in words that they are in it. A module that a plate
cuts is drawn on both sides of the cut.

>>> from ancestral.tools.render.fold_loops import unfolded
>>> from ancestral.trace.graph.graph import Graph
>>> boxes(unfolded(Graph()), ()).paths
()
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

from ancestral.tools.render.fold_loops import Group, Sketch
from ancestral.trace.graph.find_plates import Extent


class Box(NamedTuple):
    """A frame: a part of a module's path, or a plate."""

    name: str
    plate: Extent | None = None


@dataclass(frozen=True)
class Boxes:
    """The frames around each group of a sketch, outermost first, and the plates that have none."""

    paths: tuple[tuple[Box, ...], ...]
    undrawn: tuple[Extent, ...]


def boxes(sketch: Sketch, plates: Sequence[Extent]) -> Boxes:
    """Return the frames around each group of a sketch.

    A plate that nobody declared is worth a frame if it holds two groups.
    """
    places = {m.name: place for place, group in enumerate(sketch.groups) for m in group.members}
    held = {plate: _held(plate, sketch, places) for plate in plates}
    shown = [plate for plate in plates if len(held[plate]) > (0 if plate.is_declared else 1)]
    around: list[tuple[Extent, ...]] = [() for _ in sketch.groups]
    drawn: list[Extent] = []
    for plate in sorted(shown, key=lambda plate: -len(held[plate])):
        if len({around[place] for place in held[plate]}) == 1:
            drawn.append(plate)
            for place in held[plate]:
                around[place] = (*around[place], plate)
    shared = {
        plate: len(common(_modules(sketch.groups[place]) for place in held[plate]))
        for plate in drawn
    }
    return Boxes(
        tuple(
            _path(_modules(group), around[place], shared)
            for place, group in enumerate(sketch.groups)
        ),
        tuple(plate for plate in shown if plate not in drawn),
    )


def common(paths: Iterable[Sequence[Box]]) -> tuple[Box, ...]:
    """Return what all paths begin with."""
    return tuple(p[0] for p in takewhile(lambda p: len(set(p)) == 1, zip(*paths, strict=False)))


def _held(plate: Extent, sketch: Sketch, places: dict[str, int]) -> list[int]:
    """Return the groups that are in a plate with all of their members."""
    names = set(plate.sites)
    found = dict.fromkeys(places[name] for name in plate.sites if name in places)
    return [place for place in found if all(m.name in names for m in sketch.groups[place].members)]


def _modules(group: Group) -> tuple[Box, ...]:
    path = group.members[0].module_path
    return tuple(map(Box, path.split("."))) if path else ()


def _path(
    modules: tuple[Box, ...], plates: tuple[Extent, ...], shared: dict[Extent, int]
) -> tuple[Box, ...]:
    """Return modules and plates nested: a plate within the modules that all of it is in."""
    path, start = [], 0
    for plate in plates:
        path += [*modules[start : shared[plate]], Box(plate.name, plate)]
        start = shared[plate]
    return (*path, *modules[start:])
