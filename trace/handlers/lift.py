"""Lift: parameters that become random choices with a prior.

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
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, constraints

from ancestral.provenance.algebra.alignment import Shape
from ancestral.trace.context.argument_checks import kind_of, short
from ancestral.trace.handlers.by_name import ByName, broadcasts
from ancestral.trace.params.constraints import initial, outside
from ancestral.trace.params.errors import misfit, wrong_param
from ancestral.trace.params.store import expected_shape
from ancestral.trace.program.checks import check_fn
from ancestral.trace.recording.message import Message, Raised
from ancestral.trace.recording.record import current
from ancestral.trace.recording.trace import Trace
from ancestral.trace.recording.unused_handlers import Effective

Prior = Distribution | Mapping[str, Distribution] | Callable[[Message], Distribution | None]


class lift(Effective, ByName):  # noqa: N801 (used as a verb: with lift(prior): ...)
    """Draw the parameters of a block from a prior: each becomes a sample of its name.

    Handlers around it see a sample, which they may condition, replay or seed; those within see a
    parameter, as they would without it. A prior is expanded to the shape of the parameter, all of
    which is one event, whatever plates are open. A parameter that is asked for more than once in
    one recording, or in one block where none is open, is one draw. The store keeps nothing of a
    parameter that is lifted.

    Args:
        prior: the distribution of all parameters; or of some, by name; or a function that returns
            that of a message, None to leave the parameter as it is.

    Raises:
        TypeError: if `prior` is none of these.
        UnknownSiteError: at the end of the block, if it has no parameter of a name in `prior`.
        SiteError: within it, if a prior does not fit its parameter, or draws what it cannot be.
    """

    missing = "its block has no parameter (an.param, an.module)"

    def __init__(self, prior: Prior) -> None:
        _check_prior(prior)
        super().__init__(prior if isinstance(prior, Mapping) else ())
        self.prior = prior
        self._drawn: list[dict[tuple[Trace | None, str], Tensor]] = []
        self._shapes: dict[str, Shape] = {}

    def __enter__(self) -> Self:
        """Open the block."""
        self._drawn.append({})
        return super().__enter__()

    def __exit__(self, *raised: *Raised) -> None:
        """Close the block.

        Raises:
            UnknownSiteError: if a prior was not asked for.
        """
        self._drawn.pop()
        super().__exit__(*raised)

    def process(self, message: Message) -> Message:
        """Let a parameter be a sample."""
        # One that a prior within has made a draw of is met too.
        self._is_used = self._is_used or "constraint" in message.options
        if message.kind != "param":
            return message
        self.meet(message.name)
        fn = None if message.value is not None else self._prior_of(message)
        if fn is None:
            return message
        drawn = self._drawn[-1].get((current(), message.name))
        if drawn is not None:  # all who could see it have
            return replace(message, value=drawn, traces=(), is_stopped=True)
        expanded = self._expanded(fn, message)
        reparameterized = bool(expanded.has_rsample)
        return replace(message, kind="sample", fn=expanded, is_reparameterized=reparameterized)

    def postprocess(self, message: Message) -> None:
        """Remember a draw, and refuse one that the parameter cannot be."""
        if message.kind == "param" or "constraint" not in message.options:
            return  # what was no parameter, or is one still
        assert message.value is not None
        asked = message.options["constraint"]
        constraint = constraints.real if asked is None else asked
        problem = outside(message.value, constraint)
        if problem is not None:
            drawn = f"by its prior a value {problem}"
            raise misfit(message, drawn, f"a prior within {short(constraint)}")
        self._drawn[-1][current(), message.name] = message.value

    def _prior_of(self, message: Message) -> Distribution | None:
        prior: Any = self.prior
        if isinstance(prior, Mapping):
            prior = prior.get(message.name)
        elif not isinstance(prior, Distribution) and callable(prior):
            prior = prior(message)
        if prior is not None:
            check_fn(message.name, prior, message.where)
        found: Distribution | None = prior
        return found

    def _expanded(self, fn: Distribution, message: Message) -> Distribution:
        """Return a prior over all of a parameter."""
        event = len(fn.event_shape)
        shape = self._shape_of(message)
        if shape is None:
            shape = (*fn.batch_shape, *fn.event_shape)
        batch = shape[: max(len(shape) - event, 0)]
        is_event = tuple(fn.event_shape) == shape[len(batch) :]
        if not is_event or not broadcasts(tuple(fn.batch_shape), batch):
            raise wrong_param(
                message,
                f"its prior {type(fn).__name__} has batch {list(fn.batch_shape)} and event "
                f"{list(fn.event_shape)}; expected shapes that expand to the parameter's "
                f"{list(shape)}",
            )
        expanded = fn.expand(torch.Size(batch))
        return Independent(expanded, len(batch)) if batch else expanded

    def _shape_of(self, message: Message) -> Shape | None:
        """Return the shape of a parameter; a function that makes it is called once for that."""
        known = expected_shape(message)
        if known is None:
            known = self._shapes.get(message.name)
        if known is None and message.options["init"] is not None:
            known = self._shapes[message.name] = tuple(initial(message).shape)
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
            f"message that returns one, not {kind_of(prior)}; the program comes afterwards, as in "
            "lift(prior)(model)"
        )
