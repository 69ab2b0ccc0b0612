"""Inference rules: the provenance of a result from those of its operands.

What a rule answers depends on shapes and numbers only, so that an answer is found once for each
kind of call and remembered with the provenance of its first operand.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ancestral.provenance.algebra.alignment import Shape, Step
from ancestral.provenance.algebra.alignment_loss import MOST_NOTED, mixes_alone, note, note_mixed
from ancestral.provenance.algebra.outline import Outline
from ancestral.provenance.algebra.pattern import Answer, Pattern, together
from ancestral.provenance.algebra.provenance import Provenance, union
from ancestral.provenance.rules.indexing import values_read
from ancestral.provenance.rules.op import unnamed
from ancestral.provenance.rules.registry import is_kink, looks_further, rule_of
from ancestral.provenance.rules.slicing import Piece
from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.arguments import is_argument, positional, tensors_in
from ancestral.provenance.tensor.frame_owner import is_user
from ancestral.provenance.tensor.tensor import ProvenanceTensor, attach, provenance, raw

_Function = Callable[..., Any]
ATOMS = frozenset({int, float, str, type(None), type(Ellipsis), torch.dtype, torch.memory_format})


def tracked(*nested: Any) -> list[Provenance]:
    """Return the provenances of the tensors in arguments, at any depth."""
    return [*filter(None, map(provenance, tensors_in(*nested)))]


def infer(
    func: _Function, result: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Provenance | None:
    """Return the provenance of a result, a tensor, None where it depends on no source."""
    if func is Tensor.expand and not storage.table and type(args[0]) is ProvenanceTensor:
        ours: Provenance = args[0]._provenance
        same = ours.shape == tuple(raw(Tensor.size, result))
        if same and all(type(size) in (int, torch.Size) for size in args[1:]):
            return ours  # what every draw does, to no effect
    found: list[Provenance] = []
    answer = answered(func, result, args, kwargs, found)
    if answer is not None:
        return None if answer.result is None else recalled(answer, found[0])
    shape = tuple(raw(Tensor.size, result))
    steps = _steps(func, shape, args, kwargs)
    parts = [*filter(None, [_moved(ours, shape, step) for ours, step in steps])]
    if not parts:
        return None
    joined = union(parts)
    unknown = joined.kinked() if is_kink(func, raw(_dtype, result), args, kwargs) else joined
    note(name_of(func), unknown, tracked(args, kwargs))
    return unknown


def answered(
    func: _Function,
    result: Tensor,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    found: list[Provenance] | None = None,
) -> Answer | None:
    """Return what the rule answers for a call, None where the next of its kind may differ.

    That is where the rule looks at more than can be told of the arguments, or these are of several
    recordings. The provenances of the operands are added to `found`.
    """
    found = [] if found is None else found
    if looks_further(func) or storage.concerns(args, kwargs):
        return None
    read = values_read(func, args, kwargs)
    kind = None if read is None else kind_of((*args, *kwargs.items()), found)
    if kind is None or len({*map(_universe_of, found)}) != 1:
        return None
    shape, dtype = tuple(raw(Tensor.size, result)), raw(_dtype, result)
    key = (func, shape, dtype, kind, read)
    first = found[0]
    outline = first.outline if all([each is first for each in found]) else None  # of one operand
    known: Answer | None = None if outline is None else outline.known.get(key)
    whole: tuple[Any, ...] = key
    if known is None:
        whole = (*key, *[each.pattern for each in found])
        known = first.pattern.known.get(whole)
    if known is not None:
        return known
    steps = _steps(func, shape, args, kwargs)
    is_without = is_kink(func, dtype, args, kwargs)
    if any([ours not in found for ours, _ in steps]):  # what the rule names is no operand
        return None
    moved = {_moved(outline, shape, step) for _, step in steps} if outline is not None else set()
    if outline is not None and len(moved) < 2:  # else it stands under several in the result
        made = moved.pop() if moved else None
        answer = Answer(made, is_without, name_of(func))
        answer.is_same = made is outline and not is_without
        outline.keep(key, answer)
        return answer
    patterns = [*filter(None, [_moved(ours.pattern, shape, step) for ours, step in steps])]
    joined = together(patterns) if patterns else None
    answer = Answer(joined, is_without, name_of(func), [each.pattern for each in found])
    first.pattern.keep(whole, answer, by=len(answer.operands))
    return answer


def recalled(answer: Answer, first: Provenance) -> Provenance:
    """Return the provenance that a rule answered with, given that of the first operand."""
    found = first._memo.get(answer)
    if found is None:
        if len(answer.operands) < 2:
            found = _moved_alone(answer, first)
        else:
            universe, result = first.universe, answer.result
            assert isinstance(result, Pattern)
            found = universe.wrap(result)
            if answer.is_kink:
                found = found.kinked()
            note(answer.op, found, [*map(universe.wrap, answer.operands)])
        if found is not first:
            first.keep(answer, found)
    return found


def _moved_alone(answer: Answer, first: Provenance) -> Provenance:
    """Return what a step makes of its only operand, and note what it mixes.

    Both follow from the pattern and from whether the operand was made of others.
    """
    universe, made_from = first.universe, first.made_from
    key = (answer, not made_from)
    known = first.pattern.known.get(key)
    if known is None:
        result = answer.result
        assert result is not None
        pattern = first.pattern.under(result) if isinstance(result, Outline) else result
        known = pattern, mixes_alone(first.pattern, pattern, bool(made_from))
        first.pattern.keep(key, known)
    pattern, is_mixed = known
    found = universe._wrapped.get(pattern) or universe.wrap(pattern)
    if (answer.is_kink and universe.differentiable) or found.pattern is not pattern:
        found = found.kinked() if answer.is_kink else found
        note(answer.op, found, (first,))
    elif found is not first:
        if not found.made_from:
            found.made_from = (first,)
        elif first not in found.made_from and len(found.made_from) < MOST_NOTED:
            found.made_from = (*found.made_from, first)
        if is_mixed:
            # Whoever called the op, in a loop over steps the same as the last time.
            caller = sys._getframe(3)  # pyright: ignore[reportPrivateUsage]
            code, offset = caller.f_code, caller.f_lasti
            last = answer.mixed
            if last is not None and last[0] is code and last[1] == offset:
                note_mixed(answer.op, found, first, last[2])
            else:
                mix = note_mixed(answer.op, found, first)
                answer.mixed = (code, offset, mix) if is_user(caller) else None
    return found


def name_of(func: _Function) -> str:
    """Return what a user calls a function."""
    name: str = func.function.__name__ if isinstance(func, Piece) else func.__name__
    return name.strip("_")


_universe_of = attrgetter("universe")
_dtype = Tensor.dtype.__get__  # type: ignore[attr-defined]


def kind_of(items: Sequence[Any], found: list[Provenance]) -> tuple[Any, ...] | None:
    """Return what a rule can see of arguments, None where that cannot be hashed.

    The provenances met on the way are added to `found`.
    """
    parts: list[Any] = []
    for item in items:
        cls = item.__class__
        if cls is ProvenanceTensor:
            ours = item._provenance
            found.append(ours)
            parts.append((ours.outline or ours.pattern, item.dtype))  # a mask is no index
        elif cls is Tensor or cls is nn.Parameter:
            parts.append((item.shape, item.dtype))
        elif cls in ATOMS:
            parts.append(item)
        elif cls is bool:
            parts.append((item,))  # True is no 1
        elif cls is tuple or cls is list or cls is torch.Size:
            inner = kind_of(item, found)
            if inner is None:
                return None
            parts.append((cls, inner))
        elif cls is slice:
            inner = kind_of((item.start, item.stop, item.step), found)
            if inner is None:
                return None
            parts.append((cls, inner))
        else:
            return None
    return tuple(parts)


_LOST = "lost"  # of a step: how the result depends on the operand is not known
_Moving = TypeVar("_Moving", Pattern, Provenance, Outline)


def _moved(ours: _Moving, shape: Shape, step: Step | str) -> _Moving | None:
    return ours.lost(shape) if isinstance(step, str) else ours.remap(shape, step)


def _steps(
    func: _Function, shape: tuple[int, ...], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[tuple[Provenance, Step | str]]:
    """Return what the rule says of each operand; those it does not name lose their alignments."""
    rule = func.rule if isinstance(func, Piece) else rule_of(func)
    args, kwargs = positional(args, kwargs)
    pairs = tuple((rule(shape, args, kwargs) if rule is not None else None) or ())
    rest = unnamed(pairs, args, kwargs)
    if pairs and rest and any(not tensor.shape for tensor in rest):
        # A dimension, perhaps, that was given as a tensor: no rule reads those.
        rest, pairs = [*(named for named, _ in pairs), *rest], ()
    found: list[tuple[Provenance, Step | str]] = []
    for tensor, step in (*pairs, *[(tensor, _LOST) for tensor in rest]):
        ours = None if step is None else provenance(tensor)
        if ours is not None and step is not None:
            found.append((ours, step))
    return found


def mark_lost(result: Any, found: Sequence[Provenance]) -> None:
    """Let the tensors of a result depend on some sources we know not how."""
    for tensor in tensors_in(result):
        shape = tuple(raw(Tensor.size, tensor))
        for each in found:
            known = provenance(tensor)
            lost = each.lost(shape)
            found_now = lost if known is None else known.union(lost)
            note("a function that is not followed", found_now, [each])
            attach(tensor, found_now)
            # What it was computed from by sums knows less; all may have chosen which memory it is
            tensor._form, tensor._chosen = None, found_now.lost(())  # type: ignore[attr-defined]


def mark_decided(result: Any, decision: Provenance, args: Any, kwargs: Mapping[str, Any]) -> None:
    """Let the fresh tensors of a result depend on what escaped, without alignment.

    What is written in place needs no mark: whatever is computed from it later gets one.
    """
    if isinstance(result, (tuple, list)):
        for item in result:
            mark_decided(item, decision, args, kwargs)
    elif type(result) in (Tensor, ProvenanceTensor) and not is_argument(result, args, kwargs):
        if getattr(result, "_site", None) is not None:
            return  # a draw carries its own site only; its parents carry the rest
        shape = tuple(raw(Tensor.size, result))
        extra = decision.lost(shape)
        known = provenance(result)
        attach(result, extra if known is None else known.union(extra))
