"""Emission: the scores of a loss, each with its credit, put into the captured graph of the loss.

        out = L + (S - ⊥(S)),   S = Σ_i Σ_s log q(z_i[s]) · ⊥(C_i[s] - b_i[s])

Credits and baselines are computed by the library's own functions, traced once: the graph that comes
out has as many ops as one by hand. The weight of each cost is the derivative of the part of the
loss that is linear in the costs. ⊥ holds a value fixed.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ancestral.estimators.compiled.analysis import Analysis
from ancestral.estimators.compiled.markers import HELD, MARKERS
from ancestral.estimators.compiled.refusal import Refusal
from ancestral.estimators.gradient.subtraction import Baselines, Subtraction
from ancestral.estimators.gradient.term_groups import groups_of
from ancestral.provenance.tensor.tensor import untrack
from ancestral.provenance.tensor.torch_internals import compiler, tree_leaves

_OUT_OF_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    "add_": "add",
    "sub_": "sub",
    "mul_": "mul",
    "div_": "div",
}


def emit(module: fx.GraphModule, analysis: Analysis, baseline: Baselines) -> fx.GraphModule:
    """Put the scores of a loss into its graph, and take the markers out.

    Raises:
        Refusal: if a score, or what is subtracted for it, cannot be part of the graph.
    """
    emission = _Emission(module, analysis, baseline)
    emission.run()
    return module


class _Emission:
    def __init__(self, module: fx.GraphModule, analysis: Analysis, baseline: Baselines) -> None:
        self._module, self._graph = module, module.graph
        self._analysis, self._problem = analysis, analysis.problem
        self._baseline = baseline
        self._output = next(node for node in module.graph.nodes if node.op == "output")
        (returned,) = self._output.args
        self._is_tuple = isinstance(returned, tuple | list)
        self._loss: fx.Node = returned[0] if self._is_tuple else returned

    def run(self) -> None:
        """Change the graph."""
        problem = self._problem
        groups = groups_of(problem)
        if problem.partly or any(group.held for group in groups):
            raise Refusal("a draw of rsample has its score for some of the terms only")
        found = zip(self._analysis.terms, problem.terms, strict=True)
        known = [(node, term) for node, term in found if node is not None]
        tail = _Tail(self._module, self._loss, [node for node, _ in known])
        (group,) = groups
        owned = [node for node, term in known if any(term is each for each in group.owned)]
        names, made = self._credits(tail, group)
        score: fx.Node | None = None
        with self._graph.inserting_before(self._output):
            for name, credit in zip(names, made, strict=True):
                density = self._analysis.sites[name].args[1]
                part = self._score(name, density, credit)
                score = part if score is None else self._call(operator.add, score, part)
        for node in owned:
            self._hold(node, tail.nodes)
        scored = {site.name for site in problem.structure.sites if site.needs_score}
        for name, site in self._analysis.sites.items():
            if name in scored and problem.nodes[name].is_reparameterized:
                self._hold(site, None)
        if score is not None:
            with self._graph.inserting_before(self._output):
                dtype = problem.loss.dtype
                score = self._graph.call_method("to", (score, dtype))
                constant = self._graph.call_method("detach", (score,))
                nothing = self._call(operator.sub, score, constant)
                total = self._call(operator.add, self._loss, nothing)
            self._output.args = ((total,),) if self._is_tuple else (total,)
        self._finish()

    def _call(self, function: Callable[..., Any], *args: Any) -> fx.Node:
        return self._graph.call_function(function, args)

    def _score(self, name: str, density: Any, credit: fx.Node) -> fx.Node:
        product = self._call(operator.mul, density, credit)
        return self._graph.call_method("sum", (product,))

    def _hold(self, node: fx.Node, users: frozenset[fx.Node] | None) -> None:
        """Let some users of a node, or all, see a constant."""
        with self._graph.inserting_after(node):
            held = self._graph.call_method("detach", (node,))
        for user in list(node.users):
            if user is not held and user.target is not HELD and (users is None or user in users):
                user.replace_input_with(node, held)

    def _credits(self, tail: "_Tail", group: Any) -> tuple[list[str], list[fx.Node]]:
        """Return the sites that get a score, and for each what it is multiplied with."""
        problem, values = self._problem, self._analysis.values
        linear = tail.as_function()
        others = [node for node in tail.others if isinstance(values[node], Tensor)]
        constants = {node: values[node] for node in tail.others if node not in others}
        if any(isinstance(x, Tensor) for x in tree_leaves(list(constants.values()))):
            raise Refusal("the loss is made of a list of tensors that the graph keeps as one")
        subtraction = Subtraction(problem, self._baseline)
        count, names = len(tail.terms), list[str]()
        precision = problem.loss.dtype

        def factors(*given: Tensor) -> list[Tensor]:
            costs = [
                _counted(value, precision).detach().requires_grad_() for value in given[:count]
            ]
            known = dict(zip(others, given[count:], strict=True)) | constants
            loss = linear(*costs, *(known[node] for node in tail.others))
            weights = torch.autograd.grad(loss.sum(), costs, allow_unused=True)
            found = dict(zip(tail.terms, zip(costs, weights, strict=True), strict=True))
            weighed = [
                term.value if node is None else _weighed(*found[node], term.is_picked)
                for node, term in zip(self._analysis.terms, problem.terms, strict=True)
            ]
            results = []
            names.clear()
            for credit in group.credits(self._analysis.estimate, weighed):
                less = subtraction.of(credit)
                node = problem.nodes[credit.name]
                if tuple(node.score.shape) == node.shape:
                    total = credit.total if less is None else credit.total - less
                else:
                    total = credit.joint if less is None else credit.joint - less.mean()
                names.append(credit.name)
                results.append(total.detach())
            return results

        with torch.enable_grad():
            traced = compiler().make_fx(factors)(
                *[untrack(values[node]).detach() for node in (*tail.terms, *others)]
            )
        traced.graph.eliminate_dead_code()
        return names, self._inlined(traced, [*tail.terms, *others])

    def _inlined(self, traced: fx.GraphModule, given: Sequence[fx.Node]) -> list[fx.Node]:
        """Copy a traced graph to the end of this one, its arguments being held fixed."""
        placeholders = [node for node in traced.graph.nodes if node.op == "placeholder"]
        copies: dict[fx.Node, Any] = {}
        with self._graph.inserting_before(self._output):
            for placeholder, node in zip(placeholders, given, strict=True):
                if placeholder.users:
                    copies[placeholder] = self._graph.call_method("detach", (node,))
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
        name = f"_credit_{len(dict(self._module.named_buffers()))}"
        self._module.register_buffer(name, value, persistent=False)
        return self._graph.get_attr(name)

    def _finish(self) -> None:
        """Take the markers out, and what nothing needs."""
        for node in list(self._graph.nodes):
            if node.op == "call_function" and node.target in MARKERS:
                if node.target is HELD:
                    with self._graph.inserting_before(node):
                        instead = self._graph.call_method("detach", (node.args[0],))
                else:
                    instead = node.args[0]
                node.replace_all_uses_with(instead)
                self._graph.erase_node(node)
        self._graph.eliminate_dead_code(is_impure_node=_is_impure)
        self._graph.lint()
        self._module.recompile()


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


def _is_impure(node: fx.Node) -> bool:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    is_write = name.endswith("_") and not name.endswith("__")
    is_operator = node.target in _OUT_OF_PLACE or node.target is operator.setitem
    return node.is_impure() or is_write or is_operator or "out" in node.kwargs


class _Tail:
    """The nodes between the terms of a loss and the loss, which is linear in the terms.

    `others` are what they are computed of besides.
    """

    def __init__(self, module: fx.GraphModule, loss: fx.Node, terms: Sequence[fx.Node]) -> None:
        self._module, self._loss = module, loss
        self.terms = list(dict.fromkeys(terms))
        if len(self.terms) != len(terms):
            raise Refusal("two costs of the loss are one value of the graph")
        ends = frozenset(self.terms)
        nodes: set[fx.Node] = set()
        met = set[fx.Node]()
        above = _descendants(self.terms)
        pending = [loss]
        while pending:
            node = pending.pop()
            if node in ends:
                met.add(node)
            elif node in above and node not in nodes:
                nodes.add(node)
                pending.extend(node.all_input_nodes)
        if met != ends:
            raise Refusal.of(
                next(iter(ends - met)), "a cost reaches the loss by a write into memory"
            )
        self.nodes = frozenset(nodes)
        self._ordered = [node for node in module.graph.nodes if node in nodes]
        self.others = list(
            dict.fromkeys(
                node
                for each in self._ordered
                for node in each.all_input_nodes
                if node not in nodes and node not in ends
            )
        )

    def as_function(self) -> fx.GraphModule:
        """Return the loss as a function of the terms and of the others, without writes."""
        graph = fx.Graph()
        copies = {node: graph.placeholder(node.name) for node in (*self.terms, *self.others)}
        for node in self._ordered:
            copy = copies[node] = graph.node_copy(node, copies.__getitem__)
            if copy.target in _OUT_OF_PLACE:
                copy.target = _OUT_OF_PLACE[copy.target]
            elif _is_impure(copy):
                raise Refusal.of(node, "the loss is summed by a write into memory")
        graph.output(copies[self._loss])
        return fx.GraphModule(self._module, graph)


def _descendants(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    pending = list(nodes)
    while pending:
        for user in pending.pop().users:
            if user not in found:
                found.add(user)
                pending.append(user)
    return found
