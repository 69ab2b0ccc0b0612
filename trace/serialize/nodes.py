"""Stored nodes: the steps of a trace and their provenance, as plain data and back."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ancestral.provenance.algebra.alignment import Alignment, Dim
from ancestral.provenance.algebra.claims import NAMED, claimed
from ancestral.provenance.algebra.provenance import Entries, Provenance, Source, Universe
from ancestral.provenance.tensor.tensor import alias, attach, provenance
from ancestral.trace.context.errors import SiteError
from ancestral.trace.context.place import Location
from ancestral.trace.nodes.node import ModifiedParameterError, Node, NoDensityError
from ancestral.trace.nodes.plate import Plate
from ancestral.trace.serialize.distributions import loaded, stored
from ancestral.trace.serialize.plain import (
    NotPlainError,
    Plain,
    StoredTraceError,
    as_kind,
    field,
    items,
    kept,
    plain_only,
)

_FLAGS = ("is_observed", "is_reparameterized", "is_learned", "is_given", "is_declared")
_TYPES = ("sample", "param", "plate", "deterministic", "cost")


class EnumeratedNodeError(SiteError):
    """A trace is to be stored whose sites are enumerated."""

    def __init__(self, node: Node) -> None:
        """Name the site and its line."""
        super().__init__(
            f"site {node.name!r} ({node.location}) is enumerated, or depends on one that is, and "
            "a stored trace holds one value of each site; store the trace of a run that draws them"
        )


class UnstorableNodeError(SiteError):
    """A trace is to be stored of which a node has what no file can hold."""

    def __init__(self, node: Node, problem: str) -> None:
        """Name the node and its line, and say what is wrong."""
        super().__init__(
            f"site {node.name!r} ({node.location}) cannot be stored: {problem}; make its tensors "
            "dense, with to_dense(), on a device that has memory"
        )


class Writer:
    """Writes nodes, and numbers the sources that they depend on."""

    def __init__(self, universe: Universe, found: set[Source]) -> None:
        """Take the sources, which are written in the order in which they were met."""
        last = len(universe.sources)
        order = sorted(found, key=lambda s: universe.sources.get(s, last))
        self._numbers = {source: number for number, source in enumerate(order)}

    def sources(self) -> list[Plain]:
        """Return the sources."""
        return [
            {
                "name": source.name,
                "shape": list(source.shape),
                "is_known": source.is_known,
                "is_named": source.is_named,
                "stands_for": self.provenance(source.stands_for),
            }
            for source in self._numbers
        ]

    def node(self, node: Node) -> dict[str, Plain]:
        """Return a node.

        Raises:
            EnumeratedNodeError: if it takes all its values at once, or depends on one that does.
            UnstorableNodeError: if its value is no tensor of numbers side by side.
        """
        if node.enumeration is not None:
            raise EnumeratedNodeError(node)
        try:
            return self._written(node)
        except NotPlainError as error:
            raise UnstorableNodeError(node, str(error)) from error

    def _written(self, node: Node) -> dict[str, Plain]:
        flaw = "a parameter was written into after the draw" if node.is_modified else ""
        fn = None if node.fn is None else stored(node.fn, lambda: _density(node), flaw)
        flags: dict[str, Plain] = {flag: getattr(node, flag) for flag in _FLAGS}
        return flags | {
            "name": node.name,
            "type": node.type,
            "fn": fn,
            "value": kept(node.value),
            "shape": list(node.shape),
            "source": self._numbers[node.source],
            "param_provenance": self.provenance(node.param_provenance),
            "held": self.provenance(node.held),
            "control": self.provenance(node.control),
            "location": location(node.location),
            "module_path": node.module_path,
            "scale": self.weight(node.scale),
            "mask": self.weight(node.mask),
            "plates": [_plate(plate) for plate in node.cond_indep_stack],
            "grouped": node.event_dims,
            "infer": plain_only(node.infer),
        }

    def provenance(self, found: Provenance | None) -> Plain:
        """Return a provenance: its shape, and how its elements depend on those of each source."""
        if found is None:
            return None
        claims = [
            {"source": self._numbers[source], **_alignment(alignment)}
            for source, alignments in claimed(found, NAMED).items()
            for alignment in alignments
        ]
        return {"shape": list(found.shape), "claims": claims}

    def weight(self, found: Tensor | float | None) -> Plain:
        """Return a mask or a scale, of a tensor with what it depends on."""
        if not isinstance(found, Tensor):
            return None if found is None else float(found)
        return {"tensor": kept(found), "provenance": self.provenance(provenance(found))}


class Reader:
    """Makes nodes of what was written, in a universe that nothing can be added to."""

    def __init__(self, data: Plain, universe: Universe) -> None:
        """Take the sources."""
        self._universe = universe
        self._sources: list[Source] = []
        for item in items(data, "sources", dict):  # what one stands for comes before it
            source = Source(
                field(item, "name", str),
                tuple(items(item, "shape", int)),
                universe,
                self.provenance(field(item, "stands_for", object)),
                is_known=field(item, "is_known", bool),
                is_named=field(item, "is_named", bool),
            )
            universe.number(source)
            self._sources.append(source)

    def node(self, data: Plain) -> Node:
        """Return a node.

        Raises:
            StoredTraceError: if it is none.
        """
        value = field(data, "value", Tensor)
        kind = field(data, "type", str)
        if kind not in _TYPES:
            raise StoredTraceError(f"there is no node of type {kind!r}")
        flags: dict[str, Any] = {flag: field(data, flag, bool) for flag in _FLAGS}
        scale = data.get("scale")
        return Node(
            name=field(data, "name", str),
            type=kind,
            fn=None if data.get("fn") is None else loaded(field(data, "fn", dict), value),
            value=value,
            shape=tuple(items(data, "shape", int)),
            source=self._source(data),
            param_provenance=self.provenance(field(data, "param_provenance", object)),
            held=self.provenance(field(data, "held", object)),
            control=self.provenance(field(data, "control", object)),
            location=location_of(field(data, "location", dict)),
            module_path=field(data, "module_path", str),
            scale=self.weight(scale) if isinstance(scale, dict) else field(data, "scale", float),
            mask=None if data.get("mask") is None else self.weight(field(data, "mask", dict)),
            cond_indep_stack=tuple(_plate_of(item) for item in items(data, "plates", dict)),
            event_dims=field(data, "grouped", int),
            infer=field(data, "infer", dict),
            **flags,
        )

    def provenance(self, data: Plain) -> Provenance | None:
        """Return a provenance, None for None.

        Raises:
            StoredTraceError: if it is none.
        """
        return None if data is None else self.claimed(data)

    def weight(self, data: Plain) -> Tensor:
        """Return a mask or a scale that is a tensor, with what it depends on.

        Raises:
            StoredTraceError: if it is none.
        """
        found = alias(field(data, "tensor", Tensor))
        depends = self.provenance(field(data, "provenance", object))
        return found if depends is None else attach(found, depends)

    def claimed(self, data: Plain) -> Provenance:
        """Return a provenance.

        Raises:
            StoredTraceError: if it is none.
        """
        shape = tuple(items(data, "shape", int))
        entries: Entries = {}
        for claim in items(data, "claims", dict):
            alignment = _alignment_of(claim)
            if len(alignment.dims) != len(shape):
                raise StoredTraceError(f"an alignment of {len(shape)} dimensions has others")
            entries[alignment] = entries.get(alignment, frozenset()) | {self._source(claim)}
        if not entries:
            raise StoredTraceError("a dependency has no source")
        return self._universe.intern(shape, entries)

    def _source(self, data: Plain) -> Source:
        number = field(data, "source", int)
        if not 0 <= number < len(self._sources):
            raise StoredTraceError(f"there is no source of number {number}")
        return self._sources[number]


def sources_of(nodes: Sequence[Node]) -> set[Source]:
    """Return the sources that nodes are, and depend on."""
    found = {node.source for node in nodes}
    for node in nodes:
        weights = (provenance(node.mask), provenance(node.scale))
        for part in (node.param_provenance, node.held, node.control, *weights):
            found |= sources_behind(part)
        found |= sources_behind(node.source.stands_for)
    return found


def sources_behind(found: Provenance | None) -> set[Source]:
    """Return the sources that a provenance names, and those that named values stand for."""
    met = set() if found is None else set(claimed(found, NAMED))
    for source in list(met):
        met |= sources_behind(source.stands_for)
    return met


def location(where: Location) -> dict[str, Plain]:
    """Return a place in the source as plain data."""
    return {"filename": where.filename, "line": where.line, "function": where.function}


def location_of(data: Plain) -> Location:
    """Return the place in the source that was written.

    Raises:
        StoredTraceError: if it is none.
    """
    filename, function = field(data, "filename", str), field(data, "function", str)
    return Location(filename, field(data, "line", int), function)


def _density(node: Node) -> Tensor | None:
    try:
        return node.elementwise_log_prob
    except (NoDensityError, ModifiedParameterError):
        return None


def _plate(plate: Plate) -> dict[str, Plain]:
    return {
        "name": plate.name,
        "size": plate.size,
        "subsample_size": plate.subsample_size,
        "dim": plate.dim,
        "turn": plate.turn,
        "serial": plate.serial,
        "indices": None if plate.indices is None else kept(plate.indices),
    }


def _plate_of(data: Plain) -> Plate:
    return Plate(
        field(data, "name", str),
        field(data, "size", int),
        field(data, "subsample_size", int),
        None if data.get("dim") is None else field(data, "dim", int),
        None if data.get("turn") is None else field(data, "turn", int),
        field(data, "serial", int),
        None if data.get("indices") is None else field(data, "indices", Tensor),
    )


def _alignment(alignment: Alignment) -> dict[str, Plain]:
    dims = [dim if isinstance(dim, int) else [list(part) for part in dim] for dim in alignment.dims]
    here, there = ([list(window) for window in w] for w in (alignment.here, alignment.there))
    return {"dims": dims, "here": here, "there": there}


def _alignment_of(data: Plain) -> Alignment:
    dims = tuple(_dim_of(dim) for dim in field(data, "dims", list))
    here, there = (
        tuple(_numbers(window, 3) for window in items(data, key, list)) for key in ("here", "there")
    )
    return Alignment(dims, here, there)  # type: ignore[arg-type] # three numbers each


def _dim_of(data: Plain) -> Dim:
    if isinstance(data, list):
        return tuple((d, size) for d, size in (_numbers(part, 2) for part in data))
    return as_kind(data, int, "dims")


def _numbers(data: Plain, size: int) -> tuple[int, ...]:
    numbers = tuple(as_kind(item, int, "alignment") for item in as_kind(data, list, "alignment"))
    if len(numbers) != size:
        raise StoredTraceError(f"an alignment has {len(numbers)} numbers in place of {size}")
    return numbers
