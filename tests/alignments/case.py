"""Cases: a call of tensors, the letters of their dimensions, and what each keeps in the result.

An operand is written with a letter for each dimension, `.` where it has none, then `#` and a
letter if it holds indices below that size, `?` if it holds truth values. What it keeps is written
with its own letters, and `_` for a dimension of the result that indexes none of them.
"""

import itertools
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.algebra.alignment import LOST, Alignment, Dims
from ancestral.provenance.algebra.overlap import meet
from ancestral.provenance.algebra.provenance import Provenance, Source, Universe
from ancestral.provenance.tensor.tensor import alias, attach, provenance
from perturbation import differs, leaves, reachable

Sizes = Mapping[str, int]
_NONE: Sizes = MappingProxyType({})


@dataclass(frozen=True, eq=False)  # each is itself
class Case:
    """A call by a rule, the operands, and what the first result keeps of each of them."""

    rule: str
    call: Callable[..., Any]
    operands: str
    kept: str
    sizes: Sizes = field(default_factory=lambda: _NONE)  # of the letters that cannot have any

    @property
    def letters(self) -> str:
        """The letters whose sizes are free."""
        return "".join(sorted({*self.operands} & {*string.ascii_letters} - {*self.sizes}))

    def tensors(self, sizes: Sizes, seed: int = 0) -> list[Tensor]:
        """Return operands with these sizes."""
        generator = torch.Generator().manual_seed(seed)
        return [_tensor(text, {**sizes, **self.sizes}, generator) for text in self.operands.split()]

    def alignments(self) -> list[Dims | None]:
        """Return what the first result is to keep of each operand, `-` for not to depend on it."""
        pairs = zip(self.operands.split(), self.kept.split(), strict=True)
        return [
            None
            if kept == "-"
            else tuple(text.split("#")[0].find(letter) for letter in kept.strip("."))
            for text, kept in pairs
        ]


def _tensor(text: str, sizes: Sizes, generator: torch.Generator) -> Tensor:
    shape, _, bound = text.strip("?").strip(".").partition("#")
    size = [sizes[letter] for letter in shape.strip(".")]
    if bound:
        return torch.randint(max(sizes[bound], 1), size, generator=generator)
    values = torch.rand(size, generator=generator, dtype=torch.float64)
    return values > 0.5 if text.endswith("?") else values + 0.5


def moved(operand: Tensor, place: Sequence[int], bound: int) -> list[Tensor]:
    """Return copies of an operand with one element changed."""
    found = []
    for step in (0.3, -0.2) if operand.is_floating_point() else (1, 2):
        new = operand.clone()
        if operand.dtype == torch.bool:
            new[tuple(place)] = not new[tuple(place)]
        elif operand.is_floating_point():
            new[tuple(place)] += step
        else:
            new[tuple(place)] = (new[tuple(place)] + step) % max(bound, 1)
        found.append(new)
    return found


def results(case: Case, tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors of a call, with the same random numbers each time."""
    torch.manual_seed(3)
    return [tensor for _, tensor in leaves(case.call(*tensors))]


@dataclass(frozen=True)
class Followed:
    """What the results of a call carry, with each operand as a source."""

    sources: tuple[Source, ...]
    found: tuple[Provenance | None, ...]

    def claims(self, result: int, operand: int) -> list[Alignment]:
        """Return how a result depends on an operand, nothing if it does not."""
        carried = self.found[result]
        entries = () if carried is None else carried.entries
        return [alignment for alignment, members in entries if self.sources[operand] in members]

    def kept(self, result: int, operand: int) -> Dims | None:
        """Return which dimensions of an operand a result indexes from end to end, as they are."""
        claims = self.claims(result, operand)
        if not claims:
            return None
        least = claims[0]
        for claim in claims[1:]:
            least = meet(least, claim)
        cut = {d for d, _, _ in least.there}, {i for i, _, _ in least.here}
        return tuple(
            dim if isinstance(dim, int) and dim not in cut[0] and i not in cut[1] else LOST
            for i, dim in enumerate(least.dims)
        )


def follow(case: Case, tensors: Sequence[Tensor], chosen: Sequence[int]) -> Followed:
    """Run a call with some of its operands tracked, which may be the same tensor."""
    universe = Universe()
    made: dict[int, tuple[Source, Tensor]] = {}
    for index in chosen:
        t = tensors[index]
        if id(t) not in made:
            source = Source(f"operand {index}", tuple(t.shape))
            made[id(t)] = (source, attach(alias(t), universe.of(source, tuple(t.shape))))
    given = [made[id(t)][1] if id(t) in made else t for t in tensors]
    unknown = Source("none", ())
    sources = tuple(made[id(t)][0] if id(t) in made else unknown for t in tensors)
    return Followed(sources, tuple(provenance(t) for t in results(case, given)))


def is_refused(case: Case, tensors: Sequence[Tensor]) -> bool:
    """Return whether torch itself takes no operands of these sizes."""
    try:
        results(case, tensors)
    except (RuntimeError, ValueError, IndexError, ArithmeticError, AssertionError):
        return True
    return False


Shown = list[tuple[Tensor, list[Tensor]]]
"""Regions of an operand, and which elements of each result change with it there."""


def perturbed(case: Case, tensors: Sequence[Tensor], operand: int, most: int = 30) -> Shown:
    """Return what changes with single elements of an operand, at most so many of them."""
    before = results(case, tensors)
    t = tensors[operand]
    bound = int(t.max()) + 1 if t.numel() and not t.is_floating_point() else 0
    places = list(itertools.product(*map(range, t.shape)))
    shown: Shown = []
    for place in places[:: 1 + len(places) // most]:
        region = torch.zeros(t.shape, dtype=torch.bool)
        region[tuple(place)] = True
        for new in moved(t, place, bound):
            after = results(case, [new if other is t else other for other in tensors])
            shown.append((region, [differs(a, b) for a, b in zip(before, after, strict=True)]))
    return shown


def refuted(followed: Followed, operand: int, shown: Shown) -> str | None:
    """Return what perturbing shows to be wrong with what is claimed, None if nothing is."""
    for region, changes in shown:
        assert len(changes) == len(followed.found)
        for index, changed in enumerate(changes):
            claims = followed.claims(index, operand)
            if not claims and changed.any():
                return f"result {index} has lost operand {operand}"
            if (changed & ~reachable(claims, region, tuple(changed.shape))).any():
                return f"result {index} claims {claims} of operand {operand}"
    return None


def claims_too_much(
    case: Case, tensors: Sequence[Tensor], followed: Followed, operand: int, most: int = 30
) -> str | None:
    """Return what perturbing at most some elements shows to be wrong, None if nothing is."""
    return refuted(followed, operand, perturbed(case, tensors, operand, most))
