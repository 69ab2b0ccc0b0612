"""Facts: what there is to say of a node of a picture, in its label and beside it."""

import linecache
from collections.abc import Mapping, Sequence
from pathlib import PurePath

from ancestral.tools.render.fold_loops import Group
from ancestral.tools.render.looks import LOOKS
from ancestral.trace.graph.find_plates import Extent
from ancestral.trace.graph.graph import Graph


def visible(text: str) -> str:
    r"""Return a text with escapes in place of what no font shows and XML forbids.

    >>> print(visible("tab\there"), visible(""))
    tab\there ''
    """
    if not text.strip():
        return repr(text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def facts_of(group: Group, plates: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return what there is to say of a node: what it is, and its plates."""
    first = group.members[0]
    said = (
        ", ".join(title_facts(group)),
        several(group),
        LOOKS[first.kind].meaning,
        *plates.get(first.name, ()),
    )
    return tuple(line for line in said if line)


def title_facts(group: Group) -> list[str]:
    """Return what stands below the name of a node: its distribution, its shape and its share."""
    first = group.members[0].distribution, _shape(group), _percent(share_of(group))
    return [visible(fact) for fact in first if fact]


def several(group: Group) -> str:
    """Return how many draws a node stands for, if it is more than one."""
    look = LOOKS[group.members[0].kind]
    return f"{len(group.members)} {look.plural}" if len(group.members) > 1 else ""


def within(plates: Sequence[Extent]) -> dict[str, list[str]]:
    """Return by site what to say of the plates that it is in."""
    found: dict[str, list[str]] = {}
    for plate in plates:
        for site, dim in plate.dims:
            how = "in turn" if dim is None else f"dimension {dim}"
            name = f"plate {visible(plate.name)}" if plate.is_declared else plate.name
            found.setdefault(site, []).append(f"{how}: {name}")
    return found


def _shape(group: Group) -> str:
    shapes = {vertex.shape for vertex in group.members}
    if group.members[0].kind == "param" and group.members[0].distribution:
        return ""  # of several tensors
    if len(shapes) > 1:
        return "various shapes"
    return str(list(group.members[0].shape)) if group.members[0].shape else "scalar"


def source_of(group: Group) -> tuple[str, str]:
    """Return where a node is drawn: the place, and the line of the source."""
    place = group.members[0].location
    where = f"{PurePath(place.filename).name}:{place.line} in {place.function}"
    return where, linecache.getline(place.filename, place.line).strip()[:120]


def share_of(group: Group) -> float | None:
    """Return the share of the draws of a node together, None where it has none."""
    known = [member.share for member in group.members if member.share is not None]
    return sum(known) if known else None


def elsewhere(graph: Graph) -> str:
    """Say what part of the variance lies at sites that a graph does not have, if it is coloured."""
    known = [vertex.share for vertex in graph.vertices if vertex.share is not None]
    left = 1 - sum(known)
    is_part = bool(known) and left >= 0.005
    return f"{_percent(left)} lies at sites that are not here" if is_part else ""


def _percent(share: float | None) -> str:
    if share is None:
        return ""
    number = (
        "under 1%" if 0 < share < 0.005 else "over 99%" if 0.995 <= share < 1 else f"{share:.0%}"
    )
    return f"{number} of the variance"
