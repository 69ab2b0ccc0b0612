"""ProvenanceTensor: a tensor that is its own data and remembers what it came from.

The class of a fresh result is changed in place, so that no second tensor, no extra autograd node
and no copy exists. Operators are overridden one by one, because torch's own dispatch to
`__torch_function__` costs more than all the rest.

>>> import torch
>>> z = track(torch.ones(2, 3), "z")
>>> sorted(provenance_of((z * 2).sum(1)))
['z']
>>> provenance_of(torch.ones(3))
frozenset()
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from ancestral.provenance import storage
from ancestral.provenance.algebra import Provenance, Source, Universe
from ancestral.provenance.escapes import escape, is_escape
from ancestral.provenance.forms import form_of
from ancestral.provenance.linear import (
    Adjoint,
    Form,
    Operand,
    both,
    combined,
    difference,
    negative,
    serials,
)
from ancestral.provenance.rules import RULES, operands_of, pointwise, positional, tensors_in

# Runs an op as if nobody overrode it: in C, and without a context manager.
_run: Any = torch._C._disabled_torch_function_impl  # pyright: ignore[reportPrivateUsage]
# Within a function that runs so, the operators below must not follow either: they see a part only.
_is_tracking: Callable[[], bool] = torch._C._is_torch_function_enabled  # pyright: ignore[reportPrivateUsage]
_Function = Callable[..., Any]


class WriteIntoParameterError(TypeError):
    """A tracked value would be written into a parameter."""

    def __init__(self, function: str, names: frozenset[str]) -> None:
        """Name the op, and the sources whose value would be written."""
        super().__init__(
            f"{function} would write a value that depends on {_listed(names)} into an "
            "nn.Parameter, which cannot carry provenance; write an.untrack(value), or use a "
            "buffer or a plain tensor"
        )


class ProvenanceTensor(Tensor):
    """A tensor and the provenance of its elements."""

    _provenance: Provenance
    # How it was made by a linear step, and the number of the form that was last when it was
    # written into in place.
    _form: Form | None = None
    _written: int = -1
    # The node of the draw that gave this very tensor, and that of which it is the log-density.
    _site: Any = None
    _scored: Any = None

    @classmethod
    def __torch_function__(
        cls,
        func: _Function,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an op and follow the provenance from its arguments to its results."""
        if not kwargs and types == _TYPES and func in _ELEMENTWISE:
            result = _elementwise(func, args)
            if result is not None:
                return result
        if not all(kind in _OURS or _is_passive(kind) for kind in types):
            return NotImplemented
        return _dispatch(func, types, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        """Copy the data, keep the provenance; as in torch, only leaves can be copied."""
        copied = memo.get(id(self))
        if copied is None:
            if not self.is_leaf:
                # The message is torch's own.
                return cast(Tensor, untrack(self).__deepcopy__(memo))  # type: ignore[no-untyped-call]
            twin = untrack(self).detach().clone().requires_grad_(self.requires_grad)
            copied = memo[id(self)] = attach(twin, self._provenance)
        return cast(Tensor, copied)

    def __copy__(self) -> Tensor:
        """Share the data, keep the provenance."""
        return attach(alias(self), self._provenance)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle the data and the names of the sources; they come back as sources of their own."""
        return _rebuild, (untrack(self), tuple(sorted(provenance_of(self))))

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        """Show the tensor as torch does, and the sources."""
        shown = repr(untrack(self))
        return f"{shown[:-1]}, provenance={{{', '.join(sorted(provenance_of(self)))}}})"

    def __format__(self, spec: str) -> str:
        """Format as torch does: a scalar as a number, everything else as its text."""
        return format(untrack(self) if self.ndim == 0 else repr(self), spec)


_OURS = {ProvenanceTensor, Tensor, nn.Parameter}
_TYPES = (ProvenanceTensor,)
_NONE: dict[str, Any] = {}


_read_base: Any = vars(torch._C.TensorBase)["_base"].__get__  # pyright: ignore[reportPrivateUsage]


def _is_passive(kind: type) -> bool:
    """Return whether a class leaves torch functions alone: buffers, tensors of a library."""
    return kind.__torch_function__ in (  # type: ignore[attr-defined]
        Tensor.__torch_function__,
        nn.Parameter.__torch_function__,
    )


def attach(tensor: Tensor, provenance: Provenance) -> Tensor:
    """Give a plain tensor that nobody else holds its provenance, and return it."""
    tensor.__class__ = ProvenanceTensor
    tensor._provenance = provenance  # type: ignore[attr-defined]
    return tensor


def provenance(tensor: object) -> Provenance | None:
    """Return the provenance of a tensor, None where it is not tracked."""
    found: Provenance | None = getattr(tensor, "_provenance", None)
    if storage.table and isinstance(tensor, Tensor):
        return _with_storage(tensor, found)
    return found


def _with_storage(tensor: Tensor, found: Provenance | None) -> Provenance | None:
    """Add what was written into the storage of a tensor through others that share it."""
    shared = raw(storage.storage_of, tensor)
    written = None if shared is None else storage.tainted(shared)
    if written is None:
        return found
    lost = written.lost(tuple(raw(Tensor.size, tensor)))
    return lost if found is None else found.union(lost)


def _watched(
    func: _Function, types: tuple[type, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Run a function one of whose operands may share a storage that was written into."""
    if any(True for _ in _tracked(args, kwargs)):
        return _dispatch(func, types, args, kwargs)
    return func(*args, **kwargs)


storage.install(_watched)


def provenance_of(tensor: object) -> frozenset[str]:
    """Return the names of the sources that a tensor depends on directly."""
    found = provenance(tensor)
    return frozenset() if found is None else frozenset(source.name for source in found.sources)


def track(tensor: Tensor, name: str, universe: Universe | None = None) -> Tensor:
    """Return `tensor` as a source of its own, called `name`, in a universe of its own or in one.

    The result shares the data and the autograd history; what is computed from it has `name` in its
    provenance, and dimensions that still index those of `tensor` are known to.

    Raises:
        TypeError: if `tensor` is no tensor.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"track() takes a torch.Tensor, not {type(tensor).__name__}; "
            "turn it into one with torch.as_tensor first"
        )
    shape = tuple(tensor.shape)
    own = Universe() if universe is None else universe
    return attach(alias(tensor), own.of(Source(name, shape), shape))


def untrack(tensor: Tensor) -> Tensor:
    """Return `tensor` without provenance: the same data, the same autograd history."""
    return alias(tensor) if isinstance(tensor, ProvenanceTensor) else tensor


def alias(tensor: Tensor) -> Tensor:
    """Return a plain tensor on the same data and autograd history."""
    return cast(Tensor, _run(Tensor.view_as, _TYPES, (tensor, tensor), _NONE))


def raw(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function with tracking off: results are plain tensors."""
    return _run(function, _TYPES, args, kwargs)


def _listed(names: frozenset[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))


def _tracked(*nested: Any) -> Iterator[Provenance]:
    for tensor in tensors_in(*nested):
        found = provenance(tensor)
        if found is not None:
            yield found


def infer(
    func: _Function, shape: tuple[int, ...], args: Any, kwargs: Mapping[str, Any]
) -> Provenance | None:
    """Return the provenance of a result of this shape, None where it depends on no source."""
    rule = RULES.get(func)
    args, kwargs = positional(args, kwargs)
    pairs = None if rule is None else rule(shape, args, kwargs)
    found: Provenance | None = None
    named: set[int] = set()
    for tensor, dims in pairs or ():
        named.add(id(tensor))
        ours = provenance(tensor)
        if ours is not None and dims is not None:
            moved = ours.remap(shape, dims)
            found = moved if found is None else found.union(moved)
    for tensor in tensors_in(args, kwargs):
        ours = provenance(tensor)
        if ours is not None and id(tensor) not in named:
            moved = ours.lost(shape)
            found = moved if found is None else found.union(moved)
    return found


def _follow(func: _Function, args: Any, kwargs: Mapping[str, Any], result: Any) -> Any:
    """Give the tensors of a result their provenance."""
    if isinstance(result, Tensor):
        if type(result) is Tensor and not _is_any(result, args, kwargs):
            found = infer(func, tuple(result.shape), args, kwargs)
            if found is not None:
                attach(result, found)
                result._form = form_of(func, found.shape, args, kwargs)  # type: ignore[attr-defined]
        return result
    if isinstance(result, (tuple, list)):
        for index, item in enumerate(result):
            if type(item) is Tensor and not _is_any(item, args, kwargs):
                found = infer(func, tuple(item.shape), operands_of(func, index, args), kwargs)
                if found is not None:
                    attach(item, found)
            elif isinstance(item, (tuple, list)):
                _follow(func, args, kwargs, item)
    return result


def _is_any(result: Tensor, *nested: Any) -> bool:
    """Return whether a result is one of the arguments, which some functions give back."""
    return any(result is tensor for tensor in tensors_in(*nested))


def _dispatch(
    func: _Function, types: tuple[type, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Run an op and follow the provenance from its arguments to its results."""
    name = func.__name__
    if name == "__get__":
        return _read(func, types, args)
    written = _targets(name, args, kwargs)
    before = _prepare_write(name, args, kwargs, written) if written else None
    known = [provenance(target) for target in written]
    result = _run(func, types, args, kwargs)
    if written:
        # A draw in place, bernoulli_, has given its target a provenance of its own.
        written = [t for t, old in zip(written, known, strict=True) if provenance(t) is old]
        _mark_written(func, args, kwargs, written, before)
        return result
    if is_escape(name, args, kwargs):
        escape(_tracked(args, kwargs))
    return _follow(func, args, kwargs, result)


_METADATA = frozenset(
    [
        "shape",
        "dtype",
        "device",
        "ndim",
        "layout",
        "requires_grad",
        "is_leaf",
        "grad_fn",
        "grad",
        "_grad",
        "_base",
        "_version",
        "names",
        "output_nr",
        "retains_grad",
        "is_sparse",
        "is_cuda",
        "is_meta",
        "is_quantized",
        "is_nested",
        "is_mkldnn",
        "is_cpu",
        "is_mps",
        "is_xpu",
        "is_xla",
        "is_ipu",
        "is_maia",
        "is_vulkan",
        "is_sparse_csr",
        "is_mtia",
        "name",
        "nbytes",
        "itemsize",
        "_cdata",
        "_has_symbolic_sizes_strides",
        "_backward_hooks",
        "_post_accumulate_grad_hooks",
        "grad_dtype",
        "volatile",
    ]
)


def _read(func: _Function, types: tuple[type, ...], args: tuple[Any, ...]) -> Any:
    """Read an attribute: metadata depends on no value, ``T`` and its like are ops."""
    result = _run(func, types, args, _NONE)
    if func.__self__.__name__ in _METADATA:  # type: ignore[attr-defined]
        return result
    return _follow(func, args, _NONE, result)


def _targets(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the tensors that an op writes into."""
    if "out" in kwargs and kwargs["out"] is not None:
        return list(tensors_in(kwargs["out"]))
    if name.endswith("_") and not name.endswith("__"):
        return list(tensors_in(args[0])) if name != "requires_grad_" else []
    if name in _WRITES or kwargs.get("inplace") is True:
        return list(tensors_in(args[0]))
    return []


_WRITES = frozenset(
    [
        "__setitem__",
        "__set__",
        "__iadd__",
        "__isub__",
        "__imul__",
        "__idiv__",
        "__itruediv__",
        "__ifloordiv__",
        "__imod__",
        "__ipow__",
        "__iand__",
        "__ior__",
        "__ixor__",
        "__ilshift__",
        "__irshift__",
    ]
)


# A loss that is summed in place is a sum of costs still, for the price of a copy of its first.
_ADDITIONS = frozenset("add_ sub_ __iadd__ __isub__".split())
_LARGEST_COPY = 2**20


def _prepare_write(
    name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], written: list[Tensor]
) -> Operand | None:
    """Refuse what cannot be followed; return what the target was, for the sake of a linear form."""
    incoming = {source.name for found in _tracked(args, kwargs) for source in found.sources}
    for target in written:
        owner = _base_of(target)
        is_parameter = isinstance(target if owner is None else owner, nn.Parameter)
        if is_parameter and incoming and name != "__set__":
            raise WriteIntoParameterError(name, frozenset(incoming))
    if len(written) != 1:
        return None
    (target,) = written
    form = getattr(target, "_form", None)
    if form is not None:
        return form
    if name not in _ADDITIONS or raw(Tensor.numel, target) > _LARGEST_COPY:
        return None
    copied = raw(Tensor.clone, target)
    found = provenance(target)
    return copied if found is None else attach(copied, found)


def _mark_written(
    func: _Function,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    written: list[Tensor],
    before: Operand | None,
) -> None:
    """Give what was written the union of what it had and what came in."""
    if func.__name__ == "__set__" and func.__self__.__name__ != "data":  # type: ignore[attr-defined]
        return  # grad, requires_grad, names: no value of the tensor changes
    for target in written:
        found = infer(func, tuple(raw(Tensor.size, target)), args, kwargs)
        if found is None:
            continue
        attach(target, found)
        target._form = None  # type: ignore[attr-defined]
        form = None if before is None else form_of(func, found.shape, args, kwargs)
        if form is not None:  # the operand is what the target was, not what it became
            serial, adjoint, operands = form
            form = (serial, adjoint, tuple(before if x is target else x for x in operands))
        target._form = form  # type: ignore[attr-defined]
        target._written = next(serials)  # type: ignore[attr-defined]
        _mark_shared(target, found)


def _mark_shared(target: Tensor, found: Provenance) -> None:
    """Give its sources, without alignment, to all that shares the storage of what was written."""
    base = _base_of(target)
    if base is not None:
        known = provenance(base)
        lost = found.lost(tuple(raw(Tensor.size, base)))
        attach(base, lost if known is None else known.union(lost))
        base._form, base._written = None, next(serials)  # type: ignore[attr-defined]
    shared = raw(storage.storage_of, target)
    if shared is not None:
        storage.taint(shared, found, holders=1 if base is None else 2)


def _base_of(tensor: Tensor) -> Tensor | None:
    base: Tensor | None = _run(_read_base, _TYPES, (tensor,), _NONE)
    return base


def _rebuild(plain: Tensor, names: tuple[str, ...]) -> Tensor:
    """Make a pickled tensor again: its sources are known by name only, without alignment."""
    universe = Universe()
    found: Provenance | None = None
    for name in names:
        new = universe.of(Source(name, ()), tuple(plain.shape))
        found = new if found is None else found.union(new)
    return plain if found is None else attach(alias(plain), found)


_FAST = frozenset({ProvenanceTensor, Tensor, float, int})
_FACTORS = {"+": (1.0, 1.0), "-": (1.0, -1.0), "r-": (-1.0, 1.0)}
_Linear = Callable[[ProvenanceTensor, Any, type, tuple[int, ...]], Form | None]


def _operator(name: str, linear: _Linear | None, equal: Adjoint | None = None) -> _Function:
    """Return a binary operator that follows provenance without torch's dispatch.

    `linear` makes the form of the result; `equal` is the adjoint for two tensors of one shape, the
    most frequent case, which is written out here for speed.
    """
    plain_operator = getattr(Tensor, name)
    run, is_tracking, types, fast, boolean = _run, _is_tracking, _TYPES, _FAST, torch.bool

    def operator(self: ProvenanceTensor, other: Any) -> Any:
        kind = type(other)
        if kind not in fast:
            return plain_operator(self, other)
        result: Any = run(plain_operator, types, (self, other), _NONE)
        if result.__class__ is not Tensor or not is_tracking():
            return result
        ours = self._provenance
        if kind is ProvenanceTensor:
            theirs = other._provenance
            if ours is not theirs:
                joined = ours._memo.get(theirs) or ours.join(theirs)
                # The joint shape is that of both, unless one was broadcast.
                is_equal = ours.shape == theirs.shape
                ours = joined
            else:
                is_equal = True
            if is_equal and equal is not None and result.dtype is not boolean:
                result.__class__ = ProvenanceTensor
                result._provenance = ours
                result._form = (next(serials), equal, (self._form or self, other._form or other))
                return result
        elif kind is Tensor and ours.shape != result.shape:
            ours = ours.broadcast(tuple(result.shape))
        boolean_result = linear is None or result.dtype is boolean
        result.__class__ = ProvenanceTensor
        result._provenance = ours
        if linear is not None and not boolean_result:  # of truth values, a sum is an or
            result._form = linear(self, other, kind, ours.shape)
        return result

    operator.__name__ = name
    return operator


def _sum_of(signs: str) -> _Linear:
    """Return how to make the form of a sum or a difference."""
    equal = {"+": both, "-": difference}.get(signs)
    factors = _FACTORS[signs]

    def linear(
        self: ProvenanceTensor, other: Any, kind: type, shape: tuple[int, ...]
    ) -> Form | None:
        mine = self._provenance.shape
        if kind is ProvenanceTensor:
            theirs = other._provenance.shape
            if equal is not None and (mine is theirs or mine == theirs):
                return (next(serials), equal, (self._form or self, other._form or other))
            other = other._form or other
        else:
            theirs = () if kind is not Tensor else tuple(other.shape)
        adjoint = partial(combined, shape, (mine, theirs), factors)
        return (next(serials), adjoint, (self._form or self, other))

    return linear


def _scaled(self: ProvenanceTensor, other: Any, kind: type, shape: tuple[int, ...]) -> Form | None:
    if kind is ProvenanceTensor:
        return None
    adjoint = partial(combined, shape, (self._provenance.shape,), (other,))
    return (next(serials), adjoint, (self._form or self,))


def _divided(self: ProvenanceTensor, other: Any, kind: type, shape: tuple[int, ...]) -> Form | None:
    if kind is ProvenanceTensor or (kind is not Tensor and not other):
        return None
    return _scaled(self, 1 / other, kind, shape)


_OPERATORS: dict[str, tuple[_Linear | None, Adjoint | None]] = {
    "__add__": (_sum_of("+"), both),
    "__radd__": (_sum_of("+"), both),
    "__sub__": (_sum_of("-"), difference),
    "__rsub__": (_sum_of("r-"), None),
    "__mul__": (_scaled, None),
    "__rmul__": (_scaled, None),
    "__truediv__": (_divided, None),
}
_COMPARISONS = "__rtruediv__ __pow__ __eq__ __ne__ __lt__ __le__ __gt__ __ge__"


def _elementwise(func: _Function, args: tuple[Any, ...]) -> Any:
    """Run an elementwise function of tensors and numbers; None where the arguments are neither."""
    found: Provenance | None = None
    for argument in args:
        kind = type(argument)
        if kind is ProvenanceTensor:
            ours = argument._provenance
            if found is None:
                found = ours
            elif found is not ours:
                found = found.join(ours)
        elif kind not in _FAST:
            return None
    result: Any = _run(func, _TYPES, args, _NONE)
    if found is None or result.__class__ is not Tensor:
        return result
    if found.shape != result.shape:
        found = found.broadcast(tuple(result.shape))
    result.__class__ = ProvenanceTensor
    result._provenance = found
    linear = _LINEAR_FUNCTIONS.get(func)
    is_of_tensor = len(args) == 2 and type(args[0]) is ProvenanceTensor
    if linear is not None and is_of_tensor and result.dtype is not torch.bool:
        result._form = linear(args[0], args[1], type(args[1]), found.shape)
    return result


def _function(name: str) -> _Function:
    """Return an elementwise method of one tensor that follows provenance without dispatch."""
    plain_method = getattr(Tensor, name)
    form = (
        (lambda self: (next(serials), negative, (self._form or self,))) if "neg" in name else None
    )

    def method(self: ProvenanceTensor) -> Any:
        result: Any = _run(plain_method, _TYPES, (self,), _NONE)
        if result.__class__ is not Tensor or not _is_tracking():
            return result
        result.__class__ = ProvenanceTensor
        result._provenance = self._provenance
        if form is not None:
            result._form = form(self)
        return result

    method.__name__ = name
    return method


# The elementwise functions that write nothing and give back a tensor of their own.
_ELEMENTWISE = frozenset(
    function
    for function, rule in RULES.items()
    if rule is pointwise
    and not function.__name__.endswith("_")
    and getattr(function, "__module__", None) != "torch.nn.functional"
    and function.__name__ not in ("expand", "repeat", "tile", "narrow")
)
_LINEAR_FUNCTIONS: dict[_Function, _Linear] = {
    getattr(space, name): linear
    for name, linear in {
        "add": _sum_of("+"),
        "sub": _sum_of("-"),
        "mul": _scaled,
        "div": _divided,
        "true_divide": _divided,
    }.items()
    for space in (torch, Tensor)
}
_FUNCTIONS = [
    "__neg__",
    "neg",
    "exp",
    "log",
    "log1p",
    "expm1",
    "sqrt",
    "tanh",
    "sigmoid",
    "relu",
    "sin",
    "cos",
    "square",
]


def _attribute(name: str) -> property:
    """Return an attribute that is read without torch's dispatch."""
    plain_attribute = getattr(Tensor, name)
    read, write = plain_attribute.__get__, plain_attribute.__set__

    def get(self: ProvenanceTensor) -> Any:
        return _run(read, _TYPES, (self,), _NONE)

    def put(self: ProvenanceTensor, value: Any) -> None:
        _run(write, _TYPES, (self, value), _NONE)

    return property(get, put)


for _name, (_linear, _equal) in _OPERATORS.items():
    setattr(ProvenanceTensor, _name, _operator(_name, _linear, _equal))
for _name in _COMPARISONS.split():
    setattr(ProvenanceTensor, _name, _operator(_name, None))
for _name in _FUNCTIONS:
    setattr(ProvenanceTensor, _name, _function(_name))
for _name in ["shape", "dtype", "device", "ndim", "requires_grad", "is_leaf"]:
    setattr(ProvenanceTensor, _name, _attribute(_name))
# A class that defines __eq__ loses its hash: tensors are hashed by identity.
ProvenanceTensor.__hash__ = Tensor.__hash__  # type: ignore[method-assign]
