"""The examples, run as a new user runs them, in fewer steps; each finds what it says it finds."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

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
    assert all(f'example("{path.stem}")' in text for path in EXAMPLES.glob("*.py"))


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
