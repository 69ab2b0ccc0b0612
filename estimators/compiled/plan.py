"""Plan: what was found in a captured loss, for the user to read."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from ancestral.estimators.credit.cost_sums import apart_dims
from ancestral.estimators.gradient.problem import Problem
from ancestral.trace.display.text_table import Table, Tabular
from ancestral.trace.graph.graph import Graph
from ancestral.trace.graph.reachability import downstream
from ancestral.trace.graph.structure import Structure
from ancestral.trace.nodes.node import Node


@dataclass(frozen=True)
class Site:
    """A draw of a compiled loss: its name, its line, and how it gets its gradient."""

    name: str
    line: str
    gradient: str


@dataclass(frozen=True)
class Plan(Tabular):
    """What a compiled step does, or why it runs eagerly.

    Attributes:
        refusal: why the loss is not compiled, "" where it is.
        sites: the draws, in program order.
        structure: the sites, the terms of the loss, and the dependencies between them.
        graph: the graph of a recording of the same program.
        apart: how far the gradient was from that of a recording of the same draws when the plan was
            made, relative to the largest.
        seconds: what the plan took to make, without the compiler's own time.
    """

    refusal: str = ""
    sites: Sequence[Site] = ()
    structure: Structure = field(default_factory=lambda: Structure((), ()))
    graph: Graph | None = None
    apart: float = 0.0
    seconds: float = 0.0

    @property
    def is_compiled(self) -> bool:
        """Whether there is a plan that is used."""
        return not self.refusal

    def table(self) -> Table:
        """Return the sites, the terms and the credit, or what was refused."""
        if self.refusal:
            return Table((), (), above=[f"runs eagerly: {self.refusal}"])
        reached = {
            vertex.name: (vertex.shape, closure)
            for vertex, closure in zip(
                self.structure.sites, downstream(self.structure), strict=True
            )
        }
        terms = self.structure.terms
        head = ("site", "shape", "gradient", "terms", "credit apart along", "line")
        rows = []
        for site in self.sites:
            shape, closure = reached[site.name]
            count = sum(terms.size for terms in closure.values())
            dims = [apart_dims(claims) for claims in closure]
            apart = frozenset(range(len(shape))).intersection(*dims)
            shown = ", ".join(map(str, sorted(apart))) if count and shape else "-"
            rows.append(
                (site.name, str(list(shape)), site.gradient, str(count), shown or "none", site.line)
            )
        counts = f"{_counted(len(self.sites), 'site')}, {_counted(len(terms), 'term')}"
        title = (
            f"compiled: {counts}; {self.apart:.1g} from a recording of the same draws; planned in "
            f"{self.seconds:.2g} s"
        )
        return Table(head, rows, above=[title])


def plan_of(problem: Problem, graph: Graph) -> Plan:
    """Return the plan of a problem, and of the graph of a recording of it."""
    needing = {site.name for site in problem.structure.sites if site.needs_score}
    sites = [Site(n.name, str(n.location), _gradient(n, needing)) for n in problem.nodes.values()]
    return Plan("", sites, problem.structure, graph)


def _gradient(node: Node, needing: Collection[str]) -> str:
    if node.name in needing:
        return "score"
    return "pathwise" if node.is_reparameterized and node.is_learned else "none"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
