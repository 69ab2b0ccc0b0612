"""Resampling: which particles go on, drawn in proportion to their weights.

Each scheme gives every particle as many copies as its weight says on average, so that the estimate
of the evidence is unbiased under all of them. They differ in how the draws hang together:

- multinomial: K independent draws. Their score is that of K categorical draws.
- stratified: one draw in each K-th of the cumulative weights.
- systematic: a comb of K teeth, moved by one uniform number.

Of the last two an outcome has for its probability the length of an interval, which may be as short
as it likes while its slope is not: the score exists, but E[score²] is infinite.

Douc, Cappé and Moulines (2005), "Comparison of resampling schemes for particle filtering".

>>> import torch
>>> ancestors(torch.tensor([0.0, -torch.inf]), "systematic").tolist()
[0, 0]
"""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, constraints

from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.context.place import place
from ancestral.trace.context.stack import local
from ancestral.trace.nodes.distribution_params import parameters
from ancestral.trace.program.site import found

Resampling = Literal["multinomial", "stratified", "systematic"]
SCHEMES: tuple[str, ...] = get_args(Resampling)
WITH_SCORE = frozenset({"multinomial"})


class Comb(Distribution):
    """The ancestors of K particles, where the uniform numbers that choose them lie a K-th apart.

    Particle k takes the ancestor in whose part of the cumulative weights (k + u_k) / K falls. Draws
    are [*batch, K].

    Args:
        log_weights: of the particles, [*batch, K], normalized.
        is_systematic: whether all u_k are one number; else each is drawn by itself (stratified).
    """

    arg_constraints = {"log_weights": constraints.real_vector}  # noqa: RUF012 (as in torch)
    support = constraints.independent(constraints.nonnegative_integer, 1)

    def __init__(self, log_weights: Tensor, *, is_systematic: bool) -> None:
        self.log_weights = log_weights
        self.is_systematic = is_systematic
        super().__init__(log_weights.shape[:-1], log_weights.shape[-1:], validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw ancestors, [*sample, *batch, K]."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            count = shape[-1]
            one = (*shape[:-1], 1) if self.is_systematic else shape
            noise = torch.rand(one, dtype=self.log_weights.dtype, device=self.log_weights.device)
            ends = self._ends.expand(shape).contiguous()
            teeth = (self._teeth + noise).expand(shape) / count
            chosen = torch.searchsorted(ends, teeth.contiguous(), right=True)
            # Rounding may leave the last end below one: beyond it is the last that has a weight.
            has_weight = self.log_weights > -math.inf
            last = torch.where(has_weight, self._teeth.long(), 0).amax(-1, keepdim=True)
            return torch.minimum(chosen, last)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of ancestors [*batch, K], of the intervals of u: [*batch].

        Of particle k, u_k lies between K C(a_k - 1) - k and K C(a_k) - k, for the cumulative
        weights C; if all u_k are one, it lies in all of these.
        """
        count = self.event_shape[0]
        ends = self._ends.expand(value.shape)
        starts = torch.cat([torch.zeros_like(ends[..., :1]), ends[..., :-1]], -1)
        high = (count * ends.gather(-1, value) - self._teeth).clamp(max=1)
        low = (count * starts.gather(-1, value) - self._teeth).clamp(min=0)
        if self.is_systematic:
            return (high.amin(-1) - low.amax(-1)).clamp(min=0).log()
        return (high - low).clamp(min=0).log().sum(-1)

    @property
    def _ends(self) -> Tensor:
        return self.log_weights.exp().cumsum(-1)

    @property
    def _teeth(self) -> Tensor:
        weights = self.log_weights
        return torch.arange(weights.shape[-1], dtype=weights.dtype, device=weights.device)


def ancestors(log_weights: Tensor, scheme: Resampling) -> Tensor:
    """Draw which particle each one goes on from, [K, *batch]; within a recording, a site.

    Args:
        log_weights: of the particles, [K, *batch], normalized.
        scheme: how the draws hang together.
    """
    last = log_weights.movedim(0, -1)
    if scheme == "multinomial":
        return _drawn(Categorical(logits=last, validate_args=False), (log_weights.shape[0],))
    return _drawn(Comb(last, is_systematic=scheme == "systematic"), ()).movedim(-1, 0)


def _drawn(fn: Distribution, sample_shape: tuple[int, ...]) -> Tensor:
    """Return a draw, which recordings know as the site of the ancestors."""
    if not local.traces:
        return fn.sample(sample_shape)
    where = place()._replace(variable="ancestors")
    value: Tensor = found(
        fn,
        parameters(fn),
        _unseen(lambda: fn.sample(sample_shape)),
        sample_shape=sample_shape,
        is_reparameterized=False,
        where=where,
    )
    return value


def _unseen(draw: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return a function that draws what the site itself is recorded of."""

    def drawn() -> Tensor:
        was_inside, local.is_inside = local.is_inside, True
        try:
            return untrack(draw())  # it depends on no more than the site says
        finally:
            local.is_inside = was_inside

    return drawn
