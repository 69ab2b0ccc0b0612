"""Programs that are written twice, in Pyro and here, have the same numbers.

Draws agree because both sides draw in the same order from the same seed, or are given the values.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pytest
import torch
from programs.in_pyro import (
    SHAPES,
    Autoencoder,
    Program,
    PyroNetwork,
    cases,
    digits,
    hmm,
    mixture,
    mixture_guide,
    network,
    network_guide,
    points,
    poutine,
    pyro_hmm,
    pyro_mixture,
    pyro_mixture_guide,
    pyro_network_guide,
    pyro_schools,
    pyro_schools_guide,
    schools,
    schools_guide,
    sequences,
    values,
)
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
from torch import Tensor
from torch.testing import assert_close

import ancestral as an
from ancestral import handlers

pytestmark = pytest.mark.usefixtures("in_double_precision")
Found = tuple[Tensor, dict[str, Tensor]]
"""A loss, and its gradient by the names of the parameters."""


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


def test_the_log_joint_of_a_network_whose_parameters_have_priors() -> None:
    torch.manual_seed(3)
    weights = {f"net.{name}": torch.randn(shape) for name, shape in SHAPES.items()}
    found = recorded(handlers.condition(weights)(network()), *points()).log_prob_sum()
    assert_close(found, traced(poutine.condition(PyroNetwork(), weights), *points()))


def test_the_bound_of_a_network_whose_parameters_have_priors_and_its_gradient() -> None:
    peer = theirs(Trace_ELBO(num_particles=2), PyroNetwork(), pyro_network_guide, *points())
    assert_close(ours(network(), network_guide, *points(), particles=2), peer)


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
