"""Values that `deterministic` names: vertices of the graph, and nothing to the gradient."""

from collections.abc import Callable
from itertools import product
from typing import Any

import networkx as nx
import pytest
import torch
from programs.estimates import library
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal

import ancestral as an
from ancestral.errors import HandlerError
from ancestral.estimators.credit.credit import Estimator
from oracles import mean_and_truth

_Name = Callable[[str, Tensor], Tensor]
_Program = Callable[[_Name, Tensor], Tensor]


def _chain(name: _Name, a: Tensor) -> Tensor:
    x = an.sample("x", Bernoulli(logits=a))
    d = name("d", x * 2)
    y = an.sample("y", Bernoulli(0.2 + 0.3 * d))
    z = an.sample("z", Bernoulli(logits=a + name("e", d - 1)))
    return ((y - 0.3) ** 2 + y * z.roll(1) + d).mean()


def _of_several(name: _Name, a: Tensor) -> Tensor:
    x = an.sample("x", Bernoulli(logits=a))
    w = an.sample("w", Bernoulli(logits=-a))
    d = name("d", torch.stack([x + w, x.flip(0)]))
    y = an.sample("y", Bernoulli(0.1 + 0.2 * d))
    return (y * d).sum(0).pow(2).mean() + (x * w).sum()


def _of_data(name: _Name, a: Tensor) -> Tensor:
    d = name("d", torch.arange(4.0) / 9)
    p = name("p", a.sigmoid() * d + 0.1)
    y = an.sample("y", Bernoulli(p))
    return (y * d).sum() + p.pow(2).sum()


def _mixed(name: _Name, a: Tensor) -> Tensor:
    x = an.sample("x", Bernoulli(logits=a))
    d = name("d", x.cumsum(0)[:2])
    y = an.sample("y", Bernoulli(0.1 + 0.2 * d))
    return (y - x[:2]).pow(2).sum() + name("loss", x.sum() * d.mean())


def _pathwise(name: _Name, a: Tensor) -> Tensor:
    x = an.sample("x", Normal(a, 1.0))
    d = name("d", x * 2)
    y = an.sample("y", Bernoulli(logits=name("smooth", d.tanh())))
    step = name("step", (d > 0).float())
    return (y * step).sum() + (step * a.detach()).sum() + d.pow(2).mean()


def _decided(name: _Name, a: Tensor) -> Tensor:
    x = an.sample("x", Bernoulli(logits=a))
    d = name("d", x[:2] * 2)
    if d[0] > 0:
        d = name("more", d + 1)
    y = an.sample("y", Bernoulli(0.1 + 0.2 * d))
    return (y * x[2:]).sum()


def _in_plate(name: _Name, a: Tensor) -> Tensor:
    with an.plate("p", 4):
        x = an.sample("x", Bernoulli(logits=a))
        d = name("d", x * 2)
        y = an.sample("y", Bernoulli(0.2 + 0.3 * d), obs=torch.tensor([1.0, 0.0, 1.0, 0.0]))
    return ((d - 0.3) * y).sum()


def _many(name: _Name, a: Tensor) -> Tensor:
    """Have more sources than a provenance lists one by one."""
    draws = [an.sample(f"x_{i}", Bernoulli(logits=a)) for i in range(40)]
    d = name("d", torch.stack(draws).mean(0))
    y = an.sample("y", Bernoulli(0.1 + 0.8 * d))
    return (y * d).sum()


_PROGRAMS = [_chain, _of_several, _of_data, _mixed, _pathwise, _in_plate, _many]


def _unnamed(name: str, value: Tensor) -> Tensor:
    del name
    return value


# Some programs have sites that nothing keeps apart, of which the baseline says so.
@pytest.mark.filterwarnings("ignore::ancestral.errors.BaselineWarning")
@pytest.mark.parametrize("control", ["strict", "after"])
@pytest.mark.parametrize("program", _PROGRAMS, ids=lambda p: p.__name__.strip("_"))
def test_a_name_changes_no_gradient_and_no_dependency(program: _Program, control: str) -> None:
    for seed in range(4):
        found: list[Any] = []
        for name in (_unnamed, an.deterministic):
            a = torch.tensor([0.3, -0.2, 0.5, 0.1], requires_grad=True)
            torch.manual_seed(seed)
            with an.record(control=control) as trace:
                loss = program(name, a)
            dependencies = (
                an.infer.prior_dependencies(trace),
                an.infer.posterior_dependencies(trace),
            )
            graph = trace.graph
            sites = [node.name for node in trace.values() if node.type == "sample"]
            blankets = [graph.markov_blanket(site) for site in sites]
            blankets += sorted(map(frozenset, graph.moralized().edges), key=sorted)
            an.backward(loss, baseline=an.estimators.LeaveOneOut())
            found.append((a.grad, dependencies, blankets))
        torch.testing.assert_close(found[1][0], found[0][0])
        assert found[1][1:] == found[0][1:]


@pytest.mark.parametrize("estimator", [an.estimators.by_element, an.estimators.by_site])
@pytest.mark.parametrize(
    "program", [_of_data, _mixed, _decided, _in_plate], ids=lambda p: p.__name__.strip("_")
)
def test_the_gradient_through_named_values_is_exact(
    program: _Program, estimator: Estimator
) -> None:
    parameters = (torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64, requires_grad=True),)

    def named(a: Tensor) -> Tensor:
        return program(an.deterministic, a)

    torch.testing.assert_close(
        *mean_and_truth(named, parameters, library(estimator)), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("program", [*_PROGRAMS, _decided], ids=lambda p: p.__name__.strip("_"))
def test_a_path_without_a_name_has_an_edge_of_its_own(program: _Program) -> None:
    """Without the named values, what remains is reached as it was before."""
    graphs: list[nx.DiGraph] = []
    for name in (_unnamed, an.deterministic):
        torch.manual_seed(1)
        with an.record() as trace:
            program(name, torch.zeros(4, requires_grad=True))
        graphs.append(trace.graph.to_networkx())
    plain, named = graphs
    assert set(plain) <= set(named)
    for site, other in product(plain, plain):
        assert nx.has_path(plain, site, other) == nx.has_path(named, site, other)


def _fork() -> an.Trace:
    with an.record() as trace:
        x = an.sample("x", Normal(0.0, 1.0))
        d = an.deterministic("d", x * 2)
        for name in "yz":
            an.sample(name, Normal(d, 1.0))
        an.sample("w", Normal(d + x, 1.0))
        an.deterministic("e", an.deterministic("f", torch.ones(2)) + d)
    return trace


def test_a_named_value_lies_between_what_it_came_from_and_what_came_from_it() -> None:
    trace = _fork()
    graph = trace.graph
    assert trace["d"].type == "deterministic"
    assert graph.parents("y") == graph.parents("z") == {"d"} == trace["y"].parents
    assert graph.parents("w") == {"d", "x"}
    assert graph.parents("e") == {"d", "f"}
    assert graph.ancestors("y") == {"x", "d"}
    assert graph.d_separated("y", "z", given="d")
    assert graph.d_separated("y", {"z", "w"}, given="x")  # which says what d is
    assert graph.d_separated("x", "y", given="d")
    assert not graph.d_separated("y", "w", given=())
    assert not graph.d_separated("y", "z", given="e")
    assert graph.d_separated("f", {"x", "y"})


def test_separation_by_what_is_determined_agrees_with_chance() -> None:
    """Three coins with d = x1 xor x2 named: what the graph separates is independent."""

    def model() -> None:
        xs = [an.sample(f"x{i}", Bernoulli(torch.tensor(0.3 + 0.1 * i))) for i in range(2)]
        d = an.deterministic("d", (xs[0] - xs[1]).abs())
        an.sample("y", Bernoulli(0.2 + 0.5 * d))
        an.sample("z", Bernoulli(0.1 + 0.3 * d + 0.4 * xs[0]))

    with an.record() as trace:
        model()
    names = ["x0", "x1", "d", "y", "z"]
    table: dict[tuple[int, ...], float] = {}
    for x0, x1, y, z in product((0, 1), repeat=4):
        d = abs(x0 - x1)
        p = (0.3 if x0 else 0.7) * (0.4 if x1 else 0.6)
        p *= (0.2 + 0.5 * d) if y else 1 - (0.2 + 0.5 * d)
        q = 0.1 + 0.3 * d + 0.4 * x0
        table[x0, x1, d, y, z] = p * (q if z else 1 - q)

    def mass(fixed: dict[int, int]) -> float:
        return sum(p for at, p in table.items() if all(at[i] == v for i, v in fixed.items()))

    separated = 0
    for i, j in product(range(5), repeat=2):
        others = [k for k in range(5) if k not in (i, j)]
        for chosen in product((False, True), repeat=len(others)):
            given = [k for k, c in zip(others, chosen, strict=True) if c]
            if i < j and trace.graph.d_separated(names[i], names[j], [names[k] for k in given]):
                separated += 1
                for values in product((0, 1), repeat=len(given) + 2):
                    known = dict(zip(given, values, strict=False))
                    both = mass({**known, i: values[-2], j: values[-1]}) * mass(known)
                    apart = mass({**known, i: values[-2]}) * mass({**known, j: values[-1]})
                    assert both == pytest.approx(apart, abs=1e-12)
    assert separated >= 6


def test_what_is_set_from_outside_cuts_a_named_value_off() -> None:
    def model() -> Tensor:
        x = an.sample("x", Normal(torch.zeros(3), 1.0))
        d = an.deterministic("d", x * 2)
        an.sample("y", Normal(d, 1.0), obs=torch.zeros(3))
        return d

    for given in (torch.tensor([1.0, 2.0, 3.0]), torch.tensor(4.0), torch.tensor([5.0])):
        with an.record() as trace, an.handlers.do({"d": given}):
            d = model()
        assert torch.equal(an.untrack(d), given.expand(3))
        assert torch.equal(trace["d"].value, given.expand(3))
        assert trace["d"].parents == frozenset()
        assert trace["y"].parents == {"d"}
        assert trace.graph.d_separated("x", "y")
        torch.testing.assert_close(trace["y"].log_prob, Normal(given, 1.0).log_prob(torch.zeros(3)))
    with pytest.raises(HandlerError, match=r"'d'.*\[2\]; expected .*\[3\]"):
        an.handlers.do({"d": torch.ones(2)})(model)()
    for handler in (an.handlers.condition, an.handlers.substitute):
        with pytest.raises(HandlerError, match=r"it is deterministic.*handlers\.do"):
            handler({"d": torch.ones(3)})(model)()


def test_a_stored_trace_keeps_its_named_values() -> None:
    trace = _fork()
    again = an.Trace.from_dict(trace.to_dict())
    assert str(again.graph) == str(trace.graph)
    assert an.infer.posterior_dependencies(again) == an.infer.posterior_dependencies(trace)
    assert again.graph.d_separated("y", "z", given="d")
    with an.record() as replayed, an.handlers.replay(again):
        x = an.sample("x", Normal(0.0, 1.0))
        an.sample("y", Normal(an.deterministic("d", x * 2), 1.0))
    assert torch.equal(replayed["y"].value, trace["y"].value)
    assert replayed["y"].parents == {"d"}


def test_a_named_value_of_what_is_enumerated_is_summed_out() -> None:
    weights = torch.tensor([0.2, 0.5, 0.3], requires_grad=True)

    def model(name: _Name) -> None:
        with an.plate("data", 4):
            k = an.sample("k", Categorical(weights))
            mean = name("mean", torch.tensor([-1.0, 0.0, 2.0])[k])
            an.sample("x", Normal(mean, 1.0), obs=torch.tensor([0.1, 2.0, -1.0, 0.5]))

    totals: list[Tensor] = []
    for name in (_unnamed, an.deterministic):
        with an.record() as trace, an.handlers.enumerate():
            model(name)
        totals.append(an.infer.log_marginal(trace))
    torch.testing.assert_close(totals[1], totals[0])


def test_a_name_given_twice_or_in_two_recordings_is_one_vertex_each() -> None:
    with an.record() as outer:
        x = an.sample("x", Normal(0.0, 1.0))
        with an.record() as inner:
            d = an.deterministic("d", an.sample("w", Normal(x, 1.0)) * 2)
            an.sample("y", Normal(an.deterministic("e", d), 1.0))
        an.sample("z", Normal(d, 1.0))
    for trace in (inner, outer):
        assert trace.graph.parents("y") == {"e"}
        assert trace.graph.parents("e") == {"d"}
    assert outer.graph.parents("z") == {"d"}
