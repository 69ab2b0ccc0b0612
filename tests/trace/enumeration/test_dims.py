"""Dimensions of values: whatever depends on an enumerated site keeps them, by whatever way."""

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from enumerated import P, finite, refused
from pyro.distributions import Normal as PyroNormal
from torch import Tensor
from torch import distributions as d
from torch.distributions.constraints import Constraint

import ancestral as an
from ancestral.trace.handlers import enumerate as enumeration

Mixed = Callable[[Tensor], Tensor]
Make = Callable[[Tensor], d.Distribution]


def test_a_site_of_an_earlier_block_is_none_of_repetitions_either() -> None:
    with an.record():
        with enumeration(first_dim=-1):
            z = finite()
        with (
            enumeration(first_dim=-2),
            pytest.raises(an.errors.EnumerationError, match="out of scope"),
        ):
            an.sample("x", d.Normal(z.double(), 1.0))


class Undeclared(d.Distribution):
    """A class that does not say which dimensions of its parameter are a batch."""

    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    support = d.constraints.real

    def __init__(self, loc: Tensor) -> None:
        self.loc = loc
        super().__init__(loc.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Undeclared":
        return type(self)(self.loc.expand(batch_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        value: Tensor = d.Normal(self.loc, 1.0).sample(sample_shape)
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        density: Tensor = d.Normal(self.loc, 1.0).log_prob(value)
        return density


@pytest.mark.parametrize("mixed", [Tensor.sum, lambda z: z.flip(0), lambda z: z.softmax(0)])
def test_a_parameter_that_no_constraint_declares_keeps_the_values_apart_too(mixed: Mixed) -> None:
    refused(
        lambda: an.sample("x", Undeclared(mixed(finite().double()))),
        "depends on site 'z', .* mixes",
    )


def test_a_parameter_that_no_constraint_declares_may_depend_on_values() -> None:
    data = torch.tensor(0.3).double()
    with an.record() as trace, enumeration(first_dim=-2):
        an.observe("x", Undeclared(finite().double()), data)
    expected = (P.log() + d.Normal(torch.arange(3).double(), 1.0).log_prob(data)).logsumexp(0)
    torch.testing.assert_close(an.infer.log_marginal(trace), expected)


@pytest.mark.parametrize("mixed", [Tensor.sum, lambda t: t.flip(0), bool])
def test_values_that_are_tracked_as_a_source_stay_apart(mixed: Callable[[Tensor], Any]) -> None:
    with (
        an.record(),
        enumeration(first_dim=-1),
        pytest.raises((an.errors.SiteError, an.errors.ConfinedError)),
    ):
        an.sample("x", d.Normal(1.0 * mixed(an.track(finite().double(), "t")), 1.0))


def test_the_advice_to_make_further_dimensions_an_event_is_right() -> None:
    table = torch.rand(3, 4).double()

    def program(fn: Make) -> None:
        an.observe("x", fn(table[finite()]), torch.zeros(4).double())

    refused(
        lambda: program(lambda loc: d.Normal(loc, 1.0)),
        r"last 1 of its .*Independent\(fn, 1\)",
        first_dim=-1,
    )
    with an.record() as trace, enumeration(first_dim=-1):
        program(lambda loc: d.Independent(d.Normal(loc, 1.0), 1))
    each = d.Normal(table, 1.0).log_prob(torch.zeros(4).double()).sum(-1)
    torch.testing.assert_close(an.infer.log_marginal(trace), (P.log() + each).logsumexp(0))


class Mixing(Undeclared):
    """A class whose density mixes the cases of its batch."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) - self.loc.softmax(0)


class MixingNormal(d.Normal):
    """A class that declares a batch, which its density mixes."""

    def log_prob(self, value: Tensor) -> Tensor:
        density: Tensor = super().log_prob(value).flip(0)  # type: ignore[no-untyped-call]
        return density


class Declared(Undeclared):
    """A class that declares which dimensions are a batch, and keeps them."""

    arg_constraints: ClassVar[dict[str, Constraint]] = {"loc": d.constraints.real}


class Inherited(d.Normal):
    """A class of the user with the density of torch."""


@pytest.mark.parametrize(
    "fn",
    [
        Mixing,
        lambda loc: MixingNormal(loc, 1.0),
        lambda loc: d.Independent(MixingNormal(loc[..., None], 1.0), 1),
        lambda loc: d.TransformedDistribution(
            MixingNormal(loc, 1.0), [d.AffineTransform(0.0, 2.0)]
        ),
    ],
)
def test_a_density_that_mixes_the_values_of_a_site_is_refused(fn: Make) -> None:
    with an.record() as trace, enumeration(first_dim=-1):
        made = fn(finite().double())
        an.observe("x", made, torch.zeros(made.event_shape).double())
    pattern = r"site 'x' .*log_prob of .* mixes values .* enumerated site 'z'"
    with pytest.raises(an.errors.EnumerationError, match=pattern):
        an.infer.log_marginal(trace)


@pytest.mark.parametrize(
    "fn",
    [
        Declared,
        lambda loc: Inherited(loc, 1.0),
        lambda loc: PyroNormal(loc, 1.0),
        lambda loc: PyroNormal(loc, 1.0).mask(True),
        lambda loc: PyroNormal(loc[..., None], 1.0).expand_by([1]).to_event(1),
        lambda loc: d.TransformedDistribution(PyroNormal(loc, 1.0), []),
    ],
)
def test_classes_that_are_not_torchs_keep_values_and_repetitions_apart(fn: Make) -> None:
    data = torch.tensor([0.3, -0.7]).double()
    with an.record() as trace, enumeration(first_dim=-2), an.plate("data", 2):
        made = fn(finite().double())
        an.observe("x", made, data.reshape(2, *made.event_shape))
    each = P.log() + d.Normal(torch.arange(3).double(), 1.0).log_prob(data[:, None])
    torch.testing.assert_close(an.infer.log_marginal(trace), each.logsumexp(-1).sum())
    torch.testing.assert_close(an.infer.marginals(trace)["z"], each.log_softmax(-1).T)
