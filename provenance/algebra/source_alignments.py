"""Claims: the alignment of a tensor with each source behind it."""

import heapq
from collections.abc import Container

from ancestral.provenance.algebra.alignment import Alignment, apply, nothing_kept, whole
from ancestral.provenance.algebra.overlap import with_claim
from ancestral.provenance.algebra.provenance import Provenance, Source


class _Named:
    """The sources that the user gave a name."""

    def __contains__(self, source: object) -> bool:
        return isinstance(source, Source) and source.is_named


NAMED: Container[Source] = _Named()


def claimed(
    provenance: Provenance, stops: Container[Source] = ()
) -> dict[Source, tuple[Alignment, ...]]:
    """Return how the elements of a tensor depend on those of each source, drawn or tracked.

    What junctions and named values stand for is followed through them, unless they are among
    `stops`; through decisions, no alignment is.
    """
    found: dict[Source, tuple[Alignment, ...]] = {}
    # The newest first: what stands for others is newer than they are.
    pending = [(-provenance.universe.number(source), source) for source in provenance.members]
    heapq.heapify(pending)

    def claim(source: Source, alignment: Alignment) -> None:
        if source not in found:
            heapq.heappush(pending, (-provenance.universe.number(source), source))
        known = with_claim(found.get(source, ()), alignment)
        found[source] = tuple(whole(a, provenance.shape, source.shape) for a in known)

    for alignment, members in provenance.entries:
        for source in members:
            claim(source, alignment)
    done: set[Source] = set()
    lost = nothing_kept(len(provenance.shape))
    while pending:
        _, source = heapq.heappop(pending)
        if (
            source in done
            or source.stands_for is None
            or source.universe is not provenance.universe
        ):
            continue
        if source in stops:
            continue
        done.add(source)
        for inner, members in source.stands_for.entries:
            for outer in found[source]:
                moved = lost if source.is_decision else apply(outer, inner)
                if moved is not None:
                    for member in members:
                        claim(member, moved)
    # What was adopted with a junction or a decision of another recording is none of these.
    origins = provenance.universe.origins(provenance.members, stops)
    return {source: found.get(source, (lost,)) for source in origins}
