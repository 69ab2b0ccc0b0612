"""The loss for Pyro's SVI sums over what Pyro's marks ask for, and draws as often as they say."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from programs.in_pyro import (
    Program,
    cases,
    poutine,
    pyro,
    pyro_hmm,
    pyro_mixture,
    pyro_mixture_guide,
    sequences,
)
from programs.pyro_steps import Made, T, mixed, nothing, step
from pyro.infer import TraceEnum_ELBO as Enumerated
from pyro.infer import config_enumerate
from torch import Tensor
from torch.testing import assert_close

import ancestral as an
from ancestral.infer import TraceEnum_ELBO
from oracles import Walk, moments

pytestmark = pytest.mark.usefixtures("in_double_precision")


Guided = tuple[Program, Program]


def coin(name: str, logits: Any, **options: Any) -> Tensor:
    return pyro.sample(name, dist.Bernoulli(logits=torch.as_tensor(logits)), **options)  # type: ignore[no-any-return]


def hmm() -> tuple[Program, Program, tuple[Any, ...]]:
    xs, lengths, logits = sequences()
    every: Any = config_enumerate(pyro_hmm, "parallel")
    return lambda: every(xs[:, :4], lengths, logits.softmax(-1)), lambda: None, ()


def assigned() -> tuple[Program, Program, tuple[Any, ...]]:
    model, guide = (config_enumerate(f, "parallel") for f in (pyro_mixture, pyro_mixture_guide))
    return model, guide, cases()


def long_chain() -> tuple[Program, Program, tuple[Any, ...]]:
    """Return a chain of more steps than a tensor has dimensions, each with a second site."""

    def model() -> None:
        moves = pyro.param("moves", lambda: torch.rand(3, 3), constraint=dist.constraints.simplex)
        shows = pyro.param("shows", lambda: torch.randn(3, 2))
        x = torch.tensor(0)
        for turn in pyro.markov(range(70)):
            x = pyro.sample(f"x_{turn}", dist.Categorical(moves[x]))
            y = pyro.sample(f"y_{turn}", dist.Bernoulli(0.3))
            logits = torch.where(y > 0, shows[x, 0], shows[x, 1])
            pyro.sample(f"z_{turn}", dist.Bernoulli(logits=logits), obs=T(float(turn % 3 > 0)))

    return config_enumerate(model), lambda: None, ()


def half_marked() -> tuple[Program, Program, tuple[Any, ...]]:
    model, guide, data = mixed()
    marked: Any = poutine.infer_config(
        guide, lambda site: {"enumerate": "parallel"} if site["name"] == "a" else {}
    )
    return model, marked, data


@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
@pytest.mark.parametrize("made", [hmm, assigned, long_chain])
@pytest.mark.parametrize("nesting", [1, float("inf")])
def test_sums_over_what_is_marked_are_those_of_pyro(made: Made, nesting: float) -> None:
    options: Any = {"max_plate_nesting": nesting}
    found = step(TraceEnum_ELBO(**options), made)
    assert_close(found, step(Enumerated(**options), made))


def test_columns_that_come_back_into_sight_keep_their_dimensions() -> None:
    """Beside all 16 outcomes; Pyro gives dimensions back that are still depended on: 1.4165."""
    logits = T([[0.3, -0.7], [1.1, -0.4]])
    cells = list(itertools.product(range(2), repeat=2))

    def weight(row: int, column: int) -> float:
        return 0.3 * (1 + row + column)

    def model() -> None:
        above, columns = [torch.tensor(0)] * 2, pyro.markov(range(2), keep=True)
        for row in pyro.markov(range(2)):
            left = torch.tensor(0)
            for column in columns:
                fn = dist.Bernoulli(logits=logits[left, above[column]])
                left = above[column] = pyro.sample(f"x_{row}_{column}", fn).long()
                pyro.factor(f"f_{row}_{column}", left * weight(row, column))

    total = 0.0
    for values in itertools.product((0, 1), repeat=4):
        x = dict(zip(cells, values, strict=True))
        density = T(0.0)
        for row, column in cells:
            behind = x.get((row, column - 1), 0), x.get((row - 1, column), 0)
            value = T(float(x[row, column]))
            density += dist.Bernoulli(logits=logits[behind]).log_prob(value)
            density += value * weight(row, column)
        total += float(density.exp())
    found = TraceEnum_ELBO(max_plate_nesting=0).loss(config_enumerate(model), nothing)
    assert found == pytest.approx(-math.log(total))


@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
def test_what_is_marked_to_be_summed_in_turn_has_the_same_sum() -> None:
    def in_turn() -> tuple[Program, Program, tuple[Any, ...]]:
        return pyro_mixture, config_enumerate(pyro_mixture_guide, "sequential"), cases()

    found = step(TraceEnum_ELBO(max_plate_nesting=1), in_turn)
    assert_close(found, step(Enumerated(max_plate_nesting=1), assigned))


def test_what_is_not_marked_is_drawn() -> None:
    found, _ = step(TraceEnum_ELBO(max_plate_nesting=1), half_marked)
    peer, _ = step(Enumerated(max_plate_nesting=1), half_marked)
    assert found == pytest.approx(peer)


def test_marginals_of_what_is_marked() -> None:
    model, _, data = assigned()
    found, peer = (
        loss(max_plate_nesting=1).compute_marginals(model, lambda *_: None, *data)
        for loss in (TraceEnum_ELBO, Enumerated)
    )
    assert_close(found["c_unobserved"].logits, peer["c_unobserved"].logits)


def often(**options: Any) -> Any:
    return {"enumerate": "parallel", "num_samples": 2, **options}


def chain(q: Tensor) -> Guided:
    """Draw along: what depends on draws is drawn once for each of them."""

    def model() -> None:
        a = coin("a", 0.3)
        b = coin("b", a - 0.5)
        pyro.sample("x", dist.Normal(a + 2 * b, 1.0), obs=T(0.7))

    def guide() -> None:
        a = coin("a", q[0], infer=often())
        coin("b", q[1] + q[2] * a, infer=often())

    return poutine.scale(model, 2.0), poutine.scale(guide, 2.0)


def pairs(q: Tensor) -> Guided:
    """Draw for each, and sum over what depends on both."""

    def model() -> None:
        a, b, c = coin("a", 0.3), coin("b", -0.2), coin("c", 0.1)
        pyro.sample("x", dist.Normal(a + 2 * b + c, 1.0), obs=T(0.7))

    def guide() -> None:
        a = coin("a", q[0], infer=often())
        b = coin("b", q[1] + q[2] * a, infer=often(expand=True))
        coin("c", q[1] * a + q[0] * b, infer={"enumerate": "parallel"})

    return model, guide


def plated(q: Tensor) -> Guided:
    """Draw along paths, beside a mask."""

    def model() -> None:
        with pyro.plate("n", 2), poutine.mask(mask=T([True, False])):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            k = coin("k", z)
            pyro.sample("x", dist.Normal(z + k, 1.0), obs=T([0.7, -0.2]))

    def guide() -> None:
        with pyro.plate("n", 2), poutine.mask(mask=T([True, False])):
            z = pyro.sample("z", dist.Normal(q[0], q[1].exp()), infer=often())
            coin("k", q[2] * z, infer={"enumerate": "parallel"})

    return model, guide


def once(guide: Program) -> Program:
    """Return a guide that draws each site once."""
    return poutine.infer_config(  # type: ignore[no-any-return]
        guide, lambda site: often(num_samples=1) if "num_samples" in site["infer"] else {}
    )


@pytest.mark.parametrize("made", [chain, pairs, plated])
@pytest.mark.parametrize("baseline", ["auto", None])
def test_the_mean_over_all_outcomes_of_several_draws_is_that_of_one(
    made: Callable[[Tensor], Guided], baseline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = Walk.draw

    def drawn(walk: Walk, fn: Any, shape: torch.Size) -> Tensor:
        value = draw(walk, fn, shape)
        walk.log_probs[-1] = an.untrack(walk.log_probs[-1])
        return value

    monkeypatch.setattr(Walk, "draw", drawn)
    q = T([0.3, -0.4, 0.5]).requires_grad_()
    loss = TraceEnum_ELBO(max_plate_nesting=1, baseline=baseline)
    model, guide = made(q)

    def mean_of(guide: Program) -> Tensor:
        def gradient(*_: object) -> Tensor:
            q.grad = None
            value = loss.loss_and_grads(model, guide)
            assert q.grad is not None
            return torch.cat([q.grad, T([value])])

        return moments(lambda _: T(loss.loss(model, guide)), [q], gradient).mean

    assert_close(mean_of(guide), mean_of(once(guide)), rtol=1e-10, atol=1e-10)


def test_draws_stand_where_pyro_has_them() -> None:
    shapes: list[tuple[int, ...]] = []

    def program() -> None:
        with pyro.plate("n", 3):
            a = coin("a", 0.0)
            b = pyro.sample("b", dist.Normal(a, 1.0))
            shapes.append(tuple(b.shape))

    guide = config_enumerate(program, "parallel", True, 4)
    for loss in (TraceEnum_ELBO, Enumerated):
        loss(max_plate_nesting=1).loss(program, guide)
    assert set(shapes) == {(4, 4, 3)}
