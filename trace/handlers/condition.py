"""Conditioning: which sites are data, and which are set from outside."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ancestral.trace.context.arguments import kind_of
from ancestral.trace.context.errors import SiteError
from ancestral.trace.handlers.by_name import ByName, DeterministicSiteError, by_name
from ancestral.trace.nodes.factor import Factor
from ancestral.trace.program.checks import ValueTypeError
from ancestral.trace.recording.message import Handler, Request


class ObservedInterventionError(SiteError):
    """A site is to be observed that is set from outside."""

    def __init__(self, request: Request) -> None:
        """Name the site and its line."""
        super().__init__(
            f"site {request.name!r} ({request.where.location}) is set by do, within a block that "
            "is to condition it; expected a random choice, which what is set is not: leave it out "
            "of one of the two"
        )


class DeterministicValueError(SiteError):
    """A value that the program computes is to be set to one of another shape."""

    def __init__(self, request: Request, value: Tensor) -> None:
        """Name the site, its line, what was expected and what came."""
        assert request.value is not None
        super().__init__(
            f"do sets {request.name!r} ({request.where.location}) to a value of shape "
            f"{list(value.shape)}; expected one that broadcasts to {list(request.value.shape)}, "
            "the shape of what the program computes there"
        )


class _Given(ByName, ABC):
    """Gives samples, and what the program computes, values by name."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        """Take the values."""
        self.values = by_name(type(self).__name__, values)
        super().__init__(self.values)

    def ask(self, request: Request) -> Request:
        """Give a statement its value."""
        if request.kind == "sample":
            self.meet(request.name)
        if request.name not in self.values or request.kind not in ("sample", "deterministic"):
            return request
        self.meet(request.name)
        return self.give(request, self.values[request.name])

    @abstractmethod
    def give(self, request: Request, value: Tensor) -> Request:
        """Return the request with the value."""


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

    def give(self, request: Request, value: Tensor) -> Request:
        """Return the request, observed.

        Raises:
            ObservedInterventionError: if a handler within has set it from outside.
            DeterministicSiteError: if the program computes it.
        """
        if request.is_intervened:
            raise ObservedInterventionError(request)
        if request.kind == "deterministic":
            raise DeterministicSiteError(request, "condition")
        return replace(request, value=value, is_observed=True, origin=None)


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

    def give(self, request: Request, value: Tensor) -> Request:
        """Return the request, intervened on.

        Raises:
            ValueTypeError: if the value is no tensor.
            DeterministicValueError: if it does not fit the one that the program computes.
        """
        if not isinstance(value, Tensor):
            raise ValueTypeError(request, "a torch.Tensor", kind_of(value))
        if request.kind == "deterministic" and request.value is not None:
            try:
                value = value.expand(request.value.shape)
            except RuntimeError as error:
                raise DeterministicValueError(request, value) from error
        return replace(request, value=value, is_intervened=True, is_observed=False, origin=None)


class uncondition(Handler):  # noqa: N801
    """Draw the sites of a block that are observed: data is forgotten.

    A factor is no data, and stays. The data stays in the node's `infer`, as ``"was_observed"``.
    """

    def __init__(self) -> None:
        """Take nothing: the program comes afterwards."""

    def ask(self, request: Request) -> Request:
        """Take the data from an observed sample."""
        if request.kind != "sample" or not request.is_observed or request.is_intervened:
            return request
        if isinstance(request.fn, Factor):
            return request
        infer = {**request.infer, "was_observed": request.value}
        return replace(request, value=None, is_observed=False, infer=infer)
