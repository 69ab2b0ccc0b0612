"""Losses of draws of `rsample` that are scored: which hold a score function, and which are costs.

By quadrature over the noise, which is exact for polynomials: of a cost, the mean of the estimate is
the gradient of the mean; of a loss that holds its score, that of torch's own backward is.
"""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return, no-untyped-call"

import itertools
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import ancestral as an
from ancestral.errors import BlurredCreditWarning, HeldScoreWarning, MissingScoreWarning

Loss = Callable[[Tensor, Tensor, Normal, Tensor], Tensor]
"""What a draw from a Normal costs, given two parameters that may be those of the Normal."""

POINTS, WEIGHTS = (torch.from_numpy(x) for x in np.polynomial.hermite_e.hermegauss(12))
WEIGHTS = WEIGHTS / WEIGHTS.sum()

NORMALS: dict[str, Callable[[Tensor, Tensor], Normal]] = {
    "apart": lambda a, m: Normal(m, 0.8),
    "its mean": lambda a, m: Normal(a, m),
    "its scale": lambda a, m: Normal(m, a),
    "computed": lambda a, m: Normal(a**2, (a * m).exp()),
}

COSTS: dict[str, Loss] = {
    "a² z": lambda a, m, q, z: a**2 * z,
    "z a²": lambda a, m, q, z: z * a**2,
    "a z": lambda a, m, q, z: a * z,
    "a a z": lambda a, m, q, z: a * a * z,
    "a z a": lambda a, m, q, z: a * z * a,
    "a² z²": lambda a, m, q, z: a**2 * z**2,
    "z² a²": lambda a, m, q, z: z**2 * a**2,
    "(a z)²": lambda a, m, q, z: (a * z) ** 2,
    "(a - z)²": lambda a, m, q, z: (a - z) ** 2,
    "z (a - z)²": lambda a, m, q, z: z * (a - z) ** 2,
    "mse": lambda a, m, q, z: F.mse_loss(z, a**2),
    "⊥z z²": lambda a, m, q, z: z.detach() * z**2,
    "z² ⊥z": lambda a, m, q, z: z**2 * z.detach(),
    "⊥z² z² a²": lambda a, m, q, z: (z**2).detach() * z**2 * a**2,
    "a² ⊥z": lambda a, m, q, z: a**2 * z.detach(),
    "a² ⊥z z": lambda a, m, q, z: a**2 * z.detach() * z,
    "(⊥z - 1)² z³": lambda a, m, q, z: (z.detach() - 1) ** 2 * z**3,
    "⊥z² in a sum": lambda a, m, q, z: (z.detach() ** 2 * torch.stack([z, a * z])).sum(),
    "matmul": lambda a, m, q, z: torch.stack([z, z**2]) @ torch.stack([z.detach(), a**2]),
    "a bound": lambda a, m, q, z: 0.3 * q.log_prob(z) + a**2 * z,
    "a bound, by hand": lambda a, m, q, z: ((z - q.loc) / q.scale) ** 2 - q.scale.log() + a**2 * z,
}

# Each is reward times score of the draw, at a value that no gradient goes through.
HELD: dict[str, Loss] = {
    "log_prob": lambda a, m, q, z: q.log_prob(z.detach()) * (z**2).detach(),
    "reward first": lambda a, m, q, z: (z**2).detach() * q.log_prob(z.detach()),
    "by hand": lambda a, m, q, z: (
        (-0.5 * ((z.detach() - q.loc) / q.scale) ** 2 - q.scale.log()) * (z**2).detach()
    ),
    "a ratio": lambda a, m, q, z: (
        (q.log_prob(z.detach()) - q.log_prob(z).detach()).exp() * (z**2).detach()
    ),
    "beside a cost": lambda a, m, q, z: (
        q.log_prob(z.detach()) * (z**2).detach() + 0.0 * a**2 * z.detach()
    ),
}

KINKED: dict[str, Loss] = {
    "1{z > 0} z²": lambda a, m, q, z: (z > 0).to(z) * z**2,
    "1{z > 0} z² a²": lambda a, m, q, z: (z > 0).to(z) * z**2 * a**2,
    "a² z² 1{z > 0}": lambda a, m, q, z: a**2 * z**2 * (z > 0).to(z),
    "1{z > 0} tanh": lambda a, m, q, z: (z > 0).to(z) * (a * z).tanh(),
    "where": lambda a, m, q, z: torch.where(z > 0, a * z**2, z**3),
}


def run(
    loss: Loss, normal: Callable[[Tensor, Tensor], Normal], call: Callable[[Tensor], Any]
) -> tuple[Tensor, set[type[Warning]]]:
    """Return the mean of what a call leaves in the gradients, [2], and of what it warned."""
    mean, caught = torch.zeros(2, dtype=torch.float64), set[type[Warning]]()
    for noise, weight in zip(POINTS, WEIGHTS, strict=True):
        given = leaves()

        def rsample(self: Normal, shape: object = (), at: Tensor = noise) -> Tensor:
            return self.loc + at * self.scale

        with mock.patch.object(Normal, "rsample", rsample), an.record():
            q = normal(*given)
            found = loss(*given, q, q.rsample())
        with warnings.catch_warnings(record=True) as each:
            warnings.simplefilter("always")
            call(found)
        caught |= {w.category for w in each}
        mean += weight * gradients(given)
    return mean, caught


def leaves() -> tuple[Tensor, Tensor]:
    a, m = torch.tensor([0.7, 0.4], dtype=torch.float64)
    return a.requires_grad_(), m.requires_grad_()


def gradients(given: tuple[Tensor, Tensor]) -> Tensor:
    return torch.stack([x.new_zeros(()) if x.grad is None else x.grad for x in given])


def truth(loss: Loss, normal: Callable[[Tensor, Tensor], Normal]) -> Tensor:
    """Return the gradient of the mean, [2], by reparameterization and without any detaching."""
    given = leaves()
    q = normal(*given)
    with mock.patch.object(Tensor, "detach", lambda self: self):
        each = [loss(*given, q, q.loc + noise * q.scale) for noise in POINTS]
    (WEIGHTS @ torch.stack(each)).backward()
    return gradients(given)


CASES = list(itertools.product(COSTS, NORMALS))


@pytest.mark.parametrize(("name", "normal"), CASES)
def test_a_cost_of_a_draw_that_is_scored_is_none_that_holds_its_score(
    name: str, normal: str
) -> None:
    exact = truth(COSTS[name], NORMALS[normal])
    for ask in (an.backward, lambda loss, **kw: an.surrogate(loss, **kw).backward()):
        mean, caught = run(COSTS[name], NORMALS[normal], partial(ask, estimator="score"))
        assert caught == set()
        torch.testing.assert_close(mean, exact, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("estimator", ["auto", "pathwise"])
@pytest.mark.parametrize(("name", "normal"), CASES)
def test_a_draw_that_is_not_scored_is_not_asked(name: str, normal: str, estimator: Any) -> None:
    mean, caught = run(
        COSTS[name], NORMALS[normal], lambda loss: an.backward(loss, estimator=estimator)
    )
    plain, _ = run(COSTS[name], NORMALS[normal], lambda loss: an.untrack(loss).backward())
    assert caught == set()
    torch.testing.assert_close(mean, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "normal"), [*itertools.product(HELD, NORMALS)])
def test_a_loss_that_holds_the_score_of_a_draw_of_rsample_is_noticed(
    name: str, normal: str
) -> None:
    exact = truth(lambda a, m, q, z: z**2, NORMALS[normal])
    mean, _ = run(HELD[name], NORMALS[normal], lambda loss: loss.backward())
    torch.testing.assert_close(mean, exact, rtol=1e-7, atol=1e-7)
    twice, caught = run(
        HELD[name], NORMALS[normal], lambda loss: an.backward(loss, estimator="score")
    )
    assert caught == {HeldScoreWarning}
    assert not torch.allclose(twice, exact, atol=1e-3)


@pytest.mark.parametrize("estimator", ["auto", "score"])
@pytest.mark.parametrize(("name", "normal"), [*itertools.product(KINKED, NORMALS)])
def test_a_cost_with_a_step_is_none_that_holds_its_score(
    name: str, normal: str, estimator: Any
) -> None:
    """At each point of the quadrature alike, which is not exact for steps."""

    def score(a: Tensor, m: Tensor, q: Normal, z: Tensor) -> Tensor:
        fixed = z.detach()
        density, cost = q.log_prob(fixed), KINKED[name](a, m, q, fixed)
        return (density - density.detach()).exp() * cost

    by_hand, _ = run(score, NORMALS[normal], lambda loss: an.untrack(loss).backward())
    mean, caught = run(
        KINKED[name],
        NORMALS[normal],
        lambda loss: an.backward(loss, estimator=estimator, baseline=None),
    )
    assert caught == set()
    torch.testing.assert_close(mean, by_hand, rtol=1e-9, atol=1e-9)
    _, caught = run(KINKED[name], NORMALS[normal], lambda loss: loss.backward())
    assert caught == {MissingScoreWarning}


@pytest.mark.parametrize("name", ["z²", "a² z²", "z a²"])
@pytest.mark.parametrize("normal", NORMALS)
def test_a_read_for_a_log_makes_no_score_of_a_pathwise_derivative(name: str, normal: str) -> None:
    costs: dict[str, Loss] = {"z²": lambda a, m, q, z: z**2, **COSTS}

    def logged(a: Tensor, m: Tensor, q: Normal, z: Tensor) -> Tensor:
        cost = 0.3 * costs[name](a, m, q, z)
        z.item()
        return cost

    mean, caught = run(logged, NORMALS[normal], an.backward)
    assert caught <= {BlurredCreditWarning}
    exact = truth(lambda *given: 0.3 * costs[name](*given), NORMALS[normal])
    torch.testing.assert_close(mean, exact, rtol=1e-7, atol=1e-7)


def test_the_value_of_one_draw_is_not_the_density_of_another() -> None:
    """The coin has its density past the draw of the Normal, which is scored: that is noticed."""

    def recorded(is_held: bool) -> Tensor:
        a = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        with an.record():
            z = Normal(a, 0.8).rsample()
            coin = Bernoulli(logits=z * a)
            x = coin.sample()
            return coin.log_prob(x) * (x + 1).detach() if is_held else x * z**2 * a

    with pytest.warns(HeldScoreWarning, match="'x'") as caught:
        an.backward(recorded(is_held=True), estimator="score")
    assert "'z'" not in str(caught[0].message)
    an.backward(recorded(is_held=False), estimator="score")
