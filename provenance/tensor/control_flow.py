"""Control flow: the effect of an escape to Python on all that is computed afterwards.

Python may branch on an escaped value, and what happens then depends on it though no tensor says so.
A decision is a source that stands for all that has escaped so far. It is given to what is computed
and drawn from then on, and, unless the user answers for them, to the terms that were finished
before, because Python may have chosen among them.
"""

import bisect
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import NamedTuple

from ancestral.provenance.algebra.provenance import Provenance, Source, Sources, Universe
from ancestral.provenance.tensor.linear_form import Form, serials


@dataclass(frozen=True)
class Setting:
    """What an escape does: raise, taint what comes later, blur the terms that were finished."""

    raises: bool = False
    taints: bool = False
    blurs: bool = False


SETTINGS = {
    "strict": Setting(taints=True, blurs=True),
    "after": Setting(taints=True),
    "error": Setting(raises=True),
    "ignore": Setting(),
}


def setting(control: str) -> Setting:
    """Return the setting of this name.

    Raises:
        ValueError: if there is none.
    """
    if not isinstance(control, str) or control not in SETTINGS:
        names = ", ".join(repr(name) for name in SETTINGS)
        came = repr(control)[:100] if isinstance(control, str) else f"a {type(control).__name__}"
        raise ValueError(f"control must be one of {names}, not {came}")
    return SETTINGS[control]


@dataclass(frozen=True)
class Escape:
    """One escape: what left tensor land, and where.

    `terms_blurred` is how many terms of the loss depend on it because Python may have branched, and
    for no other reason; None until a gradient was asked for.
    """

    sources: frozenset[str]
    filename: str
    line: int
    terms_blurred: int | None = None
    module: str = ""

    def __str__(self) -> str:
        """Show the place, the sources and what it costs."""
        cost = "" if self.terms_blurred is None else f" (terms blurred: {self.terms_blurred})"
        return f"{self.filename}:{self.line}: {', '.join(sorted(self.sources))}{cost}"


NONE: Sources = frozenset()


@dataclass(frozen=True)
class Noted:
    """An escape, the sources that left, and the decision that stands for it.

    `is_after` says that the recording had ended.
    """

    escape: Escape
    sources: Sources
    decision: Sources
    is_after: bool = False


class Began(NamedTuple):
    """Where a recording began: the `id` of the user's frame, and the offset of its instruction."""

    frame: int
    offset: int


@dataclass(frozen=True, eq=False)
class Ruling:
    """What an escape does in a recording, and the modules whose reads decide nothing there."""

    setting: Setting = SETTINGS["strict"]
    trust: tuple[str, ...] = ()


class _InScopes(NamedTuple):
    """A read while there are scopes: those it is in, and the decision that stands for it."""

    scopes: tuple[object, ...]
    decision: Provenance
    known: Sources
    blurs: bool


_within: ContextVar[tuple[object, ...]] = ContextVar("scopes of this context", default=())


_rulings: ContextVar[tuple[Ruling, ...]] = ContextVar("rulings of this context", default=())


def _both(found: Provenance | None, other: Provenance) -> Provenance:
    return other if found is None else found.union(other)


class Decisions:
    """What Python may have branched on in one universe.

    `current` is the decision that taints what is computed or drawn now, `finished` those that blur
    the terms that were finished before; both of shape []. `failures` are the errors that values
    made something raise, and what they said.
    """

    is_recording = False
    began: Began | None = None  # while it is open
    current: Provenance | None = None
    finished: Provenance | None = None
    # How many terms of the loss a decision blurs that was read from some sources.
    blurred: Callable[[Sources, Sources], int] | None = None
    _known: Sources = NONE  # what the current decision stands for already

    def __init__(self, setting: Setting = SETTINGS["strict"]) -> None:
        """Begin with nothing read, by this thread."""
        self.outermost = Ruling(setting)
        self._inner = set[Ruling]()  # of the recordings within that are open, in any context
        self.thread = threading.get_ident()
        self.noted: list[Noted] = []
        self.failures: list[tuple[Escape, str]] = []
        # What went into each external function so far.
        self.external: dict[object, Provenance] = {}
        # While there are scopes: how many, and what was read, in which of them.
        self._scopes = 0
        self._reads: list[_InScopes] = []
        # From which linear form on a decision was in force.
        self._since: list[tuple[int, Provenance | None]] = []

    @property
    def ruling(self) -> Ruling:
        """That of the innermost recording that is open in this context."""
        inner = [ruling for ruling in _rulings.get() if ruling in self._inner]
        return inner[-1] if inner else self.outermost

    def enter(self, ruling: Ruling) -> None:
        """Begin a recording within this one, in this context."""
        self._inner.add(ruling)
        _rulings.set((*_rulings.get(), ruling))

    def leave(self, ruling: Ruling) -> None:
        """End it, wherever it was begun."""
        self._inner.discard(ruling)
        _rulings.set(tuple(each for each in _rulings.get() if each is not ruling))

    def decide(self, found: Provenance, read: Sources, escape: Escape) -> None:
        """Let what comes next depend on a value that escaped, which depends on these sources."""
        universe = found.universe
        # After the block a value is read by what trains the program, not by the program.
        is_after = universe.is_of_recording and not self.is_recording
        decision = NONE if self.current is None else self.current.members
        setting = self.ruling.setting
        if setting.taints or is_after:
            if found.members - self._known:
                self._extend(found, f"{escape.filename}:{escape.line}")
            assert self.current is not None
            decision = self.current.members
            # The ops of another thread on plain tensors are not seen here.
            is_elsewhere = threading.get_ident() != self.thread
            blurs = not is_after and (setting.blurs or is_elsewhere)
            if is_after:
                universe.later = self.current
            elif blurs:
                self.finished = _both(self.finished, self.current)
            if self._scopes:
                self._reads.append(_InScopes(_within.get(), self.current, self._known, blurs))
        self.noted.append(Noted(escape, read, decision, is_after))

    def _extend(self, found: Provenance, place: str) -> None:
        """Make the decision that stands for the current one and for a value that escaped."""
        universe = found.universe
        behind = found.lost(()).kinked()  # a branch has no derivative
        if self.current is not None:
            behind = behind.union(self.current)
        decision = Source(f"the decision at {place}", (), universe, behind, is_decision=True)
        self._enter(universe.of(decision, ()), self._known | behind.members)

    def _enter(self, current: Provenance | None, known: Sources) -> None:
        self.current = current
        self._known = known if current is None else known | current.members
        self._since.append((next(serials), current))

    def end(self, universe: Universe) -> None:
        """End the recording: what was read in it decides on what is computed from now on as well.

        Unless all terms depend on that anyway.
        """
        self.is_recording, self.began = False, None
        if self.current is not self.finished:
            universe.later = self.current

    def at(self, serial: int) -> Provenance | None:
        """Return the decision that was in force when the linear form of this number was made."""
        index = bisect.bisect_left(self._since, serial, key=lambda change: change[0])
        return self._since[index - 1][1] if index else None

    @contextmanager
    def scope(self) -> Generator[None]:
        """Forget at the end of the block the decisions that it made, unless others read since.

        Those are other threads and tasks, whose decisions rest on ours as well.
        """
        current, finished, known = self.current, self.finished, self._known
        own, first = object(), len(self._reads)
        self._scopes += 1
        _within.set((*_within.get(), own))
        try:
            yield
        finally:
            _within.set(tuple(each for each in _within.get() if each is not own))
            for read in self._reads[first:]:
                if own not in read.scopes:
                    current, known = _both(current, read.decision), known | read.known
                    finished = _both(finished, read.decision) if read.blurs else finished
            self.finished = finished
            self._enter(current, known)
            self._scopes -= 1
            if not self._scopes:
                self._reads.clear()


def decisions_of(universe: Universe) -> Decisions:
    """Return what Python may have branched on in a universe."""
    if universe.decisions is None:
        universe.decisions = Decisions()
    decisions: Decisions = universe.decisions
    return decisions


def escapes_of(universe: Universe) -> tuple[Escape, ...]:
    """Return the escapes from a universe, in their order, with the number of terms blurred."""
    decisions = decisions_of(universe)
    count = decisions.blurred
    if count is None:
        return tuple(noted.escape for noted in decisions.noted)
    return tuple(
        replace(noted.escape, terms_blurred=count(noted.sources, noted.decision))
        for noted in decisions.noted
    )


def as_data(universe: Universe, members: Sources) -> Iterator[Source]:
    """Yield the sources that a set stands for, but for what decisions rest on."""
    pending, seen = list(members), set[Source]()
    while pending:
        source = pending.pop()
        if source not in seen:
            seen.add(source)
            if source.stands_for is None:
                yield source
            elif not source.is_decision:
                pending.extend(source.stands_for.members)


def is_constant(universe: Universe) -> bool:
    """Return whether a gradient of a recording was taken, and it has ended."""
    is_open = universe.decisions is not None and universe.decisions.is_recording
    return universe.state == "settled" or (universe.state == "used" and not is_open)


_is_anew: ContextVar[bool] = ContextVar("is anew", default=False)


@contextmanager
def computed_anew() -> Generator[None]:
    """Take what is computed in the block for what it was when it was first asked for."""
    token = _is_anew.set(True)
    try:
        yield
    finally:
        _is_anew.reset(token)


def now(found: Provenance | None) -> Provenance | None:
    """Return what a value depends on that is computed now, from what depends on `found`.

    That is nothing once a gradient was taken for good, and what Python read before as well, once
    the recording has ended.
    """
    if found is None or not found.universe.is_past:
        return found
    if found.universe.state == "settled":
        return None
    later = later_of(found.universe)
    return found if later is None else found.union(later.lost(found.shape))


def later_of(universe: Universe) -> Provenance | None:
    """Return what else depends on that is computed from values of a recording now, of shape []."""
    later: Provenance | None = universe.later
    return None if _is_anew.get() else later


def lasting(form: Form | None, universe: Universe) -> Form | None:
    """Return the linear form of what is computed now, None where it is to be a cost by itself.

    After a read, Python may have chosen the numbers that each element counts with. One number for
    all of them scales finished costs, which count regardless of the value.
    """
    if form is None or not universe.is_past or later_of(universe) is None or len(form) != 5:
        return form
    is_weighed = any(held.numel() > 1 for held, _ in form[3].versions)
    return None if is_weighed else form


recording: ContextVar[Universe | None] = ContextVar("recording", default=None)
"""The universe of the outermost recording that is open in this context."""


def controlling() -> Provenance | None:
    """Return the decision that whatever this context computes now depends on, of shape []."""
    universe = recording.get()
    if universe is None or universe.decisions is None:
        return None
    if universe.is_past and universe.state == "settled":
        return None
    decisions: Decisions = universe.decisions
    return decisions.current if decisions.is_recording else None


def concerned(found: Provenance) -> Iterator[Provenance]:
    """Yield what a value depends on, in its own recording and in the one that is open here.

    A value of another recording is here as unknown before as any draw.
    """
    here = recording.get()
    if found.universe.state != "apart" and not is_constant(found.universe):
        yield found
    if here not in (None, found.universe) and found.universe.is_of_recording:
        adopted = None if is_constant(here) else here.adopt(found)
        if adopted is not None:
            yield adopted


@contextmanager
def control_scope() -> Generator[None]:
    """End, with the block, the taint of the values that escaped within it.

    The user promises that no decision taken in the block outlives it, but for the tensors that were
    computed in it: no name bound, list filled or counter raised by a branch is read later. Outside
    a recording nothing happens.
    """
    universe = recording.get()
    if universe is None:
        yield
        return
    with decisions_of(universe).scope():
        yield
