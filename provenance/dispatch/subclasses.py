"""Subclasses of torch's tensors: those that leave its functions alone, and those that do not.

A passive class adds methods or attributes to a tensor. Where one meets a tracked tensor, the result
is a tracked tensor and none of that class, whose own could not carry provenance. What another class
computes is not followed.
"""

import functools
from typing import Any

from torch import Tensor, nn

from ancestral.provenance.algebra.provenance import Universe
from ancestral.provenance.dispatch.propagate import tracked
from ancestral.provenance.tensor.tensor import ProvenanceTensor


class UnsupportedTensorError(NotImplementedError):
    """A tracked tensor would enter a kind of tensor that cannot carry provenance."""


def refuse(kind: str, *given: Any) -> None:
    """Raise an `UnsupportedTensorError` if anything that is given is tracked."""
    names = names_of(*given)
    if names:
        raise UnsupportedTensorError(
            f"a {kind} at {Universe.locate()} would hold or meet a value that depends on "
            f"{', '.join(map(repr, sorted(names)))}, and a {kind} cannot carry provenance; use "
            "padded tensors and masks of your own, a plain tensor "
            "(tensor.as_subclass(torch.Tensor)), or cut the dependency with an.untrack where no "
            "gradient needs it"
        )


def names_of(*given: Any) -> frozenset[str]:
    """Return the names of the sources that anything that is given depends on."""
    return frozenset(source.name for found in tracked(*given) for source in found.sources)


@functools.lru_cache(maxsize=1024)
def is_passive(kind: type) -> bool:
    """Return whether a class leaves functions and ops of torch alone."""
    function, dispatch = (
        next((vars(c)[name] for c in kind.__mro__ if name in vars(c)), None)
        for name in ("__torch_function__", "__torch_dispatch__")
    )
    return function in PASSIVE and dispatch is vars(Tensor)["__torch_dispatch__"]


def are_seen(kinds: tuple[type, ...]) -> bool:
    """Return whether all of some classes leave the ops of torch alone."""
    return OURS.issuperset(kinds) or all(kind in OURS or is_passive(kind) for kind in kinds)


OURS = frozenset({ProvenanceTensor, Tensor, nn.Parameter})
PASSIVE = (vars(Tensor)["__torch_function__"], vars(nn.Parameter)["__torch_function__"])


def by_others(func: Any, types: tuple[type, ...], args: Any, kwargs: Any) -> Any:
    """Let the classes that compute on their own answer, or refuse to meet them."""
    others = [kind for kind in types if kind is not ProvenanceTensor and not is_passive(kind)]
    for kind in others:
        result = kind.__torch_function__(func, types, args, kwargs)  # type: ignore[attr-defined]
        if result is not NotImplemented:
            return result
    refuse(others[0].__name__, args, kwargs)
    return NotImplemented  # nothing is tracked any more
