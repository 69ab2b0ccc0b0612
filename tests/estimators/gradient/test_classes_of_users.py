"""Distributions of the user, of which torch knows little: no support, an rsample that cuts off.

By quadrature over the noise, which is exact for polynomials, or over all outcomes.
"""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return, no-untyped-call"

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Distribution,
    Independent,
    Normal,
    TransformedDistribution,
    constraints,
)

import ancestral as an
from ancestral.errors import KinkWarning, MissingScoreWarning

POINTS, WEIGHTS = (torch.from_numpy(x) for x in np.polynomial.hermite_e.hermegauss(8))
WEIGHTS = WEIGHTS / WEIGHTS.sum()


class Own(Distribution):
    """A Normal whose noise is given, and which says nothing of its support."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (as torch's are)
    has_rsample = True
    noise = torch.zeros((), dtype=torch.float64)

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = loc, scale
        super().__init__(loc.shape, validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.loc + self.scale * self.noise.expand(*sample_shape, *self.batch_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return -((value - self.loc) ** 2) / (2 * self.scale**2) - self.scale.log()


class Dependent(Own):
    support = constraints.dependent


class Detached(Own):
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return super().rsample(sample_shape).detach()


class Ungraded(Own):
    @torch.no_grad()
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return super().rsample(sample_shape)


class Stepped(Own):
    """Asks torch for a draw, whose derivative is zero, and not none."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return super().rsample(sample_shape).detach() + 0 * torch.bernoulli(self.scale)


class Halved(Own):
    """Lets through the gradient of one parameter of two, which come out of one op."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return Own(self.loc, self.scale.detach()).rsample(sample_shape)


class Derived(Own):
    """Holds what is computed of its parameters, which its density reads."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__(loc, scale)
        self.twice, self.log_scale = 2 * loc, scale.log()

    def log_prob(self, value: Tensor) -> Tensor:
        return -(((2 * value - self.twice) / self.log_scale.exp()) ** 2) / 8 - self.log_scale


class Recomputed(Derived):
    """Draws by what it computes of its parameters, which its density reads."""

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return Own(self.twice / 2, self.log_scale.exp()).rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return Own(self.loc, self.scale).log_prob(value)


class Passing(Own):
    """Lets the gradient through where it is asked for a sample."""

    has_rsample = False

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.rsample(sample_shape)


CUT = {kind.__name__: kind for kind in (Detached, Ungraded, Stepped)}
WHOLE = {kind.__name__: kind for kind in (Own, Dependent, Derived, Recomputed)}
KINDS = {"Halved": Halved, **CUT, **WHOLE}
Wrap = Callable[[Distribution], Distribution]
WRAPS: dict[str, Wrap] = {
    "alone": lambda fn: fn,
    "Independent": lambda fn: Independent(fn, 1),
    "TransformedDistribution": lambda fn: TransformedDistribution(fn, [AffineTransform(0.2, 1.5)]),
}
DRAWS: dict[str, Callable[[Any], Tensor]] = {
    "plain": lambda fn: fn.rsample(),
    "program": lambda fn: an.sample("z", fn),
    "under no_grad": lambda fn: torch.no_grad()(fn.rsample)(),
}


def _gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def each_noise() -> Iterator[Tensor]:
    for point, weight in zip(POINTS, WEIGHTS, strict=True):
        Own.noise = point
        yield weight


def leaves() -> Tensor:
    return torch.tensor([0.7, 0.4], dtype=torch.float64, requires_grad=True)


def drawn(given: Tensor, kind: Any, wrap: Wrap, draw: Callable[[Any], Tensor]) -> Tensor:
    loc, scale = given.unsqueeze(-1)
    return (draw(wrap(kind(loc, scale))) ** 2).sum()


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_mean(kind: str, wrap: str, draw: str) -> None:
    exact, mean = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for weight in each_noise():
        given = leaves()
        drawn(given, Own, WRAPS[wrap], DRAWS["plain"]).backward()
        exact += weight * _gradient(given)
        given = leaves()
        with an.record() as trace:
            loss = drawn(given, KINDS[kind], WRAPS[wrap], DRAWS[draw])
        an.backward(loss)
        mean += weight * _gradient(given)
        (site,) = trace.values()
        assert site.is_reparameterized is (kind not in CUT and draw != "under no_grad")
    torch.testing.assert_close(mean, exact)


@pytest.mark.parametrize("wrap", ["alone", "Independent"])
@pytest.mark.parametrize("draw", ["sample", "program"])
def test_a_sample_that_passes_the_gradient_is_not_scored_too(wrap: str, draw: str) -> None:
    draws: dict[str, Callable[[Any], Tensor]] = {**DRAWS, "sample": lambda fn: fn.sample()}
    for _ in each_noise():
        expected, given = leaves(), leaves()
        drawn(expected, Own, WRAPS[wrap], DRAWS["plain"]).backward()
        with an.record():
            loss = drawn(given, Passing, WRAPS[wrap], draws[draw])
        an.backward(loss)
        torch.testing.assert_close(given.grad, expected.grad)


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("kind", WHOLE)
def test_what_is_whole_stays_pathwise(kind: str, wrap: str) -> None:
    for _ in each_noise():
        expected, given = leaves(), leaves()
        drawn(expected, Own, WRAPS[wrap], DRAWS["plain"]).backward()
        with an.record():
            loss = drawn(given, KINDS[kind], WRAPS[wrap], DRAWS["plain"])
        an.backward(loss)
        torch.testing.assert_close(given.grad, expected.grad)


def test_a_pathwise_gradient_of_a_part_is_noticed() -> None:
    with an.record():
        loss = drawn(leaves(), Halved, WRAPS["alone"], DRAWS["plain"])
    with pytest.warns(KinkWarning, match="by Halved, which detaches some of what its density"):
        an.backward(loss, estimator="pathwise")


class Mixture(Distribution):
    """Two Normals, one of which it draws from, as it is told."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (as torch's are)
    has_rsample = True
    picked = 0

    def __init__(self, logits: Tensor, locs: Tensor) -> None:
        self.logits, self.locs = logits, locs
        super().__init__(validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.locs[self.picked] + Own.noise

    def log_prob(self, value: Tensor) -> Tensor:
        each = -((value - self.locs) ** 2) / 2
        return (self.logits.log_softmax(-1) + each).logsumexp(-1)


def test_a_mixture_whose_pick_no_gradient_comes_through_is_scored() -> None:
    """To a Gaussian quadrature that is nearly exact for the score of a mixture."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    truth = mixture_parameters()
    (truth[0].softmax(-1) @ (truth[1] ** 2 + 1)).backward()
    mean = [torch.zeros_like(x) for x in truth]
    for Mixture.picked in (0, 1):
        for noise, weight in zip(nodes, weights, strict=True):
            Own.noise = torch.tensor(noise, dtype=torch.float64)
            given = mixture_parameters()
            with an.record():
                loss = Mixture(*given).rsample() ** 2
            an.backward(loss)
            share = weight * given[0].detach().softmax(-1)[Mixture.picked]
            mean = [total + share * x.grad for total, x in zip(mean, given, strict=True)]
    torch.testing.assert_close(mean, [x.grad for x in truth], rtol=1e-9, atol=1e-9)


def mixture_parameters() -> list[Tensor]:
    each = ([0.3, -0.2], [-0.7, 0.9])
    return [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in each]


@pytest.mark.parametrize("kind", CUT)
def test_plain_backward_tells_of_the_score_that_it_leaves_out(kind: str) -> None:
    given = leaves()
    with an.record():
        loss = drawn(given, KINDS[kind], WRAPS["alone"], DRAWS["plain"]) * given.sum()
    with pytest.warns(MissingScoreWarning):
        loss.backward()


def test_rsample_under_no_grad_is_sample() -> None:
    found: list[Tensor] = []
    for draw in (torch.no_grad()(Normal.rsample), Normal.sample):
        given = leaves()
        torch.manual_seed(0)
        with an.record() as trace:
            loss = draw(Normal(given[0], given[1])) ** 2
        an.backward(loss)
        (site,) = trace.values()
        assert not site.is_reparameterized
        assert given.grad is not None
        found.append(given.grad)
    assert found[0].any()
    torch.testing.assert_close(*found)


class Coin(Distribution):
    """A straight-through coin, which comes up as it is told."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (as torch's are)
    has_rsample = True
    side = 0.0

    def __init__(self, probs: Tensor) -> None:
        self.probs = probs
        super().__init__(probs.shape, validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.side + self.probs - self.probs.detach()

    def log_prob(self, value: Tensor) -> Tensor:
        return value * self.probs.log() + (1 - value) * (1 - self.probs).log()


class Told(Coin):
    support = constraints.integer_interval(0, 1)


def coin_cost(z: Tensor) -> Tensor:
    return (z.sum() - 0.3) ** 2 * 2


def mean_over_sides(kind: Any, wrap: Wrap, **options: Any) -> tuple[Tensor, list[set[type]]]:
    """Return the mean gradient of an estimate, [1], and what each run has warned of."""
    mean, told = torch.zeros(1, dtype=torch.float64), list[set[type]]()
    for side in (0.0, 1.0):
        Coin.side = side
        probs = torch.full((1,), 0.4, dtype=torch.float64, requires_grad=True)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with an.record():
                loss = coin_cost(wrap(kind(probs)).rsample())
            an.backward(loss, **options)
        assert probs.grad is not None
        mean += (0.4 if side else 0.6) * probs.grad
        told.append({each.category for each in caught})
    return mean, told


def coin_truth(wrap: Wrap) -> Tensor:
    sides = []
    for Coin.side in (0.0, 1.0):
        sides.append(coin_cost(wrap(Coin(torch.full((1,), 0.4).double())).rsample()))
    return (sides[1] - sides[0]).reshape(1)


@pytest.mark.parametrize("wrap", WRAPS)
def test_a_coin_that_states_its_support_is_scored(wrap: str) -> None:
    for kind, options in ((Told, {}), (Coin, {"estimator": "score"})):
        mean, told = mean_over_sides(kind, WRAPS[wrap], **options)
        assert told == [set(), set()]
        torch.testing.assert_close(mean, coin_truth(WRAPS[wrap]))


@pytest.mark.parametrize("wrap", ["alone", "Independent"])
def test_a_coin_that_states_no_support_is_noticed(wrap: str) -> None:
    biased, told = mean_over_sides(Coin, WRAPS[wrap])
    assert told == [set(), {KinkWarning}]  # of zeros alone, none
    assert not torch.allclose(biased, coin_truth(WRAPS[wrap]), atol=1e-2)


def test_a_rectified_normal_is_no_coin() -> None:
    class Rectified(Own):
        def rsample(self, sample_shape: Any = ()) -> Tensor:
            return super().rsample(sample_shape).relu()

    for Own.noise in (torch.tensor(-3.0), torch.tensor(3.0)):
        loc, scale = leaves().unsqueeze(-1)
        with an.record():
            loss = (Rectified(loc, scale).rsample() ** 2).sum()
        an.backward(loss)
