"""Second derivatives in the iterated prisoner's dilemma, against the exact value of the game.

Farquhar, Whiteson and Foerster (2019), "Loaded DiCE", section 5: with a baseline, the differences
of likelihood ratios leave far less variance in the Hessian than a baseline that meets the score of
its own draw alone.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.estimators.gradient import surrogate as by_library
from ancestral.estimators.gradient.estimator_choice import chosen
from ancestral.estimators.gradient.problem import problem_of

PAYOFF = torch.tensor([-1.0, -3.0, 0.0, -2.0], dtype=torch.float64)  # of CC, CD, DC, DD
GAMMA, STEPS, BATCH, REPEATS = 0.96, 20, 16, 40
POLICIES = torch.tensor(
    [[0.3, -0.5, 0.8, 0.1, -0.2], [-0.4, 0.6, 0.2, -0.9, 0.5]], dtype=torch.float64
)  # logits to cooperate: at first, and after each of the four outcomes


def played(policies: Tensor) -> Tensor:
    """Return what the first player loses, the mean of a batch of games."""
    state, losses = torch.zeros(BATCH, dtype=torch.long), []
    for step in range(STEPS):
        logits = policies[:, state]
        mine, theirs = Bernoulli(logits=logits[0]).sample(), Bernoulli(logits=logits[1]).sample()
        outcome = (2 * (1 - mine) + (1 - theirs)).long()
        losses.append(-(GAMMA**step) * PAYOFF[outcome])
        state = 1 + outcome
    return torch.stack(losses).sum(0).mean()


def value(policies: Tensor) -> Tensor:
    """Return its expectation, by the distribution of the states of each step."""
    p = policies.sigmoid()
    joint = torch.stack(
        [p[0] * p[1], p[0] * (1 - p[1]), (1 - p[0]) * p[1], (1 - p[0]) * (1 - p[1])]
    )
    belief, total = torch.eye(5, dtype=torch.float64)[0], torch.zeros((), dtype=torch.float64)
    for step in range(STEPS):
        outcomes = joint @ belief
        total = total - GAMMA**step * (outcomes @ PAYOFF)
        belief = torch.cat([torch.zeros(1, dtype=torch.float64), outcomes])
    return total


def hessians(surrogate: Callable[[Tensor], Tensor]) -> Tensor:
    """Return estimates of the Hessian, [repeats, 10, 10]."""
    found = []
    for seed in range(REPEATS):
        torch.manual_seed(seed)
        policies = POLICIES.clone().requires_grad_()
        with an.record(control="after"):
            loss = played(policies)
        (first,) = torch.autograd.grad(surrogate(loss), policies, create_graph=True)
        rows = [torch.autograd.grad(g, policies, retain_graph=True)[0] for g in first.flatten()]
        found.append(torch.stack(rows).flatten(1))
    return torch.stack(found)


def of_own_scores(loss: Tensor) -> Tensor:
    """Return the surrogate whose baselines meet the scores of their own draws alone."""
    problem = problem_of(loss, None)
    return by_library.surrogate_of(*chosen(problem, "auto", an.estimators.by_element), "auto")


def test_the_hessian_of_a_game_has_little_variance_and_no_bias() -> None:
    exact = torch.autograd.functional.hessian(value, POLICIES).reshape(10, 10)
    found = hessians(an.surrogate)
    other = hessians(of_own_scores)
    error = (found.mean(0) - exact) / (found.std(0) / REPEATS**0.5).clamp(min=1e-9)
    assert error.abs().max() < 4.5
    assert 6 * found.var(0).sum() < other.var(0).sum()
