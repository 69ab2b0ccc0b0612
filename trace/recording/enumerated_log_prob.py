"""Unsummed densities: those with one element for each value of an enumerated site."""

from collections.abc import Iterable
from typing import Protocol

from ancestral.provenance.algebra.provenance import Provenance, Source, Universe
from ancestral.trace.context.errors import EnumerationError
from ancestral.trace.nodes.node import Node


class _Run(Protocol):
    """What is read of a trace."""

    universe: Universe

    @property
    def everything(self) -> tuple[Node, ...]: ...


class Spread:
    """The sources that have several values at once, each with the enumerated site behind it."""

    def __init__(self, trace: _Run) -> None:
        """Follow all that was recorded, in this trace and in those around it."""
        self._sites: dict[Source, Node] = {}
        self.nodes: dict[Source, Node] = {}
        outermost = trace.universe.owner
        for node in (*getattr(outermost, "everything", ()), *trace.everything):
            self.nodes.setdefault(node.source, node)
            behind = self._first(node, node.param_provenance if node.held is None else node.held)
            if behind is not None:
                self._sites.setdefault(node.source, behind)

    def behind(self, node: Node) -> Node | None:
        """Return the enumerated site for each of whose values a density, or a cost, is there."""
        return self._first(node, node.param_provenance, node.held)

    def refuse(self, nodes: Iterable[Node], what: str) -> None:
        """Raise if one of some nodes is to be summed; `what` says as a part of what.

        Raises:
            EnumerationError: if it is there once for each value of an enumerated site.
        """
        for node in nodes:
            behind = self.behind(node)
            if behind is not None:
                summed = what.format(node=named(node))
                raise EnumerationError(
                    f"{summed} depends on the enumerated site {named(behind)}: it is there once "
                    "for each of the values, and their sum, which counts all of them alike, has no "
                    "meaning; weigh each with its probability, as "
                    "ancestral.infer.log_marginal(trace) does, or draw the site: "
                    'infer={"enumerate": False}'
                )

    def _first(self, node: Node, *reaching: Provenance | None) -> Node | None:
        """Return the node itself, if it is enumerated, or a site that is among what reaches it."""
        if node.is_enumerated:
            return node
        for found in reaching if self._sites else ():
            for source in () if found is None else found.sources:
                if source in self._sites:
                    return self._sites[source]
        return None


def named(node: Node) -> str:
    """Return what a message calls a site."""
    return f"{node.name!r} ({node.location})"


def refuse_values(found: Provenance) -> None:
    """Raise if a loss has an element for each value of an enumerated site.

    Raises:
        EnumerationError: if it does.
    """
    some = [s for s in found.members if s.is_confined or s.is_named]
    # What is drawn several times is chance: a bound that depends on it is a mean of them.
    behind = [s for s in found.universe.origins(some) if s.is_confined and s.is_known]
    names = sorted(source.name for source in behind)
    if names:
        raise EnumerationError(
            f"the loss depends on {', '.join(map(repr, names))}, enumerated: it adds up all values "
            "alike; give it the mean, ancestral.infer.expectation(cost), of the cost of each"
        )
