"""Interceptors: what is switched on while any thread records, and off with the last recording."""

import gc
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.torch_internals import (
    DispatchKeySet,
    ExcludeDispatchKeyGuard,
    current_dispatch_mode,
    len_torch_function_stack,
    parse_dispatch_key,
    pop_top_mode,
    pop_torch_function_stack,
    push_mode,
    push_on_torch_function_stack,
)
from ancestral.trace.context.patch import (
    Descendants,
    Found,
    Group,
    Lasting,
    Patch,
    Staying,
    Waiting,
)
from ancestral.trace.context.stack import local
from ancestral.trace.context.unchanged import Classes, Places, Unchanged


class Interceptor:
    """Something that is switched on while a recording is open.

    `kinds` are the classes among whose descendants `found` looks.
    """

    kinds: Iterable[Descendants] = ()

    def patches(self) -> Iterable[Patch]:
        """Return the attributes that every recording replaces."""
        return ()

    def found(self) -> Iterable[Patch]:
        """Return what this recording replaces besides, such as methods of the classes of users."""
        return ()

    def prepare(self) -> None:
        """Do what is to be done once, before the first recording replaces anything."""

    def enter(self) -> None:
        """Switch on what is not an attribute, before any is replaced."""

    def leave(self) -> None:
        """Switch that off, after all were put back."""

    def enter_thread(self) -> None:
        """Switch on what each thread has for itself, where it joins a recording."""

    def leave_thread(self) -> None:
        """Switch that off, where no recording is left in this thread."""


class _Writes(Interceptor):
    """Looks operands up in the table of shared storages."""

    enter_thread = staticmethod(storage.begin)
    leave_thread = staticmethod(storage.end)


class _Seen(NamedTuple):
    """The classes that a recording has seen, and what it has found in those of users."""

    classes: Classes
    found: Found


class _Layout(NamedTuple):
    """How all was, and what is to be replaced in classes of users while it is so."""

    unchanged: Unchanged
    found: Found
    is_of_users: bool


class _Switch:
    """All interceptors, which are on while any thread records."""

    def __init__(self) -> None:
        self.is_on = False
        self.lock = threading.RLock()  # a recording may end within, by Python's collector
        self._open = 0
        self.given_back: list[Callable[[], None]] = []  # what puts what waits there again
        self._later: list[Group] = []  # what this recording has found
        self.install(())
        gc.callbacks.append(self._let_go)

    def install(self, interceptors: Iterable[Interceptor]) -> None:
        """Let recordings switch these on, in this order."""
        self.interceptors = (_Writes(), *interceptors)
        patches = [patch for each in self.interceptors for patch in each.patches()]
        swapped = [patch for patch in patches if not patch.stays]
        self._staying = [
            Staying(patch for patch in patches if patch.stays),
            Waiting((patch for patch in swapped if isinstance(patch.owner, type)), self),
        ]
        self._swapped = Lasting(patch for patch in swapped if not isinstance(patch.owner, type))
        self._as_before: _Layout | None = None
        self._seen: _Seen | None = None
        self._preparing = self._that_have("prepare")
        self._entering = self._that_have("enter")
        self._finding = self._that_have("found")
        self._leaving = self._that_have("leave")[::-1]
        self.joining = self._that_have("enter_thread")
        self.parting = self._that_have("leave_thread")[::-1]

    def _that_have(self, name: str) -> list[Callable[[], Any]]:
        return [
            getattr(each, name)
            for each in self.interceptors
            if getattr(type(each), name) is not getattr(Interceptor, name)
        ]

    @property
    def replaced(self) -> list[Patch]:
        """What the open recordings replace."""
        groups = (*self._staying, self._swapped, *self._later)
        return [patch for group in groups for patch in group.patches]

    def enter(self) -> None:
        """Switch them on, unless another recording has."""
        with self.lock:
            if not self._open:
                try:
                    self._begin()
                except BaseException:
                    self._end()
                    raise
            self._open += 1

    def leave(self) -> None:
        """Switch them off with the last recording."""
        with self.lock:
            self._open -= 1
            if not self._open:
                self._end()

    def _begin(self) -> None:
        self.is_on = True
        for enter in self._entering:
            enter()
        while self.given_back:
            self.given_back.pop()()
        known = self._as_before  # which the collector may take away at any time
        if known is not None and known.unchanged:
            self._swapped.replace_known()
            if known.found.patches:
                self._later.append(known.found)
                known.found.replace_known()
        else:
            self._look()

    def _look(self) -> None:
        """Replace what is there, whatever has become of it."""
        self._as_before = None
        while self._preparing:
            self._preparing[0]()
            del self._preparing[0]
        patches = [patch for group in self._staying for patch in group.replace_own()]
        self._swapped.replace()
        # All of this before anybody looks into it: what changes meanwhile is not as it was.
        seen, kinds = self._seen, self._kinds
        is_settled = seen is not None and seen.classes.are_all()
        classes = Classes.joined(Classes.of(each.root) for each in kinds)
        places = [each.places() for each in kinds] if is_settled else []
        for find in self._finding:
            patches += find()
        found = Found(patches, None if seen is None else seen.found)
        if patches:
            self.replace(found)
        if is_settled and kinds == self._kinds:
            self._lay_out(found, places, classes)
        self._seen = _Seen(classes, found)

    @property
    def _kinds(self) -> list[Descendants]:
        return [kinds for each in self.interceptors for kinds in each.kinds]

    def _lay_out(self, found: Found, places: Sequence[Places], classes: Classes) -> None:
        """Note how all is, for the recordings to come, when classes were the same twice."""
        found.lay_out()
        others = Places.joined([found.expected, *places])
        staying = Places.joined(group.expected for group in self._staying)
        unchanged = Unchanged(self._swapped.expected, staying, others, classes)
        self._as_before = _Layout(unchanged, found, bool(others.names))

    def _let_go(self, phase: str, info: Mapping[str, int]) -> None:
        """Hold no class of users any more when Python begins to look for what nobody holds."""
        if phase == "start" and info["generation"] == _OLDEST:
            self._seen, known = None, self._as_before
            if known is not None and known.is_of_users:
                self._as_before = None

    def _end(self) -> None:
        self.is_on = False
        while self._later:
            self._later.pop().restore()
        self._swapped.restore()
        for leave in self._leaving:
            leave()

    def look_anew(self) -> None:
        """Let the next recording find what there is to replace, though nothing has changed."""
        self._as_before = None

    def replace(self, group: Group) -> None:
        """Replace more until the last recording ends, nothing if none is open."""
        with self.lock:
            if self.is_on:
                self._later.append(group)
                group.replace()

    def has(self, group: Group) -> bool:
        """Return whether a group is replaced until the last recording ends."""
        return group in self._later

    def swap(self, patches: Iterable[Patch]) -> None:
        """Replace more attributes of modules in recordings to come."""
        self._swapped = Lasting((*self._swapped.patches, *patches))

    def stay(self, patches: Iterable[Patch]) -> None:
        """Replace more, which stays replaced after the last recording."""
        self._add(Staying(patches))

    def wait(self, patches: Iterable[Patch]) -> None:
        """Replace more attributes of classes, which wait from the last recording to the next."""
        self._add(Waiting(patches, self))

    def _add(self, group: Staying) -> None:
        with self.lock:
            self._staying.append(group)
            group.replace_own()

    def give_back(self) -> None:
        """Put back all that waits, unless a recording is open, or opens in another thread."""
        for group in self._staying:
            if isinstance(group, Waiting):
                group.give_back(*group.patches)

    def restore(self) -> None:
        """Put all back, unless a recording is open."""
        with self.lock:
            if self._open:
                raise RuntimeError(_OPEN)
            self.given_back.clear()
            self._swapped.restore()  # what others may have put back since
            for group in self._staying:
                group.restore()

    def abandon(self) -> None:
        """Switch them off in a process that was forked, whatever its parent was recording."""
        self.lock = threading.RLock()  # another thread of the parent may have held it
        self._open = 0
        if self.is_on:
            self._end()
        for leave in self.parting:
            leave()


_OLDEST = 2  # what has outlived two looks at all that is new
_OPEN = (
    "an.restore_torch() was called while a recording is open, in this thread or in another, and "
    "that needs what it has replaced in torch; call it after the block, or end the generator or "
    "the task that holds the recording open"
)
switch = _Switch()
"""The interceptors of all recordings."""


def restore_torch() -> None:
    """Put back, at once, all that recordings have replaced in torch.

    While a recording is open, attributes of torch are replaced, those of modules until the last one
    ends. Those of classes wait for the next, and are torch's own, the very objects, to whoever asks
    for one in between. The methods of `torch.distributions` that make a distribution, draw from it
    and score a draw stay replaced, and answer as before where no recording is open. After this call
    all of them are torch's own in the dictionaries of the classes too; the next recording replaces
    them again. What somebody else has put in the place of one stays there.

    >>> import torch
    >>> import ancestral as an
    >>> an.restore_torch()
    >>> own = torch.distributions.Bernoulli.sample
    >>> with an.record():
    ...     z = torch.distributions.Bernoulli(torch.ones(())).sample()
    >>> torch.distributions.Bernoulli.sample is own
    False
    >>> an.restore_torch()
    >>> torch.distributions.Bernoulli.sample is own
    True

    Raises:
        RuntimeError: if a recording is open, in this thread or in another.
    """
    switch.restore()


def join() -> None:
    """Let this thread take part in the open recordings of its context."""
    local.recordings += 1
    for enter in switch.joining:
        enter()


def part() -> None:
    """Let this thread take part once less."""
    local.recordings -= 1
    if not local.recordings:
        for leave in switch.parting:
            leave()


@contextmanager
def joined() -> Generator[None]:
    """Let this thread take part in the open recordings of its context."""
    try:
        join()
        yield
    finally:
        part()


def pop_function_mode(mode: Any) -> None:
    """Take a mode off the stack of torch functions."""
    above: list[Any] = []
    while len_torch_function_stack():
        top = pop_torch_function_stack()
        if top is mode:
            break
        above.append(top)
    for other in reversed(above):
        push_on_torch_function_stack(other)


def pop_dispatch_mode(mode: Any) -> None:
    """Leave a mode of the dispatcher."""
    above: list[Any] = []
    leave: Any = mode.__exit__
    while current_dispatch_mode() not in (mode, None):
        above.append(pop_top_mode())
    if current_dispatch_mode() is mode:
        leave(None, None, None)
    for other in reversed(above):
        push_mode(other)


# A dispatch key that torch keeps free for tests of the dispatcher: above autograd, in nobody's way.
KEY_NAME = "TESTING_ONLY_GenericMode"
KEY: Any = parse_dispatch_key(KEY_NAME)


unmet: Callable[[], Any] = partial(ExcludeDispatchKeyGuard, DispatchKeySet(KEY))
"""Returns a block within which neither draws nor numbers are met in the dispatcher."""
