"""Boundaries that move with what is learned: the mean of the score is not zero there.

The oracle takes that mean by the quantiles of the draws at the middles of equal steps.
"""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return, no-untyped-call"

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Bernoulli,
    Beta,
    Categorical,
    Distribution,
    Exponential,
    Gumbel,
    HalfNormal,
    Independent,
    LogNormal,
    MixtureSameFamily,
    Normal,
    Pareto,
    Poisson,
    PowerTransform,
    SigmoidTransform,
    Transform,
    TransformedDistribution,
    Uniform,
    Weibull,
    constraints,
)

import ancestral as an
from ancestral.errors import NoScoreError
from ancestral.trace.nodes.moving_boundary import has_moving_boundary

Family = Callable[[Tensor], Distribution]


def moved(base: Distribution, *transforms: Any) -> Distribution:
    return TransformedDistribution(base, list(transforms))


def logistic(loc: Tensor) -> Distribution:
    ends = torch.zeros_like(loc), torch.ones_like(loc)
    return moved(Uniform(*ends), SigmoidTransform().inv, AffineTransform(loc, 1.0))


ONE = torch.ones((), dtype=torch.float64)
HALF = ONE / 2
FIXED: dict[str, Family] = {
    "Normal": lambda a: Normal(a, 1.0),
    "Exponential": lambda a: Exponential(a),
    "a scaled Exponential": lambda a: moved(Exponential(ONE), AffineTransform(0.0, a)),
    "Uniform": lambda a: Uniform(0.0, a.detach()),
    "a power of a Uniform": lambda a: moved(Uniform(0 * ONE, ONE), PowerTransform(a)),
    "a shift that is not learned": lambda a: moved(Exponential(a), AffineTransform(ONE, 2.0)),
    "a logistic": logistic,
    "Gumbel": lambda a: Gumbel(a, 1.0),
    "Weibull": lambda a: Weibull(a, a),
    "HalfNormal": lambda a: HalfNormal(a),
    "LogNormal": lambda a: LogNormal(a, 1.0),
    "a shifted Normal": lambda a: moved(Normal(0 * ONE, ONE), AffineTransform(a, a)),
}
MOVING: dict[str, Family] = {
    "Uniform, its upper end": lambda a: Uniform(0.0, a),
    "Uniform, its lower end": lambda a: Uniform(-a, ONE),
    "Pareto": lambda a: Pareto(a, 3 * ONE),
    "a shifted Exponential": lambda a: moved(Exponential(ONE), AffineTransform(a, 1.0)),
    "a scaled Uniform": lambda a: moved(Uniform(0 * ONE, ONE), AffineTransform(0.0, a)),
    "twice": lambda a: moved(
        moved(Exponential(ONE), AffineTransform(a, 1.0)), AffineTransform(0.0, 2.0)
    ),
}
WITHOUT_QUANTILES: list[tuple[str, Family, bool]] = [
    ("a Beta of no density at its ends", lambda a: stretched(2.0, a), False),
    ("a Beta with density at its ends", lambda a: stretched(1.0, a), True),
    ("Independent", lambda a: Independent(Uniform(0.0, a.expand(3)), 1), True),
    ("a mixture", lambda a: mixture(Uniform(torch.zeros(2), a.expand(2))), True),
    ("a mixture of Normals", lambda a: mixture(Normal(a.expand(2), 1.0)), False),
    ("a coin", lambda a: Bernoulli(logits=a), False),
    ("a shifted coin", lambda a: moved(Bernoulli(HALF), AffineTransform(a, 1.0)), True),
    ("a learned coin", lambda a: moved(Bernoulli(logits=a), AffineTransform(1.0, 2.0)), False),
    ("scaled counts", lambda a: moved(Poisson(ONE), AffineTransform(0.0, a)), True),
    ("a class of the user", lambda a: Own(0 * ONE, a), True),
    ("what states no support", lambda a: Silent(0 * ONE, a), False),
]


def stretched(concentration: float, a: Tensor) -> Distribution:
    base = Beta(concentration * ONE, concentration * ONE)
    return moved(base, AffineTransform(-a, 2 * a))


def mixture(component: Distribution) -> Distribution:
    return MixtureSameFamily(Categorical(torch.ones(2)), component)


class Silent(Distribution):
    """A Uniform of the user."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (as torch's are)

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.low, self.high = low, high
        super().__init__(validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return Uniform(self.low.detach(), self.high.detach()).sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return -(self.high - self.low).log() + 0 * value


class Own(Silent):
    @property
    def support(self) -> Any:
        return constraints.interval(self.low, self.high)


def leaf(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(1.3, dtype=dtype, requires_grad=True)


def mean_score(family: Family, steps: int = 20_000) -> float:
    a = leaf()
    fn = family(a)
    values = fn.icdf((torch.arange(steps, dtype=torch.float64) + 0.5) / steps).detach()
    density = fn.log_prob(values).mean() + 0 * a
    return torch.autograd.grad(density, a)[0].item()


@pytest.mark.parametrize("name", FIXED)
def test_the_score_is_all_where_nothing_moves(name: str) -> None:
    assert abs(mean_score(FIXED[name])) < 1e-2
    for dtype in (torch.float32, torch.float64):
        assert not has_moving_boundary(FIXED[name](leaf(dtype).expand(1000)))


@pytest.mark.parametrize("name", MOVING)
def test_the_score_is_not_all_where_ends_move(name: str) -> None:
    assert abs(mean_score(MOVING[name])) > 0.2
    for dtype in (torch.float32, torch.float64):
        assert has_moving_boundary(MOVING[name](leaf(dtype)))


@pytest.mark.parametrize(("name", "family", "is_moving"), WITHOUT_QUANTILES)
def test_what_moves_is_found(name: str, family: Family, is_moving: bool) -> None:
    assert has_moving_boundary(family(leaf())) is is_moving


def test_to_ask_draws_nothing() -> None:
    torch.manual_seed(0)
    expected = torch.rand(())
    torch.manual_seed(0)
    with an.record() as trace:
        assert has_moving_boundary(MOVING["Pareto"](leaf()))
    assert not trace
    torch.testing.assert_close(torch.rand(()), expected)


LOSSES: dict[str, Callable[[Distribution], Tensor]] = {
    "sample": lambda fn: fn.sample() ** 2,
    "a step": lambda fn: (fn.rsample() > 0.5) * ONE,
    "its own density": lambda fn: (lambda z: fn.log_prob(z) + z**2)(fn.sample()),
}


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_score_that_is_not_all_is_refused(loss: str, name: str) -> None:
    for ask in (an.backward, an.surrogate):
        with an.record():
            found = LOSSES[loss](MOVING[name](leaf()))
        with pytest.raises(NoScoreError, match=r"moves the ends of the support of"):
            ask(found)


@pytest.mark.parametrize("name", MOVING)
def test_a_pathwise_gradient_needs_no_score(name: str) -> None:
    found: list[Tensor] = []
    for backward in (an.backward, lambda loss: an.untrack(loss).backward()):
        a = leaf()
        torch.manual_seed(0)
        with an.record():
            loss = MOVING[name](a).rsample() ** 2
        backward(loss)
        assert a.grad is not None
        found.append(a.grad)
    torch.testing.assert_close(*found)


class Coupled(Transform):
    """A step of a flow, by a layer that takes vectors of single precision alone."""

    domain = codomain = constraints.real_vector
    bijective = True

    def __init__(self, shift: Tensor) -> None:
        super().__init__()
        self.layer, self.shift = torch.nn.Linear(1, 1), shift

    def _call(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., :1], x[..., 1:] + self.layer(x[..., :1]) + self.shift], -1)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.cat([y[..., :1], y[..., 1:] - self.layer(y[..., :1]) - self.shift], -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:-1])


class Picky(Coupled):
    """A step that takes no value at the ends."""

    def _call(self, x: Tensor) -> Tensor:
        assert bool((x > 0).all())
        return super()._call(x)


class OneDraw(Distribution):
    """A class of a user with learned ends, that draws one value and takes no shape."""

    arg_constraints = {"high": constraints.positive}  # noqa: RUF012 (as torch declares it)

    def __init__(self, high: Tensor) -> None:
        self.high = high
        super().__init__(high.shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:
        return constraints.interval(0.0, self.high)

    def sample(self) -> Tensor:  # type: ignore[override] # of a user
        return (self.high * torch.rand_like(self.high)).detach()

    def log_prob(self, value: Tensor) -> Tensor:
        return -self.high.log() + 0 * value


def test_learned_ends_of_which_the_density_cannot_be_asked_are_not_taken_for_fixed() -> None:
    high = leaf().expand(3)
    with an.record():
        loss = OneDraw(high).sample().square().sum()
    with pytest.raises(NoScoreError, match="moves the ends of the support of OneDraw"):
        an.backward(loss)
    assert not has_moving_boundary(OneDraw(high.detach()))


def test_a_flow_is_asked_for_vectors() -> None:
    base = Uniform(torch.zeros(2), torch.ones(2))
    for flow, is_moving in ((Coupled, True), (Picky, False)):  # of the second it is not known
        for batch in ((), (5,)):
            fn = moved(base.expand((*batch, 2)), flow(leaf(torch.float32)))
            assert has_moving_boundary(fn) is is_moving
    normal = moved(Normal(torch.zeros(2), 1.0), Coupled(leaf(torch.float32)))
    assert not has_moving_boundary(normal)
