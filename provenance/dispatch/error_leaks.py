"""Failures: errors of an op that reveal the values it was given."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.jit import Error as JitError

from ancestral.provenance.algebra.provenance import Provenance, Universe
from ancestral.provenance.dispatch import implicit_reads
from ancestral.provenance.dispatch.escape import EscapeError, escape, fail, is_escape
from ancestral.provenance.dispatch.passed_checks import Read
from ancestral.provenance.dispatch.propagate import tracked
from ancestral.provenance.dispatch.subclasses import names_of
from ancestral.provenance.tensor.torch_internals import DisableTorchFunction

_Function = Callable[..., Any]


class InferenceTensorError(RuntimeError):
    """A value of `torch.inference_mode` is used where a gradient is asked for."""


def refuse_inference(
    error: Exception, names: frozenset[str], location: object | None = None
) -> None:
    """Raise an `InferenceTensorError` if torch raised because of inference mode."""
    if names and str(error).startswith(("Inference tensors cannot", "Inplace update to inference")):
        listed = ", ".join(repr(name) for name in sorted(names))
        raise InferenceTensorError(
            f"{location or Universe.locate()}: a value that depends on {listed} was computed under "
            "torch.inference_mode(), and autograd cannot save it for a backward; use "
            "torch.no_grad() there instead, or go on with value.clone()"
        ) from error


def note_failure(
    func: _Function, error: Exception, args: Any, kwargs: Mapping[str, Any] | None
) -> None:
    """Note that an op raised: whoever catches the error knows more of the values.

    An index was too large, a matrix singular, an integer divided by zero.
    """
    implicit_reads.local.found.clear()
    if isinstance(error, _TELLING_NOTHING) or not isinstance(error, _OF_VALUES):
        return
    refuse_inference(error, names_of(args, kwargs))
    if is_escape(func.__name__, args, kwargs or {}):
        escape(tracked(args, kwargs), Read(func, error))  # as it does where it returns
    elif not _is_of_shapes(func, args, kwargs or {}):
        fail(tracked(args, kwargs), str(error))


def note_failure_within(found: Sequence[Provenance], error: Exception, *, is_decided: bool) -> None:
    """Note that code raised that is not followed, and was given values with these provenances.

    One that decides by a number (`is_decided`) does so where it returns, too.
    """
    if is_decided:
        escape(found)
    elif isinstance(error, _OF_VALUES) and not isinstance(
        error, (EscapeError, NotImplementedError)
    ):
        fail(found, str(error).strip().rpartition("\n")[2])


def _is_of_shapes(func: _Function, args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Return whether an op raises without the values of its operands as well."""
    try:
        with DisableTorchFunction():
            func(*_without_values(args), **_without_values(kwargs))
    except NotImplementedError:  # it has no kernel for meta tensors, which tells nothing
        return False
    except _OF_VALUES as error:  # that it asked for a value, or has no such kernel, neither
        return not any(text in str(error) for text in ("meta", "fake impl"))
    return False


def _without_values(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().to("meta")
    if type(value) in (tuple, list):
        return type(value)(_without_values(item) for item in value)
    if isinstance(value, Mapping):
        return {name: _without_values(item) for name, item in value.items()}
    return value


_TELLING_NOTHING = (EscapeError, InferenceTensorError, NotImplementedError)
# What ops raise because of the values of their operands; a type or a class is no value.
_OF_VALUES = (RuntimeError, ValueError, LookupError, ArithmeticError, AssertionError, JitError)
