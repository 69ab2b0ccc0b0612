"""Every rule is needed, and every rule is held back: both are seen by mutating the table of rules.

Without its rule, a call of each family loses what the rule keeps. With a rule in its place that
claims that every dimension stays, the perturbation of single elements refutes it, unless the
family is elementwise, where the claim is what holds.
"""

import pytest
import torch
from torch import Tensor

from alignments.case import Case, claims_too_much, follow
from alignments.table import CASES
from ancestral.provenance import rules
from ancestral.provenance.algebra import LOST, Alignment, Shape
from ancestral.provenance.tensor import provenance, track

NAMES = sorted({case.rule for case in CASES.values()})
# Every element stays at its place: that no dimension moves is what their rules say. The dimension
# that is joined, repeated, or put elsewhere changes its size: it is lost by itself.
ELEMENTWISE: set[str] = set()


def of_rule(name: str) -> list[Case]:
    return [case for case in CASES.values() if case.rule == name]


def _without(monkeypatch: pytest.MonkeyPatch, name: str, instead: rules.Rule | None) -> None:
    """Put another rule, or none, in the place of a rule wherever it stands."""
    for function, rule in list(rules.RULES.items()):
        if rule.__name__ == name:
            if instead is None:
                monkeypatch.delitem(rules.RULES, function)
            else:
                monkeypatch.setitem(rules.RULES, function, instead)


def everything_stays(
    shape: Shape, args: rules.Args, kwargs: rules.Kwargs
) -> list[tuple[Tensor, Alignment]]:
    """Claim, for every operand, that each dimension of the result indexes its own."""
    return [
        (t, tuple(d if d < len(t.shape) else LOST for d in range(len(shape))))
        for t in rules.tensors_in(args, kwargs)
    ]


def is_kept(case: Case) -> bool:
    """Return whether each operand keeps what the case says."""
    tensors = case.tensors(dict.fromkeys(case.letters, 3))
    return all(
        follow(case, tensors, [n]).alignment(0, n) == kept
        for n, kept in enumerate(case.alignments())
    )


def is_refuted(case: Case) -> bool:
    """Return whether a perturbation shows what is claimed now to be wrong."""
    tensors = case.tensors(dict.fromkeys(case.letters, 3))
    return any(
        claims_too_much(case, tensors, follow(case, tensors, [n]), n) is not None
        for n in range(len(tensors))
    )


@pytest.mark.filterwarnings("ignore")  # of torch: functions that are old
@pytest.mark.parametrize("name", NAMES)
def test_what_a_rule_keeps_is_lost_without_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [case for case in of_rule(name) if is_kept(case)]
    assert kept
    _without(monkeypatch, name, None)
    assert not all(map(is_kept, kept))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ELEMENTWISE])
def test_a_rule_that_claims_too_much_is_refuted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _without(monkeypatch, name, everything_stays)
    assert any(map(is_refuted, of_rule(name)))


def test_a_rule_leaves_out_a_source_that_reaches_nothing_and_that_stays_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = track(torch.ones(3), "x")
    assert provenance(torch.zeros_like(x)) is None
    _without(monkeypatch, "value_free", None)
    assert provenance(torch.zeros_like(x)) is not None
