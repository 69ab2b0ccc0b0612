"""What tests of the terms of a loss share: costs to take apart, and what they add up to."""

import pytest
import torch
from torch import Tensor

import ancestral as an
from ancestral.estimators.gradient.loss_terms import Term, terms_of

X = torch.linspace(-1.5, 2.0, 12, dtype=torch.float64).reshape(4, 3)
Y = torch.linspace(0.2, 1.7, 12, dtype=torch.float64).reshape(4, 3).flip(0)


def leaf(value: Tensor, name: str = "x") -> Tensor:
    """Return a tracked tensor whose gradient shows the derivative by it."""
    return an.track(value.clone().requires_grad_(), name)


def number(scalar: Tensor) -> float:
    """Return the value of a scalar."""
    return float(an.untrack(scalar).detach())


def total(terms: list[Term], constant: float) -> float:
    """Return what the terms add up to."""
    return sum(float(term.value.sum()) for term in terms) + constant


def assert_is_taken_apart(loss: Tensor, *costs: Tensor) -> None:
    """Check that the terms are these costs, each weighed by the derivative of the loss by it."""
    terms, constant, _ = terms_of(loss)
    found = {id(term.leaf): term for term in terms}
    assert found.keys() == {id(cost) for cost in costs}
    slopes = torch.autograd.grad(an.untrack(loss), costs, retain_graph=True)
    for cost, slope in zip(costs, slopes, strict=True):
        term = found[id(cost)]
        weight = torch.as_tensor(term.weight, dtype=slope.dtype).expand(slope.shape)
        torch.testing.assert_close(weight.detach(), an.untrack(slope))
        torch.testing.assert_close(term.value, (an.untrack(cost) * slope).detach())
        torch.testing.assert_close(term.live.detach(), term.value)
    assert total(terms, constant) == pytest.approx(number(loss), rel=1e-9)
