"""A gradient that is taken within a recording is a value of the program."""

from collections.abc import Callable

import pytest
import torch
from programs.estimates import fresh, gradients
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal

import ancestral as an
from ancestral.estimators.gradient.loss_pytree import ScoredLossError
from ancestral.provenance.dispatch.inplace import WriteIntoParameterError
from ancestral.provenance.tensor import storage
from oracles import Parameters, Program, exact_gradient, mean_and_truth, moments

# Some of the programs decide by what they read, for what is tested.
pytestmark = pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")

WEIGHTS = torch.tensor([1.0, 2.0], dtype=torch.float64)
Gradient = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Takes a loss, the draws and the parameters, and returns what a program goes on with."""


def draw(theta: Tensor) -> Tensor:
    z: Tensor = Bernoulli(logits=theta).sample()
    return z


def cost(z: Tensor) -> Tensor:
    return ((z - 0.3) ** 2 * WEIGHTS).sum()


# What a gradient is, written twice: by the library, and for the oracle by hand.


def by_the_surrogate(loss: Tensor, z: Tensor, theta: Tensor) -> Tensor:
    return torch.autograd.grad(an.surrogate(loss, baseline=None), theta, retain_graph=True)[0]


def by_backward_of_the_surrogate(loss: Tensor, z: Tensor, theta: Tensor) -> Tensor:
    an.surrogate(loss, baseline=None).backward(retain_graph=True)
    return taken(theta)


def by_backward(loss: Tensor, z: Tensor, theta: Tensor) -> Tensor:
    an.backward(loss, baseline=None, retain_graph=True)
    return taken(theta)


def by_a_hook(loss: Tensor, z: Tensor, theta: Tensor) -> Tensor:
    met: list[Tensor] = []
    handle = theta.register_hook(met.append)
    an.surrogate(loss, baseline=None).backward(retain_graph=True)
    handle.remove()
    taken(theta)
    return met[0]


def by_a_hook_after_accumulation(loss: Tensor, z: Tensor, theta: Tensor) -> Tensor:
    met: list[Tensor] = []

    def meet(leaf: Tensor) -> None:
        met.append(taken(leaf))

    handle = theta.register_post_accumulate_grad_hook(meet)
    an.backward(loss, baseline=None, retain_graph=True)
    handle.remove()
    return met[0]


def with_a_graph_that_is_cut(loss: Tensor, z: Tensor, theta: Tensor) -> Tensor:
    found = torch.autograd.grad(an.surrogate(loss, baseline=None), theta, create_graph=True)
    return found[0].detach()


def of_two_surrogates(loss: Tensor, z: Tensor, theta: Tensor) -> Tensor:
    total = an.surrogate(loss * 0.25, baseline=None) + an.surrogate(loss * 0.75, baseline=None)
    return torch.autograd.grad(total, theta, retain_graph=True)[0]


def by_site(loss: Tensor, z: Tensor, theta: Tensor) -> Tensor:
    total = an.surrogate(loss, credit=an.estimators.by_element, baseline=None)
    return torch.autograd.grad(total, theta, retain_graph=True)[0]


def by_hand(loss: Tensor, z: Tensor, theta: Tensor) -> Tensor:
    """Return the estimate that all of these are, of a loss that no parameter reaches otherwise."""
    costs = ((z - 0.3) ** 2 * WEIGHTS).detach()
    score = (Bernoulli(logits=theta).log_prob(z) * costs).sum()
    return torch.autograd.grad(score, theta)[0]


def by_default(loss: Tensor, z: Tensor, theta: Tensor) -> Tensor:
    return torch.autograd.grad(an.surrogate(loss), theta, retain_graph=True)[0]


def by_hand_less_the_other(loss: Tensor, z: Tensor, theta: Tensor) -> Tensor:
    """Return the estimate by default: less the cost of the other draw."""
    costs = ((z - 0.3) ** 2 * WEIGHTS).detach()
    score = (Bernoulli(logits=theta).log_prob(z) * (costs - costs.flip(0))).sum()
    return torch.autograd.grad(score, theta)[0]


def taken(theta: Tensor) -> Tensor:
    assert theta.grad is not None
    found, theta.grad = theta.grad.clone(), None
    return found


GRADIENTS = [
    by_the_surrogate,
    by_backward_of_the_surrogate,
    by_backward,
    by_a_hook,
    by_a_hook_after_accumulation,
    with_a_graph_that_is_cut,
    of_two_surrogates,
    by_site,
    by_default,
]


# Programs around it.

Inner = Callable[[Tensor, Gradient], Tensor]


def penalty(theta: Tensor, gradient: Gradient) -> Tensor:
    z = draw(theta)
    loss = cost(z)
    g = gradient(loss, z, theta)
    return loss + (g**2).sum()


def step_and_draw(theta: Tensor, gradient: Gradient) -> Tensor:
    z = draw(theta)
    g = gradient(cost(z), z, theta)
    return ((draw(theta - 0.7 * g) - 0.6) ** 2 * WEIGHTS).sum()


def two_steps(theta: Tensor, gradient: Gradient) -> Tensor:
    stepped, losses = theta, []
    for _ in range(2):
        leaf = stepped
        z = draw(leaf)
        losses.append(cost(z))
        g = gradient(losses[-1], z, theta) if leaf is theta else leaf.detach() * 0.1
        stepped = leaf - 0.5 * g
    return sum(losses, (stepped**2).sum())


def decision(theta: Tensor, gradient: Gradient) -> Tensor:
    z = draw(theta)
    loss = cost(z)
    g = gradient(loss, z, theta)
    return loss * theta.sum() if g.norm() > 0.3 else theta[0] * 2


def decision_and_draw(theta: Tensor, gradient: Gradient) -> Tensor:
    z = draw(theta)
    g = gradient(cost(z), z, theta)
    if g.sum().item() > 0.05:
        return draw(theta[1] * 2) * 1.5
    return theta[0].new_tensor(0.7)


def clipped(theta: Tensor, gradient: Gradient) -> Tensor:
    z = draw(theta)
    g = gradient(cost(z), z, theta)
    g = g * (0.4 / g.norm()).clamp(max=1.0)
    return (theta.detach() - g).exp().sum() * draw(theta[0])  # type: ignore[no-any-return]


def written(theta: Tensor, gradient: Gradient) -> Tensor:
    z = draw(theta)
    g = gradient(cost(z), z, theta)
    fast = theta.detach().clone()
    fast -= 0.5 * g
    return (draw(fast + theta.mean()) * WEIGHTS).sum()


def optimized(theta: Tensor, gradient: Gradient) -> Tensor:
    """Take an optimizer's step, on what is no nn.Parameter."""
    z = draw(theta)
    g = gradient(cost(z), z, theta)
    fast = theta.detach().clone().requires_grad_()
    optimizer = torch.optim.SGD([fast], lr=0.5, momentum=0.5)
    for _ in range(2):
        fast.grad = g
        optimizer.step()
    return (draw(fast + theta) * WEIGHTS).sum()


def written_behind(theta: Tensor, gradient: Gradient) -> Tensor:
    """Read by an older view, which no one tracks, what was written after the gradient."""
    z = draw(theta)
    g = gradient(cost(z), z, theta)
    buffer = torch.zeros(2, dtype=theta.dtype)
    older = buffer[:]
    buffer.copy_(draw(theta * 2))
    return cost(older) + g.sum() * 0


PROGRAMS: list[Inner] = [
    optimized,
    written_behind,
    penalty,
    step_and_draw,
    two_steps,
    decision,
    decision_and_draw,
    clipped,
    written,
]


def estimator(
    program: Inner, gradient: Gradient, *, is_within: bool
) -> Callable[[Program, Parameters], Tensor]:
    """Return the estimate that an.backward makes of a program, within its recording or after it."""

    def estimate(_: Program, parameters: Parameters) -> Tensor:
        (theta,) = fresh(parameters)
        with an.record():
            loss = program(theta, gradient)
            if is_within:
                an.backward(loss)
        if not is_within:
            an.backward(loss)
        return gradients([theta])

    return estimate


def leaf(*values: float) -> Tensor:
    return torch.tensor(values or (0.3, -0.2), dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_what_a_program_does_with_an_estimate_is_unbiased(
    program: Inner, gradient: Gradient
) -> None:
    def alone(theta: Tensor) -> Tensor:
        return program(theta, by_hand_less_the_other if gradient is by_default else by_hand)

    theta = leaf()
    exact = exact_gradient(alone, [theta])
    for is_within in (True, False):
        estimate = estimator(program, gradient, is_within=is_within)
        found = moments(alone, [theta], estimate).mean
        torch.testing.assert_close(found, exact)


def test_what_a_hook_begins_to_look_up_is_looked_up_after_the_pass() -> None:
    """Autograd forgets the modes of functions that a hook opens."""
    theta = leaf()
    with an.record():
        loss = cost(draw(theta))
        by_a_hook_after_accumulation(loss, loss, theta)
        assert modes() == [storage.local.mode] != [None]
        an.backward(loss, retain_graph=True)
        assert modes() == [storage.local.mode]
    assert modes() == []


def modes() -> list[object]:
    """Return the open modes of functions of torch."""
    return [torch._C._get_function_stack_at(n) for n in range(torch._C._len_torch_function_stack())]


def model() -> None:
    z = an.sample("z", Bernoulli(leaf(0.4, 0.7).detach()))
    an.sample("x", Normal(z, 1.0), obs=leaf(0.2, 1.1).detach())


def bound(theta: Tensor, surrogate: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    """Go on with the value of a bound, and with the gradient of its surrogate."""
    value, scalar = surrogate(theta)
    (g,) = torch.autograd.grad(scalar, theta, retain_graph=True)
    far = draw(theta - g).sum() if value > -2.9 else g.norm() * 2
    return far + (g**2).sum()


def bound_of_the_library(theta: Tensor) -> tuple[Tensor, Tensor]:
    found = an.infer.elbo(model, lambda: an.sample("z", Bernoulli(logits=theta)), baseline=None)
    return found.value, found.surrogate


def bound_by_hand(theta: Tensor) -> tuple[Tensor, Tensor]:
    q, prior = Bernoulli(logits=theta), Bernoulli(leaf(0.4, 0.7).detach())
    z = q.sample()
    data = Normal(z, 1.0).log_prob(leaf(0.2, 1.1).detach())
    costs = (q.log_prob(z) - prior.log_prob(z) - data).detach()
    return -costs.sum(), (q.log_prob(z) * costs).sum()


def test_a_bound_within_a_recording_is_a_value_of_its_program() -> None:
    def alone(theta: Tensor) -> Tensor:
        return bound(theta, bound_by_hand)

    def ours(theta: Tensor, _: Gradient) -> Tensor:
        return bound(theta, bound_of_the_library)

    theta = leaf()
    torch.testing.assert_close(
        *mean_and_truth(alone, [theta], estimator(ours, by_hand, is_within=False))
    )


@pytest.mark.parametrize("ask", [an.backward, an.surrogate])
def test_the_graph_of_a_surrogate_does_not_count_twice(ask: Callable[[Tensor], object]) -> None:
    programs: list[Gradient] = [
        lambda loss, g, theta: loss + (g**2).sum(),
        lambda loss, g, theta: cost(draw(theta - g)),
        lambda loss, g, theta: loss * g.exp().mean(),
        lambda loss, g, theta: an.surrogate(loss) + loss,
    ]
    for program in programs:
        theta = leaf()
        with an.record():
            loss = cost(draw(theta))
            (g,) = torch.autograd.grad(an.surrogate(loss), theta, create_graph=True)
            loss = program(loss, g, theta)
        with pytest.raises(ScoredLossError, match=r"test_inner_gradients\.py:\d+, .*create_graph"):
            ask(loss)


@pytest.mark.filterwarnings("ignore::ancestral.errors.MissingScoreWarning")  # it holds the score
def test_the_graph_of_a_surrogate_by_hand_gives_the_derivatives_of_second_order() -> None:
    def program(theta: Tensor) -> Tensor:
        z = draw(theta)
        costs = (z - 0.3) ** 2 * WEIGHTS
        score = (Bernoulli(logits=theta).log_prob(z) * costs.detach()).sum()
        (g,) = torch.autograd.grad(score, theta, create_graph=True)
        return costs.sum() + (g**2).sum() + cost(draw(theta - g))

    theta = leaf()
    found = moments(
        program, [theta], estimator(lambda t, _: program(t), by_hand, is_within=False)
    ).mean
    torch.testing.assert_close(found, exact_gradient(program, [theta]))


def test_the_hessian_by_the_surrogate_is_as_it_was_within_a_recording() -> None:
    theta = leaf()
    with an.record():
        loss = cost(draw(theta))
        (g,) = torch.autograd.grad(an.surrogate(loss), theta, create_graph=True)
        inside = torch.autograd.grad(g.sum(), theta, retain_graph=True)[0]
    (g,) = torch.autograd.grad(an.surrogate(loss), theta, create_graph=True)
    outside = torch.autograd.grad(g.sum(), theta)[0]
    torch.testing.assert_close(an.untrack(inside), outside)


OPTIMIZERS: list[Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = [
    lambda p: torch.optim.SGD(p, lr=0.1),
    lambda p: torch.optim.Adam(p, foreach=True),
    lambda p: torch.optim.Adam(p, fused=True),
    torch.optim.RMSprop,
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kept", [True, False])
def test_a_step_on_parameters_is_refused_within_the_recording_and_goes_through_after_it(
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer], kept: bool
) -> None:
    weight = nn.Parameter(leaf().detach())
    before, step = weight.detach().clone(), optimizer([weight])
    with an.record():
        if kept:
            an.backward(cost(draw(weight)), retain_graph=True)
        else:
            an.surrogate(cost(draw(weight))).backward()
        with pytest.raises(WriteIntoParameterError, match="depends on 'z'"):
            step.step()
    step.step()
    assert (type(weight), type(weight.grad)) == (nn.Parameter, Tensor)
    assert not torch.equal(weight, before)


def test_a_gradient_that_ends_the_recording_is_a_constant_at_once() -> None:
    weight = nn.Parameter(leaf().detach())
    with an.record():
        an.backward(cost(draw(weight)))
        torch.optim.SGD([weight], lr=0.1).step()
    assert type(weight.grad) is Tensor


def test_a_gradient_that_is_taken_after_the_recording_is_a_constant() -> None:
    theta = leaf()
    with an.record():
        loss = cost(draw(theta))
        inside = an.surrogate(loss)
    for scalar in (inside, an.surrogate(loss)):
        (g,) = torch.autograd.grad(scalar, theta, retain_graph=True)
        assert type(g) is Tensor


def test_a_value_that_is_read_after_a_gradient_was_asked_is_an_escape_still() -> None:
    def program(theta: Tensor, gradient: Gradient) -> Tensor:
        z = draw(theta)
        gradient(cost(z), z, theta)
        return theta.new_tensor(1.3) if z.sum() > 1 else cost(draw(theta))

    theta = leaf()

    def alone(given: Tensor) -> Tensor:
        return program(given, by_hand)

    torch.testing.assert_close(
        *mean_and_truth(alone, [theta], estimator(program, by_the_surrogate, is_within=False))
    )


def test_an_estimate_that_is_written_into_a_part_of_a_parameter_leaves_it_a_parameter() -> None:
    weight = nn.Parameter(leaf().detach())
    with an.record():
        loss = cost(draw(weight))
        (g,) = torch.autograd.grad(an.surrogate(loss), weight, retain_graph=True)
        with torch.no_grad(), pytest.raises(WriteIntoParameterError, match="depends on 'z'"):
            weight[:1].sub_(g[:1])
    before = weight.detach().clone()
    with torch.no_grad():
        weight[:1].sub_(g[:1])
        weight.sub_(g)
    assert (type(weight), an.provenance_of(weight * 1)) == (nn.Parameter, frozenset())
    torch.testing.assert_close(weight.detach(), before - an.untrack(g) * torch.tensor([2.0, 1.0]))
