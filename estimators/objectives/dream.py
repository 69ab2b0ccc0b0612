"""Sleep phase: the guide learns from draws and data that the model makes up.

        ∇ E_p[ - log q(z | x) ],   (x, z) ~ p

The model draws what it observes; the guide is called with that in the places of the arguments that
the model observes, and has the values of the model.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ancestral.estimators.credit.declared_costs import non_finite_density
from ancestral.estimators.gradient.surrogate import settle
from ancestral.estimators.inference.model_guide import GuideError, Program, sites_of
from ancestral.estimators.objectives.held import hold
from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.handlers.condition import uncondition
from ancestral.trace.handlers.replay import replay
from ancestral.trace.nodes.factor import Factor
from ancestral.trace.nodes.node import Node
from ancestral.trace.recording.record import record
from ancestral.trace.recording.trace import Trace
from ancestral.trace.recording.unused_handlers import unchecked


def asleep(
    model: Program, guide: Program, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Tensor:
    """Return the negative log-density of a guide at a draw of the model, [].

    Raises:
        GuideError: if the guide draws what the model does not, if data is no argument, or if the
            model has a factor.
        NonFiniteDensityError: if the log-probability of a site is NaN or infinite.
    """
    with record(control="after") as around:
        with record() as dream, uncondition():
            model(*args, **kwargs)
        data = [node for node in sites_of(dream) if "was_observed" in node.infer]
        for error in (*_undrawn(dream), *_not_given(data, (*args, *kwargs.values()))):
            raise error
        dreamt = [_in_place_of(data, given) for given in args]
        named = {name: _in_place_of(data, given) for name, given in kwargs.items()}
        with record() as guided, unchecked(replay(dream)):
            guide(*dreamt, **named)
    sites = sites_of(guided)
    for node in sites:
        _check(node, dream)
    hold(around, [*sites_of(dream), *sites])
    total = sum((untrack(node.tracked_log_prob).sum() for node in sites), torch.zeros(()))
    if around.universe.owner is around:
        settle(around)
    return -total


def _is_same(data: Tensor, given: object) -> bool:
    """Return whether an argument is the data that a site observes, not only equal to it."""
    if not isinstance(given, Tensor):
        return False
    data, given = untrack(data), untrack(given)
    is_there = data.shape == given.shape and data.stride() == given.stride()
    return is_there and data.data_ptr() == given.data_ptr()


def _in_place_of(data: Sequence[Node], given: Any) -> Any:
    """Return an argument, or what the model drew in its place."""
    for node in data:
        if _is_same(node.infer["was_observed"], given):
            return node.value.detach()
    return given


def _not_given(data: Sequence[Node], given: Sequence[Any]) -> Iterator[GuideError]:
    for node in data:
        if not any(_is_same(node.infer["was_observed"], each) for each in given):
            yield GuideError(
                f"site {node.name!r} ({node.location}) observes what is no argument of the model; "
                "expected obs= to be one as it was passed, whole, for the guide to be called with "
                "what the model draws instead; pass it so, or leave the sleep phase out by sleep=0"
            )


def _undrawn(dream: Trace) -> Iterator[GuideError]:
    for node in sites_of(dream):
        if node.is_enumerated:
            yield GuideError(
                f"site {node.name!r} ({node.location}) of the model is enumerated, so that no data "
                "can be made up of it; expected draws, for a sleep phase: draw it "
                '(infer={"enumerate": False}), or leave the phase out by sleep=0'
            )
        if isinstance(node.fn, Factor):
            yield GuideError(
                f"factor {node.name!r} ({node.location}) of the model is a part of a density that "
                "nobody can draw from; expected sites alone, for a sleep phase; leave it out by "
                "sleep=0"
            )


def _check(node: Node, dream: Trace) -> None:
    if not node.is_given or node.name not in dream:
        raise GuideError(
            f"site {node.name!r} ({node.location}) of the guide has no value from the model; "
            "expected the model to draw all that the guide draws, for a sleep phase; leave it out "
            "by sleep=0"
        )
    if not bool(untrack(node.tracked_log_prob).detach().isfinite().all()):
        raise non_finite_density(node, "guide")
