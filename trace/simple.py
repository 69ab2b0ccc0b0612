"""Simple families: distributions of torch that draw by a few known ops on their parameters.

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
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Exponential, Normal, Poisson, Uniform

from ancestral.provenance import watching
from ancestral.provenance.tensor import ProvenanceTensor, raw
from ancestral.trace.keys import unmet

_Method = Callable[..., Any]
_SIMPLE: dict[_Method, tuple[type[Distribution], tuple[str, ...]]] = {
    method: (kind, read)
    for method, kind, read in (
        (Bernoulli.sample, Bernoulli, ("probs",)),
        (Exponential.rsample, Exponential, ("rate",)),
        (Normal.sample, Normal, ("loc", "scale")),
        (Normal.rsample, Normal, ("loc", "scale")),
        (Poisson.sample, Poisson, ("rate",)),
        (Uniform.rsample, Uniform, ("low", "high")),
    )
    if method.__module__ == kind.__module__  # or somebody has replaced it
}
"""The methods, with the class that they are simple for and the attributes that they read."""

_PLAIN = frozenset({Tensor, ProvenanceTensor, nn.Parameter})
_OF_VALUES = (RuntimeError, ValueError, IndexError, ArithmeticError)


def drawn(fn: Any, is_reparameterized: bool) -> Any:
    """Return a draw of a distribution, out of sight where nothing shows."""
    name = "rsample" if is_reparameterized else "sample"
    method = getattr(type(fn), name)
    original = getattr(method, "__wrapped__", method)  # it is replaced while a recording is open
    return drawing(original)(fn) if original in _SIMPLE else getattr(fn, name)()


@functools.lru_cache(maxsize=1024)
def drawing(original: _Method) -> _Method:
    """Return a method that draws, such that it is run out of sight where nothing shows."""
    known = _SIMPLE.get(original)
    if known is None:
        return original
    kind, read = known

    def draws(fn: Distribution, *args: Any, **kwargs: Any) -> Any:
        # A guard wants to see every op, to refuse those on what is tracked.
        if type(fn) is kind and _is_of_numbers(args, kwargs) and not watching.is_guarded():
            # Also what is computed at its first use, and kept by the distribution for later ones.
            given = [getattr(fn, name) for name in read]
            if all(item.__class__ in _PLAIN for item in given):
                try:
                    with unmet():
                        return raw(original, fn, *args, **kwargs)
                except _OF_VALUES:  # to be raised once more, and noted
                    pass
        return original(fn, *args, **kwargs)

    return draws


def _is_of_numbers(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether the arguments are none, or a shape that is given in numbers."""
    if not args and not kwargs:
        return True
    shape: Any = args[0] if args else kwargs.get("sample_shape")
    is_shape = type(shape) in (torch.Size, tuple, list) and len(args) + len(kwargs) == 1
    return is_shape and all(type(size) is int for size in shape)
