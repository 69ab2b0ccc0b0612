"""Divergences of distributions, found in a way that the compiler can follow.

Torch looks `kl_divergence` up by classes, in a cache that it fills on the way. While the compiler
reads a loss function, the code of that function is another, which looks in a table made before.
"""

import itertools
import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.distributions import Distribution, kl

from ancestral.provenance.tensor.torch_internals import DISPATCH_KL, KL_REGISTRY
from ancestral.trace.context.patch import subclasses

_Divergence = Callable[[Any, Any], Tensor]
_TABLE: dict[type, dict[type, _Divergence]] = {}
_seen: list[tuple[int, int]] = []


def divergence_of(p: Any, q: Any) -> Tensor:
    """Return KL(p || q), as `torch.distributions.kl_divergence` does.

    Raises:
        NotImplementedError: if torch knows none for their classes.
    """
    if type(q) not in _TABLE.get(type(p), {}):
        raise NotImplementedError("no KL(p || q) is registered for these two classes")
    return _TABLE[type(p)][type(q)](p, q)


def _kl_divergence(p: Any, q: Any) -> Tensor:
    from ancestral.estimators.capture.kl_divergence import divergence_of  # in torch's own module

    return divergence_of(p, q)


FUNCTION: Any = kl.kl_divergence
CODE = _kl_divergence.__code__


def fill() -> None:
    """Find the function of every two classes, unless that was done since one was added."""
    kinds = [*subclasses(Distribution)]
    state = len(kinds), len(KL_REGISTRY)
    if _seen == [state]:
        return
    _seen[:] = [state]
    find = getattr(*DISPATCH_KL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes for which there are several
        for p, q in itertools.product(kinds, kinds):
            if any(issubclass(p, a) and issubclass(q, b) for a, b in KL_REGISTRY):
                _TABLE.setdefault(p, {})[q] = find(p, q)
