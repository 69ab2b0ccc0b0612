"""Credit: for each score site, the sum of the costs that its score is multiplied with.

An estimator here is a pure function from the structure of a recording and the values of its terms
to the credit of every site that needs a score. All of them are unbiased: they differ in how many
costs that the site cannot influence they leave in, and so in variance.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ancestral.estimators.credit.collector import MANY, at_work, waiting
from ancestral.estimators.credit.plan import parts, plan_of
from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.graph.reachability import downstream
from ancestral.trace.graph.structure import Structure, flattened
from ancestral.trace.nodes.node import Node


@dataclass(frozen=True, eq=False, slots=True)
class Part:
    """A sum of costs downstream of the elements of a site.

    Attributes:
        value: the sum for each element, [*shape of the site], with ones along the dimensions along
            which it is one for all.
        apart: the dimensions of the site along which no cost in it lies downstream of two elements.
    """

    value: Tensor
    apart: frozenset[int]


@dataclass(frozen=True, eq=False, slots=True)
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
    flat = structure.derived.get(flattened)
    if flat is None:
        flat = structure.derived[flattened] = flattened(structure)
    return by_element(flat, values)


def by_element(structure: Structure, values: Sequence[Tensor]) -> list[Credit]:
    """Give every element of every site the cost elements downstream of that very element.

        ∇ E[C] = E[ ∇C + Σ_i Σ_s ∇ log q(z_i[s]) · Σ_{(j,t) downstream of (i,s)} c_j[t] ]

    Needs one evaluation. Unbiased: a cost element that z_i[s] does not reach has mean zero times
    its score. Schulman et al. (2015), theorem 1, with every element as a node of the graph.

    Sums are stored as differences: the downstream of a site is that of one of its children plus the
    few terms that the child does not reach, so that a chain of n sites costs n additions.
    """
    found: list[Credit] = []
    with waiting if len(structure.sites) > MANY else at_work:
        for number, layout, sums in plan_of(structure, values).sums(values):
            vertex = structure.sites[number]
            known = tuple([Part(total, apart) for total, apart in parts(layout, sums)])
            once = partial(_once, structure, values, number) if layout.is_counted else None
            found.append(Credit(vertex.name, vertex.shape, known, once))
    return found


def _once(structure: Structure, values: Sequence[Tensor], number: int) -> Tensor:
    """Return the sum of all costs that a site reaches, each counted once."""
    reached = downstream(structure)[number].values()
    sums = [values[term].sum() for terms in reached for term in terms.numbers()]
    return torch.stack(sums).sum()


class Baseline(Protocol):
    """What is subtracted from the credit of a site: [], or [*shape] with ones.

    It counts as the credit does, with the weight that the loss gives each cost: 1/N in a mean of N.
    """

    def __call__(self, credit: Credit, /) -> Tensor | float:
        """Return the baseline of one site for this step."""
        ...
