"""Wake-sleep, tail-adaptive weights and divergences in closed form."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from outcomes_of_draws import CHAIN, outcomes
from programs.pairs import CASES, coin, parameters
from torch import Tensor
from torch.distributions import Normal, kl_divergence

import ancestral as an
from ancestral.errors import GuideError
from oracles import derivatives, expectation, forcing, moments, paths

X = torch.tensor([0.3, -1.2, 0.8, 1.7], dtype=torch.float64)
EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}
Estimate = Callable[..., Any]


def test_asleep_the_guide_learns_from_what_the_model_draws() -> None:
    p, s, w = (torch.tensor(x, dtype=torch.float64).requires_grad_() for x in (0.4, 0.7, -0.5))
    data = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)

    def model(x: Tensor) -> None:
        with an.plate("data", 3):
            z = an.sample("z", coin(p))
            an.sample("x", coin(s * z), obs=x)

    def guide(x: Tensor) -> None:
        with an.plate("data", 3):
            an.sample("z", coin(w * x))

    total, zeros = torch.zeros((), dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for z, x in itertools.product((0.0, 1.0), repeat=2):
        z_, x_ = zeros[0] + z, zeros[0] + x
        chance = (coin(p).log_prob(z_) + coin(s * z_).log_prob(x_)).exp().detach()
        total = total - 3 * chance * coin(w * x_).log_prob(z_)
    (truth,) = torch.autograd.grad(total, w)
    found = zeros[0]
    for outcome in itertools.product((0.0, 1.0), repeat=6):
        # The draws awake are of mean zero for the guide: its wake phase counts nothing.
        z, x = torch.tensor(outcome, dtype=torch.float64).reshape(2, 3)
        left = iter([zeros, zeros, z, x])

        def next_of(_: Any, shape: Any, left: Any = left) -> Tensor:
            return next(left).reshape(shape).clone()  # type: ignore[no-any-return]

        with forcing(next_of):
            bound = an.infer.wake_sleep(model, guide, data, sleep=1.0)
        (gradient,) = torch.autograd.grad(bound.surrogate, w)
        chance = (coin(p).log_prob(z) + coin(s * z).log_prob(x)).sum().exp().detach()
        found = found + chance * gradient
    torch.testing.assert_close(found, truth, **EXACT)


def test_a_sleep_phase_needs_the_data_as_an_argument_and_sites_alone() -> None:
    def guide(x: Tensor) -> None:
        an.sample("z", Normal(x.mean(), 1.0))

    def captured(x: Tensor) -> None:
        an.sample("x", Normal(an.sample("z", Normal(0.0, 1.0)), 1.0), obs=X)

    def weighed(x: Tensor) -> None:
        an.factor("f", an.sample("z", Normal(0.0, 1.0)))

    with pytest.raises(GuideError, match=r"site 'x' .*observes what is no argument"):
        an.infer.wake_sleep(captured, guide, X.clone(), sleep=1.0)
    with pytest.raises(GuideError, match=r"factor 'f' .*nobody can draw from"):
        an.infer.wake_sleep(weighed, guide, X, sleep=1.0)


def test_ranks_weigh_the_paths_of_a_tail_adaptive_divergence() -> None:
    found = outcomes(CHAIN, 2, 12)
    options: dict[str, Any] = {"particles": 2, "vectorized": True, "max_plate_nesting": 1}
    mean = found.mean(lambda pair: an.infer.tail_adaptive(*pair, **options).surrogate)
    v = found.leaves()
    z = found.case.draws(v, found.noise)
    # Only the draws carry a gradient: the densities are of constants.
    held = [each.detach() for each in v]
    log_w = found.case.log_p(held, z) - found.case.log_q(held, z)
    order = log_w.detach().argsort(0, descending=True).argsort(0)  # 0 is the largest
    rank = (1 + order).double() ** -1
    objective = (found.log_prob(v).detach().exp() * (rank / rank.sum(0) * log_w).sum(0)).sum()
    truth = torch.autograd.grad(-objective, v, materialize_grads=True)
    torch.testing.assert_close(mean, torch.stack(truth).sum(1), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    "options",
    [{}, {"baseline": "auto"}, {"estimator": "score"}, {"credit": an.estimators.total_cost}],
    ids=" ".join,
)
@pytest.mark.parametrize("name", ["chain", "plated", "masked", "branching", "auxiliary"])
def test_divergences_in_closed_form_leave_the_mean(name: str, options: dict[str, Any]) -> None:
    values, case = parameters(), CASES[name]
    options = {"baseline": None} | options

    def estimate(objective: Estimate) -> Estimate:
        return lambda _, v: derivatives(objective(*case.build(*v), **options).surrogate, v)

    ours, sampled = (
        moments(case.reference, values, estimate(each))
        for each in (an.infer.mean_field, an.infer.elbo)
    )
    torch.testing.assert_close(ours.mean, sampled.mean, **EXACT)
    assert not torch.equal(ours.variance, sampled.variance) or name == "auxiliary"


def test_divergences_of_several_draws_leave_the_mean() -> None:
    values, case = parameters(), CASES["chain"]

    def twice(*values: Tensor) -> Tensor:
        return (case.reference(*values) + case.reference(*values)) / 2

    def estimate(_: Any, v: Any) -> Tensor:
        return derivatives(an.infer.mean_field(*case.build(*v), particles=2).surrogate, v)

    runs = paths(twice, values)
    mean = moments(twice, values, estimate).mean
    torch.testing.assert_close(mean, derivatives(expectation(runs), values), **EXACT)


def test_a_divergence_takes_no_draw_and_is_left_out_where_it_would_be_another() -> None:
    loc = torch.tensor(0.5, requires_grad=True)
    normal = Normal(torch.tensor(0.0), 1.0)

    def model() -> None:
        a = an.sample("a", normal)
        an.sample("b", Normal(a, 1.0))

    def forward() -> None:
        a = an.sample("a", Normal(loc, 2.0))
        an.sample("b", Normal(loc, 2.0))
        assert a.ndim == 0

    def backward() -> None:
        b = an.sample("b", Normal(loc, 2.0))
        an.sample("a", Normal(b, 2.0))

    def value_of(guide: Callable[[], None], z: dict[str, float]) -> Tensor:
        with an.handlers.substitute({k: torch.tensor(x) for k, x in z.items()}):
            return an.infer.mean_field(model, guide).value

    kl = kl_divergence(Normal(loc, 2.0), normal)
    known = kl + kl_divergence(Normal(loc, 2.0), Normal(torch.tensor(1.5), 1.0))
    torch.manual_seed(0)
    with an.record() as trace:
        forward()
    draw = trace["a"].value
    torch.manual_seed(0)
    expected = kl + kl_divergence(Normal(loc, 2.0), Normal(draw, 1.0))
    torch.testing.assert_close(an.infer.mean_field(model, forward).value, -expected.detach())
    assert known.isfinite()
    # The model's b depends on a, which the guide draws below b: log-probabilities stay.
    torch.manual_seed(0)
    value = an.infer.mean_field(model, backward).value
    torch.manual_seed(0)
    with an.record() as trace:
        backward()
    a, b = trace["a"].value, trace["b"].value
    log_ratio = Normal(loc, 2.0).log_prob(b) - Normal(a, 1.0).log_prob(b)
    expected = log_ratio + kl_divergence(Normal(b, 2.0), normal)
    torch.testing.assert_close(value, -expected.detach())
