"""Draws and densities of `torch.distributions`, caught while a recording is open.

The methods of torch's classes stay replaced when the first recording has opened: their first line
returns what they did before as long as none is open. Those of users' classes are put back. Only the
outermost call counts: what a draw does inside is its own.
"""

import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import (
    Beta,
    Chi2,
    Dirichlet,
    Distribution,
    Gamma,
    Independent,
    MixtureSameFamily,
    StudentT,
    TransformedDistribution,
)
from torch.distributions.utils import broadcast_all as _broadcast_all
from torch.distributions.utils import lazy_property

from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.control_flow import now
from ancestral.provenance.tensor.tensor import (
    ProvenanceTensor,
    attach,
    provenance,
    raw,
    site_of,
)
from ancestral.trace.context.compile import as_torch_is
from ancestral.trace.context.patch import Descendants, Group, Patch, subclasses
from ancestral.trace.context.place import argument_name, place
from ancestral.trace.context.stack import local
from ancestral.trace.context.switch import Interceptor, switch, unmet
from ancestral.trace.intercept.batch_shape import keep_of_density
from ancestral.trace.intercept.unrecorded_threads import unrecorded
from ancestral.trace.nodes.autograd_graph import mark_density
from ancestral.trace.nodes.distribution_params import (
    factorized,
    is_class_of_torch,
    param_provenance,
    parameters,
)
from ancestral.trace.nodes.known_families import PROBS, drawing, is_known, tracked_density
from ancestral.trace.nodes.support import meets_constraints
from ancestral.trace.program.site import found, size_of
from ancestral.trace.recording.constant_draws import (
    is_noise,
    is_within_transform,
    refuse_transformed,
    transformed_draw,
)
from ancestral.trace.recording.message import is_handled
from ancestral.trace.recording.record_site import draw, observe

_Method = Callable[..., Any]


def _drawing(original: _Method, is_reparameterized: bool) -> _Method:
    run = drawing(original)
    is_one_op = original is _GAMMAS

    @functools.wraps(original)
    @as_torch_is
    def drawn(self: Distribution, *args: Any, **kwargs: Any) -> Any:
        if local.is_inside or not switch.is_on:
            if is_one_op and switch.is_on and local.traces:
                return _as_one_op(run, self, *args, **kwargs)
            return original(self, *args, **kwargs)
        if not local.traces:
            return unrecorded(
                lambda: [item.tensor for item in parameters(self)],
                partial(original, self, *args, **kwargs),
                partial(drawn, self, *args, **kwargs),
            )
        if is_handled():
            return found(
                self,
                parameters(self),
                lambda: _inside(run, self, *args, **kwargs),
                sample_shape=size_of(args, kwargs),
                is_reparameterized=is_reparameterized,
                where=place(),
            )
        try:
            value = _inside(run, self, *args, **kwargs)
        except RuntimeError as error:
            refuse_transformed(type(self).__name__, (t for t, _ in parameters(self)), error)
            raise
        held = parameters(self)
        if isinstance(value, Tensor) and is_within_transform(value):
            if is_noise(item.tensor for item in held):
                return value
            raise transformed_draw(type(self).__name__, place())
        return draw(self, held, value, is_reparameterized=is_reparameterized, where=place())

    return drawn


_GAMMAS = vars(Gamma)["rsample"]  # torch's own, which writes into what it has just made


def _as_one_op(run: _Method, fn: Distribution, *args: Any, **kwargs: Any) -> Any:
    """Run a draw within another, which depends on its parameters element by element."""
    value = run(fn, *args, **kwargs)
    if type(value) is Tensor:
        found = now(param_provenance(fn, parameters(fn), tuple(value.shape), None))
        return value if found is None else attach(value, found)
    return value


def _inside(original: _Method, fn: Distribution, *args: Any, **kwargs: Any) -> Any:
    """Run a draw, whose own draws are its affair."""
    local.is_inside = True
    try:
        if type(fn) in _OF_GAMMA:
            with unmet():
                return original(fn, *args, **kwargs)
        return original(fn, *args, **kwargs)
    finally:
        local.is_inside = False


# Drawn by functions that are caught where users call them; no number is read on the way.
_OF_GAMMA = frozenset({Beta, Chi2, Dirichlet, Gamma, StudentT})


def _scoring(original: _Method) -> _Method:
    may_be_known = is_known(original)

    @functools.wraps(original)
    @as_torch_is
    def scored(self: Distribution, *args: Any, **kwargs: Any) -> Any:
        if not switch.is_on or not local.traces:
            return original(self, *args, **kwargs)
        value = args[0] if args else kwargs.get("value", next(iter(kwargs.values()), None))
        # Independent only sums the density of its base, which is caught instead.
        if local.is_inside or isinstance(self, Independent):
            density = _grouped(original, self, *args, **kwargs)
            keep_of_density(self, value, density)
            return density
        local.is_inside = True
        own, known = _drew(self, value), None
        try:
            if may_be_known:
                known = tracked_density(self, value, is_own=own is not None)
            density = original(self, *args, **kwargs) if known is None else known
        finally:
            local.is_inside = False
        is_seen = isinstance(density, Tensor) and not is_within_transform(density)
        if isinstance(value, Tensor) and isinstance(density, Tensor) and is_seen:
            draws = provenance(value)
            if draws is None:
                where = place()
                name = argument_name() or where.variable or type(self).__name__.lower()
                observe(self, value, density, where, name)
            elif isinstance(density, ProvenanceTensor):
                if own is not None:
                    density._scored = own
                    density._form = None  # one cost, not what it is computed from
                mark_density(density, draws.universe, draws.members)
        if known is None:
            keep_of_density(self, value, density)
        return density

    return scored


def _grouped(original: _Method, fn: Any, *args: Any, **kwargs: Any) -> Any:
    if not isinstance(fn, Independent):
        return original(fn, *args, **kwargs)
    local.event_dims += fn.reinterpreted_batch_ndims
    try:
        return original(fn, *args, **kwargs)
    finally:
        local.event_dims -= fn.reinterpreted_batch_ndims


def _checking(original: _Method) -> _Method:
    """Return a check of parameters or of a value, run untracked as long as it passes.

    That it did tells nothing of the values; where it does not, it runs again and is followed.
    """
    makes = original is _make

    @functools.wraps(original)
    @as_torch_is
    def checked(self: Distribution, *args: Any, **kwargs: Any) -> None:
        if not switch.is_on:
            original(self, *args, **kwargs)
            return
        kind: Any = type(self)
        if local.traces and _is_plain(kind):
            if makes:
                asked = args[2] if len(args) > 2 else kwargs.get("validate_args")
                is_asked = self._validate_args if asked is None else asked
                if is_asked and meets_constraints(self):
                    original(self, *args[:2], **{**kwargs, "validate_args": False})
                    if asked is None:
                        del self._validate_args  # what the class says
                    else:
                        self._validate_args = asked
                    return
            try:
                # A number that it reads as long as it passes decides nothing, wherever it runs.
                with unmet():
                    raw(original, self, *args, **kwargs)
                return
            except ValueError:  # to be raised once more, and noted
                pass
        original(self, *args, **kwargs)

    return checked


_make = vars(Distribution)["__init__"]  # torch's own


def _broadcasting(original: _Method) -> _Method:
    """Return torch's `broadcast_all`, by which most classes take their parameters, cut short.

    Tensors of one shape come out as they are, and numbers as tensors of that shape.
    """

    @functools.wraps(original)
    @as_torch_is
    def broadcast(*values: Any) -> Any:
        if not switch.is_on or not local.traces or storage.table or storage.local.guards:
            return original(*values)
        first = None
        for value in values:
            kind = value.__class__
            if kind is Tensor or kind is ProvenanceTensor or kind is nn.Parameter:
                if first is None:
                    first = value
                elif value.shape != first.shape:
                    return original(*values)
            elif kind is not float and kind is not int:
                return original(*values)
        if first is None or not first.dtype.is_floating_point:
            return original(*values)
        if len(values) == 1:
            return values
        return tuple([_spread(value, first) for value in values])

    return broadcast


def _broadcasting_own(original: _Method) -> _Method:
    """Return it for torch's function; that of somebody else may do otherwise."""
    return _broadcast if original is _broadcast_all else original


_broadcast = _broadcasting(_broadcast_all)
_full: Callable[..., Tensor] = torch.full  # torch's own, which a recording replaces


def _spread(value: Any, first: Tensor) -> Tensor:
    """Return a tensor of the shape of the first as it is, as torch does, or a number as one."""
    if isinstance(value, Tensor):
        return value
    return _full(raw(Tensor.size, first), value, dtype=first.dtype, device=first.device)


# The modules of torch's families that broadcast their parameters.
_BROADCASTING = tuple(
    module
    for name, module in sys.modules.items()
    if name.startswith("torch.distributions.") and hasattr(module, "broadcast_all")
)


@functools.lru_cache(maxsize=1024)
def _is_plain(kind: Any) -> bool:
    """Return whether a check of a class of torch computes nothing that the distribution keeps.

    It has no part that may be a user's, and no property that may ask a part for its parameters,
    which that keeps: lazy ones are not checked.
    """
    parts = (Independent, MixtureSameFamily, TransformedDistribution)
    declared = kind.arg_constraints
    if not is_class_of_torch(kind) or issubclass(kind, parts):
        return False
    return isinstance(declared, dict) and not any(
        isinstance(read := getattr(kind, name, None), property)
        and not isinstance(read, lazy_property)
        for name in declared
    )


def _drew(fn: Distribution, value: object) -> Any:
    """Return the node of a recorded draw z, untouched since, under the q that drew it, or None."""
    node = site_of(value)
    is_own = node is not None and factorized(node.fn) is fn and value._written == -1  # type: ignore[attr-defined]
    return node if is_own else None


_REPLACED: dict[str, Callable[[_Method], _Method]] = {
    "sample": lambda original: _drawing(original, False),
    "rsample": lambda original: _drawing(original, True),
    "log_prob": _scoring,
}
_OWN = ("torch.distributions.", "ancestral.")
_WITHOUT_DRAWS = frozenset({"pyro.distributions.unit"})  # of nothing, by which Pyro states factors


class Distributions(Interceptor):
    """Replaces the methods of all distributions, once for all threads."""

    def __init__(self) -> None:
        self._own: dict[type, None] = {}  # the classes of torch, and our own
        self._kinds = Descendants(Distribution, self._own.__contains__, _REPLACED)
        self.kinds = (self._kinds,)

    def patches(self) -> Iterable[Patch]:
        """Return the methods of the classes of torch, and what tells of classes to come."""
        kinds = (Distribution, *subclasses(Distribution))
        self._own.update(dict.fromkeys(kind for kind in kinds if kind.__module__.startswith(_OWN)))
        for kind in self._own:
            yield from _methods(kind, stays=True)
        yield from PROBS
        yield Patch(Distribution, "__init__", _checking, stays=True)
        yield Patch(Distribution, "_validate_sample", _quick(_checking), stays=True)
        for module in _BROADCASTING:
            yield Patch(module, "broadcast_all", _broadcasting_own, stays=True)
        # It does nothing between recordings, and to replace it asks all classes to look anew.
        hook: Any = classmethod(self._defined)
        yield Patch(Distribution, "__init_subclass__", lambda _: hook, stays=True)

    def found(self) -> Iterable[Patch]:
        """Return the methods of the classes of users."""
        others = self._kinds.others()
        lasting = [kind for kind in others if kind.__module__.startswith("pyro.")]
        if lasting:  # imported since; they are many, and there to stay
            self._own.update(dict.fromkeys(lasting))
            drawing = [kind for kind in lasting if kind.__module__ not in _WITHOUT_DRAWS]
            switch.stay(patch for kind in drawing for patch in _methods(kind, stays=True))
        return [p for kind in others if kind not in self._own for p in _methods(kind)]

    def _defined(self, kind: Any, /, **options: Any) -> None:
        """Catch a class that is defined while a recording is open."""
        super(Distribution, kind).__init_subclass__(**options)  # type: ignore[misc]
        switch.replace(Group(_methods(kind)))


def _methods(kind: type, stays: bool = False) -> list[Patch]:
    """Return the methods of a class that draw or score."""
    held = vars(kind)
    return [
        Patch(kind, name, make, True, stays)
        for name, make in (_STAYING if stays else _SWAPPED)
        if name in held and callable(held[name])
    ]


def _quick(replacement: Callable[[_Method], _Method]) -> Callable[[_Method], _Method]:
    """Return a replacement that costs next to nothing between recordings.

    It has the arguments of torch's methods, whose kind need not be found out then.
    """

    def replaced(original: _Method) -> _Method:
        followed = replacement(original)
        if not isinstance(original, FunctionType):  # but what somebody else has put there
            return followed
        code = original.__code__
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        is_open = code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
        if is_open or names not in (("self", "value"), ("self", "sample_shape")):
            return followed

        @as_torch_is
        def scored(self: Distribution, value: Any) -> Any:
            return followed(self, value) if switch.is_on else original(self, value)

        @as_torch_is
        def drawn(self: Distribution, sample_shape: Any) -> Any:
            return followed(self, sample_shape) if switch.is_on else original(self, sample_shape)

        quick = scored if "value" in names else drawn
        quick.__defaults__ = original.__defaults__
        return functools.wraps(original)(quick)

    return replaced


_SWAPPED = list(_REPLACED.items())
_STAYING = [(name, _quick(made)) for name, made in _REPLACED.items()]
