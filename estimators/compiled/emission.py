"""Emission: the scores of a loss, each with its credit, put into the captured graph of the loss.

        out = L + (S - ⊥(S)),   S = Σ_i Σ_s log q(z_i[s]) · ⊥(C_i[s] - b_i[s])

Credits and baselines are computed by the library's own functions, traced once: the graph that comes
out has as many ops as one by hand. The weight of each cost is the derivative of the part of the
loss that is linear in the costs. ⊥ holds a value fixed. The value of S is not computed: `scored`
adds its derivative alone.
"""

import operator
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from ancestral.estimators.capture.markers import DENSITY, HELD, MARKERS, SITE
from ancestral.estimators.capture.refusal import Refusal
from ancestral.estimators.capture.symbols import SYMBOLS, Symbols
from ancestral.estimators.compiled.analysis import Analysis
from ancestral.estimators.compiled.asking import Asking, factor_of
from ancestral.estimators.compiled.memories import Memories
from ancestral.estimators.compiled.scored import SCORED
from ancestral.estimators.compiled.step_nodes import step_node_of
from ancestral.estimators.compiled.tail import Tail, ancestors, descendants, is_impure
from ancestral.estimators.gradient.loss_terms import Term
from ancestral.estimators.gradient.passes import Pass, passes_of
from ancestral.estimators.gradient.subtraction import subtracted
from ancestral.provenance.tensor.tensor import ProvenanceTensor, untrack
from ancestral.provenance.tensor.torch_internals import compiler, no_source, tree_leaves
from ancestral.trace.graph.structure import Structure


def emit(
    module: fx.GraphModule, analysis: Analysis, memories: Memories, symbols: Symbols | None
) -> Asking | None:
    """Put the scores of a loss into its graph, and take the markers out.

    What baselines have learned is given to it after its own arguments, and written into. Where
    functions of the user are asked for baselines, the graph returns what the scores are made of,
    and they are made by what is returned here.

    Args:
        module: the graph, which is changed.
        analysis: what it is made of.
        memories: what is subtracted from the credit of each site, with what it has learned.
        symbols: the sizes of its values, where they are no numbers.

    Raises:
        Refusal: if a score, or what is subtracted for it, cannot be part of the graph.
    """
    emission = _Emission(module, analysis, memories, symbols)
    if memories.are_asked:
        return emission.run_asking()
    emission.run()
    return None


class _Emission:
    def __init__(
        self,
        module: fx.GraphModule,
        analysis: Analysis,
        memories: Memories,
        symbols: Symbols | None,
    ) -> None:
        self._module, self._graph = module, module.graph
        self._symbols = symbols
        self._constants: list[Tensor] = []
        self._analysis, self._problem = analysis, analysis.problem
        self._memories = memories
        problem, values = analysis.problem, [term.value for term in analysis.problem.terms]
        self._passes = passes_of(problem, analysis.estimate, values)
        if symbols is not None and problem.partly:
            raise Refusal("a draw of rsample has its score for some terms only, at any size")
        self._output = next(node for node in module.graph.nodes if node.op == "output")
        (self._returned,) = map(list, self._output.args)
        self._loss = _node(self._returned[analysis.output])
        terms = [node for node in analysis.terms if node is not None]
        self._tail = Tail(module, self._loss, terms, analysis.values)

    def run(self) -> None:
        """Change the graph."""
        places, factors = self._factors()
        self._hold_scored()
        copies = [self._held(part) for part in self._passes]
        score: fx.Node | None = None
        with self._graph.inserting_before(self._output):
            for (at, name), factor in zip(places, factors, strict=True):
                density = _node(self._analysis.sites[name].args[1])
                part = self._product(copies[at].get(density, density), factor)
                score = part if score is None else self._call(operator.add, score, part)
        self._fix_terms(copies)
        self._return(score)
        self._share_densities()
        self._finish()

    def run_asking(self) -> Asking:
        """Change the graph to return densities and costs beside the loss."""
        values = self._analysis.values
        if self._symbols is not None:
            raise Refusal("a baseline is asked in each step, at any size")
        placeholders = (node for node in self._graph.nodes if node.op == "placeholder")
        is_written = any(isinstance(values[n], ProvenanceTensor) for n in placeholders)
        if is_written and self._memories.run_code_of_user:
            raise Refusal("a baseline of yours may read what it writes a draw into")
        nodes, weighed = self._weighing()
        costs = self._inlined(self._traced(lambda *given: weighed(given), nodes), nodes)
        places = [(at, credit.name) for at, p in enumerate(self._passes) for credit in p.credits]
        self._hold_scored()
        copies = [self._held(part) for part in self._passes]
        densities = [_node(self._analysis.sites[name].args[1]) for _, name in places]
        scored = [copies[at].get(n, n) for (at, _), n in zip(places, densities, strict=True)]
        names = [name for _, name in places] if self._memories.look_at_sites else []
        sites = {n: step_node_of(self._analysis.sites[n], self._analysis.known[n]) for n in names}
        given = [self._detached(each) for _, nodes in sites.values() for each in nodes]
        self._fix_terms(copies)
        self._returned[self._analysis.output] = self._loss
        self._output.args = ((*self._returned, *scored, *costs, *given),)
        self._share_densities()
        self._finish()
        problem = replace(self._problem, terms=self._plain_terms())
        at, count, estimate = self._analysis.output, len(self._returned), self._analysis.estimate
        known = {name: site for name, (site, _) in sites.items()}
        return Asking(problem, estimate, self._memories.for_a_step, places, at, count, known)

    def _call(self, function: Callable[..., Any], *args: Any) -> fx.Node:
        return self._graph.call_function(function, args)

    def _product(self, density: fx.Node, factor: fx.Node) -> fx.Node:
        return self._graph.call_method("sum", (self._call(operator.mul, density, factor),))

    def _return(self, score: fx.Node | None) -> None:
        """Give the loss that is returned the derivative of the scores, and not their value."""
        total = self._loss
        with self._graph.inserting_before(self._output):
            if score is not None:
                total = self._call(SCORED, self._loss, score)
        self._returned[self._analysis.output] = total
        self._output.args = (tuple(self._returned),)

    def _hold_scored(self) -> None:
        """Shut the pathwise gradient of the draws whose score counts for all terms."""
        problem = self._problem
        for vertex in problem.structure.sites:
            is_whole = vertex.needs_score and vertex.name not in problem.partly
            if is_whole and problem.nodes[vertex.name].is_reparameterized:
                site = self._analysis.sites[vertex.name]
                constant = self._detached(site)
                for user in list(site.users):
                    if user is not constant and user.target is not HELD:
                        user.replace_input_with(site, constant)

    def _fix_terms(self, copies: Sequence[dict[fx.Node, fx.Node]]) -> None:
        """Let the loss see each term as its pass does, and a density at its own draw constant."""
        seen = {n: (at, t) for at, part in enumerate(self._passes) for n, t in part.terms.items()}
        owned = {id(term.value) for part in self._passes for term in part.owned}
        instead: dict[fx.Node, fx.Node] = {}
        for number, (node, term) in enumerate(
            zip(self._analysis.terms, self._problem.terms, strict=True)
        ):
            if node is None:
                continue
            at, live = seen[number]
            found = copies[at].get(node, node)
            is_constant = term.leaf.requires_grad and not live.leaf.requires_grad
            if id(term.value) in owned or is_constant:
                found = self._detached(found)
            if found is not node:
                instead[node] = found
        if instead:
            self._loss = self._tail.copied(instead)

    def _share_densities(self) -> None:
        """Let a density that the program takes at its own draw be the one that the score needs."""
        for part in self._passes:
            for term in part.owned:
                site = self._analysis.sites[term.leaf._scored.name]  # type: ignore[attr-defined]
                numbers = (
                    n for n, each in enumerate(self._problem.terms) if each.value is term.value
                )
                node = self._analysis.terms[next(numbers)]
                if node is not None and node.target is DENSITY and site.target is SITE:
                    node.replace_all_uses_with(_node(site.args[1]))

    def _detached(self, node: fx.Node) -> fx.Node:
        with self._graph.inserting_after(node):
            return self._graph.call_method("detach", (node,))

    def _held(self, part: Pass) -> dict[fx.Node, fx.Node]:
        """Return copies of the nodes of a pass between the draws that it holds and its ends."""
        sites = [self._analysis.sites[node.name] for node in part.held]
        if not sites:
            return {}
        found = [self._analysis.terms[number] for number in part.terms]
        ends = [node for node in found if node is not None]
        ends += [_node(self._analysis.sites[credit.name].args[1]) for credit in part.credits]
        between = descendants(sites) & {*ends, *ancestors(ends)}
        if between & {*self._tail.others}:
            raise Refusal("the weight of a cost depends on a draw of rsample that has a score")
        copies: dict[fx.Node, fx.Node] = {site: self._detached(site) for site in sites}
        for node in list(self._graph.nodes):
            if node not in between or node in copies or not self._has_gradient(node):
                continue
            if is_impure(node) or (node.op != "call_function" and node.op != "call_method"):
                raise Refusal.of(node, "a write follows a draw of rsample that has a score")
            if node in self._analysis.random:
                raise Refusal.of(node, "a draw depends on a draw of rsample that has a score")
            with self._graph.inserting_after(node):
                copies[node] = self._graph.node_copy(node, lambda each: copies.get(each, each))
        return copies

    def _has_gradient(self, node: fx.Node) -> bool:
        """Return whether a value, or a part of it, has a gradient; what has none is no route."""
        parts = tree_leaves(self._analysis.values[node])
        return any(isinstance(part, Tensor) and part.requires_grad for part in parts)

    def _plain_terms(self) -> list[Term]:
        return [replace(term, leaf=untrack(term.leaf)) for term in self._problem.terms]

    def _values(self) -> Mapping[fx.Node, Any]:
        return self._analysis.values if self._symbols is None else self._symbols.values

    def _weighing(self) -> tuple[list[fx.Node], Callable[[Sequence[Tensor]], list[Tensor]]]:
        """Return the nodes that tell what each cost counts, and what makes that of their values."""
        problem, tail, values = self._problem, self._tail, self._values()
        linear = tail.as_function()
        others = [node for node in tail.others if isinstance(values[node], (Tensor, *SYMBOLS))]
        constants = {node: values[node] for node in tail.others if node not in others}
        if any(isinstance(each, Tensor) for each in tree_leaves(list(constants.values()))):
            raise Refusal("the loss is made of a list of tensors that the graph keeps as one")
        count, precision = len(tail.terms), problem.loss.dtype

        def weighed(given: Sequence[Tensor]) -> list[Tensor]:
            costs = [
                _counted(value, precision).detach().requires_grad_() for value in given[:count]
            ]
            known = dict(zip(others, given[count:], strict=True)) | constants
            loss = linear(*costs, *(known[node] for node in tail.others))
            weights = torch.autograd.grad(loss.sum(), costs, allow_unused=True)
            found = dict(zip(tail.terms, zip(costs, weights, strict=True), strict=True))
            return [
                term.value if node is None else _weighed(*found[node], term.is_picked)
                for node, term in zip(self._analysis.terms, problem.terms, strict=True)
            ]

        return [*tail.terms, *others], weighed

    def _factors(self) -> tuple[list[tuple[int, str]], list[fx.Node]]:
        """Return the groups and sites that scores count in, and what each is multiplied with."""
        problem, (nodes, weighed) = self._problem, self._weighing()
        sized = replace(
            problem, structure=self._sized(problem.structure), terms=self._plain_terms()
        )
        places: list[tuple[int, str]] = []

        def factors(*given: Tensor) -> list[Tensor]:
            baseline, learned = self._memories.given(given[len(nodes) :])
            passes = passes_of(sized, self._analysis.estimate, weighed(given[: len(nodes)]))
            less = subtracted(sized, baseline, passes)
            results: list[Tensor] = []
            places.clear()
            for at, part in enumerate(passes):
                for credit in part.credits:
                    places.append((at, credit.name))
                    node = problem.nodes[credit.name]
                    results.append(factor_of(node, credit, less.get((at, credit.name))))
            return [*results, *self._memories.after(learned)]

        known = [*self._memories.tensors]
        traced_with = known if self._symbols is None else [*map(self._symbols.of, known)]
        traced = self._traced(factors, nodes, traced_with)
        buffers = self._arguments(len(known))
        results = self._inlined(traced, [*nodes, *buffers])
        with self._graph.inserting_before(self._output):
            for buffer, result in zip(buffers, results[len(places) :], strict=True):
                self._graph.call_method("copy_", (buffer, result))
        return places, results[: len(places)]

    def _traced(
        self,
        function: Callable[..., list[Tensor]],
        nodes: Sequence[fx.Node],
        more: Sequence[Tensor] = (),
    ) -> fx.GraphModule:
        """Return a function of the values of some nodes as a graph."""
        values = self._values()
        with self._tracing():
            traced: fx.GraphModule = compiler().make_fx(function)(
                *[_held_fixed(values[node]) for node in nodes], *more
            )
        traced.graph.eliminate_dead_code()
        return traced

    @contextmanager
    def _tracing(self) -> Generator[None]:
        around = nullcontext() if self._symbols is None else self._symbols.mode
        with torch.enable_grad(), around:
            yield

    def _sized(self, structure: Structure) -> Structure:
        """Return a structure with the sizes of the graph, where they are no numbers."""
        if self._symbols is None:
            return structure
        sites = [self._analysis.sites.get(vertex.name) for vertex in structure.sites]
        shapes = [
            None if site is None else self._symbols.shape(_node(site.args[1])) for site in sites
        ]
        sized = (
            vertex if shape is None else replace(vertex, shape=shape)
            for vertex, shape in zip(structure.sites, shapes, strict=True)
        )
        return Structure(tuple(sized), structure.terms)

    def _inlined(self, traced: fx.GraphModule, given: Sequence[fx.Node]) -> list[fx.Node]:
        """Copy a traced graph to the end of this one, its arguments being held fixed."""
        placeholders = [node for node in traced.graph.nodes if node.op == "placeholder"]
        copies: dict[fx.Node, Any] = {}
        with self._graph.inserting_before(self._output):
            for placeholder, node in zip(placeholders, given, strict=True):
                if placeholder.users:
                    is_number = isinstance(self._values().get(node), SYMBOLS)
                    held = node if is_number else self._graph.call_method("detach", (node,))
                    copies[placeholder] = held
            for node in traced.graph.nodes:
                if node.op == "get_attr":
                    copies[node] = self._constant(getattr(traced, str(node.target)))
                elif node.op == "output":
                    (results,) = node.args
                    return [copies[result] for result in results]
                elif node.op != "placeholder":
                    copies[node] = self._graph.node_copy(node, copies.__getitem__)
        raise AssertionError("a graph without an output")

    def _constant(self, value: Tensor) -> fx.Node:
        name = f"_credit_{len(self._constants)}"
        self._constants.append(value)
        setattr(self._module, name, value)
        return self._graph.get_attr(name)

    def _arguments(self, count: int) -> list[fx.Node]:
        """Give the graph as many more arguments."""
        last = [node for node in self._graph.nodes if node.op == "placeholder"][-1]
        made: list[fx.Node] = []
        for number in range(count):
            with self._graph.inserting_after(last):
                last = self._graph.placeholder(f"memory_{number}")
            no_source(last)
            made.append(last)
        return made

    def _finish(self) -> None:
        """Take the markers out, and what nothing needs."""
        for node in list(self._graph.nodes):
            if node.op == "call_function" and node.target in MARKERS:
                first = _node(node.args[0])
                instead = self._detached(first) if node.target is HELD else first
                node.replace_all_uses_with(instead)
                self._graph.erase_node(node)
        self._graph.eliminate_dead_code(is_impure_node=is_impure)
        self._graph.lint()
        self._module.recompile()


def _node(argument: Any) -> fx.Node:
    assert isinstance(argument, fx.Node)
    return argument


def _held_fixed(value: Any) -> Any:
    return value if isinstance(value, SYMBOLS) else untrack(value).detach()


def _counted(value: Tensor, precision: torch.dtype) -> Tensor:
    """Return a cost as numbers that can be differentiated by."""
    return value if value.is_floating_point() else value.to(precision)


def _weighed(cost: Tensor, weight: Tensor | None, is_picked: bool) -> Tensor:
    """Return a cost as it counts; of one that is picked, what weighs nothing may be infinite."""
    cost = cost.detach()
    if weight is None:
        return torch.zeros_like(cost)
    if is_picked:
        cost = cost.where(weight != 0, 0)
    return (cost * weight).detach()
