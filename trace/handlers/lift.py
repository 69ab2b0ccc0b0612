"""Lifting: parameters that become random choices with a prior.

>>> import torch
>>> from torch.distributions import Normal
>>> from ancestral.trace.program.primitives import param
>>> from ancestral.trace.recording.record import record
>>> with record() as trace, lift(Normal(0.0, 1.0)):
...     weight = param("weight", torch.zeros(3))
>>> trace["weight"].type, trace["weight"].value.shape
('sample', torch.Size([3]))
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints

from ancestral.provenance.algebra.alignment import Shape
from ancestral.trace.context.arguments import kind_of, short
from ancestral.trace.handlers.by_name import ByName
from ancestral.trace.params.constraints import initial, outside
from ancestral.trace.params.errors import ParamError, ParamValueError
from ancestral.trace.params.store import expected_shape
from ancestral.trace.program.checks import check_fn
from ancestral.trace.recording.effects import Effective
from ancestral.trace.recording.message import Request
from ancestral.trace.recording.record import current
from ancestral.trace.recording.trace import Trace

Prior = Distribution | Mapping[str, Distribution] | Callable[[Request], Distribution | None]


class PriorShapeError(ParamError):
    """A prior does not fit the parameter that it is given to."""

    def __init__(self, request: Request, fn: Distribution, shape: Shape) -> None:
        """Name the prior, its shapes and that of the parameter."""
        super().__init__(
            request,
            f"its prior {type(fn).__name__} has batch {list(fn.batch_shape)} and event "
            f"{list(fn.event_shape)}; expected shapes that expand to the parameter's {list(shape)}",
        )


class lift(Effective, ByName):  # noqa: N801 (used as a verb: with lift(prior): ...)
    """Draw the parameters of a block from a prior: each becomes a sample of its name.

    Handlers around it see a sample, which they may condition, replay or seed; those within see a
    parameter, as they would without it. A prior is expanded to the shape of the parameter, all of
    which is one event, whatever plates are open. A parameter that is asked for more than once in
    one recording, or in one block where none is open, is one draw. The store keeps nothing of a
    parameter that is lifted.

    Args:
        prior: the distribution of all parameters; or of some, by name; or a function that returns
            that of a request, None to leave the parameter as it is.

    Raises:
        TypeError: if `prior` is none of these.
        UnknownSiteError: at the end of the block, if it has no parameter of a name in `prior`.
        SiteError: within it, if a prior does not fit its parameter, or draws what it cannot be.
    """

    missing = "its block has no parameter (an.param, an.module)"

    def __init__(self, prior: Prior) -> None:
        """Take the prior."""
        _check_prior(prior)
        super().__init__(prior if isinstance(prior, Mapping) else ())
        self.prior = prior
        self._drawn: list[dict[tuple[Trace | None, str], Tensor]] = []
        self._shapes: dict[str, Shape] = {}

    def __enter__(self) -> Self:
        """Open the block."""
        self._drawn.append({})
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the block.

        Raises:
            UnknownSiteError: if a prior was not asked for.
        """
        self._drawn.pop()
        super().__exit__(kind, error, traceback)

    def ask(self, request: Request) -> Request:
        """Let a parameter be a sample."""
        # One that a prior within has made a draw of is met too.
        self._is_used = self._is_used or "constraint" in request.options
        if request.kind != "param":
            return request
        self.meet(request.name)
        fn = None if request.value is not None else self._prior_of(request)
        if fn is None:
            return request
        drawn = self._drawn[-1].get((current(), request.name))
        if drawn is not None:  # all who could see it have
            return replace(request, value=drawn, traces=(), is_stopped=True)
        expanded = self._expanded(fn, request)
        reparameterized = bool(expanded.has_rsample)
        return replace(request, kind="sample", fn=expanded, is_reparameterized=reparameterized)

    def answered(self, request: Request) -> None:
        """Remember a draw, and refuse one that the parameter cannot be."""
        if request.kind == "param" or "constraint" not in request.options:
            return  # what was no parameter, or is one still
        assert request.value is not None
        asked = request.options["constraint"]
        constraint = constraints.real if asked is None else asked
        problem = outside(request.value, constraint)
        if problem is not None:
            drawn = f"by its prior a value {problem}"
            raise ParamValueError(request, drawn, f"a prior within {short(constraint)}")
        self._drawn[-1][current(), request.name] = request.value

    def _prior_of(self, request: Request) -> Distribution | None:
        prior: Any = self.prior
        if isinstance(prior, Mapping):
            prior = prior.get(request.name)
        elif not isinstance(prior, Distribution) and callable(prior):
            prior = prior(request)
        if prior is not None:
            check_fn(request.name, prior, request.where)
        found: Distribution | None = prior
        return found

    def _expanded(self, fn: Distribution, request: Request) -> Distribution:
        """Return a prior over all of a parameter."""
        event = len(fn.event_shape)
        shape = self._shape_of(request)
        if shape is None:
            shape = (*fn.batch_shape, *fn.event_shape)
        batch = shape[: len(shape) - event]
        if event > len(shape) or tuple(fn.event_shape) != shape[len(shape) - event :]:
            raise PriorShapeError(request, fn, shape)
        try:
            whole = torch.broadcast_shapes(fn.batch_shape, batch)
        except RuntimeError as error:
            raise PriorShapeError(request, fn, shape) from error
        if tuple(whole) != batch:
            raise PriorShapeError(request, fn, shape)
        expanded = fn.expand(torch.Size(batch))
        return Independent(expanded, len(batch)) if batch else expanded

    def _shape_of(self, request: Request) -> Shape | None:
        """Return the shape of a parameter; a function that makes it is called once for that."""
        known = expected_shape(request)
        if known is None:
            known = self._shapes.get(request.name)
        if known is None and request.options["init"] is not None:
            known = self._shapes[request.name] = tuple(initial(request).shape)
        return known


def _check_prior(prior: object) -> None:
    """Raise unless a prior may be one, before the program runs."""
    if isinstance(prior, Mapping):
        for name, fn in prior.items():
            if not isinstance(name, str):
                raise TypeError(f"lift takes priors by name, and {short(name)} is no text")
            if not isinstance(fn, Distribution):
                raise TypeError(f"the prior of {name!r} is {kind_of(fn)}; expected a distribution")
    elif not isinstance(prior, Distribution) and (isinstance(prior, type) or not callable(prior)):
        raise TypeError(
            f"lift takes a distribution, a mapping of names to distributions, or a function of a "
            f"request that returns one, not {kind_of(prior)}; the program comes afterwards, as in "
            "lift(prior)(model)"
        )
