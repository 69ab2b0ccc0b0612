"""Own density: that of a draw under the very distribution that drew it, where it is a known op.

Such a value is in the support, and of the shape and the type of the parameters: there is nothing
to check and nothing to broadcast. That is left out for the methods of torch that were read, and
for plain and tracked parameters; whatever else there is goes by `log_prob`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution

from ancestral.provenance.tensor.linear_form import version_of
from ancestral.provenance.tensor.tensor import ProvenanceTensor, Unseen
from ancestral.provenance.tensor.torch_internals import len_torch_function_stack


class _Known(NamedTuple):
    """How a family scores its own draws."""

    method: Callable[..., Any]  # torch's own
    event: int  # dimensions of the parameter that belong to one draw
    density: Callable[[Tensor, Tensor], Tensor]


def _bernoulli(logits: Tensor, value: Tensor) -> Tensor:
    return -_cross_entropy(logits, value, reduction=0)


def _categorical(logits: Tensor, value: Tensor) -> Tensor:
    return logits.gather(-1, value.unsqueeze(-1)).squeeze(-1)


# Torch's own, which a recording may replace.
_cross_entropy: Callable[..., Tensor] = torch.binary_cross_entropy_with_logits
_KNOWN: dict[type[Distribution], _Known] = {
    kind: _Known(kind.log_prob, event, density)
    for kind, event, density in ((Bernoulli, 0, _bernoulli), (Categorical, 1, _categorical))
    if kind.log_prob.__module__ == kind.__module__  # or somebody has replaced it
}
_PLAIN = frozenset({Tensor, ProvenanceTensor, nn.Parameter})


def own_density(fn: Distribution, value: Tensor) -> Tensor | None:
    """Return log q(z) of a value z, plain, that `fn` has drawn; None where it is no known op.

    Args:
        fn: the distribution of independent elements.
        value: what it drew, of any number of samples, and nobody has written into.
    """
    known = _KNOWN.get(type(fn))
    if known is None or len_torch_function_stack() or "log_prob" in vars(fn):
        return None
    if version_of(value):  # somebody has written into it, what the distribution may not draw
        return None
    method: Any = type(fn).log_prob
    if getattr(method, "__wrapped__", method) is not known.method:
        return None
    logits = vars(fn).get("logits")  # not to be computed here, and kept by the distribution
    if logits is None or type(logits) not in _PLAIN:
        return None
    with Unseen():
        size = logits.shape
        if value.shape != (size[:-1] if known.event else size):
            return None
        if not known.event and value.dtype is not logits.dtype:
            return None
        return known.density(logits, value)
