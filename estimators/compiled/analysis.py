"""Analysis: a captured graph run once within a recording, and what that tells of its nodes.

The library's own rules say what depends on what. A marker makes a site of a draw, its density being
a value of the graph; the loss is taken apart as that of any recording, and each of its terms is
found again as the node that computed it.
"""

import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.distributions import Distribution

from ancestral.estimators.capture.markers import DENSITY, GIVEN, HELD, NOISE, PATHWISE, SITES, WHOLE
from ancestral.estimators.capture.randomness import is_within_draw
from ancestral.estimators.capture.refusal import Refusal, line_of
from ancestral.estimators.capture.symbols import has_size_of_values
from ancestral.estimators.compiled.tail import is_write, memory_of, writes_noted, written_by
from ancestral.estimators.credit.credit import Estimator
from ancestral.estimators.credit.site_choices import PerSite
from ancestral.estimators.gradient.estimator_choice import Choice, chosen
from ancestral.estimators.gradient.problem import Problem, problem_of
from ancestral.estimators.gradient.surrogate import settle
from ancestral.provenance.tensor.known_index import reads_noted
from ancestral.provenance.tensor.linear_form import version_of
from ancestral.provenance.tensor.tensor import alias, attach, provenance, raw, untrack
from ancestral.provenance.tensor.torch_internals import tree_leaves
from ancestral.trace.context.place import Location, Place
from ancestral.trace.context.stack import local
from ancestral.trace.nodes.distribution_params import Held
from ancestral.trace.nodes.node import Node
from ancestral.trace.recording.record import record
from ancestral.trace.recording.record_site import draw
from ancestral.trace.recording.trace import Trace


class Captured(Distribution):
    """The distribution of a draw of a graph, of which its log-density at that draw is known."""

    arg_constraints = {}  # noqa: RUF012 (as torch has it)

    def __init__(self, density: Tensor, value: Tensor, known: Node) -> None:
        """Take log q(z), [*batch], z, [*batch, *event], and the site of a recording."""
        self._density, self._known = density, known
        super().__init__(density.shape, value.shape[density.ndim :], validate_args=False)

    @property
    def support(self) -> Any:
        """The values that can be drawn."""
        return None if self._known.fn is None else self._known.fn.support

    @property
    def is_cut(self) -> bool:
        """Whether the pathwise gradient of the draw lacks ways by which its density is learned."""
        return self._known.is_cut

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the density of the draw, whatever the value is given as."""
        return self._density


@dataclass(frozen=True, eq=False)
class Analysis:
    """What a graph is made of.

    `terms` are the nodes of the terms of the problem, in their order, None for what depends on no
    draw; `sites` those of its sites by name, `known` the same draws in a recording; `values` what
    each node came to; `random` the nodes that draw; `output` is the number of the loss among the
    outputs. `indices` are the values of the arguments, by number, that have told which elements are
    taken: with others, it is another graph.
    """

    problem: Problem
    estimate: Estimator
    terms: list[fx.Node | None]
    sites: dict[str, fx.Node]
    known: dict[str, Node]
    values: dict[fx.Node, Any]
    random: frozenset[fx.Node]
    output: int
    indices: dict[int, Tensor]

    @property
    def rounding(self) -> float:
        """The relative error of one rounding in the coarsest type of its values."""
        parts = tree_leaves(list(self.values.values()))
        dtypes = {part.dtype for part in parts if isinstance(part, Tensor)}
        return max((torch.finfo(each).eps for each in dtypes if each.is_floating_point), default=0)


@contextmanager
def analysed(
    graph: fx.GraphModule,
    inputs: Sequence[Any],
    known: Sequence[Node],
    estimator: PerSite[Choice],
    credit: PerSite[Estimator],
    value: Tensor,
) -> Generator[Analysis]:
    """Run a graph on inputs that it may write into, and tell within the block what it is made of.

    Args:
        graph: the graph, with markers.
        inputs: what it is given.
        known: the draws of the same program in a recording, in program order.
        estimator: the choice for each reparameterized site.
        credit: which costs count for each site.
        value: the loss of that recording, of the same draws.

    Raises:
        Refusal: if a step of the graph cannot be compiled.
    """
    trace: Trace | None = None
    try:
        with record(control="strict") as trace:
            run = _Run(graph, known)
            outputs = run.run(*inputs)
        at = returned(outputs, value)
        yield _found(trace, run, outputs[at], at, estimator, credit)
    finally:
        if trace is not None:
            settle(trace)


def returned(outputs: Sequence[Any], value: Tensor) -> int:
    """Return which output of a captured graph is the loss; others are what it leaves elsewhere.

    Raises:
        Refusal: if several may be, or another output has a gradient.
    """
    plain = [untrack(each) if isinstance(each, Tensor) else None for each in outputs]
    found = [
        at
        for at, each in enumerate(plain)
        if each is not None and each.shape == value.shape == () and _is_close(each.detach(), value)
    ]
    if not found:
        raise Refusal("the self-check failed: the loss differs from that of a recording")
    if len(found) > 1:
        raise Refusal("which of the tensors that it leaves behind is the loss cannot be told")
    (at,) = found
    if any(each is not None and each.requires_grad for each in (*plain[:at], *plain[at + 1 :])):
        raise Refusal(
            "it keeps a tensor with a gradient besides the loss, in which scores would be missing: "
            "keep it detached"
        )
    return at


def _is_close(one: Tensor, other: Tensor) -> bool:
    """Return whether two numbers are one but for the rounding of sums."""
    if one.dtype != other.dtype or not one.is_floating_point():
        return False
    return bool((one - other).abs() <= 64 * torch.finfo(one.dtype).eps * other.abs())


def _found(
    trace: Trace,
    run: "_Run",
    loss: Tensor,
    at: int,
    estimator: PerSite[Choice],
    credit: PerSite[Estimator],
) -> Analysis:
    if trace.escapes:
        raise Refusal("a drawn value is read, so that Python may decide by it", run.escaped)
    if len(run.recorded) != len(run.known):
        raise Refusal(
            f"{len(run.recorded)} draws were found in the captured graph, and {len(run.known)} in "
            "a recording"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the recording of the program itself warns
        problem, estimate = chosen(problem_of(loss, None), estimator, credit)
    for vertex in problem.structure.sites:
        if vertex.needs_score and vertex.name not in run.sites:
            raise Refusal(
                f"the draw {vertex.name!r} has no density in the graph", run.lines[vertex.name]
            )
    terms = [
        run.node_of(term.leaf) if shape.entries else None
        for term, shape in zip(problem.terms, problem.structure.terms, strict=True)
    ]
    placeholders = [n for n in run.module.graph.nodes if n.op == "placeholder"]  # type: ignore[union-attr]
    indices = {placeholders.index(n): value for n, value in run.kept.items()}
    random = frozenset(run.random)
    known = {node.name: node for node in run.known}
    return Analysis(problem, estimate, terms, run.sites, known, run.env, random, at, indices)


class _Run(fx.Interpreter):
    """The run of a graph that records its draws."""

    def __init__(self, module: fx.GraphModule, known: Sequence[Node]) -> None:
        super().__init__(module, garbage_collect_values=False)
        self.known = known
        self._same: dict[int, list[fx.Node]] = {}  # by value, what has returned it, as it is
        self._numbers: dict[fx.Node, int] = {}
        self._table: dict[str, int] = {}
        self._owners: dict[int, Node] = {}  # by the value number of its density
        self.sites: dict[str, fx.Node] = {}
        self.recorded: list[Node] = []
        self.random: set[fx.Node] = set()
        self.lines: dict[str, Location | None] = {}
        self.escaped: Location | None = None
        self._origins: dict[fx.Node, frozenset[fx.Node]] = {}
        self._written: dict[int, frozenset[fx.Node]] = {}  # by memory, what was put there
        self.kept: dict[fx.Node, Tensor] = {}

    def node_of(self, leaf: Tensor) -> fx.Node:
        """Return the node that computed a term."""
        same = self._same.get(id(leaf))
        if same is None:
            raise Refusal("a cost that the loss was taken apart into is no value of the graph")
        return same[0]

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and note what it came to."""
        was_inside = local.is_inside
        trace = local.traces[0]
        before, escapes = len(trace.everything), len(trace.escapes)  # type: ignore[attr-defined]
        state = torch.get_rng_state()
        local.is_inside = is_within_draw(n) and n.target not in SITES
        try:
            with reads_noted() as reads, writes_noted(n, self.env):
                found = self._ran(n)
        finally:
            local.is_inside = was_inside
        for node in trace.everything[before:]:
            if node.is_drawn:
                self.recorded.append(node)
                self.lines[node.name] = line_of(n)
        if len(trace.escapes) > escapes and self.escaped is None:  # type: ignore[attr-defined]
            self.escaped = line_of(n)
        if isinstance(found, Tensor):
            self._note_made(n, found)
        if not torch.equal(state, torch.get_rng_state()):
            self.random.add(n)
        self.env[n] = found
        self._note_origins(n, reads)
        self._numbers[n] = self._number_of(n, found)
        return found

    def _note_made(self, n: fx.Node, found: Tensor) -> None:
        """Note what made a value; after a write, what returned it is what all read from then on."""
        same = self._same.setdefault(id(found), [])
        if same and is_write(n):
            for earlier in same:
                for user in [user for user in earlier.users if user > n]:
                    user.replace_input_with(earlier, n)
            same.clear()
        same.append(n)

    def _note_origins(self, n: fx.Node, reads: Sequence[Tensor]) -> None:
        """Note what decides the value of a node, and of its memory; keep what indices come from.

        An index that is read may be a view that was made on the way, or a mask, whose values decide
        a size: of the plain arguments, all those count that can be indices.

        Raises:
            Refusal: if a draw decides an index, which nobody can compare.
        """
        decided = [self._origins_of(each) for each in n.all_input_nodes]
        found = frozenset[fx.Node]().union(*decided)
        self._origins[n] = found | {n} if n.op == "placeholder" or n in self.random else found
        for each in written_by(n) if is_write(n) else ():
            memory = memory_of(self.env[each])
            self._written[memory] = self._written.get(memory, frozenset()) | found
        if not reads and not has_size_of_values(n):
            return
        plain = [each for each in n.all_input_nodes if _is_plain(self.env[each])]
        plain = [each for each in plain if not _is_float(self.env[each])] or plain
        for origin in frozenset[fx.Node]().union(*map(self._origins_of, plain)):
            if origin.op != "placeholder":
                raise Refusal.of(n, "which elements are taken is drawn anew in each step")
            value = self.env[origin]
            if isinstance(value, Tensor):
                self.kept.setdefault(origin, untrack(value).detach().clone())

    def _origins_of(self, n: fx.Node) -> frozenset[fx.Node]:
        """Return the arguments and draws of the graph that decide the value of a node by now."""
        return self._origins[n] | self._written.get(memory_of(self.env[n]), frozenset())

    def _ran(self, n: fx.Node) -> Any:
        if n.op != "call_function":
            return super().run_node(n)
        if n.target in SITES:
            return self._site(n)
        if n.target is NOISE:
            raise Refusal.of(n, "a distribution without a log_prob is drawn from")
        if n.target is DENSITY:
            return self._density(n)
        if n.target is GIVEN:
            return self.env[_node(n.args[0])]
        if n.target is WHOLE:
            return _whole(self.env[_node(n.args[0])])
        if n.target is HELD:  # the draw itself is no parent
            return untrack(self.env[_node(n.args[0])]).detach()
        return super().run_node(n)

    def _site(self, n: fx.Node) -> Tensor:
        value, density = (self.env[_node(argument)] for argument in n.args)
        shape = density.shape
        if value.shape[: len(shape)] != shape:
            raise Refusal.of(
                n, f"a draw of shape {list(value.shape)} has a density of shape {list(shape)}"
            )
        held = [Held(density, 0)]
        behind, ours = provenance(value), provenance(density)
        if behind is not None and (ours is None or not behind.members <= ours.members):
            held.append(Held(value, value.ndim - len(shape)))
        at = len(self.recorded)
        if at == len(self.known):
            raise Refusal.of(n, "the captured graph has more draws than a recording")
        known = self.known[at]
        plain = untrack(density)
        drawn: Tensor = draw(
            Captured(plain, value, known),
            held,
            alias(untrack(value)),
            is_reparameterized=n.target is PATHWISE and value.requires_grad,
            where=Place(line_of(n) or Location("<unknown>", 0, ""), None, ""),
            name=known.name,
            infer=known.infer,
        )
        node = local.traces[0].everything[-1]
        self.sites[node.name] = n
        number = self._numbers[_node(n.args[1])]
        self._owners[number] = node
        return drawn

    def _density(self, n: fx.Node) -> Any:
        density, value = (self.env[_node(argument)] for argument in n.args)
        found = provenance(density)
        owner = self._owners.get(self._numbers[_node(n.args[0])])
        is_data = provenance(value) is None
        if found is None or (owner is None and not is_data):
            return density
        own: Any = _whole(density)
        if owner is not None and not is_data:
            own._scored = owner
        return own

    def _number_of(self, n: fx.Node, found: Any) -> int:
        """Return the number of a value, which all have that are computed alike of the same.

        Markers are seen through. What was overwritten since is no longer the same.
        """
        if n.op == "call_function" and n.target in (*SITES, HELD, DENSITY, WHOLE, GIVEN):
            return self._numbers[_node(n.args[0])]
        fresh = len(self._numbers)
        is_call = n.op == "call_function" or n.op == "call_method"
        if not is_call or n in self.random:
            return fresh
        made = (str(found.dtype), torch.is_grad_enabled()) if isinstance(found, Tensor) else ()
        args = fx.node.map_arg((n.args, dict(n.kwargs)), self._spelt)
        return self._table.setdefault(f"{n.target!r} {args!r} {made}", fresh)

    def _spelt(self, n: fx.Node) -> Any:
        """Return what stands for a node among the arguments of others."""
        value = self.env[n]
        version = raw(version_of, value) if isinstance(value, Tensor) else 0
        return _Shown(f"%{self._numbers[n]}.{version}")


def _whole(value: Tensor) -> Tensor:
    """Return a value as one cost, not as what it is computed from."""
    found = provenance(value)
    if found is None:
        return value
    own: Any = attach(alias(untrack(value)), found)
    own._form = None
    return own  # type: ignore[no-any-return]


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_plain(value: Any) -> bool:
    parts = (part for part in tree_leaves(value) if isinstance(part, Tensor))
    return all(provenance(part) is None for part in parts)


class _Shown(str):
    """A text that is shown without quotes."""

    def __repr__(self) -> str:
        return str(self)


def _node(argument: Any) -> fx.Node:
    assert isinstance(argument, fx.Node)
    return argument
