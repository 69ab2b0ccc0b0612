"""The losses of random programs: how a tensor is reduced, and joined to what is there."""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor

from programs.draws import TABLE


def negative_log_likelihood(x: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(x, (x.detach() * 0 + 1))


REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda x: x.sum(),
    "mean": lambda x: x.mean(),
    "square_sum": lambda x: (x**2).sum(),
    "square_mean": lambda x: torch.mean((x - 0.3) ** 2),
    "square_of_sum": lambda x: x.sum() ** 2 / 10,
    "rows": lambda x: x.reshape(len(x), -1).sum(1).tanh().mean() if x.ndim else x,
    "logsumexp": lambda x: torch.logsumexp(x.reshape(-1), 0),
    "norm": lambda x: torch.linalg.vector_norm(x + 0.1),
    "maximum": lambda x: torch.logsumexp(3 * x.flatten(), dim=-1) / 3,
    "mse_loss": lambda x: F.mse_loss(x, TABLE[: x.numel()].reshape(x.shape)),
    "l1_loss": lambda x: F.smooth_l1_loss(x, TABLE[: x.numel()].reshape(x.shape), reduction="sum"),
    "bce_loss": negative_log_likelihood,
}


def added_in_place(loss: Tensor, term: Tensor, _: Tensor) -> Tensor:
    loss += term
    return loss


def subtracted_in_place(loss: Tensor, term: Tensor, _: Tensor) -> Tensor:
    loss -= term
    return loss


# Each takes the loss so far, the next term, and a parameter.
JOINS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "+": lambda loss, term, _: loss + term,
    "-": lambda loss, term, _: loss - term,
    "+=": added_in_place,
    "-=": subtracted_in_place,
    "+ 0.3 *": lambda loss, term, _: loss + 0.3 * term,
    "+ -1/7 *": lambda loss, term, _: loss + -term / 7,
    "+ t0 *": lambda loss, term, scale: loss + scale * term,
    "- 1/t0 *": lambda loss, term, scale: loss - term / scale,
    "*": lambda loss, term, _: loss * (1 + term.tanh()),
}
