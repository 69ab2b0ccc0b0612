"""Nested losses count with their sum, and what is wrong in them is named by its keys."""

import functools
import re
from typing import Any

import pytest
import torch
from programs.estimates import fresh, gradients
from torch import Tensor
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.estimators.gradient.loss_pytree import LossError
from oracles import derivatives, mean_and_truth, paths, replaying

close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)
THETA = torch.tensor([0.3, -0.6], dtype=torch.float64, requires_grad=True)
PRIOR = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)


def parts(theta: Tensor, prior: Tensor) -> dict[str, Any]:
    """Return losses by name: two depend on draws, one is learned and tracked by nobody."""
    z = Bernoulli(logits=theta).sample()
    nll = (z * theta.exp() - 0.4).square()
    return {"nll": nll.sum(), "kl": {"a": (z[0] * prior).exp(), "b": [(prior**2).sum(), z[1:]]}}


def summed(theta: Tensor, prior: Tensor) -> Tensor:
    """Return their sum."""
    found = parts(theta, prior)
    a, (b, c) = found["kl"]["a"], found["kl"]["b"]
    return found["nll"] + a + b + c.sum()  # type: ignore[no-any-return]


def estimate(is_nested: bool, is_surrogate: bool, _: Any, given: Any) -> Tensor:
    """Estimate the gradient of the nested losses, or of their sum."""
    leaves = fresh(given)
    with an.record():
        loss = parts(*leaves) if is_nested else summed(*leaves)
    if is_surrogate:
        return derivatives(an.surrogate(loss), leaves)
    an.backward(loss)
    return gradients(leaves)


@pytest.mark.parametrize("is_surrogate", [False, True])
def test_nested_losses_count_with_their_sum(is_surrogate: bool) -> None:
    runs = paths(summed, [THETA, PRIOR])
    for path in runs:
        found = []
        for is_nested in (True, False):
            with replaying(path):
                found.append(estimate(is_nested, is_surrogate, None, [THETA, PRIOR]))
        close(found[0], found[1])
    close(*mean_and_truth(summed, [THETA, PRIOR], functools.partial(estimate, True, is_surrogate)))


def test_a_gradient_of_the_same_nesting_weighs_the_leaves() -> None:
    theta = THETA.detach().clone().requires_grad_()
    with an.record():
        z = Bernoulli(logits=theta).sample()
        losses = [z * theta, {"b": (z * theta).sum()}]
    weights = [torch.tensor([2.0, 3.0]).double(), {"b": torch.tensor(0.5).double()}]
    total = (losses[0] * weights[0]).sum() + 0.5 * losses[1]["b"]
    expected = derivatives(an.surrogate(total), [theta])
    close(derivatives(an.surrogate(losses, weights), [theta]), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nll": 1.0}, "loss['nll'] is a float; expected a torch.Tensor"),
        ({"kl": {"a": [torch.ones(()), None]}}, "loss['kl']['a'][1] is None"),
        ({"kl": (torch.ones(3),)}, "loss['kl'][0] has shape [3]; expected a scalar"),
    ],
)
def test_a_leaf_that_is_wrong_is_named_by_its_keys(change: dict[str, Any], message: str) -> None:
    with an.record():
        losses = parts(THETA, PRIOR) | change
    with pytest.raises(LossError, match=re.escape(message)):
        an.backward(losses)
    with pytest.raises(LossError, match=re.escape(message)):
        an.surrogate(losses)


@pytest.mark.parametrize("empty", [{}, [], {"a": [], "b": {}}])
def test_losses_without_a_tensor_are_refused(empty: Any) -> None:
    with pytest.raises(LossError, match="the loss has no tensor in it"):
        an.backward(empty)


@pytest.mark.parametrize(
    "gradient", [torch.ones(()), [torch.ones(())], {"a": torch.ones(()), "c": torch.ones(())}]
)
def test_a_gradient_of_another_nesting_is_refused(gradient: Any) -> None:
    with an.record():
        z = Bernoulli(logits=THETA).sample()
        losses = {"a": z.sum(), "b": z.mean()}
    with pytest.raises(LossError, match=r"does not have the nesting of the loss at loss"):
        an.backward(losses, gradient)
    with pytest.raises(LossError, match=r"gradient of loss\['b'\] must be a tensor of its shape"):
        an.backward(losses, {"a": torch.ones(()), "b": torch.ones(2)})
