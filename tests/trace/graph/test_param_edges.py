"""Parameters of a graph: those by which the density of a site changes, all values held fixed."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    LogNormal,
    Normal,
    constraints,
)

import ancestral as an

X = torch.linspace(-1, 1, 12).reshape(2, 6)


class Encoder(nn.Module):
    """Draws two layers, and returns an error of what the second decodes to."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4))
        self.second, self.decoder = nn.Linear(4, 6), nn.Linear(3, 6)
        self.unused = nn.Linear(2, 2)

    def forward(self) -> Tensor:
        z = Bernoulli(logits=self.first(X)).sample()
        loc, spread = self.second(z).chunk(2, -1)
        w = Independent(Normal(loc, spread.exp()), 1).rsample()
        return (self.decoder(w) - X).square().sum(1).mean()  # type: ignore[no-any-return]


class Shared(nn.Module):
    """Uses one table for two draws, the second by a path through the first too."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.scale = nn.Parameter(torch.randn(3, 3)), nn.Parameter(torch.ones(()))

    def forward(self) -> Tensor:
        a = Normal(self.table[0], 1.0).rsample()
        b = Categorical(logits=self.table * a).sample()
        c = Normal(self.table[b].detach(), self.scale.exp()).rsample()
        with torch.no_grad():
            d = Normal(self.table[0] * 2 + c[0], 1.0).sample()
        return (c.sum() + d.sum()).square()  # type: ignore[no-any-return]


def statements() -> None:
    net = an.module("net", nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)))
    width = an.param("width", torch.ones(2), constraint=constraints.positive)
    loc = an.param("loc", torch.zeros(2))
    mu = an.sample("mu", LogNormal(loc, width))
    sum_ = an.deterministic("sum", mu * width)
    z = an.sample("z", Normal(net(torch.ones(3)) + mu, 1.0))
    an.sample("x", Normal(sum_ + z, 1.0), obs=torch.zeros(2))
    an.cost("penalty", (loc * z).sum())


def children(graph: an.Graph) -> dict[str, set[str]]:
    return {param.name: set(param.children) for param in graph.params}


def test_the_parameters_of_a_module_are_called_by_the_modules_that_hold_them() -> None:
    graph = an.graph(Encoder())
    assert children(graph) == {"first": {"z"}, "second": {"w"}, "decoder": {"cost"}}
    assert [param.count for param in graph.params] == [4, 2, 2]
    graph = an.graph(Shared())
    assert children(graph) == {"table": {"a", "b"}, "scale": {"c"}}


def test_the_parameters_of_a_program_reach_what_their_values_do() -> None:
    with an.ParamStore():
        graph = an.graph(statements)
    assert children(graph) == {"net": {"z"}, "width": {"mu", "sum"}, "loc": {"mu", "penalty"}}


def densities(trace: an.Trace) -> Mapping[str, Tensor]:
    return {
        n.name: n.log_prob if n.type == "sample" else n.value
        for n in trace.values()
        if n.type in ("sample", "deterministic", "cost")
    }


@pytest.mark.parametrize("model", [Encoder, Shared])
def test_a_parameter_reaches_a_site_if_its_density_changes_at_the_same_values(
    model: Callable[[], nn.Module],
) -> None:
    torch.manual_seed(0)
    module = model()
    graph = an.graph(module)
    with an.record() as trace:
        module()
    before = {n: d.detach() for n, d in densities(trace).items()}
    found: dict[str, set[str]] = {}
    for name, weight in module.named_parameters():
        kept = weight.detach().clone()
        weight.data.add_(torch.rand_like(weight) + 0.1)
        with an.record() as again, an.handlers.replay(trace):
            module()
        found[name] = {n for n, d in densities(again).items() if not torch.equal(d, before[n])}
        weight.data.copy_(kept)
    reached = {n: names - {"d"} for n, names in found.items()}  # d is drawn under no_grad
    if model is Shared:
        assert found["table"] == {"a", "b", "c", "d"}  # through a detached value too
        reached["table"] -= {"c"}
    for name, names in reached.items():
        (known,) = [
            set(p.children) - {"cost"}
            for p in graph.params
            if name == p.name or name.split(".")[0] == p.name
        ] or [set[str]()]
        assert names == known, name


def test_parameters_are_in_no_question_and_in_a_picture_where_asked_for(tmp_path: Path) -> None:
    graph = an.graph(Encoder())
    assert {v.name for v in graph.vertices} == {"z", "w", "cost"}
    assert graph.parents("z") == frozenset()
    plain = graph.render(tmp_path / "a.svg").read_text()
    shown = graph.render(tmp_path / "b.svg", with_params=True).read_text()
    for words in ("4 tensors", "no outline = parameter"):
        assert (words in plain, words.replace(" ", "\xa0") in shown.replace(" ", "\xa0")) == (
            False,
            True,
        )
    assert "scalar" not in shown
    assert str(graph) == str(an.graph(Encoder()))


def test_a_recording_has_the_parameters_that_the_program_names() -> None:
    with an.ParamStore(), an.record() as trace:
        statements()
    assert children(trace.graph)["width"] == {"mu", "sum"}
    with an.record() as trace:
        Encoder()()
    assert trace.graph.params == ()


def test_parameters_that_have_the_name_of_a_site_are_told_apart(tmp_path: Path) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.z = nn.Parameter(torch.zeros(3))

        def forward(self) -> Distribution:
            z = Bernoulli(logits=self.z).sample()
            return (z * 2).sum()  # type: ignore[no-any-return]

    text = an.graph(Named()).render(tmp_path / "a.dot", with_params=True).read_text()
    assert "<b>z</b>" in text
    assert "<b>z (parameters)</b>" in text


def test_parameters_of_steps_are_drawn_once(tmp_path: Path) -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step = nn.Linear(2, 2)

        def forward(self) -> Tensor:
            z = torch.zeros(2)
            for _ in range(6):
                z = Normal(self.step(z), 1.0).rsample()
            return z.sum()

    text = an.graph(Chain()).render(tmp_path / "a.dot", with_params=True).read_text()
    assert text.count("<b>step</b>") == 1
    assert text.count(" -> ") == 3  # to z[t], from z[t] to the next, and to the cost
