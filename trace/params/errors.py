"""Errors of parameters: each names the parameter, the line, what was expected and what came."""

from ancestral.trace.context.errors import SiteError
from ancestral.trace.context.place import Location
from ancestral.trace.recording.message import Message


class ParamError(SiteError):
    """Something is wrong with a parameter of a program."""

    def __init__(self, message: Message, problem: str) -> None:
        """Name the parameter and its line, and say what is wrong."""
        super().__init__(f"parameter {message.name!r} ({message.where.location}): {problem}")


class NoStoreError(ParamError):
    """A parameter is asked for where nobody keeps any."""

    def __init__(self, message: Message) -> None:
        """Say what to open."""
        super().__init__(
            message,
            "no store is open that could keep it; make one, store = an.ParamStore(), and run the "
            "program within it, as in `with store: model()`, or give the value with "
            "an.handlers.substitute or an.handlers.lift",
        )


class ParamWarning(UserWarning):
    """A parameter is made later than an optimizer, or the state of a store, can know of."""


class LateParamWarning(ParamWarning):
    """A parameter is made after others of its store were trained."""

    def __init__(self, name: str, where: Location, trained: str) -> None:
        """Name it and its line, and say what to do."""
        super().__init__(
            f"parameter {name!r} ({where}) is new to the store, in which {trained!r} has changed "
            "already: an optimizer that was made before does not train it; run the program once "
            "before the optimizer is made, or tell it, with optimizer.add_param_group({'params': "
            f"[store.unconstrained({name!r})]}})"
        )


class NotLoadedWarning(ParamWarning):
    """A parameter is made in a store that has loaded a state without it."""

    def __init__(self, name: str, where: Location) -> None:
        """Name it and its line, and say what to do."""
        super().__init__(
            f"parameter {name!r} ({where}) begins with its init: the state that the store has "
            "loaded lacks it; load the state of the same program, or, if the rest is to be new, "
            "run the program before the state is loaded, with strict=False"
        )


class BoundCallError(SiteError):
    """A store is called by torch as if it was a network."""

    def __init__(self) -> None:
        """Say what to do."""
        super().__init__(
            "functional_call of a store would bind a function, and run it with other values than "
            "given; make the store a submodule of a network whose forward opens it, as in "
            "`with self.store: ...`, and give functional_call that network"
        )


class ParamInitError(ParamError):
    """A parameter cannot begin as the program says."""


class ParamMismatchError(ParamError):
    """A parameter is asked for as another than it is."""

    def __init__(
        self, message: Message, aspect: str, found: object, expected: object, first: Location | None
    ) -> None:
        """Name both lines, what was expected and what came."""
        known = "as it was loaded" if first is None else f"as it was first asked for at {first}"
        super().__init__(message, f"{aspect} is {found}; expected {expected}, {known}")


class ParamValueError(ParamError):
    """A handler gives a parameter a value that it cannot have."""

    def __init__(self, message: Message, found: object, expected: object) -> None:
        """Say what was expected and what came."""
        super().__init__(message, f"it is given {found}; expected {expected}")


class UnknownParamError(SiteError):
    """A store is asked for a parameter that it does not have."""

    def __init__(self, name: str, known: list[str]) -> None:
        """Name it, and those that there are."""
        super().__init__(
            f"the store has no parameter {name!r}; it has {', '.join(map(repr, known)) or 'none'}"
        )


class UnboundParamError(SiteError):
    """A store is asked for the value of a parameter of which it knows the unconstrained leaf."""

    def __init__(self, name: str) -> None:
        """Say what to do."""
        super().__init__(
            f"parameter {name!r} was loaded, and no program has asked for it yet, so that its "
            f"constraint is unknown; run the program first, or take store.unconstrained({name!r})"
        )
