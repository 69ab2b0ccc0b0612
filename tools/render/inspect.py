"""Inspection: the dependency graph of any callable, from one run of it."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ancestral.estimators.gradient.loss_terms import terms_of, vertices_of
from ancestral.provenance.tensor.tensor import provenance, untrack
from ancestral.trace.graph.argument_types import check_program
from ancestral.trace.graph.graph import Graph
from ancestral.trace.graph.param_edges import params_of
from ancestral.trace.recording.record import record
from ancestral.trace.recording.trace import Trace


def graph(model: Callable[..., Any], *args: Any, noise: bool = False, **kwargs: Any) -> Graph:
    """Run a model once and return who depends on whom in it: sites, observations and costs.

    A scalar that the model returns is taken apart into its costs; any other tensor that depends
    on a draw is one cost.

    Args:
        model: what to run.
        args: its arguments.
        noise: whether the randomness without parameters is in the graph as well, which is more
            work for each op: dropout masks, `torch.rand`, shuffles, the noise of reparameterized
            draws. A model with an argument of this name is given it by position.
        kwargs: its arguments by name.

    Raises:
        TypeError: if `model` is no function, or `noise` says neither yes nor no.
        Whatever the model raises.
    """
    if isinstance(model, Trace):
        raise TypeError("graph runs a model; the graph of a trace is trace.graph")
    check_program("graph", "model", model)
    if not isinstance(noise, bool):
        raise TypeError(
            f"graph takes noise=True or noise=False, whether to show noise, not a "
            f"{type(noise).__name__}; give the model an argument of this name by position"
        )
    with record(noise=noise) as trace:
        result = model(*args, **kwargs)
        terms = [term for output in _outputs(result) for term in _terms(output)]
        found = [(term, *vertices_of([(term, term.made)])) for term in terms]
    costs = [(term.live, vertex) for term, *vertices in found for vertex in vertices]
    trace.note_costs([vertex for _, vertex in costs])
    graph = trace.graph
    names = [vertex.name for vertex in graph.vertices[len(graph.vertices) - len(costs) :]]
    lives = {name: live for name, (live, _) in zip(names, costs, strict=True)}
    named = model.named_parameters() if isinstance(model, nn.Module) else ()
    return replace(graph, params=params_of(trace.everything, named, lives))


def _terms(output: Tensor) -> Any:
    return terms_of(output, untrack(output).detach().new_ones(output.shape))[0]


def _outputs(result: Any) -> Iterator[Tensor]:
    """Yield the tensors of a result that depend on a draw."""
    if isinstance(result, Tensor):
        if provenance(result) is not None:
            yield result
    elif isinstance(result, Mapping):
        for item in result.values():
            yield from _outputs(item)
    elif isinstance(result, (tuple, list)):
        for item in result:
            yield from _outputs(item)
