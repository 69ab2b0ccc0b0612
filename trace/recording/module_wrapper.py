"""Wrapped modules: each call is recorded, all else is the module itself."""

import functools
import inspect
import weakref
from collections.abc import Iterable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ancestral.provenance.tensor.control_flow import setting
from ancestral.trace.context.argument_checks import check_function, kind_of, short
from ancestral.trace.context.compile import eagerly
from ancestral.trace.context.stack import local
from ancestral.trace.context.trust import Trust, trusted
from ancestral.trace.recording.record import not_called, record
from ancestral.trace.recording.trace import Trace

M = TypeVar("M", bound=nn.Module)

_traces: "WeakKeyDictionary[nn.Module, Trace]" = WeakKeyDictionary()
_owners: "WeakKeyDictionary[Trace, weakref.ref[nn.Module]]" = WeakKeyDictionary()
_options: "WeakKeyDictionary[nn.Module, dict[str, Any]]" = WeakKeyDictionary()
_classes: "WeakKeyDictionary[type, dict[tuple[str, ...], type]]" = WeakKeyDictionary()


def wrap(
    module: M,
    *,
    control: str | None = None,
    trust: Trust = (),
    methods: Iterable[str] = ("forward",),
) -> M:
    """Return a module that records each of its calls, its trace in ``.trace``.

    The result shares everything with `module`: parameters, buffers, sub-modules, hooks, training
    mode, every attribute that is set on either later. Its class is a subclass of the module's, of
    the same name. `module` itself is left as it is, and is not recorded. The call is the block:
    what is read of its results blurs no finished term, and a choice between them by a value belongs
    in `forward`.

    Args:
        module: the module.
        control: that of its recordings, see `record`.
        trust: the modules whose reads are checks or logging, see `record`.
        methods: the methods whose calls are recorded; "forward" is the call of the module itself.
            What one of them calls of the same module is part of its recording.

    Raises:
        ValueError: if `control` is none of the settings, or the module has no such method, or
            `trust` has the name of no module.
        TypeError: if `module` is no `torch.nn.Module`, or a scripted one; if `methods` are no
            names, or one is a generator or a coroutine, whose body would run outside.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"wrap() takes a torch.nn.Module, not {type(module).__name__}; "
            "record a function with an.record()(function), or a block with `with an.record():`"
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError("a scripted module cannot be recorded: wrap the module it was made from")
    if control is not None:
        setting(control)  # raises here, not at the first call
    options = {"control": control, "trust": trusted(trust)}
    known: tuple[str, ...] | None = getattr(type(module), "_recorded_methods", None)
    kind = type(module) if known is None else type(module).__mro__[1]
    names = _method_names(kind, methods)
    if names == known:
        _options[module] = options
        return module
    classes = _classes.setdefault(kind, {})
    if names not in classes:
        classes[names] = _recorded(kind, names)
    wrapped: M = object.__new__(classes[names])
    object.__setattr__(wrapped, "__dict__", module.__dict__)
    _options[wrapped] = options
    return wrapped


def _method_names(kind: type, methods: Iterable[str]) -> tuple[str, ...]:
    """Return the names of methods of a class, each once, in one order."""
    if isinstance(methods, str) or not isinstance(methods, Iterable):
        raise TypeError(
            f"methods must be the names of methods, such as ('forward', 'generate'), not "
            f"{short(methods)}"
        )
    names = tuple(methods)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"methods has {kind_of(name)} in it; expected names of methods")
        found = inspect.getattr_static(kind, name, None)
        if not inspect.isroutine(found) or isinstance(found, (staticmethod, classmethod)):
            raise ValueError(
                f"{kind.__name__} has no method {name!r} to record; expected the name of a "
                "function that is defined in the class and takes self"
            )
        check_function("record", found)
    if not names:
        raise ValueError("methods is empty: expected one or more names, such as ('forward',)")
    return tuple(sorted({"__call__" if name == "forward" else name for name in names}))


def _recorded(kind: type, names: tuple[str, ...]) -> Any:
    """Return the subclass of a module's class that records calls of these methods."""

    def recording(name: str) -> Any:
        @functools.wraps(getattr(kind, name))
        def call(self: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
            method = getattr(super(recorded, self), name)
            if _is_recorded(self):
                return method(*args, **kwargs)
            with record(**_options.get(self, {})) as trace:
                _traces[self] = trace  # at once: it is readable if the model raises
                _owners[trace] = weakref.ref(self)
                return method(*args, **kwargs)

        return call

    def trace_of(self: nn.Module) -> Trace:
        trace = _traces.get(self)
        if trace is None:
            raise not_called(kind.__name__)
        return trace

    def reduce(self: nn.Module, protocol: Any) -> Any:
        twin: nn.Module = object.__new__(kind)
        twin.__dict__ = self.__dict__
        methods = ["forward" if name == "__call__" else name for name in names]
        return functools.partial(wrap, **_options.get(self, {}), methods=methods), (twin,)

    recorded: Any = type(
        kind.__name__,
        (kind,),
        {
            **{name: recording(name) for name in names},
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__doc__": kind.__doc__,
            "__reduce_ex__": reduce,
            "_recorded_methods": names,
            "trace": property(trace_of),
        },
    )
    return recorded


@eagerly
def _is_recorded(module: nn.Module) -> bool:
    """Return whether a recording of a call of this module is open here."""
    owners = (_owners.get(trace) for trace in local.traces if isinstance(trace, Trace))
    return any(owner is not None and owner() is module for owner in owners)
