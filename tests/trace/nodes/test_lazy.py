"""Lazy attributes: what a distribution keeps has the sources of what it is computed from."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pyro.distributions as pd
import pytest
import torch
from families import BATCH, FAMILIES, Family, parameters_of, real, simplex
from programs.estimates import library
from pyro.distributions import transforms as pt
from torch import Tensor
from torch import distributions as d
from torch.distributions import constraints
from torch.distributions import transforms as t
from torch.distributions.utils import lazy_property

import ancestral as an
from ancestral.trace.context.reachable import reachable
from ancestral.trace.nodes.node import NoDensityError
from oracles import exact_gradient, moments

PROBABILITY: dict[str, Callable[[], Tensor]] = {
    "probs": lambda: torch.rand(*BATCH, dtype=torch.float64) * 0.8 + 0.1
}
SIMPLEX = {"probs": simplex(4)}
OF_PROBABILITIES: dict[str, Callable[..., Any]] = {
    "Bernoulli": d.Bernoulli,
    "Binomial": lambda probs: d.Binomial(5, probs),
    "ContinuousBernoulli": d.ContinuousBernoulli,
    "Geometric": d.Geometric,
    "NegativeBinomial": lambda probs: d.NegativeBinomial(5, probs),
    "RelaxedBernoulli": lambda probs: d.RelaxedBernoulli(torch.tensor(0.5), probs),
}
OF_VECTORS: dict[str, Callable[..., Any]] = {
    "Multinomial of probabilities": lambda probs: d.Multinomial(5, probs),
    "OneHotCategorical of probabilities": d.OneHotCategorical,
    "RelaxedOneHotCategorical of probabilities": lambda probs: d.RelaxedOneHotCategorical(
        torch.tensor(0.5), probs
    ),
    "Independent of OneHotCategorical": lambda probs: d.Independent(d.OneHotCategorical(probs), 1),
    "Pyro's OneHotCategorical": pd.OneHotCategorical,
    "Pyro's ExpandedDistribution": lambda probs: pd.OneHotCategorical(probs).expand_by([2]),
}
OTHERWISE = {
    **{f"{n} of probabilities": Family(f, PROBABILITY) for n, f in OF_PROBABILITIES.items()},
    **{name: Family(make, SIMPLEX) for name, make in OF_VECTORS.items()},
    "OneHotCategoricalStraightThrough of logits": Family(
        lambda logits: d.OneHotCategoricalStraightThrough(logits=logits), {"logits": real(4)}
    ),
    "Mixture of OneHotCategorical": Family(
        lambda logits, probs: d.MixtureSameFamily(
            d.Categorical(logits=logits), d.OneHotCategorical(probs)
        ),
        {"logits": real(3), "probs": lambda: torch.rand(*BATCH, 3, 4).double().softmax(-1)},
    ),
}
KNOWN = {**FAMILIES, **OTHERWISE}
READ = """
    mean variance stddev mode logits probs support covariance_matrix precision_matrix scale_tril
    entropy log_prob cdf icdf
""".split()
BEFORE: dict[str, Callable[[Any, Tensor], Any]] = {
    "nothing": lambda fn, x: None,
    "a draw": lambda fn, x: fn.sample(),
    "a density": lambda fn, x: fn.log_prob(x),
    "an observation": lambda fn, x: observed(fn, x),
    "a copy": lambda fn, x: fn.expand((2, *fn.batch_shape)),
}


def observed(fn: Any, x: Tensor) -> Any:
    with an.record() as trace:
        an.sample("x", fn, obs=x)
        trace["x"].log_prob  # noqa: B018 (it is computed, and kept)
        return trace["x"]


def read(fn: Any, name: str, x: Tensor) -> list[Tensor]:
    """Return the tensors of an attribute, none where torch has none, or cannot compute it."""
    try:
        match name:
            case "log_prob" | "cdf":
                found = getattr(fn, name)(x)
            case "icdf":
                found = fn.icdf(torch.full(fn.batch_shape, 0.3, dtype=torch.float64))
            case "entropy":
                found = fn.entropy()
            case _:
                found = getattr(fn, name)
    except (NotImplementedError, AttributeError):  # the family has no such attribute
        return []
    except (RuntimeError, ValueError):  # the value is outside of the support
        return []
    return list(reachable(found))


@contextmanager
def validating(is_on: bool) -> Iterator[None]:
    before = d.Distribution._validate_args
    d.Distribution.set_default_validate_args(is_on)
    try:
        yield
    finally:
        d.Distribution.set_default_validate_args(before)


@pytest.mark.filterwarnings("ignore:Singular sample detected")
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("name", KNOWN)
def test_whatever_changes_with_a_parameter_carries_its_source(name: str, before: str) -> None:
    make, ranges = KNOWN[name]
    if name in FAMILIES:
        low, high = parameters_of(name, 0), parameters_of(name, 1)
    else:
        low, high = ({key: each() for key, each in ranges.items()} for _ in range(2))
    # Of two sets of parameters, all mixtures are valid too.
    mixed = {key: torch.lerp(low[key], high[key], 0.1) for key in low}
    seen = 0
    for is_validated in (False, True):
        with validating(is_validated):
            x = make(**low).sample()
            plain = {attribute: read(make(**low), attribute, x) for attribute in READ}
            for key in low:
                other = make(**{**low, key: mixed[key]})
                with an.record():
                    z = d.Bernoulli(torch.tensor(0.5, requires_grad=True)).sample()
                    for attribute in READ:
                        changed = read(other, attribute, x)
                        if len(changed) != len(plain[attribute]):
                            continue  # what was drawn is outside of the support of the other
                        fn = make(**{**low, key: (low[key] + 0 * z).contiguous()})
                        with contextlib.suppress(NotImplementedError):  # as in `read`
                            BEFORE[before](fn, x)
                        found = read(fn, attribute, x)
                        for ours, one, two in zip(found, plain[attribute], changed, strict=True):
                            if not torch.allclose(one, two, 0, 0, equal_nan=True):
                                seen += 1
                                assert "z" in an.provenance_of(ours), (is_validated, attribute, key)
    # That of a triangular matrix cannot be inverted, so that there is no density.
    assert seen or name.startswith(("of LowerCholesky", "of PositiveDefinite"))


def probabilities(z: Tensor) -> Tensor:
    return torch.stack([0.2 + 0.5 * z, 0.8 - 0.5 * z])


class ByHand(d.Distribution):
    """Keeps what it computes at first use, by hand, in a property that is checked."""

    arg_constraints: ClassVar[dict[str, Any]] = {"logit": constraints.real}
    support = constraints.boolean

    def __init__(self, probs: Tensor) -> None:
        self.probs, self._known = probs, dict[str, Tensor]()
        super().__init__(probs.shape)

    @property
    def logit(self) -> Tensor:
        if "logit" not in self._known:
            self._known["logit"] = self.probs.logit()
        return self._known["logit"]

    def log_prob(self, value: Tensor) -> Tensor:
        return value * self.logit + torch.log1p(-self.probs)


class ByProperty(ByHand):
    """Keeps it by the means of Python, of torch, and outside of itself."""

    @functools.cached_property
    def log(self) -> Tensor:
        return self.probs.log()

    @lazy_property
    def complement(self) -> Tensor:
        return torch.log1p(-self.probs)

    @functools.cache  # noqa: B019 (that it is kept for long is the point)
    def further(self) -> Tensor:
        return self.log - self.complement

    def log_prob(self, value: Tensor) -> Tensor:
        return value * self.further() + self.complement


class Wrapping(d.OneHotCategorical):
    """A subclass of a class of torch."""


SECOND, ONE = torch.tensor([0.0, 1.0]).double(), torch.tensor(1.0).double()
PROGRAMS: dict[str, Callable[[Tensor], Any]] = {
    "OneHotCategorical": lambda z: d.OneHotCategorical(probabilities(z)).log_prob(SECOND),
    "OneHotCategorical by logits": lambda z: (
        d.OneHotCategorical(logits=probabilities(z)).mean[1] ** 2
    ),
    "OneHotCategoricalStraightThrough": lambda z: (
        d.OneHotCategoricalStraightThrough(probabilities(z)).log_prob(SECOND)
    ),
    "a subclass": lambda z: Wrapping(probabilities(z)).logits[0],
    "Pyro's": lambda z: pd.OneHotCategorical(probabilities(z)).log_prob(SECOND),
    "Multinomial": lambda z: d.Multinomial(1, probabilities(z)).log_prob(SECOND),
    "Binomial by logits": lambda z: d.Binomial(2, logits=z - 0.3).log_prob(ONE) * 2,
    "Independent": lambda z: (
        d.Independent(d.OneHotCategorical(probabilities(z)[None]), 1).log_prob(SECOND[None])
    ),
    "Independent of an expanded": lambda z: (
        d.Independent(d.OneHotCategorical(probabilities(z)).expand((2,)), 1)
        .log_prob(SECOND.expand(2, 2))
    ),
    "MixtureSameFamily": lambda z: (
        d.MixtureSameFamily(
            d.Categorical(probabilities(z)),
            d.OneHotCategorical(torch.stack([probabilities(z), probabilities(1 - z)])),
        ).log_prob(SECOND)
    ),
    "MultivariateNormal by precision": lambda z: (
        d.MultivariateNormal(
            SECOND, precision_matrix=torch.eye(2).double() * (1 + z)
        ).log_prob(SECOND + 1)
    ),
    "by hand": lambda z: ByHand(probabilities(z)[0]).log_prob(ONE),
    "by properties": lambda z: ByProperty(probabilities(z)[0]).log_prob(ONE),
    "by properties, asked for after a site": lambda z: kept_by_a_site(z),
    "a transform with a cache": lambda z: kept_by_a_transform(z),
    "an entropy after a draw": lambda z: after_a_draw(d.OneHotCategorical(probabilities(z))),
}  # fmt: skip


def kept_by_a_site(z: Tensor) -> Tensor:
    fn = ByProperty(probabilities(z)[0])
    observed(fn, ONE)
    return fn.log + fn.further() + fn.logit


def kept_by_a_transform(z: Tensor) -> Tensor:
    affine = t.AffineTransform(z, 2.0, cache_size=1)
    fn = d.TransformedDistribution(d.Normal(0 * ONE, 1.0), [affine])
    observed(fn, ONE)
    found: Tensor = fn.log_prob(ONE) + affine.inv(ONE) ** 2
    return found


def after_a_draw(fn: Any) -> Tensor:
    fn.enumerate_support()
    found: Tensor = fn.entropy() + fn.variance[0]
    return found


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("is_validated", [False, True])
def test_gradients_through_what_a_distribution_keeps_are_exact(
    name: str, is_validated: bool
) -> None:
    def program(logit: Tensor) -> Tensor:
        z = d.Bernoulli(logits=logit).sample()
        loss: Tensor = -PROGRAMS[name](z).sum() + 0 * z
        return loss

    logit = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    with validating(is_validated):
        expected = exact_gradient(program, [logit])
        assert abs(expected) > 1e-3
        found = moments(program, [logit], library()).mean
    torch.testing.assert_close(found, expected)


CACHING: dict[str, Callable[[], list[Any]]] = {
    "affine": lambda: [t.AffineTransform(1.0, 2.0, cache_size=1)],
    "of a parameter": lambda: [t.AffineTransform(half_of(), 2.0, cache_size=1)],
    "exponential": lambda: [t.ExpTransform(cache_size=1)],
    "composed": lambda: [
        t.ComposeTransform([t.AffineTransform(1.0, 2.0, cache_size=1), t.ExpTransform()], 1)
    ],
    "of events": lambda: [t.IndependentTransform(t.AffineTransform(1.0, 2.0, cache_size=1), 1)],
    "inverted": lambda: [t.AffineTransform(1.0, 2.0, cache_size=1).inv],
    "Pyro's": lambda: [pt.affine_autoregressive(2)],
}


def half_of() -> Tensor:
    return torch.tensor(0.5, requires_grad=True)


@pytest.mark.parametrize("name", CACHING)
@pytest.mark.parametrize("method", ["sample", "rsample", "an.sample"])
def test_the_inverse_of_a_draw_depends_on_the_draw(name: str, method: str) -> None:
    with an.record():
        parts = CACHING[name]()
        fn = d.TransformedDistribution(d.Normal(torch.zeros(2, requires_grad=True), 1.0), parts)
        y = an.sample("y", fn) if method == "an.sample" else getattr(fn, method)()
        assert "y" in an.provenance_of(fn.log_prob(y))
        assert "y" in an.provenance_of(parts[-1].inv(y))


def test_a_flow_without_an_inverse_keeps_the_noise_of_a_reparameterized_draw() -> None:
    torch.manual_seed(0)
    flow = pt.planar(2)
    fn = d.TransformedDistribution(d.Independent(d.Normal(torch.zeros(2), 1.0), 1), [flow])
    with an.record() as trace:
        y = fn.rsample()
        density = fn.log_prob(y)
        assert an.provenance_of(density) == {"y"}
    with pytest.raises(NoDensityError, match="TransformedDistribution has no log_prob"):
        trace["y"].log_prob  # noqa: B018


def test_a_constraint_of_the_user_that_keeps_its_bounds_keeps_their_sources() -> None:
    class Below(constraints.Constraint):
        def __init__(self, bound: Tensor) -> None:
            self.bound = bound
            self.twice: Tensor | None = None

        def check(self, value: Tensor) -> Tensor:
            if self.twice is None:
                self.twice = 2 * self.bound
            return value < self.twice

    class Bounded(d.Normal):
        support: Any

    with an.record() as trace:
        z = d.Bernoulli(torch.tensor(0.5, requires_grad=True)).sample()
        fn = Bounded(z, 1.0)
        fn.support = Below(z + 5)
        an.sample("x", fn, obs=torch.tensor(1.0))
        assert an.provenance_of(fn.support.twice) == {"z"}
        assert trace["x"].parents == {"z"}


def test_what_is_kept_in_a_recording_has_its_sources_after_it_and_in_the_next() -> None:
    with an.record() as trace:
        z = d.Bernoulli(torch.tensor(0.5, requires_grad=True)).sample()
        fn = d.OneHotCategorical(probabilities(z.double()))
        an.sample("x", fn, obs=SECOND)
    trace["x"].log_prob  # noqa: B018 (it is computed, and kept)
    assert an.provenance_of(fn.logits) == {"z"}
    other = d.OneHotCategorical(probabilities(z.double()))
    with an.record():
        assert an.provenance_of(other.log_prob(SECOND)) == {"z"}
        assert an.provenance_of(other.logits) == {"z"}
