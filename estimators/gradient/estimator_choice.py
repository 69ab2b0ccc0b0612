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
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import Credit, Estimator, by_element
from ancestral.estimators.credit.site_choices import Choices, PerSite
from ancestral.estimators.gradient.problem import Partly, Problem
from ancestral.provenance.algebra.provenance import Source
from ancestral.provenance.tensor.torch_internals import detach
from ancestral.trace.context.argument_checks import kind_of, short
from ancestral.trace.context.place import stacklevel
from ancestral.trace.graph.structure import Structure
from ancestral.trace.nodes.distribution_params import family_name
from ancestral.trace.nodes.node import Node
from ancestral.trace.nodes.support import is_discrete, support_of

Choice = Literal["auto", "pathwise", "score"]
"""How a reparameterized site gets its gradient; "auto" is pathwise where that is unbiased."""


class KinkWarning(UserWarning):
    """The pathwise gradient of a site is biased."""


def chosen(
    problem: Problem, estimator: PerSite[Choice], credit: PerSite[Estimator]
) -> tuple[Problem, Estimator]:
    """Return the problem with each reparameterized site decided, and the estimator of credit.

    Raises:
        ValueError: if one of `estimator` is none.
        TypeError: if one of `credit` is no function.
    """
    if estimator == "auto" and credit is by_element and not problem.kinks:
        for node in problem.nodes.values():
            if node.is_reparameterized or node.infer or node.gate is not None:
                break
        else:
            return problem, by_element  # what most have: no site asks for anything
    stepped: dict[str, Source | None] = {**problem.kinks, **dict.fromkeys(_rough(problem))}
    choices = Choices("estimator", estimator, "auto")
    for each in choices.values():
        _check(each, "")
    choices.warn_of_unused(problem.nodes)
    needed: dict[str, Partly | None] = {}
    for node in problem.nodes.values():
        if node.is_reparameterized and node.is_learned:
            choice, kink = choices.of(node), stepped.get(node.name)
            _check(choice, f"site {node.name!r} ({node.location}): ")
            if choice == "score" or (choice == "auto" and node.name in stepped):
                is_whole = choice == "score" or kink is None
                needed[node.name] = None if is_whole else problem.partly.get(node.name)
            elif node.name in stepped:
                _warn_of_kink(node, kink)
            else:
                _warn_of_whole(node)
    problem = _decided(problem, needed)
    return problem, _crediting(problem, credit)


def _warn_of_kink(node: Node, kink: Source | None) -> None:
    if kink is not None:
        why = "and its value reaches a cost through a step without a useful derivative, "
        why += kink.name
    elif is_discrete(node.fn):
        why = f"one of finitely many values, by {family_name(node.fn)}"
    else:
        why = f"by {family_name(node.fn)}, which detaches some of what its density depends on"
    warnings.warn(
        KinkWarning(
            f"site {node.name!r} ({node.location}) is drawn with rsample, {why}: its pathwise "
            "gradient is biased; leave estimator='auto', which uses its score function, or soften "
            "the step"
        ),
        stacklevel=stacklevel(),
    )


def _check(choice: object, where: str) -> None:
    """Raise unless a choice is one."""
    if choice in ("auto", "pathwise", "score"):
        return
    hint = ""
    if getattr(choice, "is_proven", False):
        hint = "; a baseline is passed as baseline="
    elif callable(choice):
        hint = (
            "; which costs count is said with credit=, and an estimator that runs the program "
            "again is one of an.estimate"
        )
    raise ValueError(
        f"{where}estimator must be 'auto', 'pathwise' or 'score', not {short(choice)}{hint}"
    )


def _crediting(problem: Problem, credit: PerSite[Estimator]) -> Estimator:
    """Return the function that gives each site the credit that is chosen for it."""
    choices = Choices("credit", credit, by_element)
    choices.warn_of_unused(problem.nodes)
    of_site = {
        v.name: choices.of(problem.nodes[v.name]) for v in problem.structure.sites if v.needs_score
    }
    for each in (*choices.values(), *of_site.values()):
        if not callable(each) or getattr(each, "is_proven", False):
            raise TypeError(
                "credit must be a function of structure and costs, such as "
                f"an.estimators.by_element, not {kind_of(each)}"
            )
    functions = list(dict.fromkeys(of_site.values())) or [by_element]
    if len(functions) == 1:
        return functions[0]

    def mixed(structure: Structure, values: Sequence[Tensor]) -> list[Credit]:
        found = ((each, credit) for each in functions for credit in each(structure, values))
        return [credit for each, credit in found if of_site[credit.name] is each]

    return mixed


def _rough(problem: Problem) -> list[str]:
    """Return the sites whose rsample is not differentiable in all that is learned, for any cost.

    It gives finitely many values, a straight-through estimator, or is cut off from some of it.
    """
    return [
        node.name
        for node in problem.nodes.values()
        if node.is_reparameterized and node.is_learned and (is_discrete(node.fn) or node.is_cut)
    ]


def _warn_of_whole(node: Node) -> None:
    """Warn of a draw that may be one of finitely many, of a class that does not tell.

    It is taken for continuous, as ``has_rsample`` says. A continuous one is not whole by chance,
    but zero where it is cut off there (a rectified Normal).
    """
    if node.fn is None or support_of(node.fn) is not None:
        return
    value = detach(node.value)
    atol = 8 * torch.finfo(value.dtype).eps
    if not value.any() or not torch.allclose(value, value.round(), rtol=0, atol=atol):
        return
    kind = type(node.fn).__name__
    warnings.warn(
        KinkWarning(
            f"site {node.name!r} ({node.location}) is drawn with rsample, by {kind}, which states "
            "no support, and came out in whole numbers: if these are all that it can be, its "
            f"pathwise gradient is biased; state in {kind} what it can be, as support = "
            "constraints.integer for the score function, constraints.real for the pathwise "
            "gradient, or pass estimator='score'"
        ),
        stacklevel=stacklevel(),
    )


def _decided(problem: Problem, needed: Mapping[str, Partly | None]) -> Problem:
    """Let sites have a score: for some terms, or for all, where the gate of the site is shut."""
    for node in problem.nodes.values():
        if node.gate is not None:
            node.gate.is_shut = node.name in needed and needed[node.name] is None
    sites = tuple(
        replace(site, needs_score=True) if site.name in needed else site
        for site in problem.structure.sites
    )
    structure = Structure(sites, problem.structure.terms) if needed else problem.structure
    partly = {name: terms for name, terms in needed.items() if terms is not None}
    return replace(problem, structure=structure, partly=partly)
