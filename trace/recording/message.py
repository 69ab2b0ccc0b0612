"""Messages: statements of a program on their way through the open handlers.

A statement such as ``an.sample("z", fn)`` makes a message. It passes the open handlers from the
innermost to the outermost; each returns the message as it stands after it, with a value, a mask, a
scale. Open recordings are among the handlers, so that one that hides a message hides it from the
recordings around it, and from no other.
"""

import functools
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from operator import attrgetter
from types import TracebackType
from typing import Any, Literal, ParamSpec, Self, TypeVar

from torch import Tensor
from torch.distributions import Distribution

from ancestral.trace.context.argument_checks import check_function, explained, short
from ancestral.trace.context.place import Place
from ancestral.trace.context.stack import Recording
from ancestral.trace.nodes.enum_dims import Enumeration
from ancestral.trace.nodes.node import Node
from ancestral.trace.nodes.plate_frame import Plate

P = ParamSpec("P")
R = TypeVar("R")

Kind = Literal["sample", "param", "plate", "deterministic"]

Raised = tuple[type[BaseException] | None, BaseException | None, TracebackType | None]
"""The end of a block: the class of an error, the error and its traceback, or None thrice."""


@dataclass(frozen=True)
class Message:
    """What a statement of a program asks for, as far as it has been answered.

    Attributes:
        kind: what sort of statement it is.
        name: the name of the site.
        where: the line of the user, with the modules around it.
        fn: the distribution of a sample, its batch expanded to the plates around it.
        value: the value, None as long as nobody has given one.
        is_observed: whether the value is data.
        is_intervened: whether the value was put in the place of the statement, whose parents no
            longer matter.
        is_reparameterized: whether a draw is to be differentiable in its parameters.
        is_found: whether it is a draw of plain torch, which the program does not name.
        is_stopped: whether no handler further out, and no recording, may see it.
        infer: what the user says of how to infer it.
        mask: which elements of the batch count, broadcastable to it; None for all.
        scale: how often its log-probability counts, broadcastable to the batch.
        plates: the plates around it, outermost first.
        origin: the node of another trace that the value is taken from.
        traces: the recordings that have seen it, outermost first.
        options: what one kind has to say besides: the constraint of a parameter.
        enumeration: which dimensions of the batch stand for values of sites.
        deferred: what changes it last, when every handler has been asked.
        sampler: what draws the value, None for the distribution itself.
    """

    kind: Kind
    name: str
    where: Place
    fn: Distribution | None = None
    value: Tensor | None = None
    is_observed: bool = False
    is_intervened: bool = False
    is_reparameterized: bool = False
    is_found: bool = False
    is_stopped: bool = False
    infer: Mapping[str, Any] = field(default_factory=dict[str, Any])
    mask: Tensor | None = None
    scale: float | Tensor = 1.0
    plates: tuple[Plate, ...] = ()
    origin: Node | None = None
    traces: tuple[Recording, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    enumeration: Enumeration | None = None
    deferred: "Callable[[Message], Message] | None" = None
    sampler: Callable[[], Tensor] | None = None

    @property
    def is_latent(self) -> bool:
        """Whether it is a random choice that is no data."""
        return self.kind == "sample" and not self.is_observed and not self.is_intervened

    @property
    def is_spread(self) -> bool:
        """Whether it has several values at once, along its own dimension."""
        return self.enumeration is not None and self.enumeration.own is not None

    def answered(self, value: Tensor) -> "Message":
        """Return the message with its value; `replace` looks at every field, of each draw."""
        twin = object.__new__(Message)
        twin.__dict__.update(self.__dict__, value=value)
        return twin

    def defer(self, last: "Callable[[Message], Message]") -> "Message":
        """Return the message, which `last` changes when every handler has been asked."""
        first = self.deferred
        return replace(self, deferred=last if first is None else lambda r: last(first(r)))


class Handler:
    """What changes the messages of the block that it is open around, or of a function.

    ``with handler: model()`` and ``handler(model)()`` do the same. A handler has two hooks,
    `process` and `postprocess`; what needs the block as a whole extends `__enter__` and `__exit__`.
    """

    is_recorder = False
    """Whether it only looks on, so that plain draws need not ask it."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let a constructor that is called wrongly tell how it is called."""
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = explained(cls.__init__)  # type: ignore[method-assign]

    def __repr__(self) -> str:
        """Show what it is given: its public attributes, in few words."""
        given = (short(v) for k, v in vars(self).items() if not k.startswith("_") and v is not None)
        return f"{type(self).__name__}({', '.join(given)})"

    @property
    def origins(self) -> Mapping[str, Node]:
        """The nodes of another run whose values it may give to sites, by their name."""
        return {}

    def process(self, message: Message) -> Message:
        """Return the message as it goes on to the handlers further out."""
        return message

    def postprocess(self, message: Message) -> None:
        """Look at a message that has its value and was recorded, on its way back."""

    def __enter__(self) -> Self:
        """Open the block."""
        _stack.set((*_stack.get(), self))
        return self

    def __exit__(self, *raised: *Raised) -> None:
        """Close the block, which need not be the innermost: generators end when they like."""
        held = _stack.get()
        for index in reversed(range(len(held))):
            if held[index] is self:
                held = held[:index] + held[index + 1 :]
                break
        _stack.set(held)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return the function with this handler around every call.

        Raises:
            TypeError: if it is no function, or a generator or a coroutine, which would run outside.
        """
        check_function(type(self).__name__, function)

        @functools.wraps(function)
        def handled(*args: P.args, **kwargs: P.kwargs) -> R:
            with self:
                return function(*args, **kwargs)

        return handled


_stack: "ContextVar[tuple[Handler, ...]]" = ContextVar("open handlers", default=())


def handlers() -> tuple[Handler, ...]:
    """Return the open handlers of this thread or task, outermost first."""
    return _stack.get()


def unhandled() -> None:
    """Leave all handlers of this context."""
    _stack.set(())


def is_handled() -> bool:
    """Return whether any handler is open that may change what plain torch draws."""
    return not all(map(_only_looks, _stack.get()))


_only_looks: Callable[[Handler], bool] = attrgetter("is_recorder")


def apply_stack(message: Message, settle: Callable[[Message], Message]) -> Message:
    """Return a message as the open handlers, and then `settle`, which gives a value, leave it."""
    looking: list[Handler] = []
    for handler in reversed(_stack.get()):
        message = handler.process(message)
        if type(handler).postprocess is not Handler.postprocess:
            looking.append(handler)
        if message.is_stopped:
            break
    if message.deferred is not None:
        message = message.deferred(message)
    message = settle(message)
    for handler in reversed(looking):
        handler.postprocess(message)
    return message
