"""Vmap: `torch.vmap` as one op, whose results keep the dimension that it maps over.

The function runs with the dimensions of its arguments that are mapped taken away, and is followed
as it runs. Element b of a result depends on elements b of what is mapped, and on all of what is
not: unmapped arguments, and tensors that the function holds. Where a source comes in by both ways,
nothing is known of b.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ancestral.provenance.algebra.alignment import LOST
from ancestral.provenance.algebra.alignment_loss import note
from ancestral.provenance.algebra.provenance import Provenance, union
from ancestral.provenance.algebra.refine import sharpened
from ancestral.provenance.dispatch.inplace import is_write, writes_besides
from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.arguments import tensors_in
from ancestral.provenance.tensor.memory_grid import may_share
from ancestral.provenance.tensor.tensor import alias, attach, provenance, raw, untrack
from ancestral.provenance.tensor.torch_internals import (
    DisableTorchFunction,
    broadcast_to_and_flatten,
    get_unwrapped,
    is_batchedtensor,
    is_functorch_wrapped_tensor,
    maybe_current_level,
    maybe_get_level,
    name_of_mapped,
    tree_flatten,
    tree_unflatten,
)

_Function = Callable[..., Any]
_Refuse = Callable[[Any, Any, Any], None]

# Untyped in torch.
_flatten: Any = tree_flatten
_unflatten: Any = tree_unflatten
_spread: Any = broadcast_to_and_flatten


def run(
    original: _Function,
    refuse: _Refuse,
    func: _Function,
    in_dims: Any,
    out_dims: Any,
    randomness: str,
    chunk_size: int | None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Map a function with the `vmap_impl` of torch; `refuse` raises at what cannot be followed."""
    given, spec = _flatten(args)
    dims = _spread(in_dims, spec) or [None] * len(given)  # torch will tell what is wrong
    inside = _Inside(func, refuse, given, dims)
    plain = [untrack(item) if place in inside.mapped else item for place, item in enumerate(given)]
    result = original(
        *(inside, in_dims, out_dims, randomness, chunk_size), *_unflatten(plain, spec), **kwargs
    )
    outputs, shape = _flatten(result)
    if not any(inside.found):
        return result
    if isinstance(result, Tensor):
        places = [out_dims[0] if isinstance(out_dims, tuple) else out_dims]
    else:
        places = _spread(out_dims, shape)
    known = {id(tensor) for tensor in tensors_in(given, kwargs)}
    marked = [
        inside.mark(number, alias(output) if id(output) in known else output, place)
        for number, (output, place) in enumerate(zip(outputs, places, strict=True))
    ]
    return _unflatten(marked, shape)


class _Inside:
    """The function that is mapped, and what was seen of it while it ran."""

    def __init__(
        self, func: _Function, refuse: _Refuse, given: Sequence[Any], dims: Sequence[Any]
    ) -> None:
        self.__name__: str = name_of_mapped(func)
        self._func = func
        self._refuse = refuse
        self._given = given
        self.mapped: dict[int, tuple[Provenance, int]] = {}
        for place, (item, dim) in enumerate(zip(given, dims, strict=True)):
            ours = provenance(item) if isinstance(item, Tensor) and isinstance(dim, int) else None
            if ours is not None and -len(ours.shape) <= dim < len(ours.shape):
                self.mapped[place] = (ours, dim % len(ours.shape))
        self.held: list[Provenance] = []
        self.found: list[Provenance | None] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function for one chunk."""
        level = maybe_current_level()
        given, _ = _flatten(args)
        for place, (ours, dim) in self.mapped.items():
            rest = tuple(d for d in range(len(ours.shape)) if d != dim)
            kept = ours.remap(tuple(ours.shape[d] for d in rest), rest)
            if kept is not None:
                attach(given[place], kept)

        def meet(func: Any, args: Any, kwargs: Any) -> None:
            if func is not Tensor.__bool__:  # it leaves tensor land: a check, or an escape
                self._meet(level, tensors_in(args, kwargs))
            if _writes(func, kwargs):
                self._refuse(func, args, kwargs)

        with storage.guard(meet):
            result = self._func(*args, **kwargs)
        outputs, _ = _flatten(result)
        tensors = [output if isinstance(output, Tensor) else None for output in outputs]
        self._meet(level, (tensor for tensor in tensors if tensor is not None))
        found = [None if tensor is None else provenance(tensor) for tensor in tensors]
        self.found = [_joined(a, b) for a, b in zip(self.found or found, found, strict=True)]
        return result

    def _meet(self, level: int | None, tensors: Any) -> None:
        """Note what tensors depend on that come from around the function."""
        for tensor in tensors:
            ours = provenance(tensor)
            if ours is not None and ours not in self.held and not _is_mapped(tensor, level):
                self.held.append(ours)

    def mark(self, number: int, output: Any, place: int | None) -> Any:
        """Give a result its provenance; its dimension `place` is the one that was mapped."""
        found = self.found[number]
        if found is None or place is None or found.universe.state == "settled":
            return output
        shape = tuple(raw(Tensor.size, output))
        place %= len(shape)
        rest = list(range(len(shape) - 1))
        seen = found.remap(shape, (*rest[:place], LOST, *rest[place:]))
        assert seen is not None
        claimed: Provenance | None = None
        for ours, dim in self.mapped.values():
            kept = tuple(dim if d == place else LOST for d in range(len(shape)))
            claimed = _joined(claimed, ours.remap(shape, kept))
        for ours in self.held:
            claimed = _joined(claimed, ours.lost(shape))
        made = seen if claimed is None else sharpened(seen, claimed)
        behind = [ours for ours, _ in self.mapped.values()] + self.held
        note("vmap", made, behind)
        if any(may_share(output, item) for item in self._given if isinstance(item, Tensor)):
            output._chosen = union(ours.lost(()) for ours in behind)
        return attach(output, made)


def _joined(a: Provenance | None, b: Provenance | None) -> Provenance | None:
    if a is None or b is None:
        return b if a is None else a
    return a.union(b)


def _writes(func: Any, kwargs: Any) -> bool:
    """Return whether a function may write: views within a transform share nothing that shows it."""
    return (
        func is None  # a program that is not followed
        or is_write(getattr(func, "__name__", ""))
        or kwargs.get("out") is not None
        or kwargs.get("inplace") is True
        or (hasattr(func, "__name__") and writes_besides(func))
    )


def _is_mapped(tensor: Tensor, level: int | None) -> bool:
    """Return whether a tensor has the dimension that was taken away at this level."""
    with DisableTorchFunction():
        while is_functorch_wrapped_tensor(tensor):
            if is_batchedtensor(tensor) and maybe_get_level(tensor) == level:
                return True
            tensor = get_unwrapped(tensor)
    return False
