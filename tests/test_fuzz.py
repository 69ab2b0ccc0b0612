"""The fuzzer finds what is wrong, and says it in few lines."""

import pytest
from fuzz import fuzz, smallest

from ancestral.provenance.dispatch import torch_function
from ancestral.trace.intercept import tensor_reads

SEED = 5

pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")


def test_what_is_right_is_counted() -> None:
    tally = fuzz(12, SEED)
    assert tally.counts["exact"] == tally.counts["programs"] == 12
    assert tally.counts["with an escape"] >= 3
    assert not tally.failures


def test_without_escapes_a_small_program_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (torch_function, tensor_reads):
        monkeypatch.setattr(module, "escape", lambda *_, **__: None)
    tally = fuzz(40, SEED)
    assert tally.counts["biased"]
    shown = smallest(tally)
    source, _, verdict = shown.rpartition("\n")
    assert verdict.startswith("biased: ")
    assert len(source.splitlines()) <= min(len(p.source.splitlines()) for p, _ in tally.failures)
