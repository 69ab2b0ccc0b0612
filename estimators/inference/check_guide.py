"""Guide check: all mismatches of a guide and its model, before training.

>>> import torch
>>> from torch.distributions import LogNormal, Normal
>>> from ancestral.trace.program.primitives import sample
>>> def model():
...     sample("rate", LogNormal(0.0, 1.0))
>>> def guide():
...     sample("rate", Normal(0.0, 1.0))
>>> report = check_guide(model, guide)
>>> report.is_consistent, [str(problem).partition(" (")[0] for problem in report.problems]
(False, ["site 'rate' is drawn from Normal in the guide"])
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.distributions import Distribution

from ancestral.estimators.gradient.surrogate import settle
from ancestral.estimators.inference.model_guide import (
    GuideError,
    Pair,
    Program,
    check_programs,
    declared_costs,
    missing,
    observed,
    other_plates,
    sites_of,
)
from ancestral.provenance.tensor.tensor import alias, untrack
from ancestral.trace.context.argument_checks import short
from ancestral.trace.display.text_table import Table, Tabular
from ancestral.trace.handlers.replay import fits, replay
from ancestral.trace.nodes.distribution_params import plainly
from ancestral.trace.nodes.factor import shown_shape
from ancestral.trace.nodes.node import Node
from ancestral.trace.nodes.support import lies_within, support_of
from ancestral.trace.program.site import unseen
from ancestral.trace.recording.message import Message
from ancestral.trace.recording.record import record
from ancestral.trace.recording.unused_handlers import unchecked


@dataclass(frozen=True)
class GuideReport(Tabular):
    """What `check_guide` found: the pair as it ran, and every problem."""

    pair: Pair
    problems: tuple[GuideError, ...]

    @property
    def is_consistent(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    def require(self) -> None:
        """Raise the first problem, if there is one.

        Raises:
            GuideError: the problem; further ones are its notes.
        """
        if self.problems:
            first, *others = self.problems
            for other in others:
                first.add_note(str(other))
            raise first

    def table(self) -> Table:
        """Return a row for each site of both, and the problems below."""
        names = dict.fromkeys([*self._sites(self.pair.model), *self._sites(self.pair.guide)])
        rows = [(n, _shown(self.pair.model.get(n)), _shown(self.pair.guide.get(n))) for n in names]
        below = [f"- {problem}" for problem in self.problems]
        return Table(("site", "model", "guide"), rows, below=below)

    @staticmethod
    def _sites(trace: Any) -> list[str]:
        return [node.name for node in sites_of(trace)]


def check_guide(model: Program, guide: Program, *args: Any, **kwargs: Any) -> GuideReport:
    """Run a guide and a model once, and report where they do not fit each other.

    Data that the guide observes, sites that one of them lacks, shapes, supports and plates that
    differ, and declared costs. The model takes the values of the guide that fit, and draws the
    others itself, so that all is found in one run; of a program that branches, this is what that
    run came by.

    Args:
        model: the program of p.
        guide: the program of q.
        args: what both are called with.
        kwargs: what both are called with.

    Raises:
        TypeError: if a program is no function.
    """
    check_programs("check_guide", model, guide)
    with record() as around:
        with record() as guide_trace:
            guide(*args, **kwargs)
        with record() as model_trace, unchecked(_replay_fitting(guide_trace)):
            model(*args, **kwargs)
    if around.universe.owner is around:
        settle(around)  # nobody will ask for its gradient, which would keep it alive
    pair = Pair(model_trace, guide_trace)
    found = (*observed(pair), *missing(pair), *declared_costs(pair), *_differences(pair))
    return GuideReport(pair, found)


class _replay_fitting(replay):  # noqa: N801 (a verb, as `replay`)
    """Replay the values that a site can take, and give the others other values.

    These are given, not drawn: a recording around both knows a draw of that name already.
    """

    def process(self, message: Message) -> Message:
        """Give a site the value that it has in the trace, if it fits."""
        node = self.trace.get(message.name)
        is_draw = message.kind == "sample" and message.value is None and node is not None
        if not is_draw or _fits(message, node):
            return super().process(message)
        assert message.fn is not None
        return replace(message, value=untrack(unseen(message.fn)))


def _fits(message: Message, node: Node | None) -> bool:
    assert message.fn is not None
    assert node is not None
    expected = (*message.fn.batch_shape, *message.fn.event_shape)
    event = len(message.fn.event_shape)
    if node.type != "sample" or not fits(tuple(node.value.shape), expected, event):
        return False
    return _is_inside(message.fn, node)


def _differences(pair: Pair) -> Iterator[GuideError]:
    for ours, theirs in pair.shared:
        if ours.value.shape != theirs.value.shape:
            yield GuideError(
                f"site {ours.name!r} has shape {list(theirs.value.shape)} in the guide "
                f"({theirs.location}); expected {list(ours.value.shape)}, as in the model "
                f"({ours.location}): give both the same plates and events"
            )
        elif not _is_supported(ours, theirs):
            yield GuideError(
                f"site {ours.name!r} is drawn from {type(theirs.fn).__name__} in the guide "
                f"({theirs.location}), whose support is {_support(theirs)}; expected one within "
                f"{_support(ours)}, that of {type(ours.fn).__name__} in the model "
                f"({ours.location}): draw it from a distribution with that support, or transform "
                "it to it"
            )
        if set(ours.cond_indep_stack) != set(theirs.cond_indep_stack):
            yield other_plates(ours, theirs)


def _support(node: Node) -> str:
    assert node.fn is not None
    return short(support_of(node.fn))


def _is_supported(ours: Node, theirs: Node) -> bool:
    assert ours.fn is not None
    assert theirs.fn is not None
    inner, outer = support_of(theirs.fn), support_of(ours.fn)
    is_part = None if inner is None or outer is None else lies_within(inner, outer)
    return is_part is not False and _is_inside(ours.fn, theirs)


def _is_inside(fn: Distribution, node: Node) -> bool:
    """Return whether a distribution can take a value; to look is no decision of the program."""
    support = support_of(fn)
    if support is None:
        return True
    is_inside: Tensor = plainly(support, support.check, alias(node.value).detach())
    return bool(is_inside.all())


def _shown(node: Node | None) -> str:
    if node is None:
        return "-"
    plates = ", ".join(plate.name for plate in node.cond_indep_stack)
    kind = type(node.fn).__name__ if node.fn is not None else node.type
    return (
        f"{kind} {list(shown_shape(node.fn, node.value))}"
        + (" observed" if node.is_observed and kind != "Factor" else "")
        + (f" in {plates}" if plates else "")
        + f" ({node.location})"
    )
