"""Conditioning: which sites are data, and which are set from outside."""

from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Self

from torch import Tensor

from ancestral.trace.checks import ValueTypeError
from ancestral.trace.errors import SiteError
from ancestral.trace.naming import Location, place
from ancestral.trace.request import Handler, Request


class UnknownSiteError(SiteError):
    """A value is given to a site that the program has not."""

    def __init__(self, verb: str, missing: list[str], met: list[str], where: Location) -> None:
        """Name the sites that were not met, and those that were."""
        super().__init__(
            f"{verb} at {where}: the program has no site {', '.join(map(repr, missing))}; the "
            f"others that it has are {', '.join(map(repr, met)) or 'none'}"
        )


def by_name(verb: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the values that a handler is given, by the name of the site.

    Raises:
        TypeError: if they are no mapping.
    """
    if not isinstance(values, Mapping):
        raise TypeError(
            f"{verb} takes a mapping of names to values, not a {type(values).__name__}; a function "
            f"comes afterwards, as in {verb}(values)(model)"
        )
    return dict(values)


class _Met(Handler):
    """Gives values by name, and raises at the end of a block that did not ask for all of them."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        """Take the values."""
        self.values = by_name(type(self).__name__, values)
        self._where = place().location
        self._blocks: list[list[str]] = []

    def __enter__(self) -> Self:
        """Open the block."""
        self._blocks.append([])
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the block.

        Raises:
            UnknownSiteError: if a value was not asked for.
        """
        super().__exit__(kind, error, traceback)
        met = self._blocks.pop()
        missing = [name for name in self.values if name not in met]
        if missing and error is None:
            free = [name for name in met if name not in self.values]
            raise UnknownSiteError(type(self).__name__, missing, free, self._where)

    def ask(self, request: Request) -> Request:
        """Give a sample its value."""
        if request.kind != "sample":
            return request
        if self._blocks:
            self._blocks[-1].append(request.name)
        if request.name not in self.values:
            return request
        return self.give(request, self.values[request.name])

    def give(self, request: Request, value: Tensor) -> Request:
        """Return the request with the value."""
        raise NotImplementedError


class condition(_Met):  # noqa: N801 (used as a verb: with condition({"x": data}): ...)
    """Observe sites of a block: each gets its value as data, which takes the place of any other.

    Args:
        values: the data by the name of the site.

    Raises:
        TypeError: if the values are no mapping.
        UnknownSiteError: at the end of the block, if it has no such site.
        SiteError: within it, if a value has a wrong type, shape or support.
    """

    def give(self, request: Request, value: Tensor) -> Request:
        """Return the request, observed."""
        return replace(request, value=value, is_observed=True, origin=None)


class do(_Met):  # noqa: N801
    """Set sites of a block from outside, which cuts them off from their parents.

    A site becomes a value that nothing explains: it has neither parents nor a log-probability, and
    what depends on it goes on with the value. Pearl (2009), "Causality", section 3.2.

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
        """
        if not isinstance(value, Tensor):
            raise ValueTypeError(request, "a torch.Tensor", f"a {type(value).__name__}")
        return replace(request, value=value, is_intervened=True, is_observed=False, origin=None)


class uncondition(Handler):  # noqa: N801
    """Draw the sites of a block that are observed: data is forgotten.

    The data stays in the node's `infer`, as ``"was_observed"``.
    """

    def ask(self, request: Request) -> Request:
        """Take the data from an observed sample."""
        if request.kind != "sample" or not request.is_observed or request.is_intervened:
            return request
        infer = {**request.infer, "was_observed": request.value}
        return replace(request, value=None, is_observed=False, infer=infer)
