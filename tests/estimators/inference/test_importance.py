"""Importance sampling: closed forms, enumeration, and that runs at once are runs in turn."""

import gc
import math
import re
import weakref
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Beta,
    Categorical,
    Independent,
    MultivariateNormal,
    Normal,
)

import ancestral as an
from ancestral.errors import GuideError
from ancestral.estimators.batched.run import NotVectorizableError
from ancestral.estimators.batched.run_many import InTurnWarning
from ancestral.estimators.inference.importance import WeightError

DATA = torch.tensor([1.0, 1, 0, 1, 1, 0, 1], dtype=torch.float64)


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def coin(data: Tensor) -> None:
    p = an.sample("p", Beta(number(2.0), number(2.0)))
    with an.plate("flips", len(data)):
        an.sample("x", Bernoulli(p), obs=data)


def near(_: Tensor) -> None:
    an.sample("p", Beta(number(6.0), number(4.0)))


def exact(_: Tensor) -> None:
    an.sample("p", Beta(number(7.0), number(4.0)))


def switch() -> None:
    """Two coins and a position, of which each sample sees all."""
    a = an.sample("a", Bernoulli(number(0.3)))
    k = an.sample("k", Categorical(torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)))
    b = an.sample("b", Bernoulli(0.2 + 0.6 * a))
    an.sample("x", Normal(a + 2 * b - k, 1.0), obs=number(0.7))
    an.factor("f", 0.3 * a * k)


def switch_guide() -> None:
    a = an.sample("a", Bernoulli(number(0.6)))
    an.sample("b", Bernoulli(0.4 + 0.3 * a))


def weight_of(values: dict[str, float], guide: Callable[[], Any] | None) -> float:
    """Return the log weight by hand."""
    a, b, k = values["a"], values["b"], values["k"]

    def bit(p: float, z: float) -> float:
        return math.log(p if z else 1 - p)

    prior = bit(0.3, a) + bit(0.2 + 0.6 * a, b)
    density = -0.5 * (0.7 - (a + 2 * b - k)) ** 2 - 0.5 * math.log(2 * math.pi) + 0.3 * a * k
    drawn = bit(0.6, a) + bit(0.4 + 0.3 * a, b)
    return density if guide is None else density + prior - drawn


def weight_of_prior(a: float, b: float) -> float:
    p = 0.2 + 0.6 * a
    return math.log(0.3 if a else 0.7) + math.log(p if b else 1 - p)


@pytest.mark.parametrize("guide", [None, switch_guide])
def test_the_mean_weight_over_all_outcomes_is_the_evidence(guide: Callable[[], Any] | None) -> None:
    evidence = sum(
        math.exp(weight_of_prior(a, b) + weight_of({"a": a, "b": b, "k": k}, None))
        * [0.2, 0.5, 0.3][k]
        for a, b, k in product((0.0, 1.0), (0.0, 1.0), (0, 1, 2))
    )
    torch.manual_seed(0)
    found = an.infer.importance(switch, guide, samples=4000)
    assert found.in_turn == ""
    for weight, a, b, k in zip(
        found.log_weights[:50], *(found.values[name][:50] for name in "abk"), strict=True
    ):
        values = {"a": a.item(), "b": b.item(), "k": k.item()}
        assert weight.item() == pytest.approx(weight_of(values, guide), abs=1e-12)
    weights = found.log_weights.exp()
    assert abs(weights.mean() - evidence) < 4 * weights.std() / math.sqrt(4000)


@pytest.mark.parametrize("guide", [None, near])
@pytest.mark.parametrize("vectorized", [True, False])
def test_a_coin_has_its_evidence_and_posterior(
    guide: Callable[..., Any] | None, vectorized: bool
) -> None:
    torch.manual_seed(1)
    samples = 3000 if vectorized else 200
    found = an.infer.importance(coin, guide, DATA, samples=samples, vectorized=vectorized)
    weights = (found.log_weights - (log_beta(7, 4) - log_beta(2, 2))).exp()
    assert abs(weights.mean() - 1) < 4 * weights.std() / math.sqrt(samples)
    spread = math.sqrt(7 * 4 / 11**2 / 12 / float(found.effective_sample_size))
    assert abs(found.expectation(lambda v: v["p"]) - 7 / 11) < 4 * spread
    assert found.pareto_k < 0.5
    smoothed = found.smoothed_log_weights.exp()
    assert smoothed.sum().item() == pytest.approx(1, abs=1e-5)
    assert abs(smoothed @ found.values["p"] - 7 / 11) < 4 * spread
    # E[w]² / E[w²] by quadrature
    p = torch.linspace(0, 1, 20001, dtype=torch.float64)[1:-1]
    q = Beta(number(2.0), number(2.0)) if guide is None else Beta(number(6.0), number(4.0))
    ratio = (Beta(number(7.0), number(4.0)).log_prob(p) - q.log_prob(p)).exp()
    expected = 1 / float((q.log_prob(p).exp() * ratio**2).mean())
    assert float(found.effective_sample_size) / samples == pytest.approx(expected, rel=0.1)


def test_a_guide_that_is_the_posterior_has_weights_that_are_the_evidence() -> None:
    found = an.infer.importance(coin, exact, DATA, samples=100)
    evidence = log_beta(7, 4) - log_beta(2, 2)
    torch.testing.assert_close(found.log_weights, number(evidence).expand(100))
    assert float(found.effective_sample_size) == pytest.approx(100)


def test_a_regression_has_its_evidence() -> None:
    torch.manual_seed(2)
    x = torch.randn(4, 2, dtype=torch.float64)
    y = torch.randn(4, dtype=torch.float64)

    def regression() -> None:
        w = an.sample("w", Independent(Normal(torch.zeros(2, dtype=torch.float64), 1.0), 1))
        with an.plate("rows", 4):
            an.sample("y", Normal((x * w).sum(-1), 0.8), obs=y)

    precision = torch.eye(2, dtype=torch.float64) + x.T @ x / 0.64
    mean = torch.linalg.solve(precision, x.T @ y / 0.64)
    evidence = MultivariateNormal(
        torch.zeros(4, dtype=torch.float64), x @ x.T + 0.64 * torch.eye(4, dtype=torch.float64)
    ).log_prob(y)

    def posterior() -> None:
        an.sample("w", MultivariateNormal(mean, precision_matrix=precision))

    found = an.infer.importance(regression, posterior, samples=50)
    assert found.in_turn == ""
    torch.testing.assert_close(found.log_weights, evidence.expand(50))
    rough = an.infer.importance(regression, samples=4000)
    weights = (rough.log_weights - evidence).exp()
    assert abs(weights.mean() - 1) < 4 * weights.std() / math.sqrt(4000)


def test_at_once_and_in_turn_give_equal_weights_at_equal_values() -> None:
    value = Beta(2.0, 2.0).sample().double()
    weights = []
    for vectorized in (True, False):
        with an.handlers.substitute({"p": value}):
            found = an.infer.importance(coin, near, DATA, samples=5, vectorized=vectorized)
        weights.append(found.log_weights)
    assert torch.equal(*weights)


def test_a_program_that_mixes_the_runs_is_run_in_turn() -> None:
    def branching() -> None:
        z = an.sample("z", Normal(0.0, 1.0))
        if z > 0:
            an.sample("x", Normal(z, 1.0), obs=torch.tensor(0.5))

    def positional() -> None:
        z = an.sample("z", Independent(Normal(torch.zeros(3, 3), 1.0), 2))
        an.sample("x", Independent(Normal(z.sum(1), 1.0), 1), obs=torch.ones(3))

    for program, reason in (
        (branching, r"at .*test_importance.py:\d+ Python reads a value"),
        (positional, "at 'x' .* a run among others is not what it is alone"),
    ):
        told = f"(?s)importance runs the program 4 times.*{reason}.*if this is meant"
        with pytest.warns(InTurnWarning, match=told):
            found = an.infer.importance(program, samples=4)
        assert re.search(reason, found.in_turn)
        with pytest.raises(NotVectorizableError, match=f"(?s){reason}"):
            an.infer.importance(program, samples=4, vectorized=True)


def test_weights_of_zero_are_minus_infinite() -> None:
    def half() -> None:
        z = an.sample("z", Bernoulli(number(0.5)))
        an.factor("f", torch.where(z > 0, 0.0, -math.inf))

    torch.manual_seed(0)
    found = an.infer.importance(half, samples=200)
    assert torch.equal(found.log_weights == -math.inf, found.values["z"] == 0)
    assert float(found.expectation(lambda v: 1 / v["z"])) == pytest.approx(1)
    assert float(found.effective_sample_size) == pytest.approx(int(found.values["z"].sum()))
    assert bool((found.resample(30)["z"] == 1).all())


def test_without_any_weight_the_evidence_is_zero() -> None:
    def never() -> None:
        z = an.sample("z", Normal(0.0, 1.0))
        an.factor("f", z * 0 - math.inf)

    found = an.infer.importance(never, samples=10)
    assert found.log_evidence == -math.inf
    assert found.effective_sample_size == 0
    for ask in (lambda: found.weights, lambda: found.pareto_k, lambda: found.resample(3)):
        with pytest.raises(WeightError, match="all weights are zero"):
            ask()


def test_a_weight_that_is_no_number_names_the_site() -> None:
    def wrong() -> None:
        z = an.sample("z", Normal(0.0, 1.0))
        an.factor("bad", torch.where(z > 0, math.nan, 0.0))

    torch.manual_seed(0)
    with pytest.raises(WeightError, match=r"site 'bad' .*: in \d+ of 20 runs .* is nan"):
        an.infer.importance(wrong, samples=20)


def other(_: Tensor) -> None:
    an.sample("q", Beta(2.0, 2.0))


def observing(_: Tensor) -> None:
    an.sample("p", Beta(2.0, 2.0), obs=torch.tensor(0.5))


def part(_: Tensor) -> None:
    z = an.sample("z", Normal(0.0, 1.0))
    with an.plate("rows", 10, 2):
        an.sample("x", Normal(z, 1.0), obs=torch.zeros(2))


def enumerated(_: Tensor) -> None:
    z = an.sample("z", Bernoulli(0.5), infer={"enumerate": "parallel"})
    an.sample("x", Normal(z, 1.0), obs=torch.tensor(0.5))


# A model and a guide, how many samples, the error and what it says.
REFUSED: list[tuple[Any, Any, int, type[Exception], str]] = [
    (coin, other, 3, GuideError, r"'q' .* is no free site"),
    (coin, observing, 3, GuideError, r"'p' .* is observed"),
    (part, None, 3, WeightError, "plate 'rows', which is subsampled"),
    (an.handlers.enumerate()(enumerated), None, 3, ValueError, "is enumerated"),
    (coin, None, 0, ValueError, "samples must be an int greater than 0, not 0"),
]


@pytest.mark.parametrize(("model", "guide", "samples", "error", "text"), REFUSED)
def test_what_cannot_be_weighed_is_refused(
    model: Any, guide: Any, samples: int, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        an.infer.importance(model, guide, DATA, samples=samples)


def test_a_recording_around_is_refused() -> None:
    with an.record(), pytest.raises(RuntimeError, match="call it outside"):
        an.infer.importance(coin, None, DATA, samples=3)


def test_sites_of_some_runs_only_are_left_out_of_the_values() -> None:
    def branching() -> None:
        z = an.sample("z", Normal(0.0, 1.0))
        if z > 0:
            an.sample("w", Normal(0.0, 1.0))

    torch.manual_seed(0)
    found = an.infer.importance(branching, samples=20, vectorized=False)
    assert (list(found.values), found.ragged) == (["z"], ("w",))
    assert repr(found) == (
        "Importance(20 samples of 'z', in some only 'w', effective_sample_size=20.0, "
        "run in turn: vectorized=False)"
    )


def test_an_expectation_needs_a_row_for_each_draw() -> None:
    found = an.infer.importance(coin, None, DATA, samples=5)
    with pytest.raises(ValueError, match="one row for each of the 5 draws"):
        found.expectation(lambda v: v["p"].mean())


@pytest.mark.parametrize("keyword", ["num_samples", "num_particles"])
def test_names_of_pyro_say_what_is_meant(keyword: str) -> None:
    with pytest.raises(TypeError, match=f"importance takes no {keyword}=.*: say samples="):
        an.infer.importance(coin, None, DATA, **{keyword: 10})  # type: ignore[arg-type] # not ours

    def named(num_samples: int) -> None:
        an.sample("x", Normal(torch.zeros(num_samples), 1.0))

    found = an.infer.importance(named, samples=2, num_samples=3)
    assert found.values["x"].shape == (2, 3)


@pytest.mark.parametrize("vectorized", [True, False])
def test_nothing_outlives_a_call(vectorized: bool) -> None:
    weight = torch.zeros(2, requires_grad=True)
    seen: list[weakref.ref[Any]] = []

    class Module(torch.nn.Module):
        def forward(self) -> None:
            with torch.enable_grad():
                z = an.sample("z", Independent(Normal(weight, 1.0), 1))
                loc = an.deterministic("loc", (z * z).sum(-1))
            an.sample("x", Normal(loc, 1.0), obs=number(0.5))
            seen.append(weakref.ref(z))

    def guide() -> None:
        with torch.enable_grad():
            an.sample("z", Independent(Normal(weight + 1, 1.0), 1))

    found = an.infer.importance(Module(), guide, samples=4, vectorized=vectorized)
    drawn = an.infer.Predictive(Module(), guide=guide, samples=4, vectorized=vectorized)()
    gc.collect()
    assert seen
    assert [each() for each in seen if each() is not None] == []
    assert not any(value.requires_grad for value in (found.log_weights, drawn["z"]))
