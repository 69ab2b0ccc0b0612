"""Enumeration dimensions: those of a block that index the values of sites, and their conflicts.

Element k along the dimension of an enumerated site is what happens if the site has its value k. So
whatever depends on it has to keep the values apart, and the repetitions of the site too; the
provenance of each parameter tells whether it does, and of which site a dimension stands for values.
"""

import itertools
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple, NoReturn

from torch import Tensor

from ancestral.provenance.algebra.alignment import Alignment, Shape
from ancestral.provenance.algebra.provenance import Provenance, Source
from ancestral.provenance.algebra.source_alignments import claimed
from ancestral.provenance.tensor.tensor import provenance, raw
from ancestral.trace.context.errors import EnumerationError
from ancestral.trace.context.stack import local
from ancestral.trace.enumeration.markov import Scope, is_in_sight, scope
from ancestral.trace.graph.find_plates import kept
from ancestral.trace.nodes.distribution_params import UNKNOWN, event_dims, parameters
from ancestral.trace.nodes.enum_dims import Enumeration, Variable
from ancestral.trace.recording.enumerated_log_prob import Spread
from ancestral.trace.recording.message import Message
from ancestral.trace.recording.plate_checks import mixed_by
from ancestral.trace.recording.trace import Trace

MOST_DIMS = 64  # that a tensor of torch can have


class Part(NamedTuple):
    """A tensor that a density is computed of: its provenance, and its batch if that is known."""

    found: Provenance | None
    batch: Shape | None


class Group(NamedTuple):
    """Tensors that are broadcast to one batch, and what a message calls that."""

    what: str
    parts: list[Part]
    batch: Shape


class Standing(NamedTuple):
    """What the dimensions of a source stand for, but for the last `event_dims`."""

    event_dims: int
    enumeration: Enumeration


class Dimensions:
    """The dimensions of a block."""

    def __init__(self, first_dim: int) -> None:
        self.first_dim = first_dim
        self._held: dict[int, tuple[Variable, Scope]] = {}
        # None for what has one value, whichever those of others are.
        self._standings: dict[Source, Standing | None] = {}
        self._around: Spread | None = None

    def in_sight(self) -> Mapping[int, Variable]:
        """Return the sites that can be depended on now by their dimension; forget the others'."""
        now = scope()
        self._held = {dim: held for dim, held in self._held.items() if is_in_sight(held[1], now)}
        return MappingProxyType({dim: variable for dim, (variable, _) in self._held.items()})

    def allocate(
        self, message: Message, size: int, reserved: frozenset[int], is_drawn: bool = False
    ) -> Variable:
        """Give a site the rightmost dimension that is free."""
        taken = self._held.keys() | reserved
        dim = next(d for d in itertools.count(self.first_dim, -1) if d not in taken)
        if -dim > MOST_DIMS - len(message.fn.event_shape if message.fn else ()):
            raise EnumerationError(
                f"{named(message)} finds no dimension free: {len(self._held)} enumerated sites "
                "have one, and a tensor has 64 at most; run the steps of a chain in `for t in "
                "an.handlers.markov(range(n)):`, and repetitions in an.plate, which give "
                "dimensions back"
            )
        location = message.where.location
        return self.take(message, Variable(message.name, location, dim, size, is_drawn))

    def take(self, message: Message, variable: Variable) -> Variable:
        """Let a dimension stand for the values of a site from now on."""
        if variable.dim > self.first_dim:
            raise EnumerationError(
                f"{_replayed(message, variable)}; but this block enumerates from dimension "
                f"{self.first_dim} to the left, so that its values would look like repetitions; "
                "give both blocks the same enumerate(first_dim=...), such as "
                f"{min(variable.dim, self.first_dim)}"
            )
        held = self._held.get(variable.dim)
        if held is not None and held[0] is not variable:
            raise EnumerationError(
                f"{_replayed(message, variable)}; but that stands for the values of site {held[0]} "
                "here; replay into a program that enumerates its own sites within the same block"
            )
        self._held[variable.dim] = (variable, scope())
        return variable

    def note(self, message: Message) -> None:
        """Remember the source of a site that has its value."""
        assert message.fn is not None
        assert message.enumeration is not None
        found = provenance(message.value)
        for source in () if found is None else found.members:
            self._standings.setdefault(
                source, Standing(event_dims(message.fn), message.enumeration)
            )

    def check(self, message: Message, variables: Mapping[int, Variable]) -> None:
        """Raise unless a site keeps apart what the sites that it depends on are enumerated along.

        Raises:
            EnumerationError: if it does not.
        """
        for group in _groups(message):
            explained = {
                dim
                for part in group.parts
                if part.found is not None
                for source, alignments in claimed(part.found).items()
                for dim in self._checked(message, group, part, source, alignments, variables)
            }
            for dim, size in self._wide(group.batch):
                variable = variables.get(dim)
                is_explained = dim in explained or not local.traces
                if variable is None or variable.size != size or not is_explained:
                    raise EnumerationError(_collision(message, group, dim, variable))

    def _checked(
        self,
        message: Message,
        group: Group,
        part: Part,
        source: Source,
        alignments: tuple[Alignment, ...],
        variables: Mapping[int, Variable],
    ) -> Iterator[int]:
        """Yield the dimensions of a part that a source explains."""
        standing = self._standing(source)
        if standing is None:
            return
        own, behind = standing.enumeration.own, standing.enumeration.variables
        if own is not None and variables.get(own.dim) is not own:
            raise EnumerationError(_out_of_scope(message, own))
        batch = source.shape[: len(source.shape) - standing.event_dims]
        for i, size in enumerate(batch):
            dim = i - len(batch)
            if size == 1 or (own is None and dim > self.first_dim):
                continue
            if dim in behind and variables.get(dim) is not behind[dim]:
                raise EnumerationError(_out_of_scope(message, behind[dim]))
            if not is_kept_at(part.batch, alignments, i, dim, size):
                self._refuse(message, group, part, source, i, dim)
            elif dim <= self.first_dim:
                yield dim

    def _standing(self, source: Source) -> Standing | None:
        """Return what the dimensions of a source stand for, None if for nothing."""
        if source not in self._standings:
            self._standings[source] = self._outside(source)
        return self._standings[source]

    def _outside(self, source: Source) -> Standing | None:
        """Return the same of a source that was drawn out of the block, or hidden from it."""
        unknown = Enumeration(self.first_dim)
        owner = None if source.universe is None else source.universe.owner
        if not isinstance(owner, Trace):  # tracked by the user, or of a trace that is no more
            return Standing(0, unknown) if source.is_confined else None
        if self._around is None or source not in self._around.nodes:
            self._around = Spread(owner)
        node = self._around.nodes.get(source)
        if node is None:
            return Standing(0, unknown)
        if node.enumeration is None and self._around.behind(node) is None:
            return None
        return Standing(node.event_dims, node.enumeration or unknown)

    def _refuse(
        self, message: Message, group: Group, part: Part, source: Source, i: int, dim: int
    ) -> NoReturn:
        assert part.found is not None
        mixed = mixed_by(part.found, source, i)
        by = f" (mixed by {mixed})" if mixed else ""
        if dim > self.first_dim:
            raise EnumerationError(
                f"{named(message)} depends on several repetitions of the enumerated site "
                f"{source.name!r}, those along dimension {dim}, each of which takes its values on "
                f"its own; but {group.what} mixes or selects them{by}; keep the repetitions apart, "
                "at the same dimension, or give each its own site"
            )
        standing = self._standings[source]
        behind = None if standing is None else standing.enumeration.variables.get(dim)
        enumerated = source.name if behind is None else behind.name
        each = (
            "" if enumerated == source.name else f", one for each of the enumerated site {behind}"
        )
        further = 0 if part.batch is None else _too_far(part.found, part.batch, source, i, dim)
        event = (
            f"if what stands along the last {further} of its dimensions is of one value, make it "
            f"an event (Independent(fn, {further})); else "
            if further
            else ""
        )
        raise EnumerationError(
            f"{named(message)} depends on site {source.name!r}, whose values stand along dimension "
            f"{dim}{each}; but {group.what} mixes them, or moves them to another dimension{by}; "
            f"{event}compute each from its own value, with ops that broadcast, or draw site "
            f'{enumerated!r}: infer={{"enumerate": False}}'
        )

    def _wide(self, batch: Shape) -> Iterator[tuple[int, int]]:
        """Yield the dimensions of a batch that stand for values, each with its size."""
        for i, size in enumerate(batch[: max(len(batch) + self.first_dim + 1, 0)]):
            if size != 1:
                yield i - len(batch), size


def named(message: Message) -> str:
    """Return what an error calls a site that is on its way."""
    return f"site {message.name!r} ({message.where.location})"


def _replayed(message: Message, variable: Variable) -> str:
    way = f"which was enumerated along dimension {variable.dim}"
    return f"{named(message)} is replayed from site {variable}, {way}"


def _collision(message: Message, group: Group, dim: int, variable: Variable | None) -> str:
    """Say that a dimension stands for values, but something else uses it."""
    owner = "no site" if variable is None else f"site {variable} ({variable.size} of them)"
    batch = list(group.batch)
    return (
        f"{named(message)}: dimension {dim} of {group.what} {batch} has size {batch[dim]}; "
        "but enumerate has given the dimensions from there to the left to the values of sites, "
        f"this one to those of {owner}, on which {group.what} does not depend there; give "
        f"enumerate(first_dim=...) a dimension left of all plates and batches, such as "
        f"{-len(batch) - 1}"
    )


def _out_of_scope(message: Message, variable: Variable) -> str:
    return (
        f"{named(message)} depends on the enumerated site {variable}, which is out of scope: its "
        "step is too far back, or its loop, plate or block has ended, and its dimension was given "
        "back; give markov(steps, history=...) more history, or move the dependence into the loop"
    )


def is_kept_at(
    batch: Shape | None, alignments: tuple[Alignment, ...], i: int, dim: int, size: int
) -> bool:
    """Return whether a batch indexes dimension `i` of a source at the same place, all of it.

    Where nobody says which dimensions of a tensor are its batch, any place will do.
    """
    if batch is None:
        return all(i in kept(alignment) for alignment in alignments)
    place = len(batch) + dim
    return (
        place >= 0
        and batch[place] == size
        and all(len(a.dims) > place and kept(a)[place] == i for a in alignments)
    )


def _too_far(found: Provenance, batch: Shape, source: Source, i: int, dim: int) -> int:
    """Return how far left of its place a batch indexes dimension `i` of a source, 0 if nowhere."""
    places = {
        place
        for alignment in claimed(found)[source]
        for place, kept_dim in enumerate(kept(alignment))
        if kept_dim == i and place < len(batch)
    }
    return max(len(batch) + dim - places.pop(), 0) if len(places) == 1 else 0


def _groups(message: Message) -> Iterator[Group]:
    """Yield what the density of a site is computed of."""
    fn = message.fn
    assert fn is not None
    further = event_dims(fn)
    parts = [
        Part(provenance(tensor), None if width == UNKNOWN else _leading(tensor, width + further))
        for tensor, width in parameters(fn)
    ]
    yield Group("the batch", parts, tuple(fn.batch_shape))
    is_own = message.enumeration is not None and message.enumeration.own is not None
    event = len(fn.event_shape)
    for what, tensor, width in (
        ("the value", None if is_own else message.value, event),
        ("the mask", message.mask, 0),
        ("the scale", message.scale, 0),
    ):
        if isinstance(tensor, Tensor) and raw(Tensor.numel, tensor):
            batch = _leading(tensor, width)
            yield Group(what, [Part(provenance(tensor), batch)], batch)


def _leading(tensor: Tensor, width: int) -> Shape:
    """Return the shape of a tensor without its last dimensions."""
    size: Shape = tuple(raw(Tensor.size, tensor))
    return size[: max(len(size) - width, 0)]
