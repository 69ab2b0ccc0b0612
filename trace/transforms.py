"""What torch runs out of sight: scripted functions, factories, transforms, compilation.

None of these hands its calls to `__torch_function__`, so while a recording is open they are met at
their doors. A scripted function and a factory are followed as one op that keeps every source. A
transform of `torch.func` is refused where a tracked tensor would enter it, since what it computes
cannot be followed. A compiled function runs eagerly.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch._functorch.apis
import torch._functorch.eager_transforms
from torch import Tensor

from ancestral.provenance import watching
from ancestral.provenance.inference import tracked
from ancestral.provenance.propagation import mark_lost
from ancestral.provenance.tensor import ProvenanceTensor, untrack
from ancestral.trace.naming import Location, place
from ancestral.trace.record import Replacing, interceptors
from ancestral.trace.stack import local

_Function = Callable[..., Any]


class TransformError(NotImplementedError):
    """A tracked tensor would enter a transform of `torch.func`."""

    def __init__(self, transform: str, names: frozenset[str], location: Location) -> None:
        """Name the transform, the sources and the line."""
        listed = ", ".join(repr(name) for name in sorted(names))
        super().__init__(
            f"{transform} at {location} would compute with a value that depends on {listed}, and "
            "what a transform of torch.func computes cannot be followed; write it without the "
            "transform, or cut the dependency with an.untrack where no gradient needs it"
        )


def _opaque(original: _Function) -> _Function:
    """Return a function whose results depend on all that it is given."""

    @functools.wraps(original)
    def followed(*args: Any, **kwargs: Any) -> Any:
        found = list(tracked(args, kwargs)) if local.traces else []
        if not found:
            return original(*args, **kwargs)
        depth = len(local.around)
        local.around.extend(found)
        try:
            result = original(*_plain(args), **_plain(kwargs))
        finally:
            del local.around[depth:]
        mark_lost(result, found)
        return result

    return followed


def _plain(value: Any) -> Any:
    """Return arguments with their tensors untracked."""
    if isinstance(value, ProvenanceTensor):
        return untrack(value)
    if type(value) in (tuple, list):
        return type(value)(_plain(item) for item in value)
    if type(value) is dict:
        return {name: _plain(item) for name, item in value.items()}
    return value


def _refusing(original: _Function, transform: str) -> _Function:
    """Return a transform that no tracked tensor enters, as an argument or from around."""

    @functools.wraps(original)
    def refused(*args: Any, **kwargs: Any) -> Any:
        if not local.traces:
            return original(*args, **kwargs)

        def refuse(found: Iterator[Any]) -> None:
            names = frozenset(source.name for each in found for source in each.sources)
            if names:
                raise TransformError(transform, names, place().location)

        refuse(tracked(args, kwargs))
        with watching.guard(refuse):
            return original(*args, **kwargs)

    return refused


_TRANSFORMS = {
    "vmap": (torch._functorch.apis, "vmap_impl"),
    "grad": (torch._functorch.eager_transforms, "grad_and_value_impl"),
    "vjp": (torch._functorch.eager_transforms, "_vjp_with_argnums"),
    "jvp": (torch._functorch.eager_transforms, "_jvp_with_argnums"),
}
_FACTORIES = "tensor full arange linspace logspace scalar_tensor sparse_coo_tensor"


class _OutOfSight(Replacing):
    """Stands at the doors."""

    _stance: Any = None

    def begin(self) -> None:
        """Take the places of what cannot be followed inside."""
        for kind in (torch._C.ScriptFunction, torch._C.ScriptMethod):
            self.replace(kind, "__call__", _opaque(kind.__call__))
        for name in _FACTORIES.split():
            self.replace(torch, name, _opaque(getattr(torch, name)))
        for name in ("new_tensor", "new_full"):
            self.replace(Tensor, name, _opaque(getattr(Tensor, name)))
        for transform, (module, name) in _TRANSFORMS.items():
            self.replace(module, name, _refusing(getattr(module, name), transform))
        if "torch._dynamo" in sys.modules:  # else nothing was compiled
            self._stance = torch.compiler.set_stance("force_eager")

    def end(self) -> None:
        """Let compiled functions be compiled again."""
        if self._stance is not None:
            self._stance.__exit__(None, None, None)
            self._stance = None


interceptors.append(_OutOfSight())
