"""Inspection: the graph of a model from one run, whatever the model returns."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal

import ancestral as an
from ancestral.trace.context.stack import local


class Autoencoder(nn.Module):
    """A tiny one: returns its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(3, 2)
        self.decode = nn.Linear(2, 3)

    def forward(self, x: Tensor, beta: float = 1.0) -> Tensor:
        h = Bernoulli(logits=self.encode(x)).sample()
        kl = (self.encode(x) * h).sum(1)
        return F.binary_cross_entropy_with_logits(self.decode(h), x) + beta * kl.mean()  # type: ignore[no-any-return]


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


def costs(graph: an.Graph) -> dict[str, frozenset[str]]:
    """Return the parents of every cost."""
    return {v.name: graph.parents(v.name) for v in graph.vertices if v.kind == "cost"}


def test_the_costs_of_a_loss_are_vertices() -> None:
    graph = an.graph(Autoencoder(), torch.rand(4, 3), beta=0.5)
    assert costs(graph) == {"cost": {"h"}, "cost_1": {"h"}}
    shapes = {v.shape: v.distribution for v in graph.vertices if v.kind == "cost"}
    assert shapes.keys() == {(4, 3), (4, 2)}
    assert shapes[4, 3] == "binary_cross_entropy_with_logits"
    assert graph.vertices[0].name == "h"
    assert {v.name: v.kind for v in graph.vertices}["h"] == "score"


def draws() -> tuple[Tensor, Tensor]:
    """Draw twice, the second from the first."""
    p = torch.full((3,), 0.4, requires_grad=True)
    a = Bernoulli(p).sample()
    b = Bernoulli(a * 0.5 + 0.2).sample()
    return a, b


RESULTS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "a tuple": lambda a, b: (a.exp(), b.exp().sum()),
    "a list": lambda a, b: [a.exp(), b.exp()],
    "a named tuple": lambda a, b: Pair(a.exp(), b.cos()),
    "a dictionary": lambda a, b: {"loss": a.exp().mean(), "other": b.cos()},
    "an ordered dictionary": lambda a, b: OrderedDict(x=a.exp(), y=b.cos()),
    "nested": lambda a, b: {"x": [(a.exp(),)], "y": {"z": b.cos()}},
    "with what depends on no draw": lambda a, b: (a.exp(), torch.ones(2), "text", None, b.cos()),
}


@pytest.mark.parametrize("name", RESULTS)
def test_every_output_that_depends_on_a_draw_is_a_cost(name: str) -> None:
    graph = an.graph(lambda: RESULTS[name](*draws()))
    assert costs(graph) == {"cost": {"a"}, "cost_1": {"b"}}
    assert graph.parents("b") == {"a"}


def test_a_tensor_that_is_no_loss_is_one_cost() -> None:
    graph = an.graph(lambda: draws()[1].exp() * torch.rand(3, requires_grad=True))
    assert costs(graph) == {"cost": {"b"}}
    assert [v.shape for v in graph.vertices if v.kind == "cost"] == [(3,)]


def test_a_draw_that_is_returned_as_it_is_is_a_cost_of_itself() -> None:
    assert costs(an.graph(lambda: draws()[1])) == {"cost": {"b"}}


@pytest.mark.parametrize("result", [None, 3.0, "text", torch.ones(2)])
def test_a_model_whose_result_depends_on_no_draw_has_sites_only(result: object) -> None:
    def model() -> object:
        draws()
        return result

    graph = an.graph(model)
    assert [v.name for v in graph.vertices] == ["a", "b"]


def test_a_model_that_draws_nothing_has_an_empty_graph() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.ReLU())
    assert an.graph(model, torch.ones(2, 3)) == an.Graph()


def test_declared_costs_and_observations_are_vertices() -> None:
    def model(data: Tensor) -> None:
        a, b = draws()
        an.cost("energy", a.exp())
        Normal(b, 1.0).log_prob(data)

    graph = an.graph(model, torch.zeros(3))
    kinds = {v.name: v.kind for v in graph.vertices}
    assert kinds == {"a": "score", "b": "score", "energy": "cost", "data": "observed"}
    assert graph.parents("energy") == {"a"}
    assert graph.parents("data") == {"b"}


def test_a_model_that_raises_raises_and_leaves_no_recording_open() -> None:
    def model() -> Any:
        draws()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        an.graph(model)
    assert local.traces == ()


def test_the_model_is_left_as_it_was() -> None:
    model = Autoencoder()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    an.graph(model, torch.rand(4, 3))
    assert all(model.state_dict()[key].equal(value) for key, value in before.items())
    assert all(p.grad is None for p in model.parameters())
    assert type(Bernoulli(torch.full((2,), 0.5)).sample()) is Tensor


def test_a_wrapped_model_has_the_same_graph() -> None:
    torch.manual_seed(0)
    x, model = torch.rand(4, 3), Autoencoder()
    assert costs(an.graph(an.wrap(model), x)) == costs(an.graph(model, x))
