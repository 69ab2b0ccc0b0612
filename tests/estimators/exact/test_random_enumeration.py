"""What random programs of finite sites say exactly, against the sum over all joint values."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from programs.finite.exact import Exact, Place, exact
from programs.finite.growth import grown
from programs.finite.run import encoded, run
from programs.finite.tree import Program, sites
from torch import Tensor

import ancestral as an
from ancestral.trace.handlers import substitute


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=1e-9, atol=1e-9)


def same_gradients(program: Program, found: Tensor, expected: Tensor) -> None:
    leaves = [leaf for leaf in program.tables.values() if leaf.requires_grad]
    gradients = [
        torch.autograd.grad(total, leaves, retain_graph=True, materialize_grads=True)
        if total.requires_grad
        else [torch.zeros_like(leaf) for leaf in leaves]
        for total in (found, expected)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        close(ours, theirs)


def posteriors(
    program: Program, truth: Exact, found: dict[str, Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the probabilities of each element of the enumerated sites, ours and the exact ones."""
    partly = {site.name for site in sites(program.body) if site.role == "partly"}
    for (name, at), expected in truth.posteriors().items():
        ours = found[f"{name}_unobserved" if name.split("_")[0] in partly else name].exp()
        place = truth.place(at)[1]
        left = (0,) * (ours.dim() - 1 - len(place))
        yield ours.movedim(0, -1)[(*left, *place)], expected


def compared(seed: int, *, is_scaled: bool) -> None:
    program = grown(seed, is_scaled=is_scaled)
    trace = run(program)
    truth = exact(program, trace)
    found, expected = an.infer.log_marginal(trace), truth.log_marginal()
    close(found, expected)
    same_gradients(program, found, expected)
    weighed = torch.zeros((2,), dtype=torch.double)
    for pair in posteriors(program, truth, an.infer.marginals(trace)):
        close(*pair)
        weights = torch.arange(1.0, len(pair[0]) + 1).double()
        weighed = weighed + torch.stack([each.double() @ weights for each in pair])
    same_gradients(program, *weighed)


@pytest.mark.parametrize("seed", range(70))
def test_the_marginal_the_posteriors_and_their_gradients_are_exact(seed: int) -> None:
    compared(seed, is_scaled=False)


@pytest.mark.parametrize("seed", range(70))
def test_what_counts_not_once_is_summed_out_within_its_block(seed: int) -> None:
    compared(seed, is_scaled=True)


# The sum that all of this is compared with, against runs of the program that enumerate nothing.


def elements(truth: Exact, name: str) -> list[Place]:
    return [at for cell, at in truth.axes if cell == name]


def summed_by_runs(program: Program, truth: Exact) -> Tensor:
    """Return the log-marginal as a sum over runs, each of which has one joint value."""
    byname = {site.name: site for site in sites(program.body)}
    names = list(dict.fromkeys(name for name, _ in truth.axes))
    owners = {name: byname[name.split("_")[0]] for name in names}
    shapes = {name: truth.place(elements(truth, name)[0])[0] for name in names}
    logs: list[Tensor] = []
    for joint in itertools.product(*(range(owners[name].size) for name, _ in truth.axes)):
        values = {name: torch.zeros(shapes[name], dtype=torch.long) for name in names}
        for (name, at), value in zip(truth.axes, joint, strict=True):
            values[name][truth.place(at)[1]] = value
        with substitute({name: encoded(owners[name], value) for name, value in values.items()}):
            trace = run(program, is_enumerated=False)
        logs.append(
            sum(
                (
                    (trace[name].unscaled_log_prob if name in names else trace[name].log_prob).sum()
                    for name in trace
                    if trace[name].type == "sample"
                ),
                torch.zeros((), dtype=torch.double),
            )
        )
    return torch.stack(logs).logsumexp(0)


def is_small(seed: int) -> bool:
    """Return whether a program has few joint values, of more than one site."""
    program = grown(seed, is_scaled=False)
    truth = exact(program, run(program))
    truth.log_marginal()
    is_partly = any(site.role == "partly" for site in sites(program.body))
    return 2 < len(truth.axes) < 6 and not is_partly


@pytest.mark.parametrize("seed", [seed for seed in range(200, 230) if is_small(seed)])
def test_the_sum_that_they_are_compared_with_is_that_of_single_runs(seed: int) -> None:
    program = grown(seed, is_scaled=False)
    truth = exact(program, run(program))
    expected = truth.log_marginal()
    close(summed_by_runs(program, truth), expected)
