"""Replay: values of sites from another run."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from ancestral.provenance.algebra.alignment import Shape
from ancestral.trace.context.argument_checks import kind_of
from ancestral.trace.context.errors import EnumerationError
from ancestral.trace.enumeration.enumerate import open_room
from ancestral.trace.handlers.by_name import ByName, HandlerError, by_name, no_random_choice
from ancestral.trace.nodes.enum_dims import trailing
from ancestral.trace.nodes.node import Node, modified
from ancestral.trace.nodes.versions import is_written
from ancestral.trace.recording.message import Message
from ancestral.trace.recording.trace import Trace
from ancestral.trace.recording.unused_handlers import Effective


class replay(Effective):  # noqa: N801 (used as a verb: with replay(trace): ...)
    """Give the sites of a block the values that they have in a trace, those that it has.

    A value keeps what it depends on: the score of its draw counts where a gradient is taken of both
    runs together. Parameters, and data that the program observes itself, stay what they are; the
    indices of a subsampled plate are those of the trace.

    Args:
        trace: the trace of another run.

    Raises:
        TypeError: if `trace` is none.
        EnumerationError: within it, if a site was enumerated, and the block is not.
        ModifiedParameterError: within it, if a value was written into in place since.
        HandlerError: within it, if a site has another shape than in the trace, or a subsampled
            plate another size, or if a site is drawn that is a computed value there.
    """

    missing = "its block has none of the sites that were drawn in the trace"

    def __init__(self, trace: Trace) -> None:
        if not isinstance(trace, Trace):
            raise TypeError(
                f"replay takes a Trace, not {kind_of(trace)}; a function comes afterwards, "
                "as in replay(trace)(model)"
            )
        self.trace = trace
        self._is_used = not any(node.is_stochastic for node in trace.values())

    @property
    def origins(self) -> Trace:
        """The trace."""
        return self.trace

    def process(self, message: Message) -> Message:
        """Give a site the value that it has in the trace."""
        node = self.trace.get(message.name)
        if node is None:
            return message
        self._is_used = self._is_used or node.is_stochastic
        if message.value is not None:
            return message
        if message.kind == "sample" and node.type == "deterministic":
            return message.defer(self._refuse_draw)
        if node.type != message.kind:
            return message
        if message.kind == "plate":
            return _replayed_plate(message, node)
        if message.kind != "sample" or message.is_intervened:
            return message
        if is_written(node.versions, node.value):
            raise modified(node.name, node.location)
        assert message.fn is not None
        expected = (*message.fn.batch_shape, *message.fn.event_shape)
        if node.is_enumerated and open_room() is None:
            raise EnumerationError(
                f"site {message.name!r} ({message.where.location}) is replayed from the site of "
                f"that name at {node.location}, which was enumerated; run the program within "
                "an.handlers.enumerate too, with the same first_dim"
            )
        if not fits(tuple(node.value.shape), expected, len(message.fn.event_shape)):
            raise HandlerError(
                f"site {message.name!r} ({message.where.location}) is replayed from the site of "
                f"that name at {node.location}, whose value has shape {list(node.value.shape)}; "
                f"expected {list(expected)}: give both the same plates and events"
            )
        return replace(message, value=node.tracked_value, origin=node)

    def _refuse_draw(self, message: Message) -> Message:
        """Raise if what the trace has a computed value of is about to be drawn."""
        if message.kind == "sample" and message.value is None:
            raise HandlerError(
                f"site {message.name!r} ({message.where.location}) is to be replayed from "
                f"{self.trace[message.name].location}, where it is a computed value, no random "
                "choice; expected the same handlers around both runs, such as reparam or do; to "
                "give it that value, use an.handlers.substitute("
                f"{{{message.name!r}: trace[{message.name!r}].value}})"
            )
        return message


def _replayed_plate(message: Message, node: Node) -> Message:
    """Return a plate with the indices of the trace; a whole one of another size has its own."""
    if _sizes(message.infer) == _sizes(node.infer):
        return replace(message, value=node.value, origin=node)
    if message.infer["subsample_size"] < message.infer["size"]:
        raise HandlerError(
            f"plate {message.name!r} ({message.where.location}) is replayed from the plate of that "
            f"name at {node.location}, with {_sizes(node.infer)}; expected {_sizes(message.infer)}"
        )
    return message


def _sizes(about: Mapping[str, Any]) -> str:
    return f"size {about['size']} and subsample_size {about['subsample_size']}"


def fits(shape: Shape, expected: Shape, event: int) -> bool:
    """Return whether a value is as large as its site, but for what other sites are enumerated by.

    Along those dimensions, the value of a site is one for all, or has been enumerated itself.
    """
    room = open_room()
    if room is None:
        return shape == expected
    batch = expected[: len(expected) - event]
    free = max(len(batch) - room, 0)
    ours, theirs = trailing(shape, len(expected) - free), expected[free:]
    return (1,) * (len(theirs) - len(ours)) + ours == theirs


class substitute(ByName):  # noqa: N801
    """Give the sites and the parameters of a block values by name, which are no observations.

    Data that the program observes stays what it is, and so does what another handler gave a value.

    Args:
        values: the values.

    Raises:
        TypeError: if they are no mapping.
        UnknownSiteError: at the end of the block, if it has no such site or parameter.
        SiteError: within it, if a value has a wrong type, shape or support.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self.values = by_name("substitute", values)
        super().__init__(self.values)

    def process(self, message: Message) -> Message:
        """Give a sample or a parameter its value.

        Raises:
            HandlerError: if the program computes it.
        """
        if message.kind == "deterministic" and message.name in self.values:
            if message.is_intervened:
                self.meet(message.name)
                return message
            raise no_random_choice(message, "substitute")
        if message.kind not in ("sample", "param"):
            return message
        self.meet(message.name)
        is_given = message.is_observed or message.value is not None
        if is_given or message.name not in self.values:
            return message
        return replace(message, value=self.values[message.name])
