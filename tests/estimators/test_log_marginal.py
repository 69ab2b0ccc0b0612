"""The log-marginal and the posterior, against all joint values and the field's own recursions."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-untyped-call"

import itertools
import math
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal

import ancestral as an
from ancestral.trace.handlers import (
    condition,
    markov,
    replay,
    scale,
    substitute,
)
from ancestral.trace.handlers import enumerate as enumeration
from ancestral.trace.handlers import mask as masked

torch.manual_seed(0)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


# Random programs, against the sum over all joint values written as loops of Python.


@dataclass(frozen=True)
class Site:
    """A categorical site: its parents' numbers, the plates it is in, what is said of it."""

    size: int
    parents: tuple[int, ...]
    plates: tuple[int, ...]
    is_observed: bool
    is_masked: bool


PLATES = {0: (2, 4), 1: (2, 2)}  # (repetitions that are there, of how many), by number


@st.composite
def programs(draw: st.DrawFn) -> tuple[Site, ...]:
    """Draw a program whose plates nest, and whose sites depend on none of a deeper plate."""
    sites: list[Site] = []
    latent = 0
    for _ in range(draw(st.integers(1, 5))):
        plates = draw(st.sampled_from([(), (0,), (0, 1)]))
        allowed = [i for i, site in enumerate(sites) if set(site.plates) <= set(plates)]
        parents = (
            draw(st.lists(st.sampled_from(allowed), max_size=2, unique=True)) if allowed else []
        )
        elements = math.prod(PLATES[p][0] for p in plates)
        is_observed = draw(st.booleans()) or latent + elements > 7
        latent += 0 if is_observed else elements
        size = draw(st.integers(2, 3)) if is_observed else 2
        is_masked = is_observed and draw(st.booleans())
        sites.append(Site(size, tuple(parents), plates, is_observed, is_masked))
    return tuple(sites)


def table(sites: tuple[Site, ...], number: int) -> Tensor:
    """Return the probabilities of a site by the values of its parents: [*parents, size]."""
    shape = [sites[p].size for p in sites[number].parents] + [sites[number].size]
    weights = torch.rand(shape, generator=torch.Generator().manual_seed(number)).double()
    return weights / weights.sum(-1, keepdim=True)


def repetitions(site: Site) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(PLATES[p][0]) for p in site.plates)))


def shape_of(site: Site) -> tuple[int, ...]:
    """Return the shape of a site's batch: plate 0 is dimension -1, plate 1 is dimension -2."""
    return tuple(PLATES[p][0] for p in reversed(site.plates))


def data(number: int, site: Site) -> Tensor:
    seeded = torch.Generator().manual_seed(100 + number)
    return torch.randint(site.size, shape_of(site), generator=seeded)


def mask_of(number: int, site: Site) -> Tensor:
    seeded = torch.Generator().manual_seed(200 + number)
    return torch.rand(shape_of(site), generator=seeded) < 0.5


def run(sites: tuple[Site, ...]) -> an.Trace:
    with an.record() as trace, enumeration(first_dim=-3):
        plates = {
            p: an.plate(f"plate{p}", size, subsample_size=part, dim=-1 - p)
            for p, (part, size) in PLATES.items()
        }
        values: list[Tensor] = []
        for number, site in enumerate(sites):
            with ExitStack() as around:
                for p in site.plates:
                    around.enter_context(plates[p])
                if site.is_masked:
                    around.enter_context(masked(mask_of(number, site)))
                fn = Categorical(table(sites, number)[tuple(values[p] for p in site.parents)])
                obs = data(number, site) if site.is_observed else None
                values.append(an.sample(f"s{number}", fn, obs=obs))
    return trace


def brute_force(sites: tuple[Site, ...]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the log-marginal and the posteriors, with no scales: the sum over joint values."""
    latent = [(n, at) for n, s in enumerate(sites) if not s.is_observed for at in repetitions(s)]
    total = torch.zeros(()).double()
    posterior = {
        f"s{n}": torch.zeros(s.size, *shape_of(s)).double()
        for n, s in enumerate(sites)
        if not s.is_observed
    }
    for joint in itertools.product(*(range(sites[n].size) for n, _ in latent)):
        value = dict(zip(latent, joint, strict=True))
        for n, s in enumerate(sites):
            if s.is_observed:
                value |= {(n, at): int(data(n, s)[at[::-1]]) for at in repetitions(s)}
        weight = torch.ones(()).double()
        for n, s in enumerate(sites):
            for at in repetitions(s):
                if s.is_masked and not mask_of(n, s)[at[::-1]]:
                    continue
                index = [value[p, at[: len(sites[p].plates)]] for p in s.parents]
                weight = weight * table(sites, n)[(*index, value[n, at])]
        total = total + weight
        for n, at in latent:
            posterior[f"s{n}"][(value[n, at], *at[::-1])] += weight
    return total.log(), {name: (weights / total).log() for name, weights in posterior.items()}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(programs())
def test_random_programs_have_the_marginal_and_the_posteriors_of_brute_force(
    sites: tuple[Site, ...],
) -> None:
    before = dict(PLATES)
    try:
        PLATES.update({p: (part, part) for p, (part, _) in before.items()})
        trace = run(sites)
        expected, posteriors = brute_force(sites)
        close(an.log_marginal(trace).double(), expected)
        found = an.marginals(trace)
        assert found.keys() == posteriors.keys()
        for name, posterior in posteriors.items():
            close(found[name], posterior)
    finally:
        PLATES.update(before)


def recursive(sites: tuple[Site, ...], plates: tuple[int, ...], value: dict[object, int]) -> Tensor:
    """Return the log-marginal with scales: what is within each repetition, counted as it does."""
    here = [n for n, s in enumerate(sites) if s.plates == plates]
    deeper = next((p for p in PLATES if p not in plates), None)
    at = tuple(value[p] for p in plates)
    free = [n for n in here if not sites[n].is_observed]
    logs: list[Tensor] = []
    for joint in itertools.product(*(range(sites[n].size) for n in free)):
        known = value | {("s", n): k for n, k in zip(free, joint, strict=True)}
        known |= {("s", n): int(data(n, sites[n])[at[::-1]]) for n in here if n not in free}
        log = torch.zeros(()).double()
        for n in here:
            if not sites[n].is_masked or mask_of(n, sites[n])[at[::-1]]:
                index = (*(known["s", p] for p in sites[n].parents), known["s", n])
                log = log + table(sites, n)[index].log()
        if deeper is not None:
            part, size = PLATES[deeper]
            for i in range(part):
                inner = recursive(sites, (*plates, deeper), known | {deeper: i})
                log = log + inner * size / part
        logs.append(log)
    return torch.stack(logs).logsumexp(0)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(programs())
def test_each_repetition_of_a_subsample_counts_as_often_as_it_stands_for(
    sites: tuple[Site, ...],
) -> None:
    close(an.log_marginal(run(sites)).double(), recursive(sites, (), {}))


# The hidden Markov model, against the forward and the backward recursion.

LENGTH, STATES = 50, 8


def hmm(
    start: Tensor, move: Tensor, emit: Tensor, data: Tensor, seen: Tensor | None = None
) -> Tensor:
    z = torch.zeros(())
    for t in markov(range(len(data))):
        with masked(True if seen is None else seen[t]):
            z = an.sample(f"z{t}", Categorical(logits=move[z] if t else start))
            an.observe(f"x{t}", Categorical(logits=emit[z]), data[t])
    return z


def hmm_parameters() -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    shapes = ((STATES,), (STATES, STATES), (STATES, 5))
    return tuple(torch.randn(s, generator=g).double().requires_grad_() for s in shapes)  # type: ignore[return-value]


def observations(length: int) -> Tensor:
    return torch.randint(5, (length,), generator=torch.Generator().manual_seed(4))


def forward(start: Tensor, move: Tensor, emit: Tensor, data: Tensor) -> list[Tensor]:
    """Return log p(z_t, x_0 ... x_t) for all t."""
    emission = emit.log_softmax(-1)[:, data]
    alpha = [start.log_softmax(-1) + emission[:, 0]]
    for t in range(1, len(data)):
        step = (alpha[-1][:, None] + move.log_softmax(-1)).logsumexp(0)
        alpha.append(step + emission[:, t])
    return alpha


def backward(move: Tensor, emit: Tensor, data: Tensor) -> list[Tensor]:
    """Return log p(x_t+1 ... | z_t) for all t."""
    emission = emit.log_softmax(-1)[:, data]
    beta = [torch.zeros(STATES).double()]
    for t in reversed(range(1, len(data))):
        beta.append((move.log_softmax(-1) + emission[:, t] + beta[-1]).logsumexp(1))
    return beta[::-1]


def test_a_hidden_markov_model_has_the_marginal_of_the_forward_recursion() -> None:
    parameters, data = hmm_parameters(), observations(LENGTH)
    with an.record() as trace, enumeration(first_dim=-1):
        hmm(*parameters, data)
    found = an.log_marginal(trace)
    expected = forward(*parameters, data)[-1].logsumexp(0)
    close(found, expected)
    gradients = torch.autograd.grad(found, parameters)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
        close(ours, theirs)


def test_a_hidden_markov_model_has_the_posteriors_of_forward_and_backward() -> None:
    parameters, data = hmm_parameters(), observations(LENGTH)
    with an.record() as trace, enumeration(first_dim=-1):
        hmm(*parameters, data)
    found = an.marginals(trace)
    before, after = forward(*parameters, data), backward(*parameters[1:], data)
    for t in range(LENGTH):
        close(found[f"z{t}"], (before[t] + after[t]).log_softmax(0))


def test_posteriors_are_differentiable() -> None:
    parameters, data = hmm_parameters(), observations(6)
    with an.record() as trace, enumeration(first_dim=-1):
        hmm(*parameters, data)
    before, after = forward(*parameters, data), backward(*parameters[1:], data)
    expected = torch.autograd.grad((before[2] + after[2]).log_softmax(0)[1], parameters)
    found = torch.autograd.grad(an.marginals(trace)["z2"][1], parameters)
    for ours, theirs in zip(found, expected, strict=True):
        close(ours, theirs)


def test_a_long_chain_costs_as_much_as_its_length() -> None:
    parameters, data = hmm_parameters(), observations(200)
    with an.record() as trace, enumeration(first_dim=-1):
        hmm(*parameters, data)
    assert max(trace[f"z{t}"].log_prob.numel() for t in range(200)) == STATES**2
    close(an.log_marginal(trace), forward(*parameters, data)[-1].logsumexp(0))


def test_masked_steps_at_the_end_leave_the_marginal_of_those_before() -> None:
    parameters, data = hmm_parameters(), observations(9)
    with an.record() as trace, enumeration(first_dim=-1):
        hmm(*parameters, data, seen=torch.arange(9) < 6)
    close(an.log_marginal(trace), forward(*parameters, data[:6])[-1].logsumexp(0))


def test_sequences_of_a_plate_are_summed_out_one_by_one() -> None:
    parameters = hmm_parameters()
    rows = observations(28).reshape(4, 7)
    with an.record() as trace, enumeration(first_dim=-2), an.plate("sequences", 4):
        hmm(*parameters, rows.T)
    expected = torch.stack([forward(*parameters, row)[-1].logsumexp(0) for row in rows]).sum()
    close(an.log_marginal(trace), expected)


# Mixtures, against the closed form.

WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
MEANS = torch.tensor([-2.0, 0.0, 3.0]).double()
POINTS = torch.tensor([-1.5, 0.1, 2.0, 4.0]).double()


def mixture(points: Tensor) -> None:
    with an.plate("points", len(points)):
        z = an.sample("z", Categorical(WEIGHTS))
        an.sample("x", Normal(MEANS[z], 1.0), obs=points)


def joint() -> Tensor:
    """Return log p(z = k, x_n): [K, N]."""
    density: Tensor = Normal(MEANS[:, None], 1.0).log_prob(POINTS)
    return WEIGHTS.log()[:, None] + density


def test_a_mixture_has_the_marginal_and_the_posterior_of_the_closed_form() -> None:
    with an.record() as trace, enumeration():
        mixture(POINTS)
    close(an.log_marginal(trace), joint().logsumexp(0).sum())
    close(an.marginals(trace)["z"], joint().log_softmax(0))


def test_a_mixture_in_turn_is_the_same_as_one_in_a_batch() -> None:
    with an.record() as trace, enumeration():
        for n in an.plate("points", 4):
            z = an.sample(f"z{n}", Categorical(WEIGHTS))
            an.observe(f"x{n}", Normal(MEANS[z], 1.0), POINTS[n])
    close(an.log_marginal(trace), joint().logsumexp(0).sum())


def test_a_subsample_in_turn_counts_as_often_as_it_stands_for() -> None:
    with an.record() as trace, enumeration():
        shared = an.sample("shared", Bernoulli(torch.tensor(0.3).double()))
        for n in an.plate("points", 8, subsample_size=2):
            z = an.sample(f"z{n}", Categorical(WEIGHTS))
            an.observe(f"x{n}", Normal(MEANS[z] + shared, 1.0), POINTS[n % 4])
    turns = [n % 4 for n in an.untrack(trace["points"].value).tolist()]
    logs = [
        math.log(p)
        + 4
        * (WEIGHTS.log()[:, None] + Normal(MEANS[:, None] + s, 1.0).log_prob(POINTS[turns]))
        .logsumexp(0)
        .sum()
        for s, p in ((0, 0.7), (1, 0.3))
    ]
    torch.testing.assert_close(an.log_marginal(trace), torch.stack(logs).logsumexp(0))


def test_partly_observed_sites_have_the_marginal_of_what_is_observed() -> None:
    seen = torch.tensor([True, False, True, False])
    values = torch.tensor([0, 0, 2, 0])
    with an.record() as trace, enumeration(), an.plate("points", 4):
        z = an.sample("z", Categorical(WEIGHTS), values, obs_mask=seen)
        an.observe("x", Normal(MEANS[z], 1.0), POINTS)
    known = joint()[values, torch.arange(4)]
    close(an.log_marginal(trace), torch.where(seen, known, joint().logsumexp(0)).sum())


# Composition with the other handlers.


def test_a_site_that_is_conditioned_counts_at_its_value() -> None:
    values = torch.tensor([0, 1, 2, 2])
    with an.record() as trace, enumeration(), condition({"z": values}):
        mixture(POINTS)
    close(an.log_marginal(trace), joint()[values, torch.arange(4)].sum())
    assert an.marginals(trace) == {}


def test_a_latent_site_that_is_given_counts_at_its_value() -> None:
    with an.record() as trace, enumeration(), substitute({"mu": torch.tensor(0.5).double()}):
        mu = an.sample("mu", Normal(torch.zeros(()).double(), 1.0))
        z = an.sample("z", Bernoulli(torch.tensor(0.3).double()))
        an.observe("x", Normal(mu + z, 1.0), torch.tensor(1.0).double())
    own = Normal(0.0, 1.0).log_prob(torch.tensor(0.5).double())
    logs = [
        math.log(p) + Normal(0.5 + z, 1.0).log_prob(torch.tensor(1.0))
        for z, p in ((0, 0.7), (1, 0.3))
    ]
    torch.testing.assert_close(
        an.log_marginal(trace), own + torch.stack(logs).logsumexp(0).double(), rtol=1e-6, atol=0
    )


def test_a_latent_site_replayed_from_a_guide_counts_at_its_value() -> None:
    with an.record() as guide:
        an.sample("y", Normal(torch.zeros(3).double(), 1.0))

    def model() -> None:
        z = an.sample("z", Categorical(WEIGHTS))
        with an.plate("points", 3):
            an.sample("y", Normal(MEANS[z], 1.0))

    with an.record() as trace, replay(guide), enumeration():
        model()
    value = guide["y"].value
    logs = WEIGHTS.log() + Normal(MEANS[:, None], 1.0).log_prob(value).sum(-1)
    close(an.log_marginal(trace), logs.logsumexp(0))


def test_what_scales_a_whole_program_scales_its_marginal() -> None:
    with an.record() as trace, enumeration(), scale(0.25):
        mixture(POINTS)
    close(an.log_marginal(trace), 0.25 * joint().logsumexp(0).sum())
    close(an.marginals(trace)["z"], joint().log_softmax(0))


def test_a_scale_for_each_repetition_scales_what_is_left_of_it() -> None:
    weights = torch.tensor([0.5, 1.0, 2.0, 3.0]).double()
    with an.record() as trace, enumeration(), scale(weights):
        mixture(POINTS)
    close(an.log_marginal(trace), (weights * joint().logsumexp(0)).sum())


def test_what_scales_the_data_alone_tempers_it() -> None:
    with an.record() as trace, enumeration(), an.plate("points", 4):
        z = an.sample("z", Categorical(WEIGHTS))
        with scale(0.5):
            an.observe("x", Normal(MEANS[z], 1.0), POINTS)
    tempered = WEIGHTS.log()[:, None] + 0.5 * Normal(MEANS[:, None], 1.0).log_prob(POINTS)
    close(an.log_marginal(trace), tempered.logsumexp(0).sum())


def test_a_mask_over_data_leaves_the_rest() -> None:
    seen = torch.tensor([True, False, True, True])
    with an.record() as trace, enumeration(), masked(seen):
        mixture(POINTS)
    close(an.log_marginal(trace), joint().logsumexp(0)[seen].sum())


def test_a_mask_that_depends_on_an_enumerated_site_is_followed() -> None:
    with an.record() as trace, enumeration():
        z = an.sample("z", Bernoulli(torch.tensor(0.3).double()))
        with masked(z > 0):
            an.observe("x", Normal(torch.zeros(()).double(), 1.0), torch.tensor(1.0).double())
    density = Normal(0.0, 1.0).log_prob(torch.tensor(1.0)).double().exp()
    torch.testing.assert_close(an.log_marginal(trace), (0.7 + 0.3 * density).log())


def test_a_factor_of_enumerated_sites_counts() -> None:
    with an.record() as trace, enumeration():
        z = an.sample("z", Categorical(WEIGHTS))
        an.factor("f", MEANS[z])
    close(an.log_marginal(trace), (WEIGHTS.log() + MEANS).logsumexp(0))


def test_without_enumerated_sites_it_is_the_sum_of_the_log_probabilities() -> None:
    with an.record() as trace, enumeration():
        an.observe("x", Normal(0.0, 1.0), torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(an.log_marginal(trace), trace.log_prob_sum())


# Probabilities of zero.


def test_a_value_of_probability_zero_takes_no_part_and_has_no_gradient() -> None:
    free = torch.tensor([0.3, -0.2]).double().requires_grad_()
    logits = torch.cat([free, torch.tensor([-torch.inf]).double()])
    with an.record() as trace, enumeration():
        z = an.sample("z", Categorical(logits=logits))
        an.observe("x", Normal(MEANS[z], 1.0), torch.tensor(0.4).double())
    density = Normal(MEANS[:2], 1.0).log_prob(torch.tensor(0.4).double())
    expected = (free.log_softmax(0) + density).logsumexp(0)
    close(an.log_marginal(trace), expected)
    ours, theirs = (
        torch.autograd.grad(total, free, retain_graph=True)[0]
        for total in (an.log_marginal(trace), expected)
    )
    close(ours, theirs)
    assert an.marginals(trace)["z"][2] == -torch.inf


def test_data_of_probability_zero_has_the_log_marginal_of_zero_and_no_posterior() -> None:
    with an.record() as trace, enumeration():
        an.sample("z", Categorical(WEIGHTS))
        an.factor("f", torch.tensor(-torch.inf).double())
    assert an.log_marginal(trace) == -torch.inf
    with pytest.raises(an.EnumerationError, match="site 'z' has no posterior"):
        an.marginals(trace)


def test_no_weight_underflows() -> None:
    with an.record() as trace, enumeration():
        z = an.sample("z", Categorical(torch.tensor([0.5, 0.5]).double()))
        an.factor("f", torch.tensor([0.0, -2000.0]).double()[z])
        an.factor("g", torch.tensor([-3000.0, 0.0]).double()[z])
    close(an.log_marginal(trace), torch.tensor(-2000 + math.log(0.5), dtype=torch.float64))


# What is drawn beside what is enumerated keeps its score.


def test_the_marginal_depends_on_what_is_drawn_and_on_nothing_that_is_summed_out() -> None:
    logits = torch.zeros(4, requires_grad=True)
    with an.record() as trace, enumeration(), an.plate("points", 4):
        drawn = an.sample("w", Bernoulli(logits=logits), infer={"enumerate": False})
        z = an.sample("z", Categorical(WEIGHTS))
        an.observe("x", Normal(MEANS[z] + drawn, 1.0), POINTS)
    assert an.provenance_of(an.log_marginal(trace)) == {"w"}


def test_a_score_is_weighed_by_the_marginal_of_its_own_repetition_alone() -> None:
    logits = torch.zeros(4).double().requires_grad_()
    with an.record() as trace, enumeration(), an.plate("points", 4):
        drawn = an.sample("w", Bernoulli(logits=logits), infer={"enumerate": False})
        z = an.sample("z", Categorical(WEIGHTS))
        an.observe("x", Normal(MEANS[z] + drawn, 1.0), POINTS)
    an.backward(an.log_marginal(trace))
    w = trace["w"].value
    own = Bernoulli(logits=logits).log_prob(w)
    marginal = own + (
        WEIGHTS.log()[:, None] + Normal(MEANS[:, None] + w, 1.0).log_prob(POINTS)
    ).logsumexp(0)
    score = torch.autograd.grad((own * marginal.detach() + own).sum(), logits)[0]
    assert logits.grad is not None
    close(logits.grad, score)


# What has no answer raises.


def test_a_site_in_two_plates_that_joins_sites_of_each_is_intractable() -> None:
    with an.record() as trace, enumeration():
        rows, columns = an.plate("rows", 2, dim=-1), an.plate("columns", 3, dim=-2)
        with rows:
            a = an.sample("a", Categorical(WEIGHTS))
        with columns:
            b = an.sample("b", Categorical(WEIGHTS))
        with rows, columns:
            an.observe("x", Normal(MEANS[a] + MEANS[b], 1.0), torch.zeros(3, 2).double())
    with pytest.raises(an.EnumerationError, match=r"site '[abx]' joins .*exponential in the size"):
        an.log_marginal(trace)


def test_a_latent_site_that_was_drawn_for_each_value_of_another_is_undetermined() -> None:
    with an.record() as trace, enumeration():
        z = an.sample("z", Categorical(WEIGHTS))
        an.sample("y", Normal(MEANS[z], 1.0))
    with pytest.raises(an.EnumerationError, match=r"site 'y' .*drawn once for each value"):
        an.log_marginal(trace)


def test_an_enumerated_site_that_the_trace_lacks_raises() -> None:
    with an.record(), enumeration():
        z = an.sample("z", Categorical(WEIGHTS))
        with an.record() as part:
            an.observe("x", Normal(MEANS[z], 1.0), torch.tensor(0.0).double())
    with pytest.raises(an.EnumerationError, match=r"site 'x' .* 'z' .*not in this trace"):
        an.log_marginal(part)


@pytest.mark.parametrize("is_first", [True, False])
def test_sites_that_count_differently_often_and_are_summed_out_together_raise(
    is_first: bool,
) -> None:
    with an.record() as trace, enumeration():
        with scale(0.5 if is_first else 1.0):
            z = an.sample("z", Categorical(WEIGHTS))
        with scale(1.0 if is_first else 0.5):
            w = an.sample("w", Bernoulli(WEIGHTS[z]))
        an.observe("x", Normal(w, 1.0), torch.tensor(0.0).double())
    with pytest.raises(an.EnumerationError, match="their scales differ"):
        an.log_marginal(trace)


def test_two_runs_within_one_recording_keep_their_sites_apart() -> None:
    def once() -> Callable[[], None]:
        return enumeration()(lambda: mixture(POINTS))

    with an.record() as both:
        for _ in range(2):
            with an.record():
                once()()
    close(an.log_marginal(both), 2 * joint().logsumexp(0).sum())


@pytest.mark.parametrize("is_drawn_between", [True, False])
def test_a_cost_for_each_value_of_a_site_is_no_cost(is_drawn_between: bool) -> None:
    logits = torch.zeros(3, requires_grad=True)
    with an.record() as trace, enumeration():
        z = an.sample("z", Categorical(logits=logits))
        value = an.sample("y", Normal(MEANS[z], 1.0)) if is_drawn_between else MEANS[z]
        an.cost("c", value**2)
    with pytest.raises(an.EnumerationError, match=r"cost 'c' .*enumerated site 'z'"):
        trace.backward()


def test_a_likelihood_for_each_value_of_a_site_is_no_cost() -> None:
    with an.record() as trace, enumeration():
        mixture(POINTS)
    with pytest.raises(an.EnumerationError, match=r"cost 'x' .*log_marginal"):
        trace.backward()
    with pytest.raises(an.EnumerationError, match=r"log-probabilities .*'z'"):
        trace.log_prob_sum()


def test_the_marginal_itself_can_be_a_cost() -> None:
    logits = torch.zeros(3).double().requires_grad_()
    with an.record() as trace:
        with an.record() as model, enumeration():
            z = an.sample("z", Categorical(logits=logits))
            an.sample("x", Normal(MEANS[z], 1.0), obs=POINTS[0])
        loss = -an.log_marginal(model)
    with pytest.raises(an.LossError):
        an.backward(loss)  # nothing is drawn: the gradient is that of torch
    loss.backward()
    assert logits.grad is not None
    assert list(trace) == ["z", "x"]


# A Bayesian network, against another library's variable elimination.


def network(model: Any, evidence: dict[str, str]) -> None:
    """Run a discrete network of pgmpy, whose nodes are observed where there is evidence."""
    values: dict[str, Tensor] = {}
    networkx = pytest.importorskip("networkx", reason="what the network of the peer is made of")
    for name in networkx.topological_sort(model):
        cpd = model.get_cpds(name)
        parents = cpd.variables[1:]
        probabilities = torch.as_tensor(cpd.values).movedim(0, -1)
        fn = Categorical(probabilities[tuple(values[parent] for parent in parents)])
        state = evidence.get(name)
        seen = None if state is None else torch.tensor(cpd.state_names[name].index(state))
        values[name] = an.sample(name, fn, obs=seen)


@pytest.mark.parametrize(
    "evidence", [{}, {"xray": "yes"}, {"dysp": "yes", "asia": "yes"}, {"smoke": "no", "xray": "no"}]
)
def test_a_bayesian_network_has_the_posteriors_of_pgmpy(evidence: dict[str, str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pgmpy and what it imports
        pgmpy_utils = pytest.importorskip("pgmpy.utils", reason="an optional peer")
        inference_of = pytest.importorskip("pgmpy.inference", reason="an optional peer")
        model = pgmpy_utils.get_example_model("asia")
        inference = inference_of.VariableElimination(model)
        with an.record() as trace, enumeration(first_dim=-1):
            network(model, evidence)
        found = an.marginals(trace)
        assert found.keys() == set(model.nodes()) - set(evidence)
        for name, posterior in found.items():
            expected = inference.query([name], evidence=evidence, show_progress=False)
            states = model.get_cpds(name).state_names[name]
            values = [expected.get_value(**{name: state}) for state in states]
            torch.testing.assert_close(
                posterior.exp(), torch.tensor(values, dtype=torch.float64), rtol=1e-9, atol=1e-12
            )
