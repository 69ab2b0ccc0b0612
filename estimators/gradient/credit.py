"""Credit: for each score site, the sum of the costs that its score is multiplied with.

An estimator here is a pure function from the structure of a recording and the values of its terms
to the credit of every site that needs a score. All of them are unbiased: they differ in how many
costs that the site cannot influence they leave in, and so in variance.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ancestral.estimators.gradient.cost_sums import (
    Stacks,
    filled,
    is_apart,
    put,
    reduced,
    room,
    spread,
)
from ancestral.provenance.algebra.alignment import Alignment, Shape, compose
from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.graph.reachability import Reach, TermSet, downstream, reaches
from ancestral.trace.graph.structure import Structure, flattened


@dataclass(frozen=True, eq=False)
class Credit:
    """What the score of one site is multiplied with.

    `parts` and `shared` add up to it: each is the sum of some downstream costs, [*shape] with ones
    along the dimensions of the site that do not index them. A cost within `parts` lies downstream
    of no other element along a dimension that it is kept apart along; of those within `shared`
    several elements may have the same. `joint` is the sum of all, each counted once, [].

    A baseline is given the credit as tracked tensors, which depend on the site, and `of_others`,
    which does not, element by element. `recording` tells recordings apart.
    """

    name: str
    shape: Shape
    parts: tuple[Tensor, ...]
    shared: tuple[Tensor, ...] = ()
    count_once: Callable[[], Tensor] | None = field(default=None, repr=False)
    mark_others: Callable[[Tensor, int], Tensor] | None = field(default=None, repr=False)
    recording: Hashable = None

    def is_apart(self, dim: int = 0) -> bool:
        """Return whether any part of the credit is kept apart along a dimension of the site."""
        return any(True for _ in self._apart(dim))

    def of_others(self, dim: int = 0) -> Tensor:
        """Return the mean of the credits of the other elements along a dimension of the site.

            o[n] = 1/(N-1) Σ_{m≠n} C[m]

        Of the parts of the credit that are kept apart along it, since C[m] then holds no cost
        downstream of element n: o[n] may be subtracted from the credit of element n, and no other
        element's o may. Zero, [], where nothing is apart; else [*shape], with ones.

        Raises:
            IndexError: if the site has no such dimension.
        """
        costs = list(self._apart(dim))
        if not costs:
            return torch.zeros((), dtype=self.total.dtype, device=self.total.device)
        total, at = sum(costs[1:], costs[0]), dim % len(self.shape)
        mean = (total.sum(at, keepdim=True) - total) / (self.shape[at] - 1)
        return mean if self.mark_others is None else self.mark_others(mean, at)

    def _apart(self, dim: int) -> Iterator[Tensor]:
        """Yield the parts, untracked, that no other element along a dimension has a cost of."""
        rank = len(self.shape)
        if not -rank <= dim < max(rank, 1):  # a single number has no others: as if of size 1
            raise IndexError(f"site {self.name!r} has {rank} dimensions of elements, no {dim}")
        size = self.shape[dim] if rank else 1
        for part in map(untrack, self.parts):
            if part.ndim == rank and size > 1 and part.shape[dim] == size:
                yield part

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


class _Sums:
    """The sums of downstream costs, built from the last site to the first."""

    def __init__(self, structure: Structure, values: Sequence[Tensor]) -> None:
        self._structure = structure
        self._values = values
        self._stacks = Stacks(values)
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
        for key, found in self.buckets[number].items():
            alignment, total = filled(found, key.alignment)
            # What is for a part of a dimension is for several elements along it.
            is_shared = key.is_shared or alignment is not key.alignment
            if alignment.there:
                kind = (not is_shared and is_apart(alignment), room(alignment, site.shape))
                onto = placed.get(kind)
                onto = total.new_zeros(kind[1]) if onto is None else onto
                placed[kind] = put(total, alignment, onto)
            else:
                ones = spread(total, alignment, site.shape)
                (shared if is_shared else parts).append(ones)
        for (is_own, _), onto in placed.items():
            (parts if is_own else shared).append(onto)
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
        if terms.size == 1:
            return reduced(self._values[terms.first], claim)
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


def _add(buckets: Buckets, key: _Key, total: Tensor) -> None:
    known = buckets.get(key)
    buckets[key] = total if known is None else known + total


class Baseline(Protocol):
    """What is subtracted from the credit of a site: [], or [*shape] with ones."""

    def __call__(self, credit: Credit, /) -> Tensor | float:
        """Return the baseline of one site for this step."""
        ...
