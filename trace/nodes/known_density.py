"""Known densities: families of torch whose density is one known op on their logits.

What it depends on is read off the logits and the value, so that the ops within `log_prob` need not
be followed one by one: the result has the provenance, and the linear form, that they give it. A
value that the distribution itself has drawn is in the support: there is nothing to check. All that
is left out unless the method is torch's own and was read, and what it is given are plain or tracked
tensors of one shape and type; whatever else there is goes by `log_prob`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution

from ancestral.provenance.algebra.alignment import LOST
from ancestral.provenance.algebra.alignment_loss import joined
from ancestral.provenance.algebra.provenance import Provenance
from ancestral.provenance.dispatch.linear_forms import form_of
from ancestral.provenance.linear.transpose import negative
from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.linear_form import serials, version_of
from ancestral.provenance.tensor.tensor import NO_KEYWORDS, ProvenanceTensor, Unseen, attach
from ancestral.provenance.tensor.torch_internals import (
    is_functorch_wrapped_tensor,
    len_torch_function_stack,
)


class _Known(NamedTuple):
    """How a family scores a value."""

    method: Callable[..., Any]  # torch's own
    event: int  # dimensions of the logits that belong to one draw
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
        value: what it drew, [*batch].
    """
    known = _KNOWN.get(type(fn))
    if known is None or "log_prob" in vars(fn):
        return None
    method: Any = type(fn).log_prob
    if getattr(method, "__wrapped__", method) is not known.method:
        return None
    if version_of(value):  # somebody has written into it, what the distribution may not draw
        return None
    logits = _logits(fn, value, known.event)
    if logits is None:
        return None
    with Unseen():
        return known.density(logits, value)


def is_known(method: Callable[..., Any]) -> bool:
    """Return whether `tracked_density` may be asked in the place of a method of torch."""
    return any(known.method is method for known in _KNOWN.values())


def tracked_density(fn: Any, value: Any, *, is_own: bool) -> Tensor | None:
    """Return the density of a value, tracked; None where `log_prob` is to be followed.

    Args:
        fn: the distribution.
        value: of the shape of its batch, [*batch].
        is_own: whether the distribution drew it, and nobody has written into it since.

    Raises:
        ValueError: if the value is not in the support.
    """
    known = _KNOWN.get(type(fn))
    if known is None or storage.table or storage.local.guards:
        return None
    logits = _logits(fn, value, known.event)
    if logits is None or not torch.is_grad_enabled():
        return None
    ours, theirs = getattr(logits, "_provenance", None), getattr(value, "_provenance", None)
    found = ours or theirs
    if found is None or found.universe.is_past or (known.event and ours is not None):
        return None
    if ours is not None and theirs is not None and ours is not theirs:
        if ours.universe is not theirs.universe:
            return None
        found = ours._memo.get(theirs) or joined(_cross_entropy.__name__, ours, theirs)
    if fn._validate_args and not is_own:
        fn._validate_sample(value)
    try:
        return _picked(logits, value, found) if known.event else _crossed(logits, value, found)
    except RuntimeError:  # to be raised once more, and noted
        return None


def _crossed(logits: Tensor, value: Tensor, found: Provenance) -> Tensor:
    """Return the density of a Bernoulli, with the form of a cross-entropy whose sign is turned."""
    with Unseen():
        cross_entropy = _cross_entropy(logits, value, reduction=0)
        density = -cross_entropy
    attach(density, found)
    density._form = (next(serials), negative, (attach(cross_entropy, found),))  # type: ignore[attr-defined]
    return density


def _picked(logits: Tensor, value: Tensor, found: Provenance) -> Tensor:
    """Return the density of a Categorical whose logits depend on no source."""
    with Unseen():
        index = value.unsqueeze(-1)
        picked = logits.gather(-1, index)
        density = picked.squeeze(-1)
    size = found.shape
    column = found.remap((*size, 1), (*range(len(size)), LOST))
    assert column is not None
    given = (attach(picked, column), -1)
    attach(density, found)._form = form_of(Tensor.squeeze, size, given, NO_KEYWORDS)  # type: ignore[attr-defined]
    return density


def _logits(fn: Distribution, value: Any, event: int) -> Tensor | None:
    """Return the logits of a distribution, if they and the value are what is known."""
    logits: Any = vars(fn).get("logits")  # not to be computed here, and kept for others
    if type(logits) not in _PLAIN or type(value) not in _PLAIN or len_torch_function_stack():
        return None
    if is_functorch_wrapped_tensor(logits) or is_functorch_wrapped_tensor(value):
        return None
    with Unseen():
        size = logits.shape
        is_alike = event or value.dtype is logits.dtype
        is_known = is_alike and value.shape == (size[:-1] if event else size)
    return logits if is_known else None
