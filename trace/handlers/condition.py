"""Condition, do and substitute: values for sites, as data or by intervention."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ancestral.trace.handlers.by_name import ByName, HandlerError, by_name, no_random_choice
from ancestral.trace.nodes.factor import Factor
from ancestral.trace.program.checks import no_tensor
from ancestral.trace.recording.message import Handler, Message


class _Given(ByName, ABC):
    """Gives samples, and what the program computes, values by name."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self.values = by_name(type(self).__name__, values)
        super().__init__(self.values)

    def process(self, message: Message) -> Message:
        """Give a statement its value."""
        if message.kind == "sample":
            self.meet(message.name)
        if message.name not in self.values or message.kind not in ("sample", "deterministic"):
            return message
        self.meet(message.name)
        return self.give(message, self.values[message.name])

    @abstractmethod
    def give(self, message: Message, value: Tensor) -> Message:
        """Return the message with the value."""


class condition(_Given):  # noqa: N801 (used as a verb: with condition({"x": data}): ...)
    """Observe sites of a block: each gets its value as data, which takes the place of any other.

    A site that is set by `do` is no random choice: to condition it around that is an error.

    Args:
        values: the data by the name of the site.

    Raises:
        TypeError: if the values are no mapping.
        UnknownSiteError: at the end of the block, if it has no such site.
        SiteError: within it, if a value has a wrong type, shape or support.
    """

    def give(self, message: Message, value: Tensor) -> Message:
        """Return the message, observed.

        Raises:
            HandlerError: if a handler within has set it from outside, or the program computes it.
        """
        if message.is_intervened:
            raise HandlerError(
                f"site {message.name!r} ({message.where.location}) is set by do, within a block "
                "that is to condition it; expected a random choice, which what is set is not: "
                "leave it out of one of the two"
            )
        if message.kind == "deterministic":
            raise no_random_choice(message, "condition")
        return replace(message, value=value, is_observed=True, origin=None)


class do(_Given):  # noqa: N801
    """Set sites of a block from outside, which cuts them off from their parents.

    A site becomes a value that nothing explains: it has neither parents nor a log-probability, and
    what depends on it goes on with the value; so does a value of `deterministic`. Pearl (2009),
    "Causality", section 3.2.

    Args:
        values: the values by the name of the site.

    Raises:
        TypeError: if the values are no mapping.
        UnknownSiteError: at the end of the block, if it has no such site.
        SiteError: within it, if a value is no tensor.
    """

    def give(self, message: Message, value: Tensor) -> Message:
        """Return the message, intervened on.

        Raises:
            SiteError: if the value is no tensor.
            HandlerError: if it does not fit the one that the program computes.
        """
        if not isinstance(value, Tensor):
            raise no_tensor(message, value)
        if message.kind == "deterministic" and message.value is not None:
            try:
                value = value.expand(message.value.shape)
            except RuntimeError as error:
                raise HandlerError(
                    f"do sets {message.name!r} ({message.where.location}) to a value of shape "
                    f"{list(value.shape)}; expected one that broadcasts to "
                    f"{list(message.value.shape)}, the shape of what the program computes there"
                ) from error
        return replace(message, value=value, is_intervened=True, is_observed=False, origin=None)


class uncondition(Handler):  # noqa: N801
    """Draw the sites of a block that are observed: data is forgotten.

    A factor is no data, and stays. The data stays in the node's `infer`, as ``"was_observed"``.
    """

    def __init__(self) -> None:
        """Take nothing: the program comes afterwards."""

    def process(self, message: Message) -> Message:
        """Take the data from an observed sample."""
        if message.kind != "sample" or not message.is_observed or message.is_intervened:
            return message
        if isinstance(message.fn, Factor):
            return message
        infer = {**message.infer, "was_observed": message.value}
        return replace(message, value=None, is_observed=False, infer=infer)
