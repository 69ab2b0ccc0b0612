"""The block is the program: what is read after it blurs no finished term, and is followed on."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import functools
import io
import json
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from programs.estimates import blurring, fresh, gradients
from torch import Tensor, nn
from torch.distributions import Bernoulli
from torch.nn import functional

import ancestral as an
from oracles import (
    Estimate,
    Parameters,
    derivatives,
    estimates,
    exact_derivatives,
    exact_gradient,
    moments,
)

close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)
THETA = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)
CONTROLS = ("strict", "after", "error", "ignore")


class Drawn(NamedTuple):
    """What the block has made: draws, the finished cost of each, and their sum."""

    theta: Tensor  # [2]
    a: Tensor  # [2]
    costs: Tensor  # [2]
    loss: Tensor  # []


def drawn(theta: Tensor) -> Drawn:
    a = Bernoulli(logits=theta).sample()
    costs = (a - 0.45) ** 2 * theta.exp()
    return Drawn(theta, a, costs, costs.sum())


def env(action: Any) -> float:
    """Return what a simulator that sees numbers only gives for the first action."""
    return 0.7 - 1.9 * float(action)


def steps(d: Drawn) -> Tensor:
    """Step a simulator by both actions, the second step by what the first one gave."""
    first = env(d.a[0].item())
    second = env(first * d.a[1].item())
    return d.loss + torch.tensor(first) + second


def rewards(d: Drawn) -> Tensor:
    """Return rewards of two environments, as numpy gives them, on float64."""
    return torch.from_numpy(0.7 - 1.9 * d.a.numpy()[::-1].copy())


def added_by_steps(d: Drawn) -> Tensor:
    loss = d.loss
    loss += rewards(d).sum()
    return loss


def reward_of_a_branch(d: Drawn) -> Tensor:
    return d.loss + d.theta[1] ** 2 if d.a[0].item() else d.loss - 0.4


def square_of_a_reward(d: Drawn) -> Tensor:
    r = env(d.a[0].item())
    return ((d.a[1] - r) ** 2).exp()


def a_function_by_branch(d: Drawn) -> Tensor:
    return d.a[1].exp() if d.a[0] > 0 else (d.a[1] + 2).log()


def a_look_up(d: Drawn) -> Tensor:
    index = torch.tensor([int(d.a[0]), 1])
    return d.costs[index].sum()


def a_masked_choice(d: Drawn) -> Tensor:
    return torch.where(rewards(d) > 0, d.costs, 2 * d.costs).sum()


FOLLOWED: dict[str, Callable[[Drawn], Tensor]] = {
    "a_simulator": lambda d: d.loss + env(d.a[0].numpy()),
    "two_steps_of_a_simulator": steps,
    "rewards_less_a_loss": lambda d: rewards(d).sum() - d.loss,
    "rewards_of_a_batch": lambda d: (d.costs + rewards(d)).mean(),
    "rewards_in_a_stack": lambda d: torch.stack([d.loss, rewards(d)[0], rewards(d)[1]]).sum(),
    "rewards_in_a_list": lambda d: d.loss + torch.tensor(rewards(d).tolist()).sum(),
    "rewards_added_in_place": added_by_steps,
    "rewards_as_weights": lambda d: (d.a * rewards(d)).sum(),
    "rewards_as_a_vector": lambda d: torch.dot(d.costs, rewards(d)),
    "rewards_as_quotients": lambda d: (d.costs / rewards(d)).sum(),
    "rewards_as_targets": lambda d: functional.mse_loss(d.a, rewards(d)),
    "rewards_as_logits": lambda d: functional.binary_cross_entropy_with_logits(rewards(d), d.a),
    "a_square": square_of_a_reward,
    "a_branch": reward_of_a_branch,
    "a_function_by_branch": a_function_by_branch,
    "a_function_of_torch": lambda d: torch.pow(d.a[1] + 1, env(d.a[0].item())),
    "a_method": lambda d: d.a[1].mul(2).sigmoid() if d.a[0] else d.a[1].tanh(),
    "a_look_up": a_look_up,
    "a_masked_choice": a_masked_choice,
    "a_parameter": lambda d: d.loss + d.theta[int(d.a[0])] ** 2,
    "a_shape": lambda d: d.loss + 0.3 * len(d.a[d.a > 0]),
    "a_size": lambda d: d.loss * 1 + torch.ones(int(d.a.sum()) + 1).sum(),
}


def by_record(
    control: str, after: Callable[[Drawn], Tensor], *, is_inside: bool = False
) -> Estimate:
    """Return the estimate of a program whose block ends before `after`, or behind it."""

    def estimate(_: Any, parameters: Parameters) -> Tensor:
        leaves = fresh(parameters)
        with an.record(control=control):
            made = drawn(*leaves)
            loss = after(made) if is_inside else None
        with blurring():
            an.backward(after(made) if loss is None else loss)
        return gradients(leaves)

    return estimate


class Model(nn.Module):
    """What the block of `drawn` holds, as a module."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta)

    def forward(self) -> Drawn:
        return drawn(self.theta)


def by_wrap(control: str, after: Callable[[Drawn], Tensor]) -> Estimate:
    """Return the estimate of a program whose block is the call of a wrapped module."""

    def estimate(_: Any, parameters: Parameters) -> Tensor:
        model = an.wrap(Model(parameters[0].detach().clone()), control=control)
        with blurring():
            an.backward(after(model()))
        return gradients([model.theta])

    return estimate


def by_surrogate(order: int, after: Callable[[Drawn], Tensor]) -> Estimate:
    def estimate(_: Any, parameters: Parameters) -> Tensor:
        with an.record():
            made = drawn(*parameters)
        with blurring():
            surrogate = an.surrogate(after(made))
        return derivatives(surrogate, parameters, order)

    return estimate


def whole(after: Callable[[Drawn], Tensor], theta: Tensor) -> Tensor:
    return after(drawn(theta))


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("name", FOLLOWED)
def test_what_is_computed_after_a_read_is_followed_under_every_setting(
    name: str, control: str
) -> None:
    program = functools.partial(whole, FOLLOWED[name])
    exact = exact_gradient(program, [THETA])
    assert exact.abs().max() > 1e-3
    for estimate in (by_record(control, FOLLOWED[name]), by_wrap(control, FOLLOWED[name])):
        close(moments(program, [THETA], estimate).mean, exact)


@pytest.mark.parametrize("name", FOLLOWED)
def test_second_derivatives_follow_it_too(name: str) -> None:
    program = functools.partial(whole, FOLLOWED[name])
    found = moments(program, [THETA], by_surrogate(2, FOLLOWED[name])).mean
    close(found, exact_derivatives(program, [THETA], 2))


def printed(d: Drawn) -> None:
    print(d.loss, d.a, file=io.StringIO())


READS: dict[str, Callable[[Drawn], object]] = {
    "item": lambda d: d.loss.item(),
    "float": lambda d: float(d.loss.detach()),
    "print": printed,
    "an f-string": lambda d: f"{d.loss:.3f} {d.costs}",
    "repr": lambda d: repr(d),
    "a metric": lambda d: ((d.a > 0.5).double().mean().item(), d.costs.detach().max().tolist()),
    "numpy": lambda d: d.costs.detach().numpy().mean(),
    "a check": lambda d: bool(torch.isfinite(d.loss)) or bool(d.loss > 1e9),
    "json": lambda d: json.dumps({"loss": d.loss.item()}),
    "pickle": lambda d: pickle.dumps(d.loss.detach()),
    "many": lambda d: [(d.loss.item(), d.a.tolist()) for _ in range(3)],
}

# None of these is a new term.
GOING_ON: dict[str, Callable[[Drawn], Tensor]] = {
    "as it is": lambda d: d.loss,
    "divided": lambda d: d.loss / 4,
    "scaled": lambda d: 0.5 * d.loss * torch.tensor(3.0),
    "by a scaler": lambda d: torch.amp.GradScaler("cpu", init_scale=8.0).scale(d.loss),
    "averaged": lambda d: d.costs.mean(),
    "summed by Python": lambda d: (0 + d.costs[0] + d.costs[1]) / 2,
    "two losses": lambda d: d.loss + 0.1 * d.costs.mean(),
    "a stack": lambda d: torch.stack([d.costs[1], d.loss]).mean(),
    "in place": lambda d: d.loss.mul_(2).add_(d.costs[0]),
    "of another shape": lambda d: d.costs.reshape(2, 1).squeeze(1).sum(),
}


@pytest.mark.parametrize(
    ("read", "going_on", "control"),
    [
        *((read, GOING_ON["divided"], control) for read in READS.values() for control in CONTROLS),
        *((READS["many"], going_on, "strict") for going_on in GOING_ON.values()),
    ],
)
def test_a_read_after_the_block_costs_nothing(
    read: Callable[[Drawn], object], going_on: Callable[[Drawn], Tensor], control: str
) -> None:
    def looked(d: Drawn) -> Tensor:
        read(d)
        return going_on(d)

    program = functools.partial(whole, going_on)
    weights, without = estimates(program, [THETA], by_record(control, going_on))
    for estimate in (by_record(control, looked), by_wrap(control, looked)):
        close(estimates(program, [THETA], estimate), (weights, without))


def test_a_loss_that_was_reduced_before_the_read_costs_nothing_though_it_is_taken_apart_later() -> (
    None
):
    """A loss of `torch.nn.functional` is computed element by element when a gradient is asked."""

    def reduced(d: Drawn, *, is_read: bool) -> Tensor:
        loss = functional.mse_loss(d.costs, torch.ones(2, dtype=torch.float64))
        return loss if not is_read or loss.item() is not None else d.loss

    program = functools.partial(whole, functools.partial(reduced, is_read=False))
    looked, silent = (functools.partial(reduced, is_read=r) for r in (True, False))
    for control in CONTROLS:
        expected = estimates(program, [THETA], by_record(control, silent))
        close(estimates(program, [THETA], by_record(control, looked)), expected)


def one_of_two(d: Drawn) -> Tensor:
    first, second = d.costs
    return first if d.a[1].item() else second


def a_factor(d: Drawn) -> Tensor:
    return d.loss * env(d.a[0].item())


@pytest.mark.parametrize("chosen", [one_of_two, a_factor])
def test_a_choice_between_finished_terms_belongs_in_the_block(
    chosen: Callable[[Drawn], Tensor],
) -> None:
    """Within it the gradient is unbiased; after it finished terms count regardless, each once."""
    program = functools.partial(whole, chosen)
    exact = exact_gradient(program, [THETA])
    inside = moments(program, [THETA], by_record("strict", chosen, is_inside=True)).mean
    close(inside, exact)
    outside = moments(program, [THETA], by_record("strict", chosen)).mean
    assert (outside - exact).abs().max() > 1e-2


def test_what_is_computed_after_the_block_depends_on_what_was_read_in_it_under_after() -> None:
    def estimate(_: Any, parameters: Parameters) -> Tensor:
        leaves = fresh(parameters)
        with an.record(control="after"):
            made = drawn(*leaves)
            r = env(made.a[0].item())
        with blurring():
            an.backward((made.a[1] - r) ** 2)
        return gradients(leaves)

    def program(theta: Tensor) -> Tensor:
        made = drawn(theta)
        return (made.a[1] - env(made.a[0].item())) ** 2

    close(moments(program, [THETA], estimate).mean, exact_gradient(program, [THETA]))


def test_reads_after_the_block_are_listed_with_what_they_blurred() -> None:
    theta = THETA.detach().clone().requires_grad_()
    with an.record() as trace:
        made = drawn(theta)
    made.loss.item()
    an.backward(made.loss, retain_graph=True)
    assert [escape.terms_blurred for escape in trace.escapes] == [0]


def test_what_a_user_tracks_keeps_its_dimensions_apart_though_it_was_printed() -> None:
    x = an.track(torch.ones(3, 2), "x")
    repr(x)
    y = x.exp().sum(1)
    assert an.provenance_of(y) == {"x"}
    assert "0" in repr(y._provenance)  # type: ignore[attr-defined]


def test_after_the_gradient_was_taken_values_are_data() -> None:
    theta = THETA.detach().clone().requires_grad_()
    with an.record():
        made = drawn(theta)
    made.loss.item()
    an.backward(made.loss)
    assert type(made.a * 2) is Tensor
    assert type(made.a.exp()) is Tensor
    assert type(torch.mean(made.a)) is Tensor


def test_a_wrapped_model_that_logs_has_the_variance_of_one_that_does_not() -> None:
    def squared(d: Drawn) -> Tensor:
        return d.loss

    def logged(d: Drawn) -> Tensor:
        assert f"{d.loss:.2f}"
        return d.loss

    program = functools.partial(whole, squared)
    found = moments(program, [THETA], by_wrap("strict", logged))
    silent = moments(program, [THETA], by_wrap("strict", squared))
    inside = moments(program, [THETA], by_record("strict", logged, is_inside=True))
    close(found.variance, silent.variance)
    assert inside.variance.sum() > 2 * found.variance.sum()
