"""The examples, run as a new user runs them, in fewer steps; each finds what it says it finds."""

import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import ancestral as an

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> Any:
    """Return the module of an example."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested() -> None:
    text = Path(__file__).read_text()
    names = [path.relative_to(EXAMPLES).with_suffix("") for path in EXAMPLES.rglob("*.py")]
    names = [name for name in names if name.parts[0] != "ranks"]  # tests/ranks has these
    assert all(f'example("{name}")' in text for name in names)


def test_both_ways_come_near_the_exact_posterior(capsys: pytest.CaptureFixture[str]) -> None:
    answers = example("coin_and_regression").main(steps=120)
    exact = {a.name: a for a in answers if a.way == "exact"}
    assert set(exact) == {"share", "intercept", "body mass", "pressure"}
    assert {a.way for a in answers} == {"exact", "importance", "elbo"}
    for answer in answers:
        truth = exact[answer.name]
        allowed = 0.25 if answer.way == "importance" else 1.0
        assert abs(answer.mean - truth.mean) < allowed * truth.spread
        assert answer.spread == pytest.approx(truth.spread, rel=3 * allowed)
    assert "body mass   importance" in capsys.readouterr().out


def test_the_mixture_finds_the_kinds_of_flowers(capsys: pytest.CaptureFixture[str]) -> None:
    result = example("mixture").main(steps=200)
    assert result.accuracy > 0.9
    assert result.bound < result.log_evidence + 1  # a mean of draws
    # By site, each flower is credited with the noise of all 150.
    assert result.variance_ratio > 1000
    assert "flowers in the right group" in capsys.readouterr().out


def test_the_check_tells_what_each_model_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "check.png"
    normal, gamma = example("predictive_check").main(str(picture), steps=250)
    assert normal.seen == gamma.seen == pytest.approx(0.44, abs=0.01)
    assert normal.p_value < 0.02
    assert gamma.p_value > 0.9
    assert normal.replicas.shape == (500, 442)
    assert torch.isfinite(normal.replicas).all()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 20_000
    assert "normal errors" in capsys.readouterr().out


def test_the_toy_of_rebar_has_the_closed_forms_at_every_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = example("studies/toy")
    found = toy.main(4, str(tmp_path / "toy.csv"))
    for name, steps in found.items():
        is_biased = name in ("straight-through", "Gumbel-softmax", "ST-Gumbel")
        if is_biased:
            assert max(abs(step.bias) for step in steps) > 1e-3
        for step in steps:
            p = 1 / (1 + math.exp(-step.log_odds))
            slope = p * (1 - p)
            assert step.gradient == pytest.approx(slope * (1 - 2 * toy.TARGET))
            assert step.loss == pytest.approx(p * 0.55**2 + (1 - p) * 0.45**2)
            if not is_biased:
                assert step.bias == pytest.approx(0, abs=1e-9)
            costs = 0.55**2, 0.45**2
            if name == "score":
                second = slope * ((1 - p) * costs[0] ** 2 + p * costs[1] ** 2)
                assert step.variance == pytest.approx(second - step.gradient**2)
            elif name == "RLOO(2)":  # half the difference of the costs, where the draws differ
                square = (costs[0] - costs[1]) ** 2 / 4
                assert step.variance == pytest.approx(2 * slope * square - step.gradient**2)
            elif name == "local expectation":
                assert step.variance == pytest.approx(0, abs=1e-20)
    assert found["ARMS(4)"][0].variance < found["ARM"][0].variance < found["RLOO(2)"][0].variance
    assert found["DisARM"][0].variance < found["ARM"][0].variance
    assert len((tmp_path / "toy.csv").read_text().splitlines()) == 1 + 4 * len(found)
    assert "largest bias" in capsys.readouterr().out


def test_eight_latents_are_exact_at_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    found = example("studies/eight_latents").main(2)
    for name, rows in found.items():
        is_biased = name in ("straight-through", "ReinMax")
        assert all((row.relative_bias > 1e-3) == is_biased for row in rows)
        assert all(row.relative_bias < 1e-10 for row in rows) or is_biased
    assert found["score"][0].variance > 1000 * found["local expectation"][0].variance
    assert "ReinMax" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["score", "local expectation", "straight-through", "ReinMax"])
def test_what_all_outcomes_at_once_tell_is_what_verification_finds(name: str) -> None:
    study = example("studies/eight_latents")
    torch.manual_seed(3)
    model = study.Autoencoder(pixels=3, latents=2)
    x = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    row = study.measure(model, x, name, 0, 0.0)

    def program() -> torch.Tensor:
        q = torch.distributions.Bernoulli(logits=model.infer(x))
        cost: torch.Tensor = model.cost(x, q).mean()
        return cost

    chosen = {"*": study.METHODS[name].estimator}
    known = an.verify(program, estimators=chosen, baseline=None)
    parts = [known[key] for key in known if "infer" in key]
    assert len(parts) == 2
    assert row.variance == pytest.approx(sum(float(each.variance.sum()) for each in parts))
    exact = sum(float(each.exact.square().sum()) for each in parts) ** 0.5
    assert row.gradient == pytest.approx(exact)
    bias = sum(float(each.bias.square().sum()) for each in parts) ** 0.5
    assert row.relative_bias == pytest.approx(bias / exact, abs=1e-9)
