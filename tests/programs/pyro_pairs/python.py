"""Pairs in which Python decides what is drawn: branches, loops, recursion, indices."""

# mypy: disable-error-code="no-any-return"

import pyro.distributions as dist
import torch
from torch import Tensor

from programs.in_pyro import pyro
from programs.pyro_pairs.pair import DATA, Program, T, coin, pair, seen


@pair
def ordered_logistic(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        a = coin("a", p[0])
        cuts = torch.stack([a - 0.5, a + 0.5])
        pyro.sample("x", dist.OrderedLogistic(p[1], cuts), obs=T(1))

    return model, lambda: coin("a", q[0])


@pair
def drawn_ordered_logistic(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    cuts = T([-0.5, 0.8])

    def model() -> None:
        a = coin("a", p[0])
        k = pyro.sample("k", dist.OrderedLogistic(p[1] + a, cuts))
        seen("x", k * 0.7)

    def guide() -> None:
        a = coin("a", q[0])
        pyro.sample("k", dist.OrderedLogistic(q[1] * a + q[2], cuts))

    return model, guide


@pair
def a_site_that_is_there_at_times(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        if coin("a", p[0]) > 0:
            b = coin("b", p[1])
            seen("x", b)
        else:
            seen("y", p[2])

    def guide() -> None:
        if coin("a", q[0]) > 0:
            coin("b", q[1])

    return model, guide


@pair
def another_family_at_times(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        a, k = coin("a", p[0]), pyro.sample("k", dist.Categorical(logits=p[:3]))
        seen("x", a + k)

    def guide() -> None:
        a = coin("a", q[0])
        logits = q[:3] if a.item() else q[:3] * 0.3
        pyro.sample("k", dist.Categorical(logits=logits))

    return model, guide


@pair
def names_by_a_draw(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        a = coin("a", p[0])
        b = coin(f"b_{int(a)}", p[1])
        seen("x", b)

    def guide() -> None:
        a = coin("a", q[0])
        coin(f"b_{int(a)}", q[1])

    return model, guide


@pair
def a_loop_of_random_length(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def steps(logits: Tensor) -> list[Tensor]:
        found: list[Tensor] = []
        while len(found) < 3:
            found.append(coin(f"a_{len(found)}", logits[len(found)]))
            if not found[-1]:
                break
        return found

    def model() -> None:
        seen("x", sum(steps(p), T(0.0)))

    return model, lambda: steps(q)


@pair
def recursion(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def depth(logits: Tensor, n: int = 0) -> int:
        if n == 3 or coin(f"a_{n}", logits[n]).item() == 0:
            return n
        return depth(logits, n + 1)

    return lambda: seen("x", float(depth(p))), lambda: depth(q)


@pair
def a_chain(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def chain(logits: Tensor, is_model: bool) -> None:
        z = T(0.0)
        for t in range(3):
            z = coin(f"z_{t}", logits[0] + logits[1] * z)
            if is_model:
                seen(f"x_{t}", z, DATA[t % 2])

    return lambda: chain(p, True), lambda: chain(q, False)


@pair
def a_state_space_of_python(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def chain(logits: Tensor, is_model: bool) -> None:
        state = 0
        for t in range(3):
            state = int(pyro.sample(f"z_{t}", dist.Categorical(logits=logits[state : state + 3])))
            state = min(state, 1)
            if is_model:
                seen(f"x_{t}", state * 0.7, DATA[t % 2])

    return lambda: chain(p, True), lambda: chain(q, False)
