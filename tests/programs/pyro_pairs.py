"""Pairs of a model and a guide in Pyro whose draws can be enumerated, and their parameters.

A pair is a function of a guide's parameters q and a model's p, both of four logits, that returns
the model and the guide.
"""

# mypy: disable-error-code="no-any-return"

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro as annotated
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroSample
from torch import Tensor

from programs.pyro_links import LINKS, Link

pyro: Any = annotated  # which wants what its documentation does not
poutine: Any = pyro.poutine

Program = Callable[..., Any]
Pair = Callable[[Tensor, Tensor], tuple[Program, Program]]
PAIRS: dict[str, Pair] = {}
T = torch.tensor
DATA = torch.tensor([0.7, -0.4], dtype=torch.float64)
MATRIX = torch.tensor([[0.7, -0.4, 1.1], [0.2, 0.9, -0.6]], dtype=torch.float64)


def coin(name: str, logits: Any, **options: Any) -> Tensor:
    return pyro.sample(name, dist.Bernoulli(logits=torch.as_tensor(logits)), **options)


def seen(name: str, loc: Any, data: Any = DATA[0]) -> Tensor:
    return pyro.sample(name, dist.Normal(torch.as_tensor(loc), 1.0), obs=data)


def in_guide(link: Link, q: Tensor, p: Tensor) -> tuple[Program, Program]:
    """Draw in the guide by what another draw says."""

    def model() -> None:
        a, b = coin("a", p[0]), coin("b", p[1])
        seen("x", a + 2 * b)

    def guide() -> None:
        a = coin("a", q[0])
        coin("b", q[1] + q[2] * link(a))

    return model, guide


def in_density(link: Link, q: Tensor, p: Tensor) -> tuple[Program, Program]:
    """Observe in the model by what a draw says, beside what another one says."""

    def model() -> None:
        a, b = coin("a", p[0]), coin("b", p[1])
        seen("x", link(a) * p[2])
        seen("y", 2 * b, DATA[1])

    def guide() -> None:
        coin("a", q[0])
        coin("b", q[1])

    return model, guide


def in_prior(link: Link, q: Tensor, p: Tensor) -> tuple[Program, Program]:
    """Draw in the model by what another draw says."""

    def model() -> None:
        a = coin("a", p[0])
        b = coin("b", p[1] + p[2] * link(a))
        seen("x", b)

    def guide() -> None:
        coin("a", q[0])
        coin("b", q[1])

    return model, guide


for _name, _link in LINKS.items():
    for _place in (in_guide, in_density, in_prior):
        PAIRS[f"{_place.__name__}: {_name}"] = partial(_place, _link)


def pair(function: Pair) -> Pair:
    PAIRS[function.__name__] = function
    return function


def two_coins(q: Tensor) -> Program:
    def guide() -> None:
        coin("a", q[0])
        coin("b", q[1])

    return guide


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
def an_auxiliary_draw(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    def model() -> None:
        seen("x", coin("a", p[0]) * p[1])

    def guide() -> None:
        u = coin("u", q[0], infer={"is_auxiliary": True})
        coin("a", q[1] if u > 0 else q[2])

    return model, guide


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
