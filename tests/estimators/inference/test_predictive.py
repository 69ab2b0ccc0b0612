"""Predictive draws: shapes, moments, and that runs at once are runs in turn."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

import ancestral as an
from ancestral.estimators.batched.run import NotVectorizableError
from ancestral.estimators.batched.run_many import InTurnWarning
from ancestral.trace.context.errors import SiteError


def model(x: Tensor, y: Tensor | None = None) -> None:
    w = an.sample("w", Independent(Normal(torch.zeros(3), 1.0), 1))
    b = an.sample("b", Normal(0.0, 2.0))
    with an.plate("rows", len(x)):
        m = an.deterministic("m", (x * w).sum(-1) + b)
        an.sample("y", Normal(m, 0.5), obs=y)
    an.deterministic("constant", torch.ones(2))


X, Y = torch.tensor([[1.0, 2, 0], [0, 1, -1]]), torch.tensor([0.3, 0.8])


@pytest.mark.parametrize("vectorized", [True, False])
def test_the_prior_draws_all_sites_observed_ones_too(vectorized: bool) -> None:
    found = an.infer.Predictive(model, samples=6, vectorized=vectorized)(X, Y)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "w": (6, 3),
        "b": (6,),
        "m": (6, 2),
        "y": (6, 2),
        "constant": (6, 2),
    }
    assert not bool((found["y"] == Y).any())
    torch.testing.assert_close(found["m"], found["w"] @ X.T + found["b"][:, None])


def test_prior_predictive_moments_are_those_of_the_closed_form() -> None:
    torch.manual_seed(0)
    y = an.infer.Predictive(model, samples=4000, vectorized=True)(X, Y)["y"]
    variance = (X**2).sum(-1) + 4 + 0.25
    assert bool((y.mean(0).abs() < 4 * (variance / 4000).sqrt()).all())
    assert bool(((y.var(0) / variance - 1).abs() < 4 * (2 / 4000) ** 0.5).all())


def test_at_once_and_in_turn_are_equal_at_equal_values() -> None:
    posterior = {"w": torch.randn(5, 3), "b": torch.randn(5)}
    once, turns = (an.infer.Predictive(model, posterior, vectorized=v)(X, Y) for v in (True, False))
    assert list(once) == list(turns) == ["m", "y", "constant"]
    assert torch.equal(once["m"], turns["m"])


def test_given_data_stays_data() -> None:
    posterior = {"w": torch.zeros(4, 3), "y": torch.ones(4, 2)}
    assert list(an.infer.Predictive(model, posterior)(X, Y)) == ["b", "m", "constant"]


def test_a_guide_draws_what_the_model_goes_on_with() -> None:
    def guide(x: Tensor, y: Tensor | None = None) -> None:
        an.sample("b", Normal(50.0, 0.1))

    found = an.infer.Predictive(model, guide=guide, samples=8)(X, Y)
    assert bool((found["b"] > 40).all())
    torch.testing.assert_close(found["m"], found["w"] @ X.T + found["b"][:, None])


@pytest.mark.parametrize(
    ("posterior", "problem"),
    [
        ({"w": torch.zeros(5, 2)}, r"'w': each of them has shape \[2\]; expected \[3\]"),
        ({"w": torch.zeros(5, 3), "b": torch.zeros(4)}, "'b': there are 4 of them; expected 5"),
        ({"q": torch.zeros(5)}, "'q': the program has no such site; it has 'w', 'b', 'y'"),
        ({"b": torch.tensor(1.0)}, "'b': expected a tensor"),
        ({"b": torch.zeros(0)}, "'b': there are none"),
    ],
)
def test_values_that_do_not_fit_are_refused(posterior: dict[str, Tensor], problem: str) -> None:
    with pytest.raises(SiteError, match=problem):
        an.infer.Predictive(model, posterior)(X, Y)


def test_a_site_of_some_runs_only_is_refused() -> None:
    def branching() -> None:
        z = an.sample("z", Normal(0.0, 1.0))
        if (z > 0).any():
            an.sample("x", Normal(z, 1.0))

    torch.manual_seed(0)
    with pytest.raises(SiteError, match="'x': this sample is in some of the runs only"):
        an.infer.Predictive(branching, samples=30, vectorized=False)()


def test_what_it_starts_from_is_said_once() -> None:
    with pytest.raises(ValueError, match="not both"):
        an.infer.Predictive(model, {"b": torch.zeros(2)}, guide=model)
    with pytest.raises(ValueError, match=r"needs samples=.*; nothing is given"):
        an.infer.Predictive(model)
    with pytest.raises(ValueError, match=r"needs samples=.*; the posterior names no site"):
        an.infer.Predictive(model, {})


def test_runs_in_turn_are_shown_and_warned_of() -> None:
    def mixing() -> None:
        z = an.sample("z", Normal(0.0, 1.0))
        an.sample("x", Normal(z.mean(), 1.0))

    predictive = an.infer.Predictive(mixing, samples=3)
    with pytest.warns(InTurnWarning, match="Predictive runs the program 3 times") as warned:
        predictive()
    assert warned[0].filename == __file__
    assert "mixed by mean" in predictive.in_turn
    assert f"samples=3, run in turn: {predictive.in_turn})" in repr(predictive)
    apart = an.infer.Predictive(model, {"b": torch.zeros(2)})
    apart(X, Y)
    assert (apart.in_turn, repr(apart)) == ("", "Predictive(model, given 'b', samples=2)")


def test_each_run_has_a_part_of_its_own_of_a_subsampled_plate() -> None:
    def part() -> None:
        with an.plate("rows", 50, 2) as index:
            an.sample("x", Normal(index.float(), 1e-3))

    with pytest.raises(NotVectorizableError, match=r"'rows' .* is subsampled"):
        an.infer.Predictive(part, samples=20, vectorized=True)()
    with pytest.warns(InTurnWarning, match=r"'rows' .* is subsampled"):
        found = an.infer.Predictive(part, samples=20)()
    assert len(found["x"].round().unique(dim=0)) > 10


@pytest.mark.parametrize(
    ("keyword", "meant"),
    [
        ("num_samples", "say samples="),
        ("posterior_samples", "say posterior="),
        ("parallel", "say vectorized="),
        ("return_sites", "take the sites that you want"),
        ("x", "is for the call"),
    ],
)
def test_names_of_pyro_say_what_is_meant(keyword: str, meant: str) -> None:
    with pytest.raises(TypeError, match=f"Predictive takes no {keyword}=.*{meant}"):
        an.infer.Predictive(model, **{keyword: 3})  # type: ignore[arg-type] # which is the point
    if keyword != "x":
        with pytest.raises(TypeError, match=f"Predictive takes no {keyword}=.*{meant}"):
            an.infer.Predictive(model, samples=3)(X, Y, **{keyword: 3})
