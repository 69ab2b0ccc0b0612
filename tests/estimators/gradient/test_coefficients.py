"""What is linear in the costs is taken apart, and what is not stays whole: by enumeration.

Three coins with a cost each; a loss that weighs the costs with constants must have the variance of
the estimator that is written by hand for these weights.
"""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-untyped-call, no-any-return"

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor
from torch.distributions import Bernoulli

import ancestral as an
from oracles import (
    Program,
    autograd,
    derivatives,
    exact_gradient,
    flat,
    mean_and_truth,
    moments,
    score_function,
)

close = functools.partial(torch.testing.assert_close, rtol=1e-7, atol=1e-10)
THETA = torch.tensor([0.3, -0.6, 0.9], dtype=torch.float64, requires_grad=True)
W = torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64)
SINGLE = torch.tensor([0.1, 0.7, 1.3])
COUNTS = torch.tensor([3, 7, 11])
MASK = torch.tensor([True, False, True])
M = torch.tensor([[1.0, 2.0, 0.0], [0.5, -1.0, 4.0]], dtype=torch.float64)


def backward(program: Program, parameters: Sequence[Tensor]) -> Tensor:
    """Estimate by `an.backward`."""
    leaves = [p.detach().clone().requires_grad_() for p in parameters]
    with an.record():
        loss = program(*leaves)
    an.backward(loss, baseline=None)
    return flat([torch.zeros_like(p) if p.grad is None else p.grad for p in leaves])


def surrogate(program: Program, parameters: Sequence[Tensor]) -> Tensor:
    """Estimate by the derivative of `an.surrogate`."""
    with an.record():
        loss = program(*parameters)
    return derivatives(an.surrogate(loss, baseline=None), parameters)


def costs(theta: Tensor) -> tuple[Tensor, Tensor]:
    """Return the draws of three coins and the cost of each."""
    z = Bernoulli(logits=theta).sample()
    return z, (z - 0.45) ** 2 * torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64) + theta * z


def by_hand(weights: Tensor, theta: Tensor) -> Tensor:
    """Return the surrogate in which each score is multiplied with its own weighted cost."""
    z, cost = costs(theta)
    weighted = weights * cost
    scores = Bernoulli(logits=theta).log_prob(z)
    return weighted.sum() + (scores * weighted.detach()).sum()


Loss = Callable[[Tensor], Tensor]
ONES = [1.0, 1.0, 1.0]
LINEAR: dict[str, tuple[Loss, list[float]]] = {
    "(w * c).sum()": (lambda c: (W * c).sum(), [0.5, -2, 3]),
    "w @ c": (lambda c: W @ c, [0.5, -2, 3]),
    "c @ w": (lambda c: c @ W, [0.5, -2, 3]),
    "dot": (lambda c: torch.dot(c, W) + c.dot(W), [1, -4, 6]),
    "vdot": (lambda c: torch.vdot(W, c), [0.5, -2, 3]),
    "inner": (lambda c: torch.inner(W, c), [0.5, -2, 3]),
    "mv": (lambda c: torch.mv(M, c).sum(), [1.5, 1, 4]),
    "matmul": (lambda c: torch.matmul(M, c)[0], [1, 2, 0]),
    "outer": (lambda c: torch.outer(c, W).sum(), [1.5, 1.5, 1.5]),
    "tensordot": (lambda c: torch.tensordot(M, c, 1)[1], [0.5, -1, 4]),
    "einsum": (lambda c: torch.einsum("ij,j,j->", M, c, W), [0.75, -2, 12]),
    "einsum of itself once": (lambda c: torch.einsum("i->", c), ONES),
    "addcmul": (lambda c: torch.addcmul(torch.ones(3), W, c, value=2).sum(), [1, -4, 6]),
    "addcdiv": (lambda c: torch.addcdiv(c, c, W, value=0.5).sum(), [2, 0.75, 1 + 1 / 6]),
    "lerp": (lambda c: torch.lerp(c, c.flip(0), 0.25).sum(), ONES),
    "where": (lambda c: torch.where(MASK, c, 0).sum(), [1, 0, 1]),
    "where not": (lambda c: torch.where(MASK, 2.0, c).mean(), [0, 1 / 3, 0]),
    "masked_fill": (lambda c: c.masked_fill(MASK, 3.0).sum(), [0, 1, 0]),
    "c[mask]": (lambda c: c[MASK].sum(), [1, 0, 1]),
    "masked_select": (lambda c: c.masked_select(MASK).mean(), [0.5, 0, 0.5]),
    "a masked mean": (lambda c: (c * MASK).sum() / MASK.sum(), [0.5, 0, 0.5]),
    "reward to go": (lambda c: c.flip(0).cumsum(0).flip(0).sum(), [1, 2, 3]),
    "discounted": (lambda c: sum((0.5**t * c[t] for t in range(3)), 0 * c[0]), [1, 0.5, 0.25]),
    "roll": (lambda c: (c.roll(1) * W).sum(), [-2, 3, 0.5]),
    "F.linear": (lambda c: F.linear(c, M, M[:, 0]).sum(), [1.5, 1, 4]),
    "trace": (lambda c: torch.diag(c).trace() + torch.diag_embed(c).diagonal().sum(), [2, 2, 2]),
    "index_select": (lambda c: c.index_select(0, torch.tensor([0, 0, 2])).sum(), [2, 0, 1]),
    "gather": (lambda c: c.gather(0, torch.tensor([1, 1, 1])).sum(), [0, 3, 0]),
    "take": (lambda c: c.take(torch.tensor([2])).sum(), [0, 0, 1]),
    "scatter_add": (
        lambda c: torch.zeros(2).double().scatter_add(0, torch.tensor([0, 1, 1]), c)[1],
        [0, 1, 1],
    ),
    "index_add": (
        lambda c: torch.zeros(2).double().index_add(0, torch.tensor([0, 1, 0]), c) @ M[:, 0],
        [1, 0.5, 1],
    ),
    "repeat": (lambda c: c.repeat(2, 2).sum() + c.tile(2).mean(), [4 + 1 / 3] * 3),
    "repeat_interleave": (lambda c: c.repeat_interleave(2)[1:4].sum(), [1, 2, 0]),
    "add with alpha": (lambda c: torch.add(c, c, alpha=3).sum(), [4, 4, 4]),
    "a list": (lambda c: torch.sum(torch.stack([c[0], c[1], c[2] * 2])), [1, 1, 2]),
    "a python sum": (lambda c: sum([c[1] / 2, c[2]], c[0]), [1, 0.5, 1]),
    "a sum of rows": (lambda c: sum(c, 0 * c[0]), ONES),
    "cat": (lambda c: torch.cat([c, W]).sum(), ONES),
    "hstack": (lambda c: torch.hstack([c[0], c[1:]]) @ W, [0.5, -2, 3]),
    "vstack": (lambda c: torch.vstack([c, 2 * c]).mean(0).sum(), [1.5, 1.5, 1.5]),
    "unbind": (lambda c: c.unbind()[0] + 2 * c.unbind()[1], [1, 2, 0]),
    "split": (lambda c: c.split([1, 2])[1].sum(), [0, 1, 1]),
    "chunk": (lambda c: 3 * c.chunk(3)[2].sum(), [0, 0, 3]),
    "detach": (lambda c: (c.detach() * W).sum() + ((c - c.detach()) * W).sum(), [0.5, -2, 3]),
    "pad": (lambda c: F.pad(c, (1, 2)).sum(), ONES),
    "diff": (lambda c: c.diff().sum(), [-1, 0, 1]),
    "tril": (lambda c: c.expand(3, 3).tril().sum(), [3, 2, 1]),
    "a whole number in it": (lambda c: 0.3 * (c + COUNTS).sum(), [0.3] * 3),
    "a constant in single": (lambda c: 0.3 * (c + SINGLE).sum(), [0.3] * 3),
    "a weight in single": (lambda c: 0.3 * (c * SINGLE).sum(), [0.3 * x for x in SINGLE.tolist()]),
    "a divisor in single": (lambda c: 3 * (c / SINGLE).sum(), [3 / x for x in SINGLE.tolist()]),
    "a scalar moved": (lambda c: c.sum().movedim(0, -1) * 2, [2] * 3),
    "divided twice": (lambda c: c.sum() / 4 / torch.tensor(2.0), [0.125] * 3),
}


@pytest.mark.parametrize("name", LINEAR)
def test_what_is_linear_has_the_variance_of_the_estimator_by_hand(name: str) -> None:
    loss, weights = LINEAR[name]

    def program(theta: Tensor) -> Tensor:
        return loss(costs(theta)[1])

    hand = functools.partial(by_hand, torch.tensor(weights, dtype=torch.float64))
    expected = moments(hand, [THETA], autograd)
    close(expected.mean, exact_gradient(program, [THETA]))
    for estimate in (backward, surrogate):
        found = moments(program, [THETA], estimate)
        close(found.mean, expected.mean)
        close(found.variance, expected.variance)


def written_without_gradient(x: Tensor, write: Callable[..., Tensor], value: Any) -> Tensor:
    """Return the sum of a tensor that was written in place while autograd did not look."""
    with torch.no_grad():
        write(x, value)
    return x.sum()


NONLINEAR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a product": lambda z, c: c[0] * c[1] + c[2],
    "a product of vectors": lambda z, c: c @ c,
    "einsum twice": lambda z, c: torch.einsum("i,j->", c, c),
    "logsumexp": lambda z, c: c.logsumexp(0),
    "max": lambda z, c: c.max() + c.amin(),
    "a sampled length": lambda z, c: c.sum() / (1 + z.sum()),
    "a mean over a mask": lambda z, c: (c * z).sum() / (z.sum() + 1),
    "a mean over picked ones": lambda z, c: torch.cat([c, c[z > 0]]).mean(),
    "where by a draw": lambda z, c: torch.where(z > 0, c.roll(1), c).sum(),
    "masked_fill by a draw": lambda z, c: c.flip(0).masked_fill(z > 0, 2.0).sum(),
    "gather by a draw": lambda z, c: c.gather(0, z.long().cumsum(0).clamp(max=2)).sum(),
    "scatter by a draw": lambda z, c: (
        torch.zeros(2).double().scatter_add(0, z.long(), c) @ torch.tensor([1.0, 3]).double()
    ),
    "a root": lambda z, c: (c.sum() + 9).sqrt(),
    "a norm": lambda z, c: c.norm() + torch.linalg.vector_norm(c, 1),
    "weights that were drawn": lambda z, c: torch.dot(z.flip(0), c),
    "nan_to_num": lambda z, c: c.sum().nan_to_num(),
    "cumprod": lambda z, c: c.cumprod(0).sum(),
    "bilinear": lambda z, c: F.linear(c, z.expand(2, 3)).sum(),
    "lerp by a draw": lambda z, c: torch.lerp(c, c.flip(0), z).sum(),
    "a product of counts": lambda z, c: torch.dot(z.long(), COUNTS) + (COUNTS @ z.long()) * c[0],
    "counts divided": lambda z, c: torch.addcdiv(c[0], z[1], COUNTS[2]) + c[1],
    "truth values scattered": lambda z, c: (
        (
            torch.zeros(2, dtype=torch.bool).scatter_add(0, torch.tensor([0, 0, 1]), z > 0).sum()
            + torch.zeros(2, dtype=torch.bool).index_add(0, torch.tensor([0, 0, 1]), z > 0).sum()
        )
        * c[0]
    ),
    "a number chosen by a mask": lambda z, c: torch.where(MASK, self=2.0, other=c).sum(),
    "a weighted mean square": lambda z, c: F.mse_loss(c, W, weight=W.square()) + c[0],  # type: ignore[call-arg]
    "a mean square with drawn weights": lambda z, c: F.mse_loss(c, W, weight=z + 0.5) + c[0],  # type: ignore[call-arg]
    "added without its gradient": lambda z, c: written_without_gradient(c * 2, Tensor.add_, z),
    "scaled without its gradient": lambda z, c: written_without_gradient(c * 2, Tensor.mul_, 3),
    "a size by a drawn dimension": lambda z, c: (
        len(torch.outer(c, W[:2]).select(z[0].long(), 0)) * c[1] + len(c)  # type: ignore[arg-type]
    ),
    "resized after a decision": lambda z, c: (
        (torch.add(z, z, out=torch.empty(0).double()) if z.sum() > 1 else z).sum() * c[0].detach()
    ),
    "rounded into single": lambda z, c: torch.zeros(()).add_(c.sum()) + c[0],
    "rounded by vectors": lambda z, c: (torch.ones(3) * c[0] + c[1]).double().sum() + c[2],
    "rounded sum": lambda z, c: c.sum(dtype=torch.float32).double(),
}


@pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")  # some read sizes
@pytest.mark.parametrize("name", NONLINEAR)
def test_what_is_not_linear_stays_whole_and_unbiased(name: str) -> None:
    def program(theta: Tensor) -> Tensor:
        return NONLINEAR[name](*costs(theta))

    for estimate in (backward, surrogate):
        found = moments(program, [THETA], estimate)
        tolerance = 1e-6 if "rounded" in name else 1e-10
        torch.testing.assert_close(
            found.mean, exact_gradient(program, [THETA]), rtol=1e-7, atol=tolerance
        )


LEARNED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "an uncertainty": lambda c, w: (c * torch.exp(-w)).sum() + w.sum(),
    "a product": lambda c, w: w @ c,
    "einsum": lambda c, w: torch.einsum("i,i,j->", w, c, w),
    "addcmul": lambda c, w: torch.addcmul(w, w, c).sum(),
    "where": lambda c, w: torch.where(MASK, c, w).sum(),
    "in a mean": lambda c, w: (c * w).sum() / w.square().sum(),
    "rearranged before": lambda c, w: (c.flip(0)[:2].cumsum(0) * w[1:]).sum(),
    "stacked": lambda c, w: torch.stack([w[0] * c.sum(), w[1] * c[0]]).sum(),
}


@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_weight_gets_its_own_gradient(name: str) -> None:
    weight = torch.tensor([0.4, -0.7, 1.2], dtype=torch.float64, requires_grad=True)

    def program(theta: Tensor, w: Tensor) -> Tensor:
        return LEARNED[name](costs(theta)[1], w)

    for estimate in (backward, surrogate):
        close(*mean_and_truth(program, [THETA, weight], estimate))
    whole = moments(program, [THETA, weight], score_function)
    assert (moments(program, [THETA, weight], backward).variance[:3] < whole.variance[:3]).any()


@pytest.mark.parametrize("name", LEARNED)
def test_second_derivatives_by_a_learned_weight_are_unbiased(name: str) -> None:
    weight = torch.tensor([0.4, -0.7, 1.2], dtype=torch.float64, requires_grad=True)
    both = [THETA, weight]

    def program(theta: Tensor, w: Tensor) -> Tensor:
        return LEARNED[name](costs(theta)[1], w)

    def second(program: Program, parameters: Sequence[Tensor]) -> Tensor:
        with an.record():
            loss = program(*parameters)
        return derivatives(an.surrogate(loss, baseline=None), parameters, 2)

    from oracles import exact_derivatives

    close(moments(program, both, second).mean, exact_derivatives(program, both, 2))
