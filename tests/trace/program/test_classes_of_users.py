"""Distributions of the user that lack a method, and statements of a program that need it."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    ExpTransform,
    Independent,
    MixtureSameFamily,
    Normal,
    TransformedDistribution,
    constraints,
)

import ancestral as an
from ancestral.errors import SiteError
from ancestral.trace.nodes.support import is_discrete, is_possible, support_of


class Unsampled(Distribution):
    """Has a density alone."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (as torch's are)

    def __init__(self, rate: Tensor) -> None:
        self.rate = rate
        super().__init__(rate.shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.rate.log() - self.rate * value


class Unreparameterized(Unsampled):
    """Says that it has rsample, and has sample."""

    has_rsample = True

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return torch.ones(*sample_shape, *self.batch_shape)


class Unwritten(Unsampled):
    """Fails for a reason that it tells."""

    def sample(self, sample_shape: Any = ()) -> Tensor:
        raise NotImplementedError("of rates above one")


class Dependent(Unsampled):
    support = constraints.dependent


class Optional(Unsampled):
    support = None


Wrap = Callable[[Distribution], Distribution]
WRAPS: dict[str, Wrap] = {
    "alone": lambda fn: fn,
    "Independent": lambda fn: Independent(fn, 1),
    "TransformedDistribution": lambda fn: TransformedDistribution(fn, [ExpTransform()]),
    "MixtureSameFamily": lambda fn: MixtureSameFamily(Categorical(torch.ones(2)), fn),
}
FORMS = pytest.mark.parametrize("wrap", WRAPS)


NO_SAMPLE = "expected a class that draws, and Unsampled has no sample; define it"
NO_RSAMPLE = (
    "expected a class that draws, and Unreparameterized has no rsample, as its has_rsample = True "
    "says; define it, or set has_rsample = False there"
)


@pytest.mark.parametrize(
    ("kind", "wrap", "message"),
    [
        *((Unsampled, wrap, NO_SAMPLE) for wrap in WRAPS),
        *((Unreparameterized, wrap, NO_RSAMPLE) for wrap in WRAPS if "Mixture" not in wrap),
    ],
)
def test_a_class_that_does_not_draw_is_named(kind: Any, wrap: str, message: str) -> None:
    with an.record(), pytest.raises(SiteError, match=re.escape(message)) as found:
        an.sample("z", WRAPS[wrap](kind(torch.ones(2))))
    assert f"site 'z' ({__file__}:" in str(found.value)


def test_an_error_that_tells_its_reason_is_left_alone() -> None:
    with an.record(), pytest.raises(NotImplementedError, match="of rates above one"):
        an.sample("z", Unwritten(torch.ones(2)))


@FORMS
def test_a_class_that_cannot_be_expanded_is_named(wrap: str) -> None:
    fn = WRAPS[wrap](Unsampled(torch.ones(2)))
    batch, dim = list(fn.batch_shape), -1 - len(fn.batch_shape)
    wanted = re.escape(f"the batch {batch} is to be that of the plates around it, {[4, *batch]}")
    with an.record(), an.plate("n", 4, dim=dim), pytest.raises(SiteError, match=wanted) as found:
        an.sample("z", fn)
    assert "Unsampled has no expand" in str(found.value)


@FORMS
@pytest.mark.parametrize("kind", [Unsampled, Dependent, Optional])
def test_what_states_no_support_may_have_any_value(kind: Any, wrap: str) -> None:
    fn = WRAPS[wrap](kind(torch.ones(2)))
    if wrap != "TransformedDistribution":  # which has that of its last transform
        assert support_of(fn) is None
    assert not is_discrete(fn)
    value = torch.ones(fn.batch_shape + fn.event_shape)
    assert bool(is_possible(fn, value).all())
    with an.record() as trace:
        an.sample("x", fn, obs=value)
    assert trace["x"].is_observed


@FORMS
def test_what_states_a_support_has_it(wrap: str) -> None:
    fn = WRAPS[wrap](Normal(torch.zeros(2), 1.0))
    assert support_of(fn) is not None
