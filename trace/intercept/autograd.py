"""Autograd passes: gradients that carry the sources of the tensors they were computed from.

Autograd runs in C++ and hands plain tensors to whoever looks. While a recording is open, every pass
is followed: what it returns, the ``.grad`` that it accumulates, what hooks are handed and
what a custom ``backward`` computes carry the sources of the tensors that the pass began from, those
met on the way included. A gradient of `ancestral.backward` is an estimate and a constant.

`DistributedDataParallel` looks for what a pass will reach in what its module returns, where no
score is: the surrogate has to be shown to it again.
"""

import functools
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode

from ancestral.provenance.algebra.provenance import Provenance, Universe
from ancestral.provenance.dispatch.inplace import mark_shared
from ancestral.provenance.dispatch.propagate import mark_lost, tracked
from ancestral.provenance.tensor import storage as watching
from ancestral.provenance.tensor.arguments import tensors_in
from ancestral.provenance.tensor.control_flow import is_constant
from ancestral.provenance.tensor.tensor import ProvenanceTensor, alias, provenance, raw
from ancestral.provenance.tensor.torch_internals import (
    AROUND_PARALLEL,
    BACKWARD,
    BACKWARD_HOOKS,
    DisableTorchFunction,
    EnableTorchFunction,
    tree_leaves,
)
from ancestral.trace.context.patch import Patch
from ancestral.trace.context.stack import local
from ancestral.trace.context.switch import Interceptor
from ancestral.trace.nodes.autograd_graph import nodes_of

_Function = Callable[..., Any]


class _Pass:
    """One pass through autograd, and the provenances that reached it so far."""

    def __init__(self) -> None:
        self.found: dict[Provenance, None] = {}  # ordered

    def meet(self, *values: Any) -> None:
        """Note what values depend on; once a gradient was taken, they are constants."""
        for found in tracked(*values):
            if found.universe.state != "settled":
                self.found[found.lost(())] = None


# Of all threads: the hooks of one pass may run on the thread of a device.
_passes: list[_Pass] = []


def _reaching() -> list[Provenance]:
    """Return what has reached the passes that run."""
    return [found for each in _passes for found in each.found]


class _Meeting(TorchFunctionMode):
    """Follows what Python computes within a pass: in hooks and in a custom `backward`."""

    def __init__(self, within: _Pass) -> None:
        super().__init__()
        self._within = within

    def __torch_function__(
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in ("__get__", "__set__"):
            return result
        self._within.meet(result)
        given = {id(tensor) for tensor in tensors_in(args, kwargs)}
        fresh = [t for t in tensors_in(result) if id(t) not in given and _is_ours(t)]
        mark_lost(fresh, list(self._within.found))
        return result


def _is_ours(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, ProvenanceTensor)


def _passing(original: _Function) -> _Function:
    """Return what runs a pass, and follows what comes out of it."""

    @functools.wraps(original)
    def run_backward(outputs: Any, gradients: Any, *args: Any, **kwargs: Any) -> Any:
        if not local.traces:
            return original(outputs, gradients, *args, **kwargs)
        this = _Pass()
        this.meet(outputs, gradients)
        inputs = tuple(tensors_in(args[2] if len(args) > 2 else kwargs.get("inputs", ())))
        nodes = nodes_of(outputs) if this.found else None
        _passes.append(this)
        try:
            # A tracked loss runs its own backward with tracking off.
            with (
                watching.kept_up(),
                EnableTorchFunction(),
                _Meeting(this),
                _hooks_of(nodes or ()),
            ):
                result = original(outputs, gradients, *args, **kwargs)
        finally:
            _passes.remove(this)
        if this.found:
            _mark(
                nodes or nodes_of(outputs), inputs, result, (outputs, gradients), list(this.found)
            )
        return result

    return run_backward


def _mark(
    nodes: dict[Any, None], inputs: Iterable[Tensor], result: Any, given: Any, found: list[Any]
) -> None:
    """Give what a pass returned or accumulated its sources."""
    known = {id(tensor) for tensor in tensors_in(given)}
    mark_lost([t for t in tensors_in(result) if id(t) not in known], found)
    if result is not None and any(True for _ in tensors_in(result)):
        return  # it was returned instead of accumulated
    leaves = [node.variable for node in nodes if hasattr(node, "variable")]
    kept = [tensor for tensor in _retaining if _grad_fn(tensor) in nodes]
    for tensor in {id(t): t for t in (*(inputs or leaves), *kept)}.values():
        _mark_grad(tensor, found)


def _mark_grad(tensor: Tensor, found: list[Provenance]) -> None:
    with DisableTorchFunction():
        gradient = tensor.grad
    if gradient is None or not _is_ours(gradient):
        return
    if all(each.universe.state == "used" for each in found):
        # Of an estimate, the memory is marked: once the recording has ended, it is a constant.
        storage = raw(watching.storage_of, gradient)
        for each in found if storage is not None else ():
            watching.hold(storage, each)
            _estimates.append(storage._cdata)
        return
    before = provenance(gradient)
    mark_lost(gradient, found)
    for each in found:
        mark_shared(gradient, each, before)


_estimates: list[int] = []
"""The addresses of the storages that estimates were accumulated in."""


def _release_estimates() -> None:
    for address in _estimates:
        held = watching.table.get(address)
        if held is not None and is_constant(held[1].universe):
            del watching.table[address]
    _estimates.clear()


def _grad_fn(tensor: Tensor) -> Any:
    with DisableTorchFunction():
        return tensor.grad_fn


@contextmanager
def _hooks_of(nodes: Iterable[Any]) -> Generator[None]:
    """Let the hooks of leaves, registered before the recording too, see tracked gradients."""
    changed: list[tuple[dict[int, Any], int, Any]] = []
    for node in nodes:
        leaf = getattr(node, "variable", None)
        for name, follow in (
            ("_backward_hooks", _followed),
            ("_post_accumulate_grad_hooks", _after_accumulation),
        ):
            hooks = getattr(leaf, name, None) or {}
            for key, hook in list(hooks.items()):
                hooks[key] = follow(hook)
                changed.append((hooks, key, hook))
    try:
        yield
    finally:
        for hooks, key, hook in changed:
            if key in hooks:  # a hook may have removed itself
                hooks[key] = hook


def _followed(hook: _Function) -> _Function:
    """Return a hook that is handed gradients with their sources."""
    if getattr(hook, "_is_followed", False):
        return hook

    @functools.wraps(hook, updated=())
    def handed(*args: Any, **kwargs: Any) -> Any:
        if not _passes:
            return hook(*args, **kwargs)
        found = _reaching()
        result = hook(*(_marked(item, found) for item in args), **kwargs)
        for each in _passes:
            each.meet(result)
        return result

    handed._is_followed = True  # type: ignore[attr-defined]
    return handed


def _marked(value: Any, found: list[Provenance]) -> Any:
    """Return gradients on the same memory, with their sources."""
    if isinstance(value, Tensor) and _is_ours(value) and found:
        own = alias(value)
        mark_lost(own, [*tracked(value), *found])
        return own
    return tuple(_marked(item, found) for item in value) if type(value) is tuple else value


def _after_accumulation(hook: _Function) -> _Function:
    if getattr(hook, "_is_followed", False):
        return hook

    @functools.wraps(hook, updated=())
    def handed(leaf: Tensor) -> Any:
        _mark_grad(leaf, _reaching())
        return hook(leaf)

    handed._is_followed = True  # type: ignore[attr-defined]
    return handed


def _registering(original: _Function, follow: Callable[[_Function], _Function]) -> _Function:
    @functools.wraps(original)
    def register(self: Tensor, hook: _Function) -> Any:
        return original(self, follow(hook))

    return register


def _listing(original: _Function) -> _Function:
    """Return what lists the backward hooks of a module."""

    @functools.wraps(original)
    def listed(self: nn.Module) -> Any:
        found = original(self)
        if isinstance(found, tuple):
            return tuple([_followed(hook) for hook in hooks] for hooks in found)
        return [_followed(hook) for hook in found]

    return listed


_kept: list["weakref.ref[Tensor]"] = []


class _Retaining:
    """The tensors whose gradient is kept though they are no leaves."""

    def __iter__(self) -> Iterator[Tensor]:
        _kept[:] = [ref for ref in _kept if ref() is not None]
        for ref in _kept:
            tensor = ref()
            if tensor is not None:
                yield tensor


_retaining = _Retaining()


def _keeping(original: _Function) -> _Function:
    @functools.wraps(original)
    def retain_grad(self: Tensor) -> None:
        original(self)
        _kept.append(weakref.ref(self))

    return retain_grad


_looking: "WeakKeyDictionary[Universe, dict[DistributedDataParallel, None]]" = WeakKeyDictionary()
_, _AFTER = AROUND_PARALLEL


def _ending(original: _Function) -> _Function:
    """Return what a parallel module does after its own."""

    @functools.wraps(original)
    def after(self: DistributedDataParallel, output: Any) -> Any:
        ended = original(self, output)
        if self.require_backward_grad_sync and (self.find_unused_parameters or self.static_graph):
            for trace in local.traces:
                _looking.setdefault(trace.universe, {})[self] = None
            for own, given in zip(tree_leaves(ended), tree_leaves(output), strict=True):
                if own is not given and type(own) is type(given) is ProvenanceTensor:
                    own._provenance, own._form = given._provenance, given._form  # it is the same
        return ended

    return after


def shown(total: Tensor, universe: Universe) -> Tensor:
    """Return what a gradient is taken of, with what parallel modules put around it."""
    for module in _looking.get(universe, ()):
        if module.require_backward_grad_sync:
            total = getattr(module, _AFTER)(total)
    return total


class Gradients(Interceptor):
    """Meets the passes through autograd."""

    def patches(self) -> Iterable[Patch]:
        """Return what runs them, and what they hand gradients to."""
        yield Patch(*BACKWARD, _passing)
        for name, follow in (
            ("register_hook", _followed),
            ("register_post_accumulate_grad_hook", _after_accumulation),
        ):
            yield Patch(Tensor, name, partial(_registering, follow=follow))
        for place in BACKWARD_HOOKS:
            yield Patch(*place, _listing)
        yield Patch(Tensor, "retain_grad", _keeping)
        yield Patch(DistributedDataParallel, _AFTER, _ending)

    def leave(self) -> None:
        """Let the program go on with estimates as with any numbers."""
        if _estimates:
            _release_estimates()
