"""Dimensions: which of a block stand for the values of which sites, and who may depend on them.

Element k along the dimension of an enumerated site is what happens if the site has its value k. So
whatever depends on it has to keep the values apart, and the repetitions of the site too; the
provenance of each parameter tells whether it does, and of which site a dimension stands for values.
"""

import itertools
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple, NoReturn

from torch import Tensor

from ancestral.provenance.algebra import Provenance, Source
from ancestral.provenance.alignment import Alignment, Shape
from ancestral.provenance.tensor import provenance, raw
from ancestral.trace.claims import mixed_by
from ancestral.trace.enumerated import Variable
from ancestral.trace.enumeration_errors import (
    CollisionError,
    MixedRepetitionsError,
    MixedValuesError,
    OutOfSightError,
    ReplayedDimensionError,
    TakenDimensionError,
    TooManyDimensionsError,
)
from ancestral.trace.independence import kept
from ancestral.trace.markov import Scope, is_in_sight, scope
from ancestral.trace.parameters import UNKNOWN, factorized, parameters
from ancestral.trace.request import Request
from ancestral.trace.stack import local

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


class Dimensions:
    """The dimensions of a block."""

    def __init__(self, first_dim: int) -> None:
        """Give none away."""
        self.first_dim = first_dim
        self._held: dict[int, tuple[Variable, Scope]] = {}
        self._known: dict[Source, Variable] = {}
        self._drawn: dict[Source, Mapping[int, Variable]] = {}  # once for each value of a site

    def in_sight(self) -> Mapping[int, Variable]:
        """Return the sites that can be depended on now by their dimension; forget the others'."""
        now = scope()
        self._held = {dim: held for dim, held in self._held.items() if is_in_sight(held[1], now)}
        return MappingProxyType({dim: variable for dim, (variable, _) in self._held.items()})

    def allocate(self, request: Request, size: int, reserved: frozenset[int]) -> Variable:
        """Give a site the rightmost dimension that is free."""
        taken = self._held.keys() | reserved
        dim = next(d for d in itertools.count(self.first_dim, -1) if d not in taken)
        if -dim > MOST_DIMS - len(request.fn.event_shape if request.fn else ()):
            raise TooManyDimensionsError(request, len(self._held))
        return self.take(request, Variable(request.name, request.where.location, dim, size))

    def take(self, request: Request, variable: Variable) -> Variable:
        """Let a dimension stand for the values of a site from now on."""
        if variable.dim > self.first_dim:
            raise ReplayedDimensionError(request, variable, self.first_dim)
        held = self._held.get(variable.dim)
        if held is not None and held[0] is not variable:
            raise TakenDimensionError(request, variable, held[0])
        self._held[variable.dim] = (variable, scope())
        return variable

    def note(self, request: Request) -> None:
        """Remember the source of a site that has its value."""
        assert request.enumeration is not None
        found = provenance(request.value)
        for source in () if found is None else found.members:
            if source in self._known or source in self._drawn:
                continue
            if request.enumeration.own is not None:
                self._known[source] = request.enumeration.own
            elif any(self._wide(source.shape)):
                self._drawn[source] = request.enumeration.variables

    def check(self, request: Request, variables: Mapping[int, Variable]) -> None:
        """Raise unless a site keeps apart what the sites that it depends on are enumerated along.

        Raises:
            EnumerationError: if it does not.
        """
        for group in _groups(request):
            explained = {
                dim
                for part in group.parts
                if part.found is not None
                for source, alignments in part.found.claims().items()
                for dim in self._checked(request, group, part, source, alignments, variables)
            }
            for dim, size in self._wide(group.batch):
                variable = variables.get(dim)
                is_explained = dim in explained or not local.traces
                if variable is None or variable.size != size or not is_explained:
                    raise CollisionError(request, group.what, group.batch, dim, variable)

    def _checked(
        self,
        request: Request,
        group: Group,
        part: Part,
        source: Source,
        alignments: tuple[Alignment, ...],
        variables: Mapping[int, Variable],
    ) -> Iterator[int]:
        """Yield the dimensions of a part that a source explains."""
        variable = self._known.get(source)
        if variable is not None and variables.get(variable.dim) is not variable:
            raise OutOfSightError(request, variable)
        for i, size in enumerate(source.shape):
            dim = i - len(source.shape)
            if size == 1 or (variable is None and dim > self.first_dim):
                continue
            behind = self._behind(source, dim)
            if behind is not None and variables.get(dim) is not behind:
                raise OutOfSightError(request, behind)
            if part.batch is not None and not _is_kept(part.batch, alignments, i, dim, size):
                self._refuse(request, group, part, source, i)
            elif dim <= self.first_dim:
                yield dim

    def _behind(self, source: Source, dim: int) -> Variable | None:
        """Return the site for each of whose values a source was drawn along a dimension."""
        return self._drawn.get(source, {}).get(dim)

    def _refuse(
        self, request: Request, group: Group, part: Part, source: Source, i: int
    ) -> NoReturn:
        assert part.found is not None
        mixed = mixed_by(part.found, source, i)
        dim = i - len(source.shape)
        kind = MixedValuesError if dim <= self.first_dim else MixedRepetitionsError
        raise kind(request, group.what, source.name, dim, mixed)

    def _wide(self, batch: Shape) -> Iterator[tuple[int, int]]:
        """Yield the dimensions of a batch that stand for values, each with its size."""
        for i, size in enumerate(batch[: max(len(batch) + self.first_dim + 1, 0)]):
            if size != 1:
                yield i - len(batch), size


def _is_kept(batch: Shape, alignments: tuple[Alignment, ...], i: int, dim: int, size: int) -> bool:
    """Return whether a batch indexes dimension `i` of a source at the same place, all of it."""
    place = len(batch) + dim
    return (
        place >= 0
        and batch[place] == size
        and all(len(a.dims) > place and kept(a)[place] == i for a in alignments)
    )


def _groups(request: Request) -> Iterator[Group]:
    """Yield what the density of a site is computed of."""
    fn = request.fn
    assert fn is not None
    grouped = len(factorized(fn).batch_shape) - len(fn.batch_shape)
    parts = [
        Part(provenance(tensor), None if width == UNKNOWN else _leading(tensor, width + grouped))
        for tensor, width in parameters(fn)
    ]
    yield Group("the batch", parts, tuple(fn.batch_shape))
    is_own = request.enumeration is not None and request.enumeration.own is not None
    event = len(fn.event_shape)
    for what, tensor, width in (
        ("the value", None if is_own else request.value, event),
        ("the mask", request.mask, 0),
        ("the scale", request.scale, 0),
    ):
        if isinstance(tensor, Tensor) and raw(Tensor.numel, tensor):
            batch = _leading(tensor, width)
            yield Group(what, [Part(provenance(tensor), batch)], batch)


def _leading(tensor: Tensor, width: int) -> Shape:
    """Return the shape of a tensor without its last dimensions."""
    size: Shape = tuple(raw(Tensor.size, tensor))
    return size[: max(len(size) - width, 0)]
