"""Markov chains: steps of which each depends on a few before it alone.

>>> [step for step in markov(range(3))]
[0, 1, 2]
"""

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from ancestral.trace.context.argument_checks import kind_of, short
from ancestral.trace.nodes.plate_frame import open_plates
from ancestral.trace.recording.message import Handler, handlers

T = TypeVar("T")

Step = int | tuple[object, ...] | None
Scope = tuple[tuple[object, Step], ...]
"""The windows and the plates in turn that a site is in, each with the step that it is of."""


class Window(Handler):
    """The steps that are in sight of the one that is being run.

    They are numbers, or, of a function that calls itself, the calls that are open.
    """

    is_recorder = True

    def __init__(self, history: int) -> None:
        self.history = history
        self.step: int | tuple[object, ...] = -1


class markov(Generic[T]):  # noqa: N801 (used as in Pyro: for t in markov(range(10)): ...)
    """Yield steps, each of which may depend on the `history` steps before it, and on no others.

    Sites that `enumerate` enumerates in the block give their dimensions back once they are out of
    sight: a chain needs ``history + 1`` of them, however long it is. What depends on a site that is
    out of scope, within the loop or after it, raises. Without `enumerate` the steps just follow
    each other.

    Args:
        steps: what to yield.
        history: how many steps before its own a step may depend on.

    Raises:
        TypeError: if `steps` cannot be gone through.
        ValueError: if `history` is no number of steps.
    """

    def __init__(self, steps: Iterable[T], history: int = 1) -> None:
        if not isinstance(steps, Iterable):
            raise TypeError(
                f"markov takes the steps to go through, such as range(10), not {kind_of(steps)}"
            )
        if not isinstance(history, int) or isinstance(history, bool) or history < 0:
            raise ValueError(f"history must be an int, 0 or greater, not {short(history)}")
        self.steps = steps
        self.history = history

    def __iter__(self) -> Iterator[T]:
        """Yield the steps, each in sight of those before it."""
        window = Window(self.history)
        for step, item in enumerate(self.steps):
            window.step = step
            with window:
                yield item


def scope() -> Scope:
    """Return where the program is: in which step of which windows and plates in turn."""
    windows: Scope = tuple([(h, h.step) for h in handlers() if isinstance(h, Window)])
    turns: Scope = tuple([(plate.name, plate.turn) for plate in open_plates()])
    return (*windows, *[each for each in turns if each[1] is not None])


def is_in_sight(place: Scope, now: Scope) -> bool:
    """Return whether what is of one place can still be depended on in another."""
    return _is_open(place, now, is_near=True)


def may_come_back(place: Scope, now: Scope) -> bool:
    """Return whether it can be depended on, now or when calls have returned."""
    return _is_open(place, now, is_near=False)


def _is_open(place: Scope, now: Scope, *, is_near: bool) -> bool:
    steps = dict(now)
    return all(
        _is_behind(step, steps[key], _reach(key), is_near=is_near) if key in steps else False
        for key, step in place
    )


def _is_behind(step: Step, now: Step, reach: int, *, is_near: bool) -> bool:
    """Return whether a step is among the last before another; of calls, whether it is open."""
    if isinstance(step, tuple) and isinstance(now, tuple):
        is_around = step == now[: len(step)]
        return is_around and not (is_near and len(now) - len(step) > reach)
    if isinstance(step, int) and isinstance(now, int):
        return 0 <= now - step <= reach
    return step == now


def _reach(key: object) -> int:
    return key.history if isinstance(key, Window) else 0
