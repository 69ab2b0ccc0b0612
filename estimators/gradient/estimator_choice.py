"""Pathwise or score function: the choice of estimator for each reparameterized site, term by term.

        pathwise         ∇ E[c(z)] = E[ c'(z) ∇z ],   z = g(ε, θ)
        score function   ∇ E[c(z)] = E[ c(z) ∇ log q(z) ]

The first is wrong where c has a step without a useful derivative, a kink: E[c'(z)] misses what the
step jumps by. The second needs a density only, and the same draw serves both, for the value is
drawn from q either way: the gradient through the value is shut out, and the score takes its place.
Since a loss is a sum of terms, a site may be scored for those behind a kink and be pathwise for the
others.
Mohamed, Rosca, Figurnov and Mnih (2020), "Monte Carlo gradient estimation in machine learning",
sections 4 and 5.
"""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from ancestral.estimators.credit.credit import Estimator, by_element
from ancestral.estimators.gradient.problem import Problem
from ancestral.provenance.algebra.provenance import Source
from ancestral.trace.context.argument_checks import kind_of, short
from ancestral.trace.context.place import stacklevel
from ancestral.trace.graph.reachability import TermSet
from ancestral.trace.graph.structure import Structure
from ancestral.trace.nodes.node import Node

Choice = Estimator | Literal["auto", "pathwise", "score"]
"""The costs that each site is given credit for, or how reparameterized sites get their gradient."""


class KinkWarning(UserWarning):
    """The pathwise gradient of a site is biased."""

    def __init__(self, node: Node, kink: Source | None) -> None:
        """Name the site, and the step that has no useful derivative: the draw itself, if None."""
        why = (
            f"one of finitely many values, by {type(node.fn).__name__}"
            if kink is None
            else "and its value reaches a cost through a step without a useful derivative, "
            + kink.name
        )
        super().__init__(
            f"site {node.name!r} ({node.location}) is drawn with rsample, {why}: its pathwise "
            "gradient is biased; leave estimator='auto', which uses its score function, or soften "
            "the step"
        )


def chosen(problem: Problem, choice: Choice) -> tuple[Problem, Estimator]:
    """Return the problem with each reparameterized site decided, and the estimator of credit.

    Raises:
        ValueError: if `choice` is none.
    """
    stepped: dict[str, Source | None] = {**problem.kinks, **dict.fromkeys(_discrete(problem))}
    needed = {name: problem.partly.get(name) if kink else None for name, kink in stepped.items()}
    if getattr(choice, "is_proven", False):
        raise ValueError(f"{kind_of(choice)} is a baseline: pass it as baseline=, not estimator=")
    if callable(choice):
        return _decided(problem, needed), choice
    if choice == "auto":
        return _decided(problem, needed), by_element
    if choice == "score":
        return _decided(problem, dict.fromkeys(problem.nodes)), by_element
    if choice == "pathwise":
        for name, kink in stepped.items():
            node = problem.nodes[name]
            if node.is_learned:
                warnings.warn(KinkWarning(node, kink), stacklevel=stacklevel())
        return _decided(problem, {}), by_element
    raise ValueError(
        f"estimator must be 'auto', 'pathwise', 'score' or a function of credit such as "
        f"an.estimators.by_element, not {short(choice)}"
    )


def _discrete(problem: Problem) -> list[str]:
    """Return the sites whose rsample gives finitely many values: a straight-through estimator."""
    return [
        node.name
        for node in problem.nodes.values()
        if node.is_reparameterized
        and getattr(getattr(node.fn, "support", None), "is_discrete", False)
    ]


def _decided(problem: Problem, needed: Mapping[str, TermSet | None]) -> Problem:
    """Let sites have a score: for some terms, or for all, where the gate of the site is shut."""
    scored: dict[str, TermSet | None] = {}
    for node in problem.nodes.values():
        if node.is_reparameterized:
            if node.is_learned and node.name in needed:
                scored[node.name] = needed[node.name]
            if node.gate is not None:
                node.gate.is_shut = node.name in scored and scored[node.name] is None
    if not scored:
        return replace(problem, partly={})
    sites = tuple(
        replace(site, needs_score=site.needs_score or site.name in scored)
        for site in problem.structure.sites
    )
    partly = {name: terms for name, terms in scored.items() if terms is not None}
    return replace(problem, structure=Structure(sites, problem.structure.terms), partly=partly)
