"""Naming: what the frames of a call tell, so that no model has to say it."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-untyped-call, no-any-return"

import linecache
import textwrap
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal

import ancestral as an
from ancestral.trace.context.assigned_name import assigned
from ancestral.trace.context.place import Location, module_path, place


@pytest.fixture
def p() -> Tensor:
    """Probabilities with a gradient to learn."""
    return torch.full((2, 3), 0.4, requires_grad=True)


def line_of(trace: an.Trace, name: str) -> str:
    """Return the text of the line that drew a site."""
    location = trace[name].source_location
    assert location.filename == __file__
    return linecache.getline(__file__, location.line).strip()


NAMED: list[tuple[str, str]] = [
    ("plain = Bernoulli(p).sample()", "plain"),
    ("annotated: Tensor = Bernoulli(p).sample()", "annotated"),
    ("first = second = torch.bernoulli(p)", "first"),
    ("holder.held = Bernoulli(p).sample()", "held"),
    ("global found\nfound = Bernoulli(p).sample()", "found"),
    ("cell = Bernoulli(p).sample()\ndef inner(): return cell\ninner()", "cell"),
    ("a, _ = Bernoulli(p).sample()  # unpacked", "bernoulli"),
    ("b = Normal(p, 1.0).sample() + 1  # a step between", "normal"),
    ("c = [Bernoulli(p).sample() for _ in range(2)]", "bernoulli bernoulli_1"),
    ("d = {'key': Independent(Normal(p, 1.0), 1).sample()}", "normal"),
    ("abs(torch.poisson(p))", "poisson"),
    ("z = Bernoulli(p).sample().flatten(1)", "z"),
    ("z = Bernoulli(p).sample().view(-1, p.shape[0]).float().detach()", "z"),
    ("z = torch.multinomial(p, num_samples=1).squeeze(1)", "z"),
    ("z = torch.poisson(p).to(dtype=p.dtype)", "z"),
    ("z = torch.poisson(p).reshape(p.size(1), p.size(0)).T", "z"),
    ("z = torch.poisson(p)[..., None]", "z"),
    ("z = torch.poisson(p)[:, :1].long()", "z"),
    ("z = torch.poisson(p)[1:]", "z"),
    ("z = torch.poisson(p)[(n := 0)]", "z"),
    ("z = torch.poisson(p).view((n := 6))", "z"),
    ("holder.z = torch.poisson(p).t()", "z"),
    ("holder.a = SimpleNamespace()\nholder.a.z = torch.poisson(p).t()", "z"),
    ("z = y = torch.poisson(p).t()", "z"),
    ("def inner():\n    z = torch.poisson(p).t()\n    return z\ninner()", "z"),
    ("total = torch.poisson(p).sum()", "poisson"),
    ("total = torch.poisson(p).float().mean(0)", "poisson"),
    ("a, _ = torch.poisson(p).t()[:2]", "poisson"),
    ("a = torch.poisson(p).t() + 1", "poisson"),
    ("a = -torch.poisson(p)", "poisson"),
    ("a = torch.poisson(p).t() if len(p) else p", "poisson"),
    ("a = abs(torch.poisson(p).t())", "poisson"),
    ("a = torch.stack([torch.poisson(p).t(), p.t()])", "poisson"),
    ("a = p.view_as(torch.poisson(p))", "poisson"),
    ("a = p.mul(torch.poisson(p).view_as(p))", "poisson"),
    ("p = p.clone()\np[0] = torch.poisson(p)[0]", "poisson"),
    ("p = p.detach()\np += torch.poisson(p)", "poisson"),
    ("a = {'z': torch.poisson(p).float()}", "poisson"),
    ("def inner(): return torch.poisson(p).t()\na = inner()", "poisson"),
    ("z_1 = Bernoulli(p).sample()\nfor _ in range(3): z = Bernoulli(p).sample()", "z_1 z z_2 z_3"),
]


@pytest.mark.parametrize(("source", "names"), NAMED)
def test_a_site_is_called_as_what_is_assigned_or_as_its_distribution(
    source: str, names: str, p: Tensor
) -> None:
    space: dict[str, Any] = {**vars(torch.distributions), "torch": torch, "Tensor": Tensor}
    space["SimpleNamespace"] = SimpleNamespace
    exec("def program(p, holder):\n" + textwrap.indent(source, "    "), space)
    with an.record() as trace:
        space["program"](p, SimpleNamespace())
    assert list(trace) == names.split()


class Keeps(nn.Module):
    """Keeps its draw in an attribute."""

    z: Tensor

    def forward(self, p: Tensor) -> Tensor:
        self.z = Bernoulli(p).sample()
        return self.z


def test_a_site_is_called_as_the_attribute_of_its_module(p: Tensor) -> None:
    with an.record() as trace:
        Keeps()(p)
    assert list(trace) == ["z"]
    assert trace["z"].module_path == ""
    assert trace["z"].location.function == "forward"


def test_a_nested_function_names_its_own_variable(p: Tensor) -> None:
    def helper() -> Tensor:
        within = Bernoulli(p).sample()
        return within

    def returns_it() -> Tensor:
        return Normal(p, 1.0).sample()

    with an.record() as trace:
        outside = helper()
        other = returns_it()
    assert list(trace) == ["within", "normal"]
    assert trace["within"].location.function == "helper"
    assert an.provenance_of(outside) == {"within"}
    assert an.provenance_of(other) == {"normal"}


def test_the_line_is_that_of_the_call_even_over_several_lines(p: Tensor) -> None:
    with an.record() as trace:
        short = Bernoulli(p).sample()
        long = Normal(
            p * 2,
            1.0,
        ).sample()
        longer = (
            Bernoulli(
                p
            )
            .sample()
        )  # fmt: skip
    assert line_of(trace, "short") == "short = Bernoulli(p).sample()"
    assert line_of(trace, "long") in ("long = Normal(", ").sample()")
    assert line_of(trace, "longer") in ("Bernoulli(", ".sample()")
    assert len({trace[name].location.line for name in trace}) == 3
    assert short.shape == long.shape == longer.shape


def test_an_observation_is_called_as_its_argument(p: Tensor) -> None:
    data = SimpleNamespace(pixels=torch.ones(2, 3))
    labels = torch.ones(2, 3)
    with an.record() as trace:
        z = Bernoulli(p).sample()
        q = Normal(z, 1.0)
        q.log_prob(labels)
        total = q.log_prob(data.pixels).sum()
        score = q.log_prob(labels * 2)
        q.log_prob(labels + 1).sum()
    assert list(trace) == ["z", "labels", "pixels", "score", "normal"]
    assert total.shape == ()
    assert score.shape == (2, 3)
    assert all(trace[name].is_observed for name in list(trace)[1:])


class Layer(nn.Module):
    """Draws, within whatever holds it."""

    def forward(self, p: Tensor) -> Tensor:
        h = Bernoulli(p).sample()
        return h


class Block(nn.Module):
    """Holds layers by name, in a list and in a dictionary, and draws itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Layer()
        self.rest = nn.ModuleList([Layer(), Layer()])
        self.named = nn.ModuleDict({"last": nn.Sequential(Layer())})

    def forward(self, p: Tensor) -> Tensor:
        own = torch.bernoulli(p)
        first = self.first(p)
        for layer in self.rest:
            layer(p)
        self.named["last"](p)
        return own + first


def test_a_site_within_a_module_carries_its_path(p: Tensor) -> None:
    with an.record() as trace:
        Block()(p)
    assert list(trace) == ["own", "first.h", "rest.0.h", "rest.1.h", "named.last.0.h"]
    assert [node.module_path for node in trace.values()] == [
        "",
        "first",
        "rest.0",
        "rest.1",
        "named.last.0",
    ]


def test_a_module_that_is_called_twice_numbers_its_site(p: Tensor) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Layer()

        def forward(self, p: Tensor) -> Tensor:
            return self.layer(self.layer(p) * 0.5)

    with an.record() as trace:
        Twice()(p)
    assert list(trace) == ["layer.h", "layer.h_1"]


def test_a_path_is_that_of_the_outermost_module_that_holds_it() -> None:
    inner, stranger = nn.Linear(1, 1), nn.Linear(1, 1)
    middle = nn.Sequential(inner)
    outer = nn.Sequential(nn.ReLU(), middle)
    assert module_path((inner, middle, outer)) == "1.0"
    assert module_path((inner, middle)) == "0"
    assert module_path((inner,)) == module_path(()) == ""
    assert module_path((stranger, middle)) == ""


def test_a_place_is_the_callers() -> None:
    here = place()
    assert here.location.filename == __file__
    assert here.location.function == "test_a_place_is_the_callers"
    assert here.variable == "here"
    assert "here = place()" in linecache.getline(__file__, here.location.line)


def test_a_location_is_written_as_editors_read_it() -> None:
    assert str(Location("model.py", 12, "forward")) == "model.py:12"


def test_code_without_source_still_has_a_variable(p: Tensor) -> None:
    space: dict[str, object] = {"p": p, "Bernoulli": Bernoulli}
    with an.record() as trace:
        exec("z = Bernoulli(p).sample()\nBernoulli(p).log_prob(p.detach().round())", space)
    assert list(trace) == ["z", "bernoulli"]
    assert trace["z"].location.filename == "<string>"


def test_only_the_store_that_follows_the_call_counts() -> None:
    def function(f: object) -> object:
        a = f
        return a

    offsets = [i for i in range(0, 40, 2) if assigned(function.__code__, i) == "a"]
    assert offsets
    assert assigned(function.__code__, 1000) is None


def test_equal_code_of_two_files_has_two_places(p: Tensor) -> None:
    text = "def draw():\n    z = Bernoulli(p).sample()\n    return z\n"
    spaces: list[dict[str, Any]] = [{"p": p, "Bernoulli": Bernoulli} for _ in range(2)]
    with an.record() as trace:
        for number, space in enumerate(spaces):
            exec(compile(text, f"model_{number}.py", "exec"), space)
            space["draw"]()
    assert spaces[0]["draw"].__code__ is not spaces[1]["draw"].__code__
    assert [str(node.location) for node in trace.values()] == ["model_0.py:2", "model_1.py:2"]
