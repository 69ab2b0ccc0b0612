"""Export to ArviZ: groups, dimensions named after plates, and the log-likelihood of each case."""

import sys
import warnings

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal

import ancestral as an
from ancestral.estimators.predictive import StackedValuesError
from ancestral.tools.inference_data import MissingArvizError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz  # noqa: F401 (its first import warns)


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
    data = an.to_inference_data(
        model,
        X,
        Y,
        posterior=posterior,
        prior=an.Predictive(model, samples=5)(X, Y),
        posterior_predictive=an.Predictive(model, posterior)(X, Y),
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


def test_chains_have_one_length() -> None:
    with pytest.raises(StackedValuesError, match="5 of them, which are not 2 chains"):
        an.to_inference_data(model, X, Y, posterior={"w": torch.zeros(5, 3)}, chains=2)


def test_without_arviz_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(MissingArvizError, match=r"pip install ancestral\[arviz\]"):
        an.to_inference_data(model, X, Y, posterior={"w": torch.zeros(5, 3)})
