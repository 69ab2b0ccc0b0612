"""What a call depends on, found by changing its input: the judge of every provenance.

A call is run on an input, on changed inputs, and on the tracked input. Whatever changes with the
input must carry its source; along every dimension that an alignment keeps, an element may change
with the element of the same index only. Values, classes and gradients must be those of torch.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

import ancestral as an
from ancestral.provenance.algebra.alignment import LOST, Alignment, Shape
from ancestral.provenance.algebra.factors import factors_of
from ancestral.provenance.tensor.tensor import ProvenanceTensor, provenance

Call = Callable[[Tensor], Any]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a result with their places in it."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from leaves(item, f"{path}[{name!r}]")
    elif isinstance(value, (tuple, list)):
        for number, item in enumerate(value):
            yield from leaves(item, f"{path}[{number}]")
    elif is_dataclass(value):
        for field in fields(value):
            yield from leaves(getattr(value, field.name), f"{path}.{field.name}")


def outline(value: Any) -> Any:
    """Return a result without its numbers: the classes, shapes and types that it is made of."""
    if isinstance(value, Tensor):
        plain = an.untrack(value)
        kind = Tensor if type(value) is ProvenanceTensor else type(value)
        return kind, plain.dtype, tuple(plain.shape), plain.layout, plain.requires_grad
    if isinstance(value, Mapping):
        return type(value), [(name, outline(item)) for name, item in value.items()]
    if isinstance(value, (tuple, list)):
        return type(value), [outline(item) for item in value]
    if is_dataclass(value):
        return type(value), [outline(getattr(value, field.name)) for field in fields(value)]
    return type(value), value if isinstance(value, (int, str, bool, type(None))) else None


def numbers(*shape: int, seed: int = 1) -> Tensor:
    """Return normal numbers, the same every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def changed(x: Tensor, element: tuple[int, ...] | None = None) -> Tensor:
    """Return an input with one element, or all, changed to something that is as valid."""
    moved = x.detach().clone()
    place = ... if element is None else element
    if x.dtype == torch.bool:
        moved[place] = ~moved[place]
    elif x.is_floating_point() or x.is_complex():
        moved[place] = moved[place] * 0.9 + 0.071
    else:
        moved[place] = (moved[place] + 1) % (int(x.max()) + 1)
    return moved.requires_grad_(x.requires_grad)


def differs(a: Tensor, b: Tensor) -> Tensor:
    """Return which elements of two tensors differ, as zeros and ones; NaN equals itself."""
    a, b = dense(a), dense(b)
    if a.shape != b.shape:
        return torch.ones(a.shape, dtype=torch.bool)
    same = (a == b) | ((a != a) & (b != b))
    return ~same


def dense(tensor: Tensor) -> Tensor:
    """Return a tensor of any layout as numbers in rows, with its values."""
    plain = an.untrack(tensor).detach()
    if plain.is_quantized:
        return plain.dequantize()
    if plain.is_nested:
        return torch.cat([part.reshape(-1) for part in plain.unbind()])
    dense = plain if plain.layout is torch.strided else plain.to_dense()
    return dense.resolve_conj().resolve_neg()


def seeded(call: Call, x: Tensor) -> Any:
    """Call with the same random numbers every time."""
    torch.manual_seed(7)
    return call(x)


def check(
    call: Call, x: Tensor, *, escapes: bool = False, elements: int = 3, tolerance: float = 0.0
) -> Any:
    """Assert that a call follows its input, and return its result on the tracked input.

    `escapes` says that the call is known to give values away to Python; no other may, since what
    is computed afterwards would depend on the source for that reason alone. `tolerance` is for
    what torch computes in another way where a tensor is tracked.
    """
    expected = seeded(call, x)
    with an.record() as trace:
        result = seeded(call, an.track(x, "x"))
    assert bool(trace.escapes) == escapes, trace.escapes
    assert outline(result) == outline(expected)
    others = [seeded(call, changed(x))]
    places = spread(x, elements)
    others += [seeded(call, changed(x, place)) for place in places]
    compared = list(leaves(expected))
    assert compared
    for number, (path, plain) in enumerate(compared):
        tracked = list(leaves(result))[number][1]
        torch.testing.assert_close(
            dense(tracked),
            dense(plain),
            rtol=tolerance,
            atol=tolerance,
            equal_nan=True,
            msg=lambda text, path=path: f"value of {path}: {text}",  # type: ignore[misc]
        )
        for other, place in zip(others, [None, *places], strict=True):
            moved = [leaf for p, leaf in leaves(other) if p == path]
            _covered(path, plain, moved[0] if moved else None, tracked, place)
    return result


def gradients(call: Call, x: Tensor) -> None:
    """Assert that the gradient of a call by its tracked input is torch's own."""
    found: list[Tensor | None] = []
    for run in (lambda leaf: leaf.view_as(leaf), lambda leaf: an.track(leaf, "x")):
        leaf = x.detach().clone().requires_grad_()
        outputs = [
            an.untrack(tensor).abs().sum()
            for _, tensor in leaves(seeded(call, run(leaf)))
            if tensor.requires_grad
        ]
        assert outputs, "no result has a gradient"
        (gradient,) = torch.autograd.grad(sum(outputs), [leaf], allow_unused=True)  # type: ignore[arg-type]
        found.append(gradient)
    assert found[0] is not None
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0, equal_nan=True)


def spread(x: Tensor, count: int) -> list[tuple[int, ...]]:
    """Return the places of some elements, spread over all."""
    total = x.numel()
    flat = sorted({(number * total) // count for number in range(min(count, total))})
    return [tuple(int(i) for i in torch.unravel_index(torch.tensor(at), x.shape)) for at in flat]


def _covered(
    path: str, plain: Tensor, moved: Tensor | None, tracked: Tensor, place: tuple[int, ...] | None
) -> None:
    """Assert that a result that changed with the input says so, and where."""
    moves = torch.ones(()) if moved is None else differs(plain, moved)
    if not bool(moves.any()):
        return
    found = provenance(tracked)
    assert found is not None, f"{path or 'the result'} changes with the input and is not tracked"
    entries = [alignment for alignment, _ in found.entries]
    source = next(source for source in found.sources if source.name == "x")
    assert "x" in {source.name for source in found.sources}, f"{path} has lost the source"
    if place is None or moved is None or tuple(moves.shape) != tuple(plain.shape):
        return
    if len(found.sources) != 1:
        return
    region = torch.zeros(source.shape, dtype=torch.bool)
    region[place] = True
    claimed = reachable(entries, region, tuple(plain.shape))
    assert not bool((moves & ~claimed).any()), f"{path} is not aligned as it claims"


def reachable(claims: Iterable[Alignment], region: Tensor, shape: Shape) -> Tensor:
    """Return which elements of a tensor of this shape may depend on some element of a region.

    `region` is a mask over the source, and the result one over the tensor.
    """
    found = torch.zeros(shape, dtype=torch.bool)
    for claim in claims:
        found |= _reached(claim, region, shape)
    return found


def _reached(claim: Alignment, region: Tensor, shape: Shape) -> Tensor:
    """Compare all elements of the tensor with those of the region, by what the claim means."""
    places = region.nonzero().T  # of the region alone, which is often a small part
    related = torch.ones((*shape, places.shape[1]), dtype=torch.bool)
    first, start = ({d: a for d, a, _ in windows} for windows in (claim.here, claim.there))
    for d, a, b in claim.here:
        related = related & _along(d, shape).ge(a) & _along(d, shape).lt(b)
    for d, a, b in claim.there:
        related = related & places[d].ge(a) & places[d].lt(b)
    for i, dim in enumerate(claim.dims):
        index = _along(i, shape) - first.get(i, 0)
        for factor in reversed(factors_of(dim, max(shape[i], 1))):
            if factor.dim != LOST:
                other = places[factor.dim] - start.get(factor.dim, 0)
                if factor.total:
                    other = other // factor.stride % factor.size
                related = related & (index % max(factor.size, 1) == other)
            index = index // max(factor.size, 1)
    return related.any(-1)


def _along(i: int, shape: Shape) -> Tensor:
    """Return the indices along a dimension, to be compared with places of the source."""
    return torch.arange(shape[i]).reshape([-1 if j == i else 1 for j in range(len(shape))] + [1])


__all__ = [
    "Call",
    "changed",
    "check",
    "dense",
    "differs",
    "gradients",
    "leaves",
    "numbers",
    "outline",
    "reachable",
    "seeded",
    "spread",
]
