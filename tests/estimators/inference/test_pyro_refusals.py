"""What users do wrong in a step of Pyro is refused, with the line of their statement."""

from collections.abc import Iterator
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from programs.in_pyro import (
    Program,
    poutine,
    pyro,
)
from programs.pyro_steps import T, nothing
from pyro.infer import config_enumerate
from torch import Tensor

import ancestral as an
from ancestral.infer import TraceEnum_ELBO, TraceGraph_ELBO

pytestmark = pytest.mark.usefixtures("in_double_precision")


def refused(model: Program, guide: Program, loss: Any = None) -> Any:
    """Return the error of a step, which is to name this file."""
    with pytest.raises((ValueError, RuntimeError)) as caught:
        (loss or TraceGraph_ELBO()).loss_and_grads(model, guide)
    notes: list[str] = getattr(caught.value, "__notes__", [])
    assert __file__ in " ".join([str(caught.value), *notes])
    return caught


def coin(name: str = "z", logits: Any = 0.0, **options: Any) -> Tensor:
    return pyro.sample(name, dist.Bernoulli(logits=torch.as_tensor(logits)), **options)  # type: ignore[no-any-return]


def test_a_guide_that_misses_a_site() -> None:
    caught = refused(lambda: coin(), lambda: coin("y"))
    assert caught.errisinstance(an.errors.GuideError)
    assert "'z'" in str(caught.value)


def test_a_guide_with_a_site_too_many() -> None:
    refused(nothing, lambda: coin())


def test_a_guide_that_observes() -> None:
    refused(lambda: coin(), lambda: coin(obs=T(1.0)))


def test_a_site_that_is_there_twice() -> None:
    def model() -> None:
        coin()
        coin()

    assert "Multiple sample sites named 'z'" in str(refused(model, lambda: coin()).value)


INFERS: list[dict[str, Any]] = [
    {"enumerat": "parallel"},
    {"enumerate": "paralel"},
    {"estimator": "scor"},
    {"is_auxilary": True},
    {"num_samples": 3},
    {"enumerate": "parallel", "num_samples": 0},
    {"enumerate": "parallel", "num_samples": 1.5},
]
BASELINES: list[dict[str, Any]] = [
    {"baseline": {"use_decaying_average": True}},
    {"baseline": {"nn_baseline": len, "baseline_value": 1}},
    {"baseline": {"baseline_value": torch.zeros(3)}},
]


def learned_coin(infer: dict[str, Any]) -> Program:
    return lambda: coin(logits=pyro.param("q", T(0.1)), infer=infer)


@pytest.mark.parametrize("infer", INFERS + BASELINES)
def test_what_nothing_reads_in_infer(infer: dict[str, Any]) -> None:
    refused(lambda: coin(), learned_coin(infer))


@pytest.mark.parametrize("infer", INFERS)
def test_what_nothing_reads_in_infer_of_a_model_that_a_guide_answers(infer: dict[str, Any]) -> None:
    assert refused(lambda: coin(infer=infer), learned_coin({})).errisinstance(an.errors.SiteError)


def test_a_value_outside_the_support() -> None:
    def model() -> None:
        pyro.sample("x", dist.Bernoulli(0.5), obs=T(3.0))

    assert refused(model, nothing).errisinstance(an.errors.SiteError)


def test_a_density_that_is_not_finite() -> None:
    def model() -> None:
        pyro.factor("f", T(0.0).log())

    assert refused(model, nothing).errisinstance(an.errors.NonFiniteDensityError)


def test_a_batch_that_no_plate_declares() -> None:
    def model() -> None:
        pyro.sample("x", dist.Normal(torch.zeros(3), 1.0), obs=torch.zeros(3))

    assert refused(model, nothing).errisinstance(an.errors.SiteError)
    refused(model, nothing, TraceGraph_ELBO(2, vectorize_particles=True, max_plate_nesting=0))
    found = refused(model, nothing, TraceGraph_ELBO(2, vectorize_particles=True))
    assert found.errisinstance(an.errors.SiteError)


def test_plates_of_a_run_of_all_particles_that_leave_no_room_for_them() -> None:
    def model() -> None:
        with pyro.plate("n", 3, dim=-2):
            coin("x", obs=torch.ones(3, 1))

    refused(model, nothing, TraceGraph_ELBO(2, vectorize_particles=True, max_plate_nesting=1))


@pytest.mark.parametrize(
    "options", [{"num_particles": 0}, {"num_particles": 1.5}, {"max_plate_nesting": -1}]
)
def test_counts_that_are_none(options: dict[str, Any]) -> None:
    for loss in (TraceGraph_ELBO, TraceEnum_ELBO):
        with pytest.raises(ValueError, match=r"must be an int greater than"):
            loss(**options)


def test_a_marked_site_that_python_reads() -> None:
    def model() -> None:
        if coin(infer={"enumerate": "parallel"}) > 0:
            coin("y", infer={"enumerate": "parallel"})

    refused(model, nothing, TraceEnum_ELBO(max_plate_nesting=0))


def test_several_draws_that_python_reads_or_that_the_model_makes() -> None:
    often: Any = {"enumerate": "parallel", "num_samples": 2}
    loss = TraceEnum_ELBO(max_plate_nesting=0)

    def guide() -> None:
        if coin(infer=often).sum() > 0:
            coin("y", infer=often)

    refused(lambda: (coin(), coin("y")), guide, loss)
    refused(lambda: coin(infer=often), nothing, loss)
    with an.handlers.enumerate():
        refused(lambda: coin(), lambda: coin(infer=often))


def test_a_site_to_be_enumerated_in_turn_that_python_reads() -> None:
    guide = config_enumerate(lambda: coin("y" if coin() > 0 else "x"), "sequential")
    refused(lambda: coin(), guide, TraceEnum_ELBO(max_plate_nesting=0))


@pytest.mark.parametrize("has_rsample", [None, False])
def test_a_factor_of_a_guide_that_stands_for_a_score(has_rsample: bool | None) -> None:
    def guide() -> None:
        pyro.factor("f", pyro.param("q", T(0.1)) * 2, has_rsample=has_rsample)

    assert refused(nothing, guide).errisinstance(an.errors.GuideError)


def test_marks_and_losses_that_do_not_go_together() -> None:
    marked = config_enumerate(lambda: coin(logits=0.2), "parallel")
    with pytest.warns(UserWarning, match=r"TraceEnum_ELBO"):
        TraceGraph_ELBO().loss(lambda: coin(), marked)
    with pytest.warns(UserWarning, match="found no sample sites configured for enumeration"):
        TraceEnum_ELBO(max_plate_nesting=0).loss(lambda: coin(), lambda: coin())


def a_generator() -> Iterator[Tensor]:
    yield coin()


async def a_coroutine() -> Tensor:
    return coin()


class Called:
    def __call__(self) -> Iterator[Tensor]:
        yield coin()


UNRUN: dict[str, Any] = {
    "a generator": a_generator,
    "one that a function returns": lambda: a_generator(),
    "one by a handler": poutine.scale(a_generator, 2.0),
    "a coroutine": lambda: a_coroutine(),
    "an object": Called(),
}


@pytest.mark.parametrize("program", UNRUN.values(), ids=UNRUN)
def test_what_runs_later_is_no_model_and_no_guide(program: Any) -> None:
    for model, guide in ((program, nothing), (nothing, program)):
        with pytest.raises(TypeError, match="generator"):
            TraceGraph_ELBO().loss_and_grads(model, guide)
