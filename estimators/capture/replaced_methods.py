"""Watch: whether the classes that a plan was made of are what they were.

The compiler guards what a function reads, but not the methods of classes, nor the hooks of all
modules: of the classes whose methods a recording of the loss calls, it is looked at each step
whether somebody has replaced one, or given it other code, as a notebook does that loads files anew.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import is_
from types import CodeType, FrameType, FunctionType
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution, Transform, constraints

from ancestral.estimators.capture.kl_divergence import FUNCTION
from ancestral.estimators.capture.refusal import is_of_library
from ancestral.provenance.tensor.torch_internals import GLOBAL_HOOKS, KL_REGISTRY, compiler
from ancestral.trace.context.patch import own_of

_OF_TORCH = (Distribution, Transform, constraints.Constraint, nn.Module)
_COMMON = frozenset({object, nn.Module, Transform})
_IS_MADE_BY_CLASS_STATEMENT = 1 << 9  # of the others, no attribute can be replaced
# What `isinstance` asks of all the classes below one, whose own methods nobody calls.
_QUESTIONS = frozenset({"__instancecheck__", "__subclasscheck__", "__subclasshook__"})


class Watch:
    """The methods of some classes, as they were when a recording first called one."""

    def __init__(self) -> None:
        """Begin with none."""
        self._known: dict[Any, tuple[Mapping[Any, Any], dict[Any, Any], list[Any] | None]] = {}
        self._codes: dict[FunctionType, CodeType] = {}

    @contextmanager
    def meeting(self) -> Iterator[None]:
        """Take in the classes whose methods are called within the block."""
        kinds: dict[Any, None] = {}

        def called(frame: FrameType, event: str, _: object) -> None:
            code = frame.f_code
            if event != "call" or code.co_name in _QUESTIONS or is_of_library(code):
                return
            if code is FUNCTION.__code__:
                kinds[FUNCTION] = None
            elif code.co_argcount:
                owner = frame.f_locals.get(code.co_varnames[0])
                kinds[owner if isinstance(owner, type) else type(owner)] = None

        before = sys.getprofile()
        sys.setprofile(called)
        try:
            yield
        finally:
            sys.setprofile(before)
        for kind in kinds:
            if kind is FUNCTION:
                self._known.setdefault(kind, _seen(KL_REGISTRY))
            elif _is_watched(kind):
                for base in kind.__mro__:
                    if base not in _COMMON and base.__flags__ & _IS_MADE_BY_CLASS_STATEMENT:
                        self._known.setdefault(base, _seen(vars(base)))
                        self._note_codes(base)
                if issubclass(kind, nn.Module):
                    for number, hooks in enumerate(GLOBAL_HOOKS):
                        self._known.setdefault(number, _seen(hooks))

    def _note_codes(self, kind: type) -> None:
        """Take in the code of the methods of a class; nobody gives those of torch other code."""
        if kind.__module__.partition(".")[0] != "torch":
            for each in map(_own, vars(kind).values()):
                method = getattr(each, "__func__", each)
                if isinstance(method, FunctionType):
                    self._codes.setdefault(method, method.__code__)

    @property
    def is_changed(self) -> bool:
        """Whether any method was replaced since, by another than the library itself."""
        for kind, (now, known, values) in self._known.items():
            # In each step: lists compare by identity first, and fast. Only what is replaced by its
            # equal passes, of which tensors have none.
            if values is not None and [*now.values()] == values:
                continue
            ours, theirs = _methods(now), _methods(known)
            if ours.keys() != theirs.keys() or not all(
                map(is_, map(ours.get, theirs), theirs.values())
            ):
                return True
            self._known[kind] = _seen(now)
        return any(method.__code__ is not code for method, code in self._codes.items())


def _seen(now: Mapping[Any, Any]) -> tuple[Mapping[Any, Any], dict[Any, Any], list[Any] | None]:
    """Return attributes as they change, as they are, and their values, None if one is a tensor."""
    values = [*now.values()]
    has_tensor = any(isinstance(each, Tensor) for each in values)
    return now, dict(now), None if has_tensor else values


def guarding_hooks() -> Any:
    """Return a block within which the compiler guards the hooks of a module as all else it reads.

    By itself it goes on as if none had come or gone.
    """
    return compiler().config.patch(skip_nnmodule_hook_guards=False)


def _is_watched(kind: type) -> bool:
    """Return whether the methods of a class are part of a program, and not of what runs it."""
    root = kind.__module__.partition(".")[0]
    if issubclass(kind, type | Tensor) or root in sys.stdlib_module_names or root == "ancestral":
        return False
    return root != "torch" or issubclass(kind, _OF_TORCH)


def _methods(attributes: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return those of a class without what a recording has put around them."""
    found = {
        name: _own(each)
        for name, each in [*attributes.items()]
        if callable(each) or hasattr(each, "__get__")
    }
    return {name: each for name, each in found.items() if each is not None}


def _own(method: Any) -> Any:
    """Return a method as it is outside of recordings, None for one that is of recordings alone."""
    method = own_of(method)
    while is_of_library(getattr(getattr(method, "__func__", method), "__code__", None)):
        method = getattr(method, "__wrapped__", None)
    return method
