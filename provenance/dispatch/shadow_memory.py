"""Shadow memory: the sources that bytes depend on, followed below autograd.

This is a second account of dependencies, kept to check the first: it shares no code with the rules,
knows nothing of the class of a tensor, and sees what no override of a torch function does, such as
scripted code, backward passes and the bodies of custom ops. Whatever shares bytes (views, `data`,
arrays of numpy) is one cell; an op lets the sources of all its tensors into everything that it
makes or writes.

>>> import torch
>>> from ancestral.provenance.algebra.provenance import Source
>>> memory = Memory()
>>> x = torch.ones(3)
>>> memory.add(x, {Source("z", (3,)): "here"})
>>> with Following(memory):
...     y = (x * 2).sum()
>>> [source.name for source in memory.of(y)], [source.name for source in memory.of(x[1:])]
(['z'], ['z'])
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.multiprocessing import reductions
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from ancestral.provenance.algebra.provenance import Source
from ancestral.provenance.tensor.storage import storage_of
from ancestral.provenance.tensor.torch_internals import (
    DisableTorchFunction,
    TorchDispatchMode,
    tree_leaves,
)

Sources = dict[Source, Any]
"""Sources, each with where it came in: whatever `Following` was told to note."""

_begin_mode: Any = TorchDispatchMode.__init__  # untyped too
_WeakRef: Any = reductions.StorageWeakRef  # untyped in torch
_of_shape = "only the shape and the type of its operand matter"
_of_noise = "its operand gives the shape of what is drawn from numbers"

VALUE_FREE: Mapping[str, str] = {
    **dict.fromkeys(
        "empty_like zeros_like ones_like full_like rand_like randn_like randint_like new_empty "
        "new_empty_strided new_zeros new_ones new_full resize_as_".split(),
        _of_shape,
    ),
    **dict.fromkeys(
        "normal_functional bernoulli.p bernoulli.float_out uniform_ random_ exponential_ "
        "geometric_ cauchy_ log_normal_ normal_ bernoulli_.float".split(),
        _of_noise,
    ),
    "set_": "a tensor is laid over other bytes, and none of them changes",
}
"""The ops, or their overloads, whose results depend on no value of their operands."""

WRITES_UNSAID: Mapping[str, tuple[str, ...]] = {
    # The running statistics are written though the schema does not say so.
    "native_batch_norm": ("running_mean", "running_var"),
    "_batch_norm_impl_index": ("running_mean", "running_var"),
    "cudnn_batch_norm": ("running_mean", "running_var"),
    "miopen_batch_norm": ("running_mean", "running_var"),
}


SEPARATE: Mapping[str, Mapping[int, tuple[int, ...]]] = {
    # The sizes of the batch come from the lengths.
    "_pack_padded_sequence": {1: (1,)},
}
"""Of ops with several results: the operands that one of them depends on, where not on all."""


class _Bytes:
    """Some bytes of memory, marked one by one: views of one storage may lie within each other."""

    def __init__(self) -> None:
        self._first = 0  # the address of the first mark
        self._marks = np.zeros(0, dtype=bool)

    def of(self, tensor: Tensor, start: int) -> Any:
        """Return the marks of a tensor whose memory begins at an address, to read and to write."""
        with DisableTorchFunction():
            size, shape = tensor.element_size(), tuple(tensor.shape)
            strides = [step * size for step in tensor.stride()]
            first = start + int(tensor.storage_offset()) * size
        end = first + size + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if not self._marks.size:
            self._first = first
        before, behind = self._first - first, end - self._first - self._marks.size
        if before > 0 or behind > 0:
            self._marks = np.pad(self._marks, (max(before, 0), max(behind, 0)))
            self._first = min(self._first, first)
        marks = self._marks[first - self._first :]
        return np.lib.stride_tricks.as_strided(marks, (*shape, size), (*strides, 1))


@dataclass(eq=False)
class _Cell:
    """The bytes of one storage while it lives."""

    weak: Any
    first: int
    size: int
    sources: Sources
    partial: dict[Source, _Bytes]  # the bytes that each was let into, if not into all

    def widen(self, tensor: Tensor, sources: Sources) -> None:
        """Let sources into the bytes of a tensor."""
        is_whole = self._is_whole(tensor)
        for source, at in sources.items():
            if is_whole:
                self.partial.pop(source, None)
            elif source not in self.sources:
                self.partial[source] = _Bytes()
            self.sources.setdefault(source, at)
            if source in self.partial:
                self.partial[source].of(tensor, self.first)[...] = True

    def seen_by(self, tensor: Tensor) -> Sources:
        """Return the sources that stand within the bytes of a tensor."""
        if not self.partial or self._is_whole(tensor):
            return dict(self.sources)
        return {
            source: at
            for source, at in self.sources.items()
            if source not in self.partial or self.partial[source].of(tensor, self.first).any()
        }

    def _is_whole(self, tensor: Tensor) -> bool:
        """Return whether a tensor has all bytes of the storage, or no memory that is known."""
        if is_lazy(tensor) or not self.first:
            return True
        with DisableTorchFunction():
            return tensor.numel() in (0, self.size / tensor.element_size()) and (
                tensor.is_contiguous()
            )


@dataclass(eq=False)
class _View:
    """How one tensor differs from what its bytes say: sources taken away by untrack, and claims."""

    removed: frozenset[Source]
    added: Sources


class Memory:
    """The sources of every storage that was met, and of the tensors that differ from theirs."""

    def __init__(self) -> None:
        self._cells: dict[int, _Cell] = {}
        self._views: Any = WeakTensorKeyDictionary()

    def of(self, tensor: Tensor) -> Sources:
        """Return the sources that the value of a tensor depends on."""
        cell, view = self._cell(tensor), self._views.get(tensor)
        found = {} if cell is None else cell.seen_by(tensor)
        if view is None:
            return found
        return {**{s: at for s, at in found.items() if s not in view.removed}, **view.added}

    def add(self, tensor: Tensor, sources: Sources) -> None:
        """Let sources into the bytes of a tensor, and so into all that shares them."""
        cell, view = self._cell(tensor), self._views.get(tensor)
        if cell is None:
            self.claim(tensor, sources)
            return
        cell.widen(tensor, sources)
        if view is not None:
            view.removed -= sources.keys()

    def renew(self, tensor: Tensor, sources: Sources) -> None:
        """Say what fresh bytes, or bytes that were overwritten, depend on."""
        cell = self._cell(tensor)
        self._views.pop(tensor, None)
        if cell is None:
            self.claim(tensor, sources)
        else:
            kept = dict(sources)
            cell.sources.clear()
            cell.partial.clear()
            cell.widen(tensor, kept)

    def claim(self, tensor: Tensor, sources: Sources) -> None:
        """Add sources to one tensor alone, and to views that are taken of it later."""
        view = self._views.setdefault(tensor, _View(frozenset(), {}))
        for source, at in sources.items():
            view.added.setdefault(source, at)

    def trust(self, tensor: Tensor, sources: Sources | None = None) -> None:
        """Take it on trust that a tensor depends on nothing but these sources now."""
        cell = self._cell(tensor)
        removed = frozenset[Source]() if cell is None else frozenset(cell.sources)
        self._views[tensor] = _View(removed, dict(sources or {}))

    def inherit(self, view: Tensor, base: Tensor) -> None:
        """Let a view of a tensor differ from its bytes as the tensor does."""
        known = self._views.get(base)
        if known is not None and view not in self._views:
            self._views[view] = _View(known.removed, dict(known.added))

    def clear(self) -> None:
        """Forget everything."""
        self._cells.clear()
        self._views.clear()

    def _cell(self, tensor: Tensor) -> _Cell | None:
        storage = storage_of(tensor)
        if storage is None:
            return None
        known = self._cells.get(storage._cdata)
        if known is None:
            self._prune()
            first, size = _extent(storage)
            around = self._around(first, size)
            # Another storage on the same bytes: they came back from numpy.
            sources = {} if around is None else around.sources
            partial = {} if around is None else around.partial
            known = _Cell(_WeakRef(storage), first, size, sources, partial)
            self._cells[storage._cdata] = known
        else:
            before = known.first, known.size
            known.first, known.size = _extent(storage)
            if before != (known.first, known.size):  # it was resized
                known.partial.clear()
        return known

    def _around(self, first: int, size: int) -> _Cell | None:
        for cell in self._cells.values():
            if first and cell.first < first + size and first < cell.first + cell.size:
                return cell
        return None

    def _prune(self) -> None:
        # An address is not taken again while a weak reference holds it.
        for address in [a for a, cell in self._cells.items() if cell.weak.expired()]:
            del self._cells[address]


@dataclass(frozen=True)
class Step:
    """One op as the dispatcher runs it, and the sources that came in."""

    op: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: tuple[Tensor, ...]
    sources: Sources

    @property
    def name(self) -> str:
        """The name of the op."""
        return str(self.op)


class Following(TorchDispatchMode):
    """Keeps the memory up with every op that the dispatcher of this thread runs."""

    def __init__(
        self,
        memory: Memory,
        where: Callable[[Any], Any] = str,
        look: Callable[[Step], None] = lambda _: None,
        is_due: Callable[[], bool] = lambda: True,
    ) -> None:
        """Follow into `memory`.

        Args:
            memory: what is kept up.
            where: what to note of an op by which sources come in.
            look: sees each step after it was taken.
            is_due: whether sources flow at this moment.
        """
        _begin_mode(self)
        self._memory, self._where, self._look, self._is_due = memory, where, look, is_due
        self.steps = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an op and let its sources flow."""
        kwargs = kwargs or {}
        with DisableTorchFunction():
            given = list(tensors_of(args, kwargs))
            sources: Sources = {}
            if self._is_due() and not _is_value_free(func):
                found = [source for tensor in given for source in self._memory.of(tensor)]
                sources = dict.fromkeys(found, self._where(func)) if found else {}
            held = {key: t for t in reversed(given) if (key := _address(t)) is not None}
            result = func(*args, **kwargs)
            results = tuple(tensors_of((result,), {}))
            self._flow(func, args, kwargs, held, results, sources)
            self.steps += 1
            self._look(Step(func, args, kwargs, results, sources))
            return result

    def _flow(
        self,
        op: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        held: Mapping[int, Tensor],
        results: tuple[Tensor, ...],
        sources: Sources,
    ) -> None:
        for tensor in written(op, args, kwargs):
            self._memory.add(tensor, sources)
        separate = SEPARATE.get(base_name(op), {})
        for index, result in enumerate(results):
            if index in separate:
                given = tensors_of([args[i] for i in separate[index]], {})
                own = {source for tensor in given for source in self._memory.of(tensor)}
                sources = {source: at for source, at in sources.items() if source in own}
            address = _address(result)
            if address is None:
                self._memory.claim(result, sources)
            elif address not in held:
                self._memory.renew(result, sources)
            elif held[address] is not result:
                self._memory.inherit(result, held[address])


class Calling(TorchFunctionMode):
    """Shows every torch function of this thread to `before`, and its result to what that returns.

    `failed` is called instead where the function raises. All this stands here, among what does not
    count as the caller of an op.
    """

    def __init__(
        self, before: Callable[..., Callable[[Any], None]], failed: Callable[[], None]
    ) -> None:
        super().__init__()
        self._before, self._failed = before, failed

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a function between the two."""
        kwargs = kwargs or {}
        after = self._before(func, args, kwargs)
        try:
            result = func(*args, **kwargs)
        except BaseException:
            self._failed()
            raise
        after(result)
        return result


def tensors_of(args: Iterable[Any], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """Yield the tensors in arguments, at any depth."""
    for leaf in tree_leaves((list(args), dict(kwargs))):
        if isinstance(leaf, Tensor):
            yield leaf
        elif isinstance(leaf, slice):
            yield from tensors_of((leaf.start, leaf.stop, leaf.step), {})
        elif isinstance(leaf, (set, frozenset)):
            yield from tensors_of(leaf, {})


def _extent(storage: Any) -> tuple[int, int]:
    """Return where the bytes of a storage begin, and how many they are; fake ones are nowhere."""
    try:
        return storage.data_ptr(), storage.nbytes()
    except RuntimeError:
        return 0, 0


def _address(tensor: Tensor) -> int | None:
    storage = storage_of(tensor)
    return None if storage is None else int(storage._cdata)


def base_name(op: Any) -> str:
    """Return the name of an op without namespace and overload."""
    return str(op.overloadpacket.__name__)


def _is_value_free(op: Any) -> bool:
    name = base_name(op)
    return name in VALUE_FREE or f"{name}.{op._overloadname}" in VALUE_FREE


def written(op: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """Yield the tensors that an op writes, by its schema."""
    arguments = op._schema.arguments
    unsaid = WRITES_UNSAID.get(base_name(op), ())
    given = {a.name: args[i] for i, a in enumerate(arguments) if i < len(args)} | dict(kwargs)
    if not given.get("training", True):
        unsaid = ()  # statistics are only read
    for argument in arguments:
        alias = argument.alias_info
        if argument.name in unsaid or (alias is not None and alias.is_write):
            yield from tensors_of((given.get(argument.name),), {})
