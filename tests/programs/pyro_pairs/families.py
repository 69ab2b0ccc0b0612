"""Pairs of other families than coins, of events, and of both in one."""

# mypy: disable-error-code="no-any-return"

import pyro.distributions as dist
import torch
from torch import Tensor

from programs.in_pyro import pyro
from programs.pyro_pairs.pair import DATA, MATRIX, Program, coin, pair, seen


@pair
def an_event(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        a = pyro.sample("a", dist.Bernoulli(logits=p[:3]).to_event(1))
        pyro.sample("x", dist.Normal(a, 1.0).to_event(1), obs=MATRIX[0])

    return model, lambda: pyro.sample("a", dist.Bernoulli(logits=q[:3]).to_event(1))


@pair
def an_event_that_is_mixed(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        a = pyro.sample("a", dist.Bernoulli(logits=p[:3]).to_event(1))
        pyro.sample("x", dist.Normal(a.flip(0).cumsum(0), 1.0).to_event(1), obs=MATRIX[0])

    return model, lambda: pyro.sample("a", dist.Bernoulli(logits=q[:3]).to_event(1))


@pair
def elements_without_a_plate(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        a = pyro.sample("a", dist.Bernoulli(logits=p[:2]).to_event(1))
        seen("x", a[0])
        seen("y", a[1], DATA[1])

    return model, lambda: pyro.sample("a", dist.Bernoulli(logits=q[:2]).to_event(1))


@pair
def one_hot(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        a = pyro.sample("a", dist.OneHotCategorical(logits=p[:3]))
        seen("x", (a * MATRIX[0]).sum())

    return model, lambda: pyro.sample("a", dist.OneHotCategorical(logits=q[:3]))


@pair
def binomial(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        k = pyro.sample("k", dist.Binomial(2, logits=p[0]))
        seen("x", k if k > 0 else p[1])

    return model, lambda: pyro.sample("k", dist.Binomial(2, logits=q[0]))


@pair
def a_normal_behind_a_coin(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        a = coin("a", p[0])
        z = pyro.sample("z", dist.Normal(a * p[1], 1.0))
        seen("x", z + a)

    def guide() -> None:
        a = coin("a", q[0])
        pyro.sample("z", dist.Normal(q[1] * a, q[2].exp()))

    return model, guide


@pair
def a_coin_behind_a_normal(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(p[0], 1.0))
        a = coin("a", z)
        seen("x", z * a)

    def guide() -> None:
        z = pyro.sample("z", dist.Normal(q[0], q[1].exp()))
        coin("a", q[2] * z)

    return model, guide


@pair
def normals_in_a_plate_with_coins(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        with pyro.plate("n", 2):
            a = coin("a", p[0])
            z = pyro.sample("z", dist.Normal(a, 1.0))
            seen("x", z * p[1], DATA)

    def guide() -> None:
        with pyro.plate("n", 2):
            a = coin("a", q[:2])
            pyro.sample("z", dist.Normal(torch.where(a > 0, q[2], q[3]), 1.0))

    return model, guide


@pair
def a_family_by_a_coin(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        a = coin("a", p[0])
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        seen("x", z + a)

    def guide() -> None:
        a = coin("a", q[0])
        fn = dist.Normal(q[1], 1.0) if a else dist.Delta(q[2])
        pyro.sample("z", fn)

    return model, guide


@pair
def a_delta_guide(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        a = coin("a", p[0])
        w = pyro.sample("w", dist.Normal(a, 1.0))
        seen("x", w * p[1])

    def guide() -> None:
        coin("a", q[0])
        pyro.sample("w", dist.Delta(q[1]))

    return model, guide


@pair
def a_delta_of_a_draw(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        w = pyro.sample("w", dist.Normal(p[0], 1.0).expand([2]).to_event(1))
        seen("x", w.sum())

    def guide() -> None:
        a = coin("a", q[0], infer={"is_auxiliary": True})
        pyro.sample("w", dist.Delta(torch.stack([a * q[1], q[2]]), q[3] * a, event_dim=1))

    return model, guide


@pair
def a_mixture(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        with pyro.plate("n", 2):
            k = pyro.sample("k", dist.Categorical(logits=p[:2]))
            seen("x", p[2:][k], DATA)

    def guide() -> None:
        with pyro.plate("n", 2):
            pyro.sample("k", dist.Categorical(logits=q.reshape(2, 2)))

    return model, guide


@pair
def a_mixture_family(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        a = coin("a", p[0])
        parts = dist.Normal(torch.stack([a, p[1]]), 1.0)
        fn = dist.MixtureSameFamily(dist.Categorical(logits=p[2:]), parts)
        pyro.sample("x", fn, obs=DATA[0])

    return model, lambda: coin("a", q[0])


@pair
def a_batch_that_data_makes(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        a = coin("a", p[0])
        pyro.sample("x", dist.Normal(a, 1.0).expand([2]).to_event(1), obs=DATA)

    return model, lambda: coin("a", q[0])
