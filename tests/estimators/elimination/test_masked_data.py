"""Masked data in estimates: what is hidden counts in none, whatever it holds.

The oracle is the same program over the elements that count alone.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    MultivariateNormal,
    Normal,
    Poisson,
    Uniform,
    constraints,
)

import ancestral as an
from ancestral.trace import handlers as h
from oracles import exact_gradient, flat, moments

nan, inf = torch.nan, torch.inf
DATA = torch.tensor([1.0, nan, 2.0, inf, -0.5, 1e300, -inf], dtype=torch.float64)
KEEP = torch.tensor([True, False, True, False, True, False, False])


def leaves() -> tuple[Tensor, Tensor]:
    loc = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    return loc, torch.tensor(1.2, dtype=torch.float64, requires_grad=True)


def in_a_plate(fn: Distribution, data: Tensor, keep: Tensor) -> None:
    with an.plate("n", len(data)), h.mask(keep):
        an.sample("x", fn, obs=data)


def in_nested_masks(fn: Distribution, data: Tensor, keep: Tensor) -> None:
    half = torch.arange(len(data)) % 2 == 0
    with an.plate("n", len(data)), h.mask(keep | half), h.mask(keep | ~half):
        an.observe("x", fn, data)


def conditioned(fn: Distribution, data: Tensor, keep: Tensor) -> None:
    with h.condition({"x": data}), an.plate("n", len(data)), h.mask(keep):
        an.sample("x", fn)


def substituted(fn: Distribution, data: Tensor, keep: Tensor) -> None:
    with h.substitute({"x": data}), an.plate("n", len(data)), h.mask(keep):
        an.sample("x", fn)


def replayed(fn: Distribution, data: Tensor, keep: Tensor) -> None:
    with h.block(), an.record() as source, h.substitute({"x": data}):
        an.sample("x", Normal(torch.zeros(len(data)), 1.0, validate_args=False))
    with h.replay(source), an.plate("n", len(data)), h.mask(keep):
        an.sample("x", fn)


def partly_observed(fn: Distribution, data: Tensor, keep: Tensor) -> None:
    with an.plate("n", len(data)), h.mask(keep):
        an.sample("x", fn, obs=data, obs_mask=keep)


WAYS = [in_a_plate, in_nested_masks, conditioned, substituted, replayed, partly_observed]
Way = Callable[[Distribution, Tensor, Tensor], None]


@pytest.mark.parametrize("is_checked", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_value_gradient_and_second_derivatives_are_those_of_what_counts(
    way: Way, is_checked: bool
) -> None:
    loc, scale = leaves()
    with an.record() as trace:
        way(Normal(loc, scale, validate_args=is_checked), DATA, KEEP)
    found = trace.log_prob_sum()
    truth = Normal(loc, scale).log_prob(DATA[KEEP]).sum()
    torch.testing.assert_close(found, truth)
    for value in (found, truth):
        first = torch.autograd.grad(value, (loc, scale), create_graph=True)
        second = torch.autograd.grad(first[0] + first[1] ** 2, (loc, scale))
        if value is found:
            ours = [*first, *second]
        else:
            torch.testing.assert_close(ours, [*first, *second])


@pytest.mark.parametrize("way", [in_a_plate, in_nested_masks, conditioned])
def test_the_gradient_of_a_trace_and_the_evidence_of_a_latent_site(way: Way) -> None:
    loc, scale = leaves()
    with an.record() as trace:
        way(Normal(loc, scale), DATA, KEEP)
    trace.backward()
    truth = -Normal(loc, scale).log_prob(DATA[KEEP]).sum()
    expected = torch.autograd.grad(truth, (loc, scale))
    torch.testing.assert_close((loc.grad, scale.grad), expected)

    logits = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    with an.record() as trace, h.enumerate(first_dim=-2):
        z = an.sample("z", Bernoulli(logits=logits))
        way(Normal(z + loc, scale), DATA, KEEP)
    each = torch.stack([Normal(k + loc, scale).log_prob(DATA[KEEP]).sum() for k in (0.0, 1.0)])
    prior = Bernoulli(logits=logits).log_prob(torch.tensor([0.0, 1.0], dtype=torch.float64))
    evidence = (prior + each).logsumexp(0)
    found = an.infer.log_marginal(trace)
    torch.testing.assert_close(found, evidence)
    params = (loc, scale, logits)
    torch.testing.assert_close(
        torch.autograd.grad(found, params, retain_graph=True), torch.autograd.grad(evidence, params)
    )
    posterior = an.infer.marginals(trace)["z"]
    torch.testing.assert_close(posterior, (prior + each - evidence), check_dtype=False)


@pytest.mark.parametrize("options", [{}, {"particles": 3}, {"particles": 3, "vectorized": True}])
def test_the_bound_of_a_model_and_a_guide(options: dict[str, Any]) -> None:
    loc, scale = leaves()
    if "vectorized" in options:
        options = {**options, "max_plate_nesting": 1}

    def run(data: Tensor, keep: Tensor) -> tuple[Tensor, ...]:
        def model() -> None:
            z = an.sample("z", Normal(loc, 1.0))
            in_a_plate(Normal(z, scale), data, keep)

        def guide() -> None:
            an.sample("z", Normal(loc, scale))

        torch.manual_seed(0)
        found = an.infer.elbo(model, guide, **options)
        return found.value, *torch.autograd.grad(found.surrogate, (loc, scale))

    alone = run(DATA[KEEP], torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(run(DATA, KEEP), alone)


@pytest.mark.parametrize("has_guide", [False, True])
def test_the_weights_of_importance_sampling(has_guide: bool) -> None:
    def run(data: Tensor, keep: Tensor) -> Tensor:
        def model() -> None:
            z = an.sample("z", Normal(torch.zeros((), dtype=torch.float64), 1.0))
            in_a_plate(Normal(z, 1.0), data, keep)

        def guide() -> None:
            an.sample("z", Normal(torch.ones((), dtype=torch.float64), 2.0))

        torch.manual_seed(0)
        return an.infer.importance(model, guide if has_guide else None, samples=4).log_weights

    torch.testing.assert_close(run(DATA, KEEP), run(DATA[KEEP], KEEP[KEEP]))


def test_a_mask_that_depends_on_an_enumerated_site_hides_for_its_values() -> None:
    loc, scale = leaves()
    with an.record() as trace, h.enumerate(first_dim=-2):
        z = an.sample("z", Bernoulli(torch.tensor(0.25, dtype=torch.float64)))
        with an.plate("n", len(DATA)), h.mask(KEEP & (z > 0)):
            an.sample("x", Normal(loc, scale), obs=DATA)
    truth = Normal(loc, scale).log_prob(DATA[KEEP]).sum()
    evidence = (0.75 + 0.25 * truth.exp()).log()
    found = an.infer.log_marginal(trace)
    torch.testing.assert_close(found, evidence)
    torch.testing.assert_close(
        torch.autograd.grad(found, (loc, scale)), torch.autograd.grad(evidence, (loc, scale))
    )


@pytest.mark.parametrize("way", [in_a_plate, conditioned, substituted])
def test_hidden_data_alone_counts_nothing(way: Way) -> None:
    loc, scale = leaves()
    with an.record() as trace:
        way(Normal(loc, scale), DATA[~KEEP], KEEP[~KEEP])
    found = trace.log_prob_sum()
    assert found == 0
    assert all(each == 0 for each in torch.autograd.grad(found, (loc, scale)))


def of_rows() -> tuple[Callable[..., Distribution], Tensor, tuple[Tensor, ...]]:
    data = torch.randn(4, 2, dtype=torch.float64)
    data[1], data[2, 0] = nan, inf
    loc = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    tril = torch.eye(2, dtype=torch.float64, requires_grad=True)
    return lambda loc, tril: MultivariateNormal(loc, scale_tril=tril), data, (loc, tril)


def of_groups() -> tuple[Callable[..., Distribution], Tensor, tuple[Tensor, ...]]:
    data = torch.randn(4, 2, dtype=torch.float64)
    data[0, 1] = nan
    return (
        lambda loc: Independent(Normal(loc, 1.0), 1),
        data,
        (data.nan_to_num(1).requires_grad_(),),
    )


def of_padding() -> tuple[Callable[..., Distribution], Tensor, tuple[Tensor, ...]]:
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    return lambda logits: Categorical(logits=logits), torch.tensor([0, -1, 2, -1]), (logits,)


def of_counts() -> tuple[Callable[..., Distribution], Tensor, tuple[Tensor, ...]]:
    rate = torch.tensor([1.0, 0.0, 2.0, 0.0], dtype=torch.float64, requires_grad=True)
    return Poisson, torch.tensor([2.0, -1.0, 0.0, -1.0]), (rate,)


def of_bounds() -> tuple[Callable[..., Distribution], Tensor, tuple[Tensor, ...]]:
    high = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64, requires_grad=True)
    return lambda high: Uniform(0.0, high), torch.tensor([nan, 1.9, nan, 3.5]), (high,)


class Decay(Distribution):
    """A user's class with its own support and a check of it."""

    arg_constraints = {"rate": constraints.real}  # noqa: RUF012
    support = constraints.positive

    def __init__(self, rate: Tensor) -> None:
        self.rate = rate
        super().__init__(rate.shape, validate_args=False)
        self._validate_args = True  # of values alone

    def log_prob(self, value: Tensor) -> Tensor:
        self._validate_sample(value)
        return -self.rate * value.log() ** 2

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Decay":
        return Decay(self.rate.expand(batch_shape))


def of_a_user() -> tuple[Callable[..., Distribution], Tensor, tuple[Tensor, ...]]:
    rate = torch.tensor([1.0, nan, 2.0, inf], dtype=torch.float64, requires_grad=True)
    return Decay, torch.tensor([0.5, nan, 3.0, -1.0], dtype=torch.float64), (rate,)


@pytest.mark.parametrize("case", [of_rows, of_groups, of_padding, of_counts, of_bounds, of_a_user])
def test_events_padding_bounds_and_classes_of_users(
    case: Callable[[], tuple[Callable[..., Distribution], Tensor, tuple[Tensor, ...]]],
) -> None:
    make, data, params = case()
    keep = data.isfinite() & ((data >= 0) | (case in (of_rows, of_groups)))
    keep = keep.flatten(1).all(1) if data.dim() > 1 else keep
    with an.record() as trace:
        in_a_plate(make(*params), data, keep)
    found = trace["x"].log_prob
    alone = tuple(p[keep] if len(p) == len(data) else p for p in params)
    truth = make(*alone).log_prob(data[keep])
    torch.testing.assert_close(found[keep], truth)
    assert (found[~keep] == 0).all()
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), params), torch.autograd.grad(truth.sum(), params)
    )


def test_what_is_hidden_is_told_where_nothing_is_masked() -> None:
    """A possible value has its density, as before; of an impossible one nothing is known."""
    with an.record() as trace, h.mask(torch.tensor([True, False, False])):
        an.sample("x", Normal(torch.zeros(3), 1.0), obs=torch.tensor([0.0, 1.0, nan]))
    found = trace["x"].unscaled_log_prob
    truth = Normal(0.0, 1.0).log_prob(torch.tensor([0.0, 1.0, nan])[:2])
    torch.testing.assert_close(found[:2], truth)
    assert found[2].isnan()


def test_a_score_at_a_masked_draw_is_that_of_the_draw() -> None:
    """It was drawn, and what depends on it is a cost: only its own density is none."""
    logits = torch.tensor([0.3, -0.4], dtype=torch.float64, requires_grad=True)

    def program(logits: Tensor) -> Tensor:
        with h.mask(torch.tensor([True, False])):
            z = an.sample("z", Bernoulli(logits=logits))
        return ((z - 0.2) ** 2 * torch.tensor([1.0, 2.0], dtype=torch.float64)).sum()

    def estimate(program: Any, parameters: Any) -> Tensor:
        with an.record():
            loss = program(*parameters)
        return flat(torch.autograd.grad(an.surrogate(loss), tuple(parameters)))

    torch.testing.assert_close(
        moments(program, [logits], estimate).mean, exact_gradient(program, [logits])
    )
