"""Strided views: what they claim of each other against the addresses of their elements."""

import itertools
import math

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ancestral.provenance.algebra.alignment import LOST, Shape
from ancestral.provenance.algebra.factors import Factor
from ancestral.provenance.algebra.strided_view import StridedView, placed, refined, seen, strides_of
from relations import elements, pairs

laws = settings(max_examples=400, deadline=None, derandomize=True, database=None)


@st.composite
def views(draw: st.DrawFn, size: int) -> StridedView:
    """Draw any view of a row: overlapping, with steps, repeated, transposed, of ones."""
    rank = draw(st.integers(0, 3))
    shape, strides, left = [], [], size - 1
    offset = draw(st.integers(0, left))
    left -= offset
    for _ in range(rank):
        stride = draw(st.sampled_from([0, 1, 2, 3, 4, 6, 8, 12]))
        most = left // stride + 1 if stride else 3
        n = draw(st.integers(1, min(most, 6)))
        shape.append(n)
        strides.append(stride)
        left -= (n - 1) * stride
    order = draw(st.permutations(range(rank)))
    return StridedView(offset, tuple(shape[i] for i in order), tuple(strides[i] for i in order))


def address(view: StridedView, place: Shape) -> int:
    return view.offset + sum(n * stride for n, stride in zip(place, view.strides, strict=True))


@laws
@given(st.data())
def test_a_view_claims_every_element_of_the_memory_that_it_sees(data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([6, 12, 16, 24]))
    view = data.draw(views(size))
    grid = refined((size,), data.draw(views(size)))
    grid = refined(grid, view) if data.draw(st.booleans()) else grid
    assert math.prod(grid) == size
    at = {address(StridedView(0, grid, strides_of(grid)), place): place for place in elements(grid)}
    truth = {(place, at[address(view, place)]) for place in elements(view.shape)}
    to_memory, from_memory = seen(grid, view), placed(grid, view)
    assert (to_memory is None) == (from_memory is None)
    if to_memory is not None and from_memory is not None:
        assert pairs(to_memory, view.shape, grid) >= truth
        assert {(b, a) for a, b in pairs(from_memory, grid, view.shape)} >= truth


@laws
@given(st.data())
def test_parts_of_a_whole_are_told_exactly(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=3).map(tuple))
    whole = StridedView(0, shape, strides_of(shape))
    windows = [
        sorted(data.draw(st.sampled_from(list(itertools.combinations(range(n + 1), 2)))))
        for n in shape
    ]
    order = data.draw(st.permutations(range(len(shape))))
    part = StridedView(
        address(whole, tuple(first for first, _ in windows)),
        tuple(windows[d][1] - windows[d][0] for d in order),
        tuple(whole.strides[d] for d in order),
    )
    grid = refined((math.prod(shape),), whole)
    assume(refined(grid, part) == grid)
    found = seen(grid, part)
    assert found is not None
    at = {address(StridedView(0, grid, strides_of(grid)), place): place for place in elements(grid)}
    truth = {(place, at[address(part, place)]) for place in elements(part.shape)}
    assert pairs(found, part.shape, grid) == truth


def test_rows_and_columns_of_memory_keep_their_index() -> None:
    grid = refined((12,), StridedView(0, (3, 4), (4, 1)))
    assert grid == (3, 4)
    assert seen(grid, StridedView(0, (4, 3), (1, 4))) == ((1, 0), (), ())
    assert seen(grid, StridedView(0, (12,), (1,))) == (((Factor(0, 3), Factor(1, 4)),), (), ())
    assert placed(grid, StridedView(8, (4,), (1,))) == ((LOST, 0), ((0, 2, 3),), ())
    assert seen(grid, StridedView(0, (3, 4), (1, 1))) is None  # windows that overlap
    assert seen(grid, StridedView(3, (4,), (1,))) is None  # from one row into the next


@laws
@given(st.data())
def test_elements_that_are_said_to_be_apart_are(data: st.DataObject) -> None:
    view = data.draw(views(24))
    places = [address(view, place) for place in elements(view.shape)]
    assert len({*places}) == len(places) or not view.is_apart


def test_parts_and_transposes_are_apart() -> None:
    assert StridedView(1, (2, 3, 1), (1, 8, 0)).is_apart
    assert not StridedView(0, (3, 2), (1, 1)).is_apart
    assert not StridedView(0, (3, 2), (0, 1)).is_apart
