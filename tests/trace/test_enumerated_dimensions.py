"""Dimensions of values: whatever depends on an enumerated site keeps them, by whatever way."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-untyped-call"

import re
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, Independent, Normal, constraints
from torch.distributions.constraints import Constraint

import ancestral as an
from ancestral.trace.handlers import enumerate as enumeration

P = torch.tensor([0.2, 0.3, 0.5]).double()


def finite(name: str = "z") -> Tensor:
    return an.sample(name, Categorical(P))


def refused(program: Callable[[], object], pattern: str, first_dim: int = -3) -> None:
    matching = re.compile(pattern, re.S)
    with (
        an.record(),
        enumeration(first_dim=first_dim),
        pytest.raises(an.EnumerationError, match=matching),
    ):
        program()


def test_a_site_of_an_earlier_block_is_none_of_repetitions_either() -> None:
    with an.record():
        with enumeration(first_dim=-1):
            z = finite()
        with enumeration(first_dim=-2), pytest.raises(an.EnumerationError, match="out of sight"):
            an.sample("x", Normal(z.double(), 1.0))


class Undeclared(Distribution):
    """A class that does not say which dimensions of its parameter are a batch."""

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    support = constraints.real

    def __init__(self, loc: Tensor) -> None:
        self.loc = loc
        super().__init__(loc.shape, validate_args=False)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        value: Tensor = Normal(self.loc, 1.0).sample(sample_shape)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        density: Tensor = Normal(self.loc, 1.0).log_prob(value)
        return density


@pytest.mark.parametrize("mixed", [Tensor.sum, lambda z: z.flip(0), lambda z: z.softmax(0)])
def test_a_parameter_that_no_constraint_declares_keeps_the_values_apart_too(
    mixed: Callable[[Tensor], Tensor],
) -> None:
    refused(
        lambda: an.sample("x", Undeclared(mixed(finite().double()))),
        "depends on site 'z', .* mixes",
    )


def test_a_parameter_that_no_constraint_declares_may_depend_on_values() -> None:
    data = torch.tensor(0.3).double()
    with an.record() as trace, enumeration(first_dim=-2):
        an.observe("x", Undeclared(finite().double()), data)
    expected = (P.log() + Normal(torch.arange(3).double(), 1.0).log_prob(data)).logsumexp(0)
    torch.testing.assert_close(an.log_marginal(trace), expected)


@pytest.mark.parametrize("mixed", [Tensor.sum, lambda t: t.flip(0), bool])
def test_values_that_are_tracked_as_a_source_stay_apart(mixed: Callable[[Tensor], Any]) -> None:
    with an.record(), enumeration(first_dim=-1), pytest.raises((an.SiteError, an.ConfinedError)):
        an.sample("x", Normal(1.0 * mixed(an.track(finite().double(), "t")), 1.0))


def test_the_advice_to_make_further_dimensions_an_event_is_right() -> None:
    table = torch.rand(3, 4).double()

    def program(fn: Callable[[Tensor], Distribution]) -> None:
        an.observe("x", fn(table[finite()]), torch.zeros(4).double())

    refused(
        lambda: program(lambda loc: Normal(loc, 1.0)),
        r"last 1 .*Independent\(fn, 1\)",
        first_dim=-1,
    )
    with an.record() as trace, enumeration(first_dim=-1):
        program(lambda loc: Independent(Normal(loc, 1.0), 1))
    each = Normal(table, 1.0).log_prob(torch.zeros(4).double()).sum(-1)
    torch.testing.assert_close(an.log_marginal(trace), (P.log() + each).logsumexp(0))
