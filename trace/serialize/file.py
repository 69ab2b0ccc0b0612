"""Files of traces: one trace as plain data, written and read as a whole.

A file is what ``torch.save`` writes of dictionaries, lists, texts, numbers and tensors. It holds no
code, `load` runs none, and what was damaged on the way is found by a digest.
"""

import errno
import io
import os
import secrets
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import torch

from ancestral.provenance.algebra.provenance import Provenance, Universe
from ancestral.trace.graph.graph import Vertex
from ancestral.trace.nodes.node import Node
from ancestral.trace.serialize.nodes import (
    Reader,
    Writer,
    location,
    location_of,
    sources_behind,
    sources_of,
)
from ancestral.trace.serialize.plain import Plain, StoredTraceError, digest, field, items, plain

FORMAT, VERSION = "trace of ancestral", 3
R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class Content:
    """What is stored of a trace: all nodes, the names of the hidden ones, the terms of its loss."""

    universe: Universe
    nodes: tuple[Node, ...]
    hidden: frozenset[str]
    costs: tuple[tuple[Vertex, Provenance], ...]


def to_dict(content: Content) -> dict[str, Plain]:
    """Return a trace as plain data.

    Raises:
        SiteError: if a node cannot be stored.
    """
    found = sources_of(content.nodes)
    for _, provenance in content.costs:
        found |= sources_behind(provenance)
    writer = Writer(content.universe, found)
    data: dict[str, Plain] = {
        "nodes": [writer.node(node) for node in content.nodes],
        "hidden": sorted(content.hidden),
        "costs": [
            {**_written(vertex), "provenance": writer.provenance(provenance)}
            for vertex, provenance in content.costs
        ],
        "sources": writer.sources(),
    }
    written: dict[str, Plain] = plain(data, lambda tensor: tensor)  # no second copy of it
    return written


def from_dict(data: Plain) -> Content:
    """Return the trace of plain data.

    Raises:
        StoredTraceError: if it is none.
    """
    return _understood(lambda: _content(data), "this")


def save(content: Content, path: str | Path) -> None:
    """Write a trace into a file, which takes the place of another once it is whole."""
    data = to_dict(content)
    whole = {"format": FORMAT, "version": VERSION, "digest": digest(data), "trace": data}
    with replacing(Path(path)) as file:
        torch.save(whole, file)


def load(path: str | Path) -> Content:
    """Return the trace of a file.

    Raises:
        StoredTraceError: if the file holds no trace, or was damaged.
        OSError: if it cannot be read.
    """
    found = Path(path).read_bytes()
    return _understood(lambda: _content(_checked(found)), str(path))


def _checked(found: bytes) -> Plain:
    try:
        whole = torch.load(io.BytesIO(found), map_location="cpu", weights_only=True)
    except Exception as error:
        # Without the text of torch, which tells how to run the code that a file may hold.
        raise StoredTraceError(
            "it was not written by Trace.save, or was damaged, or holds more than plain data "
            f"({type(error).__name__})"
        ) from None
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise StoredTraceError("it was not written by Trace.save")
    if whole.get("version") != VERSION:
        raise StoredTraceError(
            f"its version is {whole.get('version')!r}; expected {VERSION}, the one that this "
            "version of ancestral writes; read it with the ancestral that wrote it"
        )
    data = field(whole, "trace", dict)
    if digest(data) != whole.get("digest"):
        raise StoredTraceError("it was damaged: its content does not fit its digest")
    return data


def _understood(read: Callable[[], R], file: str) -> R:
    """Return what is read; whatever goes wrong with data from elsewhere is wrong with the data."""
    try:
        return read()
    except StoredTraceError as error:
        raise StoredTraceError(error.problem, file) from error.__cause__
    except Exception as error:
        raise StoredTraceError(f"{type(error).__name__}: {error}", file) from error


def _content(data: Plain) -> Content:
    universe = Universe()
    reader = Reader(data, universe)
    nodes = tuple(reader.node(item) for item in items(data, "nodes", dict))
    hidden = frozenset(items(data, "hidden", str))
    names = [node.name for node in nodes]
    if len(set(names)) < len(names):
        raise StoredTraceError("two nodes have one name")
    costs = tuple(
        (_vertex(item), reader.claimed(field(item, "provenance", dict)))
        for item in items(data, "costs", dict)
    )
    universe.state = "settled"  # the values are constants to whoever goes on with them
    return Content(universe, nodes, hidden, costs)


def _written(vertex: Vertex) -> dict[str, Plain]:
    return {
        "name": vertex.name,
        "kind": vertex.kind,
        "distribution": vertex.distribution,
        "shape": list(vertex.shape),
        "location": location(vertex.location),
        "module_path": vertex.module_path,
    }


def _vertex(data: Plain) -> Vertex:
    return Vertex(
        field(data, "name", str),
        field(data, "kind", str),
        field(data, "distribution", str),
        tuple(items(data, "shape", int)),
        location_of(field(data, "location", dict)),
        field(data, "module_path", str),
    )


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """Open a new file that takes the place of `path` if the block succeeds.

    Raises:
        OSError: with the path that was asked for, if nothing can be written there.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    # Not tempfile, whose files only their owner may read.
    fresh = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        if not target.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, f"there is no folder {target.parent}")
        if target.exists():
            if not target.is_file():
                raise OSError(errno.EISDIR if target.is_dir() else errno.EINVAL, "it is no file")
            target.open("r+b").close()  # raises if it must not be written
        try:
            with fresh.open("xb") as file:
                yield file
            if target.exists():
                shutil.copymode(target, fresh)  # what only its owner may read stays that
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(target), str(fresh)):
            raise  # of something else that the block did
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error
