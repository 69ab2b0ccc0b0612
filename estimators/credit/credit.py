"""Credit: for each score site, the sum of the costs that its score is multiplied with.

An estimator here is a pure function from the structure of a recording and the values of its terms
to the credit of every site that needs a score. All of them are unbiased: they differ in how many
costs that the site cannot influence they leave in, and so in variance.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Protocol

import torch
from torch import Tensor

from ancestral.estimators.credit.cost_sums import (
    Stacks,
    apart_dims,
    apart_through,
    filled,
    put,
    reduced,
    room,
    spread,
)
from ancestral.provenance.algebra.alignment import Alignment, Shape, compose
from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.graph.reachability import Reach, TermSet, downstream, reaches
from ancestral.trace.graph.structure import Structure, flattened
from ancestral.trace.nodes.node import Node


@dataclass(frozen=True, eq=False)
class Part:
    """A sum of costs downstream of the elements of a site.

    Attributes:
        value: the sum for each element, [*shape of the site], with ones along the dimensions along
            which it is one for all.
        apart: the dimensions of the site along which no cost in it lies downstream of two elements.
    """

    value: Tensor
    apart: frozenset[int]

    @property
    def is_shared(self) -> bool:
        """Whether a cost in it may be in the sums of several elements."""
        return any([n > 1 and dim not in self.apart for dim, n in enumerate(self.value.shape)])


@dataclass(frozen=True, eq=False)
class Credit:
    """What the score of one site is multiplied with: the sum of its parts.

    `joint` is the sum of all downstream costs, each counted once, [].

    A baseline is given the credit as tracked tensors, which depend on the site, and `of_others`,
    which does not, element by element. `recording` tells recordings apart; `site` is the node that
    it is the credit of, and `inputs` what a baseline has asked for and may use.
    """

    name: str
    shape: Shape
    parts: tuple[Part, ...]
    count_once: Callable[[], Tensor] | None = field(default=None, repr=False)
    mark_others: Callable[[Tensor, int], Tensor] | None = field(default=None, repr=False)
    recording: Hashable = field(default=None, repr=False)
    site: Node | None = field(default=None, repr=False)
    inputs: Tensor | None = field(default=None, repr=False)

    def is_apart(self, dim: int = 0) -> bool:
        """Return whether any part of the credit is kept apart along a dimension of the site."""
        return self._apart(dim) is not None

    def of_others(self, dim: int = 0) -> Tensor:
        """Return the mean of the credits of the other elements along a dimension of the site.

            o[n] = 1/(N-1) Σ_{m≠n} C[m]

        Of the parts of the credit that are kept apart along it, since C[m] then holds no cost
        downstream of element n: o[n] may be subtracted from the credit of element n, and no other
        element's o may. Zero, [], where nothing is apart; else [*shape], with ones.

        Raises:
            IndexError: if the site has no such dimension.
        """
        total = self._apart(dim)
        if total is None:
            return torch.zeros((), dtype=self.total.dtype, device=self.total.device)
        at = dim % len(self.shape)
        mean = (total.sum(at, keepdim=True) - total) / (self.shape[at] - 1)
        return mean if self.mark_others is None else self.mark_others(mean, at)

    def _apart(self, dim: int) -> Tensor | None:
        """Return the sum, untracked, of the parts that are kept apart along a dimension."""
        rank = len(self.shape)
        if not -rank <= dim < max(rank, 1):  # a single number has no others: as if of size 1
            where = "" if self.site is None else f" ({self.site.location})"
            raise IndexError(
                f"site {self.name!r}{where} has {rank} dimensions of elements, "
                f"{list(self.shape)}, no {dim}"
            )
        if not rank or self.shape[dim] < 2:
            return None
        at = dim % rank
        return _sum(untrack(part.value) for part in self.parts if at in part.apart)

    @property
    def total(self) -> Tensor:
        """The sum of the downstream costs of every element, broadcastable to [*shape]."""
        first, *rest = [part.value for part in self.parts]
        return sum(rest, first)

    @property
    def joint(self) -> Tensor:
        """The sum of all downstream costs, each counted once, []."""
        if self.count_once is not None:
            return self.count_once()
        first, *rest = (part.value.sum() for part in self.parts)
        return sum(rest, first)


def _sum(values: Iterable[Tensor]) -> Tensor | None:
    found = None
    for value in values:
        found = value if found is None else found + value
    return found


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
        Credit(site.name, site.shape, (Part(whole.reshape((1,) * len(site.shape)), frozenset()),))
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

    The dimensions of the sum index those of the site that `alignment` says. Along those of `apart`
    each cost in it lies downstream of one element of the site only.
    """

    alignment: Alignment
    apart: frozenset[int]


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
        parts: list[Part] = []
        placed: dict[tuple[frozenset[int], Shape], Tensor] = {}
        for key, found in self.buckets[number].items():
            alignment, total = filled(found, key.alignment)
            if alignment.there:
                kind = (key.apart, room(alignment, site.shape))
                onto = placed.get(kind)
                onto = total.new_zeros(kind[1]) if onto is None else onto
                placed[kind] = put(total, alignment, onto)
            else:
                parts.append(Part(spread(total, alignment, site.shape), key.apart))
        for (apart, _), onto in placed.items():
            parts.append(Part(onto, apart))
        once = None
        if placed or any(map(attrgetter("is_shared"), parts)):
            once = partial(self._once, number)
        return Credit(site.name, site.shape, tuple(parts), once)

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
                    apart = apart_through(reach.edge, key.apart)
                    _add(buckets, _Key(alignment, apart), moved)
        for claims, terms in reach.rest.items():
            apart = apart_dims(claims)
            for claim in claims:
                alignment, total = self._sum(claim, terms)
                _add(buckets, _Key(alignment, apart), total)
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
    """What is subtracted from the credit of a site: [], or [*shape] with ones.

    It counts as the credit does, with the weight that the loss gives each cost: 1/N in a mean of N.
    """

    def __call__(self, credit: Credit, /) -> Tensor | float:
        """Return the baseline of one site for this step."""
        ...
