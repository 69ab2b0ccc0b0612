"""Losses that hold a score function already: which are noticed, and which call is right for each.

By enumeration: of a surrogate, the plain gradient has the mean that the cost within it has; of a
cost, that of `an.backward` has.
"""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from programs.estimates import by as estimated
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Beta,
    Binomial,
    Categorical,
    Distribution,
    Geometric,
    HalfNormal,
    Independent,
    MultivariateNormal,
    Normal,
    Poisson,
)

import ancestral as an
from ancestral.errors import HeldScoreWarning, MissingScoreWarning
from oracles import exact_gradient, mean_and_truth, moments

# Rewards of simulators are read on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")

LOGITS = torch.tensor([[0.3, -0.5, 0.2], [0.9, 0.1, -0.4]], dtype=torch.float64, requires_grad=True)
REWARDS = torch.tensor([1.3, -0.4, 0.7], dtype=torch.float64)
ROWS = torch.arange(2)


@dataclass(frozen=True)
class Play:
    """One draw from each of two rows of classes, and what there is to make a loss of."""

    logits: Tensor  # [2, 3]
    z: Tensor  # [2]

    @property
    def fn(self) -> Any:
        """The policy, made anew."""
        return Categorical(logits=self.logits)

    @property
    def log_prob(self) -> Tensor:
        """The log-probability of the draws, [2]."""
        return self.fn.log_prob(self.z)

    @property
    def index(self) -> Tensor:
        """The draws as an index, [2, 1]."""
        return self.z.unsqueeze(-1)

    @property
    def one_hot(self) -> Tensor:
        """The draws as rows of zeros and a one, [2, 3]."""
        return F.one_hot(self.z, 3).double()

    @property
    def r(self) -> Tensor:
        """The reward of each row, [2]."""
        return REWARDS[self.z]

    @property
    def p(self) -> Tensor:
        """The probabilities, [2, 3]."""
        return self.logits.softmax(-1)


def ratio(play: Play, clip: float | None = None) -> Tensor:
    """Return what a new policy gives the draws, to what the old one gave them."""
    new = Categorical(logits=play.logits * 1.0)
    found = (new.log_prob(play.z) - play.log_prob.detach()).exp()
    return found if clip is None else found.clamp(1 - clip, 1 + clip)


def advantage(play: Play) -> Tensor:
    """Return the reward, less a mean that was learned, computed without gradients."""
    with torch.no_grad():
        return play.r - play.p.mean(-1) * 0 - 0.2


def read(play: Play) -> list[float]:
    """Return the rewards of a simulator that Python runs."""
    return [REWARDS.tolist()[int(k)] for k in play.z]


HELD: dict[str, Callable[[Play], Tensor]] = {
    "log_prob": lambda p: (p.log_prob * p.r.detach()).sum(),
    "no detach needed": lambda p: (p.r * p.log_prob).sum(),
    "negative": lambda p: -(-p.log_prob * p.r.detach()).sum(),
    "gather": lambda p: (p.p.log().gather(-1, p.index)[:, 0] * p.r.detach()).sum(),
    "log of a gather": lambda p: (p.p.gather(-1, p.index).log().squeeze(-1) * p.r).sum(),
    "take_along_dim": lambda p: (p.p.log().take_along_dim(p.index, -1).squeeze(-1) * p.r).sum(),
    "index": lambda p: (F.log_softmax(p.logits, -1)[ROWS, p.z] * p.r.detach()).sum(),
    "cross entropy": lambda p: -(F.cross_entropy(p.logits, p.z, reduction="none") * p.r).sum(),
    "nll_loss": lambda p: -(F.nll_loss(p.p.log(), p.z, reduction="none") * p.r.detach()).sum(),
    "one hot": lambda p: ((p.p.log() * p.one_hot).sum(-1) * p.r.detach()).sum(),
    "one hot, weighted": lambda p: (p.p.log() * (p.one_hot * p.r[:, None]).detach()).sum(),
    "logsumexp": lambda p: (
        (p.logits.gather(-1, p.index)[:, 0] - p.logits.logsumexp(-1)) * p.r.detach()
    ).sum(),
    "a ratio": lambda p: (ratio(p) * p.r.detach()).sum(),
    "a clipped ratio": lambda p: torch.min(ratio(p) * p.r.detach(), ratio(p, 0.2) * p.r).sum(),
    "a ratio of probabilities": lambda p: (
        (p.p.gather(-1, p.index) / p.p.gather(-1, p.index).detach())[:, 0] * p.r.detach()
    ).sum(),
    "dot": lambda p: torch.dot(p.log_prob, p.r.detach()),
    "matmul": lambda p: p.log_prob @ p.r.detach(),
    "einsum": lambda p: torch.einsum("b,b->", p.log_prob, p.r.detach()),
    "a loop": lambda p: sum(
        (a * b for a, b in zip(p.log_prob, p.r.detach(), strict=True)), torch.tensor(0.0)
    ),
    "a stack": lambda p: torch.stack([a * b for a, b in zip(p.log_prob, p.r, strict=True)]).sum(),
    "an entropy bonus": lambda p: (p.log_prob * p.r.detach()).sum() - 0.0 * p.fn.entropy().sum(),
    "an advantage without gradients": lambda p: (p.log_prob * (advantage(p) + 0.2)).sum(),
    "read as a tensor": lambda p: (p.log_prob * torch.tensor(read(p), dtype=torch.float64)).sum(),
    "read as numbers": lambda p: sum(
        (a * b for a, b in zip(p.log_prob, read(p), strict=True)), torch.tensor(0.0)
    ),
    "read by numpy": lambda p: (p.log_prob * torch.from_numpy(REWARDS.numpy()[p.z.numpy()])).sum(),
}


def distance(play: Play) -> Tensor:
    """Return a negative log-likelihood of data under the draws, [2]."""
    return (play.one_hot @ REWARDS - 0.3) ** 2


COSTS: dict[str, Callable[[Play], Tensor]] = {
    "a cost": lambda p: distance(p).sum(),
    "a bound": lambda p: (p.log_prob + distance(p)).sum(),
    "a bound by gather": lambda p: (p.p.log().gather(-1, p.index)[:, 0] + distance(p)).sum(),
    "a bound by cross entropy": lambda p: (
        distance(p) - F.cross_entropy(p.logits, p.z, reduction="none")
    ).sum(),
    "a tempered bound": lambda p: (0.3 * p.log_prob + distance(p)).sum(),
    "a masked bound": lambda p: (
        (p.log_prob + distance(p)) * torch.tensor([1.0, 0.0]).double()
    ).sum(),
    "a weighted bound": lambda p: (p.log_prob * torch.tensor([0.2, 0.5]) + distance(p)).sum(),
    "a bound of several draws": lambda p: -torch.logsumexp(-distance(p) - p.log_prob, 0),
    "all actions": lambda p: (p.p * REWARDS).sum() + distance(p).sum(),
    "an entropy regularizer": lambda p: (p.p * p.p.log()).sum() + distance(p).sum(),
    "a baseline that learns": lambda p: (
        distance(p).sum() + ((distance(p).detach() - p.logits[:, 0] * 0 - 0.1) ** 2).sum()
    ),
    "a draw as input": lambda p: F.cross_entropy(
        p.one_hot @ torch.eye(3).double(), torch.tensor([0, 2])
    ),
    "probabilities times draws": lambda p: (p.p * p.one_hot * REWARDS).sum(),
    "a square of probabilities": lambda p: ((p.p - p.one_hot) ** 2 * REWARDS).sum(),
}


def program(loss: Callable[[Play], Tensor]) -> Callable[..., Tensor]:
    def run(logits: Tensor) -> Tensor:
        return loss(Play(logits, Categorical(logits=logits).sample()))

    return run


def cost(play: Play) -> Tensor:
    """Return what the losses that hold a score mean."""
    return play.r.sum()


def by(call: str, *caught: type[Warning]) -> Callable[[Callable[..., Tensor], Any], Tensor]:
    """Return an estimate by one of the two calls; it warns of this and of nothing else."""

    def ask(loss: Tensor) -> None:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", an.errors.BlurredCreditWarning)
            if call == "ours":
                an.backward(loss)
            elif loss.requires_grad:
                loss.backward()
        if call == "ours" or loss.requires_grad:
            assert [each.category for each in found] == list(caught)

    return estimated(ask)


@pytest.mark.parametrize("name", HELD)
def test_a_loss_that_holds_its_score_is_noticed_and_right_by_the_plain_call(name: str) -> None:
    run, exact = program(HELD[name]), exact_gradient(program(cost), [LOGITS])
    plain = moments(run, [LOGITS], by("theirs")).mean
    torch.testing.assert_close(plain, exact, rtol=1e-9, atol=1e-9)
    ours = moments(run, [LOGITS], by("ours", HeldScoreWarning)).mean
    assert not torch.allclose(ours, exact, atol=1e-3)


@pytest.mark.parametrize("name", COSTS)
def test_a_cost_is_not_taken_for_a_loss_that_holds_its_score(name: str) -> None:
    run = program(COSTS[name])
    torch.testing.assert_close(*mean_and_truth(run, [LOGITS], by("ours")), rtol=1e-9, atol=1e-9)
    moments(run, [LOGITS], by("theirs", MissingScoreWarning))


def test_a_cost_that_python_read_before_is_none_either() -> None:
    def bound(play: Play) -> Tensor:
        if play.z.sum() > 1:
            pass
        return (0.5 * play.log_prob * torch.ones(2) + distance(play)).sum()

    run = program(bound)
    torch.testing.assert_close(*mean_and_truth(run, [LOGITS], by("ours")), rtol=1e-9, atol=1e-9)


COINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "log_prob": lambda lg, z: Bernoulli(logits=lg).log_prob(z),
    "of probabilities": lambda lg, z: Bernoulli(lg.sigmoid()).log_prob(z),
    "of one event": lambda lg, z: Independent(Bernoulli(logits=lg), 1).log_prob(z),
    "with logits": lambda lg, z: -F.binary_cross_entropy_with_logits(lg, z, reduction="none"),
    "cross entropy": lambda lg, z: -F.binary_cross_entropy(lg.sigmoid(), z, reduction="none"),
    "by hand": lambda lg, z: z * lg.sigmoid().log() + (1 - z) * (1 - lg.sigmoid()).log(),
    "logsigmoid": lambda lg, z: z * F.logsigmoid(lg) + (1 - z) * F.logsigmoid(-lg),
    "softplus": lambda lg, z: z * lg - F.softplus(lg),
    "where": lambda lg, z: torch.where(z > 0, lg.sigmoid(), 1 - lg.sigmoid()).log(),
}


@pytest.mark.parametrize("name", COINS)
def test_the_density_of_a_coin_is_recognized_however_it_is_written(name: str) -> None:
    def held(logits: Tensor) -> Tensor:
        z = Bernoulli(logits=logits).sample()
        return (COINS[name](logits, z).sum() * ((z - 0.3) ** 2 * REWARDS).sum().detach()).sum()

    def bound(logits: Tensor) -> Tensor:
        z = Bernoulli(logits=logits).sample()
        return COINS[name](logits, z).sum() + ((z - 0.3) ** 2 * REWARDS).sum()

    def meant(logits: Tensor) -> Tensor:
        return ((Bernoulli(logits=logits).sample() - 0.3) ** 2 * REWARDS).sum()

    given = [LOGITS.detach()[0].clone().requires_grad_()]
    exact = exact_gradient(meant, given)
    torch.testing.assert_close(moments(held, given, by("theirs")).mean, exact)
    moments(held, given, by("ours", HeldScoreWarning))
    torch.testing.assert_close(*mean_and_truth(bound, given, by("ours")))


FAMILIES: dict[str, Callable[[Tensor], Distribution]] = {
    "Beta": lambda x: Beta(x.exp(), x.exp() + 1),
    "Binomial": lambda x: Binomial(4, logits=x),
    "Geometric": lambda x: Geometric(logits=x),
    "HalfNormal": lambda x: HalfNormal(x.exp()),
    "MultivariateNormal": lambda x: MultivariateNormal(x, torch.diag(x.exp())),
    "Normal": lambda x: Normal(x, 0.7),
    "Poisson": lambda x: Poisson(x.exp()),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_density_of_every_family_is_recognized(name: str) -> None:
    x = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    for factor, caught in ((1.0, [HeldScoreWarning]), (0.0, [])):
        with an.record():
            fn: Any = FAMILIES[name](x)
            z = fn.sample()
            density, r = fn.log_prob(z).sum(), (z**2).sum()
            loss = density * r.detach() if factor else 0.7 * density + r
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            an.backward(loss)
        assert [each.category for each in found] == caught


def normal_by_hand(mu: Tensor, z: Tensor) -> Tensor:
    return -0.5 * ((z - mu) / 0.7) ** 2


@pytest.mark.parametrize(
    "density",
    [normal_by_hand, lambda mu, z: -F.mse_loss(mu, z, reduction="none")],
    ids=["by hand", "mse_loss"],
)
def test_the_density_of_a_normal_by_hand_is_recognized(density: Any) -> None:
    mu = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    with an.record():
        z = Normal(mu * 2, 0.7).sample()
        loss = (density(mu * 2, z) * (z**2).detach()).sum()
    with pytest.warns(HeldScoreWarning, match="'z'"):
        an.backward(loss)


def test_the_draws_of_torchs_own_functions_are_recognized() -> None:
    x = torch.tensor([0.3, 0.6], dtype=torch.float64, requires_grad=True)
    with an.record():
        z = torch.bernoulli(x.sigmoid())
        density = z * x.sigmoid().log() + (1 - z) * (1 - x.sigmoid()).log()
        loss = (density * (z + 1).detach()).sum()
    with pytest.warns(HeldScoreWarning):
        an.backward(loss)
    with an.record():
        k = torch.multinomial(x.softmax(-1), 1)
        loss = (x.log_softmax(-1).gather(-1, k) * k.double()).sum()
    with pytest.warns(HeldScoreWarning):
        an.backward(loss)


@pytest.mark.parametrize("attribute", ["log_prob", "tracked_log_prob"])
def test_the_density_that_a_trace_gives_is_recognized(attribute: str) -> None:
    x = torch.tensor([0.3, 0.6], dtype=torch.float64, requires_grad=True)
    with an.record() as trace:
        z = an.sample("z", Bernoulli(logits=x))
        loss = (getattr(trace["z"], attribute) * (z + 1).detach()).sum()
    with pytest.warns(HeldScoreWarning, match="'z'"):
        an.backward(loss)


def test_what_each_element_of_the_loss_counts_may_be_the_reward() -> None:
    def recorded() -> tuple[Tensor, Tensor]:
        x = torch.tensor([0.3, 0.6], dtype=torch.float64, requires_grad=True)
        with an.record():
            z = Bernoulli(logits=x).sample()
            return Bernoulli(logits=x).log_prob(z), ((z + 1) ** 2).detach()

    density, reward = recorded()
    with pytest.warns(HeldScoreWarning):
        an.backward(density, gradient=reward)
    density, reward = recorded()
    density.backward(reward)  # nothing is missing, and no warning says so
    density, reward = recorded()
    with pytest.warns(MissingScoreWarning):
        density.backward(torch.ones_like(reward))


def test_declared_costs_and_surrogates_are_looked_at_too() -> None:
    x = torch.tensor([0.3, 0.6], dtype=torch.float64, requires_grad=True)
    with an.record() as trace:
        z = Bernoulli(logits=x).sample()
        loss = an.cost("policy", (Bernoulli(logits=x).log_prob(z) * z.detach()).sum())
    with pytest.warns(HeldScoreWarning):
        an.surrogate(loss)
    with pytest.warns(HeldScoreWarning):
        trace.backward()


def test_the_score_of_another_site_is_not_taken_for_its_own() -> None:
    """What is missing of the first coin is missing, though the second has all that it needs."""
    x = torch.tensor([0.3, 0.6], dtype=torch.float64, requires_grad=True)
    with an.record():
        a = Bernoulli(logits=x[0]).sample()
        b = Bernoulli(logits=x[1] + a).sample()
        loss = Bernoulli(logits=x[1] + a).log_prob(b) * (a + b).detach()
    with pytest.warns(MissingScoreWarning, match="score function of 'a':"):
        loss.backward()


def test_a_halting_mask_is_no_reward() -> None:
    def run(x: Tensor) -> Tensor:
        halt, go = Bernoulli(logits=x[0]), Bernoulli(logits=x[1])
        alive, z = 1 - halt.sample(), go.sample()
        bound = alive * go.log_prob(z) + alive * (z - 0.3) ** 2 * x[0].exp()
        return bound + halt.log_prob(1 - alive)

    given = [torch.tensor([0.3, 0.6], dtype=torch.float64, requires_grad=True)]
    torch.testing.assert_close(*mean_and_truth(run, given, by("ours")))


def test_a_plain_gradient_of_a_loss_that_is_not_finite_is_no_error() -> None:
    x = torch.tensor([0.3, 0.6], dtype=torch.float64, requires_grad=True)
    with an.record():
        z = Bernoulli(logits=x).sample()
        loss = (z * x / 0).sum()
    with pytest.warns(MissingScoreWarning):
        loss.backward()


def test_a_rollout_of_a_simulator_is_noticed_under_every_setting() -> None:
    def rollout(x: Tensor) -> Tensor:
        state, densities, rewards = 0.0, list[Tensor](), list[float]()
        for _ in range(3):
            fn = Bernoulli(logits=x[0] + x[1] * state)
            action = fn.sample()
            densities.append(fn.log_prob(action))
            state = 0.5 * state + action.item()
            rewards.append(state)
        to_go = torch.tensor(rewards).double().flip(0).cumsum(0).flip(0)
        return -(torch.stack(densities) * (to_go - to_go.mean())).sum()

    for control in ("strict", "after", "ignore"):
        x = torch.tensor([0.3, 0.6], dtype=torch.float64, requires_grad=True)
        with an.record(control=control):
            loss = rollout(x)
        with pytest.warns(HeldScoreWarning, match=r"(?s)'fn'|'action'.*'action_1'.*'action_2'"):
            an.backward(loss)
        with an.record(control=control):
            loss = rollout(x)
        loss.backward()
