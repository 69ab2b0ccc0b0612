"""Randomness of a captured graph: the draws of torch's own random functions.

What a distribution does inside its draw is behind a marker. A random function of torch that the
user called gets one here, with the density that a recording would give it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.distributions import Bernoulli, Binomial, Categorical, Distribution, Normal, Poisson

from ancestral.estimators.capture import markers
from ancestral.estimators.capture.markers import HELD, SITE
from ancestral.estimators.capture.refusal import frames_of
from ancestral.provenance.tensor.torch_internals import set_grad_enabled
from ancestral.trace.intercept.random_ops import WithoutReplacement


def _of(fn: Distribution, value: Tensor) -> Tensor:
    density: Tensor = fn.log_prob(value)
    return density


def _bernoulli(value: Tensor, probs: Tensor) -> Tensor:
    return _of(Bernoulli(probs=probs, validate_args=False), value)


def _multinomial(value: Tensor, weights: Tensor, draws: int, replacement: bool = False) -> Tensor:
    if draws != 1 and not replacement:
        return WithoutReplacement(weights, draws).log_prob(value)
    rows = weights.unsqueeze(-2).expand(*weights.shape[:-1], draws, weights.shape[-1])
    return _of(Categorical(probs=rows, validate_args=False), value)


def _normal(value: Tensor, mean: Any, std: Any = 1.0) -> Tensor:
    return _of(Normal(mean, std, validate_args=False), value)


def _poisson(value: Tensor, rate: Tensor) -> Tensor:
    return _of(Poisson(rate, validate_args=False), value)


def _binomial(value: Tensor, count: Tensor, probs: Tensor) -> Tensor:
    return _of(Binomial(count, probs, validate_args=False), value)


_DENSITIES: dict[Any, tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    torch.bernoulli: (_bernoulli, ("input",)),
    torch.multinomial: (_multinomial, ("input", "num_samples", "replacement")),
    torch.normal: (_normal, ("mean", "std")),
    torch.poisson: (_poisson, ("input",)),
    torch.binomial: (_binomial, ("count", "prob")),
    "bernoulli": (_bernoulli, ("input",)),
    "multinomial": (_multinomial, ("input", "num_samples", "replacement")),
}


DRAWS = frozenset({*_DENSITIES, "bernoulli_"})
"""The random functions of torch that are given parameters, and the names of such methods."""
_IS_MARKED = "ancestral.is_marked"


def is_within_draw(node: fx.Node) -> bool:
    """Return whether a node is part of what a distribution does to draw."""
    return _IS_MARKED in node.meta or any(
        frame.function == "drawn" and frame.filename == markers.__file__
        for frame in frames_of(node)
    )


def mark_plain_draws(graph: fx.Graph) -> None:
    """Put a marker behind each draw of torch's random functions that is given parameters.

    What it does not know is left as it is, and is refused where a score is needed.
    """
    for node in list(graph.nodes):
        if node.op == "call_method" and node.target == "bernoulli_":
            _draw_apart(graph, node)
    has_gradient = True
    for node in list(graph.nodes):
        if node.target is set_grad_enabled:
            has_gradient = bool(node.args[0])
        is_call = node.op in ("call_function", "call_method")
        if not is_call or node.target not in _DENSITIES or is_within_draw(node):
            continue
        density, names = _DENSITIES[node.target]
        given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        given.pop("generator", None)
        tensors = [given.get(name) for name in names if isinstance(given.get(name), fx.Node)]
        if len(node.args) > len(names) or not given.keys() <= {*names} or not tensors:
            continue
        _mark(graph, node, density, tuple(given[name] for name in names if name in given))
        if not has_gradient:
            _with_gradient(graph, node)


def _draw_apart(graph: fx.Graph, node: fx.Node) -> None:
    """Let what a tensor is filled with be drawn first, and then be written into it."""
    given = dict(zip(("self", "p"), node.args, strict=False)) | node.kwargs
    filled, probs = given.pop("self"), given.pop("p", None)
    if given or not isinstance(filled, fx.Node) or not isinstance(probs, fx.Node):
        return  # coins of one number, or of another generator: they have no score
    with graph.inserting_before(node):
        probs = graph.call_method("expand_as", (probs, filled))
        value = graph.call_function(torch.bernoulli, (probs,))
        write = graph.call_method("copy_", (filled, value))
    for made in (probs, value, write):
        made.meta["stack_trace"] = node.meta.get("stack_trace")
    node.replace_all_uses_with(filled)
    graph.erase_node(node)


def _mark(
    graph: fx.Graph, node: fx.Node, density: Callable[..., Tensor], given: tuple[Any, ...]
) -> None:
    users = list(node.users)
    with graph.inserting_after(node):
        held = graph.call_function(HELD, (node,))
    with graph.inserting_after(held):
        log_prob = graph.call_function(density, (held, *given))
    with graph.inserting_after(log_prob):
        site = graph.call_function(SITE, (node, log_prob))
    for made in (held, log_prob, site):
        made.meta["stack_trace"] = node.meta.get("stack_trace")
    node.meta[_IS_MARKED] = True
    for user in users:
        user.replace_input_with(node, site)


def _with_gradient(graph: fx.Graph, node: fx.Node) -> None:
    """Let the density that was just put behind a draw have a gradient, under no_grad too."""
    with graph.inserting_after(node):
        graph.call_function(set_grad_enabled, (True,))
    with graph.inserting_after(node.next.next.next.next):
        graph.call_function(set_grad_enabled, (False,))
