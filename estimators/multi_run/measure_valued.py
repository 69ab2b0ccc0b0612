"""Measure-valued derivatives: a difference of the loss between two draws, for each parameter."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Exponential,
    Gamma,
    Normal,
    OneHotCategorical,
    Poisson,
)

from ancestral.estimators.rerun.quadrature import Measure, of_recurrence
from ancestral.estimators.rerun.site_draw import SiteDraw


@dataclass(frozen=True)
class MeasureValued:
    """Take the difference of the loss between two draws, which the derivative of q is one of.

        g = Σ_n Σ_φ c (f_n(z+) - f_n(z-)) ∇φ[n],   ∂q/∂φ = c (q+ - q-)

        Bernoulli      p      c = 1              z+ = 1                    z- = 0
        Categorical    φ_v    c = p_v            z+ = v                    z- = z, for each v
        Poisson        rate   c = 1              z+ = z + 1                z- = z
        Normal         loc    c = 1/(σ √(2π))    z+ = μ + σ r              z- = μ - σ r
        Normal         scale  c = 1/σ            z+ = μ + σ m              z- = z
        Gamma          rate   c = α/β            z+ = z                    z- = z + e/β
        r ~ Rayleigh,   m of density m² φ(m),   e ~ Exponential(1)

    f_n(v) are the costs downstream of element n when it alone has the value v. Needs one evaluation
    more for each difference, two for a loc, C - 1 for a Categorical, and D times that for D
    elements that have costs in common. Unbiased, also where the loss has steps: no derivative of it
    is taken. A Gamma site whose concentration is learned is refused. Heidergott and Vázquez-Abad
    (2000), "Measure-valued differentiation for stochastic processes: the finite horizon case";
    Mohamed, Rosca, Figurnov and Mnih (2020), "Monte Carlo gradient estimation in machine learning",
    section 6 and table 1.
    """

    def __call__(self, site: SiteDraw) -> Tensor:
        """Return the part of the surrogate."""
        families = (Bernoulli, Categorical, OneHotCategorical, Poisson, Normal, Gamma)
        site.expect(self, *families)
        match site.fn:
            case Normal():
                return _of_normal(site)
            case Poisson():
                rise = site.evaluate_alone(site.value + 1) - site.credit
                return (rise * site.parameter("rate")).sum()
            case Gamma():
                return _of_gamma(self, site)
            case Bernoulli():
                other = site.evaluate_alone(1 - site.value)
                rise = torch.where(site.value > 0, site.credit - other, other - site.credit)
                return (rise * site.parameter("probs")).sum()
            case _:
                return _of_classes(site)


def _of_normal(site: SiteDraw) -> Tensor:
    loc, scale = site.parameter("loc"), site.parameter("scale")
    mu, sigma = loc.detach(), scale.detach()
    total = torch.zeros((), dtype=mu.dtype, device=mu.device)
    if loc.requires_grad:
        r = site.draw(Rayleigh(torch.ones_like(mu)))
        rise = site.evaluate_alone(mu + sigma * r) - site.evaluate_alone(mu - sigma * r)
        total = total + (rise / (sigma * math.sqrt(2 * math.pi)) * loc).sum()
    if scale.requires_grad:
        m = site.draw(DoubleMaxwell(torch.ones_like(mu)))
        rise = site.evaluate_alone(mu + sigma * m) - site.credit
        total = total + (rise / sigma * scale).sum()
    return total


def _of_gamma(estimator: object, site: SiteDraw) -> Tensor:
    shape, rate = site.parameter("concentration"), site.parameter("rate")
    if shape.requires_grad:
        raise site.refused(
            estimator,
            "Gamma sites whose rate alone is learned",
            "a Gamma of a learned concentration",
        )
    more = site.draw(Exponential(torch.ones_like(rate.detach()))) / rate.detach()
    rise = site.credit - site.evaluate_alone(site.value + more)
    return (shape / rate.detach() * rise * rate).sum()


def _of_classes(site: SiteDraw) -> Tensor:
    logits, probs = site.parameter("logits"), site.class_probs()
    count = range(logits.shape[-1])
    values = [site.of_class(torch.full_like(site.drawn_class, number)) for number in count]
    rises = site.evaluate_alone_all(values) - site.credit
    possible = torch.where(probs > 0, logits, 0)
    return (probs * rises.movedim(0, -1) * possible).sum()


def _density(x: Tensor, power: int, norm: float) -> Tensor:
    return x**power * (-(x**2) / 2).exp() / norm


def _of_rayleigh(nodes: int) -> tuple[Tensor, Tensor]:
    """Return the Gaussian rule, by Stieltjes' procedure of a rule with many more nodes."""
    x, w = np.polynomial.legendre.leggauss(400)
    x, w = 7 * (x + 1), 7 * w
    w = w * x * np.exp(-(x**2) / 2)
    w = w / w.sum()
    before, now = np.zeros_like(x), np.ones_like(x)
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(nodes):
        diagonal.append((w * x * now**2).sum())
        after = (x - diagonal[-1]) * now - (beside[-1] if beside else 0.0) * before
        beside.append(np.sqrt((w * after**2).sum()))
        before, now = now, after / beside[-1]
    return of_recurrence(diagonal, beside[:-1])


def _of_double_maxwell(nodes: int) -> tuple[Tensor, Tensor]:
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    w = w * x**2
    return torch.from_numpy(x), torch.from_numpy(w / w.sum())


class Rayleigh(Distribution):
    """The distribution of density r exp(-r²/2), of the batch of a tensor of ones."""

    arg_constraints: Any = {}  # noqa: RUF012 (as torch writes it)
    measure = Measure(_of_rayleigh, 0.0, 9.0, lambda t: t, lambda t: _density(t, 1, 1.0))

    def __init__(self, ones: Tensor) -> None:
        """Take ones of the batch."""
        self._ones = ones
        super().__init__(ones.shape, validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return a draw."""
        uniform = torch.rand_like(self._ones).clamp(min=torch.finfo(self._ones.dtype).tiny)
        return (-2 * uniform.log()).sqrt()


class DoubleMaxwell(Distribution):
    """The distribution of density m² exp(-m²/2) / √(2π), of the batch of a tensor of ones."""

    arg_constraints: Any = {}  # noqa: RUF012 (as torch writes it)
    measure = Measure(
        *(_of_double_maxwell, -9.0, 9.0),
        *(lambda t: t, lambda t: _density(t, 2, math.sqrt(2 * math.pi))),
    )

    def __init__(self, ones: Tensor) -> None:
        """Take ones of the batch."""
        self._ones = ones
        super().__init__(ones.shape, validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return a draw: the length of three normal numbers, with a sign."""
        square = sum(torch.randn_like(self._ones) ** 2 for _ in range(3))
        return torch.copysign(square**0.5 * self._ones, torch.rand_like(self._ones) - 0.5)
