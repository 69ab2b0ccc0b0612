"""Autograd graph: the nodes that log-densities come out of, and the leaves below them."""

import re
from collections.abc import Callable, Collection, Container, Iterable, Iterator
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.distributions import Distribution

from ancestral.provenance.algebra.provenance import Source, Universe
from ancestral.provenance.tensor.arguments import tensors_in
from ancestral.provenance.tensor.tensor import raw
from ancestral.provenance.tensor.torch_internals import (
    DisableTorchDispatch,
    DisableTorchFunction,
    read_history,
)
from ancestral.trace.nodes.distribution_params import parameters

# The steps that a density is made of, and those that gather densities into a loss.
STEPS = frozenset(
    "abs add alias as_strided cat clamp clamp_max clamp_min clone cumprod cumsum diagonal exp "
    "expand expm1 flip index_put lgamma log log10 log1p log2 log_sigmoid log_softmax logcumsumexp "
    "logsumexp masked_fill masked_scatter max maximum mean min minimum mvlgamma neg nan_to_num "
    "permute pow prod reciprocal repeat reshape_alias roll rsqrt rsub select sigmoid slice softmax "
    "softplus split split_with_sizes sqrt squeeze stack sub sum t to_copy transpose unbind "
    "unfold unsafe_split unsafe_view unsqueeze view where s_where".split()
)
# Those that take a draw as what is scored, by what they keep of it; of draws with a density, others
OF_LABELS = frozenset(
    "binary_cross_entropy binary_cross_entropy_with_logits gather index index_select masked_select "
    "nll_loss nll_loss2d nll_loss_nd take xlogy".split()
)
OF_DISTANCES = frozenset("abs huber_loss l1_loss mse_loss pow smooth_l1_loss".split())
PRODUCTS = frozenset("addcdiv addcmul div dot lerp mul mv where s_where".split())
LOGARITHMS = frozenset("log log1p log_sigmoid log_softmax logsumexp softplus".split())
POOLING = frozenset({"logsumexp", "max", "amax"})  # of weights, say
_REDUCTIONS = frozenset({"sum", "mean"})
_SCALINGS = frozenset("div mul squeeze unsqueeze view reshape_alias".split())
_DRAWS = frozenset("bernoulli binomial multinomial normal poisson".split())
CONTRACTIONS = frozenset({"bmm", "mm"})  # of weights too: no step of a density
PASSED = STEPS | OF_LABELS | OF_DISTANCES | PRODUCTS | CONTRACTIONS


def history(tensor: Tensor) -> Any:
    """Return the node of autograd's graph that a tensor came out of, None where there is none."""
    return raw(read_history, tensor)


_KEY = "ancestral: the density of"


def edge_of(tensor: Tensor) -> Any:
    """Return the node of autograd's graph that the gradient of a tensor goes to, None for none.

    A view that was made under `torch.no_grad` requires a gradient, if what it is a view of does,
    and lets none through.
    """
    with DisableTorchFunction():
        if tensor.grad_fn is not None or not tensor.requires_grad:
            return tensor.grad_fn
        with torch.inference_mode(False), torch.enable_grad():
            step = tensor.view_as(tensor).grad_fn
        return None if step is None else step.next_functions[0][0]


def has_gradient(held: Iterable[tuple[Tensor, int]]) -> bool:
    """Return whether a gradient goes through any of some tensors, the first of each pair."""
    with DisableTorchFunction():
        found: list[Tensor] = []
        are_sure = True
        for tensor, _ in held:
            if _requires_grad(tensor):
                found.append(tensor)
                # Asked for each draw: what can end at a view of no_grad is looked at then only.
                are_sure = are_sure and not (_is_leaf(tensor) and tensor._is_view())
    return bool(found) if are_sure else any(is_learned(tensor) for tensor in found)


# Torch's own, which know of no class.
_requires_grad: Any = Tensor.requires_grad.__get__  # type: ignore[attr-defined]
_is_leaf: Any = Tensor.is_leaf.__get__  # type: ignore[attr-defined]


def mark_density(density: Tensor, universe: Universe, draws: Iterable[Source]) -> None:
    """Let the node that a log-density came out of tell at which draws it was taken."""
    node = history(density)
    if node is not None:
        # Names alone: a node that referred to a recording would keep it alive, in a circle that
        # Python's collector does not see.
        node.metadata[_KEY] = (universe.token, tuple([source.name for source in draws]))


def scored_by(node: Any, universe: Universe) -> tuple[str, ...] | None:
    """Return the names of the draws at which a node is a log-density, None where it is none."""
    token, names = node.metadata.get(_KEY, (None, None))
    return names if token == universe.token else None


_SHARE = "ancestral: the share of"


def mark_share(density: Tensor, held: Iterable[Tensor]) -> None:
    """Let the node of a log-density that was computed with others tell what its own was made of."""
    node = history(density)
    if node is not None:
        with DisableTorchFunction():
            made_of = [(edge_of(tensor), tensor.output_nr) for tensor in held]
        node.metadata[_SHARE] = tuple([edge for edge in made_of if edge[0] is not None])


def below(node: Any) -> Iterable["Edge"]:
    """Return the edges that a gradient goes on by, those of its own share from a shared node."""
    found: Iterable[Edge] | None = node.metadata.get(_SHARE)
    return node.next_functions if found is None else found


class Origin:
    """The nodes of the graph that the parameters of a distribution come out of."""

    def __init__(self, fn: Distribution | None) -> None:
        self._starts = [
            edge
            for tensor, _ in (() if fn is None else parameters(fn))
            if (edge := edge_of(tensor)) is not None
        ]

    @cached_property
    def near(self) -> set[Any]:
        """The nodes from the parameters down to the first that is no step of a density."""
        return set(visited(self._starts, PASSED))

    @cached_property
    def leaves(self) -> set[Any]:
        """The leaves that they are computed from."""
        return leaves_of(self._starts)


Edge = tuple[Any, int]
"""A node of autograd's graph, and the number of that of its results which a gradient goes to."""


def visited(
    starts: Iterable[Any], passed: Container[str] | None, shut: Collection[Edge] = ()
) -> Iterator[Any]:
    """Yield nodes, and those below them: below all, or below those of some steps.

    Nothing is looked for beyond the edges that are `shut`.
    """
    seen: dict[Any, None] = {}
    pending = list(starts)
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen[node] = None  # keeps it alive, so that it stays the same object
            yield node
            if passed is None or step_of(node) in passed:
                pending.extend(edge[0] for edge in node.next_functions if edge not in shut)


def nodes_of(outputs: Any) -> dict[Any, None]:
    """Return the nodes of the graph of some tensors, those of leaves included."""
    seen: dict[Any, None] = {}
    pending: list[Any] = [edge_of(tensor) for tensor in tensors_in(outputs)]
    while pending:
        node = pending.pop()
        if node is not None and node not in seen:
            seen[node] = None
            pending += [following for following, _ in node.next_functions]
    return seen


def leaves_of(starts: Iterable[Any], shut: Collection[Edge] = ()) -> set[Any]:
    """Return the leaves among nodes, and below them, but for those beyond edges that are `shut`."""
    return {node for node in visited(starts, None, shut) if hasattr(node, "variable")}


def is_cut(value: Tensor, held: Iterable[Tensor], density: Callable[[], Tensor | None]) -> bool:
    """Return whether a density depends on what is learned by ways on which the value does not.

    Args:
        value: the draw, by whose gradient all is learned.
        held: the parameters, or what else may be among them.
        density: returns the log-density, the value held fixed, None if there is none.
    """
    ends = {edge for tensor in held if tensor.requires_grad for edge in _edges_of(tensor)}
    if ends <= _met(value, ends, ends):  # near by, mostly
        return False
    passed = _met(value, ends, ())
    if ends <= passed or (scored := density()) is None:
        return False
    return bool(leaves_of([node for node, _ in _met(scored, ends, ends) - passed], passed))


def _edges_of(tensor: Tensor) -> list[Edge]:
    """Return the edge that the gradient of a tensor goes to, if there is one."""
    if edge_of(tensor) is None:
        return []
    with DisableTorchFunction():
        edge = get_gradient_edge(tensor)
    return [(edge.node, edge.output_nr)]


def _met(tensor: Tensor, ends: set[Edge], shut: Collection[Edge]) -> set[Edge]:
    """Return which of some edges the gradient of a tensor goes to, not beyond those `shut`."""
    seen: dict[Edge, None] = {}
    pending = _edges_of(tensor)
    while pending:
        edge = pending.pop()
        if edge[0] is not None and edge not in seen:
            seen[edge] = None
            if edge not in shut:
                pending.extend(edge[0].next_functions)
    return ends & seen.keys()


def is_learned(tensor: Tensor) -> bool:
    """Return whether a gradient of a tensor reaches a leaf, other than through a draw of torch's.

    >>> is_learned(torch.bernoulli(torch.full((2,), 0.5, requires_grad=True)))
    False
    """
    start = history(tensor)
    if start is None or step_of(start) in _DRAWS:
        return start is None and edge_of(tensor) is not None
    seen: set[Any] = set()
    pending = [start]
    while pending:
        node = pending.pop()
        if hasattr(node, "variable"):
            return True
        if node not in seen and step_of(node) not in _DRAWS:
            seen.add(node)
            pending.extend(child for child, _ in node.next_functions if child is not None)
    return False


def is_of_sum(node: Any) -> bool:
    """Return whether what a node takes is a sum, or a mean, but for a constant factor."""
    while node is not None:
        node = node.next_functions[0][0] if node.next_functions else None
        step = "" if node is None else step_of(node)
        if step in _REDUCTIONS:
            return True
        if step not in _SCALINGS:
            return False
    return False


def step_of(node: Any) -> str:
    """Return the op whose node this is.

    >>> step_of(torch.ones(2, requires_grad=True).log_softmax(0).grad_fn)
    'log_softmax'
    """
    return _spelt(node.name())


@lru_cache(maxsize=1024)
def _spelt(name: str) -> str:
    camel = re.sub(r"Backward\d*(_copy)?$", "", name)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", camel).lower()


def kept_by(node: Any) -> Iterator[Tensor]:
    """Yield the tensors that autograd keeps for a node, none where they are freed."""
    kind: Any = type(node)
    for name in _slots(kind):
        kept = saved_by(node, name)
        held = kept if isinstance(kept, tuple | list) else (kept,)
        yield from (item for item in held if isinstance(item, Tensor))


def saved_by(node: Any, name: str) -> Any:
    """Return what autograd keeps for a node by this name, None where it is freed, or nothing."""
    try:
        with DisableTorchDispatch():  # an auditor has nothing to learn of what is looked at
            return getattr(node, name, None)
    except RuntimeError:
        return None


@lru_cache(maxsize=1024)
def _slots(kind: Any) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if name.startswith("_saved_"))
