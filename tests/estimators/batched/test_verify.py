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
from ancestral.estimators.batched.verify import compared

SAMPLES = 6
MIXED = "mixed by (sum|mean)"
READ = "Python reads a value that differs from run to run"
HIDDEN = "untrack hides what differs"
DRAWN = "random numbers outside its sites"
OTHER = "at '[yfc]' .* not what it is alone"
PART = "plate 'rows' .* is subsampled"
Model = Callable[[], Any]


def z(loc: float | Tensor = 0.0) -> Tensor:
    return an.sample("z", Normal(loc, 1.0))


def y(loc: float | Tensor) -> Tensor:
    return an.sample("y", Normal(loc, 1.0))


def coin() -> Tensor:
    return an.sample("z", Bernoulli(0.5))


def normalizes_the_batch() -> None:
    layer = nn.BatchNorm1d(1)
    drawn = an.sample("z", Independent(Normal(torch.zeros(4, 1), 1.0), 2))
    an.sample("y", Independent(Normal(layer(drawn.reshape(-1, 1)).reshape(drawn.shape), 1.0), 2))


def branches() -> None:
    if z().mean() > 100:
        y(0.0)


def branches_and_swallows() -> None:
    try:
        loc = 1.0 if z() > 0 else 0.0
    except RuntimeError:
        loc = 0.5
    y(loc)


def reads_for_a_log() -> None:
    drawn = z()
    with an.control_scope():
        drawn.mean().item()


def looks_into_a_trace() -> None:
    with an.record() as trace:
        z()
    y(trace["z"].value.mean())


def reads_the_largest_of_a_trace() -> None:
    """Read a value, without provenance, that is right for one of the runs."""
    with an.record() as trace:
        z()
    y(trace["z"].value.max())


def counts_behind_a_mask() -> None:
    drawn = z()
    with an.handlers.mask(torch.tensor(False)):
        y(float(drawn.numel()))


def scales_by_elements() -> None:
    drawn = z()
    with an.handlers.scale(float(drawn.numel())):
        y(drawn)


def repeats_by_elements() -> None:
    an.deterministic("c", torch.arange(float(z().numel())))


def draws_aside(noise: Callable[[], Tensor]) -> None:
    drawn = z()
    with torch.random.fork_rng():
        shared = noise()
    y(drawn + shared)


def opens_a_seed() -> None:
    with an.handlers.seed(0):
        an.sample("z", STANDARD)


def hides_a_draw() -> None:
    with an.handlers.block():
        drawn = z()
    y(drawn)


def counts_calls() -> None:
    COUNTER[0] += 1
    y(z() + COUNTER[0])


def changes_its_size() -> None:
    SIZES.append(SIZES.pop(0))
    an.deterministic("c", torch.ones(SIZES[0]))


def names_by_calls() -> None:
    COUNTER[0] += 1
    an.sample(f"z_{COUNTER[0]}", STANDARD)


def is_computed_at_times() -> None:
    COUNTER[0] += 1
    an.sample("z", STANDARD) if COUNTER[0] % 2 else an.deterministic("z", torch.zeros(()))


def subsamples(size: int, model: Callable[[Tensor], Any] = lambda index: None) -> None:
    with an.plate("rows", 10, size) as index:
        model(index)


def subsamples_in_turn() -> None:
    for index in an.plate("rows", 3, 2):
        an.sample(f"z_{index}", STANDARD)


class Odd(Distribution):
    """A distribution on the real numbers that is given how it draws, and what its density is."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (as in torch)
    support: Any = constraints.real

    def __init__(self, draw: Any, log_prob: Any, batch: Any = ()) -> None:
        super().__init__(torch.Size(batch), validate_args=False)
        self._draw, self._log_prob = draw, log_prob

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Odd":
        return type(self)(self._draw, self._log_prob, batch_shape)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        found: Tensor = self._draw((*sample_shape, *self.batch_shape))
        return found

    def log_prob(self, value: Tensor) -> Tensor:
        found: Tensor = self._log_prob(value)
        return found


class Coin(Odd):
    """Another, on 0 and 1."""

    support = constraints.boolean


def one_coin() -> Tensor:
    return torch.randint(2, ()).float()


def raises(_: Tensor) -> Tensor:
    raise NotImplementedError


def lifts() -> None:
    with an.handlers.lift(STANDARD):
        weight = an.param("weight", torch.zeros(3))
    y(weight)


def fails_at_more_dimensions() -> None:
    if z().dim():
        raise RuntimeError("my own error")


STANDARD = Normal(0.0, 1.0)
GENERATOR, RNG = torch.Generator(), np.random.default_rng(0)
COUNTER, BUFFER = [0], torch.zeros(1)
SIZES = [1, 3, 3]  # the last of three runs has one
REFUSED: dict[str, tuple[Model, str]] = {
    # The ledger of plates: a run depends on others.
    "sum": (lambda: y(an.sample("z", Independent(Normal(torch.zeros(2), 1.0), 1)).sum()), MIXED),
    "mean": (lambda: y(z().mean()), MIXED),
    "sum in a factor": (lambda: an.factor("f", z().sum()), MIXED),
    "batch norm": (normalizes_the_batch, "other elements of site 'z'"),
    "mean that is named": (lambda: an.deterministic("m", coin().mean()), "'m' .* mixes the runs"),
    "centred value": (lambda: an.deterministic("m", (d := coin()) - d.mean()), "'m' .* mixes"),
    "density of all": (
        lambda: an.sample("z", Odd(torch.rand, lambda value: value.cumsum(0))),
        "'z' .* mixes the runs",
    ),
    "draw of one for all": (lambda: y(Normal(0.0, 1.0).sample()), "there is no dimension -1"),
    "as many by chance": (lambda: y(Normal(0.0, 1.0).sample((SAMPLES,)).sum()), "dimension -2"),
    # Values that leave the tensors, or their provenance.
    "branch": (branches, READ),
    "branch in a try": (branches_and_swallows, READ),
    "text": (lambda: y(float(len(repr(coin().sum())))), READ),
    "numpy": (lambda: y(float(coin().detach().numpy().max())), READ),
    "log": (reads_for_a_log, READ),
    "branch on what is hidden": (lambda: y(3.0 if an.untrack(coin()).sum() > 0 else 0.0), HIDDEN),
    "what is hidden": (lambda: an.deterministic("m", an.untrack(coin()).max()), HIDDEN),
    # Random numbers, and parts of plates, that all runs share.
    "noise": (lambda: y(z() + torch.randn(())), DRAWN),
    "dropout": (lambda: y(z() * nn.Dropout(0.5)(torch.ones(()))), DRAWN),
    "generator": (lambda: y(z() + torch.randint(2, (), generator=GENERATOR)), DRAWN),
    "numpy's noise": (lambda: y(z() + float(np.random.rand())), DRAWN),
    "Python's noise": (lambda: y(z() + random.random()), DRAWN),
    "noise aside": (lambda: draws_aside(lambda: torch.randn(())), DRAWN),
    "coin aside": (lambda: draws_aside(lambda: torch.randint(2, ())), DRAWN),
    "seed": (lambda: (torch.manual_seed(0), z()), DRAWN),
    "block with a seed": (opens_a_seed, DRAWN),
    "hidden draw": (hides_a_draw, DRAWN),
    "subsample": (lambda: subsamples(2, lambda index: y(index.float())), PART),
    "subsample without a site": (lambda: subsamples(9), PART),
    "subsample in turn": (subsamples_in_turn, PART),
    "one coin for a batch": (
        lambda: an.sample("z", Coin(lambda size: one_coin().expand(size), torch.zeros_like)),
        "Coin of site 'z' .* draws one value for all of its batch",
    ),
    "one draw for a batch": (
        lambda: an.sample("z", Odd(lambda size: torch.rand(()).expand(size), torch.zeros_like)),
        "Odd of site 'z' .* draws one value for all of its batch",
    ),
    # A run by itself is another: sizes, positions, values of a trace.
    "number of elements": (lambda: y(float(z().numel())), OTHER),
    "number behind a mask": (counts_behind_a_mask, OTHER),
    "number as a scale": (scales_by_elements, OTHER),
    "number as a factor": (lambda: an.factor("f", torch.tensor(float(z().numel()))), OTHER),
    "whole number": (lambda: an.deterministic("c", torch.tensor(z().numel())), OTHER),
    "number of rows": (repeats_by_elements, OTHER),
    "place from the left": (lambda: y((d := z()) + torch.ones(d.shape).cumsum(0)), OTHER),
    "place from the right": (lambda: y((d := z()) + torch.ones(d.shape).cumsum(0).flip(0)), OTHER),
    "shape": (lambda: y(torch.zeros(2, *z().shape)), "'y' .* has shape .*; expected"),
    "values of a trace": (looks_into_a_trace, OTHER),
    "largest of a trace": (reads_the_largest_of_a_trace, OTHER),
    # State that changes from call to call.
    "counter": (counts_calls, OTHER),
    "data": (lambda: (BUFFER.add_(1), y(z() + BUFFER.sum())), OTHER),
    "generator of numpy": (lambda: y(z() + float(RNG.normal())), OTHER),
    "size": (changes_its_size, OTHER),
    "names": (names_by_calls, "its runs differ in their sites: 'z_"),
    "kinds": (is_computed_at_times, "its runs differ in their sites: 'z'"),
    # Nothing can be said, or it fails.
    "no density": (lambda: an.sample("z", Odd(torch.rand, raises)), "of site 'z' .* no density"),
    "lift": (lifts, "site 'weight'"),
    "error": (fails_at_more_dimensions, r"at .*test_verify.py:\d+ it raises RuntimeError: my own"),
}


@pytest.mark.parametrize(("model", "reason"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("seed", range(3))
def test_what_could_be_another_distribution_is_refused(
    model: Model, reason: str, seed: int
) -> None:
    torch.manual_seed(seed)
    predictive = an.infer.Predictive(model, samples=SAMPLES, vectorized=True)
    with pytest.raises(NotVectorizableError, match=f"(?s){reason}") as error:
        predictive()
    assert "leave the plate" not in str(error.value)  # of which the user knows nothing


def half(size: Any) -> Tensor:
    return torch.rand(size).round()


def own_coin(draw: Callable[[Any], Tensor]) -> None:
    an.sample("z", Coin(draw, lambda value: value * 0))


@pytest.mark.parametrize("model", [coin, lambda: own_coin(half), lambda: own_coin(torch.ones)])
def test_discrete_draws_that_are_equal_by_chance_are_not_shared(model: Model) -> None:
    for seed in range(20):
        torch.manual_seed(seed)
        an.infer.Predictive(model, samples=2, vectorized=True)()


def test_the_runs_that_are_compared_differ_in_each_site_that_varies() -> None:
    one, rows = torch.ones(6, 2), torch.arange(6.0)
    last = (rows > 4).float()
    assert compared([], 6) == [3]
    assert compared([one], 6) == [3]
    assert compared([rows[:2]], 2) == [1, 0]
    assert compared([last, rows, 1 - last], 6) == [3, 5]
    assert compared([rows, last], 6) == [3, 0, 5]
    assert compared([one * last[:, None], torch.full((6,), torch.nan)], 6) == [3, 5]


def test_a_value_that_is_given_is_not_read_as_that_of_another_run() -> None:
    for largest in range(SAMPLES):
        given = {"z": torch.arange(6.0).roll(largest)}
        predictive = an.infer.Predictive(reads_the_largest_of_a_trace, given, vectorized=True)
        with pytest.raises(NotVectorizableError, match=OTHER):
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


def has_no_data() -> None:
    an.sample("y", Normal(z() + torch.zeros(0, 1), 1.0), obs=torch.zeros(0, 1))
    an.sample("x", Normal(torch.zeros(0), 1.0))


def shows_a_constant() -> None:
    an.untrack(an.deterministic("constant", torch.ones(()))).item()
    z()


def repeats() -> None:
    for index in an.plate("rows", 3):
        an.sample(f"z_{index}", Normal(0.0, 1.0))


@pytest.mark.parametrize(
    "model",
    [broadcasts, is_set_from_outside, is_partly_observed, has_no_data, shows_a_constant, repeats],
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
