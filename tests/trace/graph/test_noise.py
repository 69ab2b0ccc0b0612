"""Noise in a graph: whatever moves a generator and is no site, with what it reaches."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Gamma, Independent, Normal

import ancestral as an

X = torch.linspace(-1, 1, 12).reshape(3, 4)
Edges = set[tuple[str, str]]


class Noisy(nn.Module):
    """Draws two layers, with noise of each kind between them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 4))
        self.drop = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        loc, scale = self.encoder(x).chunk(2, -1)
        z = Normal(loc, scale.exp()).rsample()
        eps = torch.randn_like(z)
        b = Bernoulli(logits=self.drop(z + 0.1 * eps)).sample()
        order = torch.randperm(len(x))
        u = torch.rand(3, 2)
        cost: Tensor = (b * x[order, :2] + u).square().mean()
        return cost


def edges(graph: an.Graph) -> Edges:
    return {(edge.parent, edge.child) for edge in graph.edges}


def test_noise_is_in_the_graph_with_what_it_reaches() -> None:
    graph = an.graph(Noisy(), X, noise=True)
    assert edges(graph) == {
        *(("dropout", "z"), ("noise of z", "z")),
        *(("z", "b"), ("eps", "b"), ("dropout_1", "b")),
        *(("b", "cost"), ("order", "cost"), ("u", "cost")),
    }
    kinds = {vertex.name: (vertex.kind, vertex.shape) for vertex in graph.vertices}
    assert [name for name, (kind, _) in kinds.items() if kind == "noise"] == [
        *("dropout", "noise of z", "eps", "dropout_1", "order", "u")
    ]
    assert kinds["dropout"][1] == (3, 8)
    kept = {edge.parent: edge.alignment.dims for edge in graph.edges if edge.child != "z"}
    assert kept["eps"] == (0, 1)
    assert kept["u"] == (0, 1)
    assert kept["order"] == (-1, -1)  # of a shuffle, each element depends on all the others
    batch = next(plate for plate in graph.plates if plate.size == 3)
    assert {"eps", "u", "dropout", "z", "b", "cost"} < set(batch.sites)
    assert "order" not in batch.sites


def test_nobody_who_does_not_ask_sees_or_pays_for_noise() -> None:
    model = Noisy()
    graph = an.graph(model, X)
    assert edges(graph) == {("z", "b"), ("b", "cost")}
    with an.record() as trace:
        assert not torch.overrides._get_current_function_mode_stack()
        torch.rand(3)
    assert trace.noise is None
    with an.record(noise=True) as trace:
        torch.rand(3)
    assert not torch.overrides._get_current_function_mode_stack()
    assert not an.provenance_of(torch.rand(3))


def attention(x: Tensor) -> Tensor:
    rows = x[None, :, None]
    return F.scaled_dot_product_attention(rows, rows, rows, dropout_p=0.5)


def seeded(x: Tensor) -> Tensor:
    torch.manual_seed(1)
    return x


MAKERS: dict[str, Callable[[Tensor], Tensor]] = {
    "rand": lambda _: torch.rand(3),
    "randint": lambda _: torch.randint(9, (3,)),
    "a generator": lambda _: torch.rand(3, generator=torch.Generator()),
    "like": lambda x: torch.rand_like(x),
    "in place": lambda x: x.clone().uniform_(),
    "coins": lambda x: x.clone().bernoulli_(0.5),
    "initial": lambda x: nn.init.xavier_normal_(torch.empty(3, 3)),
    "a view": lambda x: [y := x.clone(), y[:2].normal_(), y][2],
    "an output": lambda x: torch.rand(3, out=torch.empty(3)),
    "shuffled": lambda x: x[torch.randperm(3)],
    "dropout": lambda x: F.dropout(x),
    "in place dropout": lambda x: F.dropout(x.clone(), inplace=True),
    "dropped features": lambda x: F.feature_alpha_dropout(x[None, :, None], 0.5, True),
    "rrelu": lambda x: F.rrelu(-x, training=True),
    "attention": attention,
    "recurrent": lambda x: nn.LSTM(1, 2, num_layers=2, dropout=0.5)(x[:, None])[0],
    "fractional": lambda x: F.fractional_max_pool2d(x.expand(1, 3, 3), 2, output_size=1),
    "an op of aten": lambda _: torch.ops.aten.rand.default([3]),
}
NONE: dict[str, Callable[[Tensor], Tensor]] = {
    "no training": lambda x: F.dropout(x, training=False),
    "a seed": seeded,
    "python": lambda x: x * random.random(),
    "a site": lambda x: torch.bernoulli(x.sigmoid()),
    "a site of constants": lambda _: torch.normal(0.0, 1.0, (3,)),
    "a distribution": lambda x: Categorical(logits=x).sample(),
    "a reparameterized one": lambda x: Gamma(x.exp(), 1.0).rsample(),
    "a shape": lambda x: torch.zeros_like(x),
}


@pytest.mark.parametrize("is_tracked", [False, True], ids=["data", "tracked"])
@pytest.mark.parametrize("name", [*MAKERS, *NONE])
def test_noise_is_what_moves_a_generator_and_is_no_site(name: str, is_tracked: bool) -> None:
    x = torch.tensor([0.4, 1.3, 0.7])
    with an.record(noise=True) as trace:
        given = an.track(x, "x") if is_tracked else x
        made = (MAKERS.get(name) or NONE[name])(given)
        an.cost("cost", (made * 1.0).sum())
    found = {noise.name for noise in trace.noise or ()}
    assert bool(found) == (name in MAKERS)
    assert found <= trace.graph.parents("cost")
    assert found <= an.provenance_of(made)


def gradient(model: nn.Module, *, noise: bool) -> list[Tensor]:
    torch.manual_seed(3)
    model.zero_grad()
    with an.record(noise=noise) as trace:
        loss = model(X)
    an.backward(loss)
    assert not trace.escapes
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_a_gradient_is_as_without_noise() -> None:
    model = Noisy()
    for with_noise, without in zip(
        gradient(model, noise=True), gradient(model, noise=False), strict=True
    ):
        assert torch.equal(with_noise, without)


def test_what_python_reads_of_noise_is_data() -> None:
    with an.record(noise=True, control="error") as trace:
        order = torch.randperm(3).tolist()
        z = Normal(torch.zeros(3, requires_grad=True), 1.0).sample()
        loss = (z[order] if torch.rand(()) < 2 else z).sum()
    an.backward(loss)
    assert not trace.escapes


def test_parameters_are_initialized_as_ever() -> None:
    with an.record(noise=True) as trace:
        layer = nn.Linear(2, 2)
        cost = (layer(torch.rand(2)) * Bernoulli(0.5).sample()).sum()
    an.backward(cost)
    assert type(layer.weight) is nn.Parameter
    assert [noise.made_by for noise in trace.noise or ()] == ["rand"]


def test_recordings_within_note_their_own_noise() -> None:
    with an.record(noise=True) as outer:
        torch.rand(2)
        with an.record() as inner, an.record(noise=True) as innermost:
            torch.rand(2)
        torch.rand(2)
    assert len(outer.noise or ()) == 3
    assert inner.noise is None
    assert len(innermost.noise or ()) == 1


def test_a_picture_shows_noise(tmp_path: Path) -> None:
    text = an.graph(Noisy(), X, noise=True).render(tmp_path / "a.dot").read_text()
    assert text.count("shape=diamond") == 6
    assert "diamond = noise" in text
    assert "diamond" not in an.graph(Noisy(), X).render(tmp_path / "a.dot").read_text()


def test_a_draw_of_events_has_noise_of_its_shape() -> None:
    with an.record(noise=True) as trace:
        z = Independent(Normal(torch.zeros(2, 3), 1.0), 1).rsample()
        an.cost("cost", z.sum(-1))
    (edge, _) = trace.graph.edges if trace.graph.edges[0].child == "z" else trace.graph.edges[::-1]
    assert (edge.parent, edge.child) == ("noise of z", "z")
    assert {v.shape for v in trace.graph.vertices if v.name != "cost"} == {(2, 3)}


def test_a_model_whose_argument_is_called_noise_is_not_misunderstood() -> None:
    with pytest.raises(TypeError, match="by position"):
        an.graph(lambda noise: noise, noise=X)  # type: ignore[arg-type]
