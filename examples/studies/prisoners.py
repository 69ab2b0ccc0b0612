"""The iterated prisoner's dilemma: gradients, second derivatives, and learning that looks ahead.

    python examples/studies/prisoners.py --steps 60 --draws 100 --out out

Two players cooperate or defect, round after round; each has five log-odds of cooperating, one for
the first round and one for each outcome of the round before. The value of a policy is a closed form
of the Markov chain of outcomes, and so are its gradient and its Hessian, which the estimates are
compared with: by enumeration of two rounds (an.verify), and by draws of twenty.

Then both learn: by their own gradients, they end in defection. A player that differentiates through
the other's next step (LOLA) needs the derivative of a gradient, and finds to cooperation.

Foerster, Farquhar, Al-Shedivat, Rocktäschel, Xing and Whiteson (2018), "DiCE: the infinitely
differentiable Monte Carlo estimator", section 5; Foerster et al. (2018), "Learning with
opponent-learning awareness", section 4; Farquhar, Whiteson and Foerster (2019), "Loaded DiCE".
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import comparison
import torch
from comparison import Size
from torch import Tensor
from torch.distributions import Bernoulli

import ancestral as an

DISCOUNT, AHEAD, RATE = 0.96, 0.3, 0.2
"""LOLA's: what a round counts by the one before, the other's step, and the own one's of Adam."""
PAYOFFS = torch.tensor([[-1.0, -3, 0, -2], [-1, 0, -3, -2]], dtype=torch.float64)
"""By player, for both cooperate, the second alone defects, the first alone, and both defect."""
SEEN = torch.tensor([[0, 1, 2, 3, 4], [0, 1, 3, 2, 4]])
"""Each player's state: 0 at first, else the outcome of the round before, the own choice first."""
ROUNDS, LEARNING_ROUNDS, GAMES = 20, 50, 64

Policies = tuple[Tensor, Tensor]


def values(policies: Policies, rounds: int) -> Tensor:
    """Return the expected discounted payoff of each player, [2], in closed form.

    V = p₀ᵀ (I - dP)⁻¹ (I - (dP)ⁿ) r, with the chances p₀ of the first outcome, P of the next,
    and the discount d.
    """
    first, second = (
        torch.sigmoid(policy[seen]) for policy, seen in zip(policies, SEEN, strict=True)
    )
    chances = torch.stack(
        [first * second, first * (1 - second), (1 - first) * second, (1 - first) * (1 - second)], 1
    )
    start, step = chances[0], DISCOUNT * chances[1:]
    one = torch.eye(4, dtype=start.dtype)
    ever = torch.linalg.solve(one - step, one - torch.linalg.matrix_power(step, rounds))
    found: Tensor = PAYOFFS @ (start @ ever)
    return found


def play(policies: Policies, rounds: int, games: int) -> Tensor:
    """Play games, and return the loss of each player, the mean over games, [2]."""
    both = torch.stack([policy[seen] for policy, seen in zip(policies, SEEN, strict=True)])
    state = torch.zeros(games, dtype=torch.long)
    loss = torch.zeros(2, dtype=torch.float64)
    for number in range(rounds):
        is_kind = Bernoulli(logits=both[:, state], validate_args=False).sample()  # [2, games]
        outcome = (2 * (1 - is_kind[0]) + (1 - is_kind[1])).long()
        loss = loss - DISCOUNT**number * PAYOFFS[:, outcome].mean(1)
        state = outcome + 1
    return loss


Surrogate = Callable[[Policies, int, int], Tensor]
"""Plays games with policies, and returns a surrogate of the first player's loss."""


def dice(policies: Policies, rounds: int, games: int, *, baseline: Any = None) -> Tensor:
    """Return `an.surrogate`, whose derivatives of every order are right: that of DiCE."""
    with an.record():
        loss = play(policies, rounds, games)[0]
    return an.surrogate(loss, baseline=baseline)


def exact(policies: Policies, rounds: int, games: int) -> Tensor:
    """Return the expected loss itself, whatever the number of games."""
    return -values(policies, rounds)[0]


def constant_credit(policies: Policies, rounds: int, games: int) -> Tensor:
    """Return Σ_t log q(z_t) · (what it cost from then on), as a constant: right once, not twice."""
    with an.record() as trace:
        play(policies, rounds, games)
    draws = [(node.fn, an.untrack(node.value)) for node in trace.values() if node.fn is not None]
    total = torch.zeros((), dtype=torch.float64)
    later = torch.zeros(games, dtype=torch.float64)
    for number, (fn, value) in reversed([*enumerate(draws)]):
        outcome = (2 * (1 - value[0]) + (1 - value[1])).long()
        later = later - DISCOUNT**number * PAYOFFS[0, outcome]
        total = total + (an.untrack(fn.log_prob(value)).sum(0) * later).mean()
    return total


SURROGATES: Mapping[str, Surrogate] = {
    "auto": partial(dice, baseline="auto"),
    "DiCE": dice,
    "credit as a constant": constant_credit,
}


class Moments(NamedTuple):
    """What is known of an estimate of the gradient, or the Hessian, by the first player's policy.

    `error` is the length of what the mean of all draws is off, by that of the exact one, and
    `expected` what it would be without a bias; `variance` is summed over all coordinates.
    """

    error: float
    expected: float
    variance: comparison.Figure


def derivatives(surrogate: Tensor, policy: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient, [5], and the Hessian, [5, 5]."""
    (gradient,) = torch.autograd.grad(surrogate, policy, create_graph=True)
    rows = [
        torch.autograd.grad(each, policy, retain_graph=True, materialize_grads=True)[0]
        for each in gradient
    ]
    return gradient.detach(), torch.stack(rows)


def measure(name: str, policies: Policies, draws: int) -> tuple[Moments, Moments]:
    """Return the moments of gradient and Hessian by draws, beside the closed form."""
    truth = derivatives(exact(policies, ROUNDS, GAMES), policies[0])
    found = []
    for seed in range(draws):
        torch.manual_seed(seed)
        found.append(derivatives(SURROGATES[name](policies, ROUNDS, GAMES), policies[0]))
    return _moments(truth[0], [each for each, _ in found]), _moments(
        truth[1], [each for _, each in found]
    )


def _moments(truth: Tensor, found: Sequence[Tensor]) -> Moments:
    drawn = torch.stack(list(found)).flatten(1)
    off = (drawn.mean(0) - truth.flatten()).norm() / truth.norm()
    squares = (drawn - drawn.mean(0)).square().sum(1) * len(drawn) / (len(drawn) - 1)
    variance = comparison.Figure(float(squares.mean()), float(squares.std()) / len(drawn) ** 0.5)
    expected = (variance.value / len(drawn)) ** 0.5 / float(truth.norm())
    return Moments(float(off), expected, variance)


def enumerated(policies: Policies) -> tuple[float, float]:
    """Return what gradient and Hessian of two rounds are off the closed form.

    `an.verify` sums what `an.surrogate` estimates over all outcomes.
    """
    first, second = (
        an.verify(lambda: play(policies, 2, 1)[0], parameters={"own": policies[0]}, order=order)
        for order in (1, 2)
    )
    truth = derivatives(exact(policies, 2, 1), policies[0])
    off = (found["own"].mean - each for found, each in zip((first, second), truth, strict=True))
    gradient, hessian = (float(each.abs().max()) for each in off)
    return gradient, hessian


def learn(surrogate: Surrogate, steps: int, rounds: int, *, looks_ahead: bool) -> list[float]:
    """Let both players learn, and return what they get by round on average, at each step."""
    torch.manual_seed(0)
    policies = [torch.zeros(5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    optimizers = [torch.optim.Adam([policy], lr=RATE) for policy in policies]
    scores = []
    of_a_round = (1 - DISCOUNT) / (1 - DISCOUNT**rounds)
    for _ in range(steps):
        both = (policies[0], policies[1])
        scores.append(of_a_round * float(values(both, rounds).detach().mean()))
        for own, other in (both, both[::-1]):
            then = other
            if looks_ahead:  # as the other will have learned from this player
                step = torch.autograd.grad(
                    surrogate((other, own), rounds, GAMES), other, create_graph=True
                )[0]
                then = other - AHEAD * step
            (own.grad,) = torch.autograd.grad(surrogate((own, then), rounds, GAMES), own)
        for optimizer in optimizers:
            optimizer.step()
    return scores


class Found(NamedTuple):
    """What the study has found."""

    off: tuple[float, float]
    moments: Mapping[str, tuple[Moments, Moments]]
    scores: Mapping[str, list[float]]


def main(size: Size) -> Found:
    """Run the study, print what it finds, and draw the plot."""
    torch.manual_seed(0)
    first, second = (torch.randn(5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    moments = {name: measure(name, (first, second), size.draws) for name in SURROGATES}
    learning = {
        "own gradient, exact": (exact, False),
        "own gradient, drawn": (SURROGATES["auto"], False),
        "looks ahead, exact": (exact, True),
        "looks ahead, drawn": (SURROGATES["auto"], True),
    }
    rounds = 5 if size.is_quick else LEARNING_ROUNDS
    scores = {
        name: learn(surrogate, size.steps, rounds, looks_ahead=ahead)
        for name, (surrogate, ahead) in learning.items()
    }
    found = Found(enumerated((first, second)), moments, scores)
    show(found, size)
    return found


def show(found: Found, size: Size) -> None:
    """Print what was found, and draw the plot."""
    first, second = (f"{each:.0e}" for each in found.off)
    print(f"two rounds, over all outcomes: the gradient is off the closed form by {first},")
    print(f"and the Hessian by {second}")
    head = ["estimate", "of", "mean is off by", "without bias", f"variance of {GAMES} games", "±"]
    lines = [head]
    for name, both in found.moments.items():
        for what, each in zip(("gradient", "Hessian"), both, strict=True):
            errors = f"{each.error:.1%}", f"{each.expected:.1%}"
            lines.append([name, what, *errors, str(each.variance), f"{each.variance.error:.2g}"])
    print(f"\n{ROUNDS} rounds, {size.draws} draws:\n\n{comparison.aligned(lines)}\n")
    for number, what in enumerate(("gradient", "Hessian")):
        figures = {name: both[number].variance for name, both in found.moments.items()}
        print(comparison.ordered("auto", "DiCE", figures, f"variance of the {what}"), end=" ")
        print("(Farquhar et al. 2019)")
    hessian = found.moments["credit as a constant"][1]
    is_biased = hessian.error > 3 * hessian.expected
    print(
        "the Hessian of credit as a constant is biased:",
        "found" if is_biased else "not found",
        "(Foerster et al. 2018)",
    )
    print("\npayoff of a round, at first and after learning:")
    for name, scores in found.scores.items():
        print(f"{name:20} {scores[0]:6.2f} {scores[-1]:6.2f}")
    if size.out is not None:
        curves = {
            name: ([float(step) for step in range(len(scores))], scores)
            for name, scores in found.scores.items()
        }
        draw = comparison.lines(curves, "step", "payoff of a round (-1: both cooperate)")
        comparison.plot(size.out / "prisoners.png", [draw])


if __name__ == "__main__":
    comparison.command(__doc__, main, steps=60, draws=100)
