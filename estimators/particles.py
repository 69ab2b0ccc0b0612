"""Particles: several draws of a guide at once, along a dimension left of all others."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ancestral.estimators.pairs import GuideError, Pair, Program, run
from ancestral.estimators.surrogate import settle
from ancestral.trace.enumerated import trailing
from ancestral.trace.node import Node
from ancestral.trace.record import record
from ancestral.trace.repetitions import plate

NAME = "particles"


class PlateNestingError(GuideError):
    """A site has more dimensions than the user says."""

    def __init__(self, node: Node, claimed: int, needed: int) -> None:
        """Name the site, its line, what was expected and what came."""
        super().__init__(
            f"site {node.name!r} ({node.location}) uses {needed} dimensions of its batch, but "
            f"max_plate_nesting={claimed}, so that the particles would be mixed with one of them; "
            f"say max_plate_nesting={needed}, or leave it out"
        )


def particle_dim(
    model: Program,
    guide: Program,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    max_plate_nesting: int | None,
) -> int:
    """Return the first dimension, from the right, that no site of the programs uses."""
    if max_plate_nesting is not None:
        return -1 - max_plate_nesting
    with record() as around:
        pair = run(model, guide, *args, **kwargs)
    if around.universe.owner is around:
        settle(around)  # nobody will ask for its gradient, which would keep it alive
    return -1 - max((_width(node) for node in _nodes(pair)), default=0)


def together(
    model: Program,
    guide: Program,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    particles: int,
    dim: int,
) -> Pair:
    """Run both programs for all particles at once, along a dimension.

    Raises:
        PlateError: if a site has not one value for each particle, or mixes them.
        PlateNestingError: if the dimension is not left of all others.
    """
    with _explained(), plate(NAME, particles, dim=dim):
        pair = run(model, guide, *args, **kwargs)
    for node in _nodes(pair):
        inner = max((-p.dim for p in node.cond_indep_stack if p.dim and p.name != NAME), default=0)
        needed = max(inner, _width(node) - 1)
        if needed >= -dim:
            raise PlateNestingError(node, -1 - dim, needed)
    return pair


@contextmanager
def _explained() -> Iterator[None]:
    """Say of an error of the programs that it may be for the additional dimension."""
    try:
        yield
    except Exception as error:
        error.add_note(
            f"The programs ran for all particles at once, within plate {NAME!r}: each site must "
            "have, or be expanded to, one batch dimension more, and keep the particles apart. With "
            "vectorized=False they run one after the other."
        )
        raise


def _nodes(pair: Pair) -> list[Node]:
    return [n for trace in (pair.guide, pair.model) for n in trace.values() if n.type == "sample"]


def _width(node: Node) -> int:
    """Return how many dimensions of its batch a site uses, or the plates around it."""
    plates = (-plate.dim for plate in node.cond_indep_stack if plate.dim is not None)
    batch = node.shape[: len(node.shape) - node.grouped]
    if node.enumeration is not None:  # what stands for values is to the left, behind ones
        batch = trailing(batch, node.enumeration.room)
        batch = batch[next((i for i, size in enumerate(batch) if size != 1), len(batch)) :]
    return max(len(batch), *plates, 0)
