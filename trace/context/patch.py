"""Patches of torch that are applied while a recording is open, and removed after it."""

import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

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
from ancestral.trace.context.stack import local


class Interceptor:
    """Something that is switched on while a recording is open."""

    def enter(self) -> None:
        """Switch it on."""

    def leave(self) -> None:
        """Switch it off, and leave torch as it was."""

    def abandon(self) -> None:
        """Switch it off in a process that was forked, for all that was recording in the parent."""
        self.leave_thread()

    def enter_thread(self) -> None:
        """Switch on what each thread has for itself, where it joins a recording."""

    def leave_thread(self) -> None:
        """Switch that off, where no recording is left in this thread."""


class Replacing(Interceptor):
    """Replaces attributes of torch while any thread records, and puts them back.

    What `begin` replaces is noted, and replaced again by every later recording as long as nobody
    else has changed it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._originals: list[tuple[Any, str, Any]] = []
        self._plan: list[tuple[Any, str, Any, Any]] = []  # with what takes their places

    def enter(self) -> None:
        """Replace, unless another recording has."""
        with self._lock:
            self._open += 1
            if self._open == 1:
                if not self._replace_again():
                    self.begin()
                    self._plan = [(o, n, was, vars(o)[n]) for o, n, was in self._originals]
                self.meet()

    def leave(self) -> None:
        """Put everything back with the last recording."""
        with self._lock:
            self._open -= 1
            if self._open == 0:
                self.end()
                self._put_back()

    def abandon(self) -> None:
        """Put everything back."""
        self._lock = threading.Lock()  # another thread of the parent may have held it
        if self._open:
            self._open = 1
            self.leave()

    def replace(self, owner: Any, name: str, replacement: Any) -> None:
        """Replace an attribute until the last recording ends."""
        self._originals.append((owner, name, owner.__dict__.get(name, _ABSENT)))
        setattr(owner, name, replacement)

    def _replace_again(self) -> bool:
        """Replace what was replaced before; return whether everything is there as it was then."""
        for owner, name, was, replacement in self._plan:
            if owner.__dict__.get(name, _ABSENT) is not was:
                self._put_back()
                return False
            self._originals.append((owner, name, was))
            setattr(owner, name, replacement)
        return bool(self._plan)

    def _put_back(self) -> None:
        for owner, name, original in reversed(self._originals):
            if original is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, original)
        self._originals.clear()

    def begin(self) -> None:
        """Replace what is always there to be replaced."""

    def meet(self) -> None:
        """Replace besides what may be there or not, such as classes of users."""

    def end(self) -> None:
        """Undo what is not an attribute."""


_ABSENT = object()


class _Writes(Interceptor):
    """Looks operands up in the table of shared storages."""

    def enter_thread(self) -> None:
        """Begin, where an older write is still of interest."""
        storage.purge()
        storage.watch()

    def leave_thread(self) -> None:
        """End with the last recording of this thread."""
        storage.purge()
        storage.unwatch()


interceptors: list[Interceptor] = [_Writes()]
"""The interceptors of recordings, in the order in which they are switched on."""


class _Switch:
    """All interceptors, which are on while any thread records."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a recording may end within, by Python's collector
        self._open = 0
        self._leaving = ExitStack()

    def enter(self) -> None:
        """Switch them on, unless another recording has."""
        with self._lock:
            if not self._open:
                with ExitStack() as leaving:
                    for interceptor in interceptors:
                        interceptor.enter()
                        leaving.callback(interceptor.leave)
                    self._leaving = leaving.pop_all()
            self._open += 1

    def leave(self) -> None:
        """Switch them off with the last recording."""
        with self._lock:
            self._open -= 1
            if not self._open:
                self._leaving.close()

    def abandon(self) -> None:
        """Switch them off in a process that was forked, whatever its parent was recording."""
        self.__init__()  # type: ignore[misc]
        for interceptor in reversed(interceptors):
            interceptor.abandon()


switch = _Switch()


def install(further: Iterable[Interceptor]) -> None:
    """Let recordings switch more on."""
    interceptors.extend(further)
    _in_threads[:] = [i for i in interceptors if type(i).enter_thread != Interceptor.enter_thread]


_in_threads = list(interceptors)  # those that do something in each thread


def subclasses(root: type) -> Iterable[type]:
    """Return all classes below one, each once."""
    found: list[type] = root.__subclasses__()
    for kind in found:  # which grows meanwhile
        found += kind.__subclasses__()
    return dict.fromkeys(found)


@contextmanager
def joined() -> Generator[None]:
    """Let this thread take part in the open recordings of its context."""
    local.recordings += 1
    try:
        for interceptor in _in_threads:
            interceptor.enter_thread()
        yield
    finally:
        local.recordings -= 1
        if not local.recordings:
            for interceptor in reversed(_in_threads):
                interceptor.leave_thread()


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
