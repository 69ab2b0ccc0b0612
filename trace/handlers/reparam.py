"""Reparameterization: sites that are drawn in another way, with the same distribution.

The site becomes deterministic: a function, differentiable in the parameters, of auxiliary sites.
Posteriors that are hard to follow in the one coordinates are easy in the others. Papaspiliopoulos,
Roberts and Skoeld (2007), "A general framework for the parametrization of hierarchical models";
Gorinova, Moore and Hoffman (2020), "Automatic reparameterisation of probabilistic programs".

>>> import torch
>>> from torch.distributions import Normal
>>> from ancestral.trace.handlers.strategies import LocScale
>>> from ancestral.trace.program.primitives import sample
>>> from ancestral.trace.recording.record import record
>>> with record() as trace, reparam({"x": LocScale()}):
...     x = sample("x", Normal(3.0, 0.5))
>>> {name: node.type for name, node in trace.items()}
{'x_decentered': 'sample', 'x': 'deterministic'}
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import replace
from types import FunctionType
from typing import Protocol

from torch import Tensor

from ancestral.trace.context.argument_checks import kind_of, short
from ancestral.trace.enumeration.enumerate import open_room
from ancestral.trace.handlers.by_name import ByName, HandlerError
from ancestral.trace.recording.message import Message


class Strategy(Protocol):
    """Another way to draw a site."""

    def __call__(self, message: Message, /) -> Tensor:
        """Ask for auxiliary sites, and return the value that they make."""
        ...


Config = Mapping[str, Strategy] | Callable[[Message], Strategy | None]


class ReparamError(HandlerError):
    """A site cannot be drawn in the way that it is to be."""


def _cannot(message: Message, strategy: str, problem: str, expected: str) -> ReparamError:
    """Return the error of a site, with its line, what was expected and what came."""
    return ReparamError(
        f"site {message.name!r} ({message.where.location}): {strategy} {problem}; "
        f"expected {expected}"
    )


def cannot_draw(message: Message, fn: object, strategy: str, expected: str) -> ReparamError:
    """Return the error of a strategy that does not know the distribution of a site."""
    return _cannot(message, strategy, f"cannot draw a {type(fn).__name__}", expected)


class reparam(ByName):  # noqa: N801 (used as a verb: with reparam(config): ...)
    """Draw sites of a block in another way, with the same distribution.

    A site stays in the trace, as a deterministic one of its name; what is drawn are the auxiliary
    sites of its strategy, in the same plates. These pass all handlers of the block, this one too,
    as any other site: they may be drawn in another way again. A function need not tell them apart:
    what a kind of strategy draws is not drawn by the same kind again, unless a mapping names it. A
    site whose value is given is
    left as it is, for nothing is drawn there: one that is observed, and one that a handler within
    this one conditions, substitutes, replays or intervenes on. Handlers around this one see the
    auxiliary sites in its place.

    Args:
        config: the strategy of a site by its name; or a function that returns that of a message,
            None to leave the site as it is.

    Raises:
        TypeError: if `config` is neither, or a strategy itself.
        UnknownSiteError: at the end of the block, if it has no site of a name in `config`.
        SiteError: within it, if a strategy does not know the distribution of its site.
    """

    def __init__(self, config: Config) -> None:
        _check_config(config)
        super().__init__(config if isinstance(config, Mapping) else ())
        self.config = config

    def process(self, message: Message) -> Message:
        """Let a site be a function of others."""
        if message.kind != "sample":
            return message
        self.meet(message.name)
        if message.value is not None:
            return message
        assert message.fn is not None
        strategy = self._strategy_of(message)
        if strategy is None:
            return message
        if isinstance(strategy, type):
            kind = strategy.__name__
            raise cannot_draw(message, message.fn, f"the class {kind}", f"one of it, {kind}()")
        if not callable(strategy):
            expected = "a strategy such as LocScale(), or None to leave the site as it is"
            raise cannot_draw(message, message.fn, kind_of(strategy), expected)
        token = _drawing.set((*_drawing.get(), (self, _kind_of(strategy))))
        try:
            value = strategy(message)
        finally:
            _drawing.reset(token)
        _check_value(message, strategy, value)
        return replace(
            message,
            kind="deterministic",
            fn=None,
            value=value,
            is_reparameterized=False,
            mask=None,
            scale=1.0,
            options={**message.options, "event_dim": len(message.fn.event_shape)},
        )

    def _strategy_of(self, message: Message) -> Strategy | None:
        if isinstance(self.config, Mapping):
            return self.config.get(message.name)
        strategy = self.config(message)
        is_drawing = strategy is not None and (self, _kind_of(strategy)) in _drawing.get()
        return None if is_drawing else strategy


# Which kinds of strategies of which handlers are drawing now.
_drawing: "ContextVar[tuple[tuple[reparam, object], ...]]" = ContextVar("drawing", default=())


def _check_value(message: Message, strategy: Strategy, value: object) -> None:
    """Raise unless what a strategy made is a value of its site."""
    assert message.fn is not None
    shape = [*message.fn.batch_shape, *message.fn.event_shape]
    came = kind_of(value)
    if isinstance(value, Tensor):
        if list(value.shape) == shape or open_room() is not None:
            return
        came = f"one of shape {list(value.shape)}"
    name = getattr(strategy, "__name__", type(strategy).__name__)
    expected = f"a torch.Tensor of shape {shape}, the batch and the event of "
    raise _cannot(message, name, f"made {came}", expected + type(message.fn).__name__)


def _check_config(config: object) -> None:
    if isinstance(config, type) or Strategy in type(config).__mro__:
        shown = f"{short(config)}{'()' if isinstance(config, type) else ''}"
        raise TypeError(
            f"reparam takes strategies by the names of sites, as in reparam({{'z': {shown}}}), or "
            "a function that returns that of a message, not a strategy itself"
        )
    if isinstance(config, Mapping):
        for name, strategy in config.items():
            if not isinstance(name, str) or not callable(strategy):
                raise TypeError(
                    f"reparam takes strategies by the names of sites, such as LocScale(), not "
                    f"{short(name)}: {short(strategy)}"
                )
    elif not callable(config):
        raise TypeError(
            "reparam takes a mapping of names to strategies, or a function that returns that of a "
            f"message, not {kind_of(config)}"
        )


def _kind_of(strategy: Strategy) -> object:
    return strategy if isinstance(strategy, FunctionType) else type(strategy)
