"""Supports: a message tells which element of a value is wrong, events included."""

# torch.distributions and Pyro are not annotated.
# mypy: disable-error-code="no-untyped-call"

import re
from math import nan
from typing import Any

import pyro.distributions as pd
import pytest
import torch
from torch import Tensor
from torch import distributions as d
from torch.distributions import constraints

import ancestral as an
from ancestral.trace.program.checks import SupportError

T, TWO, THREE = torch.tensor, torch.zeros(2), torch.ones(3)
WRONG: list[tuple[Any, Tensor, str, str]] = [
    (pd.NanMaskedNormal(TWO, 1.0).to_event(1), T([1.0, nan]), "1 of 2 elements", "nan"),
    (
        d.Independent(d.Normal(torch.zeros(2, 2), 1.0), 2),
        T([[1.0, 2.0], [nan, 3.0]]),
        "1 of 4 elements",
        "nan",
    ),
    (d.Independent(d.Bernoulli(THREE / 2), 1), T([1.0, 0.0, 0.5]), "1 of 3 elements", "0.5"),
    (
        d.Independent(d.Gamma(torch.ones(2, 3), 1.0), 1),
        T([[1.0, 2, 3], [4, -5, -6]]),
        "2 of 6 elements",
        "-5.0",
    ),
    (d.Independent(d.Uniform(TWO, T([1.0, 2.0])), 1), T([1.5, 1.5]), "1 of 2 elements", "1.5"),
    (d.Independent(d.Categorical(torch.ones(2, 3)), 1), T([1, 7]), "1 of 2 elements", "7"),
    (d.MultivariateNormal(TWO, torch.eye(2)), T([1.0, nan]), "1 of 2 elements", "nan"),
    (d.Dirichlet(THREE), T([0.75, 0.75, -0.5]), "1 of 3 elements", "-0.5"),
    (
        d.Dirichlet(torch.ones(2, 3)),
        T([[0.25, 0.25, 0.5], [0.5, 0.5, 0.25]]),
        "1 of 2 events",
        "[0.5, 0.5, 0.25]",
    ),
    (d.OneHotCategorical(THREE), T([1.0, 1.0, 0.0]), "1 of 1 events", "[1.0, 1.0, 0.0]"),
    (d.Multinomial(3, THREE), T([1.0, -1.0, 3.0]), "1 of 3 elements", "-1.0"),
    (d.LKJCholesky(2), 2 * torch.eye(2), "1 of 1 events", "[[2.0, 0.0], [0.0, 2.0]]"),
    (
        d.MixtureSameFamily(
            d.Categorical(TWO + 1), d.Independent(d.Gamma(torch.ones(2, 2), 1.0), 1)
        ),
        T([1.0, -2.0]),
        "1 of 2 elements",
        "-2.0",
    ),
]


def told(words: str, first: str) -> str:
    return re.escape(f"{words}, the first of them {first}")


@pytest.mark.parametrize(("fn", "value", "words", "first"), WRONG)
def test_the_element_that_is_wrong_is_named(fn: Any, value: Tensor, words: str, first: str) -> None:
    with an.record(), pytest.raises(SupportError, match=told(words, first)):
        an.sample("x", fn, obs=value)


@pytest.mark.parametrize(("fn", "value", "words", "first"), WRONG)
def test_the_element_that_is_wrong_is_named_in_a_plate(
    fn: Any, value: Tensor, words: str, first: str
) -> None:
    with an.record(), an.plate("n", 2), pytest.raises(SupportError, match=told("", first)):
        an.sample("x", fn, obs=value.expand(2, *value.shape) if not fn.batch_shape else value)


@pytest.mark.parametrize(
    ("constraint", "value", "words", "first"),
    [
        (constraints.independent(constraints.positive, 1), T([1.0, -3]), "1 of 2 elements", "-3.0"),
        (constraints.simplex, T([0.5, 0.5, 0.25]), "1 of 1 events", "[0.5, 0.5, 0.25]"),
        (constraints.interval(TWO, T([1.0, 2.0])), T([1.5, 1.5]), "1 of 2 elements", "1.5"),
    ],
)
def test_the_element_of_a_parameter_that_is_wrong_is_named(
    constraint: Any, value: Tensor, words: str, first: str
) -> None:
    with an.ParamStore(), pytest.raises(an.errors.ParamError, match=told(words, first)):
        an.param("w", value, constraint=constraint)


def test_an_event_of_many_numbers_is_not_shown() -> None:
    with an.record(), pytest.raises(SupportError, match="1 of 1 events; expected"):
        an.sample("x", d.LKJCholesky(5), obs=2 * torch.eye(5))
