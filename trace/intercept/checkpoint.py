"""Checkpoints and saved tensors: values packed by hooks or computed anew for a backward pass.

A checkpoint runs its function twice. Its draws are those of the first run; the second, which only
rebuilds the graph, draws nothing new. A reentrant checkpoint runs the first without a graph, where
the density of a draw has no gradient: draws in it are refused. Hooks that pack what is saved see
plain tensors that may depend on anything drawn so far, which those they are handed carry.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.autograd.graph
import torch.utils.checkpoint
from torch import Tensor

from ancestral.provenance.algebra.provenance import Provenance, Universe
from ancestral.provenance.tensor.arguments import tensors_in
from ancestral.provenance.tensor.tensor import attach, provenance, raw
from ancestral.provenance.tensor.torch_internals import CheckpointFrame, EnableTorchFunction
from ancestral.trace.context.errors import TransformError
from ancestral.trace.context.patch import Patch
from ancestral.trace.context.stack import local
from ancestral.trace.context.switch import Interceptor
from ancestral.trace.intercept.straight_through import look_at

_Function = Callable[..., Any]


def _without_draws(where: str, advice: str, call: Callable[[], Any]) -> Any:
    """Run a function without a graph, and raise if it drew."""
    trace = local.traces[-1]
    before = len(trace.everything)
    local.without_graph += 1
    try:
        result = call()
    finally:
        local.without_graph -= 1
    for node in list(trace.everything)[before:]:
        if node.is_drawn:
            raise TransformError(
                f"site {node.name!r} at {node.location} is drawn within {where} without a graph, "
                f"so that the score of the draw would be lost; {advice}"
            )
    return result


def _refusing(original: _Function) -> Any:
    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        if not local.traces or not torch.is_grad_enabled():
            return original(*args, **kwargs)
        return _without_draws(
            "torch.utils.checkpoint, whose reentrant variant runs",
            "pass use_reentrant=False, or draw outside of the checkpoint",
            lambda: original(*args, **kwargs),
        )

    return classmethod(apply)


def _custom(original: Any) -> Any:
    """Return how a function with its own backward is applied, whose forward has no graph."""

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        def call() -> Any:
            return original.__get__(None, cls)(*args, **kwargs)

        is_learned = torch.is_grad_enabled() and any(
            t.requires_grad or provenance(t) is not None for t in tensors_in(args, kwargs)
        )
        if not local.traces or not is_learned:
            return call()
        where = f"{cls.__name__}.forward, which runs"
        result = _without_draws(where, "draw before, and pass the value in", call)
        look_at(result)
        return result

    return classmethod(apply)


def _rebuilding(original: _Function) -> _Function:
    """Return how a checkpoint that runs again is made: its draws are no new sites."""

    @functools.wraps(original)
    def made(self: Any, recompute_fn: _Function, *args: Any, **kwargs: Any) -> None:
        def rebuild(*given: Any, **options: Any) -> Any:
            was, local.is_inside = local.is_inside, True
            try:
                return recompute_fn(*given, **options)
            finally:
                local.is_inside = was

        original(self, rebuild, *args, **kwargs)

    return made


def _packing(original: _Function) -> _Function:
    @functools.wraps(original)
    def made(self: Any, pack_hook: _Function, unpack_hook: _Function) -> None:
        def pack(saved: Tensor) -> Any:
            if not local.traces:
                return pack_hook(saved)
            with EnableTorchFunction():
                return pack_hook(_of_everything(saved))

        original(self, pack, unpack_hook)

    return made


def _of_everything(saved: Tensor) -> Tensor:
    """Return a plain tensor as one that may depend on all that was drawn so far."""
    universe = local.traces[0].universe
    if type(saved) not in (Tensor, torch.nn.Parameter) or not universe.sources:
        return saved
    return attach(raw(Tensor.detach, saved), _everything(universe).lost(tuple(saved.shape)))


_so_far: WeakKeyDictionary[Universe, tuple[int, Provenance]] = WeakKeyDictionary()


def _everything(universe: Universe) -> Provenance:
    """Return what may depend on all the sources of a universe, of shape []."""
    count, known = _so_far.get(universe, (0, None))
    if known is None or count < len(universe.sources):
        newer = list(universe.sources)[count:]
        known = universe.depending([*newer, *(known.members if known else ())], ())
        _so_far[universe] = (len(universe.sources), known)
    return known


class Checkpoints(Interceptor):
    """Meets checkpoints, and the hooks of what is saved."""

    def patches(self) -> Iterable[Patch]:
        """Return how they are made or applied."""
        yield Patch(torch.utils.checkpoint.CheckpointFunction, "apply", _refusing)
        yield Patch(torch.autograd.Function, "apply", _custom, is_raw=True)
        yield Patch(CheckpointFrame, "__init__", _rebuilding)
        yield Patch(torch.autograd.graph.saved_tensors_hooks, "__init__", _packing)
