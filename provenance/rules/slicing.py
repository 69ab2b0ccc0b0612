"""Rules of the ops that take a part of a tensor, or put tensors together, element for element.

Their alignments have windows: which elements of the operand the result has, and where they are.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ancestral.provenance.algebra.alignment import LOST, Alignment, Dim, Shape, Window
from ancestral.provenance.linear.build import EVERY, Row
from ancestral.provenance.linear.rows import JOIN, PART, each_apart, part
from ancestral.provenance.rules import indexing
from ancestral.provenance.rules.op import FIRST, Op, Pair, besides_first, carries, identity, rank_of
from ancestral.provenance.rules.pointwise import first_alone
from ancestral.provenance.tensor.arguments import Args, Function, Kwargs, argument, tensors_in
from ancestral.provenance.tensor.known_index import MASKS, as_number


def getitem(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Numbers and slices take what they say; tensors of indices are read as subscripts are."""
    x, index = args
    step = taken(tuple(x.shape), _items(index, x))
    if step is None:
        return indexing.getitem(shape, args, kwargs)
    return [(x, step), *((number, None) for number in tensors_in(index))]


def setitem(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """What was there before stays where it was; what is written is where the index says."""
    index, value = args[1], args[2]
    step = put(shape, _items(index, args[0]), rank_of(value)) if isinstance(value, Tensor) else None
    if step is None:
        return indexing.setitem(shape, args, kwargs)
    numbers: list[Pair] = [(number, None) for number in tensors_in(index)]
    return [(args[0], identity(len(shape))), (value, step), *numbers]


def _items(index: Any, operand: Tensor) -> list[Any]:
    """Return the items of a subscript, with numbers for the tensors that are known to be one."""
    items = index if isinstance(index, tuple) else (index,)
    return [as_number(item, operand) for item in items]


def select(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """One index of a dimension is taken, and the dimension dropped."""
    x, dim = args[0], argument(args, kwargs, 1, "dim")
    at = argument(args, kwargs, 2, "index")
    if type(at) is not int or type(dim) is not int:
        return None
    return [(x, dropped(tuple(x.shape), dim, at))]


def narrow(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Some neighbouring elements are taken along one dimension."""
    x, dim = args[0], argument(args, kwargs, 1, "dim")
    start, length = argument(args, kwargs, 2, "start"), argument(args, kwargs, 3, "length")
    if not all(type(number) is int for number in (dim, start, length)) or not length:
        return None
    return [(x, span(tuple(x.shape), dim, start, length))]


def cat(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """The operands follow each other along a dimension."""
    dim = argument(args, kwargs, 1, "dim", "axis", default=0) % max(len(shape), 1)
    found: list[Pair] = []
    at = 0
    for x in argument(args, kwargs, 0, "tensors"):
        if rank_of(x) == len(shape):
            size = x.shape[dim]
            if size:
                here = ((dim, at, at + size),)
                found.append((x, Alignment(tuple(range(len(shape))), here=here)))
            at += size
    return found


def stack(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Each operand is at one index of a new dimension."""
    rank = len(shape)
    dim = argument(args, kwargs, 1, "dim", "axis", default=0) % rank
    dims = (*range(dim), LOST, *range(dim, rank - 1))
    return [
        (x, Alignment(dims, here=((dim, at, at + 1),)))
        for at, x in enumerate(argument(args, kwargs, 0, "tensors"))
    ]


@dataclass(frozen=True)
class Piece:
    """One of the results of a function that takes a tensor apart along a dimension.

    It begins at index `first`. A separate function, so that each piece has its own alignment.
    """

    function: Function
    dim: int
    first: int

    def rule(self, shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
        """Some neighbouring elements are taken along the dimension, or one and it is dropped."""
        x = args[0]
        if len(shape) < rank_of(x):
            return [(x, dropped(tuple(x.shape), self.dim, self.first))]
        if not shape[self.dim]:
            return [(x, (LOST,) * len(shape))]
        return [(x, span(tuple(x.shape), self.dim, self.first, shape[self.dim]))]


def taken(shape: Shape, index: Sequence[Any]) -> Alignment | None:
    """Return what a tensor of this shape gives at a basic index; None for any other index.

    >>> taken((5, 4), (2, slice(1, 3)))
    Alignment(dims=(1,), here=(), there=((0, 2, 3), (1, 1, 3)))
    """
    items = list(index)
    if not all(map(_is_basic, items)):
        return None
    consumed = sum(1 for item in items if item is not None and item is not Ellipsis)
    if Ellipsis not in items:
        items.append(Ellipsis)
    dims: list[Dim] = []
    there: list[Window] = []
    d = 0
    for item in items:
        if item is None:
            dims.append(LOST)
        elif item is Ellipsis:
            width = len(shape) - consumed
            dims.extend(range(d, d + width))
            d += width
        elif isinstance(item, slice):
            first, end, step = item.indices(shape[d])
            dims.append(d if step == 1 else LOST)
            if first < end:
                there.append((d, first, end))
            d += 1
        else:
            first = int(item) % shape[d] if shape[d] else 0
            there.append((d, first, first + 1))
            d += 1
    return Alignment(tuple(dims), there=tuple(there))


def _is_basic(item: Any) -> bool:
    if isinstance(item, slice):
        return all(part is None or type(part) is int for part in (item.start, item.stop, item.step))
    return item is None or item is Ellipsis or type(item) is int


def put(shape: Shape, index: Sequence[Any], rank: int) -> Alignment | None:
    """Return how a tensor of this shape holds a value of this rank written at a basic index.

    >>> put((5, 4), (2,), 1)
    Alignment(dims=(-1, 0), here=((0, 2, 3),), there=())
    """
    step = taken(shape, index)
    if step is None:
        return None
    dims: list[Dim] = [LOST] * len(shape)
    ahead = len(step.dims) - rank  # the value is broadcast, from the right
    for i, d in enumerate(step.dims):
        if d != LOST and i >= ahead:
            assert isinstance(d, int)
            dims[d] = i - ahead
    return Alignment(tuple(dims), here=step.there)


def span(shape: Shape, dim: int, first: int, size: int) -> Alignment:
    """Return a part of a tensor: `size` elements from `first` on, along one dimension."""
    dim %= max(len(shape), 1)
    first %= max(shape[dim], 1)
    return Alignment(tuple(range(len(shape))), there=((dim, first, first + size),))


def dropped(shape: Shape, dim: int, at: int) -> Alignment:
    """Return what a tensor has at one index of a dimension, without the dimension."""
    dim, at = dim % len(shape), at % shape[dim]
    dims = tuple(d for d in range(len(shape)) if d != dim)
    return Alignment(dims, there=((dim, at, at + 1),))


def is_shaped(args: Args, kwargs: Kwargs) -> bool:
    """Return whether a mask or the ends of a slice tell how much is taken."""
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    ends = (end for i in index if isinstance(i, slice) for end in (i.start, i.stop, i.step))
    return any(map(carries, ends)) or any(carries(i) and i.dtype in MASKS for i in index)


def is_along_tracked(args: Args, kwargs: Kwargs) -> bool:
    """Return whether the dimension is tracked: the index only tells where to read."""
    return carries(argument(args, kwargs, 1, "dim"))


def is_index(args: Args, kwargs: Kwargs) -> bool:
    """Return whether an index holds nothing but tensors, slices and numbers."""
    items = args[1] if isinstance(args[1], tuple) else (args[1],)
    bounds = [x for i in items if type(i) is slice for x in (i.start, i.stop, i.step)]
    others = [i for i in items if type(i) is not slice and not isinstance(i, Tensor)]
    return all(x is None or x is Ellipsis or type(x) is int for x in (*bounds, *others))


INDEXED = Row("input", is_index, part, is_static=True)
OPS = (
    Op("__getitem__", getitem, INDEXED, escapes=is_shaped, reads_numbers=True),
    Op("__setitem__", setitem, written=FIRST, reads_numbers=True),
    Op("select", select, PART, escapes=is_along_tracked, reads_numbers=True),
    Op("select_copy", select),
    Op("narrow", narrow, PART),
    Op("narrow_copy", narrow),
    Op("cat concat concatenate", cat, JOIN),
    Op("stack", stack, Row(EVERY, None, each_apart, is_static=True)),  # the costs of a loop
    Op("unbind", linear="parts", cut_along=1),
    Op("unbind_copy", cut_along=1),
    Op("chunk split split_with_sizes", first_alone, "parts", cut_along=2),
    Op("tensor_split", first_alone, "parts", escapes=besides_first, cut_along=2),
    Op("dsplit hsplit vsplit", first_alone, "parts"),
    Op("unsafe_chunk unsafe_split", first_alone, cut_along=2),
    Op("unsafe_split_with_sizes split_copy split_with_sizes_copy", cut_along=2),
)
