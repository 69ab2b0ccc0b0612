"""Fast sampling: distributions of torch that draw by a few known ops on their parameters.

What a draw depends on is read off the parameters of its distribution, so that the ops within it
need not be followed one by one. That is left out where it can be proven to show nothing more:

- the method and the class are torch's own, and the method is one that was read: it looks at the
  declared parameters alone, writes into nothing but its own result, and reads no number;
- its result is floating and made without a step that has no useful derivative. A draw of integers,
  as that of a `Categorical`, tells that the gradient of reparameterized parents stops there, also
  where `torch.no_grad` has hidden it;
- the parameters are plain or tracked tensors, and the shape is given in numbers.

Whatever else there is, such as relaxed, transformed and rejection samplers, is followed op by op.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Size, Tensor, nn
from torch.distributions import Bernoulli, Distribution, Exponential, Normal, Poisson, Uniform

from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.tensor import ProvenanceTensor, Unseen, raw
from ancestral.provenance.tensor.torch_internals import len_torch_function_stack
from ancestral.trace.context.switch import unmet
from ancestral.trace.nodes.distribution_params import is_class_of_torch

_Method = Callable[..., Any]


class _Simple(NamedTuple):
    """How a method of a family draws."""

    kind: type[Distribution]  # the class that it is simple for
    read: tuple[str, ...]  # the attributes that it reads
    one: Callable[..., Tensor] | None = None  # draws each case once, where the op is known


def _normal(loc: Tensor, scale: Tensor) -> Tensor:
    noise = _empty(loc.shape, dtype=loc.dtype, device=loc.device).normal_()
    return loc + noise * scale


# Torch's own, which a recording may replace.
_empty, _bernoulli, _detach = torch.empty, torch.bernoulli, Tensor.detach
_SIMPLE: dict[_Method, _Simple] = {
    method: how
    for method, how in (
        (Bernoulli.sample, _Simple(Bernoulli, ("probs",), lambda p: _bernoulli(_detach(p)))),
        (Exponential.rsample, _Simple(Exponential, ("rate",))),
        (Normal.sample, _Simple(Normal, ("loc", "scale"))),
        (Normal.rsample, _Simple(Normal, ("loc", "scale"), _normal)),
        (Poisson.sample, _Simple(Poisson, ("rate",))),
        (Uniform.rsample, _Simple(Uniform, ("low", "high"))),
    )
    if method.__module__ == how.kind.__module__  # or somebody has replaced it
}
"""How the methods draw that are known; the values are those that the method draws itself."""

# Returns how many function modes are open, which may want to see the ops of torch's own method.
_is_overridden: Callable[[], int] = len_torch_function_stack
_PLAIN = frozenset({Tensor, ProvenanceTensor, nn.Parameter})
_OF_VALUES = (RuntimeError, ValueError, IndexError, ArithmeticError)


def drawn(fn: Any, is_reparameterized: bool) -> Any:
    """Return a draw of a distribution, untracked where nothing shows."""
    name = "rsample" if is_reparameterized else "sample"
    method = getattr(type(fn), name)
    original = getattr(method, "__wrapped__", method)  # it is replaced while a recording is open
    return drawing(original)(fn) if original in _SIMPLE else getattr(fn, name)()


@functools.lru_cache(maxsize=1024)
def drawing(original: _Method) -> _Method:
    """Return a method that draws, such that it is run untracked where nothing shows."""
    known = _SIMPLE.get(original)
    if known is None:
        return original
    kind: Any
    kind, read, one = known
    thread = storage.local

    def draws(fn: Any, *args: Any, **kwargs: Any) -> Any:
        # A guard wants to see every op, to refuse those on what is tracked.
        is_once = not kwargs and (not args or (type(args[0]) is Size and not args[0]))
        own: Any = type(fn)
        is_known = (own is kind or _is_as(own, kind)) and not thread.guards
        if is_known and (is_once or _is_of_numbers(args, kwargs)):
            # Also what is computed at its first use, and kept by the distribution for later ones.
            given = [*map(fn.__getattribute__, read)]
            if _PLAIN.issuperset(map(type, given)):
                try:
                    with unmet():
                        if one is not None and is_once and not _is_overridden():
                            with Unseen():  # one or two parameters
                                if given[0].shape == fn._batch_shape == given[-1].shape:
                                    return one(*given)
                        return raw(original, fn, *args, **kwargs)
                except _OF_VALUES:  # to be raised once more, and noted
                    pass
        return original(fn, *args, **kwargs)

    return draws


@functools.lru_cache(maxsize=1024)
def _is_as(kind: Any, known: Any) -> bool:
    """Return whether a class is one of Pyro that adds nothing to how the known one draws."""
    return issubclass(kind, known) and is_class_of_torch(kind)


def _is_of_numbers(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether the arguments are a shape that is given in numbers."""
    shape: Any = args[0] if args else kwargs.get("sample_shape")
    is_shape = type(shape) in (torch.Size, tuple, list) and len(args) + len(kwargs) == 1
    return is_shape and all(type(size) is int for size in shape)
