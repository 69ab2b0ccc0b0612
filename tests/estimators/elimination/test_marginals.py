"""Marginals and posteriors, against brute force, recursions, and another library."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical

import ancestral as an
from ancestral.trace.handlers import enumerate as enumeration
from ancestral.trace.handlers import markov
from ancestral.trace.handlers import mask as masked

torch.manual_seed(0)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


# The hidden Markov model, against the forward and the backward recursion.

LENGTH, STATES = 50, 8
Parameters = tuple[Tensor, Tensor, Tensor]


def hmm(
    start: Tensor, move: Tensor, emit: Tensor, data: Tensor, seen: Tensor | None = None
) -> Tensor:
    z = torch.zeros(())
    for t in markov(range(len(data))):
        with masked(True if seen is None else seen[t]):
            z = an.sample(f"z{t}", Categorical(logits=move[z] if t else start))
            an.observe(f"x{t}", Categorical(logits=emit[z]), data[t])
    return z


def hmm_parameters() -> Parameters:
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


def run(data: Tensor, seen: Tensor | None = None) -> tuple[an.Trace, Parameters]:
    parameters = hmm_parameters()
    with an.record() as trace, enumeration(first_dim=-1):
        hmm(*parameters, data, seen)
    return trace, parameters


def test_a_hidden_markov_model_has_the_marginal_of_the_forward_recursion() -> None:
    data = observations(LENGTH)
    trace, parameters = run(data)
    found = an.infer.log_marginal(trace)
    expected = forward(*parameters, data)[-1].logsumexp(0)
    close(found, expected)
    gradients = torch.autograd.grad(found, parameters)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
        close(ours, theirs)


def test_a_hidden_markov_model_has_the_posteriors_of_forward_and_backward() -> None:
    data = observations(LENGTH)
    trace, parameters = run(data)
    found = an.infer.marginals(trace)
    before, after = forward(*parameters, data), backward(*parameters[1:], data)
    for t in range(LENGTH):
        close(found[f"z{t}"], (before[t] + after[t]).log_softmax(0))
    expected = torch.autograd.grad((before[2] + after[2]).log_softmax(0)[1], parameters)
    gradients = torch.autograd.grad(found["z2"][1], parameters)
    for ours, theirs in zip(gradients, expected, strict=True):
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
    data = observations(200)
    trace, parameters = run(data)
    assert max(trace[f"z{t}"].log_prob.numel() for t in range(200)) == STATES**2
    close(an.infer.log_marginal(trace), forward(*parameters, data)[-1].logsumexp(0))


def test_masked_steps_at_the_end_leave_the_marginal_of_those_before() -> None:
    data = observations(9)
    trace, parameters = run(data, seen=torch.arange(9) < 6)
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
