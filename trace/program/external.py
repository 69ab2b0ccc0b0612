"""External calls: one op of code that torch cannot see, such as a simulator.

>>> import numpy as np
>>> import torch
>>> from ancestral.trace.recording.record import record
>>> step = external(lambda action: 2 * action.numpy())  # of many environments, side by side
>>> with record() as trace:
...     action = torch.distributions.Bernoulli(torch.full((8,), 0.4)).sample()
...     reward = step(action)
>>> reward.shape, trace.escapes
(torch.Size([8]), ())
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ancestral.provenance.algebra.alignment import LOST, Shape
from ancestral.provenance.algebra.alignment_loss import note
from ancestral.provenance.algebra.provenance import Provenance, Universe, union
from ancestral.provenance.dispatch import implicit_reads
from ancestral.provenance.dispatch.escape import escape, fail
from ancestral.provenance.tensor.control_flow import (
    concerned,
    controlling,
    decisions_of,
    is_constant,
    now,
)
from ancestral.provenance.tensor.tensor import attach, provenance, raw, site_of
from ancestral.provenance.tensor.torch_internals import tree_flatten, tree_unflatten
from ancestral.trace.context.argument_checks import check_function, kind_of
from ancestral.trace.context.stack import local
from ancestral.trace.program.call_twice import copied, perturbed, same_randomness
from ancestral.trace.program.unpassed_tensors import Beside, external_error

_MOST_FORMS = 1000
_Result = np.ndarray | np.generic | bool | int | float


class _Given(NamedTuple):
    """The tensors among the arguments, by their number, and the size of the batch."""

    tensors: dict[int, Tensor]
    size: int | None  # None where elements are not followed


def external(
    function: Callable[..., Any],
    dim: int | None = 0,
    *,
    stateful: bool = True,
    check: bool = False,
) -> Callable[..., Any]:
    """Return a function of code that torch cannot see (a simulator, numpy) as one op.

    It is called with plain tensors, copies of the arguments, in whatever containers; what comes
    back of tensors, arrays of numpy and, without a `dim`, numbers, are new tensors. They depend on
    all tracked tensors that went into this call and, if it is `stateful`, into earlier ones of the
    same recording (by any method of the same object); along `dim` element n depends on elements n
    only. That is the user's word. What it meets besides, in its closure or drawn in it, counts for
    all elements. No gradient goes through it: a site drawn by ``rsample`` that goes in gets its
    score function. Nothing escapes by the call, unless texts or objects come back, or no tensor.
    What it leaves elsewhere (a list, another simulator) is not followed, and what Python can tell
    of its results without reading them (containers, keys, shapes, types, None) must always be the
    same.

    Args:
        function: the function, such as ``lambda a: environments.step(a.numpy())``.
        dim: the dimension of arguments and results, of one size, along which elements stay apart;
            a tensor argument of another size counts for all of them. None where all depends on all.
        stateful: whether results depend on what went into earlier calls.
        check: at every call, try the promise: change one element of what goes into a copy of the
            function, and compare the others. Slow; for finding out once.

    Raises:
        TypeError: if `function` is none, or `dim` is no int.
        ExternalError: at a call whose results are not of the size of its arguments along `dim`, or
            or fail the check, or have other containers, shapes or types than before, or whose
            arguments require a gradient, which would be lost.
    """
    check_function("external", function)
    if dim is not None and (not isinstance(dim, int) or isinstance(dim, bool)):
        raise TypeError(
            f"dim must be the int of a dimension, or None if all depends on all; not {kind_of(dim)}"
        )
    called = _External(function, dim, is_stateful=stateful, is_checked=check)

    @functools.wraps(function, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            raise NotImplementedError("an.external is code that torch cannot see: not compiled")
        return called(args, kwargs)

    return call


class _External:
    """An external function, and what it promises."""

    def __init__(
        self, function: Callable[..., Any], dim: int | None, *, is_stateful: bool, is_checked: bool
    ) -> None:
        self._function = function
        self._name = getattr(function, "__name__", type(function).__name__)
        self._dim = dim
        self._is_stateful = is_stateful
        owner = getattr(function, "__self__", None)  # has one state for all its methods
        self._state: object = self if owner is None else id(owner)
        self._is_checked = is_checked
        self._calls = 0
        # Of results, and whether Python sees them, by those of arguments.
        self._forms: dict[object, tuple[str, bool]] = {}

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        leaves, spec = tree_flatten((args, dict(kwargs)))
        given = self._given(leaves)
        found = self._depending(given)
        if self._is_checked:
            self._check(leaves, spec, given)
        beside = Beside(self._name)
        result = self._run(self._function, leaves, spec, found, beside)
        self._calls += 1
        parts, results = tree_flatten(result)
        beside.meet(parts)
        found = self._joined(found, beside.found)
        made = [self._made(part, given, found) for part in parts]
        if found is not None:
            self._see(made, results, (str(spec), *map(_form, leaves)), found)
        self._note(made, given)
        return tree_unflatten(made, results)

    def _joined(self, found: Provenance | None, beside: Sequence[Provenance]) -> Provenance | None:
        """Return what results depend on, with what the function has met beside its arguments."""
        for each in beside:
            met = each.lost(() if found is None else found.shape).kinked()
            found = met if found is None else found.union(met)
            if self._is_stateful:
                external = decisions_of(each.universe).external
                known = external.get(self._state)
                external[self._state] = met if known is None else known.lost(met.shape).union(met)
        return found

    def _see(self, made: Sequence[Any], results: Any, given: object, found: Provenance) -> None:
        """Take for an escape what is no tensor, or has no result: Python may find it elsewhere.

        Raises:
            ExternalError: if the containers, shapes or types differ from those of another call.
        """
        is_seen = not any(isinstance(each, Tensor) for each in made)
        is_seen |= any(not isinstance(each, Tensor | None) for each in made)
        form = f"{results} of {', '.join(map(_form, made))}"
        if len(self._forms) > _MOST_FORMS:
            self._forms.clear()
        known, was_seen = self._forms.setdefault(given, (form, is_seen))
        if form != known and not (is_seen and was_seen):
            raise external_error(
                self._name,
                f"its results are {form}, and were {known} in an earlier call with the same kinds "
                "of arguments, by which Python could tell what the values are; return the same "
                "containers, shapes and types at every call: leave out what comes at some only, "
                "such as the infos of environments, or return a mask of what is there",
            )
        if is_seen:
            escape([found])

    def _run(
        self,
        function: Callable[..., Any],
        leaves: Sequence[Any],
        spec: Any,
        found: Provenance | None,
        beside: Beside,
    ) -> Any:
        """Call a function with plain copies, and follow nothing of what it does."""
        copies = [_plain(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        args, kwargs = tree_unflatten(copies, spec)
        around = [] if found is None else [found]
        depth = len(local.around)
        local.around.extend(around)  # for what is drawn in it
        try:
            with beside:
                return raw(function, *args, **kwargs)
        except Exception as error:
            fail(around, str(error))
            raise
        finally:
            del local.around[depth:]
            implicit_reads.local.found.clear()

    def _given(self, leaves: Sequence[Any]) -> _Given:
        """Return the tensors that go in.

        Raises:
            ExternalError: if a gradient would be lost.
        """
        tensors = {n: leaf for n, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
        for leaf in tensors.values():
            if leaf.requires_grad and site_of(leaf) is None and torch.is_grad_enabled():
                raise external_error(
                    self._name,
                    f"an argument of shape {list(leaf.shape)} requires a gradient, which would be "
                    "lost, since none goes through code that torch cannot see; pass .detach() of "
                    "it if the results do not change with it, or compute them in torch",
                )
        if self._dim is None:
            return _Given(tensors, None)
        tracked = [leaf for leaf in tensors.values() if provenance(leaf) is not None]
        for leaf in (*tracked, *tensors.values()):
            if -leaf.ndim <= self._dim < leaf.ndim:
                return _Given(tensors, leaf.shape[self._dim])
        if tracked:
            raise external_error(
                self._name,
                f"no argument has a dimension {self._dim} (the first is of shape "
                f"{list(tracked[0].shape)}); expected one of a batch, or dim=None",
            )
        return _Given(tensors, None)

    def _depending(self, given: _Given) -> Provenance | None:
        """Return what results depend on, of shape [n], or [] if nothing is kept apart."""
        shape = () if given.size is None else (given.size,)
        found: dict[Universe, list[Provenance]] = {}
        for leaf in given.tensors.values():
            ours = provenance(leaf)
            for each in () if ours is None else concerned(ours):
                kept = each.remap(shape, self._step(each.shape, shape))
                if kept is not None:
                    found.setdefault(kept.universe, []).append(kept.kinked())
        for universe, parts in found.items():
            if self._is_stateful:
                known = decisions_of(universe).external.get(self._state)
                if known is not None:
                    is_same = known.shape == shape
                    parts.append(known if is_same else known.lost(shape))
                decisions_of(universe).external[self._state] = union(parts)
        parts = [union(each) for each in found.values()]
        parts += self._earlier(found, shape)
        return functools.reduce(Provenance.union, parts) if parts else None

    def _earlier(self, found: Mapping[Universe, Any], shape: Shape) -> Iterator[Provenance]:
        """Yield what went into earlier calls in the open recording, if nothing does now."""
        universe = _open_universe()
        if self._is_stateful and universe is not None and universe not in found:
            known = decisions_of(universe).external.get(self._state)
            if known is not None:
                yield known if known.shape == shape else known.lost(shape)

    def _step(self, shape: Shape, target: Shape) -> tuple[int, ...]:
        """Return how the dimensions of the batch index those of an argument."""
        if not target or self._dim is None:
            return (LOST,) * len(target)
        is_of_batch = -len(shape) <= self._dim < len(shape) and shape[self._dim] == target[0]
        return (self._dim % len(shape) if is_of_batch else LOST,)

    def _made(self, part: Any, given: _Given, found: Provenance | None) -> Any:
        """Return a result as a new tensor with its provenance."""
        if part is None or isinstance(part, str):
            return None if part is None else part
        tensor = _tensor(part)
        if tensor is None:
            return part
        shape = tuple(raw(Tensor.size, tensor))
        if given.size is not None and self._dim is not None:
            has_dim = -len(shape) <= self._dim < len(shape)
            if not has_dim or shape[self._dim] != given.size:
                came = f"a result of shape {list(shape)}" if shape else f"{kind_of(part)}"
                raise external_error(
                    self._name,
                    f"expected results with {given.size} elements along dimension {self._dim}, as "
                    f"the arguments have; found {came}; return one for each element, or say "
                    "dim=None if all depends on all",
                )
        if found is None:
            return tensor
        whole = _over(found, shape, self._dim if given.size is not None else None)
        for each in (controlling(), *local.around):
            whole = whole if each is None else whole.union(each.lost(shape))
        depends = now(whole)
        return tensor if depends is None else attach(tensor, depends)

    def _note(self, made: Iterable[Any], given: _Given) -> None:
        """Say, for explanations, which call mixed what it mixed."""
        operands = [provenance(leaf) for leaf in given.tensors.values()]
        for each in made:
            result = provenance(each)
            if result is not None:
                note(f"external {self._name}", result, [p for p in operands if p is not None])

    def _check(self, leaves: Sequence[Any], spec: Any, given: _Given) -> None:
        """Change one element of what goes into a copy, and compare the others.

        Raises:
            ExternalError: if another element of a result changes.
        """
        if given.size is None or self._dim is None:
            return
        at = self._calls % given.size
        changed = {
            n: perturbed(_plain(leaf), self._dim, at)
            for n, leaf in given.tensors.items()
            if -leaf.ndim <= self._dim < leaf.ndim and leaf.shape[self._dim] == given.size
        }
        others = [changed.get(n, leaf) for n, leaf in enumerate(leaves)]
        try:
            twins = copied(self._function), copied(self._function)
        except TypeError as error:
            raise external_error(
                self._name,
                f"check=True calls a copy of the function, and it cannot be copied ({error}); "
                "pass a method of an object that copy.deepcopy takes, or leave the check out",
            ) from error
        with same_randomness() as again:
            first = self._run(twins[0], leaves, spec, None, Beside(self._name))
            again()
            second = self._run(twins[1], others, spec, None, Beside(self._name))
        pairs = zip(tree_flatten(first)[0], tree_flatten(second)[0], strict=False)
        for number, (one, other) in enumerate(pairs):
            self._compare(number, one, other, at, given.size)

    def _compare(self, number: int, one: Any, other: Any, at: int, size: int) -> None:
        assert self._dim is not None
        a, b = _tensor(one), _tensor(other)
        if a is None or b is None or a.shape != b.shape:
            return
        if not -a.ndim <= self._dim < a.ndim or a.shape[self._dim] != size:
            return  # which is refused by itself
        differs = ~torch.isclose(a.double(), b.double(), rtol=0, atol=0, equal_nan=True)
        rows = differs.movedim(self._dim, 0).reshape(size, -1).any(1)
        rows[at] = False
        if rows.any():
            raise external_error(
                self._name,
                f"element {int(rows.nonzero()[0])} of result {number} changes with element {at} of "
                f"the arguments; expected that along dimension {self._dim} element n depends on "
                "elements n only; say dim=None, or give each element its own state, and "
                "its own generator of random numbers",
            )


def _form(value: Any) -> str:
    """Return what Python can tell of a value without its numbers, all of what is no tensor."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return repr(value) if isinstance(value, str | int | None) else kind_of(value)


def _plain(tensor: Tensor) -> Tensor:
    """Return a copy without provenance and history."""
    copy: Tensor = raw(lambda x: x.detach().clone(), tensor)
    return copy


def _tensor(part: Any) -> Tensor | None:
    """Return a result as a new plain tensor, None if it is no numbers."""
    if isinstance(part, Tensor):
        copy: Tensor = raw(Tensor.clone, part)
        return copy
    if not isinstance(part, _Result):
        return None
    array = np.array(part)
    if array.dtype.kind not in "biufc":
        return None
    made: Tensor = raw(torch.from_numpy, array)
    return made


def _over(found: Provenance, shape: Shape, dim: int | None) -> Provenance:
    """Return what a result depends on, from what each element of the batch does."""
    if dim is None or not found.shape:
        return found.lost(shape)
    kept = found.remap(
        shape, tuple(0 if i == dim % len(shape) else LOST for i in range(len(shape)))
    )
    assert kept is not None
    return kept


def _open_universe() -> Universe | None:
    traces = local.traces
    universe = traces[0].universe if traces else None
    return None if universe is None or is_constant(universe) else universe
