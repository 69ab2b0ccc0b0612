"""Torch function override: the provenance of the result of any function of torch.

The result carries the union over all tensors in the arguments, at any depth of sequences, mappings
and keywords. This is what `ProvenanceTensor.__torch_function__` does.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ancestral.provenance.algebra.outline import Outline
from ancestral.provenance.algebra.provenance import Provenance
from ancestral.provenance.dispatch import implicit_reads
from ancestral.provenance.dispatch.error_leaks import note_failure
from ancestral.provenance.dispatch.escape import escape, is_escape
from ancestral.provenance.dispatch.fastpath import ELEMENTWISE, FAST, OPERATORS, run_elementwise
from ancestral.provenance.dispatch.inplace import (
    CHOOSING,
    is_write,
    mark_besides,
    note_chosen,
    refuse_parameters,
    run_write,
    targets,
    writes_besides,
    written_besides,
)
from ancestral.provenance.dispatch.linear_forms import form_again, form_of, forms_of
from ancestral.provenance.dispatch.passed_checks import Read
from ancestral.provenance.dispatch.propagate import (
    ATOMS,
    answered,
    infer,
    kind_of,
    mark_decided,
    recalled,
    tracked,
)
from ancestral.provenance.dispatch.subclasses import OURS, are_seen, by_others, refuse
from ancestral.provenance.rules.indexing import READERS
from ancestral.provenance.rules.registry import (
    ESCAPES,
    LINEAR,
    SPLITS,
    looks_further,
    operands_of,
    pieces_of,
)
from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.arguments import is_argument, tensors_in
from ancestral.provenance.tensor.control_flow import controlling, lasting, now
from ancestral.provenance.tensor.passes import PASSES, run_pass
from ancestral.provenance.tensor.tensor import (
    NO_KEYWORDS,
    TYPES,
    ProvenanceTensor,
    alias,
    attach,
    before_reading,
    provenance,
    run,
)

_Function = Callable[..., Any]
_readings = implicit_reads.local
_Plain: Any = Tensor


def propagate(
    cls: type[ProvenanceTensor],
    func: _Function,
    types: tuple[type, ...],
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """Run a function of torch and follow the provenance from its arguments to its results."""
    try:  # which costs nothing unless it raises
        if not kwargs and types == TYPES and func in ELEMENTWISE:
            operator = OPERATORS.get(func)
            if operator is not None and len(args) == 2:
                first, second = args
                if type(first) is ProvenanceTensor and type(second) in FAST:
                    return operator(first, second)
            result: Any = run_elementwise(func, args)
            if result is not None:
                return result
        elif func is _broadcast and len(args) == 1 and types == TYPES and not storage.table:
            return (_same(args[0], run(func, types, args, NO_KEYWORDS)[0]),)
        if types != TYPES and not are_seen(types):
            return by_others(func, types, args, kwargs or {})
        if func not in _plain_results and not _is_plain(func, args, kwargs):
            return dispatch(func, types, args, kwargs or NO_KEYWORDS)
        if kwargs:
            if "out" in kwargs or kwargs.get("inplace"):
                return dispatch(func, types, args, kwargs)
        else:
            kwargs = NO_KEYWORDS
        result = run(func, types, args, kwargs)
        if _readings.found:
            escape(implicit_reads.take(func))
        if result.__class__ is not _Plain or storage.concerns(args, kwargs):
            return _follow(func, args, kwargs, result)
        # The most frequent case, a known call of tensors and numbers, written out for speed.
        found: list[Provenance] = []
        key: list[Any] = [func, result.shape, result.dtype, *kwargs]
        for item in (*args, *kwargs.values()) if kwargs else args:
            kind = item.__class__
            if kind is ProvenanceTensor:
                ours = item._provenance
                found.append(ours)
                if item._chosen is not None:
                    note_chosen(func, result, args, kwargs)
                if ours.universe is not found[0].universe:
                    return _follow(func, args, kwargs, result)
                key.append(ours.outline or ours.pattern)
            elif kind is Tensor or kind is nn.Parameter:
                if item is result:
                    return _returned(func, args, kwargs, result)
                key.append(item.shape)
            elif kind in ATOMS:
                key.append(item)
            elif kind is bool:
                key.append((item,))  # True is no 1
            else:
                key.append(kind_of((item,), found))
                if key[-1] is None or not _are_plain(tensors_in(item), found):
                    return _follow(func, args, kwargs, result)
        if not found or found[0].universe.is_past:
            return _follow(func, args, kwargs, result)
        first = found[0]
        is_alone = len(found) == 1 or all([each is first for each in found])
        outline = first.outline if is_alone else None
        answer = None if outline is None else outline.known.get(tuple(key))
        if answer is None:
            key += [each.pattern for each in found]
            answer = first.pattern.known.get(tuple(key))
        if answer is None:
            return _follow_and_keep(func, args, kwargs, result, found, key)
        known = first if answer.is_same else first._memo.get(answer) or recalled(answer, first)
        result.__class__ = ProvenanceTensor
        result._provenance = known
        if func in LINEAR:
            result._form = form_again(answer, func, known.shape, args, kwargs)
        return result
    except Exception as error:
        note_failure(func, error, args, kwargs)
        raise


_broadcast = torch.broadcast_tensors


def _are_plain(items: list[Tensor], found: list[Provenance]) -> bool:
    """Return whether nothing but draws decided which tensors these are, all of one recording."""
    are_chosen = any(getattr(item, "_chosen", None) is not None for item in items)
    return not are_chosen and all(each.universe is found[0].universe for each in found)


def _is_plain(func: _Function, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> bool:
    """Return whether a call writes nothing and lets nothing out, though others of its kind may."""
    if func in CHOOSING:  # a part of a tensor is taken, and told by no other tensor
        return not kwargs and args[0].__class__ is ProvenanceTensor and not tensors_in(*args[1:])
    does_more = _may_do_more.get(func)
    return does_more is not None and not does_more(args, kwargs or NO_KEYWORDS)


def _same(given: Any, result: Any) -> Any:
    """Give a tensor that is broadcast to its own shape, what every distribution does, its own."""
    found: Provenance = given._provenance
    if result.__class__ is _Plain and found.universe.state != "settled":
        attach(result, found)
    return result


def _follow_and_keep(
    func: _Function,
    args: Any,
    kwargs: Mapping[str, Any],
    result: Any,
    found: list[Provenance],
    key: list[Any],
) -> Any:
    """Follow a call for the first time, and keep what came out for the next of its kind."""
    answer = answered(func, result, args, kwargs)
    _follow(func, args, kwargs, result)
    if answer is not None and isinstance(answer.result, Outline):
        assert found[0].outline is not None
        found[0].outline.keep(tuple(key[: -len(found)]), answer)
    elif answer is not None and answer.result is not None:
        found[0].pattern.keep(tuple(key), answer, by=len(answer.operands))
    return result


class _Traits(NamedTuple):
    """What the name of a function tells."""

    is_attribute: bool
    is_write: bool
    may_escape: bool
    writes_besides: bool


_ATTRIBUTE = _Traits(is_attribute=True, is_write=False, may_escape=False, writes_besides=False)
_traits: dict[_Function, _Traits] = {}
_plain_results: set[_Function] = set()  # functions that write nothing and let nothing out
_may_do_more: dict[_Function, Callable[[Any, Any], object]] = {}  # such but for some calls of them


def _traits_of(func: _Function) -> _Traits:
    name = func.__name__
    if name == "__get__":  # those are made anew at each call
        return _ATTRIBUTE
    lets_out = ESCAPES.get(name.split(".")[0])
    found = _Traits(False, is_write(name), lets_out is not None, writes_besides(func))
    _traits[func] = found
    is_told = func not in PASSES | READERS | CHOOSING and not looks_further(func)
    if is_told and not any(found):
        _plain_results.add(func)
    elif is_told and not found.is_write and not found.may_escape:
        _may_do_more[func] = partial(written_besides, func)
    elif is_told and not found.is_write and not found.writes_besides and callable(lets_out):
        _may_do_more[func] = lets_out
    return found


def dispatch(
    func: _Function, types: tuple[type, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Run a function and follow the provenance, whatever its arguments are."""
    traits = _traits.get(func) or _traits_of(func)
    if traits.is_attribute:
        return _read(func, types, args)
    if func in PASSES:
        result, is_constant = run_pass(func, types, args, kwargs)
        return result if is_constant else _follow(func, args, kwargs, result)
    if traits.writes_besides:
        result = _run_besides(func, types, args, kwargs)
        _let_out(func, traits, args, kwargs, result)
        return result
    if traits.is_write or "out" in kwargs or "inplace" in kwargs:
        written = targets(func.__name__, args, kwargs)
        if written:
            result = run_write(func, types, args, kwargs, written)
            _let_out(func, traits, args, kwargs, result)
            return result
    result = run(func, types, args, kwargs)
    _let_out(func, traits, args, kwargs, result)
    return _follow(func, args, kwargs, result)


def _let_out(func: _Function, traits: _Traits, args: Any, kwargs: Any, result: Any) -> None:
    """Note the values that an op gives to Python, and the numbers that decided its shape."""
    read = implicit_reads.take(func)
    if traits.may_escape and is_escape(func.__name__, args, kwargs):
        escape(tracked(args, kwargs), Read(func, result))
    elif read:
        escape(read)


def _run_besides(
    func: _Function, types: tuple[type, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Run a function that may write into other arguments than the first, and follow them all."""
    written = written_besides(func, args, kwargs)
    written += targets(func.__name__, args, kwargs)
    refuse_parameters(func.__name__, args, kwargs, written)
    result = run(func, types, args, kwargs)
    mark_besides(args, kwargs, written)
    return _follow(func, args, kwargs, result)


def _follow(func: _Function, args: Any, kwargs: Mapping[str, Any], result: Any) -> Any:
    """Give the tensors of a result their provenance."""
    if type(result) in _KINDS:
        if is_argument(result, args, kwargs):
            return _returned(func, args, kwargs, result)
        if type(result) is Tensor:
            found = now(infer(func, result, args, kwargs))
            if found is not None:
                attach(result, found)
                note_chosen(func, result, args, kwargs)
                form = lasting(form_of(func, found.shape, args, kwargs), found.universe)
                result._form = form  # type: ignore[attr-defined]
    elif isinstance(result, Tensor):
        _refuse_foreign(result, args, kwargs)
    elif isinstance(result, (tuple, list)):
        forms = forms_of(func, result, args, kwargs) if func in SPLITS else None
        pieces = pieces_of(func, result, args, kwargs)
        for index, item in enumerate(result):
            form = None if forms is None else next(forms)
            if type(item) is Tensor:
                if not is_argument(item, args, kwargs):
                    own = operands_of(func, index, args)
                    found = now(infer(pieces[index], item, own, kwargs))
                    if found is not None:
                        attach(item, found)._form = form  # type: ignore[attr-defined]
                        note_chosen(func, item, own, kwargs)
            elif isinstance(item, Tensor):
                _refuse_foreign(item, args, kwargs)
            elif isinstance(item, (tuple, list, Mapping)):
                _follow(func, args, kwargs, item)
    elif isinstance(result, Mapping):
        for item in result.values():
            _follow(func, args, kwargs, item)
    elif is_dataclass(result):
        for field in fields(result):
            _follow(func, args, kwargs, getattr(result, field.name))
    return result


def _refuse_foreign(result: Tensor, args: Any, kwargs: Mapping[str, Any]) -> None:
    """Raise if an op of a class that computes on its own made a tensor of that class."""
    if type(result) not in OURS and not is_argument(result, args, kwargs):
        refuse(type(result).__name__, args, kwargs)


def _returned(func: _Function, args: Any, kwargs: Mapping[str, Any], result: Any) -> Any:
    """Return an argument that came back; where others chose it, an alias that says so."""
    found = infer(func, result, args, kwargs)
    if found is None or found.universe.state == "settled":
        return result
    known = provenance(result)
    both = found if known is None else known.union(found)
    if known is None or both.universe is not known.universe or both.members != known.members:
        result = attach(alias(result), both)
        note_chosen(func, result, args, kwargs)
    return result


_KINDS = (Tensor, ProvenanceTensor)
_METADATA = frozenset(
    "shape dtype device ndim layout requires_grad is_leaf grad_fn grad _grad _base _version names "
    "output_nr retains_grad is_sparse is_cuda is_meta is_quantized is_nested is_mkldnn is_cpu "
    "is_mps is_xpu is_xla is_ipu is_maia is_vulkan is_sparse_csr is_mtia name nbytes itemsize "
    "_cdata _has_symbolic_sizes_strides _backward_hooks _post_accumulate_grad_hooks grad_dtype "
    "_has_grad_dtype_override "
    "volatile".split()
)


def _attribute_of(func: _Function) -> str:
    attribute: Any = func.__self__  # type: ignore[attr-defined]
    name: str = getattr(attribute, "fget", attribute).__name__
    return name


def _read(func: _Function, types: tuple[type, ...], args: tuple[Any, ...]) -> Any:
    """Read an attribute: metadata depends on no value, ``T`` and its like are ops."""
    result = run(func, types, args, NO_KEYWORDS)
    name = _attribute_of(func)
    if name in _METADATA:
        return result
    if name == "__cuda_array_interface__":  # the address of its memory
        escape(tracked(args))
    return _follow(func, args, NO_KEYWORDS, result)


def _watched(
    func: _Function, types: tuple[type, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Run a function whose operands, or whose very call, may depend on what nobody tracks."""
    storage.check(func, args, kwargs)
    if func.__name__ == "__get__" and types in ((), TYPES) and _attribute_of(func) in _METADATA:
        return run(func, types, args, NO_KEYWORDS)
    if not are_seen(types):
        result = func(*args, **kwargs)  # a class of another library decides
    elif ProvenanceTensor not in types and ProvenanceTensor in map(type, tensors_in(args, kwargs)):
        # Torch takes it for a number and does not ask it.
        result = _follow(func, args, kwargs, func(*args, **kwargs))
    elif not storage.concerns(args, kwargs):
        is_plain = ProvenanceTensor not in types
        result = (
            func(*args, **kwargs)
            if is_plain
            else propagate(ProvenanceTensor, func, types, args, kwargs)
        )
    elif any(True for _ in tracked(args, kwargs)):
        try:
            result = dispatch(func, types, args, kwargs)
        except Exception as error:
            note_failure(func, error, args, kwargs)
            raise
    else:
        result = func(*args, **kwargs)
    decision = controlling()
    # A guard refuses what is tracked; what comes out of its block is marked as a whole.
    is_inside = storage.is_guarded()
    if decision is not None and not is_inside and func.__name__ != "__get__":
        mark_decided(result, decision, args, kwargs)
    return result


ProvenanceTensor.__torch_function__ = classmethod(propagate)  # type: ignore[assignment, method-assign]
storage.install(_watched)
before_reading.append(lambda tensor: escape(tracked(tensor)))
