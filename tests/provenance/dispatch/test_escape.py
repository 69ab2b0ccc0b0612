"""Escapes: every way out of tensor land that a recording has to know of is noted, with its line."""

import array
import io
import math
import pickle
import struct
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from ancestral.provenance.tensor.control_flow import Escape, escapes_of
from ancestral.provenance.tensor.tensor import provenance, track

WAYS: dict[str, Callable[[Tensor], object]] = {
    "bool": lambda z: bool(z[0] > 0),
    "if": lambda z: 1 if z[0] > 0 else 2,
    "int": lambda z: int(z[0]),
    "float": lambda z: float(z[0]),
    "item": lambda z: z[0].item(),
    "tolist": lambda z: z.tolist(),
    "numpy": lambda z: z.numpy(),
    "asarray": lambda z: np.asarray(z),
    "index of a list": lambda z: [1, 2, 3][z[0].long()],
    "range": lambda z: range(z[0].long()),
    "equal": lambda z: torch.equal(z, z),
    "allclose": lambda z: torch.allclose(z, z),
    "in": lambda z: 1.0 in z,
    "nonzero": lambda z: z.nonzero(),
    "masked_select": lambda z: z.masked_select(z > 0),
    "a mask": lambda z: z[z > 0],
    "unique": lambda z: z.unique(),
    "where alone": lambda z: torch.where(z > 0),
    "repeat_interleave": lambda z: torch.ones(2).repeat_interleave(z.long()),
    "text": lambda z: str(z),
    "a format": lambda z: f"{z[0]:.2f}",
    "a pickle": lambda z: pickle.dumps([z]),
    "a saved file": lambda z: torch.save(z, io.BytesIO()),
    "a reduction": lambda z: z.__reduce_ex__(2),
    "a storage": lambda z: z.untyped_storage(),
    "a typed storage": lambda z: z._typed_storage(),
    "an address": lambda z: z.data_ptr(),
    "an array through dlpack": lambda z: np.from_dlpack(z),
    "an array of Python": lambda z: array.array("f", z),
    "a struct": lambda z: struct.pack("f", z[0]),
    "math": lambda z: math.floor(z[0]),
    "Python's max": lambda z: max(z),
    "sorting": lambda z: sorted(z),
    "a percent sign": lambda z: "%d" % z[0],  # noqa: UP031 (what is tested)
    "bincount": lambda z: torch.bincount(z.long()),
}


def escapes(tensor: Tensor) -> tuple[Escape, ...]:
    found = provenance(tensor)
    assert found is not None
    return escapes_of(found.universe)


@pytest.mark.parametrize("name", WAYS)
def test_a_way_out_is_noted_with_its_line(name: str) -> None:
    z = track(torch.tensor([1.0, 2.0]), "z")
    WAYS[name](z)
    first = escapes(z)[0]
    assert first.sources == {"z"}
    assert first.filename == __file__
    assert first.line == WAYS[name].__code__.co_firstlineno


def test_arithmetic_shapes_and_identity_are_no_escapes() -> None:
    z = track(torch.tensor([1.0, 2.0]), "z")
    assert z.shape[0] == len(z) == z.numel()
    assert z[torch.tensor([True, False])].shape == z.repeat_interleave(1)[:1].shape
    assert hash(z) == hash(z)
    assert escapes(z) == ()


def test_the_checks_of_distributions_are_no_escapes() -> None:
    z = track(torch.tensor([0.5, 0.2]), "z")
    torch.distributions.Bernoulli(z).log_prob(torch.ones(2))
    torch.distributions.Normal(z, z).log_prob(z)
    assert escapes(z) == ()
