"""Every op in torch's own database, in all ways to call it, against brute force.

An op gives other values, types or gradients to a tracked tensor than to a plain one in no case; its
results carry every source that a perturbation shows them to depend on; and no alignment claims
more than the perturbations of slices and of single elements show.
"""

import pytest
import torch

from ancestral.provenance.dispatch import implicit_reads
from ancestral.provenance.rules import pointwise, registry
from sweep import overridables
from sweep.database import OPS, UNDEFINED, reason, sweep
from sweep.reasons import GIVES_NO_TENSOR, NOT_IN_ALL, REASONS
from sweep.table import table

SEEN = """
    __getitem add addbmm addcdiv addcmul addmm addmv addr baddbmm dropout full_like hardshrink
    hardtanh index_add index_copy index_fill layer_norm masked_fill roll rsub select select_scatter
    softplus softshrink sub
"""
"""The functions of that list that torch hands a number; to the rest it comes as a tensor."""

REACHING = """
    abs allclose cauchy chunk diag equal full_like item masked.amax masked.logsumexp masked.var
    nn.functional.interpolate.area nn.functional.interpolate.nearest
    nn.functional.multi_head_attention_forward ones_like stft zeros_like
"""
"""Ops that call the overridables which follow nothing when they are called by name."""


@pytest.mark.parametrize("name", OPS)
def test_an_op_keeps_values_and_sources_and_claims_no_more_than_brute_force_shows(
    name: str,
) -> None:
    findings = sweep(name)
    why = reason(name)
    if why is not None:
        heading = f"not applicable: {why}"
    else:
        heading = "with an alignment" if findings.aligns else "sources without an alignment"
    table.put("ops of the database", heading, name)
    assert findings.problems == []
    exercised = [n for n, f in overridables.overridables().items() if f in findings.functions]
    assert [n for n in exercised if overridables.is_excused(n)] == []


def test_every_op_is_followed_unless_it_gives_or_takes_nothing_to_follow() -> None:
    assert [name for name in OPS if reason(name) == "does not run here"] == []


def test_what_is_said_to_be_undefined_is_in_the_database() -> None:
    assert set(OPS) >= UNDEFINED


@pytest.mark.parametrize("initial", sorted({name[:8] for name in overridables.overridables()}))
def test_an_overridable_called_by_name_keeps_values_and_sources(initial: str) -> None:
    named = [name for name in overridables.overridables() if name.startswith(initial)]
    assert [line for name in named for line in overridables.called(name).problems] == []
    exercised = [name for name in named if overridables.called(name).follows]
    assert [name for name in exercised if overridables.is_excused(name)] == []


def test_every_overridable_is_exercised_or_a_reason_says_why_not() -> None:
    reached = {function for name in REACHING.split() for function in sweep(name).functions}
    missing = []
    for name, function in overridables.overridables().items():
        why = overridables.reason(name)
        if overridables.called(name).follows:
            table.put("overridables", "called by name", name.removeprefix("torch."))
        elif function in reached:
            table.put("overridables", "called by an op of the database", name)
        elif why is not None:
            table.put("overridables", f"not applicable: {why}", name)
        else:
            missing.append(name)
    assert missing == []


def test_what_is_said_to_give_no_tensor_gives_none_where_it_runs() -> None:
    named = [n for n in overridables.overridables() if overridables.reason(n) == GIVES_NO_TENSOR]
    assert [name for name in named if not overridables.called(name).calls] == []
    assert [name for name in named if overridables.called(name).gives_tensors] == []


def test_the_sweep_sees_numbers_that_are_read_as_values_and_decide_no_shape() -> None:
    # That they decide none, each op is asked above: what is read and not noted must show in none.
    spoken = [name for name in OPS if {*name.rstrip("_").split(".")} & {*SEEN.split()}]
    read = {reader.rstrip("_") for name in spoken for reader in sweep(name).readers}
    assert read & implicit_reads.NUMBERS >= set(SEEN.split())  # type: ignore[attr-defined]


def test_the_sweep_finds_a_size_that_is_not_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implicit_reads, "NUMBERS", implicit_reads.NUMBERS | {"narrow", "new_zeros"})  # type: ignore[attr-defined]
    for name in ("narrow", "new_zeros"):
        problems = sweep.__wrapped__(name).problems
        assert any("lets the value of tensor 1 out without a word" in line for line in problems)


def test_the_sweep_finds_a_source_that_is_lost_and_an_alignment_that_does_not_hold(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(registry.RULES, torch.sinh, pointwise.value_free)
    assert any("loses tensor 0" in line for line in sweep.__wrapped__("sinh").problems)
    monkeypatch.setitem(registry.RULES, torch.fliplr, pointwise.pointwise)
    assert any("claims" in line for line in sweep.__wrapped__("fliplr").problems)


def test_every_name_with_a_reason_is_an_overridable() -> None:
    known = {n.replace("torch.nn.functional.", "F.") for n in overridables.overridables()}
    reasoned = {name for names in REASONS.values() for name in names.split()}
    assert reasoned - known <= NOT_IN_ALL
