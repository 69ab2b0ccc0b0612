"""Sums over several sites have the exact gradient as mean, less variance, and none over all."""

from typing import Any

import pytest
import torch
from programs.reruns import BITS, CLASSES, Case
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal, Poisson

import ancestral as an
import oracles
from ancestral.errors import EstimatorError
from ancestral.estimators import DisARM, ExactSum, RaoBlackwell
from ancestral.estimators.rerun.estimate import Chosen, Plan
from ancestral.estimators.rerun.moments import Moments, moments_of

pytestmark = pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")


def chain(theta: Tensor) -> Tensor:
    a = Bernoulli(logits=theta[0]).sample()
    b = Categorical(logits=theta * (1 + a)).sample()
    c = Bernoulli(logits=theta[1] * a - 0.4 * b).sample()
    return (c - 0.3 * a) ** 2 + 0.5 * b * c * theta[1]  # type: ignore[no-any-return]


def below_a_normal(theta: Tensor) -> Tensor:
    """What is between the sites of a sum is drawn, with its pathwise derivative."""
    a = Bernoulli(logits=theta[1]).sample()
    v = Normal(theta[0] * a, 0.4).rsample()
    b = Bernoulli(logits=v - theta[1]).sample()
    return (a - 0.4 * b) ** 2 * theta[0] + b * v  # type: ignore[no-any-return]


def drawn_or_not(theta: Tensor) -> Tensor:
    a = Bernoulli(logits=theta[0]).sample()
    if a.item() > 0:
        b = Bernoulli(logits=theta[1]).sample()
        return b * 2 + theta[0]  # type: ignore[no-any-return]
    c = Bernoulli(logits=theta.sum()).sample()
    return (c - 0.3) ** 2 + 0 * a  # type: ignore[no-any-return]


def two_layers_of_a_batch(theta: Tensor) -> Tensor:
    a = Bernoulli(logits=theta).sample()
    b = Bernoulli(logits=a * theta - 0.2).sample()
    return ((a - 0.4 * b) ** 2).mean()  # type: ignore[no-any-return]


HERE = {
    each.__name__: Case(each, [0.3, -0.8])
    for each in (chain, below_a_normal, drawn_or_not, two_layers_of_a_batch)
}
ALL = {**BITS, **CLASSES, **HERE}
SUBSETS = [
    ("one_bit", ("z",)),
    ("bits_in_pairs", ("z",)),
    ("by_probs", ("z",)),
    ("layers", ("x", "y")),
    ("loop", ("z", "z_1")),
    ("beside", ("x", "y")),
    ("elbo", ("z",)),
    ("mixed", ("z",)),
    ("in_a_plate", ("z", "y")),
    ("classes_below", ("x", "z")),
    ("one_hot_pair", ("z",)),
    ("chain", ("b", "c")),
    ("chain", ("a", "b", "c")),
    ("below_a_normal", ("b",)),
    ("two_layers_of_a_batch", ("a", "b")),
]
WHOLE = {
    ("layers", ("x", "y")),
    ("loop", ("z", "z_1")),
    ("classes_below", ("x", "z")),
    ("chain", ("a", "b", "c")),
    ("two_layers_of_a_batch", ("a", "b")),
}


def over(*names: str) -> dict[str, Chosen]:
    return {name: RaoBlackwell(tuple(each for each in names if each != name)) for name in names}


def found(case: Case, theta: Tensor, estimators: dict[str, Chosen], nodes: int = 2) -> Moments:
    plan = Plan({**estimators, "*": "auto"}, None)
    return moments_of(lambda: case.program(theta), plan, [theta], nodes=nodes)


@pytest.mark.filterwarnings("ignore::ancestral.errors.PatternWarning")  # drawn on one way only
@pytest.mark.parametrize(("name", "sites"), SUBSETS)
def test_the_mean_is_exact(name: str, sites: tuple[str, ...]) -> None:
    case = ALL[name]
    theta = case.parameter
    expected = oracles.exact_gradient(case.program, [theta])
    moments = found(case, theta, over(*sites))
    torch.testing.assert_close(moments.mean, expected, rtol=1e-8, atol=1e-10)
    if (name, sites) in WHOLE:
        direct = found(case, theta, dict.fromkeys(sites, nothing))
        torch.testing.assert_close(moments.variance, direct.variance, rtol=1e-8, atol=1e-14)


def nothing(site: an.estimators.SiteDraw) -> Tensor:
    """Leave the gradient of a site out, and what the loss is differentiated by directly in."""
    return 0 * site.log_prob(site.value).sum()


def scored(site: an.estimators.SiteDraw) -> Tensor:
    """Take the score function of the first run."""
    return (site.credit * site.log_prob(site.value)).sum()


def test_the_more_is_summed_over_the_less_variance_is_left() -> None:
    case, above, below = ALL["layers"], "x", "y"
    theta = case.parameter
    of_above: list[Chosen] = [RaoBlackwell((below,)), RaoBlackwell(), scored]
    plans: list[dict[str, Chosen]] = [{above: each, below: nothing} for each in of_above]
    both, one, none = (float(found(case, theta, plan).variance.sum()) for plan in plans)
    assert both < 1e-12 < one < none


BRANCHED: list[dict[str, Chosen]] = [
    {"a": RaoBlackwell(("b", "c"))},
    {"a": RaoBlackwell(("b",)), "b": RaoBlackwell()},
    {"a": RaoBlackwell(("c",)), "c": RaoBlackwell(), "b": ExactSum()},
]


@pytest.mark.filterwarnings("ignore::ancestral.errors.PatternWarning")  # drawn on one way only
@pytest.mark.parametrize("plan", BRANCHED)
def test_what_is_summed_over_may_be_drawn_on_some_ways_only(plan: dict[str, Chosen]) -> None:
    case = ALL["drawn_or_not"]
    theta = case.parameter
    expected = oracles.exact_gradient(case.program, [theta])
    torch.testing.assert_close(found(case, theta, plan).mean, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.filterwarnings("ignore::ancestral.errors.PatternWarning")
def test_a_site_that_is_drawn_for_some_of_the_values_only_is_refused() -> None:
    case = ALL["drawn_or_not"]
    with pytest.raises(EstimatorError, match=r"site 'b' .*not for all values of 'a'"):
        found(case, case.parameter, {"b": RaoBlackwell(("a",))})


def test_the_evaluations_are_the_joint_values() -> None:
    case = ALL["chain"]
    plan: dict[str, Chosen] = {"a": RaoBlackwell(("b",)), "*": "auto"}
    assert an.estimate(case.program, case.parameter, estimators=plan).evaluations == 1 + 2 * 2


@pytest.mark.parametrize(
    ("name", "plan"),
    [
        ("layers", {"x": RaoBlackwell(("y",)), "y": DisARM()}),
        ("below_a_normal", {"b": RaoBlackwell(("a",)), "a": "score"}),
    ],
)
def test_it_may_stand_beside_others(name: str, plan: dict[str, Chosen]) -> None:
    case = ALL[name]
    theta = case.parameter
    expected = oracles.exact_gradient(case.program, [theta])
    moments = found(case, theta, plan)
    torch.testing.assert_close(moments.mean, expected, rtol=1e-8, atol=1e-10)


def test_the_credit_of_the_whole_loss_has_the_same_mean() -> None:
    case = ALL["layers"]
    theta = case.parameter
    expected = oracles.exact_gradient(case.program, [theta])
    plan = Plan(over("x", "y"), None, an.estimators.total_cost)
    moments = moments_of(lambda: case.program(theta), plan, [theta])
    torch.testing.assert_close(moments.mean, expected, rtol=1e-8, atol=1e-10)


def test_counts_are_summed_but_for_their_tail() -> None:
    rate = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def program() -> Any:
        n = Poisson(rate).sample()
        return (n - 1) ** 2 * rate

    moments = moments_of(program, Plan(RaoBlackwell(), None), [rate])
    # E[(n - 1)² λ] = λ (λ² - λ + 1); the direct derivative (n - 1)² has variance left.
    assert float(moments.mean) == pytest.approx(3 * 0.49 - 2 * 0.7 + 1, rel=1e-9)


def continuous(theta: Tensor) -> Tensor:
    a = Normal(theta[0], 1.0).sample()
    b = Bernoulli(logits=theta[1] + a).sample()
    return a * b  # type: ignore[no-any-return]


def test_wrong_sites_are_refused() -> None:
    theta = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)
    for plan, message in (
        (
            {"a": RaoBlackwell(("b",)), "*": "auto"},
            r"'a' \(.*one of Normal.*cannot be enumerated|"
            r"'a' \(.*more values than can be enumerated",
        ),
        ({"b": RaoBlackwell(("a",)), "*": "auto"}, "'a' .*more values than can be enumerated"),
        ({"b": RaoBlackwell(("c",)), "*": "auto"}, "no run draws site 'c'.*'a', 'b'"),
        ({"b": RaoBlackwell((), most=1), "*": "auto"}, r"'b' have more than 1 joint values \(most"),
    ):
        with pytest.raises(EstimatorError, match=message):
            an.estimate(continuous, theta, estimators=plan)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="names of sites"):
        RaoBlackwell("h2")
