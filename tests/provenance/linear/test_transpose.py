"""The table of linear ops: every adjoint is the transpose of its op, and every op has a case."""

# mypy: disable-error-code="no-any-return"

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_calls import CASES, SPLIT_CASES, Case, Source, called, loss_case, where_case
from torch import Tensor

import ancestral as an
from ancestral.estimators.gradient.decompose import Walk
from ancestral.estimators.gradient.loss_terms import LossMismatchError, terms_of
from ancestral.provenance.linear.loss_functions import loss
from ancestral.provenance.linear.transpose import name_of as name_of_form
from ancestral.provenance.rules.registry import LINEAR, SPLITS
from ancestral.provenance.tensor.linear_form import Placed, Weight

Function = Callable[..., Any]


def name_of(function: Function) -> str:
    """Return the name of a function, or of the attribute that it reads."""
    owner = function if function.__name__ != "__get__" else function.__self__  # type: ignore[attr-defined]
    return str(owner.__name__)


def title(function: Any) -> str:
    """Return the name of a function and where it stands."""
    is_method = hasattr(function, "__objclass__") or function.__name__ == "__get__"
    return f"{'Tensor' if is_method else 'torch'}.{name_of(function)}"


def case_of(function: Function, cases: dict[str, Case]) -> Case | None:
    """Return the case of a function, None where nobody has written one."""
    if LINEAR.get(function) is loss:
        return functools.partial(loss_case, function)
    if name_of(function) == "where":
        return functools.partial(where_case, function)
    return next((case for names, case in cases.items() if name_of(function) in names.split()), None)


FUNCTIONS: list[Function] = sorted(LINEAR, key=title)
every_function = pytest.mark.parametrize("function", FUNCTIONS, ids=title)
every_split = pytest.mark.parametrize("function", sorted(SPLITS, key=title), ids=title)


def test_every_linear_op_has_a_case() -> None:
    without = [title(f) for f in FUNCTIONS if case_of(f, CASES) is None]
    without += [title(f) for f in SPLITS if case_of(f, SPLIT_CASES) is None]
    assert without == []


def test_no_case_is_of_an_op_that_is_not_in_the_table() -> None:
    names = {name_of(f) for f in [*LINEAR, *SPLITS]}
    written = {name for cases in (CASES, SPLIT_CASES) for key in cases for name in key.split()}
    assert {name for name in written if name not in names} == set()


def dot(a: Any, b: Tensor) -> float:
    """Return the sum of the products."""
    return float((torch.as_tensor(a, dtype=torch.float64) * an.untrack(b).detach().double()).sum())


def assert_is_transposed(result: Tensor, weight: Tensor | float) -> None:
    """Check that <w, A x> is <A^T w, x>, constants included, by one walk."""
    assert result._form is not None  # type: ignore[attr-defined]
    walk = Walk()
    walk.run(result, weight)
    below = sum(dot(each.total, each.operand) for each in walk.leaves.values())
    expected = dot(weight, result)
    assert below + walk.constant == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert {id(each.operand) for each in walk.leaves.values()}.isdisjoint({id(result)})


@st.composite
def sources(draw: st.DrawFn) -> Source:
    """Draw the sizes and the numbers of a case."""
    return Source(draw(st.integers(2, 4)), draw(st.integers(2, 4)), draw(st.integers(0, 10**6)))


few = settings(max_examples=8, deadline=None, derandomize=True, database=None)


@every_function
@few
@given(source=sources())
def test_the_adjoint_of_every_linear_op_is_its_transpose(
    function: Function, source: Source
) -> None:
    if name_of(function) in ("trace",):
        source.columns = source.rows
    case = case_of(function, CASES)
    assert case is not None
    result = called(function, case, source)
    size = tuple(an.untrack(result).shape)
    assert_is_transposed(result, source.c(*size) if size else source.c(1).sum())
    assert_is_transposed(result, 0.75)


@every_split
@few
@given(source=sources())
def test_the_adjoint_of_every_part_is_its_transpose(function: Function, source: Source) -> None:
    case = case_of(function, SPLIT_CASES)
    assert case is not None
    for part in called(function, case, source):
        assert_is_transposed(part, source.c(*an.untrack(part).shape))
        assert_is_transposed(part, -1.25)


def test_a_cast_that_rounds_has_no_form() -> None:
    x = an.track(torch.randn(3, dtype=torch.float64), "x")
    for rounded in (x.float(), x.to(torch.float32), x.sum(dtype=torch.float32), x.to(torch.int64)):
        assert rounded._form is None  # type: ignore[attr-defined]


def test_a_dimension_that_was_drawn_is_no_constant() -> None:
    x = an.track(torch.randn(3), "x")
    dim: Any = an.track(torch.tensor(0), "dim")
    for result in (torch.stack([x, x], dim), torch.cat([x, x], dim), torch.cumsum(x, dim)):
        assert result._form is None  # type: ignore[attr-defined]
        assert an.provenance_of(result) == {"x", "dim"}


ZERO: Any = torch.tensor(0)  # a number, given as a tensor


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.x().select(ZERO, ZERO),
        lambda s: torch.flip(s.x(), [ZERO]),
        lambda s: torch.diagonal_scatter(s.x(2, 2), s.x(2), ZERO),
        lambda s: torch.diff(s.x(), prepend=s.c(), append=s.x()),
        lambda s: (lambda x: torch.where(s.mask(), x, x))(s.x()),
        lambda s: (lambda x: torch.lerp(x, x, 0.25))(s.x()),
        lambda s: (lambda x: torch.addcmul(x, x, s.c(), value=ZERO + 2))(s.x()),
        lambda s: torch.cat(tensors=[s.x()] * 3),
        lambda s: torch.einsum("ij,jk", [s.c(), s.x(s.columns, 2)]),
        lambda s: torch.einsum(s.c(), [0, 1], s.x(), [0, 1]),
        lambda s: s.x().sum(0, dtype=torch.float64).cumsum(0, dtype=torch.float64),
        lambda s: torch.addmm(s.c(s.rows, 2), mat1=s.x(), mat2=s.c(s.columns, 2)),
    ],
)
def test_an_operand_is_found_however_it_is_given(call: Callable[[Source], Tensor]) -> None:
    result = call(Source(3, 3, 11))
    assert_is_transposed(result, torch.rand(result.shape, dtype=torch.float64))
    assert_is_transposed(result, 0.75)


def test_a_sum_over_dimensions_that_are_tensors_is_one_cost() -> None:
    x: Any = an.track(torch.randn(3, 2), "x")
    assert x.sum(ZERO)._form is None
    assert x.mean([0, ZERO + 1])._form is None


class Twice:
    """An adjoint that is twice as large as it should be."""

    def __init__(self, right: Any) -> None:
        self.right = right
        # By which an operator is known.
        self.func, self.args = getattr(right, "func", right), getattr(right, "args", ())

    def __call__(self, weight: Weight) -> list[Any]:
        return [
            share._replace(weight=2 * share.weight) if isinstance(share, Placed) else 2 * share
            for share in self.right(weight)
        ]


# What runs its own operator tells less, for the sake of speed.
FAST = "add sub mul div true_divide __add__ __radd__ __sub__ __mul__ __rmul__ __truediv__"
OPERATORS = {f for f in LINEAR if name_of(f) in FAST.split()}


def bare(name: str) -> str:
    """Return the name of an op whatever it is called by: __iadd__ is add_."""
    return re.sub(r"^__i?|_+$", "", name)


@every_function
def test_a_wrong_adjoint_of_any_linear_op_is_named(function: Function) -> None:
    case = case_of(function, CASES)
    assert case is not None
    result = called(function, case, Source(3, 3, 7))
    name = name_of_form(result._form)
    result._form = (result._form[0], Twice(result._form[1]), *result._form[2:])
    loss = result.sum() / 3 + 1
    with pytest.raises(LossMismatchError, match=re.escape(f"{name}, of shape ")) as raised:
        terms_of(loss)
    assert bare(name) == bare(name_of(function)) or function in OPERATORS
    assert re.search(r"depending on 'x\d+'", str(raised.value))
