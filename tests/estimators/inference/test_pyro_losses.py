"""The losses for Pyro's SVI have Pyro's values and, where its credit is as fine, its gradients."""

import subprocess
import sys
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from programs.in_pyro import (
    Autoencoder,
    Program,
    PyroNetwork,
    cases,
    digits,
    points,
    poutine,
    pyro,
    pyro_mixture,
    pyro_mixture_guide,
    pyro_network_guide,
    pyro_schools,
    pyro_schools_guide,
)
from programs.pyro_steps import Made, T, flat, mixed, step
from pyro.infer import SVI, Trace_ELBO, autoguide
from pyro.infer import TraceGraph_ELBO as Theirs
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn
from torch.testing import assert_close

from ancestral.infer import TraceGraph_ELBO

pytestmark = pytest.mark.usefixtures("in_double_precision")


def subsampled() -> tuple[Program, Program, tuple[Any, ...]]:
    net = Autoencoder()
    model, guide = (
        lambda x, of=of: of(x, subsample_size=7) for of in (net.pyro_model, net.pyro_guide)
    )
    return model, guide, (digits(),)


def autoencoder() -> tuple[Program, Program, tuple[Any, ...]]:
    net = Autoencoder()
    return net.pyro_model, net.pyro_guide, (digits(),)


def decentered() -> tuple[Program, Program, tuple[Any, ...]]:
    model = poutine.reparam(pyro_schools, {"theta": LocScaleReparam(0.3)})
    return model, lambda: pyro_schools_guide("theta_decentered"), ()


def weighed() -> tuple[Program, Program, tuple[Any, ...]]:
    which = T([True, False, True, True])

    def model(x: Tensor) -> None:
        with pyro.plate("n", 4), poutine.mask(mask=which), poutine.scale(scale=0.5):
            k = pyro.sample("k", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(k, 1.0).mask(which), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("n", 4), poutine.scale(scale=torch.arange(1.0, 5.0)):
            pyro.sample("k", dist.Bernoulli(logits=pyro.param("q_k", torch.zeros(4))))

    return model, guide, (torch.arange(4.0),)


def conditioned() -> tuple[Program, Program, tuple[Any, ...]]:
    model, guide, data = mixed()
    return poutine.condition(model, {"k": torch.ones(4)}), poutine.block(guide, hide=["k"]), data


def intervened() -> tuple[Program, Program, tuple[Any, ...]]:
    model, guide, data = mixed()
    return poutine.do(model, {"a": T(1.0)}), guide, data


def in_turn() -> tuple[Program, Program, tuple[Any, ...]]:
    def model() -> None:
        for i in pyro.plate("n", 5, subsample_size=3):
            z = pyro.sample(f"z_{i}", dist.Bernoulli(0.3))
            pyro.sample(f"x_{i}", dist.Normal(z, 1.0), obs=T(0.2))

    def guide() -> None:
        logits = pyro.param("logits", torch.zeros(5))
        for i in pyro.plate("n", 5, subsample_size=3):
            pyro.sample(f"z_{i}", dist.Bernoulli(logits=logits[i]))

    return model, guide, ()


PROGRAMS: dict[str, Made] = {
    "autoencoder": autoencoder,
    "subsampled": subsampled,
    "schools": lambda: (pyro_schools, pyro_schools_guide, ()),
    "decentered": decentered,
    "mixture": lambda: (pyro_mixture, pyro_mixture_guide, cases()),
    "network": lambda: (PyroNetwork(), pyro_network_guide, points()),
    "mixed": mixed,
    "weighed": weighed,
    "conditioned": conditioned,
    "in_turn": in_turn,
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("particles", [1, 2])
def test_value_and_gradient_are_those_of_pyro(name: str, particles: int) -> None:
    found = step(TraceGraph_ELBO(particles, baseline=None), PROGRAMS[name])
    assert_close(found, step(Theirs(particles), PROGRAMS[name]))


@pytest.mark.parametrize("name", ["autoencoder", "schools", "mixed", "weighed"])
def test_particles_at_once_are_those_of_pyro(name: str) -> None:
    options: Any = {"num_particles": 3, "vectorize_particles": True}
    found = step(TraceGraph_ELBO(baseline=None, **options), PROGRAMS[name])
    assert_close(found, step(Theirs(**options), PROGRAMS[name]))


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_loss_alone_and_the_differentiable_loss_have_the_same_value(name: str) -> None:
    value, grads = step(TraceGraph_ELBO(2, baseline=None), PROGRAMS[name])
    pyro.set_rng_seed(1)
    assert TraceGraph_ELBO(2).loss(*flat(PROGRAMS[name])) == pytest.approx(value)
    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    surrogate = TraceGraph_ELBO(2, baseline=None).differentiable_loss(*flat(PROGRAMS[name]))
    surrogate.backward()
    assert surrogate.item() == pytest.approx(value)
    assert_close({n: p.grad for n, p in pyro.get_param_store().named_parameters()}, grads)


GUIDES = [
    autoguide.AutoNormal,
    autoguide.AutoDiagonalNormal,
    autoguide.AutoMultivariateNormal,
    autoguide.AutoLowRankMultivariateNormal,
    autoguide.AutoDelta,
    autoguide.AutoIAFNormal,
    autoguide.AutoLaplaceApproximation,
    autoguide.AutoStructured,
]


@pytest.mark.parametrize("kind", GUIDES)
def test_guides_that_pyro_makes(kind: Any) -> None:
    def made() -> tuple[Program, Program, tuple[Any, ...]]:
        pyro.set_rng_seed(0)
        return pyro_schools, kind(pyro_schools), ()

    found, peer = (step(loss, made) for loss in (TraceGraph_ELBO(), Trace_ELBO()))
    assert_close(found, peer)


def test_a_guide_that_draws_within_the_model() -> None:
    def model() -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("n", 3):
            z = pyro.sample("z", dist.Normal(w, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=torch.arange(3.0))

    def made() -> tuple[Program, Program, tuple[Any, ...]]:
        guide = autoguide.AutoHierarchicalNormalMessenger(model)
        guide()  # makes its parameters, from what it draws
        return model, guide, ()

    found, peer = (step(loss, made) for loss in (TraceGraph_ELBO(2), Trace_ELBO(2)))
    assert_close(found, peer)


def test_a_guide_learns_in_steps_of_svi() -> None:
    model, guide, data = mixed()
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), loss=TraceGraph_ELBO())
    pyro.set_rng_seed(0)
    losses = [svi.step(*data) for _ in range(150)]
    assert sum(losses[-30:]) < sum(losses[:30]) - 30
    assert sum(svi.evaluate_loss(*data) for _ in range(30)) < sum(losses[:30]) - 30


def test_the_loss_as_a_module() -> None:
    class Model(PyroModule):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.w = PyroSample(dist.Normal(0.0, 1.0))

        def forward(self, x: Tensor) -> None:
            w: Any = self.w
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    model = Model()
    guide = autoguide.AutoNormal(model)
    elbo = TraceGraph_ELBO()(model, guide)
    elbo(T(2.0))
    optimizer = torch.optim.Adam(elbo.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        elbo(T(2.0)).backward()
        optimizer.step()
    assert abs(guide.median()["w"].item() - 1.0) < 0.3


def with_baselines(network: Any) -> Made:
    def model(x: Tensor) -> None:
        a = pyro.sample("a", dist.Bernoulli(0.4))
        with pyro.plate("n", 4):
            k = pyro.sample("k", dist.Bernoulli(torch.full((4,), 0.3)))
            pyro.sample("x", dist.Normal(a + k, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("network", network)
        average = {"use_decaying_avg_baseline": True, "baseline_beta": 0.5}
        learned = {"nn_baseline": network, "nn_baseline_input": x}
        logits = pyro.param("q_a", T(0.3)), pyro.param("q_k", torch.zeros(4))
        a = pyro.sample("a", dist.Bernoulli(logits=logits[0]), infer={"baseline": average})
        with pyro.plate("n", 4):
            infer = {"baseline": {**learned, "use_decaying_avg_baseline": True}}
            pyro.sample("k", dist.Bernoulli(logits=logits[1] + a), infer=infer)

    return lambda: (model, guide, (torch.arange(4.0),))


def test_baselines_as_pyro_has_them_over_some_steps() -> None:
    def learned(loss: Any) -> dict[str, Tensor]:
        pyro.clear_param_store()
        pyro.set_rng_seed(2)
        model, guide, data = with_baselines(nn.Linear(4, 4))()
        svi = SVI(model, guide, pyro.optim.SGD({"lr": 0.05}), loss=loss)
        for _ in range(5):
            svi.step(*data)
        return {name: p.detach() for name, p in pyro.get_param_store().items()}

    assert_close(learned(TraceGraph_ELBO(baseline=None)), learned(Theirs()))
    assert_close(learned(TraceGraph_ELBO(2, baseline=None)), learned(Theirs(2)))


def test_without_pyro_the_losses_are_there_and_say_what_is_missing() -> None:
    code = (
        "import sys; sys.modules['pyro'] = None\n"
        "import ancestral as an\n"
        "from ancestral.infer import TraceGraph_ELBO\n"
        "try: TraceGraph_ELBO(num_particles=2)\n"
        "except ImportError as error: assert 'ancestral[pyro]' in str(error)\n"
        "else: raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_library_does_not_import_pyro_by_itself() -> None:
    code = "import sys, ancestral; assert 'pyro' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
