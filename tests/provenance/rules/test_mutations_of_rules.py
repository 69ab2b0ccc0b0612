"""Every rule is needed, and every rule is held back: both are seen by mutating the table of rules.

Without its rule, a call of each family loses what the rule keeps. With a rule in its place that
claims that every dimension stays, the perturbation of single elements refutes it, unless the
family is elementwise, where the claim is what holds.
"""

import functools

import pytest
import torch
from torch import Tensor

from alignments.case import Case, Shown, follow, perturbed, refuted
from alignments.table import CASES
from ancestral.provenance.algebra.alignment import LOST, Shape
from ancestral.provenance.rules import registry
from ancestral.provenance.rules.op import Pair, Rule
from ancestral.provenance.tensor.arguments import Args, Kwargs, tensors_in
from ancestral.provenance.tensor.tensor import provenance, track

NAMES = sorted({case.rule for case in CASES.values()})
# That every element stays at its place is what this rule says.
ELEMENTWISE = {"first_pointwise", "dropped"}
# What it adds is no operand's, but of the memory that one is a part of: see `test_functions`.
BEYOND = {"reaching"}
# Other dimensions have other sizes, and are lost by themselves: no wrong claim is left.
SIZED = {"diag", "input(dhw) indices(dhw)", "input(kl)", "vstack"}


def of_rule(name: str) -> list[Case]:
    return [case for case in CASES.values() if case.rule == name]


def _without(monkeypatch: pytest.MonkeyPatch, name: str, instead: Rule | None) -> None:
    """Put another rule, or none, in the place of a rule wherever it stands."""
    for function, rule in list(registry.RULES.items()):
        if rule.__name__ == name:
            if instead is None:
                monkeypatch.delitem(registry.RULES, function)
            else:
                monkeypatch.setitem(registry.RULES, function, instead)


def stays_at_the_left(shape: Shape, args: Args, kwargs: Kwargs) -> list[Pair]:
    """Claim that each dimension of the result is that of every operand, counted from the left."""
    rank = range(len(shape))
    return [
        (t, tuple(d if d < len(t.shape) else LOST for d in rank)) for t in tensors_in(args, kwargs)
    ]


def stays_at_the_right(shape: Shape, args: Args, kwargs: Kwargs) -> list[Pair]:
    """Claim the same, counted from the right."""
    return [
        (t, tuple(max(d + len(t.shape), LOST) for d in range(-len(shape), 0)))
        for t in tensors_in(args, kwargs)
    ]


def is_the_last(shape: Shape, args: Args, kwargs: Kwargs) -> list[Pair]:
    """Claim that each dimension of the result is the last of every operand."""
    return [(t, (len(t.shape) - 1,) * len(shape)) for t in tensors_in(args, kwargs)]


MUTANTS: tuple[Rule, ...] = (stays_at_the_left, stays_at_the_right, is_the_last)


def is_kept(case: Case) -> bool:
    """Return whether each operand keeps what the case says."""
    tensors = case.tensors(dict.fromkeys(case.letters, 3))
    return all(
        follow(case, tensors, [n]).kept(0, n) == kept for n, kept in enumerate(case.alignments())
    )


def is_refuted(case: Case) -> bool:
    """Return whether a perturbation shows what is claimed now to be wrong."""
    tensors, shown = unclaimed(case)
    return any(
        refuted(follow(case, tensors, [n]), n, each) is not None for n, each in enumerate(shown)
    )


@functools.cache
def unclaimed(case: Case) -> tuple[list[Tensor], list[Shown]]:
    """Return operands, and what perturbing them shows, which is the same for every rule."""
    tensors = case.tensors(dict.fromkeys(case.letters, 3))
    return tensors, [perturbed(case, tensors, n) for n in range(len(tensors))]


@pytest.mark.filterwarnings("ignore")  # of torch: functions that are old
@pytest.mark.parametrize("name", [name for name in NAMES if name not in BEYOND])
def test_what_a_rule_keeps_is_lost_without_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [case for case in of_rule(name) if is_kept(case)]
    assert kept
    _without(monkeypatch, name, None)
    assert not all(map(is_kept, kept))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ELEMENTWISE | SIZED])
def test_a_rule_that_claims_too_much_is_refuted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = False
    for mutant in MUTANTS:
        with monkeypatch.context() as patch:
            _without(patch, name, mutant)
            found = found or any(map(is_refuted, of_rule(name)))
    assert found


def test_a_rule_leaves_out_a_source_that_reaches_nothing_and_that_stays_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert provenance(torch.zeros_like(track(torch.ones(3), "x"))) is None
    _without(monkeypatch, "value_free", None)
    assert provenance(torch.zeros_like(track(torch.ones(3), "x"))) is not None
