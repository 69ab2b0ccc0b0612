"""Parameters: every tensor that a draw may depend on is found, in whatever hides it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch import distributions as d

import ancestral as an
from ancestral.provenance.algebra.alignment import Dims
from ancestral.provenance.tensor.tensor import provenance
from ancestral.trace.nodes.distribution_params import (
    UNKNOWN,
    Held,
    _of_distribution,
    over_batch,
    param_provenance,
    parameters,
)


def tensors(fn: d.Distribution) -> list[Tensor]:
    """Return the tensors that are found."""
    return [held.tensor for held in parameters(fn)]


def events(fn: d.Distribution) -> list[int]:
    """Return the numbers of event dimensions that are found."""
    return [held.event for held in parameters(fn)]


def logits() -> Tensor:
    return torch.zeros(4, 3)


DECLARED: dict[str, tuple[Callable[[Tensor], d.Distribution], int]] = {
    "Bernoulli of probs": (lambda x: d.Bernoulli(x.sigmoid()), 0),
    "Bernoulli of logits": (lambda x: d.Bernoulli(logits=x), 0),
    "Categorical": (lambda x: d.Categorical(logits=x), 1),
    "Normal": (lambda x: d.Normal(x, 1.0), 0),
    "Binomial": (lambda x: d.Binomial(3, logits=x), 0),
    "Independent": (lambda x: d.Independent(d.Normal(x, 1.0), 1), 0),
    "Uniform": (lambda x: d.Uniform(x, x + 1), 0),
    "Gamma": (lambda x: d.Gamma(x.exp(), 1.0), 0),
    "VonMises": (lambda x: d.VonMises(x, torch.ones(())), 0),
    "Beta": (lambda x: d.Beta(x.exp(), 1.0), 1),
    "Dirichlet": (lambda x: d.Dirichlet(x.exp()), 1),
}


@pytest.mark.parametrize("name", DECLARED)
def test_what_a_class_of_torch_declares_is_found_once(name: str) -> None:
    make, found = DECLARED[name]
    fn = make(an.track(logits(), "x"))
    named = {source for tensor in tensors(fn) for source in an.provenance_of(tensor)}
    assert named == {"x"}
    assert set(events(fn)) == {found}


def test_a_temperature_is_a_parent() -> None:
    with an.record() as trace:
        x = d.Normal(logits(), 1.0).sample()
        y = d.RelaxedBernoulli(x.exp(), logits=torch.zeros(4, 3)).sample()
    assert trace["y"].parents == {"x"}
    assert an.provenance_of(y) == {"y"}


NO_SHAPE = torch.Size()


class Hiding(d.Distribution):
    """A user's distribution that keeps its parameter somewhere."""

    arg_constraints = {}  # noqa: RUF012 (as torch writes it)

    def __init__(self, place: object) -> None:
        self.place = place
        super().__init__(torch.Size((4, 3)), validate_args=False)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = NO_SHAPE) -> Tensor:
        return torch.zeros(4, 3)


class Undeclared(Hiding):
    """A user's distribution that declares nothing at all."""

    @property
    def arg_constraints(self) -> dict[str, object]:  # type: ignore[override]
        raise NotImplementedError


class Owner:
    def __init__(self, x: Tensor) -> None:
        self.inner = {"x": (x,)}

    def method(self) -> Tensor:
        return self.inner["x"][0]


@dataclass(slots=True)
class Slots:
    x: Tensor


PLACES: dict[str, Callable[[Tensor], object]] = {
    "itself": lambda x: x,
    "a list": lambda x: [1, [x]],
    "a dictionary": lambda x: {"a": {"b": x}},
    "a set": lambda x: {x},
    "a closure": lambda x: lambda: x,
    "an object": Owner,
    "a method": lambda x: Owner(x).method,
    "an object with slots": Slots,
    "a distribution": lambda x: d.Normal(x, 1.0),
    "a distribution in a list": lambda x: [Hiding([d.Bernoulli(logits=x)])],
    "a partial": lambda x: partial(torch.add, x),
    "a partial's keywords": lambda x: partial(torch.add, other=x),
}


@pytest.mark.parametrize("kind", [Hiding, Undeclared])
@pytest.mark.parametrize("name", PLACES)
def test_a_parameter_of_a_users_class_is_found_wherever_it_is(
    name: str, kind: type[Hiding]
) -> None:
    with an.record() as trace:
        x = d.Normal(logits(), 1.0).sample()
        hidden = kind(PLACES[name](x)).sample()
    assert trace["hidden"].parents == {"x"}
    assert an.provenance_of(hidden) == {"hidden"}


def test_the_weights_of_a_users_module_are_found() -> None:
    layer = nn.Linear(3, 3)
    layer.register_buffer("offset", torch.ones(3))
    found = tensors(Hiding(layer))
    assert {id(t) for t in found} == {id(layer.weight), id(layer.bias), id(layer.offset)}
    assert set(events(Hiding(layer))) == {UNKNOWN}


def test_an_object_that_holds_itself_is_searched_once() -> None:
    ring: list[object] = [torch.ones(1)]
    ring.append(ring)
    assert len(tensors(Hiding(ring))) == 1


def test_a_users_class_that_declares_some_is_searched_for_the_rest() -> None:
    class Shifted(d.Normal):
        def __init__(self, loc: Tensor, shift: Tensor) -> None:
            super().__init__(loc, 1.0)
            self.shift = [shift]

    loc, shift = torch.zeros(3), torch.ones(3)
    held = parameters(Shifted(loc, shift))
    assert [h.event for h in held if h.tensor is shift] == [UNKNOWN]
    assert {h.event for h in held if h.tensor is not shift} == {0}


class Own(d.Normal):
    """A class of the user, which may do with its parameters what it likes."""


def over(
    tensor: Tensor, event: int, shape: tuple[int, ...], kind: type[d.Normal] = d.Normal
) -> Dims:
    """Return the alignment of a draw of this shape with the source of a parameter."""
    fn = kind(torch.zeros(shape), 1.0)
    found = param_provenance(fn, [Held(tensor, event)], shape, None)
    assert found is not None
    assert found.shape == shape
    ((alignment, _),) = found.entries
    return alignment.dims


def test_draws_are_aligned_with_the_batch_of_a_parameter() -> None:
    x = an.track(torch.zeros(4, 3), "x")
    assert over(x, 0, (4, 3)) == (0, 1)
    assert over(x, 0, (5, 4, 3)) == (-1, 0, 1)
    assert over(x, 1, (4,)) == (0,)
    assert over(x, 1, (5, 4)) == (-1, 0)
    assert over(x, UNKNOWN, (4, 3)) == (-1, -1)
    assert over(x, 2, ()) == ()
    assert over(x, 0, (3,)) == (1,)  # a value that is given, for all of the first dimension
    assert over(x, 0, (3,), Own) == (-1,)


def test_untracked_parameters_flow_in_from_nowhere() -> None:
    fn = d.Normal(torch.zeros(3), 1.0)
    assert param_provenance(fn, parameters(fn), (3,), None) is None


def test_what_sampling_was_seen_to_use_counts_for_a_users_class() -> None:
    x = an.track(torch.zeros(3), "x")
    drawn = provenance(x * 2)
    found = param_provenance(Hiding(None), [], (3,), drawn)
    assert found is not None
    assert [source.name for source in found.sources] == ["x"]


@pytest.mark.parametrize("family", DECLARED)
def test_the_table_of_a_class_tells_what_a_look_at_all_that_it_holds_does(family: str) -> None:
    """For the parameters that a draw or a density computed for themselves too."""
    fn = DECLARED[family][0](torch.rand(4, 3))
    fn.sample()
    looked = _of_distribution(fn, fn.batch_shape, {id(fn)})
    assert {(id(t), event) for t, event in over_batch(fn)} == {(id(t), e) for t, e in looked}


def test_a_parameter_under_two_names_is_held_once() -> None:
    q = d.Bernoulli(logits=torch.zeros(3))
    assert [(held.tensor is q.logits, held.event) for held in parameters(q)] == [(True, 0)]
    q.logits = torch.ones(3)  # of which `_param` knows nothing
    assert len(parameters(q)) == 2
