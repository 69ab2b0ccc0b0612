"""Batch semantics: element b of a result depends on element b of the parameters only.

That is what a batch of distributions means, by whatever ops a class of torch computes a density, a
moment or a divergence; not all of those ops have a rule, and some merge the batch with events. Of
users' classes, which may do otherwise, only what the ops say is known.
"""

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import (
    Beta,
    Dirichlet,
    Distribution,
    Gamma,
    LowRankMultivariateNormal,
    MultivariateNormal,
    StudentT,
    TransformedDistribution,
    Wishart,
    kl,
)

from ancestral.provenance.algebra.alignment import LOST, Shape
from ancestral.provenance.algebra.alignment_loss import note
from ancestral.provenance.algebra.refine import is_whole, sharpened
from ancestral.provenance.tensor.tensor import ProvenanceTensor, raw
from ancestral.provenance.tensor.torch_internals import DISPATCH_KL, KL_MEMOIZE
from ancestral.trace.context.compile import as_torch_is
from ancestral.trace.context.patch import Patch
from ancestral.trace.context.stack import local
from ancestral.trace.context.switch import Interceptor, switch
from ancestral.trace.nodes.distribution_params import (
    Held,
    is_of_torch,
    over_batch,
    param_provenance,
)

_Function = Callable[..., Any]


def keep_of_density(fn: Distribution, value: object, density: object) -> None:
    """Let a density, or another number for each draw [*sample, *batch, *event], keep the batch."""
    if is_lossy(density) and isinstance(value, Tensor) and is_of_torch(fn):
        event = len(fn.event_shape)
        size = tuple(raw(Tensor.size, value))
        batch = size[: len(size) - event]
        if event <= len(size) and _shape_of(density) == _broadcast(batch, fn.batch_shape):
            _keep(density, fn, [*over_batch(fn), Held(value, event)], 0)


def keep_of_draw(fn: Distribution, result: object) -> None:
    """Let a number for each distribution [*batch], or each element of a draw, keep the batch."""
    if is_lossy(result) and is_of_torch(fn):
        shape = _shape_of(result)
        for event in {0, len(fn.event_shape)}:
            if shape == (*fn.batch_shape, *fn.event_shape[:event]):
                _keep(result, fn, over_batch(fn), event)


def keep_of_pair(p: Distribution, q: Distribution, result: object) -> None:
    """Let a number for each pair of two batches of distributions keep the batch."""
    if not is_lossy(result) or not is_of_torch((p, q)):
        return
    if _shape_of(result) == _broadcast(p.batch_shape, q.batch_shape):
        _keep(result, p, [*over_batch(p), *over_batch(q)], 0)


def is_lossy(result: object) -> bool:
    """Return whether a result is tracked and has lost a dimension of some source."""
    return isinstance(result, ProvenanceTensor) and not is_whole(result._provenance)


def _keep(result: object, fn: Distribution, held: Iterable[Held], event: int) -> None:
    """Claim for a result [*batch, *event] what each parameter shows over the batch."""
    assert isinstance(result, ProvenanceTensor)
    shape = _shape_of(result)
    batch = len(shape) - event
    claimed = param_provenance(fn, list(held), shape[:batch], None)
    if claimed is None:
        return
    known = result._provenance
    spread = claimed.remap(shape, (*range(batch), *(LOST,) * event))
    found = known if spread is None else sharpened(known, spread)
    if found is not known:
        note(type(fn).__name__, found, [known])
        result._provenance = found
        result._form = None  # its summands know less than they do together


def _shape_of(result: object) -> Shape:
    return tuple(raw(Tensor.size, result))


def _broadcast(a: Iterable[int], b: Iterable[int]) -> Shape | None:
    if a == b:
        return tuple(a)
    try:
        return tuple(torch.broadcast_shapes(tuple(a), tuple(b)))
    except RuntimeError:  # the class of the user, whose shapes mean something else
        return None


def _valued(original: _Function) -> _Function:
    """Return a function of a value that is no draw: cdf, icdf."""

    @functools.wraps(original)
    @as_torch_is
    def computed(self: Distribution, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if switch.is_on and local.traces and not self.event_shape:
            keep_of_density(self, args[0] if args else kwargs.get("value"), result)
        return result

    return computed


def _described(original: _Function) -> _Function:
    """Return a function of the parameters alone: entropy, mean."""

    @functools.wraps(original)
    @as_torch_is
    def computed(self: Distribution) -> Any:
        result = original(self)
        if switch.is_on and local.traces:
            keep_of_draw(self, result)
        return result

    return computed


# What torch computes by ops that know less than what a batch means; the rest, ops follow.
_BY_MEANING: dict[type[Any], str] = {
    Beta: "mode",
    Dirichlet: "mode",
    Gamma: "cdf",
    LowRankMultivariateNormal: "entropy",
    MultivariateNormal: "entropy",
    StudentT: "variance",
    TransformedDistribution: "cdf icdf",
    Wishart: "entropy variance",
}


def _dispatching(original: _Function) -> _Function:
    """Return what finds the function for the divergence of two classes."""

    @functools.wraps(original)
    def dispatch(p: type[Any], q: type[Any]) -> Any:
        found = original(p, q)
        is_of_torch = getattr(found, "__module__", None) == kl.__name__
        return _diverging(found) if is_of_torch else found

    return dispatch


@functools.lru_cache(maxsize=1024)
def _diverging(original: _Function) -> _Function:
    @functools.wraps(original)
    def diverging(p: Distribution, q: Distribution) -> Any:
        result = original(p, q)
        if local.traces:
            keep_of_pair(p, q, result)
        return result

    return diverging


class _Functions(dict[Any, Any]):
    """The functions for divergences that recordings find, beside those that torch keeps."""

    def beside(self, theirs: dict[Any, Any]) -> Self:
        """Return these, to be used in the place of others."""
        self._theirs = theirs
        return self

    def clear(self) -> None:
        """Forget all: torch does where a function is registered."""
        super().clear()
        self._theirs.clear()


def _computing(name: str) -> _Function:
    """Return what replaces a method or a property that tells of the distribution."""
    computing = _valued if name in ("cdf", "icdf") else _described

    def replaced(original: Any) -> Any:
        if isinstance(original, property):
            assert original.fget is not None
            return property(computing(original.fget))
        return computing(original)

    return replaced


class Batches(Interceptor):
    """Meets what torch computes of distributions by ops that know less than what a batch means."""

    def __init__(self) -> None:
        self._functions = _Functions()

    def patches(self) -> Iterator[Patch]:
        """Return the moments and the distribution functions, and what finds divergences."""
        for kind, names in _BY_MEANING.items():
            for name in names.split():
                yield Patch(kind, name, _computing(name), is_raw=True, stays=True)
        # Users hold on to `kl_divergence` itself, but not to where it finds what to call.
        yield Patch(*DISPATCH_KL, _dispatching)
        yield Patch(*KL_MEMOIZE, self._functions.beside)

    def enter(self) -> None:
        """Find the functions anew: others may have been registered since."""
        dict.clear(self._functions)
