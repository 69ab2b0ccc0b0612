"""Every estimator runs the program as often as its docstring says, and gets other values for it."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal, OneHotCategorical, Poisson

import ancestral as an
from ancestral.estimators import (
    ARM,
    ARMS,
    REBAR,
    RELAX,
    RLOO,
    DisARM,
    DoubleCV,
    ExactSum,
    GumbelRao,
    GumbelSoftmax,
    LocalExpectation,
    MeasureValued,
    MuProp,
    ReinMax,
    SmoothedPerturbation,
    StraightThrough,
    StraightThroughGumbel,
    SumAndSample,
    UnorderedSet,
)

SIZE = 12  # elements, so many that draws are not alike by chance


def leaf() -> Tensor:
    return torch.zeros(SIZE, dtype=torch.float64, requires_grad=True)


def in_common(theta: Tensor) -> Any:
    z = Bernoulli(logits=theta).sample()
    return (z.sum() - 3.3) ** 2


def apart(theta: Tensor) -> Tensor:
    z = Bernoulli(logits=theta).sample()
    return ((z - 0.3) ** 2).sum()  # type: ignore[no-any-return]


def classes(theta: Tensor) -> Any:
    z = Categorical(logits=theta.reshape(4, 3)).sample()
    return (z.double().sum() - 2.2) ** 2


def one_hot(theta: Tensor) -> Any:
    z = OneHotCategorical(logits=theta.reshape(4, 3)).sample()
    return (z * torch.arange(3.0)).sum() ** 2


def counts(theta: Tensor) -> Any:
    return (Poisson(theta.exp()).sample().sum() - 1.0) ** 2


def numbers(theta: Tensor) -> Any:
    return (Normal(theta, 1.0).sample().sum() - 1.0) ** 2


def zero(y: Tensor) -> Tensor:
    return (0.0 * y).sum()


NEEDED: list[tuple[Callable[[Tensor], Tensor], Any, int]] = [
    (in_common, "score", 0),
    *((in_common, each, 1) for each in (DisARM(), ARM(), MuProp(), REBAR(), RLOO(2), ARMS(2))),
    (in_common, RELAX(zero), 0),
    (in_common, RELAX(zero, 1.0), 1),
    (in_common, RLOO(5), 4),
    (in_common, ARMS(5), 4),
    (in_common, DoubleCV(2), 2),
    (in_common, DoubleCV(3), 3),
    (in_common, LocalExpectation(), SIZE),
    (in_common, MeasureValued(), SIZE),
    (in_common, UnorderedSet(2), SIZE),
    (in_common, SmoothedPerturbation(), SIZE),
    (apart, SmoothedPerturbation(), 1),
    (apart, LocalExpectation(), 1),
    (apart, ExactSum(), 1),
    (apart, MeasureValued(), 1),
    (classes, LocalExpectation(), 2 * 4),
    (classes, ExactSum(), 3**4 - 1),
    (classes, UnorderedSet(2), 4),
    (classes, UnorderedSet(3), 2 * 4),
    (counts, MeasureValued(), SIZE),
    (numbers, MeasureValued(), 2 * SIZE),
    *(
        (one_hot, each, 1)
        for each in (
            StraightThrough(),
            GumbelSoftmax(),
            StraightThroughGumbel(),
            GumbelRao(),
            ReinMax(),
            MuProp(),
            REBAR(),
        )
    ),
]


@pytest.mark.parametrize(
    ("program", "estimator", "more"), NEEDED, ids=lambda item: getattr(item, "__name__", repr(item))
)
def test_the_evaluations_are_those_that_are_told(
    program: Callable[[Tensor], Tensor], estimator: Any, more: int
) -> None:
    torch.manual_seed(0)
    runs = mock.Mock(side_effect=program)
    found = an.estimate(runs, leaf(), estimators=estimator, check=False, vectorized=False)
    assert found.evaluations == 1 + more
    assert runs.call_count == 1 + more


def test_a_sum_and_a_sample_need_no_more_than_they_say() -> None:
    torch.manual_seed(0)
    found = an.estimate(classes, leaf(), estimators=SumAndSample(1), check=False)
    assert 1 < found.evaluations <= 1 + 2 * 4


def many(theta: Tensor) -> Any:
    z = Categorical(logits=theta.expand(4, SIZE) * 3 + torch.arange(SIZE).cos()).sample()
    return (z.double().sum() - 2.2) ** 2


def test_neighbours_are_few_however_many_values_there_are() -> None:
    torch.manual_seed(0)
    found = an.estimate(many, leaf(), estimators=SmoothedPerturbation(), check=False)
    assert 1 + 4 < found.evaluations <= 1 + 2 * 4


def values(program: Callable[[Tensor], Tensor], estimator: Any) -> set[tuple[float, ...]]:
    """Return what the draw of a program was in each run."""
    seen: set[tuple[float, ...]] = set()

    def noted(theta: Tensor) -> Tensor:
        with an.record() as trace:
            loss = program(theta)
        (node,) = [each for each in trace.values() if each.type == "sample"]
        seen.add(tuple(an.untrack(node.value).flatten().tolist()))
        return loss

    an.estimate(noted, leaf(), estimators=estimator, check=False, vectorized=False)
    return seen


@pytest.mark.parametrize(
    "estimator", [LocalExpectation(), MeasureValued(), SmoothedPerturbation()], ids=repr
)
def test_elements_are_changed_one_by_one(estimator: Any) -> None:
    seen = [*values(in_common, estimator)]
    ones = [
        sum(a != b for a, b in zip(each, other, strict=True)) for each in seen for other in seen
    ]
    assert len(seen) == SIZE + 1
    assert max(ones) == 2
