"""`torch.vmap` is followed: it keeps what it maps over, loses no source, and refuses the rest."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal
from torch.func import functional_call, grad, vmap

import ancestral as an
from ancestral.errors import TransformError
from ancestral.provenance.algebra.alignment import LOST, Alignment
from ancestral.provenance.tensor.tensor import provenance
from perturbation import changed, check, gradients, leaves, numbers, seeded, spread

Call = Callable[[Tensor], Any]


X, W = numbers(4, 3, seed=2), numbers(3, 2, seed=3)


def chunks(x: Tensor) -> Any:
    return vmap(lambda a: (a.exp(), a @ W), out_dims=(0, 1), chunk_size=3)(x)


def containers(x: Tensor) -> Any:
    """Arguments and results in containers, some mapped along other dimensions, some not."""

    def inner(both: dict[str, Tensor], pair: tuple[Tensor, Tensor]) -> dict[str, Any]:
        return {"sum": both["a"] + pair[0], "rest": [both["b"].cumsum(0), pair[1] * 1]}

    in_dims = ({"a": 0, "b": 1}, (0, None))
    return vmap(inner, in_dims=in_dims)({"a": x, "b": X.T}, (X, numbers(2)))


def buffered(x: Tensor) -> Any:
    module = nn.Module()
    module.register_buffer("kept", x)
    return vmap(lambda a: a * module.kept)(X)


def ensemble(x: Tensor) -> Any:
    """Several models at once, as `torch.func` stacks them: the weights are mapped, too."""
    torch.manual_seed(0)
    models = [nn.Linear(3, 2) for _ in range(4)]
    weights, buffers = torch.func.stack_module_state(models)
    call = lambda p, b, a: functional_call(models[0], (p, b), (a,))  # noqa: E731
    return vmap(call)(weights, buffers, x), vmap(call, in_dims=(0, 0, None))(weights, buffers, x)


def keywords(x: Tensor) -> Any:
    return vmap(lambda a, factor: a * factor)(X, factor=x[0])


PARTLY: Any = (0, None)  # not known to torch's types
# Each result's alignment with the input, [4, 3]: `_` where lost, `-` if it does not depend on it.
KEPT: dict[str, Call] = {
    "elementwise: 01": lambda x: vmap(lambda a: a.exp())(x),
    "torch.vmap: 01": lambda x: torch.vmap(lambda a: a * 2)(x),
    "the same: 01": lambda x: vmap(lambda a: a)(x),
    "mixed inside: 0_": lambda x: vmap(lambda a: a @ W)(x),
    "summed inside: 0": lambda x: vmap(lambda a: a.sum())(x),
    "without a rule inside: 0": lambda x: vmap(lambda a: a.outer(a).trace())(x),
    "along the second dimension: 1": lambda x: vmap(torch.sum, in_dims=1)(x),
    "along the last: 1_": lambda x: vmap(lambda a: a.flip(0), in_dims=-1)(x),
    "put last: _0": lambda x: vmap(lambda a: a @ W, out_dims=-1)(x),
    "put in a tuple: _0": lambda x: vmap(lambda a: a @ W, out_dims=(1,))(x),
    "a matrix put between: _0_": lambda x: vmap(lambda a: a[:, None] * a, out_dims=1)(x),
    "held: _01": lambda x: vmap(lambda a: a * x)(X),
    "held on the left: _01": lambda x: vmap(lambda a: x * a)(X),
    "held and returned: _01": lambda x: vmap(lambda a: x)(X),
    "held and mapped: __": lambda x: vmap(lambda a: a + x.sum())(x),
    "held in chunks: _01": lambda x: vmap(lambda a: a * x, chunk_size=3)(X),
    "held by a module: _01": buffered,
    "held by a layer: _0": lambda x: vmap(lambda a: F.linear(a, x))(X),
    "not mapped: _01": lambda x: vmap(torch.mul, in_dims=(0, None))(X, x),
    "mapped and not: __": lambda x: vmap(lambda a, b: a + b.sum(), in_dims=(0, None))(x, x),
    "mapped twice: 0_": lambda x: vmap(lambda a, b: a @ W + b[:2])(x, x.flip(1)),
    "mapped along two: _": lambda x: vmap(lambda a, b: a.sum() * b.sum(), in_dims=(0, 1))(x[:3], x),
    "a keyword: _1": keywords,
    "one of two: 01 -": lambda x: vmap(lambda a, b: (a * 2, b * 2))(x, X),
    "in chunks: 01 _0": chunks,
    "in containers: 01 - -": containers,
    "not put anywhere: - 01": lambda x: vmap(lambda a: (a, x * 2), out_dims=PARTLY)(X),
    "within: 01": lambda x: vmap(lambda a: vmap(lambda b: b * 2)(a))(x),
    "within, held: __": lambda x: vmap(lambda a: vmap(lambda b: b * x[0, 0])(a))(X),
    "within, held and mapped: __": lambda x: vmap(lambda a: vmap(lambda b: b * x.sum())(a))(x),
    "within, mapped there: _01": lambda x: vmap(lambda a: vmap(lambda b: b * a.sum())(x))(X),
    "within, mapped there and here: ___": lambda x: vmap(lambda a: vmap(lambda b: b * a.sum())(x))(
        x
    ),
    "within, of the outer: 0_": lambda x: vmap(lambda a: vmap(lambda b: b * a.sum())(X[0]))(x),
    "an ensemble: 0_ _0_": ensemble,
    "a density: 0": lambda x: vmap(lambda a, y: Normal(a, 1.0).log_prob(y).sum())(x, X),
    "dropout: 01": lambda x: vmap(F.dropout, randomness="different")(x),
    "noise: 01": lambda x: vmap(lambda a: a + Normal(0.0, 1.0).sample(), randomness="different")(x),
    "attention: 0___": lambda x: vmap(lambda a: F.scaled_dot_product_attention(a, a, a))(
        x[:, None, :, None]
    ),
    "one of a batch of one: _1": lambda x: vmap(lambda a: a * 2)(x[:1]),
}


@pytest.mark.filterwarnings("ignore")  # of torch: ops without a rule for vmap
@pytest.mark.parametrize("name", KEPT)
def test_a_mapped_function_keeps_what_it_maps_over_and_claims_no_more(name: str) -> None:
    call = KEPT[name]
    x = numbers(4, 3)
    result = check(call, x, elements=12, tolerance=1e-6)
    found: list[str] = []
    for _, leaf in leaves(result):
        known = provenance(leaf)
        found.append("-")
        if known is not None:
            ((alignment, _),) = known.entries
            found[-1] = "".join("_" if dim == LOST else str(dim) for dim in alignment.dims)
    assert found == name.rpartition(": ")[2].split()
    gradients(call, x)


def test_the_sources_and_the_elements_are_seen_by_changing_them() -> None:
    """The judge is not blind: a dimension that is claimed to stay, and moves, is found."""
    call: Call = lambda x: vmap(lambda a: a * 2)(x.flip(0))  # noqa: E731
    x = numbers(4, 3)
    before = seeded(call, x)
    assert any(
        bool((seeded(call, changed(x, place)) != before).any(1).nonzero().squeeze(1)[0] != place[0])
        for place in spread(x, 4)
    )
    with an.record():
        known = provenance(call(an.track(x, "x")))
    assert known is not None
    assert [alignment for alignment, _ in known.entries] == [Alignment((LOST, 1))]


def scripted(x: Tensor, y: Tensor) -> Any:
    text = "def f(x: Tensor, y: Tensor):\n    return x * y\n"
    return torch.jit.CompilationUnit(text).f(x, y)


REFUSED: dict[str, Call] = {
    "a write": lambda z: vmap(lambda a: a.add_(1))(z * 1),
    "a write of what is held": lambda z: vmap(lambda a: (a * 1).add_(z[0]))(X),
    "a write into an element": lambda z: vmap(written)(z),
    "an activation that writes": lambda z: vmap(lambda a: F.relu(a * 1, inplace=True))(z),
    "a gradient within": lambda z: vmap(grad(lambda a: (a**2).sum()))(z),
    "a gradient of what is held": lambda z: vmap(grad(lambda a: (a * z[0]).sum()))(X),
    "a gradient around": lambda z: grad(lambda a: vmap(lambda b: b * z[0])(a).sum())(X),
    "a script": lambda z: vmap(lambda a: scripted(a, z))(X),
    "a draw": lambda z: vmap(lambda a: torch.bernoulli(a.sigmoid()), randomness="different")(z),
    "a draw of a distribution": lambda z: vmap(
        lambda a: Bernoulli(logits=a).sample(), randomness="different"
    )(z),
    "a draw of what is held": lambda z: vmap(
        lambda a: a * Bernoulli(logits=z).sample(), randomness="different"
    )(X),
    "a draw within within": lambda z: vmap(
        lambda a: vmap(lambda b: torch.bernoulli(b.sigmoid()), randomness="different")(a),
        randomness="different",
    )(z),
}


def written(a: Tensor) -> Tensor:
    b = a * 1
    b[0] = a[1]
    return b


@pytest.mark.filterwarnings("ignore")  # of torch: scripting is deprecated
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_within_is_refused_with_the_line(name: str) -> None:
    with an.record(), pytest.raises(TransformError, match=r"test_vmap\.py:\d+ "):
        REFUSED[name](an.track(numbers(4, 3), "z"))


def test_a_draw_of_plain_parameters_to_learn_is_refused_too() -> None:
    logits = torch.zeros(4, 3, requires_grad=True)
    with an.record(), pytest.raises(TransformError, match=r"test_vmap\.py:\d+ "):
        vmap(lambda a: Bernoulli(logits=a).sample(), randomness="different")(logits)


def test_one_draw_that_all_share_is_a_site() -> None:
    with an.record() as trace:
        z = an.track(torch.zeros(3), "z")
        drawn = vmap(lambda a: a * Bernoulli(logits=z).sample(), randomness="same")(X)
    (site,) = trace.values()
    assert site.parents == {"z"}
    assert an.provenance_of(drawn) == {site.name}


def test_an_escape_within_is_listed_and_taints_what_comes_out() -> None:
    with an.record() as trace:
        z = an.track(torch.ones(3), "z")
        result = vmap(lambda a: a * 2 if z.sum() > 0 else a)(X)
    assert [escape.filename for escape in trace.escapes] == [__file__]
    assert an.provenance_of(result) == {"z"}


def test_a_number_that_an_unmapped_argument_gives_is_an_escape() -> None:
    with an.record() as trace:
        z = an.track(torch.tensor(2.0), "z")
        vmap(lambda a, b: a * b.item(), in_dims=(0, None))(X, z)
    assert len(trace.escapes) == 1


def test_a_density_within_is_no_observation() -> None:
    with an.record() as trace:
        z = an.track(numbers(4, 3), "z")
        vmap(lambda a, y: Normal(a, 1.0).log_prob(y).sum())(z, X)
    assert list(trace) == []


def test_sources_of_two_recordings_that_are_over_are_constants_within() -> None:
    with an.record():
        z = Bernoulli(logits=torch.zeros(4, 3, requires_grad=True)).sample()
        loss = vmap(torch.sum)(z).sum()
    an.backward(loss)
    with an.record():
        assert an.provenance_of(vmap(lambda a: a * 2)(z) * 1) == frozenset()
