"""Clusters: frames that a picture nests around its nodes, modules and plates.

Frames can only be drawn where each two are nested or apart. A declared plate that overlaps another,
and a module that a plate cuts, is drawn in parts. A plate that was found, or a loop, has no frame
where it overlaps a declared one; the sites say in words that they are in it.

>>> from ancestral.tools.render.fold_loops import unfolded
>>> from ancestral.trace.graph.graph import Graph
>>> boxes(unfolded(Graph()), ()).paths
()
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
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


@dataclass(frozen=True)
class Inside:
    """What lies in a picture or in a frame of it: places among the groups, and inner frames."""

    places: tuple[int, ...]
    frames: tuple["Frame", ...]

    @property
    def everything(self) -> tuple[int, ...]:
        """All places, those in the inner frames too, in their order."""
        inner = (frame.inside.everything for frame in self.frames)
        return tuple(sorted(chain(self.places, *inner)))


@dataclass(frozen=True)
class Frame:
    """One frame that is drawn: the last boxes of a path, from `depth` on, as one."""

    name: str
    path: tuple[Box, ...]
    depth: int
    inside: Inside


def nested(paths: Sequence[tuple[Box, ...]]) -> Inside:
    """Return the frames of a picture, in which modules that hold one module only are one."""
    return _inside(paths, range(len(paths)), 0)


def _inside(paths: Sequence[tuple[Box, ...]], places: Iterable[int], depth: int) -> Inside:
    own: list[int] = []
    inner: dict[Box, list[int]] = {}
    for place in places:
        path = paths[place]
        (own if len(path) == depth else inner.setdefault(path[depth], [])).append(place)
    return Inside(tuple(own), tuple(_framed(paths, held, depth) for held in inner.values()))


def _framed(paths: Sequence[tuple[Box, ...]], held: Sequence[int], depth: int) -> Frame:
    path = common(paths[place] for place in held)
    if path[depth].plate is None:
        after = (i for i in range(depth, len(path)) if path[i].plate is not None)
        path = path[: next(after, len(path))]
    else:
        path = path[: depth + 1]
    return Frame(f"n{held[0]}-{depth}", path, depth, _inside(paths, held, len(path)))


def boxes(sketch: Sketch, plates: Sequence[Extent]) -> Boxes:
    """Return the frames around each group of a sketch.

    A plate that was found in the alignments is worth a frame if it holds two groups.
    """
    places = {m.name: place for place, group in enumerate(sketch.groups) for m in group.members}
    declared = [plate for plate in plates if plate.is_declared]
    found = [plate for plate in plates if not plate.is_declared]
    held = {plate: _held(plate, sketch, places) for plate in (*plates, *sketch.loops)}
    turns = [held[plate] for plate in declared if any(dim is None for _, dim in plate.dims)]
    loops = [loop for loop in sketch.loops if not any(held[loop] <= turn for turn in turns)]
    shown = [plate for plate in declared if held[plate]]
    for plate in (*loops, *(plate for plate in found if len(held[plate]) > 1)):
        if not any(_cross(held[plate], held[other]) for other in shown):
            shown.append(plate)
    around: list[tuple[Extent, ...]] = [() for _ in sketch.groups]
    drawn = sorted(shown, key=lambda plate: -len(held[plate]))
    for plate in drawn:
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
        tuple(plate for plate in found if len(held[plate]) > 1 and plate not in shown),
    )


def common(paths: Iterable[Sequence[Box]]) -> tuple[Box, ...]:
    """Return what all paths begin with."""
    return tuple(p[0] for p in takewhile(lambda p: len(set(p)) == 1, zip(*paths, strict=False)))


def _held(plate: Extent, sketch: Sketch, places: dict[str, int]) -> frozenset[int]:
    """Return the groups that are in a plate with all of their members."""
    names = set(plate.sites)
    found = {places[name] for name in plate.sites if name in places}
    return frozenset(
        place for place in found if all(m.name in names for m in sketch.groups[place].members)
    )


def _cross(a: frozenset[int], b: frozenset[int]) -> bool:
    """Return whether two frames would overlap."""
    return not (a.isdisjoint(b) or a <= b or b <= a)


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
