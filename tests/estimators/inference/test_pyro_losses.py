"""The losses for Pyro's SVI have Pyro's values and, where its credit is as fine, its gradients."""

import itertools
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pyro as annotated
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
    pyro_hmm,
    pyro_mixture,
    pyro_mixture_guide,
    pyro_network_guide,
    pyro_schools,
    pyro_schools_guide,
    sequences,
)
from pyro.infer import SVI, Trace_ELBO, autoguide, config_enumerate
from pyro.infer import TraceEnum_ELBO as Enumerated
from pyro.infer import TraceGraph_ELBO as Theirs
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn
from torch.testing import assert_close

import ancestral as an
from ancestral.infer import TraceEnum_ELBO, TraceGraph_ELBO

pyro: Any = annotated  # which wants what its documentation does not
Made = Callable[[], tuple[Program, Program, tuple[Any, ...]]]
T = torch.tensor


@pytest.fixture(autouse=True)
def _in_double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    pyro.clear_param_store()
    yield
    torch.set_default_dtype(before)


def step(loss: Any, made: Made) -> tuple[float, dict[str, Any]]:
    """Return a loss and the gradients of the parameters, at the draws of one seed."""
    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    value = loss.loss_and_grads(*flat(made))
    leaves = pyro.get_param_store().named_parameters()
    return value, {name: leaf.grad for name, leaf in leaves}


def flat(made: Made) -> tuple[Any, ...]:
    model, guide, data = made()
    return model, guide, *data


def mixed() -> tuple[Program, Program, tuple[Any, ...]]:
    def model(x: Tensor) -> None:
        a = pyro.sample("a", dist.Bernoulli(0.4))
        with pyro.plate("n", 4):
            z = pyro.sample("z", dist.Normal(a, 1.0))
            k = pyro.sample("k", dist.Bernoulli(logits=z))
            pyro.sample("x", dist.Normal(z + k, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        a = pyro.sample("a", dist.Bernoulli(logits=pyro.param("q_a", T(0.3))))
        with pyro.plate("n", 4):
            z = pyro.sample("z", dist.Normal(pyro.param("q_z", torch.zeros(4)) + a, 1.0))
            pyro.sample("k", dist.Bernoulli(logits=pyro.param("q_k", torch.zeros(4)) + z))

    return model, guide, (torch.arange(4.0),)


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


def hmm() -> tuple[Program, Program, tuple[Any, ...]]:
    xs, lengths, logits = sequences()
    every: Any = config_enumerate(pyro_hmm, "parallel")
    return lambda: every(xs[:, :4], lengths, logits.softmax(-1)), lambda: None, ()


def assigned() -> tuple[Program, Program, tuple[Any, ...]]:
    model, guide = (config_enumerate(f, "parallel") for f in (pyro_mixture, pyro_mixture_guide))
    return model, guide, cases()


def long_chain() -> tuple[Program, Program, tuple[Any, ...]]:
    """Return a chain of more steps than a tensor has dimensions, each with a second site."""

    def model() -> None:
        moves = pyro.param("moves", lambda: torch.rand(3, 3), constraint=dist.constraints.simplex)
        shows = pyro.param("shows", lambda: torch.randn(3, 2))
        x = torch.tensor(0)
        for step in pyro.markov(range(70)):
            x = pyro.sample(f"x_{step}", dist.Categorical(moves[x]))
            y = pyro.sample(f"y_{step}", dist.Bernoulli(0.3))
            logits = torch.where(y > 0, shows[x, 0], shows[x, 1])
            pyro.sample(f"z_{step}", dist.Bernoulli(logits=logits), obs=T(float(step % 3 > 0)))

    return config_enumerate(model), lambda: None, ()


def half_marked() -> tuple[Program, Program, tuple[Any, ...]]:
    model, guide, data = mixed()
    marked: Any = poutine.infer_config(
        guide, lambda site: {"enumerate": "parallel"} if site["name"] == "a" else {}
    )
    return model, marked, data


@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
@pytest.mark.parametrize("made", [hmm, assigned, long_chain])
@pytest.mark.parametrize("nesting", [1, float("inf")])
def test_sums_over_what_is_marked_are_those_of_pyro(made: Made, nesting: float) -> None:
    options: Any = {"max_plate_nesting": nesting}
    found = step(TraceEnum_ELBO(**options), made)
    assert_close(found, step(Enumerated(**options), made))


def test_columns_that_come_back_into_sight_keep_their_dimensions() -> None:
    """Beside all 16 outcomes; Pyro gives dimensions back that are still depended on: 1.4165."""
    logits = T([[0.3, -0.7], [1.1, -0.4]])
    cells = list(itertools.product(range(2), repeat=2))

    def weight(row: int, column: int) -> float:
        return 0.3 * (1 + row + column)

    def model() -> None:
        above, columns = [torch.tensor(0)] * 2, pyro.markov(range(2), keep=True)
        for row in pyro.markov(range(2)):
            left = torch.tensor(0)
            for column in columns:
                fn = dist.Bernoulli(logits=logits[left, above[column]])
                left = above[column] = pyro.sample(f"x_{row}_{column}", fn).long()
                pyro.factor(f"f_{row}_{column}", left * weight(row, column))

    total = 0.0
    for values in itertools.product((0, 1), repeat=4):
        x = dict(zip(cells, values, strict=True))
        density = T(0.0)
        for row, column in cells:
            behind = x.get((row, column - 1), 0), x.get((row - 1, column), 0)
            value = T(float(x[row, column]))
            density += dist.Bernoulli(logits=logits[behind]).log_prob(value)
            density += value * weight(row, column)
        total += float(density.exp())
    found = TraceEnum_ELBO(max_plate_nesting=0).loss(config_enumerate(model), nothing)
    assert found == pytest.approx(-math.log(total))


@pytest.mark.filterwarnings("ignore:Found vars in model but not guide")
def test_what_is_marked_to_be_summed_in_turn_has_the_same_sum() -> None:
    def in_turn() -> tuple[Program, Program, tuple[Any, ...]]:
        return pyro_mixture, config_enumerate(pyro_mixture_guide, "sequential"), cases()

    found = step(TraceEnum_ELBO(max_plate_nesting=1), in_turn)
    assert_close(found, step(Enumerated(max_plate_nesting=1), assigned))


def test_what_is_not_marked_is_drawn() -> None:
    found, _ = step(TraceEnum_ELBO(max_plate_nesting=1), half_marked)
    peer, _ = step(Enumerated(max_plate_nesting=1), half_marked)
    assert found == pytest.approx(peer)


def test_marginals_of_what_is_marked() -> None:
    model, _, data = assigned()
    found, peer = (
        loss(max_plate_nesting=1).compute_marginals(model, lambda *_: None, *data)
        for loss in (TraceEnum_ELBO, Enumerated)
    )
    assert_close(found["c_unobserved"].logits, peer["c_unobserved"].logits)


# What users do wrong.


def refused(model: Program, guide: Program, loss: Any = None) -> Any:
    """Return the error of a step, which is to name this file."""
    with pytest.raises((ValueError, RuntimeError)) as caught:
        (loss or TraceGraph_ELBO()).loss_and_grads(model, guide)
    notes: list[str] = getattr(caught.value, "__notes__", [])
    assert __file__ in " ".join([str(caught.value), *notes])
    return caught


def nothing() -> None:
    """Draw nothing."""


def coin(name: str = "z", logits: Any = 0.0, **options: Any) -> Tensor:
    return pyro.sample(name, dist.Bernoulli(logits=torch.as_tensor(logits)), **options)  # type: ignore[no-any-return]


def test_a_guide_that_misses_a_site() -> None:
    caught = refused(lambda: coin(), lambda: coin("y"))
    assert caught.errisinstance(an.errors.GuideError)
    assert "'z'" in str(caught.value)


def test_a_guide_with_a_site_too_many() -> None:
    refused(nothing, lambda: coin())


def test_a_guide_that_observes() -> None:
    refused(lambda: coin(), lambda: coin(obs=T(1.0)))


def test_a_site_that_is_there_twice() -> None:
    def model() -> None:
        coin()
        coin()

    assert "Multiple sample sites named 'z'" in str(refused(model, lambda: coin()).value)


@pytest.mark.parametrize(
    "infer",
    [
        {"enumerat": "parallel"},
        {"is_auxilary": True},
        {"num_samples": 3},
        {"baseline": {"use_decaying_average": True}},
        {"baseline": {"nn_baseline": len, "baseline_value": 1}},
    ],
)
def test_what_nothing_reads_in_infer(infer: dict[str, Any]) -> None:
    def guide() -> None:
        coin(logits=pyro.param("q", T(0.1)), infer=infer)

    with pytest.raises(an.errors.SiteError, match="'z'"):
        TraceGraph_ELBO().loss_and_grads(lambda: coin(), guide)


def test_a_value_outside_the_support() -> None:
    def model() -> None:
        pyro.sample("x", dist.Bernoulli(0.5), obs=T(3.0))

    assert refused(model, nothing).errisinstance(an.errors.SiteError)


def test_a_density_that_is_not_finite() -> None:
    def model() -> None:
        pyro.factor("f", T(0.0).log())

    assert refused(model, nothing).errisinstance(an.errors.NonFiniteDensityError)


def test_a_batch_that_no_plate_declares() -> None:
    def model() -> None:
        pyro.sample("x", dist.Normal(torch.zeros(3), 1.0), obs=torch.zeros(3))

    assert refused(model, nothing).errisinstance(an.errors.SiteError)
    refused(model, nothing, TraceGraph_ELBO(2, vectorize_particles=True, max_plate_nesting=0))


def test_a_marked_site_that_python_reads() -> None:
    def model() -> None:
        if coin(infer={"enumerate": "parallel"}) > 0:
            coin("y", infer={"enumerate": "parallel"})

    refused(model, nothing, TraceEnum_ELBO(max_plate_nesting=0))


def test_a_site_to_be_enumerated_in_turn_that_python_reads() -> None:
    guide = config_enumerate(lambda: coin("y" if coin() > 0 else "x"), "sequential")
    refused(lambda: coin(), guide, TraceEnum_ELBO(max_plate_nesting=0))


@pytest.mark.parametrize("has_rsample", [None, False])
def test_a_factor_of_a_guide_that_stands_for_a_score(has_rsample: bool | None) -> None:
    def guide() -> None:
        pyro.factor("f", pyro.param("q", T(0.1)) * 2, has_rsample=has_rsample)

    assert refused(nothing, guide).errisinstance(an.errors.GuideError)


def test_marks_and_losses_that_do_not_go_together() -> None:
    marked = config_enumerate(lambda: coin(logits=0.2), "parallel")
    with pytest.warns(UserWarning, match=r"TraceEnum_ELBO"):
        TraceGraph_ELBO().loss(lambda: coin(), marked)
    with pytest.warns(UserWarning, match="found no sample sites configured for enumeration"):
        TraceEnum_ELBO(max_plate_nesting=0).loss(lambda: coin(), lambda: coin())


def test_a_generator_is_no_model() -> None:
    def model() -> Iterator[Tensor]:
        yield coin()

    with pytest.raises(TypeError, match="generator"):
        TraceGraph_ELBO().loss_and_grads(model, nothing)


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
