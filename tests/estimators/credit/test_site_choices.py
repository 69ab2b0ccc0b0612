"""Choices for each site: of its baseline, its credit and how it is differentiated."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import ancestral as an


def two(**options: Any) -> Tensor:
    """Return the gradient of two sites of three coins, [2, 3], with the same draws every time."""
    logits = torch.zeros(2, 3, requires_grad=True)
    infer = options.pop("infer", None)
    torch.manual_seed(0)
    with an.record():
        first = Bernoulli(logits=logits[0]).sample()
        second = an.sample("second", Bernoulli(logits=logits[1]), infer=infer)
        loss = (first.exp() + second * 3).sum()
    an.backward(loss, **options)
    assert logits.grad is not None
    return logits.grad


BARE, AUTO = two(baseline=None), two()
BY_SITE = two(baseline=None, credit=an.estimators.by_site)
CHOICES: dict[str, tuple[dict[str, Any], Tensor]] = {
    "a baseline by pattern": (
        {"baseline": {"sec*": None, "*": "auto"}},
        torch.stack([AUTO[0], BARE[1]]),
    ),
    "the default for others": ({"baseline": {"first": None}}, torch.stack([BARE[0], AUTO[1]])),
    "the first pattern": ({"baseline": {"*": None, "second": "auto"}}, BARE),
    "a baseline by infer": ({"infer": {"baseline": None}}, torch.stack([AUTO[0], BARE[1]])),
    "a pattern before infer": (
        {"infer": {"baseline": None}, "baseline": {"second": "auto"}},
        AUTO,
    ),
    "credit by pattern": (
        {"baseline": None, "credit": {"second": an.estimators.by_site}},
        torch.stack([BARE[0], BY_SITE[1]]),
    ),
    "credit by infer": (
        {"baseline": None, "infer": {"credit": an.estimators.by_site}},
        torch.stack([BARE[0], BY_SITE[1]]),
    ),
}


@pytest.mark.parametrize("name", CHOICES)
def test_each_site_has_what_is_chosen_for_it(name: str) -> None:
    options, expected = CHOICES[name]
    torch.testing.assert_close(two(**options), expected)


def test_the_choices_are_different() -> None:
    rows = [grad[row] for grad in (BARE, AUTO, BY_SITE) for row in range(2)]
    assert len({tuple(row.tolist()) for row in rows}) == 6


def pathwise_or_score(**options: Any) -> Tensor:
    """Return the gradient of two normal draws, [2], with the same noise every time."""
    loc = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    with an.record():
        x = an.sample("x", Normal(loc[0], 1.0), infer=options.pop("infer", None))
        y = Normal(loc[1], 1.0).rsample()
        loss = x**2 + 3 * y
    an.backward(loss, **options)
    assert loc.grad is not None
    return loc.grad


@pytest.mark.parametrize(
    ("options", "scored"),
    [
        ({}, []),
        ({"estimator": "score"}, [0, 1]),
        ({"estimator": {"x": "score"}}, [0]),
        ({"estimator": {"y": "score", "*": "pathwise"}}, [1]),
        ({"infer": {"estimator": "score"}}, [0]),
    ],
)
def test_each_site_is_differentiated_as_is_chosen(
    options: dict[str, Any], scored: list[int]
) -> None:
    torch.manual_seed(0)
    with an.record() as trace:
        an.sample("x", Normal(torch.tensor(0.3).double(), 1.0))
        Normal(torch.tensor(-0.2).double(), 1.0).rsample()
    x, y = (node.value for node in trace.values())
    expected = torch.stack([2 * x, torch.tensor(3.0).double()])
    for place, (value, loc, cost) in enumerate([(x, 0.3, x**2), (y, -0.2, 3 * y)]):
        if place in scored:
            expected[place] = (value - loc) * cost
    torch.testing.assert_close(pathwise_or_score(**options), expected)


@pytest.mark.parametrize("keyword", ["baseline", "credit", "estimator"])
def test_a_pattern_that_matches_no_site_is_told(keyword: str) -> None:
    given = {"baseline": None, "credit": an.estimators.by_site, "estimator": "auto"}[keyword]
    pattern = rf"{keyword}= has a choice for 'third', which matches no site .*'second'"
    with pytest.warns(an.errors.PatternWarning, match=pattern):
        two(**{keyword: {"third": given}})


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("baseline", "baseline must be 'auto', None or"),
        ("credit", "credit must be a function"),
        ("estimator", "estimator must be 'auto', 'pathwise' or 'score'"),
    ],
)
@pytest.mark.parametrize("is_mapping", [False, True])
def test_a_choice_that_is_none_is_refused(keyword: str, text: str, is_mapping: bool) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        two(**{keyword: {"*": 3} if is_mapping else 3})


def test_a_baseline_of_infer_that_is_none_names_the_site() -> None:
    with pytest.raises(TypeError, match=r"site 'second' \(.*\): baseline must be 'auto', None or"):
        two(infer={"baseline": 3})
