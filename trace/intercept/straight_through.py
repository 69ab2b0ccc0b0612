"""Straight-through estimators: paths that add nothing to a draw but a gradient to its parameters.

        t = z + p - ⊥(p),   p + ⊥(z - p),   f(z, p) with the backward of the identity in p

These are straight-through estimators: by them, the gradient of a cost of t reaches p, from which z
was drawn. With the score function of z besides, it is counted twice. Such a step needs a gradient
that was cut; from the first cut of a recording on, results are looked at of which an operand may be
a part of such a sum. Bengio, Léonard and Courville (2013), "Estimating or propagating gradients
through stochastic neurons".
"""

import functools
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from ancestral.provenance.dispatch.linear_forms import when_cut
from ancestral.provenance.tensor.arguments import tensors_in
from ancestral.provenance.tensor.control_flow import as_data
from ancestral.provenance.tensor.frame_owner import is_user
from ancestral.provenance.tensor.linear_form import Form, Placed, Weight, made_of
from ancestral.provenance.tensor.tensor import TYPES, ProvenanceTensor, Unseen, provenance, raw
from ancestral.provenance.tensor.torch_internals import is_torch_function_enabled
from ancestral.trace.context.patch import ASKING, Lasting, Patch
from ancestral.trace.context.place import Location, place
from ancestral.trace.context.stack import local
from ancestral.trace.context.switch import Interceptor, switch
from ancestral.trace.nodes.autograd_graph import (
    OF_LABELS,
    PASSED,
    Origin,
    edge_of,
    history,
    scored_by,
    step_of,
    visited,
)
from ancestral.trace.nodes.node import Node
from ancestral.trace.nodes.support import is_discrete

_Function = Callable[..., Any]
_Addends = list[tuple[Tensor, Weight, bool]]
"""Tensors, what each counts, and whether its gradient does not count."""

_Silent = tuple[Tensor, Tensor]

_OPERATORS = "__add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__".split()
_PARTS = frozenset("add sub rsub mul div exp neg".split())  # what sums without a value come out of

_MOST = 12  # addends that are looked at: a straight-through sum has three
_SUMS = ("add", "rsub", "sub")
_FUNCTION = "a function with its own backward"
_WORDS = (_FUNCTION, "add", "lerp", "mul", "sub", "where")


def cut_off(tensor: Tensor, result: Any) -> None:
    """Note that user code made a tensor without a gradient of one with a gradient."""
    if not local.traces or not raw(_requires_grad, tensor):
        return
    frame = sys._getframe(2)  # pyright: ignore[reportPrivateUsage]
    if frame.f_code is ASKING and frame.f_back is not None:
        frame = frame.f_back
    if not is_user(frame):
        return
    CUTS.look()
    if type(result) is ProvenanceTensor:
        result._is_cut = True
        # Weakly: what is cut off lives no longer for it.
        result._addends = [(ref(each), _detached(share)) for each, share, _ in _addends(tensor)]


def look_at(result: Any) -> None:
    """Note where a result of a function with its own backward is the value of a draw."""
    for tensor in tensors_in(result):
        _look(_FUNCTION, tensor)


def _is_part(operand: Any, name: str) -> bool:
    """Return whether an operand may be a part of a sum that adds nothing but a gradient."""
    if type(operand) is ProvenanceTensor:
        is_sum = operand._form is not None and "mul" not in name and "div" not in name
        return operand._is_cut or (is_sum and not raw(_requires_grad, operand))
    if not isinstance(operand, Tensor):
        return False
    made = operand.grad_fn
    if made is not None:
        return step_of(made) in _PARTS
    return "mul" not in name and "div" not in name and not operand.requires_grad


def _looking(original: _Function, name: str) -> _Function:
    """Return an operator of tracked tensors whose results are looked at."""

    @functools.wraps(original)
    def operator(self: ProvenanceTensor, other: Any) -> Any:
        result = original(self, other)
        if _is_part(self, name) or _is_part(other, name):
            _look(name, result)
        return result

    return operator


def _propagating(original: Any) -> Any:
    """Return the ``__torch_function__`` of tracked tensors, whose results are looked at."""
    run = original.__func__

    def propagate(
        cls: Any, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = run(cls, func, types, args, kwargs)
        name = getattr(func, "__name__", "")
        if any(_is_part(operand, name) for operand in args):
            _look(name, result)
        return result

    return classmethod(propagate)


def _look(name: str, result: Any) -> None:
    if type(result) is not ProvenanceTensor:
        return
    result._is_cut = result._form is not None
    if not any(word in name for word in _WORDS):
        return
    trace = local.traces[0] if local.traces and not local.is_inside else None
    found = provenance(result)
    if trace is None or found is None or not raw(_requires_grad, result):
        return
    nodes = [trace.get(source.name) for source in as_data(found.universe, found.members)]
    scored = [
        node
        for node in nodes
        if node and node.is_score and node.is_learned and node.name not in trace.straight_through
    ]
    if not scored:
        return
    with Unseen():  # it is no escape that we look
        silent = list(_silent(_addends(result)))
        for node in scored:
            if _is_reached(node, result, silent, name):
                trace.straight_through[node.name] = place().location


def _is_reached(node: Node, result: Tensor, silent: list[_Silent], name: str) -> bool:
    """Return whether a gradient that adds nothing reaches the parameters of a site.

    A sum adds nothing by its addends. What else has the value of a draw says nothing where it is
    zero, as a product with it is too.
    """
    near = Origin(node.fn).near
    edges = [edge_of(learned) for tensor, learned in silent if _is_before(node, tensor)]
    if edges and not near.isdisjoint(visited(edges, None)):
        return True
    if any(word in name for word in _SUMS) or (name != _FUNCTION and not raw(Tensor.any, result)):
        return False
    edge = edge_of(result)
    return _is_value(result, node) and not near.isdisjoint(
        visited([edge], PASSED | {step_of(edge)})
    )


def _is_before(node: Node, tensor: Tensor) -> bool:
    """Return whether a tensor does not depend on a site, or as its density alone: costs do."""
    found = provenance(tensor)
    if found is None or node.source not in as_data(found.universe, found.members):
        return True
    nodes = visited([history(tensor)], PASSED)
    return any(scored_by(made, found.universe) or step_of(made) in OF_LABELS for made in nodes)


def _is_value(result: Tensor, node: Node) -> bool:
    """Return whether a result has the value that a site has drawn, or has all in whole numbers."""
    plain: Tensor = raw(Tensor.detach, result)
    if not plain.is_floating_point():
        return False
    if is_discrete(node.fn):
        return torch.allclose(plain, plain.round(), rtol=0, atol=1e-4)
    drawn = node.value.detach()
    return drawn.shape == plain.shape and torch.allclose(plain, drawn.to(plain), rtol=1e-5)


def _silent(addends: _Addends) -> Iterator[_Silent]:
    """Yield the addends that, with another or by themselves, add zero, and what has their gradient.

    That is the addend, or what it is multiplied with.
    """
    for tensor, share, is_cut in addends:
        learned = None if is_cut else _learned(tensor, share)
        if learned is None:
            continue
        made = history(tensor)
        is_sum = provenance(tensor) is None and made is not None and step_of(made) in _SUMS
        if is_sum and not raw(Tensor.any, tensor):  # p - ⊥(p), computed before
            yield tensor, learned
        twins = (
            theirs
            for other, theirs, is_other_cut in addends
            if (is_other_cut or _learned(other, theirs) is None) and _is_same(tensor, other)
        )
        if any(_is_opposite(share, theirs) for theirs in twins):
            yield tensor, learned


def _learned(tensor: Tensor, share: Weight) -> Tensor | None:
    """Return what has a gradient: an addend, or else what it is multiplied with."""
    if raw(_requires_grad, tensor):
        return tensor
    return share if isinstance(share, Tensor) and share.requires_grad else None


def _is_same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are one in memory, or have the same values, not all zero."""
    if raw(Tensor.size, a) != raw(Tensor.size, b) or raw(_dtype, a) != raw(_dtype, b):
        return False
    if raw(Tensor.data_ptr, a) == raw(Tensor.data_ptr, b):
        return True
    return bool(raw(Tensor.equal, a, b) and raw(Tensor.any, a))


def _is_opposite(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return bool(torch.all(torch.as_tensor(a + b) == 0))
    return bool(a == -b)


def _detached(share: Weight) -> Weight:
    return share.detach() if isinstance(share, Tensor) else share


def _addends(tensor: Tensor) -> _Addends:
    """Return what a tensor is a sum of, nothing if that is much."""
    found: _Addends = []
    form: Form | None = getattr(tensor, "_form", None)
    pending: list[tuple[Any, Any]] = [(form or tensor, 1.0)]
    while pending:
        operand, share = pending.pop()
        if isinstance(share, Placed):  # of a part: no sum of whole tensors
            return []
        if operand.__class__ is tuple:
            pending.extend(zip(made_of(operand), operand[1](share), strict=True))
        elif isinstance(operand, Tensor):
            known = getattr(operand, "_addends", None)
            if known is None:
                found.append((operand, share, False))
            else:
                alive = [(held(), theirs) for held, theirs in known]
                found.extend((each, share * w, True) for each, w in alive if each is not None)
        if len(found) + len(pending) > _MOST:
            return []
    return found


def _cutting(original: _Function) -> _Function:
    @functools.wraps(original)
    def detach(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if (
            type(tensor) is ProvenanceTensor
            and is_torch_function_enabled()
            and not (args or kwargs)
        ):
            # Torch would name us, of whom no rule knows, and not its own function.
            result = ProvenanceTensor.__torch_function__(original, TYPES, (tensor,), {})  # type: ignore[no-untyped-call]
        else:
            result = original(tensor, *args, **kwargs)
        cut_off(tensor, result)
        return result

    return detach


class _Cuts(Interceptor):
    """Meets what cuts a gradient, and from the first cut on what is computed of tracked tensors."""

    def patches(self) -> Iterator[Patch]:
        """Return what cuts."""
        for owner in (Tensor, torch):
            yield Patch(owner, "detach", _cutting)

    def look(self) -> None:
        """Take the place of what computes, until the last recording ends."""
        if not switch.has(_COMPUTING):
            switch.replace(_COMPUTING)


_COMPUTING = Lasting(
    [
        *(Patch(ProvenanceTensor, name, partial(_looking, name=name)) for name in _OPERATORS),
        Patch(ProvenanceTensor, "__torch_function__", _propagating, is_raw=True),
    ]
)
CUTS = _Cuts()
when_cut.append(CUTS.look)
_requires_grad: Any = Tensor.requires_grad.__get__  # type: ignore[attr-defined]
_dtype: Any = Tensor.dtype.__get__  # type: ignore[attr-defined]


class StraightThroughWarning(UserWarning):
    """A site has a straight-through gradient, and gets a score function besides."""


def straight_through_warning(node: Node, line: Location) -> StraightThroughWarning:
    """Return the warning, with the site and the line."""
    return StraightThroughWarning(
        f"what is computed at {line} has the value of site {node.name!r} ({node.location}) and "
        "a gradient to the very parameters of it by a path that adds nothing to the value (a "
        "straight-through estimator, x - x.detach()); with the score function of the site, the "
        "gradient is counted twice: call loss.backward() for the straight-through estimator "
        "alone, which is biased, or drop that path for an.backward"
    )
