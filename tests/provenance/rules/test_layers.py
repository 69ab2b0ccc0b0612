"""Every layer of torch.nn, in training and in use, follows a tracked input."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from layer_batches import BATCH_SECOND, IN_TRAINING, LOST_BATCHES, cases
from torch import Tensor, nn

from ancestral.provenance.algebra.factors import factors_of
from ancestral.provenance.algebra.source_alignments import claimed
from ancestral.provenance.tensor.tensor import provenance
from layers import LAYERS, REASONS, Case, labels
from perturbation import check, gradients, leaves, numbers

CASES = [(name, number) for name, cases in LAYERS.items() for number in range(len(cases))]
MODES = ["training", "evaluation", "evaluation without gradients"]


def namespace() -> Iterator[str]:
    for name, value in vars(nn).items():
        if isinstance(value, type) and issubclass(value, nn.Module):
            yield name


LOST, LOST_IN_TRAINING = cases(LOST_BATCHES), cases(IN_TRAINING)


def keeps_batch(result: Any, batch: int) -> bool:
    """Return whether the first tracked result of a layer indexes this dimension of its input."""
    found = next(p for _, leaf in leaves(result) if (p := provenance(leaf)) is not None)
    claims = [c for s, claims in claimed(found).items() if s.name == "x" for c in claims]
    return all(
        any(f.dim == batch for dim in claim.dims for f in factors_of(dim, 0)) for claim in claims
    )


def test_every_layer_that_loses_the_batch_has_a_case() -> None:
    assert {*LOST, *LOST_IN_TRAINING, *BATCH_SECOND} <= set(CASES)
    assert LOST.keys().isdisjoint(LOST_IN_TRAINING)


def test_every_layer_is_in_the_table_or_has_a_reason() -> None:
    assert set(LAYERS).isdisjoint(REASONS)
    assert set(namespace()) == {*LAYERS, *REASONS}


def data(made: Case) -> Tensor:
    if made.classes:
        return labels(*made.shape, classes=made.classes)
    x = numbers(*made.shape)
    return x.sigmoid() if made.positive else x


def called(made: Case, mode: str) -> Callable[[Tensor], Any]:
    """Return a call of a new layer; what it keeps is a part of the result."""

    def call(x: Tensor) -> Any:
        layer = made.make().train(mode == "training")
        with torch.no_grad() if mode == MODES[2] else nullcontext():
            result = made.call(layer, x)
        return result, dict(layer.named_buffers())

    return call


@pytest.mark.filterwarnings("ignore")  # of torch: layers that are old, in development, or slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "number"), CASES)
def test_a_layer_follows_its_input(name: str, number: int, mode: str) -> None:
    made = LAYERS[name][number]
    x = data(made)
    # The fused kernel of attention, for evaluation, takes no tracked tensor: rounding differs.
    tolerance = 1e-5 if mode == MODES[2] and ("Attention" in name or "Transformer" in name) else 0.0
    result = check(called(made, mode), x, escapes=made.escapes, elements=2, tolerance=tolerance)
    lost = {**LOST, **(LOST_IN_TRAINING if mode == MODES[0] else {})}
    assert keeps_batch(result, int((name, number) in BATCH_SECOND)) == ((name, number) not in lost)
    if x.is_floating_point() and mode != MODES[2]:
        gradients(called(made, mode), x)
