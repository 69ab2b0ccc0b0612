"""Programs that are written twice, in Pyro and here, and have the same numbers.

Draws agree because both sides draw in the same order from the same seed, or are given the values.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import (
    Importance,
    Predictive,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    config_enumerate,
)
from pyro.infer.inspect import get_dependencies
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroSample
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # has no annotations
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    HalfCauchy,
    Independent,
    LogNormal,
    Normal,
    constraints,
)
from torch.testing import assert_close

import ancestral as an
from ancestral import handlers

poutine: Any = pyro.poutine  # the annotations of Pyro want what its documentation does not
module_of: Any = PyroModule
Program = Callable[..., Any]
Found = tuple[Tensor, dict[str, Tensor]]
"""A loss, and its gradient by the names of the parameters."""


@pytest.fixture(autouse=True)
def _in_double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    pyro.clear_param_store()
    yield
    torch.set_default_dtype(before)


def theirs(loss: Any, model: Program, guide: Program, *args: Any) -> Found:
    pyro.clear_param_store()
    torch.manual_seed(1)
    value = loss.loss_and_grads(model, guide, *args)
    leaves: Any = pyro.get_param_store().named_parameters()
    return torch.tensor(value), {n.replace("$$$", "."): leaf.grad for n, leaf in leaves}


def ours(model: Program, guide: Program, *args: Any, **options: Any) -> Found:
    store = an.ParamStore()
    torch.manual_seed(1)
    with store:
        bound = an.infer.elbo(model, guide, *args, baseline=None, **options)
    bound.surrogate.backward()
    return -bound.value, dict(gradients(store))


def gradients(store: an.ParamStore) -> Iterator[tuple[str, Tensor]]:
    for name in store:
        grad = store.unconstrained(name).grad
        assert grad is not None
        yield name, grad


def traced(model: Program, *args: Any) -> Tensor:
    """Return the log-joint of Pyro."""
    return poutine.trace(model).get_trace(*args).log_prob_sum()  # type: ignore[no-any-return]


def recorded(model: Program, *args: Any) -> an.Trace:
    with an.ParamStore(), an.record() as trace:
        model(*args)
    return trace


def nothing(*args: Any) -> None:
    """Guide a model that enumerates all its sites."""


# An autoencoder of digits, which sees a part of them.


class Autoencoder:
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 4))
        self.decoder = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 64))

    def pyro_model(self, x: Tensor, **plate: Any) -> None:
        decoder = pyro.module("decoder", self.decoder)
        with pyro.plate("images", len(x), **plate) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x[index])

    def pyro_guide(self, x: Tensor, **plate: Any) -> None:
        encoder = pyro.module("encoder", self.encoder)
        with pyro.plate("images", len(x), **plate) as index:
            loc, log_scale = encoder(x[index]).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    def model(self, x: Tensor, **plate: Any) -> None:
        decoder = an.module("decoder", self.decoder)
        with an.plate("images", len(x), **plate) as index:
            z = an.sample("z", Independent(Normal(torch.zeros(2), 1.0), 1))
            an.sample("x", Independent(Bernoulli(logits=decoder(z)), 1), obs=x[index])

    def guide(self, x: Tensor, **plate: Any) -> None:
        encoder = an.module("encoder", self.encoder)
        with an.plate("images", len(x), **plate) as index:
            loc, log_scale = encoder(x[index]).chunk(2, -1)
            an.sample("z", Independent(Normal(loc, log_scale.exp()), 1))


def digits() -> Tensor:
    return torch.tensor(load_digits().data[:30] > 8).to(torch.float64)


@pytest.mark.parametrize("loss", [Trace_ELBO, TraceGraph_ELBO])
@pytest.mark.parametrize(
    "plate", [{"subsample_size": 7}, {"subsample": torch.tensor([3, 20, 11])}, {}]
)
def test_the_bound_of_an_autoencoder_and_its_gradient(loss: Any, plate: dict[str, Any]) -> None:
    x, a, b = digits(), Autoencoder(), Autoencoder()
    found = ours(
        lambda: a.model(x, **plate), lambda: a.guide(x, **plate), particles=2, vectorized=False
    )
    peer = theirs(
        loss(num_particles=2), lambda: b.pyro_model(x, **plate), lambda: b.pyro_guide(x, **plate)
    )
    assert_close(found, peer)


def test_the_bound_of_all_particles_at_once_and_its_gradient() -> None:
    x, a, b = digits(), Autoencoder(), Autoencoder()
    loss = Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    peer = theirs(loss, b.pyro_model, b.pyro_guide, x)
    options = {"particles": 3, "vectorized": True, "max_plate_nesting": 1}
    assert_close(ours(a.model, a.guide, x, **options), peer)


def test_the_log_joint_within_mask_and_scale_and_a_subsample() -> None:
    x, net, which = digits(), Autoencoder(), torch.arange(6) % 2 == 0
    z, batch = torch.randn(6, 2), torch.arange(0, 30, 5)
    changed = poutine.scale(poutine.mask(net.pyro_model, which), 2.5)
    peer = poutine.trace(poutine.condition(changed, {"z": z})).get_trace(x, subsample=batch)
    with handlers.scale(2.5), handlers.mask(which), handlers.condition({"z": z}):
        trace = recorded(lambda: net.model(x, subsample=batch))
    assert_close(trace.log_prob_sum(), peer.log_prob_sum())
    assert trace["z"].scale == peer.nodes["z"]["scale"]


# A hidden Markov model of sequences that differ in length.


def pyro_hmm(xs: Tensor, lengths: Tensor, table: Tensor, steps: Any = pyro.markov) -> None:
    loc = pyro.param("loc", torch.arange(3.0))
    with pyro.plate("sequences", len(xs)):
        state: Any = 0
        for t in steps(range(xs.shape[1])):
            with poutine.mask(mask=t < lengths):
                state = pyro.sample(f"state_{t}", dist.Categorical(table[state]))
                pyro.sample(f"x_{t}", dist.Normal(loc[state], 1.0), obs=xs[:, t])


def hmm(xs: Tensor, lengths: Tensor, table: Tensor, steps: Any = handlers.markov) -> None:
    loc = an.param("loc", torch.arange(3.0))
    with an.plate("sequences", len(xs)):
        state: Any = 0
        for t in steps(range(xs.shape[1])):
            with handlers.mask(t < lengths):
                state = an.sample(f"state_{t}", Categorical(table[state]))
                an.sample(f"x_{t}", Normal(loc[state], 1.0), obs=xs[:, t])


def sequences() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(4, 5), torch.tensor([5, 3, 1, 4]), torch.randn(3, 3)


def test_the_evidence_of_a_hidden_markov_model_and_its_gradient() -> None:
    xs, lengths, logits = sequences()
    a, b = logits.clone().requires_grad_(), logits.clone().requires_grad_()

    every: Any = config_enumerate(pyro_hmm, "parallel")
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    peer = theirs(loss, lambda: every(xs, lengths, b.softmax(-1)), nothing)
    model: Any = handlers.enumerate(first_dim=-2)(hmm)
    found = ours(lambda: model(xs, lengths, a.softmax(-1)), nothing)
    assert_close(found, peer)
    assert_close(a.grad, b.grad)


def test_the_marginals_of_what_is_enumerated() -> None:
    xs, lengths, logits = sequences()
    data = xs[:, :3], lengths, logits.softmax(-1), list
    peer = TraceEnum_ELBO(max_plate_nesting=1).compute_marginals(
        config_enumerate(pyro_hmm, "parallel"), nothing, *data
    )
    found = an.infer.marginals(recorded(handlers.enumerate(first_dim=-2)(hmm), *data))
    assert list(found) == list(peer)
    for name, fn in peer.items():
        assert_close(found[name], fn.logits.movedim(-1, 0))


def test_the_log_joint_of_a_hidden_markov_model() -> None:
    data = *sequences()[:2], sequences()[2].softmax(-1)
    values = {f"state_{t}": torch.arange(4) % 3 for t in range(5)}
    found = recorded(handlers.condition(values)(hmm), *data).log_prob_sum()
    assert_close(found, traced(poutine.condition(pyro_hmm, values), *data))


# Eight schools: a hierarchical regression.

EFFECTS = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12], dtype=torch.float64)
ERRORS = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18], dtype=torch.float64)


def pyro_schools() -> None:
    mu = pyro.sample("mu", dist.Normal(torch.tensor(0.0), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(torch.tensor(5.0)))
    with pyro.plate("schools", 8):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.deterministic("effect", theta - mu)
        pyro.sample("y", dist.Normal(theta, ERRORS), obs=EFFECTS)


def schools() -> None:
    mu = an.sample("mu", Normal(torch.tensor(0.0), 5.0))
    tau = an.sample("tau", HalfCauchy(torch.tensor(5.0)))
    with an.plate("schools", 8):
        theta = an.sample("theta", Normal(mu, tau))
        an.deterministic("effect", theta - mu)
        an.sample("y", Normal(theta, ERRORS), obs=EFFECTS)


def pyro_schools_guide(name: str = "theta") -> None:
    loc = pyro.param("loc", torch.tensor(1.0))
    scale = pyro.param("scale", torch.tensor(2.0), constraint=constraints.positive)
    lean = pyro.sample("lean", dist.Normal(loc, scale), infer={"is_auxiliary": True})
    pyro.sample("mu", dist.Normal(lean, 1.0))
    pyro.sample("tau", dist.LogNormal(pyro.param("log_tau", torch.tensor(0.5)), 0.3))
    width = pyro.param("width", torch.ones(8), constraint=constraints.interval(0.1, 9.0))
    with pyro.plate("schools", 8):
        pyro.sample(name, dist.Normal(pyro.param("locs", torch.zeros(8)), width))


def schools_guide(name: str = "theta") -> None:
    loc = an.param("loc", torch.tensor(1.0))
    scale = an.param("scale", torch.tensor(2.0), constraint=constraints.positive)
    lean = an.sample("lean", Normal(loc, scale), infer={"is_auxiliary": True})
    an.sample("mu", Normal(lean, 1.0))
    an.sample("tau", LogNormal(an.param("log_tau", torch.tensor(0.5)), 0.3))
    width = an.param("width", torch.ones(8), constraint=constraints.interval(0.1, 9.0))
    with an.plate("schools", 8):
        an.sample(name, Normal(an.param("locs", torch.zeros(8)), width))


def values() -> dict[str, Tensor]:
    return {"mu": torch.tensor(1.0), "tau": torch.tensor(2.0), "theta": torch.arange(8.0)}


def test_the_log_joint_of_values_that_are_observed_and_of_those_that_are_substituted() -> None:
    peer = traced(poutine.condition(pyro_schools, values()))
    assert_close(recorded(handlers.condition(values())(schools)).log_prob_sum(), peer)
    assert_close(recorded(handlers.substitute(values())(schools)).log_prob_sum(), peer)


def test_the_log_joint_after_an_intervention() -> None:
    rest = values()
    set_to = {"mu": rest.pop("mu")}
    changed = poutine.condition(poutine.do(pyro_schools, set_to), rest)
    found = recorded(handlers.condition(rest)(handlers.do(set_to)(schools)))
    peer = poutine.trace(changed).get_trace()
    names = ("tau", "theta", "y")  # Pyro keeps the draw of what is set in its trace as well
    peer.compute_log_prob()
    assert_close(found.log_prob_sum(), sum(peer.nodes[name]["log_prob_sum"] for name in names))


def test_the_bound_of_an_hierarchical_regression_and_its_gradient() -> None:
    loss = Trace_ELBO(num_particles=2)
    peer = theirs(loss, pyro_schools, pyro_schools_guide)
    assert_close(ours(schools, schools_guide, particles=2), peer)


@pytest.mark.parametrize("centered", [0.0, 0.3, None])
def test_the_bound_of_locations_and_scales_that_are_taken_out(centered: float | None) -> None:
    name = "theta_decentered"
    peer = theirs(
        Trace_ELBO(),
        poutine.reparam(pyro_schools, {"theta": LocScaleReparam(centered)}),
        lambda: pyro_schools_guide(name),
    )
    model = handlers.reparam({"theta": handlers.LocScale(centered)})(schools)
    assert_close(ours(model, lambda: schools_guide(name)), peer)


def test_the_bound_of_programs_that_are_scaled_apart_and_its_gradient() -> None:
    peer_guide = poutine.scale(pyro_schools_guide, 0.1)
    peer = theirs(Trace_ELBO(), poutine.scale(pyro_schools, 0.2), peer_guide)
    assert_close(ours(handlers.scale(0.2)(schools), handlers.scale(0.1)(schools_guide)), peer)


def test_the_bound_of_a_model_that_is_masked_and_its_gradient() -> None:
    peer = theirs(Trace_ELBO(), poutine.mask(pyro_schools, False), pyro_schools_guide)
    assert_close(ours(handlers.mask(False)(schools), schools_guide), peer)


@pytest.mark.parametrize("is_guided", [True, False])
def test_the_log_weights_of_importance_sampling(is_guided: bool) -> None:
    torch.manual_seed(2)
    guide = pyro_schools_guide if is_guided else None
    peer = Importance(pyro_schools, guide=guide, num_samples=20).run()
    torch.manual_seed(2)
    with an.ParamStore():
        own = schools_guide if is_guided else None
        found = an.infer.importance(schools, own, samples=20, vectorized=False)
    assert_close(found.log_weights, torch.stack([w.detach() for w in peer.log_weights]))
    assert_close(found.effective_sample_size, peer.get_ESS().detach())
    assert_close(found.log_evidence, peer.get_log_normalizer().detach())


def test_the_log_weights_of_draws_that_are_made_at_once() -> None:
    found = an.infer.importance(schools, None, samples=20)
    assert found.in_turn == ""
    for k, weight in enumerate(found.log_weights):
        draw = {name: value[k] for name, value in found.values.items()}
        peer = traced(poutine.condition(pyro_schools, draw))
        prior = traced(poutine.block(poutine.condition(pyro_schools, draw), hide=["y"]))
        assert_close(weight, peer - prior)


@pytest.mark.parametrize("is_guided", [True, False])
def test_the_shapes_of_predictions_without_room_for_plates(is_guided: bool) -> None:
    guide = pyro_schools_guide if is_guided else None
    peer = Predictive(pyro_schools, guide=guide, num_samples=4)()
    with an.ParamStore():
        own = schools_guide if is_guided else None
        found = an.infer.Predictive(schools, guide=own, samples=4)()
    shapes = {name: list(value.shape) for name, value in found.items()}
    assert shapes == {name: without_ones(value) for name, value in peer.items()}


def without_ones(value: Tensor) -> list[int]:
    """Return a shape without the dimensions that Pyro leaves for plates a site is not in."""
    return [size for size in value.shape if size > 1]


# A mixture of which some assignments are known.


def pyro_mixture(x: Tensor, known: Tensor, seen: Any) -> None:
    weights = pyro.param("weights", torch.tensor([0.2, 0.1, -0.3]))
    loc = pyro.param("loc", torch.tensor([-1.0, 0.0, 2.0]))
    with pyro.plate("cases", len(x)):
        c = pyro.sample("c", dist.Categorical(logits=weights), obs=known, obs_mask=seen)
        pyro.sample("x", dist.Normal(loc[c], 1.0), obs=x)


def pyro_mixture_guide(x: Tensor, known: Tensor, seen: Tensor) -> None:
    slope = pyro.param("slope", torch.tensor([0.5, 0.1, -0.4]))
    with pyro.plate("cases", len(x)), poutine.mask(mask=~seen):
        pyro.sample("c_unobserved", dist.Categorical(logits=x[:, None] * slope))


def mixture(x: Tensor, known: Tensor, seen: Tensor) -> None:
    weights = an.param("weights", torch.tensor([0.2, 0.1, -0.3]))
    loc = an.param("loc", torch.tensor([-1.0, 0.0, 2.0]))
    with an.plate("cases", len(x)):
        c = an.sample("c", Categorical(logits=weights), obs=known, obs_mask=seen)
        an.sample("x", Normal(loc[c], 1.0), obs=x)


def mixture_guide(x: Tensor, known: Tensor, seen: Tensor) -> None:
    slope = an.param("slope", torch.tensor([0.5, 0.1, -0.4]))
    with an.plate("cases", len(x)), handlers.mask(~seen):
        an.sample("c_unobserved", Categorical(logits=x[:, None] * slope))


def cases() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(6), torch.tensor([0, 2, 0, 1, 0, 0]), torch.tensor([1, 1, 0, 1, 0, 0]) > 0


@pytest.mark.parametrize("is_guided", [True, False])
def test_the_bound_of_assignments_that_are_enumerated_and_its_gradient(is_guided: bool) -> None:
    every = handlers.enumerate(first_dim=-2)
    peer_guide = config_enumerate(pyro_mixture_guide, "parallel") if is_guided else nothing
    loss = TraceEnum_ELBO(max_plate_nesting=1)
    peer = theirs(loss, config_enumerate(pyro_mixture, "parallel"), peer_guide, *cases())
    guide = handlers.enumerate(first_dim=-2)(mixture_guide) if is_guided else nothing
    assert_close(ours(every(mixture), guide, *cases()), peer)


def test_the_bound_of_assignments_that_are_drawn_and_its_gradient() -> None:
    peer = theirs(TraceGraph_ELBO(), pyro_mixture, pyro_mixture_guide, *cases())
    assert_close(ours(mixture, mixture_guide, *cases()), peer)


def test_the_marginals_of_assignments_that_are_not_observed() -> None:
    peer = TraceEnum_ELBO(max_plate_nesting=1).compute_marginals(
        config_enumerate(pyro_mixture, "parallel"), nothing, *cases()
    )
    found = an.infer.marginals(recorded(handlers.enumerate(first_dim=-2)(mixture), *cases()))
    assert list(found) == list(peer) == ["c_unobserved"]
    assert_close(found["c_unobserved"], peer["c_unobserved"].logits.T)


# A network whose weights are drawn.

SHAPES = {"0.weight": (3, 2), "0.bias": (3,), "2.weight": (1, 3), "2.bias": (1,)}


class PyroNetwork(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        linear = module_of[nn.Linear]
        self.net: Any = module_of[nn.Sequential](linear(2, 3), nn.Tanh(), linear(3, 1))
        for layer in (self.net[0], self.net[2]):
            for name, p in list(layer.named_parameters()):
                prior = dist.Normal(0.0, 1.0).expand(p.shape).to_event(p.dim())
                setattr(layer, name, PyroSample(prior))

    def forward(self, x: Tensor, y: Tensor) -> None:
        mean = self.net(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, 0.3), obs=y)


def pyro_network_guide(x: Tensor, y: Tensor) -> None:
    for name, shape in SHAPES.items():
        loc = pyro.param(f"loc.{name}", torch.full(shape, 0.2))
        scale = pyro.param(f"scale.{name}", torch.ones(shape), constraint=constraints.positive)
        pyro.sample(f"net.{name}", dist.Normal(loc, scale).to_event(len(shape)))


def network() -> Program:
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))

    @handlers.lift(Normal(torch.tensor(0.0), 1.0))
    def model(x: Tensor, y: Tensor) -> None:
        mean = an.module("net", net)(x).squeeze(-1)
        with an.plate("data", len(x)):
            an.sample("y", Normal(mean, 0.3), obs=y)

    return model


def network_guide(x: Tensor, y: Tensor) -> None:
    for name, shape in SHAPES.items():
        loc = an.param(f"loc.{name}", torch.full(shape, 0.2))
        scale = an.param(f"scale.{name}", torch.ones(shape), constraint=constraints.positive)
        an.sample(f"net.{name}", Independent(Normal(loc, scale), len(shape)))


def points() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(8, 2)
    return x, x.sum(-1).sin()


def test_the_log_joint_of_a_network_whose_parameters_have_priors() -> None:
    torch.manual_seed(3)
    weights = {f"net.{name}": torch.randn(shape) for name, shape in SHAPES.items()}
    found = recorded(handlers.condition(weights)(network()), *points()).log_prob_sum()
    assert_close(found, traced(poutine.condition(PyroNetwork(), weights), *points()))


def test_the_bound_of_a_network_whose_parameters_have_priors_and_its_gradient() -> None:
    peer = theirs(Trace_ELBO(num_particles=2), PyroNetwork(), pyro_network_guide, *points())
    assert_close(ours(network(), network_guide, *points(), particles=2), peer)


# What depends on what.


PROGRAMS: dict[str, Callable[[], tuple[Program, Program, tuple[Tensor, ...]]]] = {
    "autoencoder": lambda: (Autoencoder().model, Autoencoder().pyro_model, (digits(),)),
    "schools": lambda: (schools, pyro_schools, ()),
    "mixture": lambda: (mixture, pyro_mixture, cases()),
    "network": lambda: (network(), PyroNetwork(), points()),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_dependencies_of_the_prior_and_of_the_posterior(name: str) -> None:
    model, pyro_model, data = PROGRAMS[name]()
    peer = get_dependencies(pyro_model, data)
    trace = recorded(model, *data)
    assert an.infer.prior_dependencies(trace) == peer["prior_dependencies"]
    assert an.infer.posterior_dependencies(trace) == peer["posterior_dependencies"]
