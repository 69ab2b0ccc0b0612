"""Marks of Pyro: sites that ``infer={"enumerate": ...}`` gives several values at once."""

from dataclasses import replace

import torch

from ancestral.trace.context.errors import EnumerationError
from ancestral.trace.enumeration.dims import named
from ancestral.trace.enumeration.enumerate import enumerate as enumerated
from ancestral.trace.enumeration.enumerate import owned, reserved
from ancestral.trace.nodes.enum_dims import Variable
from ancestral.trace.recording.message import Message


class Marked(enumerated):
    """Enumerates the sites that Pyro's mark asks for, and no others.

    All values stand at once: what is marked "sequential" has the same sum, if Python does not
    decide on the value. A site with ``num_samples`` takes as many draws in the place of its values;
    what depends on them and is given ``num_samples`` too is drawn once for each of them, or so
    often with ``expand=True``.
    """

    def _is_to_be_enumerated(self, message: Message) -> bool:
        mark = message.infer.get("enumerate")
        if mark == "sequential":
            message = replace(message, infer={**message.infer, "enumerate": "parallel"})
        return mark is not None and super()._is_to_be_enumerated(message)

    def _drawn_often(self, message: Message) -> Message:
        """Give a sample a dimension for its draws."""
        count: int = message.infer["num_samples"]
        is_along = any(variable.is_drawn for variable in _behind(message))
        if count == 1 or (is_along and not message.infer.get("expand")):
            return message
        own = self._dimensions.allocate(message, count, reserved(), is_drawn=True)
        fn = message.fn
        assert fn is not None
        batch = [*(1,) * (-own.dim - len(fn.batch_shape)), *fn.batch_shape]
        batch[own.dim] = count
        try:
            return owned(replace(message, fn=fn.expand(torch.Size(batch))), own)
        except NotImplementedError as error:
            raise EnumerationError(
                f"{named(message)} is to be drawn {count} times, as num_samples in its infer says, "
                f"and {type(fn).__name__} has no expand; define its expand(batch_shape), or take "
                "num_samples away"
            ) from error


def _behind(message: Message) -> list[Variable]:
    """Return the sites whose values the batch of a sample stands for."""
    assert message.fn is not None
    assert message.enumeration is not None
    batch = message.fn.batch_shape
    variables = message.enumeration.variables.items()
    return [v for dim, v in variables if -dim <= len(batch) and batch[dim] != 1]
