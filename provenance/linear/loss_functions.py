"""Reduced losses: the functions of `torch.nn.functional` that sum or average what they compute.

Such a loss is the sum of what it is without the reduction, which is computed when it is asked for.
"""

import functools
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor

from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.algebra.provenance import Provenance
from ancestral.provenance.linear.build import Linear, is_tracked
from ancestral.provenance.linear.transpose import reshaped
from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.arguments import Args, Kwargs
from ancestral.provenance.tensor.control_flow import computed_anew, controlling, later_of
from ancestral.provenance.tensor.linear_form import (
    Call,
    Hole,
    OverwrittenError,
    call_of,
    made_of,
    version_of,
)
from ancestral.provenance.tensor.tensor import NO_KEYWORDS, attach, provenance, raw, site_of

Divisor = Callable[[Tensor], float | Tensor]


class Unreduced(NamedTuple):
    """A loss of `torch.nn.functional` before its reduction, computed when it is asked for.

    `divisor` tells from it what the reduction divides the sum by. `besides` is what the loss
    depends on that no argument shows: decisions of Python, and what memory was overwritten with.
    """

    function: Callable[..., Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    divisor: Divisor
    versions: tuple[tuple[Tensor, int], ...]
    besides: tuple[Provenance, ...]
    has_history: bool

    def compute(self) -> Tensor:
        """Return the loss of every element.

        Raises:
            OverwrittenError: if an argument was overwritten since.
        """
        if any(raw(version_of, tensor) != version for tensor, version in self.versions):
            raise OverwrittenError
        bound = _signature(self.function).bind(*self.args, **self.kwargs)
        bound.arguments |= {"reduction": "none"}
        with torch.set_grad_enabled(self.has_history), computed_anew():
            each = self.function(*bound.args, **bound.kwargs)
        for found in self.besides:
            known, lost = provenance(each), found.lost(tuple(each.shape))
            each = attach(each, lost if known is None else known.union(lost))
        return each

    def scale(self, each: Tensor) -> float | Tensor:
        """Return what the reduction multiplies the sum of the elements with."""
        divisor = self.divisor(each)
        return 1 / max(divisor, 1) if isinstance(divisor, int) else divisor.reciprocal()  # type: ignore[union-attr]


_signature = functools.cache(inspect.signature)


@functools.cache
def _names_of(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(_signature(function).parameters)


def loss(function: Callable[..., Any], shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    """Return the loss without its reduction, of which that is the sum, as a linear row does."""
    given = {**dict(zip(_names_of(function), args, strict=False)), **kwargs}
    if given.get("size_average") is not None or given.get("reduce") is not None:
        return None
    divisor = _divisor(function, given)
    if divisor is None:
        return None
    # Each argument is a tensor or an atom.
    versions = tuple([(x, raw(version_of, x)) for x in given.values() if isinstance(x, Tensor)])
    besides = [controlling()]
    for tensor, _ in versions:
        known = provenance(tensor)
        if known is not None and known.universe.is_past:
            besides.append(later_of(known.universe))
    if storage.table:
        besides += [provenance(tensor) for tensor, _ in versions]
    held = tuple(dict.fromkeys(found for found in besides if found is not None))
    unreduced = Unreduced(
        function, tuple(args), dict(kwargs), divisor, versions, held, torch.is_grad_enabled()
    )
    return partial(reshaped, ()), (unreduced,), _SUM


def _divisor(function: Callable[..., Any], given: dict[str, Any]) -> Divisor | None:
    """Return what a loss with these arguments divides by, None where that depends on a source."""
    match given.get("reduction", "mean"):
        case "sum":
            return lambda each: 1
        case "batchmean":
            size = int(given["input"].shape[0])
            return lambda each: size
        case "mean" if function in _OF_CLASSES:
            return _of_classes(given)
        case "mean" if function in _OF_WEIGHTS and given.get("weight") is not None:
            return None  # divided by the sum of the weights
        case "mean":
            return lambda each: each.numel()
        case _:
            return None


def _of_classes(given: dict[str, Any]) -> Divisor | None:
    """The classes' weights count, ignored targets do not."""
    target, weight = given["target"], given.get("weight")
    if target.dtype.is_floating_point:  # probabilities of the classes
        return lambda each: each.numel()
    ignored = given.get("ignore_index", -100)
    if is_tracked(target):
        # How many count depends on the draws, unless none of them can be ignored.
        return (lambda each: each.numel()) if weight is None and _never(target, ignored) else None
    if is_tracked(weight):
        return None
    return partial(_counted, target, weight, ignored)


def _counted(target: Tensor, weight: Tensor | None, ignored: int, each: Tensor) -> Tensor:
    counted = target != ignored
    if weight is None:
        return counted.sum().double()
    return weight.detach()[target[counted]].sum().double()


def _never(target: Tensor, ignored: int) -> bool:
    """Return whether no target can be the class that is ignored: draws count from zero."""
    made: Any = getattr(target, "_form", None) or target
    while isinstance(made, tuple):
        call = call_of(made)
        if call is None or call.function not in _MOVING:
            return False
        (made,) = made_of(made)
    site = site_of(made)
    support = getattr(getattr(site, "fn", None), "support", None)
    lowest = getattr(support, "lower_bound", None)
    return ignored < 0 and isinstance(lowest, int) and lowest >= 0


_SUM = Call(torch.sum, (Hole(0),), NO_KEYWORDS, ())
_MOVING = (torch.reshape, Tensor.expand)
_OF_WEIGHTS = (F.mse_loss, F.l1_loss)
_OF_CLASSES = (F.cross_entropy, F.nll_loss)
