"""Export to ArviZ: groups, dimensions named after plates, and the log-likelihood of each case."""

import sys
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

import ancestral as an
from ancestral.trace.context.errors import SiteError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of arviz and what it imports
    import arviz


def model(x: Tensor, y: Tensor) -> None:
    w = an.sample("w", Independent(Normal(torch.zeros(3), 1.0), 1))
    with an.plate("rows", len(x)):
        z = an.sample("z", Normal(0.0, 1.0))
        m = an.deterministic("m", (x * w).sum(-1) + z)
        an.sample("y", Normal(m, 0.5), obs=y)
    an.factor("f", -(w[..., 0] ** 2))


X, Y = torch.tensor([[1.0, 2, 0], [0, 1, -1]]), torch.tensor([0.3, 0.8])


@pytest.mark.parametrize("vectorized", [True, False])
def test_what_was_drawn_is_exported(vectorized: bool) -> None:
    posterior = {"w": torch.randn(6, 3), "z": torch.randn(6, 2)}
    data = an.infer.to_inference_data(
        model,
        X,
        Y,
        posterior=posterior,
        prior=an.infer.Predictive(model, samples=5)(X, Y),
        posterior_predictive=an.infer.Predictive(model, posterior)(X, Y),
        chains=2,
        vectorized=vectorized,
    )
    dims = {
        group: {name: value.dims for name, value in data[group].data_vars.items()}
        for group in data.groups()
    }
    draws = ("chain", "draw")
    latent = {"w": (*draws, "w_dim_0"), "z": (*draws, "rows"), "m": (*draws, "rows")}
    assert dims == {
        "posterior": latent,
        "log_likelihood": {"y": (*draws, "rows")},
        "observed_data": {"y": ("rows",)},
        "posterior_predictive": {"y": (*draws, "rows")},
        "prior": latent,
        "prior_predictive": {"y": (*draws, "rows")},
    }
    expected = Normal(posterior["w"] @ X.T + posterior["z"], 0.5).log_prob(Y).reshape(2, 3, 2)
    torch.testing.assert_close(torch.as_tensor(data.log_likelihood["y"].values), expected)
    assert data.observed_data["y"].values.tolist() == Y.tolist()
    assert data.posterior["rows"].values.tolist() == [0, 1]


@pytest.mark.parametrize("chains", [2, 0, 2.5])
def test_chains_have_one_length(chains: Any) -> None:
    with pytest.raises(SiteError, match=f"5 of them, which are not {chains} chains"):
        an.infer.to_inference_data(model, X, Y, posterior={"w": torch.zeros(5, 3)}, chains=chains)


def test_without_arviz_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match=r"pip install ancestral\[arviz\]"):
        an.infer.to_inference_data(model, X, Y, posterior={"w": torch.zeros(5, 3)})


def test_arviz_finds_the_posterior_and_what_is_left_out_of_it() -> None:
    y = torch.tensor([0.3, -0.8, 1.9, 0.4, 1.1], dtype=torch.float64)

    def normal_mean(x: Tensor) -> None:
        mu = an.sample("mu", Normal(torch.tensor(0.0, dtype=torch.float64), 1.0))
        with an.handlers.scale(7.0), an.plate("cases", 5):
            an.sample("y", Normal(mu, 1.0), obs=y)

    def posterior_of(data: Tensor) -> Normal:
        precision = 1 + len(data)
        return Normal(data.sum() / precision, precision**-0.5)

    torch.manual_seed(0)
    exact = posterior_of(y)
    data = an.infer.to_inference_data(
        normal_mean,
        torch.arange(5.0),
        posterior={"mu": exact.sample((8000,))},
        chains=4,
        constant_data={"x": torch.arange(5.0)},
    )
    summary: Any = arviz.summary(data, round_to=6)
    assert summary.loc["mu", "mean"] == pytest.approx(float(exact.mean), abs=0.02)
    assert summary.loc["mu", "sd"] == pytest.approx(float(exact.stddev), abs=0.02)
    assert summary.loc["mu", "r_hat"] == pytest.approx(1, abs=0.01)
    rest = [posterior_of(torch.cat([y[:i], y[i + 1 :]])) for i in range(5)]
    left_out = [
        float(Normal(q.mean, (1 + q.variance).sqrt()).log_prob(y[i])) for i, q in enumerate(rest)
    ]
    found = arviz.loo(data, pointwise=True)  # type: ignore[no-untyped-call] # of ArviZ
    assert found.loo_i.values.tolist() == pytest.approx(left_out, abs=0.02)
    assert found.n_data_points == 5
    assert data.constant_data["x"].values.tolist() == [0, 1, 2, 3, 4]


def test_events_and_nested_plates_have_their_dimensions() -> None:
    x = torch.randn(4, 2, 3)

    def program() -> None:
        with an.plate("outer", 4, dim=-2):
            a = an.sample("a", Normal(0.0, 1.0))
            with an.plate("draw", 2, dim=-1):
                fn = Independent(Normal(a[..., None] + torch.zeros(2, 3), 1.0), 1)
                an.sample("x", fn, obs=x)

    data = an.infer.to_inference_data(program, posterior={"a": torch.randn(5, 4, 1)})
    assert data.posterior["a"].dims == ("chain", "draw", "outer", "a_dim_1")
    assert data.log_likelihood["x"].dims == ("chain", "draw", "outer", "draw_plate")
    assert data.observed_data["x"].dims == ("outer", "draw_plate", "x_dim_2")
    assert data.observed_data["draw_plate"].values.tolist() == [0, 1]


@pytest.mark.parametrize("vectorized", [True, False])
def test_what_is_masked_is_no_data(vectorized: bool) -> None:
    seen = torch.tensor([True, False])

    def program() -> None:
        mu = an.sample("mu", Normal(0.0, 1.0))
        with an.plate("rows", 2), an.handlers.mask(seen):
            an.sample("y", Normal(mu, 1.0), obs=Y)
        an.sample("z", Independent(Normal(mu[..., None], 1.0).expand((*mu.shape, 2)), 1), obs=Y)

    data = an.infer.to_inference_data(
        program, posterior={"mu": torch.zeros(3)}, vectorized=vectorized
    )
    density = Normal(0.0, 1.0).log_prob(Y)
    found = torch.as_tensor(data.log_likelihood["y"].values)[0]
    torch.testing.assert_close(found, torch.stack([density[0], torch.zeros(())]).expand(3, 2))
    assert data.observed_data["y"].isnull().values.tolist() == [False, True]
    assert data.observed_data["z"].values.tolist() == Y.tolist()
    torch.testing.assert_close(
        torch.as_tensor(data.log_likelihood["z"].values)[0], density.sum().expand(3)
    )


def test_draws_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="the posterior of to_inference_data is empty"):
        an.infer.to_inference_data(model, X, Y, posterior={})
    posterior = {"w": torch.zeros(4, 3)}
    wrong = {"z": torch.zeros(4, 3)}
    with pytest.raises(SiteError, match=r"prior draws has shape \[3\]; expected \[2\]"):
        an.infer.to_inference_data(model, X, Y, posterior=posterior, prior=wrong)
    with pytest.raises(SiteError, match=r"posterior draws has shape \[3\]"):
        an.infer.to_inference_data(
            model, X, Y, posterior=posterior, posterior_predictive={"y": torch.zeros(4, 3)}
        )
    uneven = {"w": torch.zeros(4, 3), "z": torch.zeros(3, 2)}
    with pytest.raises(SiteError, match="'z': there are 3 of them; expected 4"):
        an.infer.to_inference_data(model, X, Y, posterior=posterior, prior=uneven)
    with pytest.raises(TypeError, match=r"takes no num_chains=.*: say chains="):
        an.infer.to_inference_data(model, X, Y, posterior=posterior, num_chains=2)


def test_a_part_of_the_data_is_not_exported() -> None:
    def part() -> None:
        mu = an.sample("mu", Normal(0.0, 1.0))
        with an.plate("rows", 10, 2):
            an.sample("y", Normal(mu, 1.0), obs=torch.zeros(2))

    with pytest.raises(SiteError, match=r"'rows' .* is subsampled"):
        an.infer.to_inference_data(part, posterior={"mu": torch.zeros(4)})
