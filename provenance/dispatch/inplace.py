"""In-place writes: the target, and all tensors on its memory, gain the sources of the operands.

An op says by its name that it writes into its first argument; what else it writes (running
statistics, noise, the states of an optimizer), its row says, or its schema where it has one.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ancestral.provenance.algebra.alignment_loss import note
from ancestral.provenance.algebra.provenance import Provenance, Universe, union
from ancestral.provenance.dispatch.escape import escape
from ancestral.provenance.dispatch.linear_forms import form_of, requires_grad
from ancestral.provenance.dispatch.propagate import infer, tracked
from ancestral.provenance.rules.op import Place, Written
from ancestral.provenance.rules.registry import WRITES, WRITTEN
from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.arguments import NOWHERE, argument, tensors_in
from ancestral.provenance.tensor.control_flow import is_constant, lasting, now, recording
from ancestral.provenance.tensor.linear_form import Operand, serials
from ancestral.provenance.tensor.memory_grid import (
    Write,
    base_of,
    may_share,
    read,
    view_of,
    write_of,
)
from ancestral.provenance.tensor.tensor import (
    ProvenanceTensor,
    attach,
    provenance,
    raw,
    run,
)
from ancestral.provenance.tensor.torch_internals import OpOverload, OpOverloadPacket

_Function = Callable[..., Any]


class WriteIntoParameterError(TypeError):
    """A tracked value would be written into a parameter, or into a tensor of another class."""


# A loss that is summed in place is a sum of costs still, for the price of a copy of its first.
_ADDITIONS = frozenset("add_ sub_".split())
_LARGEST_COPY = 2**20
_OURS = {Tensor, ProvenanceTensor}


def is_write(name: str) -> bool:
    """Return whether a function of this name writes into its first operand.

    Torch calls most operators in place by the names of their ops: add_, mul_ ...
    """
    return name in WRITES or (
        name.endswith("_") and not name.endswith("__") and name != "requires_grad_"
    )


def writes_besides(func: _Function) -> bool:
    """Return whether an op may write into an argument that its name does not tell."""
    return _row_of(func) is not None or (
        isinstance(func, (OpOverload, OpOverloadPacket)) and bool(_declared(func))
    )


def written_besides(
    func: _Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[Tensor]:
    """Return the tensors that an op writes into though its name does not tell."""
    found: list[Tensor] = []
    if isinstance(func, (OpOverload, OpOverloadPacket)):
        for place, name in _declared(func):
            found.extend(tensors_in(argument(args, kwargs, place, name)))
    row = _row_of(func)
    if row is not None and (row.condition is None or _is_met(row.condition, args, kwargs)):
        for place, name in row.places:
            found.extend(tensors_in(argument(args, kwargs, place, name)))
    return found


@functools.lru_cache(maxsize=1024)
def _declared(func: OpOverload[..., Any] | OpOverloadPacket[..., Any]) -> tuple[Place, ...]:
    """Return the arguments that the schema of an op, or any of its packet, declares written."""
    if isinstance(func, OpOverloadPacket):
        overloads = (getattr(func, name) for name in func.overloads())
        return tuple({place: None for each in overloads for place in _declared(each)})
    return tuple(
        (NOWHERE if given.kwarg_only else place, given.name)
        for place, given in enumerate(func._schema.arguments)
        if given.alias_info is not None and given.alias_info.is_write
    )


def _is_met(
    condition: tuple[int, str, bool], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> bool:
    place, name, default = condition
    given = argument(args, kwargs, place, name, default=default)
    # Something else than a truth value is what the op is asked to write: a largest norm.
    return given is not None and given is not False


def _row_of(func: _Function) -> Written | None:
    name = func.__name__
    if isinstance(func, (OpOverload, OpOverloadPacket)):
        return WRITTEN.get(name.split(".")[0])
    is_functional = getattr(func, "__module__", None) == "torch.nn.functional"
    return WRITTEN.get(f"functional.{name}" if is_functional else name)


def mark_besides(args: tuple[Any, ...], kwargs: Mapping[str, Any], written: list[Tensor]) -> None:
    """Give what an op wrote besides its first argument all that came in, without alignment."""
    incoming = _incoming(args, kwargs)
    for target in written:
        if all(is_constant(each.universe) for each in incoming) and _kinds(target):
            continue  # it was not refused: a number like any other
        shape = tuple(raw(Tensor.size, target))
        for each in incoming:
            known, lost = provenance(target), each.lost(shape)
            attach(target, lost if known is None else known.union(lost))
            target._form, target._written = None, next(serials)  # type: ignore[attr-defined]
            mark_shared(target, lost, known)


def targets(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors that an op writes into."""
    if kwargs.get("out") is not None:
        return list(tensors_in(kwargs["out"]))
    if is_write(name) or kwargs.get("inplace") is True:
        return list(tensors_in(args[0] if args else _first(kwargs)))
    return []


def _first(kwargs: Mapping[str, Any]) -> Any:
    """Return the first operand where all arguments are given by name."""
    return next((kwargs[name] for name in ("input", "self", "tensor") if name in kwargs), kwargs)


def run_write(
    func: _Function,
    types: tuple[type, ...],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    written: list[Tensor],
) -> Any:
    """Run an op that writes, and give what is written its provenance."""
    if func.__name__ == "__set__" and not _sets_data(func):
        return run(func, types, args, kwargs)  # grad, requires_grad, names: no value changes
    if func is Tensor.__setitem__ and _is_there(*args):
        return run(func, types, args, kwargs)
    before = _prepare(func.__name__, args, kwargs, written)
    # A draw in place has given its target, or its memory, their own provenance.
    kept = provenance if func.__name__ == "bernoulli_" else _own
    known = [kept(target) for target in written]
    result = run(func, types, args, kwargs)
    marked = [t for t, old in zip(written, known, strict=True) if kept(t) is old]
    for target in marked:
        _reshaped(target)
        note_chosen(func, target, args, kwargs)
    _mark(func, args, kwargs, marked, before)
    return result


def _own(target: Tensor) -> Provenance | None:
    """Return what a tensor itself is known to depend on, without what its memory is."""
    found: Provenance | None = getattr(target, "_provenance", None)
    return found


def _reshaped(target: Tensor) -> None:
    """Let a tensor that was given another shape, as an `out` that was too small is, know that."""
    old, shape = _own(target), tuple(raw(Tensor.size, target))
    if old is not None and old.shape != shape:
        attach(target, old.lost(shape))


def _is_there(target: Tensor, index: Any, value: Any) -> bool:
    """Return whether a value is the very part that it is written into: `t[i] += x` ends so."""
    if not isinstance(value, Tensor) or base_of(value) is None:
        return False
    held = raw(storage.storage_of, value)
    other = raw(storage.storage_of, target)
    if held is None or other is None or held._cdata != other._cdata:
        return False
    part = raw(Tensor.__getitem__, target, index)
    return part.dtype is value.dtype and view_of(part) == view_of(value)


def _sets_data(func: _Function) -> bool:
    return func.__self__.__name__ in ("data", "real", "imag")  # type: ignore[attr-defined]


def _prepare(
    name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], written: list[Tensor]
) -> Operand | None:
    """Refuse what cannot be followed; return what the target was, for the sake of a linear form."""
    refuse_parameters("data" if name == "__set__" else name, args, kwargs, written)
    if len(written) != 1:
        return None
    (target,) = written
    found = provenance(target)
    if found is not None and found.universe.state != "open":
        return None  # the form of a recording that is over would be held on to
    if not torch.is_grad_enabled() and raw(requires_grad, target):
        return None  # its value changes, its gradient does not: no linear step
    form = getattr(target, "_form", None)
    if form is not None:
        return form
    if name not in _ADDITIONS or raw(Tensor.numel, target) > _LARGEST_COPY:
        return None
    copied = raw(Tensor.clone, target)
    return copied if found is None else attach(copied, found)


def refuse_parameters(
    name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], written: list[Tensor]
) -> None:
    """Raise if tracked values would be written into a parameter, or one of another class."""
    for target in written:
        for kind in _kinds(target):
            # After its recording, an estimate that was taken of it is a constant.
            incoming = [p for p in _incoming(args, kwargs) if not is_constant(p.universe)]
            if incoming:
                names = frozenset(source.name for found in incoming for source in found.sources)
                listed = ", ".join(repr(name) for name in sorted(names))
                shown = (
                    "an nn.Parameter" if issubclass(kind, nn.Parameter) else f"a {kind.__name__}"
                )
                raise WriteIntoParameterError(
                    f"{Universe.locate()}: {name} would write a value that depends on {listed} "
                    f"into {shown}, which cannot carry provenance; write an.untrack(value), or use "
                    "a buffer or a plain tensor"
                )


def _kinds(target: Tensor) -> set[type]:
    """Return the classes that cannot carry provenance of a tensor and of what it is a view of."""
    base = base_of(target)
    return {type(target), type(target if base is None else base)} - _OURS


def _incoming(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Provenance]:
    """Return the provenances of the arguments that are no constants by now, and matter here."""
    return [
        found
        for found in tracked(args, kwargs)
        if found.universe.state != "settled"
        and (found.universe.state != "apart" or recording.get() is not None)
    ]


def _mark(
    func: _Function,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    written: list[Tensor],
    before: Operand | None,
) -> None:
    """Give what was written the union of what it had and what came in."""
    for target in written:
        known = provenance(target)
        found = now(_inferred(func, target, args, kwargs, known))
        if found is None:
            continue
        if is_constant(found.universe) and _kinds(target):
            continue  # it was not refused: a number like any other
        attach(target, found)
        target._form = None  # type: ignore[attr-defined]
        mark_shared(target, found, known)
        form = None if before is None else form_of(func, found.shape, args, kwargs)
        form = lasting(form, found.universe)
        if form is not None and len(form) == 5:  # made of what the target was, not what it is now
            operands = tuple(before if x is target else x for x in form[2])
            form = (form[0], form[1], operands, *form[3:])
        target._form = form  # type: ignore[attr-defined]
        target._written = next(serials)  # type: ignore[attr-defined]


def _inferred(
    func: _Function,
    target: Tensor,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    known: Provenance | None,
) -> Provenance | None:
    """Return what a target depends on now; one that is given as `out` is no operand."""
    if "out" not in kwargs:
        return infer(func, target, args, kwargs)
    operands = {name: item for name, item in kwargs.items() if name != "out"}
    found = infer(func, target, args, operands)
    return known if found is None else found if known is None else found.union(known)


def mark_shared(target: Tensor, found: Provenance, before: Provenance | None) -> None:
    """Give its sources to all that shares the storage of what was written.

    `before` is what the target depended on until then.
    """
    if not raw(Tensor.numel, target):
        return
    is_held = raw(storage.is_held, target)  # before we hold it
    base, shared = base_of(target), raw(storage.storage_of, target)
    # Most often nobody else sees the memory.
    is_seen = shared is None or base is not None or storage.is_seen(shared, 1, is_held)
    if is_seen or not raw(Tensor.is_contiguous, target):
        _mark_others(target, found, base, shared, is_held)
    if shared is not None and not shared.resizable():
        is_new = before is None or before.universe is not found.universe
        if is_new or found.members - before.members:  # type: ignore[union-attr]
            escape([found])  # of memory that an array of numpy, or another library, reads as well


def _mark_others(
    target: Tensor,
    found: Provenance,
    base: Tensor | None,
    shared: torch.UntypedStorage | None,
    is_held: bool,
) -> None:
    write = None if shared is None else _write(target, found, shared)
    own = provenance(target)
    if own is not None and shared is not None and not view_of(target).is_apart:
        # What is written at one place of the target is seen at others.
        around = None if write is None else read(write.on(write.grid), write.view)
        attach(target, own.lost(own.shape) if around is None else own.union(around))
    if base is not None:
        known = provenance(base)
        seen = None if write is None else read(write.on(write.grid), view_of(base))
        now = found.lost(tuple(raw(Tensor.size, base))) if seen is None else seen
        now = now if known is None else known.union(now)
        note("a write into a view", now, [found] if known is None else [known, found])
        attach(base, now)
        base._form, base._written = None, next(serials)  # type: ignore[attr-defined]
    if shared is not None:
        storage.taint(shared, found, 1 if base is None else 2, is_held, write)


def _write(target: Tensor, found: Provenance, shared: torch.UntypedStorage) -> Write | None:
    """Return a write with what decided where it is; None where its memory does not tell."""
    shape = tuple(raw(Tensor.size, target))
    write = write_of(found if found.shape == shape else found.lost(shape), target, shared)
    chosen = getattr(target, "_chosen", None)
    decisions = [source for source in found.members if source.is_decision]
    if write is None or (chosen is None and not decisions):
        return write
    parts = [] if chosen is None else [chosen]
    parts += [found.universe.depending(decisions, ())] if decisions else []
    return write._replace(chosen_by=union(parts))


_select = torch.ops.aten.select
CHOOSING = frozenset(
    {Tensor.__getitem__, Tensor.select, torch.select, Tensor.narrow, torch.narrow}
    | {_select, _select.int}
)
"""The functions that may be given a place in a tensor, a number that is tracked."""


def note_chosen(func: Callable[..., Any], result: Tensor, args: Any, kwargs: Any) -> None:
    """Note of a view what decided which part of the memory it is."""
    behind = [item for item in tensors_in(args, kwargs) if may_share(result, item)]
    if not behind:
        return  # a copy, which other memory does not see
    known = (getattr(tensor, "_chosen", None) for tensor in behind)
    found: list[Provenance] = [each for each in known if each is not None]
    if func in CHOOSING:
        given = (provenance(t) for t in tensors_in(args[1:], kwargs))
        found += [each.lost(()) for each in given if each is not None]
    if found:
        result._chosen = union(found)  # type: ignore[attr-defined]
