"""Losses of torch.nn.functional, whose reductions are linear."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor, nn
from torch.distributions import Bernoulli

from programs.example import Weighed, const, example, weigh
from programs.sites import LOGITS


@dataclass(frozen=True)
class Reduced:
    """A loss of torch, and its elements by hand, which add up to it.

    `loss` takes predictions [batch, classes] that depend on one draw an example; `elements`
    returns the costs of each example, [batch, ...].
    """

    name: str
    loss: Callable[[Tensor], Tensor]
    elements: Callable[[Tensor], Tensor]


CLASSES = torch.tensor([2, 0, 1])
SOME_IGNORED = torch.tensor([2, 0, 0])
CLASS_WEIGHTS = const(0.5, 2.0, 1.0)
HEADS = const((1, 0, 1), (0, 0, 1), (1, 1, 0))
PROBABILITIES = const((0.2, 0.5, 0.3), (0.1, 0.1, 0.8), (0.6, 0.3, 0.1))
AIMS = const((0.2, -0.4, 1.0), (1.5, 0.0, 0.3), (-0.6, 0.9, 0.4))


def _surprise(scores: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    picked = scores.log_softmax(-1)[torch.arange(3), classes]
    return -weights[classes] * picked / weights[classes].sum()


def _huber(scores: Tensor, width: float) -> Tensor:
    error = (scores - AIMS).abs()
    return torch.where(error < width, error**2 / 2, width * (error - width / 2))


REDUCED = [
    Reduced("mse_mean", lambda s: F.mse_loss(s, AIMS), lambda s: (s - AIMS) ** 2 / 9),
    Reduced("mse_sum", lambda s: F.mse_loss(s, AIMS, reduction="sum"), lambda s: (s - AIMS) ** 2),
    Reduced(
        "mse_none",
        lambda s: F.mse_loss(s, AIMS, reduction="none").mean(),
        lambda s: (s - AIMS) ** 2 / 9,
    ),
    Reduced("l1_mean", lambda s: F.l1_loss(s, AIMS), lambda s: (s - AIMS).abs() / 9),
    Reduced(
        "smooth_l1_sum",
        lambda s: F.smooth_l1_loss(s, AIMS, reduction="sum", beta=0.7),
        lambda s: _huber(s, 0.7) / 0.7,
    ),
    Reduced("huber_mean", lambda s: F.huber_loss(s, AIMS, delta=0.6), lambda s: _huber(s, 0.6) / 9),
    Reduced(
        "binary_cross_entropy_sum",
        lambda s: F.binary_cross_entropy(s.sigmoid(), HEADS, reduction="sum"),
        lambda s: F.softplus(s) - s * HEADS,
    ),
    Reduced(
        "binary_cross_entropy_with_logits_mean",
        lambda s: F.binary_cross_entropy_with_logits(s, HEADS),
        lambda s: (F.softplus(s) - s * HEADS) / 9,
    ),
    Reduced(
        "binary_cross_entropy_with_logits_none",
        lambda s: F.binary_cross_entropy_with_logits(s, HEADS, reduction="none").sum(-1).mean(),
        lambda s: (F.softplus(s) - s * HEADS) / 3,
    ),
    Reduced(
        "cross_entropy_mean",
        lambda s: F.cross_entropy(s, CLASSES),
        lambda s: _surprise(s, CLASSES, torch.ones_like(CLASS_WEIGHTS)),
    ),
    Reduced(
        "cross_entropy_sum",
        lambda s: F.cross_entropy(s, CLASSES, reduction="sum"),
        lambda s: 3 * _surprise(s, CLASSES, torch.ones_like(CLASS_WEIGHTS)),
    ),
    Reduced(
        "cross_entropy_with_class_weights",
        lambda s: F.cross_entropy(s, CLASSES, weight=CLASS_WEIGHTS),
        lambda s: _surprise(s, CLASSES, CLASS_WEIGHTS),
    ),
    Reduced(
        "cross_entropy_that_ignores",
        lambda s: F.cross_entropy(s, SOME_IGNORED, ignore_index=0),
        lambda s: _surprise(s, SOME_IGNORED, const(0.0, 1.0, 1.0)),
    ),
    Reduced(
        "cross_entropy_module_that_smooths",
        lambda s: nn.CrossEntropyLoss(label_smoothing=0.2)(s, CLASSES),
        lambda s: (
            0.8 * _surprise(s, CLASSES, torch.ones_like(CLASS_WEIGHTS))
            - 0.2 * s.log_softmax(-1).mean(-1) / 3
        ),
    ),
    Reduced(
        "mse_module", lambda s: nn.MSELoss()(input=s, target=AIMS), lambda s: (s - AIMS) ** 2 / 9
    ),
    Reduced(
        "cross_entropy_of_probabilities",
        lambda s: F.cross_entropy(s, PROBABILITIES),
        lambda s: -(PROBABILITIES * s.log_softmax(-1)).sum(-1) / 3,
    ),
    Reduced(
        "nll_with_class_weights",
        lambda s: F.nll_loss(s.log_softmax(-1), CLASSES, weight=CLASS_WEIGHTS),
        lambda s: _surprise(s, CLASSES, CLASS_WEIGHTS),
    ),
    Reduced(
        "kl_div_batchmean",
        lambda s: F.kl_div(s.log_softmax(-1), PROBABILITIES, reduction="batchmean"),
        lambda s: PROBABILITIES * (PROBABILITIES.log() - s.log_softmax(-1)) / 3,
    ),
    Reduced(
        "poisson_nll_mean",
        lambda s: F.poisson_nll_loss(s, HEADS),
        lambda s: (s.exp() - HEADS * s) / 9,
    ),
]


def _register(reduced: Reduced) -> None:
    """Add the program of one draw an example, whose scores a loss of torch reduces."""

    def both(logits: Tensor, readout: Tensor) -> Weighed:
        q = Bernoulli(logits=logits)
        z = q.sample()
        scores = (1 + z[:, None]) * readout
        return reduced.loss(scores), lambda: weigh(
            q.log_prob(z), reduced.elements(scores).reshape(3, -1).sum(1)
        )

    both.__name__ = reduced.name
    example(LOGITS, (0.8, -0.5, 0.3))(both)


for _reduced in REDUCED:
    _register(_reduced)
