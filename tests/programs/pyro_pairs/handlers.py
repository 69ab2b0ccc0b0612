"""Pairs under handlers of Pyro, and of its modules."""

# mypy: disable-error-code="no-any-return"

import pyro.distributions as dist
from pyro.nn import PyroModule, PyroSample
from torch import Tensor

from programs.in_pyro import poutine, pyro
from programs.pyro_links import LINKS
from programs.pyro_pairs.pair import Program, T, coin, in_guide, in_prior, pair, seen


@pair
def a_deterministic(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        a, b = coin("a", p[0]), coin("b", p[1])
        total = pyro.deterministic("total", a + 2 * b)
        seen("x", total)

    def guide() -> None:
        a = coin("a", q[0])
        total = pyro.deterministic("total", a * 0.5)
        coin("b", q[1] + total)

    return model, guide


@pair
def an_auxiliary_draw(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        seen("x", coin("a", p[0]) * p[1])

    def guide() -> None:
        u = coin("u", q[0], infer={"is_auxiliary": True})
        coin("a", q[1] if u > 0 else q[2])

    return model, guide


@pair
def a_condition(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    model, _ = in_prior(LINKS["int"], q, p)
    return poutine.condition(model, {"b": T(1.0)}), lambda: coin("a", q[0])


@pair
def an_intervention(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    model, guide = in_prior(LINKS["int"], q, p)
    return poutine.do(model, {"a": T(1.0)}), guide


@pair
def a_block(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    """Hide a draw of the guide, as noise of which nobody counts the density."""

    def model() -> None:
        seen("x", coin("a", p[0]) * p[1])

    def guide() -> None:
        with poutine.block():
            u = coin("u", q[0])
        coin("a", q[1] * u + q[2])

    return model, guide


@pair
def an_infer_config(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    model, guide = in_guide(LINKS["branch"], q, p)
    return model, poutine.infer_config(guide, lambda _: {"baseline": None})


@pair
def a_module(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    class Model(PyroModule):
        def forward(self) -> None:
            a = coin("a", p[0])
            seen("x", self.w * a if a else self.w)

    model = Model()
    model.w = PyroSample(dist.Normal(0.0, 1.0))

    def guide() -> None:
        a = coin("a", q[0])
        pyro.sample("w", dist.Normal(q[1] * a, 1.0))

    return model, guide
