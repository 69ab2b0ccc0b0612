"""What is wrong with a call of an objective is refused, with its line."""

import math
from typing import Any

import pytest
import torch
from programs.pairs import coin
from torch import Tensor, nn
from torch.distributions import Normal

import ancestral as an
from ancestral.errors import (
    EnumerationError,
    GuideError,
    NonFiniteDensityError,
    WeightError,
)

X = torch.tensor([0.3, -1.2, 0.8, 1.7], dtype=torch.float64)


class Halves(nn.Module):
    """A pair of a coin and data, of which each can go wrong."""

    def forward(self, x: Tensor) -> None:
        z = an.sample("z", coin(torch.zeros((), dtype=torch.float64)))
        an.sample("x", Normal(z, 1.0), obs=x)


def draws_z(x: Tensor) -> None:
    an.sample("z", coin(x.mean()))


ALL = ("iwae", "log_evidence", "forward_kl", "wake_sleep", "thermodynamic", "tail_adaptive")


@pytest.mark.parametrize("name", ALL)
def test_what_is_wrong_with_a_call_is_refused(name: str) -> None:
    objective = getattr(an.infer, name)
    for count in (0, -1, 1.5, True, "2"):
        with pytest.raises(ValueError, match="particles must be an int greater than"):
            objective(Halves(), draws_z, X[0], particles=count)
    for dims in (-1, 1.0, True):
        with pytest.raises(ValueError, match="max_plate_nesting must be an int, not negative"):
            objective(Halves(), draws_z, X[0], max_plate_nesting=dims, particles=2)
    with pytest.raises(TypeError, match=f"{name} takes no num_particles=.*: say particles="):
        objective(Halves(), draws_z, X[0], num_particles=3)
    with pytest.raises(TypeError, match=f"{name} takes the guide as a function"):
        objective(Halves(), draws_z(X[0]), X[0])  # type: ignore[func-returns-value]
    with pytest.raises(GuideError, match=r"site 'z' .*expected the guide to draw it"):
        objective(Halves(), lambda _: None, X[0], particles=2)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("renyi", {"alpha": 1}, "other than 1, where .*use an.infer.elbo"),
        ("renyi", {"alpha": 1.0}, "other than 1, where .*use an.infer.elbo"),
        ("renyi", {"alpha": math.nan}, "alpha must be a finite number"),
        ("renyi", {"alpha": True}, "alpha must be a finite number"),
        ("renyi", {"alpha": "1"}, "alpha must be a finite number"),
        ("iwae", {"pathwise": "path"}, "pathwise must be 'auto'"),
        ("iwae", {"estimator": "vimco"}, "estimator must be 'auto'"),
        ("forward_kl", {"power": 0.0}, "power must be a number above 0"),
        ("forward_kl", {"power": 1.5}, "power must be a number above 0"),
        ("forward_kl", {"particles": 1}, "particles must be an int greater than 1"),
        ("wake_sleep", {"sleep": -0.1}, "sleep must be a number from 0 to 1"),
        ("tail_adaptive", {"power": 1.0}, "power must be a finite number, at most 0"),
        ("thermodynamic", {"betas": (0.0, 0.5)}, "betas must be ascending"),
        ("thermodynamic", {"betas": (0.0, 0.5, 0.5, 1.0)}, "betas must be ascending"),
        ("thermodynamic", {"betas": 3}, "betas must be ascending"),
        ("thermodynamic", {"gradient": "dreg"}, "gradient must be 'unbiased'"),
        ("multi_sample", {"function": lambda x: x}, "expected a tensor of shape"),
    ],
)
def test_a_number_or_a_choice_that_is_none_is_refused(
    name: str, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        getattr(an.infer, name)(Halves(), draws_z, X[0], **options)


def test_a_baseline_and_a_function_that_are_none_are_refused() -> None:
    with pytest.raises(TypeError, match="baseline must be 'auto', None"):
        an.infer.iwae(Halves(), draws_z, X[0], baseline="vmico")  # type: ignore[arg-type] # wrong
    with pytest.raises(TypeError, match="function must be a function of log-weights"):
        an.infer.multi_sample(Halves(), draws_z, X[0], function=3)  # type: ignore[arg-type] # wrong


LOGIT = torch.tensor(0.2, dtype=torch.float64).requires_grad_()


def draws_scored(_: Tensor) -> None:
    an.sample("z", coin(LOGIT))


def draws_with_a_baseline(_: Tensor) -> None:
    an.sample("z", coin(LOGIT), infer={"baseline": "auto"})


@pytest.mark.parametrize("vectorized", [False, True])
@pytest.mark.parametrize("baseline", ["auto", an.estimators.RunningMean(), lambda _: 0.5])
def test_draws_of_a_bound_are_no_baselines_of_each_other(baseline: Any, vectorized: bool) -> None:
    """The cost of each holds the bound, which all of them reach: it would be biased."""
    draws: dict[str, Any] = {"vectorized": vectorized}
    refused = r"site 'z' .*test_refused_objectives.py:\d+\): baseline=.* for a bound of one draw"
    for guide, given in ((draws_scored, baseline), (draws_with_a_baseline, None)):
        with pytest.raises(ValueError, match=refused):
            an.infer.iwae(Halves(), guide, X[0], particles=2, baseline=given, **draws)
        an.infer.iwae(Halves(), guide, X[0], particles=1, baseline=given, **draws)


@pytest.mark.parametrize("credit", [an.estimators.by_site, an.estimators.total_cost])
def test_draws_at_once_are_credited_by_element_alone(credit: Any) -> None:
    options: dict[str, Any] = {"credit": credit, "particles": 2}
    with pytest.raises(ValueError, match=r"site 'z' .*credit=.* gives each draw the costs of the"):
        an.infer.iwae(Halves(), draws_scored, X[0], vectorized=True, **options)
    an.infer.iwae(Halves(), draws_scored, X[0], **options)


def test_what_cannot_be_weighed_is_refused_with_its_line() -> None:
    def partly(x: Tensor) -> None:
        Halves()(X[0])
        with an.plate("data", 4, subsample_size=2):
            an.sample("y", Normal(0.0, 1.0), obs=an.subsample(x))

    def enumerated(x: Tensor) -> None:
        with an.handlers.enumerate(first_dim=-1):
            Halves()(x)

    def in_all_values(x: Tensor) -> None:
        with an.handlers.enumerate(first_dim=-1):
            draws_z(x)

    def nothing(x: Tensor) -> None:
        pass

    def infinite(x: Tensor) -> None:
        Halves()(x)
        an.factor("f", x.new_tensor(-math.inf))

    with pytest.raises(WeightError, match=r"site 'y' .*test_refused_objectives.py:\d+.*subsampled"):
        an.infer.iwae(partly, draws_z, X, particles=2)
    with pytest.raises(EnumerationError, match=r"site 'z' .*use an.infer.elbo"):
        an.infer.iwae(enumerated, in_all_values, X[0], particles=2)
    with pytest.raises(GuideError, match=r"site 'z' .*is enumerated, so that no data"):
        an.infer.wake_sleep(enumerated, nothing, X[0], sleep=0.5)
    with pytest.raises(NonFiniteDensityError, match=r"site 'f' .*of the model"):
        an.infer.iwae(infinite, draws_z, X[0], particles=2)
    with pytest.raises(GuideError, match=r"site 'z' .*is not reparameterized"):
        an.infer.tail_adaptive(Halves(), draws_scored, X[0])


def test_a_compiled_step_says_that_it_scores_sums_of_terms_only() -> None:
    step = an.compile(lambda x: an.infer.iwae(Halves(), draws_z, x, particles=2).surrogate)
    with pytest.raises(TypeError, match=r"within an.compile, an.infer.iwae"):
        step(X[0])


def test_without_gradients_there_is_a_value() -> None:
    with torch.no_grad():
        bound = an.infer.iwae(Halves(), draws_z, X[0], particles=3)
    assert bound.value.isfinite()
    assert not bound.surrogate.requires_grad
