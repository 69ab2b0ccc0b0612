"""Asking: the scores of a step whose baselines run at each step, in Python.

They are functions of the user, and those that learn from the draws themselves. The graph returns
the densities of the draws and the costs, as they count in the loss, beside the loss, and what the
baselines look at. What is subtracted is asked for between it and the scores, with the proof that it
does not depend on the draw, as in a recording.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import Tensor

from ancestral.estimators.compiled.step_nodes import StepNode
from ancestral.estimators.credit.credit import Credit, Estimator
from ancestral.estimators.gradient.passes import passes_of
from ancestral.estimators.gradient.problem import Problem
from ancestral.estimators.gradient.subtraction import Baselines, subtracted
from ancestral.trace.nodes.node import Node


@dataclass(frozen=True, eq=False)
class Asking:
    """What makes the scores of a step.

    `places` are the groups and sites that they count in, in the order of the densities; `at` is the
    number of the loss among the `count` outputs that are the program's own; `sites` are those that
    baselines look at, by name, whose tensors are the last outputs.
    """

    problem: Problem
    estimate: Estimator
    baselines: Callable[[Mapping[str, Node]], Baselines]
    places: Sequence[tuple[int, str]]
    at: int
    count: int
    sites: Mapping[str, StepNode]

    def __call__(self, outputs: Sequence[Any]) -> Sequence[Any]:
        """Return the outputs of the program, its loss with the derivative of its scores."""
        rest = iter(outputs)
        own, densities = _next(rest, self.count), _next(rest, len(self.places))
        costs = _next(rest, len(self.problem.terms))
        nodes = {
            name: site.given(_next(rest, 1 + len(site.names))) for name, site in self.sites.items()
        }
        loss = own[self.at]
        for density, factor in zip(densities, self._factors(costs, nodes), strict=True):
            score = (density * factor).sum().to(loss.dtype)
            loss = loss + (score - score.detach())
        own[self.at] = loss
        return tuple(own)

    def _factors(self, costs: Sequence[Tensor], nodes: Mapping[str, Node]) -> list[Tensor]:
        passes = passes_of(self.problem, self.estimate, costs)
        less = subtracted(self.problem, self.baselines(nodes), passes)
        found = {(n, each.name): each for n, part in enumerate(passes) for each in part.credits}
        return [
            factor_of(self.problem.nodes[place[1]], found[place], less.get(place))
            for place in self.places
        ]


def _next(outputs: Iterator[Any], count: int) -> list[Any]:
    return [*islice(outputs, count)]


def factor_of(node: Node, credit: Credit, less: Tensor | None) -> Tensor:
    """Return what the score of a site is multiplied with."""
    if tuple(node.score.shape) == node.shape:
        return (credit.total if less is None else credit.total - less).detach()
    joint = credit.joint  # a density of another shape says nothing of elements: the draw is one
    return (joint if less is None else joint - less.mean()).detach()


def put_around(code: Callable[..., Any], asking: Asking | None) -> Callable[..., Any]:
    """Return code whose outputs have their scores."""
    if asking is None:
        return code
    asked = asking
    return lambda *inputs: asked(code(*inputs))
