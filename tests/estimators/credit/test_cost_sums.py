"""Sums of costs: of many sets of terms at once, they are those of each set."""

import random

import pytest
import torch

from ancestral.estimators.credit.cost_sums import Stacks
from ancestral.estimators.credit.credit import by_element
from ancestral.tools.bench.scale import dag, structure_of


def downstream_of(parents: list[list[int]]) -> list[set[int]]:
    """Return which sites each reaches, itself among them, from the last to the first."""
    found = [{site} for site in range(len(parents))]
    for site in reversed(range(len(parents))):
        for parent in parents[site]:
            found[parent] |= found[site]
    return found


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("most", [Stacks.MOST, 40])
def test_many_sets_have_the_sums_and_the_derivatives_of_each(
    batch: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stacks, "MOST", most)
    parents = [list(above) for above in dag(300, random.Random(1))]
    structure = structure_of(parents, batch)
    generator = torch.Generator().manual_seed(0)
    costs = [
        torch.rand(site.shape, generator=generator, dtype=torch.double).requires_grad_()
        for site in structure.sites
    ]
    found = by_element(structure, costs)
    weights = torch.rand(len(found), generator=generator, dtype=torch.double)
    total = torch.stack([credit.total.sum() for credit in found]) @ weights
    slopes = torch.autograd.grad(total, costs)
    reached = downstream_of(parents)
    expected = torch.zeros(len(costs), dtype=torch.double)
    for credit, weight, terms in zip(found, weights, reached, strict=True):
        torch.testing.assert_close(credit.total, torch.stack([costs[n] for n in terms]).sum(0))
        expected[list(terms)] += weight
    for slope, known in zip(slopes, expected, strict=True):
        torch.testing.assert_close(slope, known.expand_as(slope))
