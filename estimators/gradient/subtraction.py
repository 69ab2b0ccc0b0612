"""Subtraction of a baseline, with a proof that it does not depend on the draw it is subtracted for.

What a baseline is given carries its provenance, and so does whatever else of the recording it can
reach. If the draw, or what is downstream of it, reaches the result, E[∇ log q(z) · b] is not zero,
and the result is refused.
"""

import itertools
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ancestral.estimators.baselines.leave_one_out import predicted
from ancestral.estimators.credit.credit import Baseline, Credit, Part
from ancestral.estimators.credit.site_choices import Choices, PerSite
from ancestral.estimators.gradient.partial_credit import merged
from ancestral.estimators.gradient.passes import Pass
from ancestral.estimators.gradient.problem import Problem
from ancestral.provenance.algebra.alignment import Alignment, Shape
from ancestral.provenance.algebra.provenance import Provenance, Source, Universe
from ancestral.provenance.tensor import storage as watching
from ancestral.provenance.tensor.control_flow import decisions_of, recording
from ancestral.provenance.tensor.tensor import attach, provenance, untrack
from ancestral.provenance.tensor.torch_internals import detach
from ancestral.trace.context.argument_checks import kind_of
from ancestral.trace.context.errors import SiteError
from ancestral.trace.context.stack import local
from ancestral.trace.nodes.distribution_params import is_of_torch
from ancestral.trace.nodes.node import Node


class BaselineError(SiteError):
    """A baseline is none: it is of a wrong type or shape, or not finite."""


def _wrong(node: Node, problem: str) -> BaselineError:
    """Return the error of a baseline, with its site and line."""
    return BaselineError(f"site {node.name!r} ({node.location}): its baseline{problem}")


class DependentBaselineError(BaselineError):
    """A baseline depends on the very draw that it is subtracted for."""


def _dependent(node: Node, baseline: object, why: str) -> DependentBaselineError:
    """Return the error of a baseline, with its site and line, and how the draw reaches it."""
    code = getattr(baseline, "__code__", None)
    line = "" if code is None else f", {code.co_filename}:{code.co_firstlineno},"
    return DependentBaselineError(
        f"site {node.name!r} ({node.location}): its baseline{line} depends on the very draw that "
        f"it is subtracted for, {why}: the gradient would be biased; use "
        "an.estimators.LeaveOneOut() or credit.of_others(dim), the mean over the other elements, "
        "element by element; an.estimators.RunningMean(), that of earlier steps; or what was "
        "there before the draw, such as the inputs (a log line reads an.untrack(loss))"
    )


Baselines: TypeAlias = PerSite[Baseline | Literal["auto"] | None]
"""The baselines of the sites: see `ancestral.estimators.gradient.surrogate.backward`."""


def check_baseline(baseline: Baselines) -> None:
    """Raise unless each baseline can be asked, is "auto" or None.

    Raises:
        TypeError: if one is neither.
    """
    given: object = baseline
    if given is None or (isinstance(given, str) and given == "auto"):
        return  # what most ask for
    for each in baseline.values() if isinstance(baseline, Mapping) else (baseline,):
        _check(each, "")


def _check(baseline: object, where: str) -> None:
    if baseline is None or baseline == "auto":
        return
    if isinstance(baseline, type):
        name = baseline.__name__
        raise TypeError(f"{where}baseline is the class {name}; expected an object of it: {name}()")
    if not callable(baseline) or isinstance(baseline, Tensor):
        raise TypeError(
            f"{where}baseline must be 'auto', None or a function of a credit, such as "
            f"an.estimators.LeaveOneOut(), not {kind_of(baseline)}; a constant is "
            "`lambda credit: 0.5`"
        )


class Subtraction:
    """The baselines of the sites of one gradient."""

    def __init__(self, problem: Problem, baseline: Baselines) -> None:
        self._problem = problem
        self._choices = Choices("baseline", baseline, "auto")
        self._choices.warn_of_unused(problem.nodes)
        self._universe = problem.trace.universe
        self._others: dict[Source, int] = {}  # with the dimension that the others are along

    def expect(self, names: Sequence[str]) -> None:
        """Tell each baseline that asks for it which sites it will be called for, in order."""
        proven = (each for each in self._choices.values() if vars(type(each)).get("is_proven"))
        asking: dict[int, Any] = {id(each): each for each in proven if hasattr(each, "expect")}
        for key, each in asking.items():
            chosen = [n for n in names if id(self._choices.of(self._problem.nodes[n])) == key]
            each.expect(chosen)

    def of(self, credit: Credit) -> Tensor | None:
        """Return what is subtracted from the credit of a site, plain and without a gradient.

        It has the shape [], or one that broadcasts to that of the site; None for nothing.

        Raises:
            TypeError: if the site's `infer` has no baseline there.
            BaselineError: if it is no real tensor, does not fit the site, or is not finite.
            DependentBaselineError: if it depends on the draw.
        """
        node = self._problem.nodes[credit.name]
        chosen = self._choices.of(node)
        if chosen is None:
            return None
        baseline: Any = chosen
        if _is_one(node):
            credit = Credit(credit.name, (), (Part(credit.joint, frozenset()),))
        if chosen == "auto":
            others = predicted(credit)
            return None if others is None else detach(others)
        credit = replace(credit, recording=self._universe, site=node)
        if vars(type(baseline)).get("is_proven"):  # not of a subclass, which may do otherwise
            if hasattr(baseline, "inputs_of"):
                credit = replace(credit, inputs=self._inputs(node, credit, baseline))
            found: Tensor | None = baseline(credit)
            return None if found is None else detach(found)
        _check(baseline, f"site {node.name!r} ({node.location}): ")
        with _resumed(self._universe), self._shown_values():
            result: Any = baseline(self._tracked(node, credit))
            if isinstance(result, int | float) and not isinstance(result, bool):
                result = torch.as_tensor(float(result))
        plain = _fitting(node, credit.shape, result)
        self._refuse_dependent(node, baseline, result)
        return plain.to(credit.total)

    def _inputs(self, node: Node, credit: Credit, baseline: Any) -> Tensor | None:
        """Return the inputs that a baseline asks for, plain, none of which any draw reaches."""
        with _resumed(self._universe), self._shown_values():
            result: Any = baseline.inputs_of(self._tracked(node, credit))
        if result is None:
            return None
        if not isinstance(result, Tensor):
            raise _wrong(node, f" has inputs of {kind_of(result)}; expected a torch.Tensor")
        self._refuse_dependent(node, baseline, result, lawful=frozenset())
        size, shape = list(result.shape), list(credit.shape)
        if shape and len(size) > 1 and size[0] not in (1, shape[0]):
            raise _wrong(
                node,
                f" has inputs of shape {size}; expected [{shape[0]}, ...], one for each example "
                f"of the site, {shape}, or [1, ...] for all",
            )
        return detach(untrack(result))

    def _tracked(self, node: Node, credit: Credit) -> Credit:
        """Return a credit that carries what it depends on: all that the loss does."""
        once = credit.count_once

        def own(part: Tensor) -> Tensor:
            return attach(detach(untrack(part)), self._everything.lost(tuple(part.shape)))

        def mark(mean: Tensor, dim: int) -> Tensor:
            behind = self._everything.lost(credit.shape)
            source = Source(f"others of {node.name!r}", credit.shape, self._universe, behind)
            self._others[source] = dim
            whole = self._universe.of(source, credit.shape)
            found = whole.remap(tuple(mean.shape), tuple(range(mean.ndim)))
            assert found is not None
            return attach(mean, found)

        return replace(
            credit,
            parts=tuple(replace(part, value=own(part.value)) for part in credit.parts),
            count_once=None if once is None else lambda: own(once()),
            mark_others=mark,
        )

    @contextmanager
    def _shown_values(self) -> Generator[None]:
        """Let the values that the trace holds, which are plain, tell what site they are of."""
        shown: list[int] = []
        for node in self._problem.nodes.values():
            storage = watching.storage_of(node.value)
            if storage is not None and storage._cdata not in watching.table:
                found = self._universe.of(node.source, tuple(node.value.shape))
                watching.taint(storage, found, holders=0, is_held=True)
                shown.append(storage._cdata)
        try:
            yield
        finally:
            for address in shown:
                watching.table.pop(address, None)

    @cached_property
    def _everything(self) -> Provenance:
        """What the terms depend on, and the sites: what a credit may depend on, of shape []."""
        found = set(self._problem.sources)
        for term in self._problem.terms:
            if term.provenance is not None and term.provenance.universe is self._universe:
                found |= term.provenance.members
        return self._universe.depending(found, ())

    def _refuse_dependent(
        self,
        node: Node,
        baseline: object,
        result: Tensor,
        lawful: Collection[Source] | None = None,
    ) -> None:
        """Raise if the draw reaches a result, other than through sources that are lawful."""
        found = provenance(result)
        if found is not None and found.universe is not self._universe:
            found = self._universe.adopt(found)  # None if it is constant by now
        reached = self._downstream(node)
        if found is not None:
            if lawful is None:
                lawful = [
                    s for s in self._others if s in found.members and self._is_along(found, s)
                ]
            closure = self._universe.closure(found.members - set(lawful))
            names = [repr(s.name) for s in self._problem.sources if s in closure & reached]
            if names:
                raise _dependent(node, baseline, f"through {', '.join(names[:5])}")
        # A plain tensor, or a number, may hold what Python read at any time.
        for noted in () if found is not None else decisions_of(self._universe).noted:
            if noted.decision and reached & self._universe.closure(noted.decision):
                read = noted.escape
                why = f"which Python may have read at {read.filename}:{read.line}"
                raise _dependent(node, baseline, why)

    def _is_along(self, found: Provenance, others: Source) -> bool:
        """Return whether each element depends on what is for the same element of the site."""
        dim, rank = self._others[others], len(others.shape)
        claims = [claim for claim, members in found.entries if others in members]
        return all(len(claim.dims) == rank and _is_kept(claim, dim) for claim in claims)

    def _downstream(self, node: Node) -> set[Source]:
        """Return the source of a site, and those of all that it reaches."""
        structure, sources = self._problem.structure, self._problem.sources
        pending, seen = [sources.index(node.source)], set[int]()
        while pending:
            at = pending.pop()
            if at not in seen:
                seen.add(at)
                pending.extend(child for child, _ in structure.children[at])
        return {sources[at] for at in seen}


def _is_kept(claim: Alignment, dim: int) -> bool:
    """Return whether elements along a dimension depend on those in the same places only."""
    here, there = (
        next(((first, end) for d, first, end in windows if d == dim), None)
        for windows in (claim.here, claim.there)
    )
    if claim.dims[dim] == dim:
        return (here or (0,))[0] == (there or (0,))[0]
    return here is not None and here == there and here[1] - here[0] == 1


def _is_one(node: Node) -> bool:
    """Return whether a density has a shape that says nothing of elements: the draw is one."""
    return not is_of_torch(node.fn) and tuple(node.score.shape) != node.shape


def _fitting(node: Node, shape: Shape, result: object) -> Tensor:
    """Return a baseline, plain, that broadcasts to the shape of a site in one way only."""
    if not isinstance(result, Tensor):
        raise _wrong(node, f" is {kind_of(result)}; expected a torch.Tensor or a number")
    plain = detach(untrack(result))
    if plain.dtype is torch.bool or plain.dtype.is_complex:
        raise _wrong(node, f" is of {plain.dtype}; expected real numbers")
    if not torch.isfinite(plain).all():
        raise _wrong(node, " is NaN or infinite, and so would the gradient be")
    size = tuple(plain.shape)
    if plain.numel() == 1:
        return plain.reshape(())
    fits = [
        dims
        for dims in itertools.combinations(range(len(shape)), len(size))
        if all(n in (1, shape[d]) for n, d in zip(size, dims, strict=True))
    ]
    if fits != [tuple(range(len(shape) - len(size), len(shape)))]:
        raise _wrong(
            node,
            f" has shape {list(size)}; expected that of the site, {list(shape)}, with ones where "
            "it is the same along a dimension, or []: " + _advice(shape, size),
        )
    return plain


def _advice(shape: Shape, size: Shape) -> str:
    if len(size) > len(shape):
        return "squeeze the dimensions that the site has not"
    return "say along which dimension it runs, with unsqueeze or reshape"


@contextmanager
def _resumed(universe: Universe) -> Generator[None]:
    """Follow again, within the block, what is computed and what Python reads, as a recording does.

    What was read before decides on it too, and what is read in it on all that comes later.
    """
    decisions = decisions_of(universe)
    before = universe.state, decisions.is_recording
    universe.state, decisions.is_recording = "open", True
    token = recording.set(universe)
    watching.watch()
    try:
        yield
    finally:
        universe.state, decisions.is_recording = before
        recording.reset(token)
        if not local.recordings:
            watching.purge()
            watching.unwatch()


def subtracted(
    problem: Problem, baseline: Baselines, passes: Sequence[Pass]
) -> dict[tuple[int, str], Tensor]:
    """Return what is subtracted for sites, by the number of the pass that it counts in.

    A baseline is asked once for a site, whatever passes give it credit.
    """
    if baseline is None and not any([node.infer for node in problem.nodes.values()]):
        return {}
    places: dict[str, list[tuple[int, Credit]]] = {}
    if problem.partly:
        for at, part in enumerate(passes):
            for credit in part.credits:
                places.setdefault(credit.name, []).append((at, credit))
    whole = () if problem.partly else passes[0].credits  # of each site one
    subtraction = Subtraction(problem, baseline)
    subtraction.expect([*places, *[credit.name for credit in whole]])
    asked = itertools.chain(
        ((found[0][0], merged([credit for _, credit in found])) for found in places.values()),
        ((0, credit) for credit in whole),
    )
    found = ((at, credit.name, subtraction.of(credit)) for at, credit in asked)
    return {(at, name): less for at, name, less in found if less is not None}
