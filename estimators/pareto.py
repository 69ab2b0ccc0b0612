"""Pareto smoothing: how heavy the tail of importance weights is, and weights with a smoothed tail.

The largest weights are taken as draws of a generalized Pareto distribution, whose shape k says how
many moments the weights have. Vehtari, Simpson, Gelman, Yao & Gabry (2024), "Pareto smoothed
importance sampling", JMLR 25(72), section 3 and algorithm 1.
"""

import math

import torch
from torch import Tensor

_PRIOR_WEIGHT = 10  # of k = 1/2, in draws: Vehtari et al. (2024), appendix G
_LEAST_TAIL = 5


def generalized_pareto(excesses: Tensor) -> tuple[float, float]:
    """Return the shape k and the scale s of a generalized Pareto distribution fitted to a tail.

        b = k / s (with the sign that makes 1 - b x > 0),   k(b) = mean log(1 - b x)
        E[b | x] by quadrature over the profile likelihood   n (log(-b / k(b)) - k(b) - 1)

    Zhang & Stephens (2009), "A new and efficient estimation method for the generalized Pareto
    distribution", Technometrics 51, section 3; the k is drawn to 1/2 as by ten more draws.

    Args:
        excesses: by how much the draws exceed the cutoff, [n], positive, in ascending order.
    """
    x = excesses.double()
    n = len(x)
    points = 30 + int(math.sqrt(n))
    quartile = x[int(n / 4 + 0.5) - 1]
    steps = torch.arange(1, points + 1, dtype=torch.float64)
    b = 1 / x[-1] + (1 - torch.sqrt(points / (steps - 0.5))) / (3 * quartile)
    k = torch.log1p(-b[:, None] * x).mean(1)
    profile = n * (torch.log(-b / k) - k - 1)
    # Where the excesses lie too far apart for numbers, the profile has none.
    is_known = profile.isfinite()
    b, profile = b[is_known], profile[is_known]
    b_mean = (b * torch.softmax(profile, 0)).sum()
    shape = torch.log1p(-b_mean * x).mean()
    scale = -shape / b_mean
    return float((n * shape + _PRIOR_WEIGHT * 0.5) / (n + _PRIOR_WEIGHT)), float(scale)


def pareto_smoothed(log_weights: Tensor) -> tuple[Tensor, float]:
    """Return log weights [n], normalized, with their tail smoothed, and the shape k of that tail.

    The tail are the largest min(n/5, 3√n) weights; its order statistics take the place of them,
    none above the largest. Where fewer than five stand out, or no distribution fits, nothing is
    smoothed and k is infinite: nothing can be said of the tail.
    """
    weights = log_weights.double() - log_weights.double().max()
    n = len(weights)
    size = math.ceil(min(n / 5, 3 * math.sqrt(n)))
    order = torch.argsort(weights)
    least = math.log(torch.finfo(torch.float64).tiny)
    cutoff = max(float(weights[order[-min(size + 1, n)]]), least)
    tail = order[weights[order] > cutoff]
    if len(tail) < _LEAST_TAIL:
        return torch.log_softmax(weights, 0), math.inf
    # The difference of two exponentials that are nearly equal would be zero.
    k, scale = generalized_pareto(math.exp(cutoff) * torch.expm1(weights[tail] - cutoff))
    if not math.isfinite(k):
        k = math.inf
    else:
        ranks = (torch.arange(len(tail), dtype=torch.float64) + 0.5) / len(tail)
        tails = -torch.log1p(-ranks)
        quantiles = scale * (tails if abs(k) < 1e-15 else torch.expm1(k * tails) / k)
        weights[tail] = (quantiles + math.exp(cutoff)).log().clamp(max=0)
    return torch.log_softmax(weights, 0), k
