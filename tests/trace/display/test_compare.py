"""Comparing: every difference of two traces is told, and no other."""

import re
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Laplace, Normal

import ancestral as an
from ancestral.trace.context.argument_checks import kind_of


def run(fn: Distribution, value: Tensor, name: str = "x", plate: int | None = None) -> an.Trace:
    with an.record() as trace, nullcontext() if plate is None else an.plate("rows", plate):
        an.sample(name, fn, obs=value)
    return trace


def told(here: an.Trace, there: an.Trace) -> list[str]:
    return [difference.what for difference in here.compare(there).differences]


A = run(Normal(torch.zeros(2), 1.0), torch.tensor([1.0, 2.0]))


def test_a_trace_differs_in_nothing_from_itself() -> None:
    assert A.compare(A).is_equal
    assert str(A.compare(A.copy())) == "no difference"


def test_sites_of_one_trace_only_are_told() -> None:
    found = A.compare(run(Normal(0.0, 1.0), torch.zeros(()), "y"))
    assert (found.only_here, found.only_there) == (("x",), ("y",))
    assert not found.is_equal
    assert str(found).splitlines() == [
        "site  what  here  there",
        "x     site  yes   -",
        "y     site  -     yes",
    ]


def test_each_difference_is_told_by_its_name() -> None:
    value = torch.tensor([1.0, 2.0])
    assert told(A, run(Laplace(torch.zeros(2), 1.0), value)) == ["distribution", "log_prob"]
    assert told(A, run(Normal(torch.zeros(3), 1.0), torch.ones(3))) == ["shape", "log_prob"]
    assert told(A, run(Normal(torch.zeros(2), 1.0), value, plate=2)) == ["plates"]
    with an.record() as free, an.handlers.substitute({"x": value}):
        an.sample("x", Normal(torch.zeros(2), 1.0))
    assert told(A, free) == ["observed"]


def test_the_largest_difference_is_told_with_its_place() -> None:
    found = A.compare(run(Normal(torch.zeros(2), 1.0), torch.tensor([1.0, 5.0])))
    value, density = found.differences
    assert (value.what, value.here, value.there) == ("value", "2 at [1]", "5 at [1]")
    assert (value.largest, density.largest) == (3.0, 10.5)


def named(value: Tensor) -> an.Trace:
    with an.record() as trace:
        an.deterministic("n", value)
    return trace


def test_numbers_that_are_none_are_equal_and_infinitely_far_from_others() -> None:
    here, there = (named(torch.tensor([torch.nan, number])) for number in (torch.inf, 1.0))
    assert here.compare(here).is_equal
    assert here.compare(there).differences[0].largest == torch.inf


def test_integers_that_floats_do_not_hold_are_told_apart() -> None:
    here, there = (named(torch.tensor([0, 2**53 + n])) for n in (0, 1))
    (found,) = here.compare(there).differences
    assert (found.here, found.there, found.largest) == (f"{2**53} at [1]", f"{2**53 + 1} at [1]", 1)
    assert here.compare(here).is_equal


def test_a_small_difference_is_told_with_all_its_digits() -> None:
    here, there = named(torch.tensor(1.0)), named(torch.tensor(1.0).nextafter(torch.tensor(2.0)))
    (found,) = here.compare(there).differences
    assert (found.here, found.there) == ("1.0", "1.0000001192092896")


def program() -> None:
    """Draw nothing."""


WRONG = [3, None, "x", program, nn.Linear(1, 1), {"x": 3}]
TAKERS: list[Callable[..., object]] = [
    *(
        A.compare,
        an.infer.prior_dependencies,
        an.infer.posterior_dependencies,
        an.infer.suggest_guide_order,
    ),
    *(an.infer.log_marginal, an.infer.marginals, lambda found: an.infer.negative_elbo(A, found)),
    lambda found: an.infer.sample_posterior(found, 3),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda found: type(found).__name__)
@pytest.mark.parametrize("taker", TAKERS)
def test_what_is_no_trace_says_what_to_give(taker: Callable[..., object], wrong: object) -> None:
    expected = rf"takes a Trace, not {re.escape(kind_of(wrong))}; .*`with an\.record\(\) as trace:"
    with pytest.raises(TypeError, match=expected):
        taker(wrong)
