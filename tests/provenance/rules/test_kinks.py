"""Kinks: every op of torch's database that jumps has one, and no row has one for nothing."""

import pytest
import torch

from ancestral.provenance.rules import registry
from sweep.calls import Call
from sweep.checks import quiet
from sweep.database import OPS, UNDEFINED, evenly, samples_of
from sweep.jumps import is_kind, is_marked, jumps

EXCUSED = {
    "a factorization is one of many, and its derivative holds for what is the same of all": """
        linalg.eigh linalg.eigvals linalg.lu linalg.lu_factor linalg.lu_factor_ex
        linalg.qr linalg.svd lu pca_lowrank qr svd svd_lowrank
    """,
    "it is a quotient of two numbers that are zero at once, as x / x.abs() is": """
        corrcoef nn.functional.normalize
    """,
    "a number is rounded to fewer digits": "bfloat16 chalf half",
    "the jump is at a label, and labels are no continuous draws": """
        nn.functional.cosine_embedding_loss nn.functional.hinge_embedding_loss
    """,
    "its sign has a kink, its logarithm needs none": "linalg.slogdet",
    "the elements take their noise in another order": "nn.functional.rrelu",
}
WHY = {name: why for why, names in EXCUSED.items() for name in names.split()}
# The mode of different numbers is their least, and bincount takes whole numbers; torch has no
# derivative of nextafter.
SMOOTH = {"mode", "nextafter", "bincount"}


def calls(name: str) -> list[Call]:
    """Return some small samples of an op with real numbers among the arguments."""
    op = OPS[name]
    if name in UNDEFINED or torch.float64 not in op.supported_dtypes("cpu"):
        return []
    samples = [
        call
        for call in samples_of(op, torch.float64)
        if sum(t.numel() for t in call.tensors) <= 500
        and any(t.is_floating_point() and t.numel() for t in call.tensors)
    ]
    return evenly(samples, 4)


def is_jumping(call: Call) -> bool:
    """Return whether a call jumps along all of its arguments, or the first where torch refuses."""
    for moved in (range(len(call.tensors)), [0]):
        try:
            return jumps(call, moved)
        except (RuntimeError, ValueError, AssertionError):
            continue  # out of what the op is defined for, or without a derivative: not silently
    return False


def is_silent(name: str) -> bool:
    """Return whether some call of an op jumps, and no result of it says so."""
    with quiet():
        return any(is_jumping(call) and not is_marked(call) for call in calls(name))


@pytest.mark.parametrize("name", OPS)
def test_what_jumps_has_a_kink(name: str) -> None:
    assert is_silent(name) is (name in WHY)


@pytest.mark.parametrize("name", ["floor", "atan2", "frexp"])
def test_a_kink_that_is_missing_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(registry.KINKS, getattr(torch, name))
    assert is_silent(name)


NAMES = {name for op in registry.OPS if op.kink is True for name in op.names.split()}


@pytest.mark.parametrize("name", sorted(NAMES & OPS.keys() - SMOOTH))
def test_what_has_a_kink_jumps_or_has_no_derivative(name: str) -> None:
    with quiet():
        found = calls(name)
        assert found
        results = [t for call in found for t in call.run(call.tensors).tensors]
        if not any(map(is_kind, results)):
            return  # whole numbers and truth values have none anyway
        assert any(map(is_jumping, found)) or not OPS[name].supports_autograd
