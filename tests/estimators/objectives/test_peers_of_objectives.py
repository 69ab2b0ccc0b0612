"""Objectives at the same draws as those of Pyro, NumPyro and TensorFlow Probability."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from programs.pairs import coin
from torch import Tensor
from torch.distributions import Normal

import ancestral as an
from oracles import forcing

X = torch.tensor([0.3, -1.2, 0.8, 1.7], dtype=torch.float64)
EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


def pyro_pair(q: Tensor, p: Tensor) -> tuple[Callable[[], None], Callable[[], None]]:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(pyro.param("p", p), 1.0))
        pyro.sample("x", dist.Normal(z, 0.7), obs=X[0])

    def guide() -> None:
        pyro.sample("z", dist.Normal(pyro.param("q", q), 0.8))

    return model, guide


@pytest.mark.parametrize("alpha", [0.0, 0.4, 2.0, -0.5])
def test_the_bound_of_renyi_is_that_of_pyro_at_the_same_draws(alpha: float) -> None:
    q, p = (torch.tensor(x, dtype=torch.float64).requires_grad_() for x in (0.3, -0.2))

    def model() -> None:
        an.sample("x", Normal(an.sample("z", Normal(p, 1.0)), 0.7), obs=X[0])

    def guide() -> None:
        an.sample("z", Normal(q, 0.8))

    torch.manual_seed(0)
    pyro.clear_param_store()
    loss = pyro.infer.RenyiELBO(alpha=alpha, num_particles=5)
    theirs = loss.loss_and_grads(*pyro_pair(q.detach(), p.detach()))
    params: Any = [pyro.param(name) for name in ("q", "p")]
    theirs_q, theirs_p = (each.unconstrained().grad for each in params)
    torch.manual_seed(0)
    ours = an.infer.renyi(model, guide, alpha=alpha, particles=5, pathwise="plain")
    gradients = torch.autograd.grad(ours.surrogate, (q, p))
    torch.testing.assert_close(-ours.value.item(), theirs)
    torch.testing.assert_close(gradients, (theirs_q, theirs_p))


NUMPYRO = {  # RenyiELBO of NumPyro 0.22 at these draws: loss, and its gradient by q and p
    0.0: (1.0717796293563735, 0.8712125929744343, -0.6220766245352166),
    0.4: (1.077875873895472, 0.9344852341424167, -0.6428844058589156),
    2.0: (1.10221000249507, 1.1744480344354287, -0.7217983468948724),
}
DRAWS = [
    *(-0.08098133515820377, 0.4251178572105221, 0.796581999943725),
    *(0.5657081319950776, 0.6607949825473477),
]


def at_draws(draws: list[float], run: Callable[[], Any]) -> Any:
    left = [torch.tensor(z, dtype=torch.float64) for z in draws]

    def force(fn: Any, _: torch.Size) -> Tensor:
        z = left.pop(0)
        return fn.loc + (z - fn.loc.detach()) if isinstance(fn, Normal) else z

    with forcing(force):
        return run()


def pair_of(q: Tensor, p: Tensor, kind: str) -> tuple[Callable[[], None], Callable[[], Any]]:
    def prior(of: Tensor, scale: float) -> Any:
        return Normal(of, scale) if kind == "normal" else coin(of)

    def model() -> None:
        an.sample("x", Normal(an.sample("z", prior(p, 1.0)), 0.7), obs=X[0])

    return model, lambda: an.sample("z", prior(q, 0.8))


@pytest.mark.parametrize("alpha", NUMPYRO)
def test_the_bound_of_renyi_is_that_of_numpyro_at_the_same_draws(alpha: float) -> None:
    q, p = (torch.tensor(x, dtype=torch.float64).requires_grad_() for x in (0.3, -0.2))
    pair = pair_of(q, p, "normal")
    options: dict[str, Any] = {"alpha": alpha, "pathwise": "plain"}
    bound = at_draws(DRAWS, lambda: an.infer.renyi(*pair, particles=5, **options))
    found = torch.stack([-bound.value, *torch.autograd.grad(bound.surrogate, (q, p))])
    torch.testing.assert_close(found, torch.tensor(NUMPYRO[alpha], dtype=torch.float64), **EXACT)


NORMALS, COINS = [-0.08, 0.42, 0.79, 0.56, -0.66], [0.0, 1.0, 1.0, 0.0, 1.0]
LOSS = 1.0549501083117736
TFP: list[tuple[str, list[float], str, tuple[float, ...]]] = [  # version 0.25, as above
    ("normal", NORMALS, "plain", (LOSS, 0.11498494335636539, -0.373384310231288)),
    # Of the model it squares the weights too, which is biased: that is left out.
    ("normal", NORMALS, "dreg", (LOSS, 0.05573367078570211)),
    (
        "coin",
        [0, 1, 1, 0, 1],
        "auto",
        (0.841115505408958, 0.08345566138728999, 0.07325920102354286),
    ),
]


@pytest.mark.parametrize(("kind", "draws", "pathwise", "expected"), TFP)
def test_vimco_and_dreg_are_those_of_tensorflow_probability_at_the_same_draws(
    kind: str, draws: list[float], pathwise: Any, expected: tuple[float, ...]
) -> None:
    q, p = (torch.tensor(x, dtype=torch.float64).requires_grad_() for x in (0.3, -0.2))
    pair = pair_of(q, p, kind)
    bound = at_draws(draws, lambda: an.infer.iwae(*pair, particles=5, pathwise=pathwise))
    found = torch.stack([-bound.value, *torch.autograd.grad(bound.surrogate, (q, p))])
    truth = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found[: len(truth)], truth, **EXACT)
