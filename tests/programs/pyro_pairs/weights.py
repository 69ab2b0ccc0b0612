"""Pairs whose log-probabilities are masked, scaled, or factors."""

# mypy: disable-error-code="no-any-return"

from typing import Any

import pyro.distributions as dist
from torch import Tensor

from programs.in_pyro import poutine, pyro
from programs.pyro_links import LINKS
from programs.pyro_pairs.pair import DATA, Program, T, coin, in_prior, pair, seen, two_coins


@pair
def a_mask(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        with pyro.plate("n", 2), poutine.mask(mask=T([True, False])):
            a = coin("a", p[0])
            seen("x", a, DATA)

    def guide() -> None:
        with pyro.plate("n", 2), poutine.mask(mask=T([True, False])):
            coin("a", q[:2])

    return model, guide


@pair
def a_mask_of_data_alone(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        with pyro.plate("n", 2):
            a = coin("a", p[0])
            pyro.sample("x", dist.Normal(a, 1.0).mask(T([False, True])), obs=DATA)

    def guide() -> None:
        with pyro.plate("n", 2):
            coin("a", q[:2])

    return model, guide


@pair
def a_mask_of_elements(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    """Hide elements of an event, of which the data still depend on all."""
    which = T([True, False])

    def model() -> None:
        a = pyro.sample("a", dist.Bernoulli(logits=p[:2]).mask(which).to_event(1))
        seen("x", a @ p[2:])

    def guide() -> None:
        pyro.sample("a", dist.Bernoulli(logits=q[:2]).mask(which).to_event(1))

    return model, guide


@pair
def a_mask_of_elements_by_a_draw(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def drawn(logits: Tensor, plate: Any) -> Tensor:
        with plate:
            a = coin("a", logits[:2])
            fn = dist.Bernoulli(logits=logits[2:]).expand([2, 2]).mask(a[:, None])
            return pyro.sample("b", fn.to_event(1)) * a[:, None]

    def model() -> None:
        plate = pyro.plate("n", 2)
        b = drawn(p, plate)
        with plate:
            seen("x", b.sum(-1), DATA)

    return model, lambda: drawn(q, pyro.plate("n", 2))


@pair
def a_mask_by_a_draw(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        a, b = coin("a", p[0]), coin("b", p[1])
        with poutine.mask(mask=a > 0):
            seen("x", b)
        seen("y", p[2])

    return model, two_coins(q)


@pair
def a_scale(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    model, guide = in_prior(LINKS["branch"], q, p)
    return poutine.scale(model, 2.5), poutine.scale(guide, 2.5)


@pair
def scales_of_parts(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        a = coin("a", p[0])
        with poutine.scale(scale=T([0.5, 2.0])), pyro.plate("n", 2):
            seen("x", a, DATA)
        coin("b", p[1])

    return model, two_coins(q)


@pair
def a_factor(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        a, b = coin("a", p[0]), coin("b", p[1])
        pyro.factor("f", -((a - b * p[2]) ** 2))
        if b:
            pyro.factor("g", a * p[3])

    return model, two_coins(q)


@pair
def an_obs_mask(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    which = T([True, False])

    def model() -> None:
        with pyro.plate("n", 2):
            a = pyro.sample(
                "a", dist.Bernoulli(logits=p[0].expand(2)), obs=T([1.0, 0.0]), obs_mask=which
            )
            seen("x", a, DATA)

    def guide() -> None:
        with pyro.plate("n", 2), poutine.mask(mask=~which):
            coin("a_unobserved", q[:2])

    return model, guide
