"""Values: what a finite distribution can take is listed, or the listing is refused by name."""

import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from pyro.distributions import Bernoulli as PyroBernoulli
from pyro.distributions import BetaBinomial, DirichletMultinomial, ExpandedDistribution
from pyro.distributions import Categorical as PyroCategorical
from torch import Tensor
from torch import distributions as d
from torch.distributions.constraints import Constraint

import ancestral as an
from ancestral.trace.handlers import enumerate as enumeration
from ancestral.trace.handlers import infer_config

P3 = torch.tensor([0.2, 0.7, 0.4]).double()
P23 = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]).double()
WEIGHTS = torch.tensor([1.0, 0.5, -0.3]).double()
COIN = torch.tensor([0.0, 1.0]).double()


class Shifted(d.Distribution):
    """One of two values, which are others for each case of the batch."""

    has_enumerate_support = True
    arg_constraints: ClassVar[dict[str, Constraint]] = {}
    support: ClassVar[Constraint] = d.constraints.real

    def __init__(self, first: Tensor) -> None:
        self.first = first
        super().__init__(first.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Shifted":
        return Shifted(self.first.expand(batch_shape))

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return torch.stack([self.first, self.first + 1])

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.first.expand((*sample_shape, *self.first.shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.where(value == self.first, 0.3, 0.7).double().log()


class Certain(Shifted):
    """Its parameter, as it is."""

    has_rsample = True
    arg_constraints: ClassVar[dict[str, Constraint]] = {"first": d.constraints.real}

    def enumerate_support(self, expand: bool = True) -> Tensor:
        return self.first.detach()[None]

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.sample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return 0.0 * value


class Unlisted(Shifted):
    """A class whose support alone tells that its values are finitely many."""

    has_enumerate_support = False
    support: ClassVar[Constraint] = d.constraints.integer_interval(0, 3)


def product(values: Tensor, *shape: int) -> Tensor:
    """Return all that elements can be together, [K, *shape, *event], given the values of one."""
    count = int(torch.tensor(shape).prod())
    joint = [torch.stack(each) for each in itertools.product(values, repeat=count)]
    return torch.stack(joint).reshape(-1, *shape, *values.shape[1:])


def spread_out(trials: int, classes: int) -> Tensor:
    found = itertools.product(range(trials + 1), repeat=classes)
    return torch.tensor([each for each in found if sum(each) == trials]).double()


LISTED: dict[str, tuple[Callable[[], d.Distribution], Tensor]] = {
    "Bernoulli": (lambda: d.Independent(d.Bernoulli(P3), 1), product(COIN, 3)),
    "Categorical": (lambda: d.Independent(d.Categorical(P23), 1), product(torch.arange(3), 2)),
    "Binomial": (lambda: d.Independent(d.Binomial(2, P3), 1), product(torch.arange(3).double(), 3)),
    "one-hot": (
        lambda: d.Independent(d.OneHotCategorical(P23), 1),
        product(torch.eye(3).double(), 2),
    ),
    "two dimensions": (lambda: d.Independent(d.Bernoulli(P23), 2), product(COIN, 2, 3)),
    "twice": (lambda: d.Independent(d.Independent(d.Bernoulli(P23), 1), 1), product(COIN, 2, 3)),
    "counts": (lambda: d.Multinomial(3, probs=P23[0]), spread_out(3, 3)),
    "counts of one class": (lambda: d.Multinomial(3, probs=P3[:1]), spread_out(3, 1)),
    "counts of no trial": (lambda: d.Multinomial(0, logits=P3), spread_out(0, 3)),
    "several counts": (
        lambda: d.Independent(d.Multinomial(2, probs=P23), 1),
        product(spread_out(2, 3), 2),
    ),
    "of its own for each element": (
        lambda: d.Independent(Shifted(torch.tensor([0.0, 10.0]).double()), 1),
        torch.cartesian_prod(COIN, 10 + COIN),
    ),
    "no element": (lambda: d.Independent(d.Bernoulli(P3[:0]), 1), torch.zeros(1, 0).double()),
    "Pyro's Bernoulli": (lambda: PyroBernoulli(P3).to_event(1), product(COIN, 3)),
    "Pyro's Categorical": (lambda: PyroCategorical(P23).to_event(1), product(torch.arange(3), 2)),
    "masked": (lambda: PyroBernoulli(P3).mask(True).to_event(1), product(COIN, 3)),
    "expanded": (
        lambda: ExpandedDistribution(PyroBernoulli(P3[0]), [3]).to_event(1),
        product(COIN, 3),
    ),
    "mixed by Beta": (lambda: BetaBinomial(P3, P3, 1).to_event(1), product(COIN, 3)),
}


def score(value: Tensor, event: int) -> Tensor:
    """Return a number for each value of a site."""
    weights = WEIGHTS[: value.shape[-1]] if event else torch.ones(1).double()
    weighed = value.double() * weights
    return weighed.sum(tuple(range(-event, 0))) if event else weighed


@pytest.mark.parametrize("plates", [(), (2,)])
@pytest.mark.parametrize("name", LISTED)
def test_an_event_of_finite_elements_takes_all_that_they_are_together(
    name: str, plates: tuple[int, ...]
) -> None:
    make, values = LISTED[name]
    fn, event = make(), values.dim() - 1
    data = torch.tensor([0.3, -0.7]).double()[0 if not plates else slice(None)]

    def program() -> None:
        z = an.sample("z", make())
        an.observe("x", d.Normal(score(z, event), 0.7), data)

    with an.record() as trace, enumeration(first_dim=-1 - len(plates)):
        if plates:
            with an.plate("data", plates[0]):
                program()
        else:
            program()
    node = trace["z"]
    ones = (1,) * len(plates)
    for _ in plates:
        assert torch.equal(node.value[:, 0], node.value[:, 1])
    assert torch.equal(node.value[:, 0] if plates else node.value, values)
    likelihood = d.Normal(score(values, event).reshape(-1, *ones), 0.7).log_prob(data)
    each = fn.log_prob(values).reshape(-1, *ones) + likelihood
    torch.testing.assert_close(fn.log_prob(values).exp().sum(), torch.ones(()).double())
    torch.testing.assert_close(an.infer.log_marginal(trace), each.logsumexp(0).sum())
    torch.testing.assert_close(an.infer.marginals(trace)["z"], each.log_softmax(0))
    draws = an.infer.sample_posterior(trace, 4)["z"]
    assert draws.shape == (4, *plates, *fn.event_shape)
    assert all(
        any(torch.equal(draw, value) for value in values) for draw in draws.flatten(0, len(plates))
    )


def test_the_bound_of_a_guide_of_vectors_of_coins_is_exact() -> None:
    logits = torch.tensor([0.2, -0.4, 0.9]).double().requires_grad_()
    data = torch.tensor(0.3).double()

    def model() -> None:
        z = an.sample("z", d.Independent(d.Bernoulli(P3), 1))
        an.observe("x", d.Normal(score(z, 1), 0.7), data)

    with enumeration(first_dim=-1):
        bound = an.infer.elbo(
            model, lambda: an.sample("z", d.Independent(d.Bernoulli(logits=logits), 1))
        )
    values = product(COIN, 3)
    log_q = d.Bernoulli(logits=logits).log_prob(values).sum(-1)
    log_p = d.Bernoulli(P3).log_prob(values).sum(-1) + d.Normal(score(values, 1), 0.7).log_prob(
        data
    )
    expected = (log_q.exp() * (log_p - log_q)).sum()
    torch.testing.assert_close(bound.value, expected.detach())
    (gradient,) = torch.autograd.grad(bound.surrogate, logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(-expected, logits)[0])


def halves(count: int) -> Tensor:
    return torch.full((count,), 0.5)


REFUSED: dict[str, tuple[Callable[[], d.Distribution], str]] = {
    "many coins": (
        lambda: d.Independent(d.Bernoulli(halves(13)), 1),
        "has 8192 values, .*4096.*plate",
    ),
    "very many coins": (
        lambda: d.Independent(d.Bernoulli(halves(20_000)), 1),
        r"about 10\*\*6021 val",
    ),
    "many trials": (lambda: d.Multinomial(40, probs=halves(5)), "has 135751 values"),
    "coins moved": (
        lambda: d.TransformedDistribution(d.Bernoulli(P3), [d.AffineTransform(1.0, 2.0)]),
        "does not list them",
    ),
    "a mixture of coins": (
        lambda: d.MixtureSameFamily(d.Categorical(P3), d.Bernoulli(P3)),
        "does not list them",
    ),
    "a class of the user": (lambda: Unlisted(P3), "Unlisted has finitely many .*not list them"),
    "counts that differ": (
        lambda: d.Independent(d.Binomial(torch.tensor([1.0, 2.0]), halves(2)), 1),
        "cannot list its values",
    ),
    "Pyro's counts": (lambda: DirichletMultinomial(torch.ones(3), 2), "does not list them"),
    "an event masked": (lambda: PyroBernoulli(P3).to_event(1).mask(True), "does not list them"),
    "values that are learned": (
        lambda: Shifted(torch.zeros(2, requires_grad=True)),
        "values that depend on its parameters",
    ),
    "values of a draw": (
        lambda: Shifted(an.sample("mean", d.Normal(0.0, 1.0))),
        "values that depend on its parameters",
    ),
}


@pytest.mark.parametrize("infer", [{}, {"enumerate": True}])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_finite_and_not_listed_is_refused_by_name(name: str, infer: Any) -> None:
    make, pattern = REFUSED[name]
    refused = pytest.raises(an.errors.EnumerationError, match=rf"site 'z' \(.*\) .*{pattern}")
    with an.record(), enumeration(), refused:
        an.sample("z", make(), infer=infer)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_finite_and_not_listed_is_drawn_where_that_is_asked_for(name: str) -> None:
    config = infer_config(lambda _: {"enumerate": False})
    with an.record() as trace, enumeration(), config:
        an.sample("z", REFUSED[name][0]())
    assert trace["z"].is_drawn


@pytest.mark.parametrize(
    "fn",
    [
        d.Independent(d.Normal(P3, 1.0), 1),
        d.Independent(d.Poisson(P3), 1),
        d.Geometric(P3),
        d.MixtureSameFamily(d.Categorical(P3), d.Poisson(P3)),
        d.TransformedDistribution(d.Normal(P3, 1.0), []),
    ],
    ids=lambda fn: type(fn).__name__,
)
def test_what_is_infinite_is_drawn_unless_its_enumeration_is_asked_for(fn: d.Distribution) -> None:
    with an.record() as trace, enumeration():
        an.sample("z", fn)
        with pytest.raises(an.errors.EnumerationError, match="infinitely many"):
            an.sample("w", fn, infer={"enumerate": True})
    assert trace["z"].is_drawn


def test_the_limit_is_for_events_alone() -> None:
    with an.record() as trace, enumeration():
        an.sample("z", d.Categorical(torch.ones(5000)))
        an.sample("w", d.Independent(d.Bernoulli(halves(12)), 1))
    assert (len(trace["z"].value), len(trace["w"].value)) == (5000, 4096)


@pytest.mark.parametrize("shape", [(), (2,)])
def test_the_one_value_of_a_guide_that_is_its_parameter_is_learned(shape: tuple[int, ...]) -> None:
    mode = torch.full(shape, 0.4).double().requires_grad_()

    def model() -> None:
        mu = an.sample("mu", d.Normal(torch.zeros(shape).double(), 1.0))
        z = an.sample("z", d.Bernoulli(P3[0]))
        an.observe("x", d.Normal(mu + z, 1.0), torch.full(shape, 0.8).double())

    with enumeration(first_dim=-2):
        bound = an.infer.elbo(model, lambda: an.sample("mu", Certain(mode)))
    each = d.Bernoulli(P3[0]).log_prob(COIN) + d.Normal(mode[..., None] + COIN, 1.0).log_prob(
        torch.tensor(0.8).double()
    ).reshape(-1, 2).sum(0)
    expected = d.Normal(0.0, 1.0).log_prob(mode).sum() + each.logsumexp(0)
    torch.testing.assert_close(bound.value, expected.detach())
    (gradient,) = torch.autograd.grad(bound.surrogate, mode)
    torch.testing.assert_close(gradient, torch.autograd.grad(-expected, mode)[0])


def test_values_that_are_others_for_each_case_are_refused_and_the_same_are_listed() -> None:
    pattern = r"site 'n' .*Shifted lists other values for other cases"
    with an.record() as trace, enumeration(first_dim=-2):
        with pytest.raises(an.errors.EnumerationError, match=pattern):
            an.sample("n", Shifted(torch.tensor([0.0, 10.0])))
        an.sample("m", Shifted(torch.tensor([3.0, 3.0])))
    assert trace["m"].value[:, 0].tolist() == [3.0, 4.0]
