"""Opaque calls: one op for code that is not followed, with all the tensors that it can reach.

Its arguments are handed over untracked, in containers of the same classes; what comes back, and
what it wrote into, carries every source. Numbers that come back have left tensor land.
"""

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.algebra.provenance import Provenance
from ancestral.provenance.dispatch import implicit_reads
from ancestral.provenance.dispatch.error_leaks import note_failure_within
from ancestral.provenance.dispatch.escape import escape
from ancestral.provenance.dispatch.inplace import mark_shared
from ancestral.provenance.dispatch.propagate import mark_lost, tracked
from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.arguments import tensors_in
from ancestral.provenance.tensor.tensor import ProvenanceTensor, alias, provenance, untrack
from ancestral.provenance.tensor.torch_internals import (
    BufferDict,
    DisableTorchFunction,
    DispatchKey,
    ModuleDict,
    ParameterDict,
    current_dispatch_mode,
    len_torch_function_stack,
    peek_interpreter_stack,
    tree_map,
)
from ancestral.trace.context.reachable import reachable
from ancestral.trace.context.stack import local

_Function = Callable[..., Any]
_NUMBERS = (bool, int, float, complex, str)


def opaque(original: _Function, sizes: Callable[[Any, Any], Any] | None = None) -> _Function:
    """Return a function whose results depend on all that it is given.

    `sizes` is for factories, and picks the arguments that decide how many elements they make, which
    Python can see.
    """

    @functools.wraps(original)
    def followed(*args: Any, **kwargs: Any) -> Any:
        if not local.traces:
            return original(*args, **kwargs)
        result = call(original, args, kwargs, is_program=sizes is None)
        if sizes is not None:
            escape(tracked(sizes(args, kwargs)))
        return result

    return followed


def call(
    original: _Function,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    held: Iterable[Tensor] = (),
    *,
    is_program: bool = True,
) -> Any:
    """Call a function without following it; `held` is what it reaches besides its arguments.

    A program, unlike a factory, may branch, and have results of a shape that it computed.
    """
    given = [*tensors_within(args, kwargs), *held]
    found = tracked(given)
    if not found:
        return decided(original(*args, **kwargs), given)
    storage.check(None if is_program else original, given, {})
    versions = [_version(tensor) for tensor in given]
    depth = len(local.around)
    local.around.extend(found)
    implicit_reads.local.is_decided = False
    try:
        result = original(*plain(args), **plain(kwargs))
    except Exception as error:
        is_decided = is_program and implicit_reads.local.is_decided
        note_failure_within(found, error, is_decided=is_decided)
        raise
    finally:
        del local.around[depth:]
    is_decided = is_program and implicit_reads.local.is_decided
    written = [
        tensor
        for tensor, version in zip(given, versions, strict=True)
        if version is None or _version(tensor) != version
    ]
    for tensor in written:
        before = provenance(tensor)
        mark_lost(tensor, found)
        for each in found:
            mark_shared(tensor, each, before)
    unwritten = {id(tensor) for tensor in given}
    mark_lost([t for t in tensors_within(result) if id(t) not in unwritten], found)
    if is_decided or any(True for _ in _numbers_in(result)):
        escape(found)
    return result


def tensors_within(*values: Any) -> list[Tensor]:
    """Return the tensors in arguments, in dataclasses too."""
    found: list[Tensor] = []
    for value in values:
        if hasattr(type(value), "__dataclass_fields__"):
            names = (field.name for field in dataclasses.fields(value))
            found += tensors_within(*(getattr(value, name) for name in names))
        elif isinstance(value, Mapping):
            found += tensors_within(*value.values()) if value else ()
        elif isinstance(value, (tuple, list, set, frozenset)):
            found += tensors_within(*value) if value else ()
        elif isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, slice):
            found += tensors_in(value)
    return found


def decided(result: Any, given: Sequence[Tensor]) -> Any:
    """Give a fresh result what Python may have branched on."""
    decision = decision_of_now()
    if decision is not None:
        known = {id(tensor) for tensor in given}
        mark_lost([t for t in tensors_within(result) if id(t) not in known], [decision])
    return result


def decision_of_now() -> Provenance | None:
    """Return what anything that is computed now depends on: an op, in sight, shows that."""
    if not len_torch_function_stack():
        return None
    return provenance(torch.zeros((), device="cpu"))


def capturing(original: _Function) -> _Function:
    """Return an operator on functions: what their closures hold reaches the result as well."""

    @functools.wraps(original)
    def followed(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        if not local.traces:
            return original(self, *args, **kwargs)
        functions = [item for item in (*args, *kwargs.values()) if callable(item)]
        held = [t for function in functions for t in reachable(function)]
        run = _by_python(self, original)
        known = {id(tensor) for tensor in (*tensors_within(args, kwargs), *held)}

        def chosen(*given: Any, **options: Any) -> Any:
            # Which of them comes back, others may have chosen.
            return tree_map(
                lambda item: alias(item) if id(item) in known else item, run(*given, **options)
            )

        return call(chosen, args, kwargs, held, is_program=False)

    return followed


def _by_python(op: Any, original: _Function) -> _Function:
    """Return how an operator on functions runs: as Python does, unless somebody traces it.

    Its own backward takes functions that a compiler has prepared, which runs none while a recording
    is open. Autograd differentiates what Python runs.
    """
    kernel = op.py_kernels.get(DispatchKey.CompositeExplicitAutograd)
    is_traced = current_dispatch_mode() is not None or peek_interpreter_stack() is not None
    if kernel is None or is_traced or op.name() not in _CONTROL_FLOW:
        return functools.partial(original, op)
    run: _Function = kernel
    return run


_CONTROL_FLOW = frozenset("cond while_loop scan associative_scan map_impl".split())


def captured(original: _Function) -> _Function:
    """Return the method of a scripted module, which reads and writes its buffers too."""

    @functools.wraps(original)
    def followed(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not local.traces:
            return original(self, *args, **kwargs)
        held = list(of_script(self.owner))
        return call(functools.partial(original, self), args, kwargs, held)

    return followed


def of_script(module: Any) -> Iterator[Tensor]:
    """Yield the tensors of a scripted module and of those within, other attributes included."""
    kinds: list[Any] = [BufferDict, ParameterDict]  # half typed in torch
    for kind in kinds:
        yield from (tensor for _, tensor in kind(module).items())
    for name in _attributes_read(module):
        yield from tensors_in(module.getattr(name))
    modules: Any = ModuleDict
    for _, inner in modules(module).items():
        yield from of_script(inner)


def _attributes_read(module: Any) -> set[str]:
    """Return the attributes that the code of a scripted module reads of itself."""
    found: set[str] = set()
    for method in module._type().method_names():
        graph = module._get_method(method).graph
        itself = next(graph.inputs())
        for node in graph.findAllNodes("prim::GetAttr"):
            if node.input() == itself:
                found.add(node.s("name"))
    return found


def _version(tensor: Tensor) -> int | None:
    """Return how often a tensor was written into, None where torch does not count."""
    with DisableTorchFunction():
        return None if tensor.is_inference() else tensor._version


def _numbers_in(value: Any) -> Iterator[Any]:
    if isinstance(value, _NUMBERS):
        yield value
    elif isinstance(value, Mapping):
        yield from _numbers_in(tuple(value.values()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _numbers_in(item)


def plain(value: Any) -> Any:
    """Return arguments with their tensors untracked, in containers of the same classes."""
    if isinstance(value, ProvenanceTensor):
        return untrack(value)
    if not any(isinstance(tensor, ProvenanceTensor) for tensor in tensors_within(value)):
        return value
    if isinstance(value, tuple):
        items = [plain(item) for item in value]
        return type(value)(*items) if hasattr(value, "_make") else type(value)(items)
    twin = copy.copy(value)
    if isinstance(value, list):
        twin[:] = [plain(item) for item in value]
    elif isinstance(value, Mapping):
        for name, item in value.items():
            twin[name] = plain(item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            object.__setattr__(twin, field.name, plain(getattr(value, field.name)))
    return twin
