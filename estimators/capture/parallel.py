"""Parallel modules: what `DistributedDataParallel` does around its module is done around a plan.

No graph can hold its collectives and its hooks. While the compiler reads a loss function, and while
a plan is made, it is its module alone, which no other rank has to do with: ranks may make plans at
different steps. In each step, what it does before its module is done before the code of the plan,
and what it does after on the loss with its scores, which are what it has to find parameters in.
"""

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.compiler import is_dynamo_compiling
from torch.nn.parallel import DistributedDataParallel

from ancestral.provenance.tensor.torch_internals import AROUND_PARALLEL, active_parallel, compiler

_lock = threading.RLock()


class _Within(threading.local):
    """The parallel modules that were called while this thread makes a plan; by copies, whose."""

    def __init__(self) -> None:
        self.met: dict[Any, None] | None = None
        self.originals: dict[int, Any] = {}


_within = _Within()


def _replaced(original: Callable[..., Any]) -> Callable[..., Any]:
    def forward(self: Any, *inputs: Any, **kwargs: Any) -> Any:
        if is_dynamo_compiling():
            _ = id(self)  # by which the compiler guards that it is this one
        elif _within.met is not None:
            _within.met[_within.originals.get(id(self), self)] = None
        else:
            return original(self, *inputs, **kwargs)
        if self.mixed_precision is not None:
            raise NotImplementedError(
                "mixed_precision= of DistributedDataParallel is not compiled: use torch.autocast"
            )
        return self.module(*inputs, **kwargs)

    forward.__wrapped__ = original  # type: ignore[attr-defined]
    return forward


FORWARD = (
    DistributedDataParallel,
    "forward",
    _replaced(vars(DistributedDataParallel)["forward"]),
)
"""The method that the compiler is to read in place of that of the class, whose name it has."""


def _copied(self: Any, memo: dict[int, Any]) -> Any:
    """Return a copy with a copy of the module, and nothing that talks to other ranks."""
    made = memo[id(self)] = object.__new__(type(self))
    vars(made).update(vars(self))
    vars(made)["_modules"] = copy.deepcopy(self._modules, memo)
    _within.originals[id(made)] = self
    return made


@contextmanager
def alone() -> Iterator[dict[Any, None]]:
    """Let parallel modules be their modules alone within the block; yield those that are called."""
    kind, name, forward = FORWARD
    with _lock:
        before: Any = vars(kind)[name]
        _within.met, _within.originals = {}, {}
        setattr(kind, name, forward)
        kind.__deepcopy__ = _copied  # type: ignore[attr-defined]
        try:
            yield _within.met
        finally:
            del kind.__deepcopy__  # type: ignore[attr-defined]
            setattr(kind, name, before)
            _within.met = None


def put_within(code: Callable[..., Any], modules: Sequence[Any], at: int) -> Callable[..., Any]:
    """Return code, whose output `at` is the loss, as these parallel modules around it run it."""
    if not modules:
        return code
    before, after = AROUND_PARALLEL

    def run(*inputs: Any) -> Any:
        for module in modules:
            getattr(module, before)()
        outputs = [*code(*inputs)]
        for module in reversed(modules):
            outputs[at] = getattr(module, after)(outputs[at])
        return tuple(outputs)

    return run


def is_around() -> bool:
    """Return whether this thread runs the module of a parallel one."""
    return active_parallel() is not None


def unsplit() -> Any:
    """Return a block within which the compiler leaves graphs in one piece.

    Within a parallel module it would take them apart, to send gradients of a part early.
    """
    return compiler().config.patch(optimize_ddp=False)
