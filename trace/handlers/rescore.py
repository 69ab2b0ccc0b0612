"""Rescoring: draws that were made without a gradient, scored by a second pass.

A language model draws a text word by word, under `torch.no_grad`, with what it keeps of the words
before; the densities of all words are then computed at once, with a gradient. The recording of the
first pass knows which cost each word can change, the second pass knows the scores.

>>> import torch
>>> from torch.distributions import Categorical
>>> from ancestral.trace.recording.record import record
>>> weight = torch.zeros(3, requires_grad=True)
>>> with record() as trace, torch.no_grad():
...     word = Categorical(logits=weight).sample((4,))
>>> rescore(trace, {"word": Categorical(logits=weight.expand(4, 3))})
>>> trace["word"].is_score, trace["word"].log_prob.requires_grad
(True, True)
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.context.argument_checks import kind_of, short
from ancestral.trace.context.errors import SiteError, guessed, listed
from ancestral.trace.context.stack import local
from ancestral.trace.nodes.autograd_graph import is_learned
from ancestral.trace.nodes.distribution_params import Held, factorized, plainly
from ancestral.trace.nodes.log_prob import computable
from ancestral.trace.nodes.node import Node
from ancestral.trace.nodes.versions import versions_of
from ancestral.trace.recording.leaf_writes import SettledError, leaves_of_scores
from ancestral.trace.recording.trace import Trace

Second = Distribution | Mapping[str, Distribution | None] | Trace
"""The distributions of draws in a second pass, with a gradient to learn."""

_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""By how much a log-probability may differ between two passes, by the coarser of two dtypes."""


class RescoreError(SiteError):
    """A second pass does not score the draws of the first."""


def rescore(trace: Trace, second: Second, *, atol: float | None = None) -> None:
    r"""Give the draws of a recording that were made without a gradient their scores.

        ∇ E[c] = E[ ∇c + Σ_i ∇ log q(z_i | parents) · c↓_i ],   z_i drawn from q, held fixed

    The second pass computes q anew, with a gradient, from the values that were drawn. The estimate
    is that of one pass with gradients, draw by draw, if both passes have the same q: every
    log-probability is compared. Afterwards `ancestral.backward` takes the gradient as of any
    recording. Williams (1992), "Simple statistical gradient-following algorithms".

    Args:
        trace: the recording of the first pass.
        second: the distributions by the name of the site; or those of several sites, in program
            order along the last dimension of the batch, by a pattern of their names
            (``{"word*": Categorical(logits=logits)}``, logits [batch, time, classes]), or without
            a name if these are all; or the trace of a second run within `handlers.replay(trace)`.
            None stands for a site that has nothing to learn.
        atol: by how much a log-probability may differ; by default 1e-3 in float32, 1e-6 in float64.

    Raises:
        TypeError: if one of the arguments is something else.
        ValueError: if `atol` is no number, or negative.
        RescoreError: if no draw lacks a score; if a site is left out, is unknown, has another
            shape, was not replayed, has a score already, gets no gradient, or differs in its
            log-probability: what drew it is not what was computed anew.
        SettledError: if the gradient of the recording was already taken.
    """
    if not isinstance(trace, Trace):
        raise TypeError(f"rescore takes the Trace of the draws, not {kind_of(trace)}")
    if atol is not None and not (isinstance(atol, (int, float)) and atol >= 0):
        raise ValueError(f"atol must be a number of at least 0, not {short(atol)}")
    owner = trace.universe.owner
    if trace.universe.state == "settled" or not isinstance(owner, Trace):
        raise SettledError.loaded() if trace.is_loaded else SettledError.taken()
    drawn = [node for node in trace.everything if node.is_drawn and not node.is_enumerated]
    if not drawn:
        raise RescoreError(
            "the trace draws nothing; expected that of the first pass: hold model.trace before a "
            "second call of a wrapped model"
        )
    if all(node.is_learned for node in drawn):
        raise RescoreError(
            f"every draw of this trace has a gradient already ({listed(n.name for n in drawn)}); "
            "expected draws without one, as under torch.no_grad(): else call an.backward as it is"
        )
    found = _replayed(trace, second) if isinstance(second, Trace) else _by_site(drawn, second)
    densities = {
        node.name: density
        for nodes, fn in found
        for node, density in zip(nodes, _densities(nodes, fn), strict=True)
    }
    _refuse_left_out(drawn, {node.name for nodes, _ in found for node in nodes}, second)
    scored = {
        node.name: _scored(node, density, atol)
        for node in drawn
        if (density := densities.get(node.name)) is not None
    }
    for each in {trace, owner}:
        each.revise(scored)
    if not owner.is_open:
        owner.leaves = leaves_of_scores(owner.everything)


_Found = list[tuple[Sequence[Node], Distribution | None]]
"""Sites, with the distribution of all of them."""


def _by_site(drawn: Sequence[Node], second: object) -> _Found:
    """Return the sites that a second pass names, each once."""
    if isinstance(second, Distribution):
        second = {"*": second}
    if not isinstance(second, Mapping):
        raise TypeError(
            "rescore takes a distribution, distributions by the names of sites, or the Trace of a "
            f"second run, not {kind_of(second)}"
        )
    found: _Found = []
    taken: dict[str, str] = {}
    for name, fn in second.items():
        if not isinstance(name, str) or not (fn is None or isinstance(fn, Distribution)):
            raise TypeError(
                f"rescore takes distributions by the names of sites, not {kind_of(fn)} by "
                f"{short(name)}"
            )
        nodes = [node for node in drawn if node.name == name]
        nodes = nodes or [node for node in drawn if fnmatchcase(node.name, name)]
        if not nodes:
            names = [node.name for node in drawn]
            raise RescoreError(
                f"the trace draws no site {name!r}; it draws {listed(names)}"
                f"{guessed([name], names)}"
            )
        for node in nodes:
            if node.name in taken:
                raise RescoreError(
                    f"site {node.name!r} ({node.location}) is scored twice, by "
                    f"{taken[node.name]!r} and by {name!r}; expected each site under one name"
                )
            taken[node.name] = name
        found.append((nodes, fn))
    return found


def _replayed(trace: Trace, second: Trace) -> _Found:
    """Return the sites that a second run has replayed, with their distributions there."""
    found: _Found = []
    for node in second.everything:
        if node.is_drawn:
            raise RescoreError(
                f"site {node.name!r} ({node.location}) of the second run was drawn anew; expected "
                "the draws of the first: run it within an.handlers.replay(trace), with the same "
                f"names; the first has {listed(trace)}"
            )
        first = trace.get(node.name)
        if first is None or not (node.is_stochastic and first.is_drawn) or first.is_learned:
            continue
        if node.source is not first.source:
            raise RescoreError(
                f"site {node.name!r} ({node.location}) of the second run has a value that is not "
                f"the one drawn at {first.location}; run it within an.handlers.replay(trace)"
            )
        assert node.fn is not None
        found.append(([first], node.fn))
    return found


def _refuse_left_out(drawn: Sequence[Node], named: set[str], second: Second) -> None:
    """Raise if a draw without a score would stay without one, and nobody said so."""
    left = [node for node in drawn if not node.is_learned and node.name not in named]
    if left:
        way = (
            "the second run must come by it too"
            if isinstance(second, Trace)
            else f"give its distribution, or None if it has nothing to learn: {{{left[0].name!r}: "
            "None}"
        )
        raise RescoreError(
            f"site {left[0].name!r} ({left[0].location}) has no score, and the second pass none of "
            f"it, so that the gradient would be biased; {way}. Left out: "
            f"{listed(node.name for node in left)}"
        )


def _densities(nodes: Sequence[Node], fn: Distribution | None) -> list[Tensor | None]:
    """Return the log-probability of each site by the distribution of all, [*shape] each."""
    if fn is None:
        return [None] * len(nodes)
    learned = [node for node in nodes if node.is_learned]
    if learned:
        raise RescoreError(
            f"site {learned[0].name!r} ({learned[0].location}) was drawn with a gradient, and has "
            "a score already, which would count twice; name only those without one"
        )
    base, first = factorized(fn), nodes[0]
    whole = (*base.batch_shape, *base.event_shape)
    shapes = {tuple(node.value.shape) for node in nodes}
    if len(nodes) == 1 and shapes == {whole}:
        return [_density(base, first.value)]
    # The sites follow one another along the last dimension of the batch: as such, or within one
    # that each has with size 1.
    dim = len(fn.batch_shape) - 1
    values = [node.value for node in nodes]
    if dim < 0 or len(shapes) > 1:
        raise _misfit(nodes, whole)
    is_within = values[0].dim() == len(whole) and values[0].shape[dim] == 1
    together = torch.cat(values, dim) if is_within else None
    if together is None and values[0].dim() == len(whole) - 1:
        together = torch.stack(values, dim)
    if together is None or tuple(together.shape) != whole:
        raise _misfit(nodes, whole)
    density = _density(base, together)
    pieces = density.split(1, dim) if is_within else density.unbind(dim)
    return list(pieces)


def _misfit(nodes: Sequence[Node], whole: tuple[int, ...]) -> RescoreError:
    first, count = nodes[0], len(nodes)
    shapes = {str(list(node.value.shape)) for node in nodes}
    expected = (
        "expected one of that shape"
        if count == 1
        else f"expected one with the {count} sites, in program order, along the last dimension of "
        "its batch, or one for each site by its name"
    )
    which = f"site {first.name!r} ({first.location})" + (
        f" and {count - 1} more" if count > 1 else ""
    )
    return RescoreError(
        f"{which} drew values of shape {' and '.join(sorted(shapes))}, and the second pass has a "
        f"distribution of values of shape {list(whole)}; {expected}"
    )


def _density(fn: Distribution, value: Tensor) -> Tensor:
    was_inside, local.is_inside = local.is_inside, True  # to ask is not to observe
    try:
        with torch.enable_grad():
            density: Tensor = plainly(fn, fn.log_prob, computable(fn, value))
    finally:
        local.is_inside = was_inside
    return untrack(density)


def _scored(node: Node, density: Tensor, atol: float | None) -> Node:
    """Return a site that has the score of a second pass.

    Raises:
        RescoreError: if that is another density, or has no gradient.
    """
    known = node.elementwise_log_prob.detach()
    if tuple(density.shape) != tuple(known.shape) or tuple(known.shape) != node.shape:
        raise RescoreError(
            f"site {node.name!r} ({node.location}) has log-probabilities of shape "
            f"{list(known.shape)}, and of shape {list(density.shape)} in the second pass; expected "
            "one for each independent draw"
        )
    _refuse_other(node, known, density.detach(), atol)
    if not is_learned(density):
        raise RescoreError(
            f"site {node.name!r} ({node.location}): the second pass has no gradient either; "
            "compute its distribution outside of torch.no_grad(), from parameters with "
            "requires_grad=True, or give None for the site if it has nothing to learn"
        )
    density = density.clone()  # the user may write into what he has of it
    assert node.fn is not None
    return replace(
        node,
        fn=_rescored(node.fn, node.value, density),
        is_learned=True,
        is_reparameterized=False,  # no gradient went through the value
        gate=None,
        versions=versions_of([Held(density, 0)]),
    )


def _refuse_other(node: Node, known: Tensor, density: Tensor, atol: float | None) -> None:
    """Raise if the log-probabilities of two passes differ."""
    dtypes = (known.dtype, density.dtype)
    limit = max(_TOLERANCE.get(dtype, 1e-3) for dtype in dtypes) if atol is None else atol
    apart = (known.cpu().double() - density.cpu().double()).abs().nan_to_num(torch.inf)
    if not apart.numel() or float(apart.max()) <= limit:
        return
    worst = int(apart.argmax())
    at = [int(i) for i in torch.unravel_index(torch.tensor(worst), known.shape)]
    were, are = (float(each.reshape(-1)[worst]) for each in (known, density))
    raise RescoreError(
        f"site {node.name!r} ({node.location}){f', element {at}' if at else ''}: what was drawn "
        f"had log-probability {were:.6g}, and has {are:.6g} in the second pass, with which the "
        f"gradient would be biased; expected the same, within {limit:g}. Compute the second pass "
        "as the draws were made: the same position in time, temperature, top-k and masks, dropout "
        "off in both, the same weights; more than rounding is allowed by atol="
    )


class _Rescored(Distribution):
    """The distribution of one value, whose log-probability was computed in a second pass.

    Its class has the name of the one that drew.
    """

    arg_constraints: Any = {}  # noqa: RUF012 (as torch writes it)

    def __init__(self, fn: Distribution, value: Tensor, density: Tensor) -> None:
        """Take what drew the value [*batch, *event], and its log-probability, [*batch]."""
        super().__init__(density.shape, fn.event_shape, validate_args=False)
        self.fn = fn
        self.value = value
        self.density = density

    @property
    def support(self) -> Any:
        """The values that it can take."""
        return self.fn.support

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of the value, [*batch].

        Raises:
            NotImplementedError: if it is another.
        """
        if value.shape != self.value.shape or not torch.equal(untrack(value), self.value):
            raise NotImplementedError("of a rescored draw, the second pass knows one value only")
        return self.density


@functools.cache
def _named(name: str) -> type[_Rescored]:
    return type(name, (_Rescored,), {})


def _rescored(fn: Distribution, value: Tensor, density: Tensor) -> Distribution:
    """Return the distribution with this density, which groups as many dimensions as events."""
    base = factorized(fn)
    made: Distribution = _named(type(base).__name__)(base, value, density)
    events = len(base.batch_shape) - len(fn.batch_shape)
    return Independent(made, events, validate_args=False) if events else made
