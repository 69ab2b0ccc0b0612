"""Subscripts whose answer depends on values: what was found for some must not serve for others."""

import functools

import pytest
import torch
from torch import Tensor

from ancestral.provenance.algebra.alignment import LOST, Dims
from ancestral.provenance.algebra.overlap import meet
from ancestral.provenance.tensor.tensor import provenance, track


def alignment(tensor: Tensor) -> Dims:
    found = provenance(tensor)
    assert found is not None
    return functools.reduce(meet, (claim for claim, _ in found.entries)).dims


@pytest.fixture
def x() -> Tensor:
    return track(torch.rand(3, 4), "x")


def test_an_index_of_the_same_shape_with_other_values_is_asked_anew(x: Tensor) -> None:
    columns = torch.tensor([1, 0, 3])
    for rows, kept in [([0, 1, 2], 0), ([2, 1, 0], LOST), ([0, 1, 2], 0), ([0, 0, 2], LOST)]:
        assert alignment(x[torch.tensor(rows), columns]) == (kept,)
        assert alignment(x[torch.tensor(rows)]) == (kept, 1)
        assert alignment(x[rows]) == (kept, 1)


def test_what_is_put_in_is_asked_anew_too() -> None:
    value = track(torch.rand(3), "v")
    for rows, kept in [([0, 1, 2], 0), ([1, 0, 2], LOST), ([0, 1, 2], 0)]:
        index = (torch.tensor(rows), torch.tensor([1, 0, 3]))
        for accumulate in (False, True):
            put = torch.zeros(3, 4).index_put(index, value, accumulate=accumulate)
            assert alignment(put) == (kept, LOST)
        target = torch.zeros(3, 4)
        target[index] = value
        assert alignment(target) == (kept, LOST)


def test_an_index_that_is_written_into_is_read_as_it_is_then(x: Tensor) -> None:
    rows, columns = torch.arange(3), torch.tensor([1, 0, 3])
    assert alignment(x[rows, columns]) == (0,)
    rows[0] = 2
    assert alignment(x[rows, columns]) == (LOST,)


def test_an_index_that_counts_by_chance_keeps_nothing_where_it_is_tracked(x: Tensor) -> None:
    rows = track(torch.arange(3), "rows")
    found = provenance(x[rows, torch.tensor([1, 0, 3])])
    assert found is not None
    kept = {source.name: claim.dims for claim, sources in found.entries for source in sources}
    assert kept == {"x": (LOST,), "rows": (0,)}


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_a_mask_that_chooses_all_keeps_no_place(x: Tensor, dtype: torch.dtype) -> None:
    mask = track(torch.ones(3), "m").to(dtype)
    with pytest.warns(UserWarning, match="uint8") if dtype == torch.uint8 else torch.no_grad():
        found = provenance(torch.rand(3, 4)[mask])
    assert found is not None
    assert found.entries[0][0].dims == (LOST, LOST)


def test_an_operator_in_place_on_its_own_operand_keeps_nothing_that_it_mixes() -> None:
    x, m = torch.rand(3, dtype=torch.float64), track(torch.rand(3, 3, dtype=torch.float64), "m")
    assert alignment(x.addmv_(m, x)) == (LOST,)


def test_a_loss_in_its_plain_spelling_may_be_reduced() -> None:
    x = track(torch.rand(3), "x")
    assert alignment(torch.kl_div(x, torch.rand(3), 1)) == ()
    assert alignment(torch.kl_div(x, torch.rand(3), 0)) == (0,)
