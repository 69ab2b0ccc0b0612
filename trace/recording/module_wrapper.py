"""Wrapped modules: each call is recorded, all else is the module itself."""

import functools
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ancestral.provenance.tensor.control_flow import setting
from ancestral.trace.recording.record import not_called, record
from ancestral.trace.recording.trace import Trace

M = TypeVar("M", bound=nn.Module)

_traces: "WeakKeyDictionary[nn.Module, Trace]" = WeakKeyDictionary()
_controls: "WeakKeyDictionary[nn.Module, str | None]" = WeakKeyDictionary()
_classes: "WeakKeyDictionary[type, type]" = WeakKeyDictionary()


def wrap(module: M, *, control: str | None = None) -> M:
    """Return a module that records each of its calls, its trace in ``.trace``.

    The result shares everything with `module`: parameters, buffers, sub-modules, hooks, training
    mode, every attribute that is set on either later. Its class is a subclass of the module's, of
    the same name. `module` itself is left as it is, and is not recorded. `control` is that of its
    recordings, see `record`.

    Raises:
        ValueError: if `control` is none of the settings.
        TypeError: if `module` is no `torch.nn.Module`, or a scripted one.
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
    kind = type(module)
    if getattr(kind, "_is_recorded", False):
        _controls[module] = control
        return module
    recorded = _classes.get(kind)
    if recorded is None:
        recorded = _classes[kind] = _recorded(kind)
    wrapped: M = object.__new__(recorded)
    object.__setattr__(wrapped, "__dict__", module.__dict__)
    _controls[wrapped] = control
    return wrapped


def _recorded(kind: type) -> Any:
    """Return the subclass of a module's class that records its calls."""

    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with record(control=_controls.get(self)) as trace:
            _traces[self] = trace  # at once: it is readable if the model raises
            return super(recorded, self).__call__(*args, **kwargs)

    def trace_of(self: nn.Module) -> Trace:
        trace = _traces.get(self)
        if trace is None:
            raise not_called(kind.__name__)
        return trace

    def reduce(self: nn.Module, protocol: Any) -> Any:
        twin: nn.Module = object.__new__(kind)
        twin.__dict__ = self.__dict__
        return functools.partial(wrap, control=_controls.get(self)), (twin,)

    recorded: Any = type(
        kind.__name__,
        (kind,),
        {
            "__call__": call,
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__doc__": kind.__doc__,
            "__reduce_ex__": reduce,
            "_is_recorded": True,
            "trace": property(trace_of),
        },
    )
    return recorded
