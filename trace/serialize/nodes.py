"""Stored nodes: the steps of a trace and their provenance, as plain data and back.

An object of ours is a dictionary of its attributes, read back by what the class declares them to
be. A source is a number, that of its row in a list of them.
"""

from contextlib import suppress
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from torch import Tensor
from torch.distributions import Distribution

from ancestral.provenance.algebra.alignment import Alignment, Shape
from ancestral.provenance.algebra.factors import Factor
from ancestral.provenance.algebra.provenance import Entries, Provenance, Source, Universe
from ancestral.provenance.algebra.source_alignments import NAMED, claimed
from ancestral.provenance.tensor.tensor import alias, attach, provenance
from ancestral.trace.context.errors import SiteError
from ancestral.trace.context.place import Location
from ancestral.trace.graph.graph import Vertex
from ancestral.trace.nodes.distribution_params import factorized
from ancestral.trace.nodes.node import Node
from ancestral.trace.nodes.plate_frame import Plate
from ancestral.trace.serialize.distributions import Unloaded, loaded, stored
from ancestral.trace.serialize.plain import (
    NotPlainError,
    Plain,
    StoredTraceError,
    as_kind,
    plain,
    plain_only,
    unreadable,
)


@dataclass(frozen=True, eq=False)
class Content:
    """What is stored of a trace: all nodes, the names of the hidden ones, the terms of its loss."""

    universe: Universe
    nodes: tuple[Node, ...]
    hidden: tuple[str, ...]
    costs: tuple[tuple[Vertex, Provenance], ...]


_TYPES = ("sample", "param", "plate", "deterministic", "cost")
_LEFT_OUT = {
    *("universe", "versions", "gate", "enumeration", "is_checked"),
    # Sources that stand for others, but for named values, are followed to those others.
    *("is_decision", "kink_of", "is_confined"),
}
_STORED: dict[Any, dict[str, Any]] = {
    record: {name: kind for name, kind in get_type_hints(record).items() if name not in _LEFT_OUT}
    for record in (Alignment, Content, Factor, Location, Node, Plate, Source, Vertex)
}
"""The types of the attributes that are stored, by name, of each class."""


def to_dict(content: Content) -> dict[str, Plain]:
    """Return a trace as plain data.

    Raises:
        SiteError: if a node takes all its values at once, or depends on such a node; if the value
            of one is no tensor of numbers side by side.
    """
    writer = _Writer()
    return writer.record(content, sources=writer.sources)


class _Writer:
    """Writes what a trace holds, and numbers the sources that it depends on."""

    def __init__(self) -> None:
        self.sources: list[Plain] = []
        self._numbers: dict[Source, int] = {}

    def record(self, record: Any, /, **others: Plain) -> dict[str, Plain]:
        """Return an object of ours, given those of its attributes that are stored otherwise."""
        names = [name for name in _STORED[type(record)] if name not in others]
        return {name: self._written(getattr(record, name)) for name in names} | others

    def _written(self, value: object) -> Plain:
        if isinstance(value, Node):
            return self._node(value)
        if isinstance(value, Source):
            return self._number(value)
        if isinstance(value, Provenance):
            return self._provenance(value)
        if type(value) in _STORED:
            return self.record(value)
        if isinstance(value, tuple):
            return [self._written(item) for item in value]
        found = provenance(value)
        if found is None:
            return plain(value)
        return {"tensor": plain(value), "provenance": self._provenance(found)}

    def _node(self, node: Node) -> dict[str, Plain]:
        if node.enumeration is not None:
            raise SiteError(
                f"site {node.name!r} ({node.location}) is enumerated, or depends on one that is, "
                "and a stored trace holds one value of each site; store the trace of a run that "
                "draws them"
            )
        try:
            scale = node.scale if isinstance(node.scale, Tensor) else float(node.scale)
            return self.record(
                node,
                fn=stored(node),
                value=plain(node.value),
                scale=self._written(scale),
                infer=plain_only(node.infer),
            )
        except NotPlainError as error:
            raise SiteError(
                f"site {node.name!r} ({node.location}) cannot be stored: {error}; make its tensors "
                "dense, with to_dense(), on a device that has memory"
            ) from error

    def _provenance(self, found: Provenance) -> dict[str, Plain]:
        """Return its shape, and how its elements depend on those of each source."""
        claims = [
            (alignment, source)
            for source, alignments in claimed(found, NAMED).items()
            for alignment in alignments
        ]
        return {"shape": list(found.shape), "claims": self._written(tuple(claims))}

    def _number(self, source: Source) -> int:
        pending = [] if source in self._numbers else [source]
        while pending:  # without recursion: a chain of named values may be long
            last = pending[-1]
            behind = () if last.stands_for is None else claimed(last.stands_for, NAMED)
            if unmet := [each for each in behind if each not in self._numbers]:
                pending += unmet
            elif pending.pop() not in self._numbers:
                self._numbers[last] = len(self.sources)
                self.sources.append(self.record(last))
        return self._numbers[source]


def from_dict(data: Plain, file: str = "this") -> Content:
    """Return the trace of plain data, which may be that of a file.

    Raises:
        StoredTraceError: if it is none.
    """
    try:
        return _content(as_kind(data, dict, "it"))
    except StoredTraceError as error:
        raise unreadable(error.problem, file) from error.__cause__
    except KeyError as error:
        raise unreadable(f"{error} is missing", file) from error
    except Exception as error:  # whatever goes wrong with data is wrong with the data
        raise unreadable(f"{type(error).__name__}: {error}", file) from error


def _content(data: dict[str, Plain]) -> Content:
    reader = _Reader(as_kind(data["sources"], list, "sources"))
    content: Content = reader.record(Content, data, universe=reader.universe)
    if len({node.name for node in content.nodes}) < len(content.nodes):
        raise unreadable("two nodes have one name")
    for node in content.nodes:
        if node.type not in _TYPES:
            raise unreadable(f"there is no node of type {node.type!r}")
        if node.fn is not None and isinstance(fn := factorized(node.fn), Unloaded):
            fn.value = node.value
    reader.universe.become("settled")  # the values are constants to whoever goes on with them
    return content


class _Reader:
    """Makes objects of what was written, in a new universe."""

    def __init__(self, sources: list[Plain]) -> None:
        self.universe = Universe()
        self._sources: list[Source] = []
        for row in sources:
            source: Source = self.record(Source, row, universe=self.universe)
            self.universe.number(source)
            self._sources.append(source)

    def record(self, record: Any, data: dict[str, Plain], **others: Any) -> Any:
        """Return an object of ours, given those of its attributes that are not stored."""
        for name, kind in _STORED[record].items():
            others[name] = self._read(kind, data[name], name)
        return record(**others)

    def _read(self, kind: Any, data: Plain, key: str) -> Any:
        """Return what plain data is, given its type, and what it is called."""
        if isinstance(kind, UnionType):
            if data is None and NoneType in get_args(kind):
                return None
            kind, *others = (each for each in get_args(kind) if each is not NoneType)
            for other in others:
                with suppress(StoredTraceError):
                    return self._read(other, data, key)
        if get_origin(kind) is tuple:
            kinds, items = get_args(kind), as_kind(data, list, key)
            kinds = kinds[:1] * len(items) if kinds[-1] is ... else kinds
            return tuple(self._read(k, item, key) for k, item in zip(kinds, items, strict=True))
        if kind is Source:
            return self._source(as_kind(data, int, key))
        if kind is Provenance:
            return self._provenance(as_kind(data, dict, key))
        if kind is Distribution:
            return loaded(data)
        if kind is Tensor and isinstance(data, dict):
            tensor = alias(as_kind(data["tensor"], Tensor, key))
            return attach(tensor, self._read(Provenance, data["provenance"], key))
        if kind in _STORED:
            return self.record(kind, as_kind(data, dict, key))
        return as_kind(data, get_origin(kind) or kind, key)

    def _provenance(self, data: dict[str, Plain]) -> Provenance:
        shape: Shape = self._read(Shape, data["shape"], "shape")
        entries: Entries = {}
        claims = self._read(tuple[tuple[Alignment, Source], ...], data["claims"], "claims")
        for alignment, source in claims:
            if len(alignment.dims) != len(shape):
                raise unreadable(f"an alignment of {len(shape)} dimensions has others")
            entries[alignment] = entries.get(alignment, frozenset()) | {source}
        if not entries:
            raise unreadable("a dependency has no source")
        return self.universe.intern(shape, entries)

    def _source(self, number: int) -> Source:
        if not 0 <= number < len(self._sources):
            raise unreadable(f"there is no source of number {number}")
        return self._sources[number]
