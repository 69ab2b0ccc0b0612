"""ProvenanceTensor: a tensor that is its own data and remembers what it came from.

The class of a fresh result is changed in place, so that no second tensor, no extra autograd node
and no copy exists. What an op does to provenance stands in
`ancestral.provenance.dispatch.torch_function`.

>>> import torch
>>> z = track(torch.ones(2, 3), "z")
>>> sorted(provenance_of((z * 2).sum(1)))
['z']
>>> provenance_of(torch.ones(3))
frozenset()
"""

import copy
import os
from collections.abc import Callable
from typing import Any, cast
from weakref import ReferenceType

import torch
from torch import Tensor

from ancestral.provenance.algebra.provenance import Provenance, Source, Universe, alive
from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.linear_form import Form
from ancestral.provenance.tensor.torch_internals import (
    DisableTorchFunction,
    disabled_torch_function_impl,
)

# Runs an op as if nobody overrode it: in C, and without a context manager.
run: Any = disabled_torch_function_impl
NO_KEYWORDS: dict[str, Any] = {}


class ProvenanceTensor(Tensor):
    """A tensor and the provenance of its elements."""

    _provenance: Provenance
    # How it was made by a linear step, and the number of the form that was last when it was
    # written into in place.
    _form: Form | None = None
    _written: int = -1
    # The node of the draw that gave this very tensor, weakly: its value is a view of the tensor,
    # and Python's collector does not see that a view holds what it is a view of.
    _site: "ReferenceType[Any] | None" = None
    _scored: Any = None  # the node of which it is the log-density
    # Of a view, what decided which part of the memory it is.
    _chosen: Provenance | None = None
    # Whether it is a sum with a part whose gradient was cut, and if so, what it was a sum of.
    _is_cut: bool = False
    _addends: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """Copy the data, keep the provenance; as in torch, only leaves can be copied."""
        copied = memo.get(id(self))
        if copied is None:
            if not self.is_leaf:
                # The message is torch's own.
                return cast(Tensor, untrack(self).__deepcopy__(memo))
            twin = untrack(self).detach().clone().requires_grad_(self.requires_grad)
            copied = memo[id(self)] = attach(twin, self._provenance)
            copied.__dict__.update(copy.deepcopy(_attributes_of(self), memo))
            if self.grad is not None:
                copied.grad = copy.deepcopy(self.grad, memo)
        return cast(Tensor, copied)

    def __copy__(self) -> Tensor:
        """Share the data, keep the provenance."""
        twin = attach(alias(self), self._provenance)
        twin.__dict__.update(_attributes_of(self), _chosen=self._chosen)
        return twin

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle the data and the names of the sources, without alignment.

        The bytes let the values out, unless another process hands the tensor back to that of the
        recording. Where the recording is still there, the sources are its own. Elsewhere they are
        new ones that share only the names.
        """
        found = provenance(self)
        assert found is not None
        universe = found.universe
        if universe.token[0] == os.getpid():
            _show(self)
        kinked = universe.kinked(found.members)
        known = tuple((universe.number(s), s.name, s in kinked) for s in found.sources)
        return _rebuild, (untrack(self), known, universe.token, _attributes_of(self))

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        """Show the tensor as torch does, and the sources; the text lets the values out."""
        _show(self)
        shown = repr(untrack(self))
        return f"{shown[:-1]}, provenance={{{', '.join(sorted(provenance_of(self)))}}})"

    def __format__(self, spec: str) -> str:
        """Format as torch does: a scalar as a number, everything else as its text."""
        if self.ndim:
            return format(repr(self), spec)
        _show(self)
        return format(untrack(self), spec)


before_reading: list[Callable[[ProvenanceTensor], None]] = []
"""Functions of layers above that look at a tensor that is turned into text or bytes."""


def _show(tensor: ProvenanceTensor) -> None:
    for look in before_reading:
        look(tensor)


TYPES = (ProvenanceTensor,)


def attach(tensor: Tensor, provenance: Provenance) -> Tensor:
    """Give a plain tensor that nobody else holds its provenance, and return it."""
    tensor.__class__ = ProvenanceTensor
    tensor._provenance = provenance  # type: ignore[attr-defined]
    return tensor


def compact(tensor: Tensor) -> None:
    """Let a tracked tensor that is kept for long take less memory.

    A dict that shares its keys with the class has room for thirty: 336 bytes, in place of 184.
    """
    if type(tensor) is ProvenanceTensor:
        tensor.__dict__ = {name: held for name, held in tensor.__dict__.items()}


def site_of(tensor: object) -> Any:
    """Return the node of the draw that gave this very tensor, None if it is no more."""
    held = getattr(tensor, "_site", None)
    return None if held is None else held()


def provenance(tensor: object) -> Provenance | None:
    """Return the provenance of a tensor, None where it is not tracked."""
    found: Provenance | None = getattr(tensor, "_provenance", None)
    if storage.table and isinstance(tensor, Tensor):
        return _with_storage(tensor, found)
    return found


def _with_storage(tensor: Tensor, found: Provenance | None) -> Provenance | None:
    """Add what was written into the storage of a tensor through others that share it."""
    written = raw(storage.seen_by, tensor)
    if written is None or found is None:
        return found if written is None else written
    return found.union(written)


def provenance_of(tensor: object) -> frozenset[str]:
    """Return the names of the sources that a tensor depends on directly."""
    found = provenance(tensor)
    return frozenset() if found is None else frozenset(source.name for source in found.sources)


def track(tensor: Tensor, name: str, universe: Universe | None = None) -> Tensor:
    """Return `tensor` as its own source, called `name`, in its own universe or in one.

    The result shares the data and the autograd history; what is computed from it has `name` in its
    provenance, and dimensions that still index those of `tensor` are known to.

    Raises:
        TypeError: if `tensor` is no tensor.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"track() takes a torch.Tensor, not {type(tensor).__name__}; "
            "turn it into one with torch.as_tensor first"
        )
    shape, found = tuple(tensor.shape), provenance(tensor)
    own = Universe() if universe is None else universe
    behind = () if found is None else found.sources
    # What has all its values at once still has.
    is_confined = any(source.is_confined for source in behind)
    is_known = is_confined and all(source.is_known for source in behind)
    source = Source(name, shape, is_known=is_known, is_confined=is_confined)
    return attach(alias(tensor), own.of(source, shape))


def untrack(tensor: Tensor) -> Tensor:
    """Return `tensor` without provenance: the same data, the same autograd history."""
    return alias(tensor) if isinstance(tensor, ProvenanceTensor) else tensor


def forget(tensor: Tensor, kind: type[Tensor]) -> None:
    """Let a tensor be what it was before a recording wrote into it, which was undone."""
    for name in _OURS & vars(tensor).keys():
        del vars(tensor)[name]
    tensor.__class__ = kind


# The modes of the thread too, of which one looks operands up.
Unseen = DisableTorchFunction


def alias(tensor: Tensor) -> Tensor:
    """Return a plain tensor on the same data and autograd history.

    A sparse one has no views: with a history, it is a copy.
    """
    with Unseen():
        try:
            return tensor[...]  # unlike that of a view, its backward takes sparse gradients
        except RuntimeError:
            if tensor.layout is torch.strided:
                raise
            return tensor.clone() if tensor.requires_grad else tensor.detach()


def raw(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function with tracking off: results are plain tensors."""
    watching = storage.local
    before, watching.is_paused = watching.is_paused, True
    try:
        return run(function, TYPES, args, kwargs)
    finally:
        watching.is_paused = before


def _attributes_of(tensor: Tensor) -> dict[str, Any]:
    """Return what the user, or torch, has set on a tensor: that it is a parameter, for example."""
    return {name: value for name, value in vars(tensor).items() if name not in _OURS}


_OURS = frozenset("_provenance _form _written _chosen _site _scored _addends _is_cut".split())


def _rebuild(
    plain: Tensor,
    known: tuple[tuple[int, str, bool], ...],
    token: tuple[int, int, int],
    attributes: dict[str, Any],
) -> Tensor:
    """Make a pickled tensor again, in its own recording if that is there."""
    home, elsewhere = alive.get(token), Universe()
    shape, found = tuple(plain.shape), None
    for index, name, is_kinked in known:
        here = [] if home is None else list(home.sources)[index : index + 1]
        if home is not None and here and here[0].name == name:
            kinks = [home.kink_of(here[0])] if is_kinked else []
            new = home.depending([*here, *kinks], shape)
        else:  # drawn in the other process, or long ago
            new = elsewhere.of(Source(name, ()), shape)
        found = new if found is None else found.union(new)
    again = plain if found is None else attach(plain, found)
    again.__dict__.update(attributes)
    return again


# `torch.load` makes what it is given, with ``weights_only=True`` too.
torch.serialization.add_safe_globals([_rebuild])
