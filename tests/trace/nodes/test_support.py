"""Supports: a message tells which element of a value is wrong, events included."""

import re
from math import nan
from typing import Any

import pyro.distributions as pd
import pytest
import torch
from families import FAMILIES, parameters_of
from torch import Tensor
from torch import distributions as d
from torch.distributions import constraints

import ancestral as an
from ancestral.trace.nodes.distribution_params import parts_of
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


MADE: list[Any] = [
    lambda **said: d.Bernoulli(logits=THREE, **said),
    lambda **said: d.Bernoulli(THREE * 2, **said),
    lambda **said: d.Normal(THREE, T(-1.0), **said),
    lambda **said: d.Normal(T([0.0, nan]), 1.0, **said),
    lambda **said: d.Categorical(logits=THREE, **said),
    lambda **said: d.Categorical(probs=-THREE, **said),
    lambda **said: d.Independent(d.Gamma(THREE, -1.0, **said), 1),
]


def _made(make: Any, is_default: bool, said: dict[str, bool]) -> tuple[str, ...]:
    """Return what is made: what it holds, or what is wrong with it."""
    before = vars(d.Distribution)["_validate_args"]
    d.Distribution.set_default_validate_args(is_default)
    try:
        return tuple(f"{name}: {value}" for name, value in sorted(vars(make(**said)).items()))
    except ValueError as error:
        return (str(error),)
    finally:
        d.Distribution.set_default_validate_args(before)


@pytest.mark.parametrize("is_default", [True, False])
@pytest.mark.parametrize("said", [{}, {"validate_args": True}, {"validate_args": False}], ids=str)
def test_a_recording_holds_parameters_to_what_torch_holds_them_to(
    is_default: bool, said: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def assert_alike() -> None:
        plain = [_made(make, is_default, said) for make in MADE]
        with an.record():
            assert [_made(make, is_default, said) for make in MADE] == plain

    assert_alike()
    # Whatever a class declares by then.
    monkeypatch.setitem(d.Bernoulli.arg_constraints, "logits", constraints.less_than(0.5))
    monkeypatch.setattr(d.Normal, "arg_constraints", {"loc": constraints.positive})
    assert_alike()


@pytest.mark.filterwarnings("ignore:Singular sample")
@pytest.mark.parametrize("name", FAMILIES)
def test_checks_keep_nothing_of_what_they_compute_and_let_nothing_out(name: str) -> None:
    with an.record(control="error"):
        given = {key: an.track(x, key) for key, x in parameters_of(name).items()}
        fn = FAMILIES[name].make(**given)
        value = an.track(an.untrack(fn.sample()), "value")
        before = [dict(vars(part)) for part in parts_of(fn)]
        fn._validate_sample(value)
        for part, known in zip(parts_of(fn), before, strict=True):
            assert all(known.get(key) is item for key, item in vars(part).items())
