"""Credit: for each score site, the sum of the costs that its score is multiplied with.

An estimator here is a pure function from the structure of a recording and the values of its terms
to the credit of every site that needs a score. All of them are unbiased: they differ in how many
costs that the site cannot influence they leave in, and so in variance.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ancestral.provenance.alignment import LOST, Alignment, Shape, compose, factors_of
from ancestral.trace.reachability import Reach, TermSet, downstream, reaches
from ancestral.trace.structure import Structure, flattened


@dataclass(frozen=True, eq=False)
class Credit:
    """What the score of one site is multiplied with.

    `parts` and `shared` add up to it: each is the sum of some downstream costs, [*shape] with ones
    along the dimensions of the site that do not index them. A cost within `parts` lies downstream
    of no other element along a dimension that it is kept apart along; of those within `shared`
    several elements may have the same. `joint` is the sum of all, each counted once, [].
    """

    name: str
    shape: Shape
    parts: tuple[Tensor, ...]
    shared: tuple[Tensor, ...] = ()
    count_once: Callable[[], Tensor] | None = field(default=None, repr=False)

    @property
    def total(self) -> Tensor:
        """The sum of the downstream costs of every element, broadcastable to [*shape]."""
        first, *rest = (*self.parts, *self.shared)
        return sum(rest, first)

    @property
    def joint(self) -> Tensor:
        """The sum of all downstream costs, each counted once, []."""
        if self.count_once is not None:
            return self.count_once()
        first, *rest = (part.sum() for part in self.parts)
        return sum(rest, first)


Estimator = Callable[[Structure, Sequence[Tensor]], list[Credit]]


def total_cost(structure: Structure, values: Sequence[Tensor]) -> list[Credit]:
    """Give every site the whole loss (REINFORCE).

        ∇ E[C] = E[ ∇C + Σ_i ∇ log q(z_i) · C ]

    Needs one evaluation. Unbiased. Williams (1992), "Simple statistical gradient-following
    algorithms for connectionist reinforcement learning", theorem 1.
    """
    if not values:
        return []
    whole = sum((value.sum() for value in values[1:]), values[0].sum())
    return [
        Credit(site.name, site.shape, (whole.reshape((1,) * len(site.shape)),))
        for site in structure.sites
        if site.needs_score
    ]


def by_site(structure: Structure, values: Sequence[Tensor]) -> list[Credit]:
    """Give every site the costs downstream of it, all elements together.

        ∇ E[C] = E[ ∇C + Σ_i ∇ log q(z_i) · Σ_{j downstream of i} c_j ]

    Needs one evaluation. Unbiased. Schulman et al. (2015), "Gradient estimation using stochastic
    computation graphs", theorem 1.
    """
    return by_element(flattened(structure), values)


def by_element(structure: Structure, values: Sequence[Tensor]) -> list[Credit]:
    """Give every element of every site the cost elements downstream of that very element.

        ∇ E[C] = E[ ∇C + Σ_i Σ_s ∇ log q(z_i[s]) · Σ_{(j,t) downstream of (i,s)} c_j[t] ]

    Needs one evaluation. Unbiased: a cost element that z_i[s] does not reach has mean zero times
    its score. Schulman et al. (2015), theorem 1, with every element as a node of the graph.

    Sums are stored as differences: the downstream of a site is that of one of its children plus the
    few terms that the child does not reach, so that a chain of n sites costs n additions.
    """
    sums = _Sums(structure, values)
    return [
        sums.credit(number)
        for number, site in enumerate(structure.sites)
        if site.needs_score and number in sums.buckets
    ]


@dataclass(frozen=True)
class _Key:
    """What a sum of costs is the same for: the elements of the site that it is downstream of.

    The dimensions of the sum index those of the site that `alignment` says. `is_shared` says that
    some cost in it lies downstream of other elements of the site too, which this sum is not for.
    """

    alignment: Alignment
    is_shared: bool


Buckets = dict[_Key, Tensor]
Numbers = npt.NDArray[np.int64]


class _Sums:
    """The sums of downstream costs, built from the last site to the first."""

    def __init__(self, structure: Structure, values: Sequence[Tensor]) -> None:
        self._structure = structure
        self._values = values
        self._stacks = _Stacks(values)
        self._reduced: dict[tuple[Alignment, TermSet], tuple[Alignment, Tensor]] = {}
        self.buckets: dict[int, Buckets] = {}
        needed = [site.needs_score for site in structure.sites]
        if any(needed):
            for number, reach in _needed(structure, needed):
                self.buckets[number] = self._build(reach)

    def credit(self, number: int) -> Credit:
        """Return the credit of a site."""
        site = self._structure.sites[number]
        parts: list[Tensor] = []
        placed: dict[tuple[bool, Shape], Tensor] = {}
        shared: list[Tensor] = []
        for key, total in self.buckets[number].items():
            if key.alignment.there:
                kind = (
                    not key.is_shared and _is_apart(key.alignment),
                    _room(key.alignment, site.shape),
                )
                onto = placed.get(kind)
                onto = total.new_zeros(kind[1]) if onto is None else onto
                placed[kind] = _placed(total, key.alignment, onto)
            else:
                ones = _spread(total, key.alignment, site.shape)
                (shared if key.is_shared else parts).append(ones)
        for (is_apart, _), room in placed.items():
            (parts if is_apart else shared).append(room)
        once = (lambda: self._once(number)) if shared or placed else None
        return Credit(site.name, site.shape, tuple(parts), tuple(shared), once)

    def _once(self, number: int) -> Tensor:
        """Return the sum of all costs that a site reaches, each counted once."""
        reached = downstream(self._structure)[number].values()
        sums = [self._values[term].sum() for terms in reached for term in terms.numbers()]
        return torch.stack(sums).sum()

    def _build(self, reach: Reach) -> Buckets:
        buckets: Buckets = {}
        if reach.base is not None:
            assert reach.edge is not None
            for key, total in self.buckets[reach.base].items():
                step = compose(key.alignment, reach.edge)
                if step is not None:
                    alignment, moved = reduced(total, step)
                    _add(buckets, _Key(alignment, key.is_shared), moved)
        for claims, terms in reach.rest.items():
            for claim in claims:
                alignment, total = self._sum(claim, terms)
                _add(buckets, _Key(alignment, len(claims) > 1), total)
        return buckets

    def _sum(self, claim: Alignment, terms: TermSet) -> tuple[Alignment, Tensor]:
        """Return the sum of some terms that depend on a site alike; siblings share it."""
        if terms.mask == 1:
            return reduced(self._values[terms.low], claim)
        key = (claim, terms)
        found = self._reduced.get(key)
        if found is None:
            parts = [reduced(total, claim) for total in self._stacks.sums(terms)]
            total = sum((part for _, part in parts[1:]), parts[0][1])
            found = self._reduced[key] = (parts[0][0], total)
        return found


def _needed(structure: Structure, needed: list[bool]) -> Iterator[tuple[int, Reach]]:
    """Yield what the sites reach whose sums are needed, a base before what is built on it."""
    found = [reach if closure else None for _, closure, reach in reaches(structure)]
    found.reverse()
    is_needed = list(needed)
    for number, reach in enumerate(found):
        if is_needed[number] and reach is not None and reach.base is not None:
            is_needed[reach.base] = True
    for number in reversed(range(len(found))):
        reach = found[number]
        if is_needed[number] and reach is not None:
            yield number, reach


class _Stacks:
    """The costs of one shape and type stacked, so that many are summed by one op."""

    FEW = 8

    def __init__(self, values: Sequence[Tensor]) -> None:
        self._values = values
        self._rows: Numbers | None = None
        self._groups: Numbers | None = None
        self._stacked: list[Tensor] = []

    def sums(self, terms: TermSet) -> list[Tensor]:
        """Return the sums of some costs, one for each shape and type."""
        numbers = terms.numbers()
        if len(numbers) <= self.FEW:
            found: dict[tuple[Shape, torch.dtype], Tensor] = {}
            for number in numbers.tolist():
                value = self._values[number]
                kind = (tuple(value.shape), value.dtype)
                found[kind] = found[kind] + value if kind in found else value
            return list(found.values())
        rows, groups = self._index()
        sums: list[Tensor] = []
        chosen = groups[numbers]
        for group in np.unique(chosen).tolist():
            picked = torch.from_numpy(rows[numbers[chosen == group]])
            stacked = self._stacked[group]
            sums.append(stacked[picked.to(stacked.device)].sum(0))
        return sums

    def _index(self) -> tuple[Numbers, Numbers]:
        """Return the row of each cost in its stack, and the number of that stack."""
        if self._rows is None or self._groups is None:
            members: dict[object, list[int]] = {}
            for number, value in enumerate(self._values):
                kind = (tuple(value.shape), value.dtype, value.device)
                members.setdefault(kind, []).append(number)
            self._rows = np.empty(len(self._values), dtype=np.int64)
            self._groups = np.empty(len(self._values), dtype=np.int64)
            for group, numbers in enumerate(members.values()):
                self._rows[numbers] = np.arange(len(numbers))
                self._groups[numbers] = group
                self._stacked.append(torch.stack([self._values[number] for number in numbers]))
        return self._rows, self._groups


def reduced(value: Tensor, claim: Alignment) -> tuple[Alignment, Tensor]:
    """Sum a cost over the dimensions that index none of the site's, the others in its order.

    Return how the dimensions of the sum index those of the site, and the sum. Of two dimensions
    that index the same one of the site, the first is kept.
    """
    dims = claim.dims
    if not dims:
        return claim, value
    for i, first, end in claim.here:
        value = value.narrow(i, first, end - first)
    if not all(isinstance(dim, int) for dim in dims):
        factors = [
            f for dim, size in zip(dims, value.shape, strict=True) for f in factors_of(dim, size)
        ]
        value = value.reshape([size for _, size in factors])
        dims = tuple(d for d, _ in factors)
    first_of = {d: i for i, d in reversed(list(enumerate(dims))) if d != LOST}
    gone = [i for i, d in enumerate(dims) if first_of.get(d) != i]
    kept = tuple(sorted(first_of))
    total = value.sum(gone) if gone else value
    left = [d for i, d in enumerate(dims) if first_of.get(d) == i]
    order = [left.index(d) for d in kept]
    return (
        Alignment(kept, there=claim.there),
        total if order == sorted(order) else total.permute(order),
    )


def _is_apart(alignment: Alignment) -> bool:
    """Return whether a sum is for one element only along each dimension that it does not index."""
    return all(end - first == 1 or d in alignment.dims for d, first, end in alignment.there)


def _spread(total: Tensor, alignment: Alignment, shape: Shape) -> Tensor:
    """Return a sum with ones for the dimensions of the site that do not index it."""
    return total.reshape([size if d in alignment.dims else 1 for d, size in enumerate(shape)])


def _room(alignment: Alignment, shape: Shape) -> Shape:
    """Return the shape of a site with ones for the dimensions along which a sum is one for all."""
    told = {*alignment.dims, *(d for d, _, _ in alignment.there)}
    return tuple(size if d in told else 1 for d, size in enumerate(shape))


def _placed(total: Tensor, alignment: Alignment, onto: Tensor) -> Tensor:
    """Add a sum, in place where the type allows, at the elements of a site that it is for."""
    windows = {d: (first, end) for d, first, end in alignment.there}
    kept = dict(zip(alignment.dims, total.shape, strict=True))
    place = tuple(slice(*windows.get(d, (0, size))) for d, size in enumerate(onto.shape))
    onto = onto.to(torch.promote_types(onto.dtype, total.dtype))
    onto[place] += total.reshape([kept.get(d, 1) for d in range(onto.ndim)])
    return onto


def _add(buckets: Buckets, key: _Key, total: Tensor) -> None:
    known = buckets.get(key)
    buckets[key] = total if known is None else known + total
