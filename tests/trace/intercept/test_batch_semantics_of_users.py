"""What classes of users compute of a batch is known by its ops alone: they may mix the examples."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributions as d
from torch.distributions.transforms import ComposeTransform

import ancestral as an
from ancestral.provenance.algebra.alignment import LOST
from ancestral.provenance.algebra.source_alignments import claimed
from ancestral.provenance.tensor.tensor import provenance

KEPT, MIXED = (0,), (LOST,)


class Flipped(d.MultivariateNormal):
    """A density that reads the examples in the opposite order."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value).flip(0)  # type: ignore[no-any-return, no-untyped-call]


class Mixing(d.Transform):
    """A transform that shifts by the mean of the batch."""

    domain = codomain = d.constraints.real
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return x + x.mean(0)

    def _inverse(self, y: Tensor) -> Tensor:
        return y - y.mean(0) / 2

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.zeros_like(x)


def normal(x: Tensor) -> Any:
    return d.MultivariateNormal(x, torch.eye(2))


def transformed(x: Tensor, *parts: d.Transform) -> Any:
    return d.TransformedDistribution(d.Normal(x, 1.0), list(parts))


VALUE = torch.arange(6.0).reshape(3, 2)
DENSITIES: dict[str, tuple[Callable[[Tensor], Any], tuple[int, ...]]] = {
    "of torch": (lambda x: normal(x).log_prob(VALUE), KEPT),
    "of a user": (lambda x: Flipped(x, torch.eye(2)).log_prob(VALUE), MIXED),
    "of a transform of a user": (
        lambda x: transformed(x, Mixing()).log_prob(VALUE).sum(-1),
        KEPT,  # of its parameters, by its ops
    ),
    "of a value and a transform of a user": (
        lambda x: transformed(VALUE, Mixing()).log_prob(x).sum(-1),
        MIXED,
    ),
    "of a composed transform of a user": (
        lambda x: transformed(VALUE, ComposeTransform([Mixing()])).log_prob(x).sum(-1),
        MIXED,
    ),
    "of a mixture of a user": (
        lambda x: d.MixtureSameFamily(
            torch.distributions.Categorical(torch.ones(3, 2)),
            Flipped(x[:, None].expand(3, 2, 2), torch.eye(2)),
        ).log_prob(VALUE),
        MIXED,
    ),
    "grouped by Independent": (
        lambda x: d.Independent(normal(x[:, None]), 1).log_prob(VALUE[:, None]),
        KEPT,
    ),
    "of samples of the batch": (lambda x: normal(x).log_prob(VALUE.expand(4, 3, 2)), (LOST, 0)),
    "of one value for all": (lambda x: normal(x).log_prob(VALUE[0]), KEPT),
    "of one distribution for all values": (lambda x: normal(VALUE[0]).log_prob(x), KEPT),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_a_density_keeps_the_batch_if_all_its_parts_are_of_torch(name: str) -> None:
    density, kept = DENSITIES[name]
    with an.record():
        found = provenance(density(an.track(torch.rand(3, 2), "x")))
    assert found is not None
    (claims,) = (claims for source, claims in claimed(found).items() if source.name == "x")
    assert [claim.dims for claim in claims] == [kept]


def test_a_draw_of_a_transform_of_a_user_depends_on_what_its_ops_say() -> None:
    with an.record() as trace:
        transformed(an.track(torch.rand(3, 2), "x"), Mixing()).sample()
    (site,) = trace.values()
    assert site.param_provenance is not None
    (claims,) = claimed(site.param_provenance).values()
    assert [claim.dims[0] for claim in claims] == [LOST]


class Own(d.MultivariateNormal):
    """A class with its own divergence."""


@pytest.fixture
def registered() -> Iterator[None]:
    """Register a divergence that mixes the batch, and take it back."""

    def mixing(p: Own, q: Own) -> Tensor:
        return (p.loc - q.loc).square().sum(-1).flip(0)

    d.register_kl(Own, Own)(mixing)
    yield
    del d.kl._KL_REGISTRY[Own, Own]
    d.kl._KL_MEMOIZE.clear()


@pytest.mark.usefixtures("registered")
def test_a_divergence_of_a_user_is_known_by_its_ops() -> None:
    x = torch.rand(3, 2)
    with an.record():
        z = an.track(x, "z")
        mixed = d.kl_divergence(Own(z, torch.eye(2)), Own(x, torch.eye(2)))
        kept = d.kl_divergence(normal(z), normal(x))
    found = [provenance(mixed), provenance(kept)]
    assert [p.entries[0][0].dims for p in found if p is not None] == [MIXED, KEPT]


def test_after_a_recording_torch_finds_its_own_divergences() -> None:
    with an.record():
        d.kl_divergence(normal(VALUE), normal(VALUE))
        assert d.kl._KL_MEMOIZE
    assert not d.kl._KL_MEMOIZE
    d.kl_divergence(normal(VALUE), normal(VALUE))
    (function,) = d.kl._KL_MEMOIZE.values()
    assert not hasattr(function, "__wrapped__")


def test_a_density_that_keeps_the_batch_is_one_cost() -> None:
    """What it is computed from knows less than the whole, and does not stand for it."""
    logits = torch.zeros(3, 2, requires_grad=True)
    with an.record():
        z = torch.distributions.Bernoulli(logits=logits).sample()
        loss = -normal(z).log_prob(VALUE).sum()
    an.backward(loss, baseline=None)
    cost = -normal(an.untrack(z)).log_prob(VALUE)
    score = an.untrack(z) - 0.5
    torch.testing.assert_close(logits.grad, score * cost[:, None])


def test_a_distribution_that_holds_itself_is_looked_through_once() -> None:
    fn: Any = normal(VALUE)
    fn.own = fn
    with an.record():
        found = provenance(fn.log_prob(an.track(VALUE * 2, "x")))
    assert found is not None
    assert isinstance(fn, d.Distribution)
    assert [alignment.dims for alignment, _ in found.entries] == [KEPT]


class OneHot(d.Categorical):
    """Classes as rows of zeros and a one, of which `event_shape` does not tell."""

    def sample(self, sample_shape: Any = ()) -> Tensor:
        drawn = super().sample(torch.Size(sample_shape))  # type: ignore[no-untyped-call]
        return torch.nn.functional.one_hot(drawn, self._num_events).to(self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value.argmax(-1))  # type: ignore[no-any-return, no-untyped-call]


@pytest.mark.parametrize("batch", [(4, 3), (3, 3)], ids=str)
@pytest.mark.parametrize("sample", [(), (2,), (3,)], ids=str)
def test_a_dimension_that_the_density_has_not_is_an_event(
    sample: tuple[int, ...], batch: tuple[int, int]
) -> None:
    logits = torch.randn(batch, dtype=torch.float64, requires_grad=True)
    prices = torch.rand(batch[1], dtype=torch.float64)
    with an.record() as trace:
        z = OneHot(logits=logits).sample(sample)
        costs = ((z * prices).sum(-1) - 0.3).exp()
        loss = costs.sum()
    assert trace["z"].shape == (*sample, batch[0])
    assert {(line.dim, line.is_separate) for line in trace.explain(loss).lines} <= {
        (0, True),
        (1, True),
    }
    (found,) = torch.autograd.grad(an.surrogate(loss, baseline=None), [logits])
    score = OneHot(logits=logits).log_prob(an.untrack(z)) * an.untrack(costs).detach()
    torch.testing.assert_close(found, torch.autograd.grad(score.sum(), [logits])[0])


def test_asking_for_the_shape_of_a_density_changes_no_draw() -> None:
    class Noisy(OneHot):
        def log_prob(self, value: Tensor) -> Tensor:
            return super().log_prob(value) + torch.rand(()) * 0

    logits = torch.zeros(4, 3)
    torch.manual_seed(0)
    plain = Noisy(logits=logits).sample(), torch.rand(2)
    torch.manual_seed(0)
    with an.record() as trace:
        drawn = Noisy(logits=logits).sample(), torch.rand(2)
    assert all(map(torch.equal, plain, map(an.untrack, drawn)))
    assert not trace.escapes


class Counts(d.NegativeBinomial):
    """A class of the user that draws as torch does."""


@pytest.mark.parametrize("name", ["counts", "rows"])
def test_the_draws_within_a_class_of_a_user_keep_the_batch(name: str) -> None:
    with an.record() as trace:
        z = d.Bernoulli(logits=torch.zeros(3, 2)).sample() * 0.5
        fn = Counts(2.0, logits=z) if name == "counts" else OneHot(logits=z)
        y = fn.sample()
        assert an.provenance_of(y) == {"y"}
    found = trace["y"].param_provenance
    assert found is not None
    assert [claim.dims for claim, _ in found.entries] == [(0, 1) if name == "counts" else (0,)]
