"""How losses are used in training: scaled, accumulated, divided, over several recordings."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import functools
from collections.abc import Callable, Sequence

import pytest
import torch
from programs.estimates import by, fresh, gradients, higher_derivatives
from torch import Tensor
from torch.distributions import Bernoulli
from torch.nn import functional

import ancestral as an
from ancestral.estimators.gradient.loss_terms import terms_of
from oracles import autograd, exact_derivatives, exact_gradient, moments

close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)
THETA = torch.tensor([0.3, -0.6], dtype=torch.float64, requires_grad=True)
SCALE = 1024.0


def loss_of(theta: Tensor) -> Tensor:
    """Return a loss of two draws, each with its own cost."""
    z = Bernoulli(logits=theta).sample()
    return ((z - 0.45) ** 2 * theta.exp()).sum()


def by_hand(theta: Tensor) -> Tensor:
    """Return its surrogate, element by element."""
    z = Bernoulli(logits=theta).sample()
    cost = (z - 0.45) ** 2 * theta.exp()
    return cost.sum() + (Bernoulli(logits=theta).log_prob(z) * cost.detach()).sum()


def scaled(loss: Callable[[], Tensor], theta: Tensor) -> Tensor:
    """Return the gradient by a scaler of gradients, unscaled."""
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    optimizer = torch.optim.SGD([theta], lr=1.0)
    with an.record():
        value = loss()
    an.backward(scaler.scale(value), baseline=None)
    assert theta.grad is not None
    assert float(theta.grad.abs().max()) > 1  # it is scaled
    before = theta.detach().clone()
    scaler.step(optimizer)
    scaler.update()
    return before - theta.detach()


def by_scaler(program: Callable[[Tensor], Tensor], given: Sequence[Tensor]) -> Tensor:
    """Estimate with a scaler."""
    (theta,) = fresh(given)
    return scaled(lambda: program(theta), theta)


def accumulated(program: Callable[[Tensor], Tensor], given: Sequence[Tensor]) -> Tensor:
    """Estimate by half the loss of each of two recordings, the gradients added up."""
    leaves = fresh(given)
    for _ in range(2):
        with an.record():
            loss = loss_of(*leaves) / 2
        an.backward(loss, baseline=None)
    return gradients(leaves)


def test_a_scaled_loss_has_the_estimate_that_it_has_unscaled() -> None:
    expected = moments(by_hand, [THETA], autograd)
    found = moments(loss_of, [THETA], by_scaler)
    close(found.mean, expected.mean)
    close(found.variance, expected.variance)


def test_a_scaled_loss_is_taken_apart() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    cost = an.track(torch.rand(3, dtype=torch.float64), "x").exp()
    for loss in (scaler.scale(cost.sum()), scaler.scale([cost.sum() / 4])[0]):
        (term,) = terms_of(loss).terms
        assert term.leaf is cost


def test_gradients_of_several_recordings_add_up() -> None:
    """By the moments of the average of two independent runs of the loss."""

    def twice(theta: Tensor) -> Tensor:
        return (loss_of(theta) + loss_of(theta)) / 2

    single = moments(by_hand, [THETA], autograd)
    found = moments(twice, [THETA], accumulated)
    close(found.mean, exact_gradient(loss_of, [THETA]))
    close(found.variance, single.variance / 2)


def test_the_sum_of_two_open_recordings_is_taken_apart_once() -> None:
    theta = THETA.detach().clone().requires_grad_()
    with an.record():
        first = loss_of(theta)
        second = loss_of(theta)
    an.backward({"first": first / 2, "second": [second / 2]})
    assert theta.grad is not None


@pytest.mark.parametrize("is_cut", [False, True])
def test_a_cost_whose_own_gradient_is_cut_counts_with_its_value(is_cut: bool) -> None:
    """`detach` after a sum, and a sum without gradients, are costs; their gradient is cut."""

    def program(theta: Tensor) -> Tensor:
        z = Bernoulli(logits=theta).sample()
        cost = (z - 0.45) ** 2 * theta.exp()
        if is_cut:
            with torch.no_grad():
                return cost.sum() + 0 * theta.sum()
        return cost.sum().detach() + 0 * theta.sum()

    def expected(theta: Tensor) -> Tensor:
        """The score function with the whole cost; no gradient of the cost itself."""
        z = Bernoulli(logits=theta).sample()
        cost = ((z - 0.45) ** 2 * theta.exp()).detach()
        return (Bernoulli(logits=theta).log_prob(z) * cost).sum()

    for estimate in (by(), higher_derivatives(1)):
        found = moments(program, [THETA], estimate)
        close(found.mean, moments(expected, [THETA], autograd).mean)


CUT: dict[str, Callable[[Tensor], Tensor]] = {
    "a sum": lambda c: c.sum(),
    "an operator": lambda c: (c + c)[0],
    "torch.add": lambda c: torch.add(c, c)[0],
    "minus": lambda c: (-c)[0],
    "a product": lambda c: (c * 2)[1],
    "a reduced loss": lambda c: functional.mse_loss(c, torch.zeros_like(c)),
    "a part": lambda c: c.unbind()[1],
}


@pytest.mark.parametrize("name", CUT)
def test_what_is_computed_without_gradients_has_none_in_higher_derivatives(name: str) -> None:
    def program(theta: Tensor) -> Tensor:
        z = Bernoulli(logits=theta).sample()
        cost = (z - 0.45) ** 2 * theta.exp()
        with torch.no_grad():
            cut = CUT[name](cost)
        return cut + 0.1 * cost.sum()

    close(
        moments(program, [THETA], higher_derivatives(2)).mean,
        exact_derivatives(program, [THETA], 2),
    )


def test_costs_computed_without_gradients_are_taken_apart() -> None:
    x = an.track(torch.rand(3, dtype=torch.float64).requires_grad_(), "x")
    cost = x.exp()
    with torch.no_grad():
        reward = (cost * 2).sum()
    (term,) = terms_of(reward).terms
    assert term.value.shape == (3,)
    assert not term.live.requires_grad
