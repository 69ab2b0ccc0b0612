"""Distribution parameters: the tensors of a distribution, and the provenance of its draws.

What an object computes at first use it keeps for later ones. Computed with tracking off, it would
be kept without provenance, for whoever asks for it later. So tracking is off only where all that is
kept is known, and can be forgotten again: in classes of torch. All others, which may keep what they
like where they like, are run with tracking on.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import (
    AffineTransform,
    ComposeTransform,
    Distribution,
    Independent,
    IndependentTransform,
    PowerTransform,
    Transform,
    TransformedDistribution,
    constraints,
)

from ancestral.provenance.algebra.alignment import LOST, Shape
from ancestral.provenance.algebra.alignment_loss import note
from ancestral.provenance.algebra.provenance import Provenance, Source
from ancestral.provenance.dispatch.propagate import mark_lost
from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.tensor import ProvenanceTensor, alias, provenance, raw, untrack
from ancestral.provenance.tensor.torch_internals import InverseTransform
from ancestral.trace.context.reachable import OPAQUE, contents

UNKNOWN = -1
_PARTS = (Distribution, Transform, constraints.Constraint)
_COMPOSED = (*_PARTS, list, tuple)
_PLAIN = frozenset({Tensor, ProvenanceTensor, nn.Parameter, torch.Size, bool, type(None)})
_STORED_AS = {
    "_param": "logits",
    "_unbroadcasted_scale_tril": "scale_tril",
    "_unbroadcasted_cov_factor": "cov_factor",
    "_unbroadcasted_cov_diag": "cov_diag",
}


class Held(NamedTuple):
    """A tensor that a distribution holds.

    Its last `event` dimensions belong to one draw, those before index the draws; `UNKNOWN` where
    nobody says so.
    """

    tensor: Tensor
    event: int


def factorized(fn: Distribution) -> Distribution:
    """Return the distribution of the independent elements that `Independent` groups."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn


def unmasked(fn: Distribution) -> Distribution:
    """Return the distribution that draws, where a class of Pyro hides a part of its density."""
    while "_mask" in vars(fn) and type(fn).__module__ == _MASKING:
        fn = vars(fn)["base_dist"]
    return fn


_MASKING = "pyro.distributions.torch_distribution"


def family_name(fn: Distribution | None) -> str:
    """Return what the independent elements of a distribution are called by, "" for none.

    >>> family_name(Independent(torch.distributions.Poisson(torch.ones(3)), 1))
    'Poisson'
    """
    return "" if fn is None else type(factorized(fn)).__name__


def event_dims(fn: Distribution) -> int:
    """Return how many dimensions of its elements' batch `Independent` makes events of."""
    inner = factorized(fn)
    return 0 if inner is fn else len(inner.batch_shape) - len(fn.batch_shape)


def parameters(fn: Distribution) -> list[Held]:
    """Return the tensors that the draws of a distribution may depend on.

    A class of torch declares its parameters and depends on nothing else. Of a user's class, every
    tensor counts that can be reached from it: attributes, containers, modules, closures.
    """
    kind: Any = type(fn)
    events = _events_of_torch(kind)
    if events:  # it has no parts
        return _declared(fn, events)
    return over_batch(unmasked(factorized(fn)))


_new: Callable[..., Held] = tuple.__new__  # thousands are made, in C


def over_batch(fn: Distribution) -> list[Held]:
    """Return the same over the whole batch, of which `Independent` makes events."""
    kind: Any = type(fn)
    return _declared(fn, _events_of_torch(kind))


def _declared(fn: Distribution, events: tuple[tuple[str, int], ...]) -> list[Held]:
    attributes, held = fn.__dict__, list[Held]()
    for name, event in events:
        item = attributes.get(name)
        if item is None or not (type(item) is Tensor or isinstance(item, Tensor)):
            continue
        # Twice, by the name that it was given and as `_param`, says no more than once.
        for known in held:
            if known[0] is item and known[1] == event:
                break
        else:
            held.append(_new(Held, (item, event)))
    return held or list(_of_distribution(fn, fn.batch_shape, {id(fn)}))


def held_within(fn: Distribution) -> Iterator[Held]:
    """Yield all tensors that the density of a distribution reads, those made of others too."""
    return _of_distribution(fn, fn.batch_shape, {id(fn)})


def _of_distribution(fn: Distribution, batch: torch.Size, seen: set[int]) -> Iterator[Held]:
    constraint_of = _constraints(fn)
    # A distribution inside another may have more batch dimensions: they are the outer's event.
    further = len(fn.batch_shape) - len(batch)
    is_nested_batch = further >= 0 and fn.batch_shape[: len(batch)] == batch
    declared = [
        Held(item, _event_of(constraint, further) if is_nested_batch else UNKNOWN)
        for name, item in vars(fn).items()
        if (constraint := constraint_of.get(_STORED_AS.get(name, name))) is not None
        and isinstance(item, Tensor)
    ]
    yield from declared
    kind: Any = type(fn)
    if declared and is_class_of_torch(kind) and not isinstance(fn, TransformedDistribution):
        return
    known = {id(held.tensor) for held in declared}
    for name, item in vars(fn).items():
        if name == "transforms" and isinstance(fn, TransformedDistribution) and is_nested_batch:
            yield from _of_transforms(item, len(fn.event_shape) + further, batch, seen)
        elif id(item) not in known:
            yield from _of_object(item, batch, seen)


def _event_of(constraint: Any, further: int) -> int:
    """Return how many dimensions of a parameter belong to one draw, if its constraint tells."""
    try:
        return int(constraint.event_dim) + further
    except NotImplementedError:  # it depends on the distribution: that of Pyro's Delta
        return UNKNOWN


def _of_transforms(
    parts: Sequence[Any], event: int, batch: torch.Size, seen: set[int]
) -> Iterator[Held]:
    """Yield the tensors of transforms whose last gives values with `event` event dimensions."""
    for part in reversed(parts):
        step = part
        while type(step) in (IndependentTransform, InverseTransform):
            step = step.base_transform if type(step) is IndependentTransform else step.inv
        if type(step) is ComposeTransform and step is part:
            yield from _of_transforms(step.parts, event, batch, seen)
        elif type(step) in (AffineTransform, PowerTransform):  # element by element
            for item in vars(step).values():
                if isinstance(item, Tensor):
                    yield Held(item, event)
        else:
            yield from _of_object(part, batch, seen)
        event -= part.codomain.event_dim - part.domain.event_dim


def _of_object(value: Any, batch: torch.Size, seen: set[int]) -> Iterator[Held]:
    if isinstance(value, Tensor):
        yield Held(value, UNKNOWN)
        return
    if isinstance(value, OPAQUE) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Distribution):
        yield from _of_distribution(value, batch, seen)
        return
    for item in contents(value):
        yield from _of_object(item, batch, seen)


def is_of_torch(value: Any) -> bool:
    """Return whether a distribution, and all that it is composed of, is a class of torch.

    Only of those is it known that no element of a batch depends on another.
    """
    inner: Any = value
    kind: Any = type(inner)
    while issubclass(kind, Independent) and is_class_of_torch(kind):
        inner = inner.base_dist
        kind = type(inner)
    return declares_all(kind) or all(map(is_class_of_torch, map(type, parts_of(value))))


@functools.lru_cache(maxsize=1024)
def is_class_of_torch(kind: Any) -> bool:
    """Return whether a class is torch's, or one by which Pyro gives torch's its own methods."""
    return str(kind.__module__).startswith("torch.distributions.") or kind.__module__ in _OF_PYRO


# What these override is computed element by element too, from declared parameters alone.
_OF_PYRO = frozenset({"pyro.distributions.torch", "pyro.distributions.testing.fakes"})


@functools.cache
def declares_all(kind: Any) -> bool:
    """Return whether a class of torch keeps its parameters alone, and what it computes of them."""
    return bool(_events_of_torch(kind))


def parts_of(value: Any, seen: frozenset[int] = frozenset()) -> list[Any]:
    """Return the distributions, transforms and constraints that something is composed of."""
    found: list[Any] = []
    inner: Iterable[Any] = ()
    if isinstance(value, (list, tuple)):
        inner = value
    elif isinstance(value, _PARTS) and id(value) not in seen:
        found, inner, seen = [value], vars(value).values(), seen | {id(value)}
    for item in inner:
        if item.__class__ not in _PLAIN and isinstance(item, _COMPOSED):
            found += parts_of(item, seen)
    return found


def _constraints(fn: Distribution) -> dict[str, Any]:
    kind: Any = type(fn)
    known, is_all = _constraints_of_torch(kind) if is_class_of_torch(kind) else ({}, False)
    if is_all:
        return known
    try:
        return known | fn.arg_constraints
    except NotImplementedError:  # a user's class that declares none
        return known


@functools.cache
def _constraints_of_torch(kind: Any) -> tuple[dict[str, Any], bool]:
    """Return the constraints that a class and its bases declare, and whether these are all.

    Chi2 holds the parameters of a Gamma.
    """
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        declared = vars(base).get("arg_constraints")
        if isinstance(declared, dict):
            found |= declared
    # A class of Pyro has the parameters of that of torch which it gives methods to.
    own: Any = next((base for base in kind.__mro__ if base.__module__ not in _OF_PYRO), kind)
    return found, bool(found) and isinstance(vars(own).get("arg_constraints"), dict)


@functools.cache
def _events_of_torch(kind: Any) -> tuple[tuple[str, int], ...]:
    """Return the event dimensions of all tensors that the draws of a class may depend on.

    By the attributes that hold them; empty where the class alone does not tell.
    """
    if not is_class_of_torch(kind):
        return ()
    known, is_all = _constraints_of_torch(kind)
    if not is_all or any(constraints.is_dependent(constraint) for constraint in known.values()):
        return ()
    events = {name: int(constraint.event_dim) for name, constraint in known.items()}
    stored = {name: events[given] for name, given in _STORED_AS.items() if given in events}
    return tuple({**events, **stored}.items())


def param_provenance(
    fn: Distribution,
    held: list[Held],
    shape: Shape,
    drawn: Provenance | None,
    *,
    is_scored: bool = False,
) -> Provenance | None:
    """Return the provenance of the parameters of `fn` over the independent draws, [*shape].

    `drawn` is what the sampling itself was seen to depend on. It counts in full for a class that
    is not torch's own, and for sources that no parameter shows. That a sampler of torch rounds or
    counts is no kink of the parameters of a draw that is scored: the score has their derivative.
    """
    found: Provenance | None = None
    given: list[Provenance] = []
    is_shared = bool(storage.table)  # else a tensor itself tells all
    for tensor, event in held:
        ours = provenance(tensor) if is_shared else getattr(tensor, "_provenance", None)
        if ours is None:
            continue
        given.append(ours)
        if len(ours.shape) - event > len(shape) and not is_of_torch(fn):
            event = UNKNOWN  # a value that is given may have fewer dimensions, a user's draw too
        moved = ours if event == 0 and ours.shape == shape else _over(ours, shape, event)
        if moved is not None:
            found = moved if found is None or found is moved else found.union(moved)
    if found is not None and not all([each is found for each in given]):
        note(type(fn).__name__, found, given)
    if drawn is None:
        return found
    if found is not None and drawn.universe is found.universe and is_of_torch(fn):
        others = drawn.members - found.members
        if all([is_scored and each.kink_of is not None for each in others]):
            return found
    seen = drawn.remap(shape, tuple(range(len(shape))))
    return seen if found is None or seen is None else found.union(seen)


def _over(ours: Provenance, shape: Shape, event: int) -> Provenance | None:
    """Return the provenance of a parameter [*batch, *event] over draws [*sample, *batch]."""
    batch = len(ours.shape) - event
    if event == UNKNOWN or batch < 0:
        return ours.lost(shape)
    fresh = max(len(shape) - batch, 0)
    return ours.remap(shape, (LOST,) * fresh + tuple(range(batch - len(shape) + fresh, batch)))


def plainly(owner: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return the plain result of a method of a distribution, or of a constraint.

    What the owner keeps of the call is no plain tensor that others would take for a constant.
    """
    parts = parts_of(owner)
    if all(map(is_class_of_torch, map(type, parts))):
        before = [*map(dict, map(vars, parts))]
        try:
            return raw(method, *args, **kwargs)
        finally:
            _restore(parts, before)
    result = method(*args, **kwargs)
    return untrack(result) if isinstance(result, Tensor) else result


def _restore(parts: Sequence[Any], before: Sequence[dict[str, Any]]) -> None:
    """Give objects the attributes that they had."""
    for part, known in zip(parts, before, strict=True):
        attributes = vars(part)
        # Distributions of torch add what is lazy; transforms exchange what they keep.
        if len(attributes) != len(known):
            for name in attributes.keys() - known.keys():
                del attributes[name]
        if isinstance(part, Transform):
            attributes.update(known)


def forget_noise(fn: Distribution, drawn: Tensor, source: Source, *, is_pathwise: bool) -> None:
    """Let transforms with a cache forget what a draw was made of.

    They would give it for the inverse of the draw, as if it depended neither on the draw nor, while
    that is held fixed, on their parameters. One that has no other inverse keeps that of a draw with
    a pathwise gradient, which flows through it; it depends on the source.
    """
    kind: Any = type(factorized(fn))
    if declares_all(kind):
        return
    assert source.universe is not None
    kept = list(vars(drawn).values())
    for part in parts_of(fn):
        if isinstance(part, Transform) and getattr(part, "_cache_size", 0) > 0:
            if not is_pathwise or _has_inverse(part):
                part._cached_x_y = None, None
            else:
                kept.extend(part._cached_x_y)
    own = source.universe.of(source, source.shape)
    mark_lost([t for t in kept if isinstance(t, Tensor) and t is not drawn], [own])


def _has_inverse(part: Transform) -> bool:
    """Return whether a transform can invert a value that it does not have kept."""
    _, value = part._cached_x_y
    if value is None or is_of_torch(part):
        return True
    parts = parts_of(part)
    before = [vars(each).copy() for each in parts]
    try:
        with torch.no_grad():
            raw(part.inv, alias(value))
    except (KeyError, NotImplementedError):
        return False
    finally:
        _restore(parts, before)
    return True
