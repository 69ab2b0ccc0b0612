"""Enumeration: the finite sites of a block take all their values at once.

Where a draw takes one of K values, an enumerated site takes all of them, along a dimension of its
own to the left of all others, and what depends on it follows by broadcasting. The log-probabilities
of one such run are those of all joint values; `ancestral.log_marginal` sums over them.

>>> import torch
>>> from torch.distributions import Bernoulli, Normal
>>> from ancestral.trace.program.primitives import sample
>>> from ancestral.trace.recording.record import record
>>> with record() as trace, enumerate(first_dim=-2):
...     z = sample("z", Bernoulli(torch.tensor(0.3)))
...     x = sample("x", Normal(z, torch.ones(5)), obs=torch.zeros(5))
>>> z.shape, trace["x"].log_prob.shape
(torch.Size([2, 1]), torch.Size([2, 5]))
"""

from dataclasses import replace
from typing import Self

from torch import Tensor

from ancestral.trace.context.arguments import short
from ancestral.trace.enumeration.dims import Dimensions
from ancestral.trace.enumeration.errors import (
    EnumerateChoiceError,
    FoundDrawError,
    NestedEnumerationError,
    NotEnumeratedWarning,
    PlateCollisionError,
    UnboundedSupportError,
)
from ancestral.trace.enumeration.values import has_values, values_of
from ancestral.trace.nodes.enumerated import Enumeration, Variable, trailing
from ancestral.trace.recording.effects import warn_of
from ancestral.trace.recording.message import Handler, Request, handlers


class enumerate(Handler):  # noqa: A001, N801 (the name that users of Pyro know)
    """Let the latent sites of a block whose distribution has finitely many values take them all.

    A site that is given a value, by `condition`, `replay` or another handler, inside or outside,
    has that one. ``infer={"enumerate": False}``, or `infer_config`, leaves a site to be drawn. So
    is a site of infinitely many values, and, with a warning, a draw of plain torch: name it by
    `an.sample`. An event of independent elements (`Independent`, `Multinomial`) takes all that they
    can be together, up to 4,096 values.

    The value of a site is [K, 1 ..., *plates, *event]; what depends on it has to keep the values,
    and the repetitions of plates, apart: it is checked, and that no value escapes into Python.
    The densities of such a run are summed out by `ancestral.log_marginal` and `ancestral.elbo`.

    Args:
        first_dim: the dimension of the batch for the first site, to the left of all plates and
            batch dimensions; further sites follow to its left. The default leaves room for four.

    Raises:
        ValueError: if `first_dim` is no negative int.
        EnumerationError: within the block, if a site cannot be enumerated, if something else has
            its dimension, or if what depends on it mixes its values.
    """

    def __init__(self, first_dim: int = -5) -> None:
        """Take the dimension."""
        if not isinstance(first_dim, int) or isinstance(first_dim, bool) or first_dim >= 0:
            raise ValueError(
                "enumerate: first_dim must be a negative int, counted from the right, left of "
                f"all plates and batches, not {short(first_dim)}"
            )
        self.first_dim = first_dim
        self._dimensions = Dimensions(first_dim)

    def __enter__(self) -> Self:
        """Open the block, with all dimensions free.

        Raises:
            NestedEnumerationError: if another is open.
        """
        if any(isinstance(handler, enumerate) for handler in handlers()):
            raise NestedEnumerationError
        self._dimensions = Dimensions(self.first_dim)
        return super().__enter__()

    def ask(self, request: Request) -> Request:
        """Decide on a sample once all handlers have said what they know of it."""
        if request.kind == "plate":
            dim = request.infer["dim"]
            if dim is not None and dim <= self.first_dim:
                raise PlateCollisionError(request, dim, self.first_dim)
        return request.closed_by(self._closed) if request.kind == "sample" else request

    def answered(self, request: Request) -> None:
        """Remember what the value of a sample is."""
        if request.enumeration is not None:
            self._dimensions.note(request)

    def _closed(self, request: Request) -> Request:
        """Give a sample all its values, if it has none and can list them."""
        if request.is_intervened or request.fn is None:
            return request
        variables = self._dimensions.in_sight()
        request = replace(request, enumeration=Enumeration(self.first_dim, variables))
        replayed = None if request.origin is None else request.origin.enumeration
        if replayed is not None and replayed.own is not None:
            request = _own(request, self._dimensions.take(request, replayed.own))
        self._dimensions.check(request, variables)
        values = _values(request) if self._is_to_be_enumerated(request) else None
        if values is None:
            return request
        own = self._dimensions.allocate(request, values.shape[0], _reserved())
        return _own(replace(request, value=_spread(request, values, own.dim)), own)

    def _is_to_be_enumerated(self, request: Request) -> bool:
        if request.value is not None:
            return False
        choice = request.infer.get("enumerate")
        is_known = isinstance(choice, bool | str | None)
        if not is_known or choice not in (None, True, False, "parallel"):
            raise EnumerateChoiceError(request, choice)
        assert request.fn is not None
        is_finite = choice is not False and has_values(request.fn)
        if choice and not is_finite:
            raise UnboundedSupportError(
                request, "has infinitely many values, or does not tell that they are finitely many"
            )
        if is_finite and request.is_found:
            if choice:
                raise FoundDrawError(request)
            warn_of(request.where.location, NotEnumeratedWarning(request))
        return is_finite and not request.is_found


def open_room() -> int | None:
    """Return how many dimensions of a batch, from the right, are no values, None for all."""
    for handler in handlers():
        if isinstance(handler, enumerate):
            return -handler.first_dim - 1
    return None


def _own(request: Request, variable: Variable) -> Request:
    assert request.enumeration is not None
    known = {**request.enumeration.variables, variable.dim: variable}
    return replace(request, enumeration=replace(request.enumeration, variables=known, own=variable))


def _values(request: Request) -> Tensor | None:
    """Return the values of a site, [K, *event], None where a draw is the only one."""
    assert request.fn is not None
    try:
        return values_of(request.fn)
    except NotImplementedError as error:
        raise UnboundedSupportError(request, str(error)) from error


def _spread(request: Request, values: Tensor, dim: int) -> Tensor:
    """Return the values along a dimension of their own, and over the plates: [K, 1 ..., *batch]."""
    fn, enumeration = request.fn, request.enumeration
    assert fn is not None
    assert enumeration is not None
    batch = trailing(fn.batch_shape, enumeration.room)
    between = -dim - 1 - len(batch)
    shape = (values.shape[0], *(1,) * between)
    event = tuple(fn.event_shape)
    whole = values.reshape(*shape, *(1,) * len(batch), *event).expand(*shape, *batch, *event)
    return whole


def _reserved() -> frozenset[int]:
    """Return the dimensions of the sites that open handlers may replay."""
    return frozenset(
        node.enumeration.own.dim
        for handler in handlers()
        for node in handler.origins.values()
        if node.enumeration is not None and node.enumeration.own is not None
    )
