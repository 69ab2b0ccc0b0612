"""Pairs in plates: nested, crossed, in turn, subsampled, and some whose claims do not hold."""

# mypy: disable-error-code="no-any-return"

from functools import partial
from typing import Any

from torch import Tensor

from programs.in_pyro import pyro
from programs.pyro_pairs.pair import DATA, MATRIX, Program, T, coin, pair, seen


@pair
def a_plate(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        with pyro.plate("n", 2):
            a = coin("a", p[0])
            seen("x", a, DATA)

    def guide() -> None:
        with pyro.plate("n", 2):
            coin("a", q[:2])

    return model, guide


@pair
def a_plate_under_a_global_draw(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        g = coin("g", p[0])
        with pyro.plate("n", 2):
            a = coin("a", p[1] + g)
            seen("x", a + g, DATA)

    def guide() -> None:
        g = coin("g", q[0])
        with pyro.plate("n", 2):
            coin("a", q[1:3] * g)

    return model, guide


@pair
def a_plate_with_a_branch(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        with pyro.plate("n", 2):
            a = coin("a", p[0])
            b = coin("b", p[1] if a.sum() > 0 else p[2])
            seen("x", b, DATA)

    def guide() -> None:
        with pyro.plate("n", 2):
            coin("a", q[:2])
            coin("b", q[2:])

    return model, guide


@pair
def nested_plates(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    data = MATRIX[:, :2]

    def model() -> None:
        with pyro.plate("rows", 2, dim=-2):
            a = coin("a", p[0])
            with pyro.plate("columns", 2, dim=-1):
                b = coin("b", p[1] * a)
                seen("x", b, data)

    def guide() -> None:
        with pyro.plate("rows", 2, dim=-2):
            a = coin("a", q[:2, None])
            with pyro.plate("columns", 2, dim=-1):
                coin("b", q[2:] * a)

    return model, guide


@pair
def crossed_plates(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    rows, columns = pyro.plate("rows", 2, dim=-2), pyro.plate("columns", 2, dim=-1)

    def model() -> None:
        with rows:
            a = coin("a", p[0])
        with columns:
            b = coin("b", p[1])
        with rows, columns:
            seen("x", a - b, MATRIX[:, :2])

    def guide() -> None:
        with columns:
            coin("b", q[:2])
        with rows:
            coin("a", q[2:, None])

    return model, guide


@pair
def plates_in_turn(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        g = coin("g", p[0])
        for i in pyro.plate("n", 2):
            a = coin(f"a_{i}", p[1] * g)
            seen(f"x_{i}", a, DATA[i])

    def guide() -> None:
        g = coin("g", q[0])
        for i in pyro.plate("n", 2):
            coin(f"a_{i}", q[1 + i] + g)

    return model, guide


@pair
def plates_in_turn_with_a_running_total(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        total: Any = 0.0
        for i in pyro.plate("n", 2):
            total = total + coin(f"a_{i}", p[i])
            seen(f"x_{i}", total, DATA[i])

    def guide() -> None:
        for i in pyro.plate("n", 2):
            coin(f"a_{i}", q[i])

    return model, guide


@pair
def repetitions_that_are_mixed(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    """Claim what is not so: a plate whose repetitions depend on each other."""

    def model() -> None:
        with pyro.plate("n", 2):
            a = coin("a", p[0])
            seen("x", a.cumsum(0), DATA)

    def guide() -> None:
        with pyro.plate("n", 2):
            coin("a", q[:2])

    return model, guide


@pair
def a_subsample(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    plate = partial(pyro.plate, "n", 3, subsample=T([0, 2]))

    def model() -> None:
        g = coin("g", p[0])
        with plate() as i:
            a = coin("a", p[1] + g)
            seen("x", a, MATRIX[0, i])

    def guide() -> None:
        coin("g", q[0])
        with plate() as i:
            coin("a", q[1:][i])

    return model, guide
