"""Draws of random programs that are written into memory, or made in another thread."""

import threading
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli
from torch.utils._python_dispatch import TorchDispatchMode

from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.recording.record import current
from oracles import forced, is_forced
from programs.control.register import coin

POOL = ThreadPool(1)
"""A thread that is older than every recording."""


def in_thread(function: Callable[[], Tensor]) -> Tensor:
    """Return what a function returns in its own thread."""
    found: list[Tensor] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def in_pool(function: Callable[[], Tensor]) -> Tensor:
    """Return what a function returns in a thread that was there before."""
    return POOL.apply(function)


class _Forced(TorchDispatchMode):
    """Lets a draw that torch writes into memory, below the library, be a value."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._value = value

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        if not func.name().startswith(("aten::bernoulli", "aten::multinomial")):
            return func(*args, **given)
        into: Tensor = given.get("out", args[0])
        return into.copy_(self._value)


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "bernoulli_": lambda p: torch.empty((), dtype=torch.float64).bernoulli_(p),
    "multinomial": lambda p: torch.multinomial(
        torch.stack([1 - p, p]), 1, out=torch.empty(1, dtype=torch.int64)
    )[0].double(),
}


def poured(logit: Tensor, way: str) -> Tensor:
    """Return a coin that torch writes into memory; where draws are forced, only in recordings."""
    if not is_forced():
        return WAYS[way](logit.sigmoid())
    if current() is None:
        return coin(logit)
    value = forced(Bernoulli(logits=untrack(logit).detach()), logit.shape)
    with _Forced(value):
        return WAYS[way](logit.sigmoid())


NAMES = {"in_thread": in_thread, "in_pool": in_pool, "poured": poured}
