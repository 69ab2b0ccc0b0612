"""Studies beside exact moments, and that the table depends on nothing but what it is asked of."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Normal

import ancestral as an
from ancestral.tools.study import schedule, trial
from ancestral.tools.study.methods import COMMON, KNOWN, methods_of
from ancestral.tools.study.table import TIMED, Study

Program = Callable[..., Any]


def leaf(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def bits(theta: Tensor) -> Tensor:
    z = Bernoulli(logits=theta, validate_args=False).sample()
    return (z - 0.3).pow(2).sum() + 1.3 * z[0] * z[1] * theta[0]  # type: ignore[no-any-return]


def layers(theta: Tensor, phi: Tensor) -> Tensor:
    x = Bernoulli(logits=theta, validate_args=False).sample()
    y = Bernoulli(logits=phi - x[0] + 0.5 * x[1], validate_args=False).sample()
    return (x[0] - 0.3) ** 2 + (y - 0.6 * x[1] + 0.1) ** 2 * 3  # type: ignore[no-any-return]


CASES: dict[str, tuple[Program, tuple[Tensor, ...], str]] = {
    "bits": (bits, (leaf(0.3, -0.8),), "score, auto, loo, disarm, arms(3), straight-through"),
    # What is drawn again has the noise that it had, and an.verify takes none in common.
    "layers": (layers, (leaf(0.3, -0.8), leaf(0.4)), "score, auto, reinforce"),
}
"""Programs, with the methods whose exact moments are known."""


def untimed(found: Study) -> list[dict[str, Any]]:
    """Return the table without what is measured in seconds."""
    return [{k: v for k, v in vars(row).items() if k not in TIMED} for row in found.rows]


@pytest.mark.parametrize("is_exact", [True, False], ids=["exact", "drawn"])
@pytest.mark.parametrize("name", CASES)
def test_moments_agree_with_exact_ones(
    name: str, is_exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exact ones are an.verify's, an enumeration of all outcomes of draws and estimators."""
    program, args, names = CASES[name]
    if not is_exact:
        monkeypatch.setattr(trial, "MOST", 0)
    methods = methods_of(names)
    found = an.study(program, *args, estimators=methods, draws=200, steps=0)
    assert found.reference.startswith("exact" if is_exact else "200 other draws")
    for method, plan in methods.items():
        exact = an.verify(
            program,
            *args,
            estimators=plan.estimators,
            baseline=plan.baseline,
            credit=plan.credit,
        )
        bias = sum(float(each.bias.square().sum()) for each in exact.values()) ** 0.5
        row = found[method]
        assert row.bias_low <= bias + 1e-9
        assert row.bias_high >= bias - 1e-9
        assert row.variance == pytest.approx(exact.variance, abs=5 * row.variance_error)
        assert row.evaluations == pytest.approx(exact.evaluations, abs=0.3)
    biased = {"straight-through"} & methods.keys()
    assert {row.estimator for row in found.rows if row.is_biased} == biased
    assert str(found).count("BIASED") == 2 * len(biased)  # in its group, and in total


class Layered(nn.Module):
    """A program with a method that learns, and layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = nn.Linear(1, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = Bernoulli(logits=self.first(x)).sample()
        y = Bernoulli(logits=self.second(z)).sample()
        return ((z.sum(-1) - 0.45).pow(2) + 1.3 * z[:, 0] * y[:, 0]).mean()  # type: ignore[no-any-return]


ASKED: dict[str, Any] = {
    "estimators": "auto, optimal, disarm",
    "draws": 42,
    "steps": 6,
    "warm_up": 5,
}
ONES = torch.ones(2, 1)


@pytest.fixture(scope="module")
def alone() -> Study:
    """Return the study that one process has made."""
    return an.study(Layered(), ONES, **ASKED)


def test_the_table_does_not_depend_on_the_workers(alone: Study) -> None:
    found = an.study(Layered(), ONES, workers=2, **ASKED)
    assert untimed(found) == untimed(alone)
    for name, (_, losses) in alone.curves.items():
        assert np.array_equal(losses, found.curves[name][1])


@pytest.mark.parametrize(("backend", "package"), [("dask", "distributed"), ("ray", "ray")])
@pytest.mark.filterwarnings("ignore")  # their own, of versions that they were not tried with
def test_a_cluster_makes_the_same_table(backend: Any, package: str, alone: Study) -> None:
    pytest.importorskip(package, reason=f"{package}, whose cluster would be started, is missing")
    asked = {**ASKED, "estimators": "auto, disarm", "steps": 0}
    found = an.study(Layered(), ONES, workers=2, backend=backend, **asked)
    rows = [row for row in untimed(alone) if row["estimator"] in ("auto", "disarm")]
    assert untimed(found) == rows


def test_a_method_has_the_same_rows_whatever_else_is_studied(alone: Study) -> None:
    found = an.study(Layered(), ONES, **{**ASKED, "estimators": "disarm"})
    ours = [row for row in untimed(alone) if row["estimator"] == "disarm"]
    assert untimed(found) == ours


def test_groups_are_layers_and_all(alone: Study) -> None:
    groups = [row.group for row in alone.rows if row.estimator == "auto"]
    assert groups == ["first", "second", "total"]
    auto = {row.group: row for row in alone.rows if row.estimator == "auto"}
    assert auto["total"].coordinates == auto["first"].coordinates + auto["second"].coordinates
    assert auto["total"].variance == pytest.approx(auto["first"].variance + auto["second"].variance)


def test_draws_and_parameters_are_left_as_they_were() -> None:
    model = Layered()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(()), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    threads = torch.get_num_threads()
    an.study(model, ONES, estimators="auto", draws=4, steps=2)
    assert (torch.rand(()), np.random.rand()) == expected
    assert torch.get_num_threads() == threads
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_goes_down() -> None:
    program, args, _ = CASES["bits"]
    found = an.study(program, *args, estimators="auto", draws=4, steps=150, rate=0.1)
    seconds, losses = found.curves["auto"]
    assert losses[-30:].mean() < losses[:30].mean()
    assert (seconds > 0).all()


class Deadly(nn.Module):
    """Ends the process that runs it, once in another process than the first."""

    def __init__(self, flag: Path, owner: int, times: int) -> None:
        super().__init__()
        self.flag, self.owner, self.times = flag, owner, times
        self.logits = nn.Parameter(torch.zeros(2))

    def forward(self) -> Tensor:
        dead = self.flag.stat().st_size if self.flag.exists() else 0
        if os.getpid() != self.owner and dead < self.times:
            with self.flag.open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return (Bernoulli(logits=self.logits).sample() - 0.45).pow(2).sum()  # type: ignore[no-any-return]


def test_the_tasks_of_a_worker_that_dies_are_done_again(tmp_path: Path) -> None:
    model = Deadly(tmp_path / "flag", os.getpid(), 1)
    found = an.study(model, estimators="auto", draws=6, steps=0, workers=2)
    assert (tmp_path / "flag").exists()
    expected = an.study(model, estimators="auto", draws=6, steps=0)
    assert untimed(found) == untimed(expected)


def test_workers_that_always_die_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "DEATHS", 2)
    flag = Path(os.devnull)  # which never grows
    model = Deadly(flag, os.getpid(), 1)
    with pytest.raises(an.errors.WorkerError, match=r"died 2 times before any task .* take fewer"):
        an.study(model, estimators="auto", draws=4, steps=0, workers=2)


def test_an_estimator_that_fits_some_sites_is_used_at_those() -> None:
    def mixed(theta: Tensor) -> Tensor:
        a = Bernoulli(logits=theta).sample()
        b = Categorical(logits=theta).sample()
        c = Normal(theta[0], 1.0).rsample()
        return (a.sum() - 0.3) ** 2 + b * a[0] + c**2  # type: ignore[no-any-return]

    found = an.study(mixed, leaf(0.3, -0.8), estimators="disarm", draws=4, steps=0)
    assert found["disarm"].evaluations > 1


def test_common_methods_that_do_not_fit_are_left_out_with_the_reason() -> None:
    def classes(theta: Tensor) -> Tensor:
        return (Categorical(logits=theta).sample() - 1.3) ** 2  # type: ignore[no-any-return]

    found = an.study(classes, leaf(0.3, -0.8), draws=4, steps=0)
    assert {row.estimator for row in found.rows} | set(found.left_out) == set(COMMON)
    assert "Bernoulli" in found.left_out["disarm"]
    assert "left out: disarm: " in str(found)


@pytest.mark.parametrize("name", KNOWN)
def test_every_name_can_be_studied(name: str) -> None:
    program, args, _ = CASES["bits"]
    if name in ("pathwise", "antithetic", "quasi-random"):
        program, args = (lambda theta: (Normal(theta, 1.0).rsample() ** 2).sum()), (leaf(0.5),)
    found = an.study(program, *args, estimators=name, draws=4, steps=1, warm_up=2)
    assert found[name].draws == 4
