"""Storage: sources of the memory that tensors share, looked up at every op.

A thread watches after a tracked value was written into a storage that other tensors share, and
after a value escaped to Python, which may decide on all that is computed from then on.

A write is seen at the tensor that is written, but it changes every view of its storage, and an
older view is a plain tensor whose ops nobody intercepts. From such a write on, the storage stands
in a table until it dies or its sources are settled, and as long as the table has an entry a torch
function mode of the thread looks every operand up in it. Programs without such writes pay nothing.
What was written stands on a grid of the elements of the storage, so that any other view keeps apart
what is apart.
"""

import sys
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing import reductions
from torch.overrides import TorchFunctionMode

from ancestral.provenance.algebra.alignment_loss import note
from ancestral.provenance.algebra.provenance import Provenance, union
from ancestral.provenance.tensor.arguments import tensors_in
from ancestral.provenance.tensor.control_flow import controlling
from ancestral.provenance.tensor.linear_form import serials
from ancestral.provenance.tensor.memory_grid import (
    Row,
    Write,
    read,
    regrouped,
    row_of,
    view_of,
)
from ancestral.provenance.tensor.torch_internals import (
    DisableTorchFunction,
    has_storage,
    len_torch_function_stack,
    pop_torch_function_stack,
    push_on_torch_function_stack,
    storage_use_count,
)

_Storage = torch.UntypedStorage
_Handler = Callable[[Any, tuple[type, ...], tuple[Any, ...], Mapping[str, Any]], Any]

_WeakRef: Any = reductions.StorageWeakRef  # untyped in torch


class _Written(NamedTuple):
    """What was written into a storage, on a grid of its elements; of shape [] if they have no row.

    `serial` is the number of the linear form that was last when it was written.
    """

    alive: Any
    found: Provenance
    serial: int
    row: Row | None


table: dict[int, _Written] = {}
"""By the address of a storage that other tensors share, the values that were written into it."""


def taint(
    storage: _Storage, found: Provenance, holders: int, is_held: bool, write: Write | None = None
) -> None:
    """Note a write of a value with this provenance, unless only `holders` tensors see it.

    `is_held` says that Python sees the storage itself.
    """
    if is_seen(storage, holders, is_held):
        hold(storage, found, write)


def is_seen(storage: _Storage, holders: int, is_held: bool) -> bool:
    """Return whether more than `holders` tensors see a storage, or Python sees the very storage."""
    # One more is the Python object of the storage itself.
    return is_held or storage_use_count(storage._cdata) > holders + 1


def hold(storage: _Storage, found: Provenance, write: Write | None = None) -> None:
    """Note that what a storage holds depends on some sources, whoever reads it.

    Without a write, which tells where they stand, all of it does.
    """
    known = table.get(storage._cdata)
    before = () if known is None else (known.found,)
    row = None if write is None or (known is not None and known.row != write.row) else write.row
    if write is None or row is None:
        parts = [each.lost(()) for each in (*before, found)]
    else:
        fine = [regrouped(each, write.view) for each in before]
        parts = [*fine, write.on(fine[0].shape if fine else write.grid)]
    content = union(parts)
    note("a write into shared memory", content, (*before, found))
    table[storage._cdata] = _Written(_WeakRef(storage), content, next(serials), row)
    watch()


def tainted(storage: _Storage) -> Provenance | None:
    """Return what was written into a storage, None where nothing was that is still of interest."""
    known = table.get(storage._cdata)
    return None if known is None or known.found.universe.state == "settled" else known.found


def seen_by(tensor: Tensor) -> Provenance | None:
    """Return what was written into the storage of a tensor, as far as it sees it, None if nothing.

    That is over and above what the tensor itself is known to depend on.
    """
    storage = storage_of(tensor)
    content = None if storage is None else tainted(storage)
    if storage is None or content is None:
        return None
    view, row = view_of(tensor), table[storage._cdata].row
    if row is not None and row == row_of(storage, tensor):
        return read(content, view)
    lost = content.lost(view.shape)
    note("a view of shared memory", lost, [content])
    return lost


def concerns(*nested: Any) -> bool:
    """Return whether something was written into the memory of a tensor among arguments."""
    if not table:
        return False
    with DisableTorchFunction():
        for tensor in tensors_in(*nested):
            if has_storage(tensor) and tensor.untyped_storage()._cdata in table:
                return True
    return False


def written(storage: _Storage) -> int:
    """Return the number of the form that was last when a storage was written into, -1 if never."""
    known = table.get(storage._cdata)
    return -1 if known is None else known.serial


def purge() -> None:
    """Forget the storages that died, and those whose sources are constants by now."""
    for address, known in list(table.items()):
        if known.alive.expired() or known.found.universe.state == "settled":
            table.pop(address, None)


class _Watch(TorchFunctionMode):
    """Hands every call with a tracked operand, in whatever guise, to the handler."""

    def __init__(self, handler: _Handler) -> None:
        super().__init__()
        self._handler = handler
        self._calls = 0  # since the storages that died were last forgotten

    def __torch_function__(
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self._calls += 1
        if self._calls > len(table):  # so that it takes no more than the calls themselves
            self._calls = 0
            purge()
        if local.is_paused or not _is_wanted():
            return func(*args, **(kwargs or {}))
        return self._handler(func, types, args, kwargs or {})


class _Local(threading.local):
    def __init__(self) -> None:
        self.mode: _Watch | None = None
        self.guards: list[Guard] = []
        self.is_paused = False


local = _Local()
_handlers: list[_Handler] = []


def install(handler: _Handler) -> None:
    """Say what runs a function whose operands must be looked up."""
    _handlers[:] = [handler]


Guard = Callable[[Any, Any, Any], None]
"""Is given a function, its arguments and its keywords."""


@contextmanager
def guard(refuse: Guard) -> Generator[None]:
    """Hand all calls within the block to a function that may raise."""
    local.guards.append(refuse)
    watch()
    try:
        yield
    finally:
        local.guards.remove(refuse)
        if not _is_wanted():
            unwatch()


def is_guarded() -> bool:
    """Return whether this thread is within a block whose calls are handed to a guard."""
    return bool(local.guards)


def check(func: Any, args: Any, kwargs: Any) -> None:
    """Hand a call to the guards, the innermost first."""
    for each in reversed(local.guards):
        each(func, args, kwargs)


def begin() -> None:
    """Look operands up where an older write is still of interest, or Python has read a value."""
    if table:
        purge()
    if _is_wanted():
        watch()


def tidy() -> None:
    """Stop looking operands up where there is nothing to find any more."""
    if table:
        purge()
    if not _is_wanted():
        unwatch()


def _is_wanted() -> bool:
    return bool(table or local.guards) or controlling() is not None


def end() -> None:
    """Stop looking operands up, with the last recording of this thread."""
    if table:
        purge()
    if local.mode is not None:
        unwatch()


def watch() -> None:
    """Look the operands of this thread up from now on, where there is anything to find."""
    if local.mode is None and _is_wanted():
        local.mode = _Watch(_handlers[0])
        # Below the modes that are open: a block that ends takes its own mode from the top.
        _restack(lambda modes: [local.mode, *modes])


def unwatch() -> None:
    """Stop looking operands up; a mode whose handler runs, and is put back after it, is kept."""
    ours = local.mode

    def without(modes: list[Any]) -> list[Any]:
        if ours in modes:
            local.mode = None
        return [mode for mode in modes if mode is not ours]

    if ours is not None:
        _restack(without)


@contextmanager
def kept_up() -> Generator[None]:
    """Look operands up after the block too, if that was begun in a hook of a pass of autograd.

    Autograd puts back the modes that were open when its pass began: one that a hook has opened, as
    after a write into shared memory, is gone with it.
    """
    before = local.mode
    try:
        yield
    finally:
        begun = local.mode
        if begun is not None and begun is not before:
            _restack(lambda modes: [begun, *(mode for mode in modes if type(mode) is not _Watch)])


def _restack(change: Callable[[list[Any]], list[Any]]) -> None:
    modes: list[Any] = []
    while len_torch_function_stack():
        modes.insert(0, pop_torch_function_stack())
    for mode in change(modes):
        push_on_torch_function_stack(mode)


def storage_of(tensor: Tensor) -> _Storage | None:
    """Return the storage of a tensor, None where it has none, as sparse and wrapped ones have."""
    with DisableTorchFunction():  # it is no escape that we look
        return tensor.untyped_storage() if has_storage(tensor) else None


def is_held(tensor: Tensor) -> bool:
    """Return whether Python holds the storage of a tensor as an object, whose reads are no ops."""
    return _references(tensor) > _UNHELD


def _references(tensor: Tensor) -> int:
    return sys.getrefcount(storage_of(tensor))


_UNHELD = _references(torch.empty(1))
