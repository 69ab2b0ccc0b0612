"""Subscripts whose answer depends on values: what was found for some must not serve for others."""

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import ancestral as an
from ancestral.provenance.algebra.alignment import LOST, Dims
from ancestral.provenance.algebra.alignment_loss import separate
from ancestral.provenance.algebra.overlap import meet
from ancestral.provenance.tensor.tensor import provenance, track
from perturbation import check, numbers


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


INDICES: dict[str, Callable[[], Any]] = {
    "a number": lambda: torch.tensor(2),
    "a negative number": lambda: torch.tensor(-1),
    "one": lambda: torch.tensor([3]),
    "neighbours": lambda: torch.tensor([1, 2, 3]),
    "all": lambda: torch.arange(6),
    "some": lambda: torch.tensor([4, 0, 1]),
    "from the end": lambda: torch.tensor([-2, -1, 0]),
    "twice": lambda: torch.tensor([2, 2]),
    "backwards": lambda: torch.arange(5, -1, -1),
    "halves": lambda: torch.arange(6).view(2, 3),
    "some of two ranks": lambda: torch.arange(1, 5).view(2, 2),
    "a column": lambda: torch.arange(6)[:, None],
    "out of order": lambda: torch.tensor([[0, 3], [1, 2]]),
    "nothing": lambda: torch.tensor([], dtype=torch.long),
    "short integers": lambda: torch.tensor([1, 2], dtype=torch.int32),
    "a list": lambda: [3, 4],
    "a tuple": lambda: (slice(None), 1),
    "a list and a slice": lambda: ([0, 1], slice(1, 3)),
    "a range and a number": lambda: (range(1, 4), 2),
    "a tuple of numbers": lambda: ((0, 1, 2), slice(None)),
    "pairs": lambda: (torch.arange(4), torch.tensor([3, 0, 1, 2])),
    "apart": lambda: (torch.tensor([1, 2]), None, torch.tensor([0, 1])),
    "the second": lambda: (slice(None), torch.tensor([2, 3])),
    "the second in parts": lambda: (slice(1, 5), torch.tensor([3, 1])),
    "a table of both": lambda: (torch.tensor([[0], [1]]), torch.tensor([2, 3])),
    "dots": lambda: (..., torch.tensor([0, 1])),
    "a mask": lambda: torch.tensor([True, False, True, True, False, True]),
    "a mask of all": lambda: torch.ones(6, dtype=torch.bool),
    "a mask of none": lambda: torch.zeros(6, dtype=torch.bool),
    "a mask of columns": lambda: (slice(1, 4), torch.tensor([False, True, True, False])),
    "a mask of both": lambda: torch.eye(6, 4, dtype=torch.bool),
    "a mask and numbers": lambda: (torch.arange(6) > 3, torch.tensor([2, 0])),
}


@pytest.mark.parametrize("name", INDICES)
def test_a_known_index_claims_no_more_than_is_true(name: str) -> None:
    index = INDICES[name]()

    def read(x: Tensor) -> Tensor:
        return x[index] * 1

    def written(x: Tensor) -> list[Tensor]:
        part = torch.zeros(6, 4)[index]
        found = []
        for value in (x.flatten()[: part.numel()].reshape(part.shape), x[0, 0], x[:1, :1]):
            if value.ndim > max(part.ndim, 0):
                continue
            target = x * 0.5
            target[index] = value
            plain = torch.zeros(6, 4)
            plain[index] = value
            found += [target, plain]
        return found

    check(read, numbers(6, 4), elements=24)
    check(written, numbers(6, 4), elements=24)


PICKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "index_select": lambda x, index: x.index_select(0, index),
    "index_select of columns": lambda x, index: torch.index_select(x.T, 1, index),
    "index_copy": lambda x, index: torch.zeros(6, 4).index_copy(0, index, x[: len(index)]),
    "index_add": lambda x, index: (x * 0.1).index_add(0, index, x[: len(index)], alpha=2),
    "index_add_": lambda x, index: torch.zeros(4, 6).index_add_(1, index, x[: len(index)].T),
    "index_fill": lambda x, index: torch.zeros(6, 4).index_fill(0, index, x[0, 0]),
    "index_reduce": lambda x, index: x.index_reduce(0, index, x[: len(index)] + 1, "prod"),
    "index_put": lambda x, index: torch.zeros(6, 4).index_put((index,), x[: len(index)]),
}


@pytest.mark.filterwarnings("ignore:index_reduce")
@pytest.mark.parametrize("rows", [[3], [0, 1], [4, 5, 0], [2, 2], [5, 3, 1], [0, 1, 2, 3, 4, 5]])
@pytest.mark.parametrize("name", PICKS)
def test_picking_at_a_known_index_claims_no_more_than_is_true(name: str, rows: list[int]) -> None:
    found = provenance(
        check(lambda x: PICKS[name](x, torch.tensor(rows)), numbers(6, 4), elements=24)
    )
    assert found is not None
    if name in ("index_select", "index_copy", "index_put") and rows != [2, 2]:
        assert separate(claim for claim, _ in found.entries) == {0, 1}


def test_an_index_on_the_memory_of_what_it_is_of_is_not_read() -> None:
    x = track(torch.tensor([1, 0, 2]), "x")
    for index in (an.untrack(x), an.untrack(x)[1:], an.untrack(x)[1]):
        found = provenance(x[index])
        assert found is not None
        assert separate(claim for claim, _ in found.entries) == frozenset()


def test_more_runs_than_are_told_apart_lose_the_dimension() -> None:
    x = track(torch.rand(100, 2), "x")
    for name in ("index_select", "subscript"):
        index = torch.arange(0, 100, 2)
        found = provenance(x[index] if name == "subscript" else x.index_select(0, index))
        assert found is not None
        assert separate(claim for claim, _ in found.entries) == {1}


def test_edges_that_a_constant_mask_chooses_stay_apart() -> None:
    x = track(torch.rand(6, 2), "x")
    edges = torch.tensor([[0, 1, 2, 2, 3, 0], [1, 2, 2, 3, 3, 2]])
    found = provenance(x[edges[0] != edges[1]] * 2)
    assert found is not None
    assert separate(claim for claim, _ in found.entries) == {0, 1}


LIKE: dict[str, Callable[[Tensor], Tensor]] = {
    "full_like": lambda x: torch.full_like(x, -1.0),
    "new_full": lambda x: x.new_full((4, 2), -1.0),
    "new_full by name": lambda x: x.new_full(size=(4,), fill_value=2),
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "zeros_like": lambda x: torch.zeros_like(input=x),
    "new_ones": lambda x: x.new_ones(3),
}


@pytest.mark.parametrize("name", LIKE)
def test_what_is_only_like_a_tensor_depends_on_nothing(name: str) -> None:
    x = track(torch.rand(4, 2), "x")
    assert provenance(LIKE[name](x)) is None
    with an.record():
        made = LIKE[name](x)
    assert provenance(made) is None
    assert torch.equal(made, LIKE[name](an.untrack(x)))


def test_a_number_that_a_tensor_is_filled_with_is_read() -> None:
    x, n = track(torch.rand(4, 2), "x"), track(torch.tensor(2.0), "n")
    with an.record():
        made = [torch.full_like(x, n), x.new_full((3,), n)]  # type: ignore[arg-type]
    for each in (torch.full_like(x, n), x.new_full((3,), n), *made):  # type: ignore[arg-type]
        assert an.provenance_of(each) == {"n"}


def test_a_filter_of_the_largest_keeps_the_batch() -> None:
    def filtered(x: Tensor) -> Tensor:
        least = x.topk(2, -1).values[..., -1, None]
        kept = x.masked_fill(x < least, -1e9)
        best = torch.full_like(x, -1e9).scatter(1, *x.topk(1, -1)[::-1])
        return (kept.softmax(-1) + best.softmax(-1)).log()

    found = provenance(check(filtered, numbers(4, 5), elements=20))
    assert found is not None
    assert separate(claim for claim, _ in found.entries) == {0}


def test_a_tensor_taken_as_one_keeps_its_elements() -> None:
    def call(x: Tensor) -> list[Tensor]:
        return [
            torch.as_tensor(x) * 2,
            torch.as_tensor(x, dtype=torch.float64) * 2,
            torch.asarray(x, copy=True),
            torch.as_tensor(x, dtype=torch.long),
        ]

    check(call, numbers(3, 2))
    with an.record():
        for result in call(track(torch.rand(3, 2), "x")):
            found = provenance(result)
            assert found is not None
            assert separate(claim for claim, _ in found.entries) == {0, 1}


def test_a_tensor_taken_as_one_depends_on_what_python_read_before() -> None:
    with an.record(control="after"):
        coins = [torch.distributions.Bernoulli(torch.full((3,), 0.5)).sample() for _ in range(2)]
        assert coins[0][0] >= 0 or coins[0][1] > 0
        if coins[0][2] > 0.5:
            coins.append(coins[1])
        found = provenance(torch.as_tensor(coins[1], dtype=torch.float64))
    assert found is not None
    assert any(source.is_decision for source in found.members)
