"""Marginals and posteriors, against brute force, recursions, and another library."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-untyped-call"

import itertools
import math
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical

import ancestral as an
from ancestral.trace.handlers import enumerate as enumeration
from ancestral.trace.handlers import (
    markov,
)
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
        close(an.infer.log_marginal(trace).double(), expected)
        found = an.infer.marginals(trace)
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
    close(an.infer.log_marginal(run(sites)).double(), recursive(sites, (), {}))


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
    found = an.infer.log_marginal(trace)
    expected = forward(*parameters, data)[-1].logsumexp(0)
    close(found, expected)
    gradients = torch.autograd.grad(found, parameters)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
        close(ours, theirs)


def test_a_hidden_markov_model_has_the_posteriors_of_forward_and_backward() -> None:
    parameters, data = hmm_parameters(), observations(LENGTH)
    with an.record() as trace, enumeration(first_dim=-1):
        hmm(*parameters, data)
    found = an.infer.marginals(trace)
    before, after = forward(*parameters, data), backward(*parameters[1:], data)
    for t in range(LENGTH):
        close(found[f"z{t}"], (before[t] + after[t]).log_softmax(0))


def test_posteriors_are_differentiable() -> None:
    parameters, data = hmm_parameters(), observations(6)
    with an.record() as trace, enumeration(first_dim=-1):
        hmm(*parameters, data)
    before, after = forward(*parameters, data), backward(*parameters[1:], data)
    expected = torch.autograd.grad((before[2] + after[2]).log_softmax(0)[1], parameters)
    found = torch.autograd.grad(an.infer.marginals(trace)["z2"][1], parameters)
    for ours, theirs in zip(found, expected, strict=True):
        close(ours, theirs)


def test_posteriors_are_differentiable_where_some_values_have_none() -> None:
    free = torch.tensor([0.3, -0.2]).double().requires_grad_()
    logits = torch.cat([free, torch.tensor([-torch.inf]).double()])
    with an.record() as trace, enumeration():
        z = an.sample("z", Categorical(logits=logits))
        an.factor("f", torch.tensor([0.5, 1.0, 2.0]).double()[z])
    expected = (free + torch.tensor([0.5, 1.0])).log_softmax(0)
    close(
        torch.autograd.grad(an.infer.marginals(trace)["z"][0], free)[0],
        torch.autograd.grad(expected[0], free)[0],
    )


def test_posteriors_can_be_had_without_gradients_but_not_in_inference_mode() -> None:
    with torch.no_grad(), an.record() as trace, enumeration():
        an.sample("z", Categorical(torch.tensor([0.25, 0.75]).double()))
    with torch.no_grad():
        close(an.infer.marginals(trace)["z"].exp(), torch.tensor([0.25, 0.75]).double())
    with torch.inference_mode(), pytest.raises(an.errors.EnumerationError, match="no_grad"):
        an.infer.marginals(trace)


def test_a_long_chain_costs_as_much_as_its_length() -> None:
    parameters, data = hmm_parameters(), observations(200)
    with an.record() as trace, enumeration(first_dim=-1):
        hmm(*parameters, data)
    assert max(trace[f"z{t}"].log_prob.numel() for t in range(200)) == STATES**2
    close(an.infer.log_marginal(trace), forward(*parameters, data)[-1].logsumexp(0))


def test_masked_steps_at_the_end_leave_the_marginal_of_those_before() -> None:
    parameters, data = hmm_parameters(), observations(9)
    with an.record() as trace, enumeration(first_dim=-1):
        hmm(*parameters, data, seen=torch.arange(9) < 6)
    close(an.infer.log_marginal(trace), forward(*parameters, data[:6])[-1].logsumexp(0))


def test_sequences_of_a_plate_are_summed_out_one_by_one() -> None:
    parameters = hmm_parameters()
    rows = observations(28).reshape(4, 7)
    with an.record() as trace, enumeration(first_dim=-2), an.plate("sequences", 4):
        hmm(*parameters, rows.T)
    expected = torch.stack([forward(*parameters, row)[-1].logsumexp(0) for row in rows]).sum()
    close(an.infer.log_marginal(trace), expected)


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
        found = an.infer.marginals(trace)
        assert found.keys() == set(model.nodes()) - set(evidence)
        for name, posterior in found.items():
            expected = inference.query([name], evidence=evidence, show_progress=False)
            states = model.get_cpds(name).state_names[name]
            values = [expected.get_value(**{name: state}) for state in states]
            torch.testing.assert_close(
                posterior.exp(), torch.tensor(values, dtype=torch.float64), rtol=1e-9, atol=1e-12
            )
