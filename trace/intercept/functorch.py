"""Function transforms, scripted functions, factories and compilation, followed as opaque calls.

None of these hands its calls to `__torch_function__`, so while a recording is open they are met
where they are called. A scripted function and a factory are followed as one op that keeps every
source, and `vmap` as one that keeps alignments. Another transform of `torch.func` is refused where
a tracked tensor would enter it, since what it computes cannot be followed. A compiled function runs
eagerly.
"""

import functools
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.algebra.provenance import Provenance
from ancestral.provenance.dispatch.propagate import infer, tracked
from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.arguments import argument
from ancestral.provenance.tensor.tensor import ProvenanceTensor, attach, raw
from ancestral.provenance.tensor.torch_internals import (
    COMPUTE_KEYSET,
    FREEZE_MODULE,
    FUNCTIONALIZE_BEGIN,
    FUNCTIONALIZE_END,
    MAKE_FX,
    TRANSFORMS,
    VMAP,
    HigherOrderOperator,
    ScriptFunction,
    ScriptMethod,
    call_before_compiling,
    device_constructors,
    eager_stance,
)
from ancestral.trace.context.errors import TransformError
from ancestral.trace.context.patch import Patch
from ancestral.trace.context.place import place
from ancestral.trace.context.stack import local
from ancestral.trace.context.switch import KEY, Interceptor, switch
from ancestral.trace.intercept import vmap
from ancestral.trace.intercept.opaque import (
    captured,
    capturing,
    decided,
    decision_of_now,
    of_script,
    opaque,
    tensors_within,
)
from ancestral.trace.recording.constant_draws import transform_around

_Function = Callable[..., Any]


def _refusing(original: _Function, name: str) -> _Function:
    """Return a transform that no tracked tensor enters, as an argument or from around."""

    @functools.wraps(original)
    def refused(*args: Any, **kwargs: Any) -> Any:
        if not local.traces:
            return original(*args, **kwargs)
        refuse = _refuser(name)
        refuse(original, args, kwargs)
        with storage.guard(refuse):
            result = original(*args, **kwargs)
        return decided(result, list(tensors_within(args, kwargs)))

    return refused


def _mapping(original: _Function) -> _Function:
    """Return `vmap_impl`, which is followed."""

    @functools.wraps(original)
    def mapped(*args: Any, **kwargs: Any) -> Any:
        if not local.traces:
            return original(*args, **kwargs)
        storage.check(original, args, kwargs)
        result = vmap.run(original, _refuser("vmap"), *args, **kwargs)
        return decided(result, list(tensors_within(args, kwargs)))

    return mapped


class _Local(threading.local):
    """What all depends on where the outermost transform of the thread began."""

    def __init__(self) -> None:
        self.decision: Provenance | None = None


_local = _Local()


def _refuser(name: str) -> Callable[[Any, Any, Any], None]:
    # What all depends on since an escape, what comes out of the transform will depend on too.
    if not storage.is_guarded():
        _local.decision = decision_of_now()
    decision = _local.decision

    def refuse(func: Any, args: Any, kwargs: Any) -> None:
        refused = [each for each in tracked(args, kwargs) if not _is_covered(each, decision)]
        names = frozenset(source.name for each in refused for source in each.sources)
        if names:
            transform = transform_around(name)
            raise TransformError(
                f"{transform} at {place().location} would compute with a value that depends on "
                f"{', '.join(map(repr, sorted(names)))}, and what is computed within it cannot be "
                f"followed; write it without {transform}, or cut the dependency with an.untrack "
                "where no gradient needs it"
            )

    return refuse


def _is_covered(found: Provenance, decision: Provenance | None) -> bool:
    return (
        decision is not None
        and found.universe is decision.universe
        and found.members <= decision.members
    )


def _disallowing(original: _Function) -> _Function:
    """Return what hands out `make_fx`, with which `linearize` runs its function."""

    @functools.wraps(original)
    def disallow(function: _Function) -> _Function:
        allowed: _Function = original(function)
        if not local.traces or function.__name__ != "make_fx":
            return allowed

        def make(traced: _Function) -> _Function:
            return _refusing(allowed(traced), "linearize")

        return make

    return disallow


def _freezing(original: _Function) -> _Function:
    """Return what makes constants of the buffers of a scripted module."""

    @functools.wraps(original)
    def freeze(module: Any, *args: Any, **kwargs: Any) -> Any:
        if local.traces:
            _refuser("torch.jit.freeze")(original, list(of_script(module)), {})
        return original(module, *args, **kwargs)

    return freeze


class _Functionalizing:
    """Refuses what is tracked between the beginning and the end of `functionalize`."""

    def __init__(self) -> None:
        self._open: list[Any] = []

    def beginning(self, original: _Function) -> _Function:
        """Return what begins, and refuses from then on."""

        @functools.wraps(original)
        def begin(*args: Any, **kwargs: Any) -> Any:
            level = original(*args, **kwargs)
            guard = storage.guard(_refuser("functionalize"))
            guard.__enter__()
            self._open.append(guard)
            return level

        return begin

    def ending(self, original: _Function) -> _Function:
        """Return what ends, and refuses no longer."""

        @functools.wraps(original)
        def end() -> Any:
            self._open.pop().__exit__(None, None, None)
            return original()

        return end


_TRANSFORMS = {**TRANSFORMS, "torch.jit.trace_module": (torch.jit, "trace_module")}
_FACTORIES = """
    tensor as_tensor asarray full full_like arange range linspace logspace scalar_tensor
    sparse_coo_tensor sparse_csr_tensor sparse_csc_tensor sparse_bsr_tensor sparse_bsc_tensor
    sparse_compressed_tensor
"""


def _unless_sized(*indices: str) -> Callable[[Any, Any], Any]:
    """Return what picks the indices, of which torch takes the size unless it is given."""

    def pick(args: Any, kwargs: Any) -> Any:
        size = argument(args, kwargs, len(indices) + 1, "size")
        if isinstance(size, (tuple, list)):
            return ()
        return [argument(args, kwargs, place, name) for place, name in enumerate(indices)]

    return pick


# What decides how many elements a factory makes.
_SIZES: dict[str, Callable[[Any, Any], Any]] = {
    "arange": lambda args, kwargs: (args, kwargs),
    "range": lambda args, kwargs: (args, kwargs),
    "linspace": lambda args, kwargs: argument(args, kwargs, 2, "steps"),
    "logspace": lambda args, kwargs: argument(args, kwargs, 2, "steps"),
    "full": lambda args, kwargs: argument(args, kwargs, 0, "size"),
    "new_full": lambda args, kwargs: argument(args, kwargs, 1, "size"),
    "new": lambda args, kwargs: args[1:],
    "sparse_coo_tensor": _unless_sized("indices"),
    "sparse_csr_tensor": _unless_sized("crow_indices", "col_indices"),
    "sparse_csc_tensor": _unless_sized("ccol_indices", "row_indices"),
    "sparse_bsr_tensor": _unless_sized("crow_indices", "col_indices"),
    "sparse_bsc_tensor": _unless_sized("ccol_indices", "row_indices"),
    "sparse_compressed_tensor": _unless_sized("compressed_indices", "plain_indices"),
}


def _nothing(args: Any, kwargs: Any) -> tuple[()]:
    return ()


def _without_draws(original: _Function) -> _Function:
    """Return what finds the kernel of an operator on functions, which has none for draws."""

    def found(args: Any, kwargs: Any, keys: Any) -> Any:
        return original(args, kwargs, keys.remove(KEY))

    return found


def _sizes(name: str, args: Any, kwargs: Any) -> Any:
    found: Callable[[Any, Any], Any] = _SIZES.get(name, _nothing)
    return found(args, kwargs)


def _made(original: _Function, name: str) -> _Function:
    """Return a factory; its results depend on what it is given, not on what they are only like."""
    factory = opaque(original, partial(_sizes, name))
    if name in ("as_tensor", "asarray"):
        return _same(factory)
    return _like(factory, name) if name in _LIKE else factory


def _same(factory: _Function) -> _Function:
    """Return a factory that gives a tensor back, element by element, perhaps as another type."""

    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> Any:
        data = args[0] if args else None
        if not local.traces or type(data) is not ProvenanceTensor:
            return factory(*args, **kwargs)
        made: Tensor = raw(factory.__wrapped__, *args, **kwargs)  # type: ignore[attr-defined]
        if made is data:
            return made
        found = infer(Tensor.to, made, (data,), {})
        if found is not None and found.universe.state != "settled":
            attach(made, found)
        return decided(made, [data])

    return make


def _like(factory: _Function, name: str) -> _Function:
    @functools.wraps(factory)
    def make(*args: Any, **kwargs: Any) -> Any:
        if local.traces and args and isinstance(args[0], ProvenanceTensor):
            args = (_LIKE[name](args[0]), *args[1:])
        elif local.traces and isinstance(kwargs.get("input"), ProvenanceTensor):
            kwargs = {**kwargs, "input": _LIKE[name](kwargs["input"])}
        return factory(*args, **kwargs)

    return make


def _empty(tensor: Tensor) -> Tensor:
    empty: Tensor = raw(Tensor.new_empty, tensor, (0,))
    return empty


# What stands for the operand of a factory that reads no value of it.
_LIKE: dict[str, Callable[[Tensor], Tensor]] = {
    "full_like": lambda tensor: raw(torch.empty_like, tensor),
    "new_full": _empty,
    "new_tensor": _empty,
    "new": _empty,
}


class FunctionTransforms(Interceptor):
    """Meets all these, and lets compiled functions run eagerly."""

    def patches(self) -> Iterator[Patch]:
        """Return what cannot be followed inside."""
        for kind in (ScriptFunction, ScriptMethod):
            yield Patch(kind, "__call__", captured if kind is ScriptMethod else opaque)
        for name in _FACTORIES.split():
            yield Patch(torch, name, partial(_made, name=name))
        for name in ("new_tensor", "new_full", "new"):
            yield Patch(Tensor, name, partial(_made, name=name))
        yield Patch(*VMAP, _mapping)
        for transform, where in _TRANSFORMS.items():
            yield Patch(*where, partial(_refusing, name=transform))
        yield Patch(*MAKE_FX, _disallowing)
        functionalizing = _Functionalizing()
        yield Patch(*FUNCTIONALIZE_BEGIN, functionalizing.beginning)
        yield Patch(*FUNCTIONALIZE_END, functionalizing.ending)
        yield Patch(*FREEZE_MODULE, _freezing)
        yield Patch(HigherOrderOperator, "__call__", capturing)
        yield Patch(*COMPUTE_KEYSET, _without_draws)

    def enter(self) -> None:
        """Let torch note its own constructors, as it does when it first looks for them."""
        device_constructors()

    def prepare(self) -> None:
        """Let compiled functions run eagerly, unless somebody decides on it in a recording.

        This imports the compiler, which takes a second: it is to tell, before it reads the classes
        of torch without asking them, that what waits in them has to be put back.
        """
        place, eager = eager_stance()
        switch.swap([Patch(*place, lambda _: eager)])
        call_before_compiling(switch.give_back)
