"""Linear rearrangements: ops that move, pick, repeat or join elements and compute no new ones.

Where every element gets its own place, a weight that is one number stays one; where a part is
picked, its weights are put into those of the whole; everything else is transposed by autograd.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor

from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.linear.build import (
    FIRST,
    Linear,
    Table,
    call_of,
    every,
    is_number,
    shape_of,
)
from ancestral.provenance.linear.transpose import (
    joined,
    permuted,
    placed,
    reshaped,
    stacked,
    summed,
)
from ancestral.provenance.rules.operands import Args, Kwargs, argument
from ancestral.provenance.tensor.linear_form import ALL, Call, numel
from ancestral.provenance.tensor.tensor import NO_KEYWORDS


def _reshape(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    x = args[0]
    if numel(shape_of(x)) != numel(shape) or (args[1:] and isinstance(args[1], torch.dtype)):
        return None  # a view as another type
    if kwargs.get("dtype") is not None:
        return None
    call = Call(torch.reshape, (FIRST, shape), NO_KEYWORDS, ())
    return partial(reshaped, shape_of(x)), (x,), call


def _expand(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    x = args[0]
    call = Call(Tensor.expand, (FIRST, *shape), NO_KEYWORDS, ())
    return partial(summed, shape, [shape_of(x)], (1.0,)), (x,), call


def _bound(adjoint: Any, function: Any, shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    """A step whose adjoint looks at the call."""
    x = args[0]
    call = call_of(function, args, kwargs, (x,))
    if call is None or call.versions:
        return None  # a dimension that is a tensor
    return partial(adjoint, call, shape_of(x)), (x,), call


def _getitem(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    x, index = args
    items = index if isinstance(index, tuple) else (index,)
    if all(map(_is_plain_index, items)):
        return _bound(placed, Tensor.__getitem__, shape, args, kwargs)
    if all(isinstance(i, Tensor) or _is_plain_index(i) for i in items):
        return None, (x,), None
    return None


def _is_plain_index(item: Any) -> bool:
    kind = type(item)
    if kind is slice:
        return all(x is None or type(x) is int for x in (item.start, item.stop, item.step))
    return kind is int or item is None or item is Ellipsis


def _picked(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    """Anything that is linear in its first operand, all others being constants."""
    return None if kwargs.get("out") is not None else (None, (args[0],), None)


def _pad(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    mode = argument(args, kwargs, 2, "mode", default="constant")
    fill = argument(args, kwargs, 3, "value")
    return (None, (args[0],), None) if mode != "constant" or not fill else None


def _repeated(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    return None if kwargs.get("output_size") is not None else (None, (args[0],), None)


def _cat(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    operands = tuple(argument(args, kwargs, 0, "tensors"))
    dim = argument(args, kwargs, 1, "dim", "axis", default=0)
    if kwargs.get("out") is not None or any([len(shape_of(x)) != len(shape) for x in operands]):
        return None
    adjoint = partial(joined, dim, [shape_of(x)[dim] for x in operands])
    return adjoint, operands, Call(torch.cat, (ALL, dim), NO_KEYWORDS, ())


def _stack(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    operands = tuple(argument(args, kwargs, 0, "tensors"))
    dim = argument(args, kwargs, 1, "dim", "axis", default=0)
    if kwargs.get("out") is not None:
        return None
    adjoint = partial(stacked, dim, len(operands))
    return adjoint, operands, Call(torch.stack, (ALL, dim), NO_KEYWORDS, ())


def _joined(function: Any, shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    """`hstack` and its like, whose operands are a list or are given one by one."""
    if kwargs.get("out") is not None:
        return None
    given = argument(args, kwargs, 0, "tensors")
    if isinstance(given, Tensor):
        return None, tuple(args), Call(_one_by_one, (ALL,), NO_KEYWORDS, ())
    return None, tuple(given), Call(function, (ALL,), NO_KEYWORDS, ())


def _one_by_one(operands: list[Tensor]) -> Tensor:
    result: Tensor = torch.block_diag(*operands)
    return result


def _written_into(names: tuple[str, ...], shape: Shape, args: Args, kwargs: Kwargs) -> Any:
    """A copy of a tensor into a part of which another was written, or added."""
    x = args[0]
    if not (set(kwargs) <= {*names, "dim", "index", "start", "end", "step", "alpha", "offset"}):
        return None
    named = [kwargs[name] for name in names if name in kwargs]
    given = [arg for arg in args[1:] if isinstance(arg, Tensor)]
    source = named[0] if named else given[-1]
    if source is x or not isinstance(source, Tensor) or not is_number(kwargs.get("alpha", 1)):
        return None
    return None, (x, source), None


def _tables() -> Table:
    found: Table = {}
    for names, adjoint in {
        "permute transpose swapaxes swapdims movedim moveaxis t adjoint": permuted,
        "flip fliplr flipud roll rot90": permuted,
        "select narrow diagonal": placed,
    }.items():
        for name in names.split():
            for namespace in (torch, Tensor):
                function = getattr(namespace, name, None)
                if function is not None:
                    found[function] = partial(_bound, adjoint, function)
    for name in "T mT H mH".split():
        function = getattr(Tensor, name).__get__
        found[function] = partial(_bound, permuted, function)
    return found


REARRANGEMENTS: Table = {
    **_tables(),
    **every("reshape view flatten ravel squeeze unsqueeze unflatten view_as reshape_as", _reshape),
    **every("atleast_1d atleast_2d atleast_3d", _reshape),
    **every("expand expand_as broadcast_to", _expand),
    **every("cat concat concatenate", _cat),
    **every("stack", _stack),
    **{
        getattr(torch, name): partial(_joined, getattr(torch, name))
        for name in "hstack vstack dstack column_stack row_stack block_diag".split()
    },
    **every("__getitem__", _getitem),
    **every("index_select gather take take_along_dim masked_select unfold", _picked),
    **every("repeat tile tril triu diag diag_embed diagflat", _picked),
    **every("repeat_interleave", _repeated),
    **every("scatter_add", partial(_written_into, ("src",))),
    **every("index_add", partial(_written_into, ("source",))),
    **every("select_scatter slice_scatter diagonal_scatter", partial(_written_into, ("src",))),
    F.pad: _pad,
}


def _rows(results: Sequence[Tensor], x: Tensor, dim: int) -> Iterator[Call]:
    for index in range(len(results)):
        yield Call(torch.select, (FIRST, dim, index), NO_KEYWORDS, ())


def _sections(results: Sequence[Tensor], x: Tensor, dim: int) -> Iterator[Call]:
    start = 0
    for result in results:
        size = result.shape[dim]
        yield Call(torch.narrow, (FIRST, dim, start, size), NO_KEYWORDS, ())
        start += size


_Sections = Callable[[Sequence[Tensor], Tensor, int], Iterator[Call]]
Splitter = tuple[_Sections, Callable[[Tensor, Args, Kwargs], Any]]


def _dim_at(position: int) -> Callable[[Tensor, Args, Kwargs], Any]:
    return lambda x, args, kwargs: argument(args, kwargs, position, "dim", "axis", default=0)


SPLITS: dict[Callable[..., Any], Splitter] = {
    getattr(namespace, name): splitter
    for names, splitter in {
        "unbind": (_rows, _dim_at(1)),
        "split split_with_sizes chunk tensor_split": (_sections, _dim_at(2)),
        "vsplit": (_sections, lambda x, args, kwargs: 0),
        "hsplit": (_sections, lambda x, args, kwargs: min(len(x.shape) - 1, 1)),
        "dsplit": (_sections, lambda x, args, kwargs: 2),
    }.items()
    for name in names.split()
    for namespace in (torch, Tensor)
    if hasattr(namespace, name)
}
"""The ops that return the parts of their operand, in order: how to find them, and along what."""
