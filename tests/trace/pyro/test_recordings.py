"""Recordings see Pyro programs: names, values, densities, plates, and parents that are found."""

import gc
import threading
import weakref
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from programs.in_pyro import (
    Autoencoder,
    PyroNetwork,
    cases,
    digits,
    points,
    poutine,
    pyro,
    pyro_mixture,
    pyro_mixture_guide,
    pyro_schools,
    pyro_schools_guide,
)
from pyro.infer.autoguide import AutoNormal
from pyro.infer.reparam import LocScaleReparam
from torch import Tensor
from torch.testing import assert_close

import ancestral as an

pytestmark = pytest.mark.usefixtures("in_double_precision")
T = torch.tensor


def program(x: Tensor) -> Tensor:
    p = pyro.param("p", T(0.3))
    a = pyro.sample("a", dist.Bernoulli(p.sigmoid()))
    with pyro.plate("n", 4, subsample_size=2) as index:
        z = pyro.sample("z", dist.Normal(a, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])
    total = pyro.deterministic("total", z.sum())
    pyro.factor("f", total * 0.1)
    b: Tensor = pyro.sample("b", dist.Bernoulli(0.3 if total > 0 else 0.6))
    return b


def test_names_kinds_and_parents() -> None:
    with an.record() as trace:
        program(torch.zeros(4))
    assert {name: (node.type, sorted(node.parents)) for name, node in trace.items()} == {
        "p": ("param", []),
        "a": ("sample", []),
        "z": ("sample", ["a"]),
        "x": ("sample", ["z"]),
        "total": ("deterministic", ["z"]),
        "f": ("sample", ["total"]),
        "b": ("sample", ["total"]),
    }
    assert trace["x"].is_observed
    assert trace["z"].scale == 2
    assert [plate.name for plate in trace["z"].cond_indep_stack] == ["n"]
    assert str(trace["z"].location).startswith(__file__)


PROGRAMS: dict[str, Any] = {
    "program": lambda: program(torch.arange(4.0)),
    "schools": pyro_schools,
    "guide": pyro_schools_guide,
    "decentered": poutine.reparam(pyro_schools, {"theta": LocScaleReparam(0.3)}),
    "mixture": lambda: pyro_mixture(*cases()),
    "network": lambda: PyroNetwork()(*points()),
    "autoencoder": lambda: Autoencoder().pyro_model(digits()),
    "scaled": poutine.scale(poutine.mask(pyro_schools, False), 0.3),
    "conditioned": poutine.condition(pyro_schools, {"mu": T(1.0)}),
    "replaced": poutine.do(pyro_schools, {"mu": T(1.0)}),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_draws_and_densities_are_those_of_pyro(name: str) -> None:
    torch.manual_seed(1)
    peer = poutine.trace(PROGRAMS[name]).get_trace()
    pyro.clear_param_store()
    torch.manual_seed(1)
    with an.record() as trace:
        PROGRAMS[name]()
    peer.compute_log_prob()
    sites = {k: v for k, v in peer.nodes.items() if v["type"] == "sample" and k in trace}
    assert sites
    for key, site in sites.items():
        node = trace[key]
        assert_close(node.value, site["value"])
        if node.fn is not None:
            assert_close(node.log_prob, site["log_prob"])
            assert_close(node.log_prob_sum, site["log_prob_sum"])


def test_the_graph_of_a_program() -> None:
    edges = str(an.graph(pyro_schools))
    assert "theta ~ Normal[8] <- mu <- tau" in edges
    assert "y ~ Normal[8] <- theta" in edges


def test_the_bound_of_two_programs() -> None:
    torch.manual_seed(0)
    found = an.infer.elbo(pyro_mixture, pyro_mixture_guide, *cases(), baseline=None)
    found.surrogate.backward()
    grads = {n: p.grad for n, p in pyro.get_param_store().named_parameters()}
    pyro.clear_param_store()
    torch.manual_seed(0)
    peer = pyro.infer.TraceGraph_ELBO().loss_and_grads(pyro_mixture, pyro_mixture_guide, *cases())
    assert -found.value.item() == pytest.approx(peer)
    assert_close(grads, {n: p.grad for n, p in pyro.get_param_store().named_parameters()})


def test_handlers_of_the_library_around_a_program() -> None:
    with an.handlers.condition({"mu": T(1.0)}), an.record() as trace:
        pyro_schools()
    assert trace["mu"].is_observed
    assert trace["mu"].value == 1.0


def test_the_gradient_of_a_loss_that_a_program_returns() -> None:
    def loss(theta: Tensor) -> Tensor:
        a = pyro.sample("a", dist.Bernoulli(logits=theta))
        b: Any = pyro.sample("b", dist.Bernoulli(logits=torch.where(a > 0, -theta, theta)))
        loss: Tensor = (b - 0.4).square() + a
        return loss

    report = an.verify(loss, T(0.3, requires_grad=True))
    assert report.is_unbiased


def test_a_program_runs_as_ever_after_a_recording_and_in_other_threads() -> None:
    seen: list[Any] = []
    with an.record():
        worker = threading.Thread(target=lambda: None)
        worker.start()
        worker.join()
        pyro_schools()
    torch.manual_seed(0)
    seen.append(poutine.trace(pyro_schools).get_trace().nodes["theta"]["value"])
    torch.manual_seed(0)
    seen.append(poutine.trace(pyro_schools).get_trace().nodes["theta"]["value"])
    assert_close(*seen)
    assert type(seen[0]) is Tensor
    assert pyro.poutine.runtime._PYRO_STACK == []


def test_an_error_in_a_program_leaves_pyro_as_it_was() -> None:
    def model() -> None:
        pyro.sample("a", dist.Bernoulli(0.3))
        raise KeyError

    with pytest.raises(KeyError), an.record():
        poutine.trace(model).get_trace()
    assert pyro.poutine.runtime._PYRO_STACK == []


# Traces, read and written.


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_trace_of_pyro_is_read_and_written(name: str) -> None:
    torch.manual_seed(1)
    peer = poutine.trace(PROGRAMS[name]).get_trace()
    trace = an.Trace.from_pyro(peer)
    assert_close(trace.log_prob_sum(), torch.as_tensor(peer.log_prob_sum()))
    again = trace.to_pyro()
    assert_close(torch.as_tensor(again.log_prob_sum()), torch.as_tensor(peer.log_prob_sum()))
    replayed = poutine.trace(poutine.replay(PROGRAMS[name], trace=again)).get_trace()
    for key, node in trace.items():
        if node.is_stochastic:
            assert_close(replayed.nodes[key]["value"], node.value)


def test_a_recording_of_a_program_of_the_library_is_replayed_in_pyro() -> None:
    def model() -> None:
        z = an.sample("z", torch.distributions.Normal(0.0, torch.ones(3)))
        fn = torch.distributions.Independent(torch.distributions.Normal(z, 1.0), 1)
        an.sample("x", fn, obs=torch.zeros(3))
        an.factor("f", z.sum())

    with an.record() as trace:
        model()
    found = trace.to_pyro()
    assert_close(found.log_prob_sum(), trace.log_prob_sum())
    assert isinstance(found.nodes["x"]["fn"], dist.Independent)


def test_what_is_no_trace_of_pyro() -> None:
    with pytest.raises(an.errors.StoredTraceError, match="pyro"):
        an.Trace.from_pyro({})


def _guide() -> Any:
    class Mine(AutoNormal):
        def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
            super()._setup_prototype(*args, **kwargs)  # type: ignore[no-untyped-call]

    return Mine


def test_the_preparation_of_a_guide_of_a_user_is_met_and_the_guide_let_go_of() -> None:
    kind = _guide()
    own = vars(kind)["_setup_prototype"]
    for _ in range(3):
        with an.record():
            assert vars(kind)["_setup_prototype"].__wrapped__ is own
        assert vars(kind)["_setup_prototype"] is own
    held = weakref.ref(kind)
    del kind, own
    gc.collect()
    assert held() is None
