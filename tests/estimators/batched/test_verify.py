"""Runs at once are refused wherever they could be other than runs in turn."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, Normal, constraints

import ancestral as an
from ancestral.estimators.batched.run import NotVectorizableError

SAMPLES = 6
Model = Callable[[], Any]


def z(loc: float | Tensor = 0.0) -> Tensor:
    return an.sample("z", Normal(loc, 1.0))


def y(loc: float | Tensor) -> None:
    an.sample("y", Normal(loc, 1.0))


def coin() -> Tensor:
    return an.sample("z", Bernoulli(0.5))


def sums_all() -> None:
    y(an.sample("z", Independent(Normal(torch.zeros(2), 1.0), 1)).sum())


def takes_the_mean() -> None:
    y(z().mean())


def normalizes_the_batch() -> None:
    layer = nn.BatchNorm1d(1)
    drawn = an.sample("z", Independent(Normal(torch.zeros(4, 1), 1.0), 2))
    an.sample("y", Independent(Normal(layer(drawn.reshape(-1, 1)).reshape(drawn.shape), 1.0), 2))


def weighs_the_sum() -> None:
    an.factor("f", z().sum())


def branches() -> None:
    if z().mean() > 100:
        y(0.0)


def branches_and_swallows() -> None:
    try:
        loc = 1.0 if z() > 0 else 0.0
    except RuntimeError:
        loc = 0.5
    y(loc)


def reads_a_text() -> None:
    y(float(len(repr(coin().sum()))))


def shares_memory_with_numpy() -> None:
    y(float(coin().detach().numpy().max()))


def looks_into_a_trace() -> None:
    with an.record() as trace:
        z()
    y(trace["z"].value.mean())


def reads_for_a_log() -> None:
    drawn = z()
    with an.control_scope():
        drawn.mean().item()


def branches_out_of_sight() -> None:
    y(3.0 if an.untrack(coin()).sum() > 0 else 0.0)


def mixes_out_of_sight() -> None:
    an.deterministic("m", an.untrack(coin()).max())


def counts_elements() -> None:
    y(float(z().numel()))


def counts_elements_behind_a_mask() -> None:
    drawn = z()
    with an.handlers.mask(torch.tensor(False)):
        y(float(drawn.numel()))


def scales_by_elements() -> None:
    drawn = z()
    with an.handlers.scale(float(drawn.numel())):
        y(drawn)


def weighs_elements() -> None:
    an.factor("f", torch.tensor(float(z().numel())))


def draws_noise() -> None:
    y(z() + torch.randn(()))


def drops_out() -> None:
    y(z() * nn.Dropout(0.5)(torch.ones(())))


def draws_discrete_noise_of_its_own() -> None:
    y(z() + torch.randint(2, (), generator=GENERATOR))


def draws_of_numpy() -> None:
    y(z() + float(np.random.rand()))


def draws_of_python() -> None:
    y(z() + random.random())


def draws_of_a_generator_of_numpy() -> None:
    y(z() + float(RNG.normal()))


def draws_aside() -> None:
    with torch.random.fork_rng():
        noise = torch.randn(())
    y(z() + noise)


def seeds() -> None:
    torch.manual_seed(0)
    z()


def counts_calls() -> None:
    COUNTER[0] += 1
    y(z() + COUNTER[0])


def changes_data() -> None:
    BUFFER.add_(1)
    y(z() + BUFFER.sum())


def names_by_calls() -> None:
    COUNTER[0] += 1
    an.sample(f"z_{COUNTER[0]}", Normal(0.0, 1.0))


def subsamples() -> None:
    with an.plate("rows", 10, 2) as index:
        y(index.float())


def subsamples_without_a_site() -> None:
    with an.plate("rows", 10, 9):
        pass


def subsamples_in_turn() -> None:
    for index in an.plate("rows", 3, 2):
        an.sample(f"z_{index}", Normal(0.0, 1.0))


def draws_for_all() -> None:
    y(Normal(0.0, 1.0).sample())


def draws_as_many_by_chance() -> None:
    y(Normal(0.0, 1.0).sample((SAMPLES,)).sum())


class Shared(Distribution):
    """A distribution whose draws are one value, whatever its batch is."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (as in torch)
    support = constraints.real

    def __init__(self, batch: Any = ()) -> None:
        super().__init__(torch.Size(batch), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Shared":
        return Shared(batch_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return torch.rand(()).expand((*sample_shape, *self.batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return torch.zeros(value.shape)


def draws_one_for_its_batch() -> None:
    an.sample("z", Shared())


class WithoutDensity(Shared):
    """A distribution that cannot be compared."""

    def expand(self, batch_shape: Any, _instance: Any = None) -> "WithoutDensity":
        return WithoutDensity(batch_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return torch.rand((*sample_shape, *self.batch_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError


def has_no_density() -> None:
    an.sample("z", WithoutDensity())


def lifts() -> None:
    with an.handlers.lift(Normal(0.0, 1.0)):
        weight = an.param("weight", torch.zeros(3))
    y(weight)


def fails_at_more_dimensions() -> None:
    if z().dim():
        raise RuntimeError("my own error")


REFUSED: list[tuple[Any, str]] = [
    (sums_all, "mixed by sum"),
    (takes_the_mean, "mixed by mean"),
    (normalizes_the_batch, "other elements of site 'z'"),
    (weighs_the_sum, "mixed by sum"),
    (branches, "Python reads a value that differs from run to run"),
    (branches_and_swallows, "Python reads a value that differs from run to run"),
    (reads_a_text, "Python reads a value that differs from run to run"),
    (shares_memory_with_numpy, "Python reads a value that differs from run to run"),
    (looks_into_a_trace, "at 'y' .* not what it is alone"),
    (reads_for_a_log, "Python reads a value that differs from run to run"),
    (branches_out_of_sight, "untrack hides what differs"),
    (mixes_out_of_sight, "untrack hides what differs"),
    (counts_elements, "at 'y' .* not what it is alone"),
    (counts_elements_behind_a_mask, "at 'y' .* not what it is alone"),
    (scales_by_elements, "at 'y' .* not what it is alone"),
    (weighs_elements, "at 'f' .* not what it is alone"),
    (draws_noise, "random numbers outside its sites"),
    (drops_out, "random numbers outside its sites"),
    (draws_discrete_noise_of_its_own, "random numbers outside its sites"),
    (draws_of_numpy, "random numbers outside its sites"),
    (draws_of_python, "random numbers outside its sites"),
    (draws_of_a_generator_of_numpy, "at 'y' .* not what it is alone"),
    (draws_aside, "random numbers outside its sites"),
    (seeds, "random numbers outside its sites"),
    (counts_calls, "at 'y' .* not what it is alone"),
    (changes_data, "at 'y' .* not what it is alone"),
    (names_by_calls, "its runs differ in their sites: 'z_"),
    (subsamples, "plate 'rows' .* is subsampled"),
    (subsamples_without_a_site, "plate 'rows' .* is subsampled"),
    (subsamples_in_turn, "plate 'rows' .* is subsampled"),
    (draws_for_all, "there is no dimension -1"),
    (draws_as_many_by_chance, "dimension -2"),
    (draws_one_for_its_batch, "Shared of site 'z' .* draws one value for all of its batch"),
    (has_no_density, "nothing can be said of site .z. .* no density"),
    (lifts, "site 'weight'"),
    (fails_at_more_dimensions, r"at .*test_verify.py:\d+ it raises RuntimeError: my own error"),
]
GENERATOR, RNG = torch.Generator(), np.random.default_rng(0)
COUNTER, BUFFER = [0], torch.zeros(1)


@pytest.mark.parametrize(("model", "reason"), REFUSED, ids=[m.__name__ for m, _ in REFUSED])
@pytest.mark.parametrize("seed", range(3))
def test_what_could_be_another_distribution_is_refused(
    model: Model, reason: str, seed: int
) -> None:
    torch.manual_seed(seed)
    predictive = an.infer.Predictive(model, samples=SAMPLES, vectorized=True)
    with pytest.raises(NotVectorizableError, match=f"(?s){reason}"):
        predictive()


def broadcasts() -> None:
    with an.plate("rows", 3):
        y(z() + torch.arange(3.0))
    an.deterministic("constant", torch.ones(2))


def is_set_from_outside() -> None:
    with an.handlers.do({"z": torch.ones(3)}):
        drawn = an.sample("z", Independent(Normal(torch.zeros(3), 1.0), 1))
    y(drawn.sum(-1))


def is_partly_observed() -> None:
    with an.plate("rows", 3):
        seen = torch.tensor([True, False, True])
        an.sample("y", Normal(z(), 1.0), obs=torch.zeros(3), obs_mask=seen)


def shows_a_constant() -> None:
    an.untrack(an.deterministic("constant", torch.ones(()))).item()
    z()


def repeats() -> None:
    for index in an.plate("rows", 3):
        an.sample(f"z_{index}", Normal(0.0, 1.0))


@pytest.mark.parametrize(
    "model",
    [
        broadcasts,
        is_set_from_outside,
        is_partly_observed,
        shows_a_constant,
        repeats,
    ],
)
def test_what_keeps_the_runs_apart_runs_at_once(model: Model) -> None:
    found = an.infer.importance(model, samples=SAMPLES, vectorized=True)
    turns = an.infer.importance(model, samples=SAMPLES, vectorized=False)
    assert {name: value.shape for name, value in found.values.items()} == {
        name: value.shape for name, value in turns.values.items()
    }


def test_an_error_of_the_program_is_raised() -> None:
    class MyError(Exception):
        pass

    def wrong() -> None:
        raise MyError

    with pytest.raises(MyError):
        an.infer.importance(wrong, samples=3)
    with pytest.raises(MyError):
        an.infer.Predictive(wrong, samples=3)()
