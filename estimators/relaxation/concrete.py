"""Relaxed values: the continuous noise behind a finite draw, given what was drawn.

        z = log p + noise,   drawn = its sign or its argmax,   relaxed = σ(z/τ) or softmax(z/τ)

Maddison, Mnih and Teh (2017), "The concrete distribution", section 3.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution

from ancestral.estimators.rerun.quadrature import OPEN_UNIFORM
from ancestral.estimators.rerun.site_draw import SiteDraw


@dataclass(frozen=True, eq=False)
class Relaxed:
    """A relaxed draw, [*shape, *event], as a function of the parameters in two ways.

    Attributes:
        free: with the noise held fixed, whatever would be drawn then.
        given: with the noise of the conditional draw held fixed, so that the same is drawn.
        before: the value before it was squashed, z, as `free` has it.
        before_given: z as `given` has it.
    """

    free: Tensor
    given: Tensor
    before: Tensor
    before_given: Tensor


def check_temperature(estimator: object, temperature: float) -> None:
    """Raise unless a temperature is positive.

    Raises:
        ValueError: if it is none.
    """
    if not temperature > 0:
        name = type(estimator).__name__
        raise ValueError(f"{name}: temperature must be greater than 0, not {temperature}")


def relaxed(site: SiteDraw, temperature: float, logits: Tensor | None = None) -> Relaxed:
    """Draw the noise behind the value of a Bernoulli or a OneHotCategorical site, given that.

        bits:     u = v p + (1 - p) for a one, v (1 - p) for a zero,   z = φ + log u - log(1 - u)
        one-hot:  z_k = -log(-log v_k) for the one,   z_i = -log(-log v_i / p_i - log v_k)

    Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein (2017), "REBAR", appendix; Grathwohl et al.
    (2018), "Backpropagation through the void", appendix B.

    Args:
        site: the site.
        temperature: τ.
        logits: what to take for its logits, of the same value.
    """
    logits = site.parameter("logits") if logits is None else logits
    tiny, eps = torch.finfo(logits.dtype).tiny, torch.finfo(logits.dtype).eps
    v = site.draw(OpenUniform(torch.zeros_like(logits.detach()))).clamp(tiny, 1 - eps / 2)
    if isinstance(site.fn, Bernoulli):
        p, q = torch.sigmoid(logits), torch.sigmoid(-logits)
        is_one = site.value > 0
        # Of both tails what does not cancel: u, and 1 - u.
        u = torch.where(is_one, v * p + q, v * q)
        rest = torch.where(is_one, (1 - v) * p, 1 - v * q)
        given = logits + u.clamp(min=tiny).log() - rest.clamp(min=tiny).log()
        free = logits + (given - logits).detach()
        squash = _sigmoid
    else:
        log_p = logits.log_softmax(-1)
        log_e = (-v.log()).log()
        of_drawn = (log_e * site.value).sum(-1, keepdim=True)
        others = torch.logaddexp(log_e - log_p, of_drawn)
        given = -torch.where(site.value > 0, of_drawn, others)
        free = log_p + (given - log_p).detach()
        squash = _softmax
    return Relaxed(squash(free / temperature), squash(given / temperature), free, given)


class OpenUniform(Distribution):
    """The uniform distribution between 0 and 1, of the batch of a tensor of zeros."""

    arg_constraints: Any = {}  # noqa: RUF012 (as torch writes it)
    measure = OPEN_UNIFORM

    def __init__(self, zeros: Tensor) -> None:
        """Take zeros of the batch."""
        self._zeros = zeros
        super().__init__(zeros.shape, validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return a draw."""
        return torch.rand_like(self._zeros)


def _sigmoid(x: Tensor) -> Tensor:
    return x.sigmoid()


def _softmax(x: Tensor) -> Tensor:
    return x.softmax(-1)
