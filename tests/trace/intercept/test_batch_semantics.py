"""What a distribution computes keeps its batch: every family, every pair with a divergence."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import BATCH, FAMILIES, parameters_of
from torch import Tensor
from torch import distributions as d
from torch.distributions import Distribution, kl, kl_divergence, transforms

import ancestral as an
from ancestral.provenance.algebra.alignment import LOST
from ancestral.provenance.algebra.source_alignments import claimed
from ancestral.provenance.tensor.tensor import provenance
from perturbation import dense, differs, reachable

METHODS = "log_prob cdf icdf entropy mean variance stddev mode perplexity".split()
MASKED = "elements are chosen by a mask, whose number is an escape"
# What loses the batch: by a parameter where the family is made, or by what is computed of it.
LOSING = {
    ("Beta", "concentration1", "mode"): MASKED,
    ("Beta", "concentration0", "mode"): MASKED,
    ("Dirichlet", "concentration", "mode"): MASKED,
    ("StudentT", "df", "variance"): MASKED,
    ("StudentT", "df", "stddev"): MASKED,
}


pytestmark = pytest.mark.filterwarnings("ignore:Singular sample")


@pytest.fixture(autouse=True)
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask for densities outside of the support, too: one parameter changes and the value not."""
    monkeypatch.setattr(Distribution, "_validate_args", False)


def computed(fn: Any, method: str, value: Tensor) -> Any:
    """Return what a method gives, None where the family has no such thing."""
    if method in ("cdf", "icdf") and fn.event_shape:
        return None  # a number for each element, if at all
    try:
        if method == "icdf":
            return fn.icdf(torch.full(BATCH, 0.3, dtype=torch.float64))
        found = getattr(fn, method)
        return (
            (found(value) if method in ("log_prob", "cdf") else found())
            if callable(found)
            else found
        )
    except (NotImplementedError, AttributeError):  # the family has no such method
        return None


def replaced(a: Tensor, b: Tensor, place: tuple[int, ...]) -> Tensor:
    """Return a tensor with one element of the batch taken from another."""
    moved = a.clone()
    moved[place] = b[place]
    return moved


def check(
    call: Callable[[Tensor], Any], x: Tensor, other: Tensor, rank: int, is_lost: bool
) -> None:
    """Assert that a result keeps the batch of an input, and that no more is claimed than holds."""
    plain = call(x)
    with an.record():
        result = call(an.track(x, "x"))
    torch.testing.assert_close(dense(result), dense(plain), equal_nan=True)
    found = provenance(result)
    moved = {
        place: differs(plain, call(replaced(x, other, place))) for place in ((0, 0), (1, 0), (2, 1))
    }
    if found is None:
        assert not any(bool(moves.any()) for moves in moved.values())
        return
    (claims,) = (claims for source, claims in claimed(found).items() if source.name == "x")
    assert [claim.dims[:rank] for claim in claims] == [(LOST,) * rank if is_lost else (0, 1)[:rank]]
    for place, moves in moved.items():
        region = torch.zeros(x.shape, dtype=torch.bool)
        region[place] = True
        assert not bool((moves & ~reachable(claims, region, tuple(plain.shape))).any())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_family_computes_keeps_the_batch(name: str, method: str) -> None:
    make = FAMILIES[name].make
    given, others = parameters_of(name), parameters_of(name, seed=1)
    fn = make(**given)
    torch.manual_seed(2)
    value, another = fn.sample(), fn.sample()
    if computed(fn, method, value) is None:
        return
    for key in given:
        call = lambda x, key=key: computed(make(**{**given, key: x}), method, value)  # noqa: E731
        is_lost = (name, key, method) in LOSING
        check(call, given[key], others[key], len(fn.batch_shape), is_lost)
    if method in ("log_prob", "cdf"):
        check(lambda v: computed(fn, method, v), value, another, len(fn.batch_shape), False)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_parents_of_a_draw_keep_the_batch(name: str) -> None:
    given = parameters_of(name)
    for key in given:
        with an.record() as trace:
            FAMILIES[name].make(**{**given, key: an.track(given[key], "x")}).sample()
        (site,) = trace.values()
        assert site.param_provenance is not None
        (claims,) = claimed(site.param_provenance).values()
        expected = (LOST, LOST) if (name, key, "draw") in LOSING else (0, 1)
        assert [claim.dims[:2] for claim in claims] == [expected]


def test_every_family_of_torch_is_in_the_table() -> None:
    made = {type(FAMILIES[name].make(**parameters_of(name))) for name in FAMILIES}
    known = {kind for kind in vars(d).values() if isinstance(kind, type)}
    families = {kind for kind in known if issubclass(kind, Distribution)}
    assert families - made == {Distribution, d.ExponentialFamily, d.TransformedDistribution} - made
    parts = {
        kind.__name__
        for kind in map(vars(transforms).get, transforms.__all__)
        if isinstance(kind, type)
    }
    shown = {name.removeprefix("of ") for name in FAMILIES}
    assert parts - shown == {
        *("Transform", "ComposeTransform", "PowerTransform"),  # of transforms with parameters
        *("AbsTransform", "SoftmaxTransform"),  # are no bijections, and have no density
        "StackTransform",  # takes a batch of no more than one dimension
    }


PAIRS = sorted(
    # Other libraries that are loaded register theirs.
    (pair for pair, found in kl._KL_REGISTRY.items() if found.__module__ == kl.__name__),
    key=lambda pair: (pair[0].__name__, pair[1].__name__),
)
NAMES = {type(FAMILIES[name].make(**parameters_of(name))): name for name in reversed(FAMILIES)}
OF = {d.TransformedDistribution: "of ExpTransform", d.ExponentialFamily: "Gamma"}


@pytest.mark.parametrize(("p", "q"), PAIRS, ids=lambda kind: kind.__name__)
def test_a_divergence_keeps_the_batch(p: type[Any], q: type[Any]) -> None:
    first, second = (OF.get(kind) or NAMES[kind] for kind in (p, q))
    if p is q is d.TransformedDistribution:  # of the same transforms only
        part = transforms.ExpTransform()
        makes = [lambda **given: d.TransformedDistribution(d.Normal(**given), [part])] * 2
    else:
        makes = [FAMILIES[name].make for name in (first, second)]
    given = [parameters_of(first), parameters_of(second, seed=3)]
    for at, name in enumerate((first, second)):
        for key in given[at]:

            def call(x: Tensor, at: int = at, key: str = key) -> Tensor:
                parts = [{**kept, key: x} if i == at else kept for i, kept in enumerate(given)]
                fns = [make(**part) for make, part in zip(makes, parts, strict=True)]  # type: ignore[no-untyped-call]
                return kl_divergence(*fns)

            other = parameters_of(name, seed=4)[key]
            check(call, given[at][key], other, 2, (name, key, "divergence") in LOSING)
