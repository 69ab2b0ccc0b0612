"""Credit: for each score site, the sum of the costs that its score is multiplied with.

An estimator here is a pure function from the structure of a recording and the values of its terms
to the credit of every site that needs a score. All of them are unbiased: they differ in how many
costs that the site cannot influence they leave in, and so in variance.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ancestral.provenance.algebra import LOST, Alignment, Shape, indices
from ancestral.trace.structure import Closure, Structure, compose, flattened


@dataclass(frozen=True, eq=False)
class Credit:
    """What the score of one site is multiplied with.

    `parts` add up to it: each is the sum of some downstream costs, kept apart along those
    dimensions of the site that index them, [*shape] with ones elsewhere. Each cost is in one part.
    """

    name: str
    shape: Shape
    parts: tuple[Tensor, ...]

    @property
    def total(self) -> Tensor:
        """The sum of the downstream costs of every element, broadcastable to [*shape]."""
        return sum(self.parts[1:], self.parts[0])

    @property
    def joint(self) -> Tensor:
        """The sum of all downstream costs, each counted once, []."""
        sums = [part.sum() for part in self.parts]
        return sum(sums[1:], sums[0])


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
        if site.needs_score and structure.downstream[number]
    ]


# Which dimensions of the site a sum keeps apart, and the sum: [sizes of those dimensions].
Buckets = dict[tuple[int, ...], Tensor]


class _Sums:
    """The sums of downstream costs, built from the last site to the first."""

    def __init__(self, structure: Structure, values: Sequence[Tensor]) -> None:
        self._structure = structure
        self._values = values
        self._reduced: dict[tuple[Alignment, int], tuple[tuple[int, ...], Tensor]] = {}
        self._buckets: list[Buckets] = [{} for _ in structure.sites]
        if any(site.needs_score for site in structure.sites):
            for number in reversed(range(len(structure.sites))):
                self._buckets[number] = self._build(number)

    def credit(self, number: int) -> Credit:
        """Return the credit of a site."""
        site = self._structure.sites[number]
        rank = len(site.shape)
        parts = tuple(
            total.reshape([site.shape[d] if d in kept else 1 for d in range(rank)])
            for kept, total in self._buckets[number].items()
        )
        return Credit(site.name, site.shape, parts)

    def _build(self, number: int) -> Buckets:
        closure = self._structure.downstream[number]
        child, edge, shared = self._base(number)
        buckets: Buckets = {}
        if child is not None:
            for kept, total in self._buckets[child].items():
                _add(buckets, *_moved(kept, total, edge))
        for alignment, terms in closure.items():
            rest = terms & ~shared.get(alignment, 0)
            if rest:
                _add(buckets, *self._sum(alignment, rest))
        return buckets

    def _base(self, number: int) -> tuple[int | None, Alignment, Closure]:
        """Return the child whose downstream, moved to this site, is the largest part of its own."""
        closure = self._structure.downstream[number]
        best: tuple[int | None, Alignment, Closure] = (None, (), {})
        size = 0
        for child, edge in self._structure.children[number]:
            moved: Closure = {}
            for alignment, terms in self._structure.downstream[child].items():
                target = compose(alignment, edge)
                moved[target] = moved.get(target, 0) | terms
            count = sum(terms.bit_count() for terms in moved.values())
            is_part = all(closure.get(a, 0) & terms == terms for a, terms in moved.items())
            if is_part and count > size:
                best, size = (child, edge, moved), count
        return best

    def _sum(self, alignment: Alignment, terms: int) -> tuple[tuple[int, ...], Tensor]:
        """Return the sum of some terms with one alignment; siblings share it."""
        key = (alignment, terms)
        found = self._reduced.get(key)
        if found is None:
            numbers = list(indices(terms))
            kept, total = reduced(self._values[numbers[0]], alignment)
            for number in numbers[1:]:
                total = total + reduced(self._values[number], alignment)[1]
            found = self._reduced[key] = (kept, total)
        return found


def reduced(value: Tensor, alignment: Alignment) -> tuple[tuple[int, ...], Tensor]:
    """Sum a cost over the dimensions that index none of the site's, the others in its order.

    Of two dimensions that index the same one of the site, the first is kept.
    """
    first = {d: i for i, d in reversed(list(enumerate(alignment))) if d != LOST}
    gone = [i for i in range(len(alignment)) if first.get(alignment[i]) != i]
    kept = tuple(sorted(first))
    total = value.sum(gone) if gone else value
    left = [alignment[i] for i in range(len(alignment)) if i not in gone]
    order = [left.index(d) for d in kept]
    return kept, total if order == sorted(order) else total.permute(order)


def _moved(kept: tuple[int, ...], total: Tensor, edge: Alignment) -> tuple[tuple[int, ...], Tensor]:
    """Move a sum from a child to its parent."""
    return reduced(total, tuple(edge[d] for d in kept))


def _add(buckets: Buckets, kept: tuple[int, ...], total: Tensor) -> None:
    known = buckets.get(kept)
    buckets[kept] = total if known is None else known + total
