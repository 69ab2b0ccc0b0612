"""Stored distributions: a family of torch by its name and tensors, any other by name only.

What a distribution of torch holds is tensors, numbers, and further distributions and transforms of
torch. It is put into an object of the family as it was, so that densities are the same to the bit.
"""

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Transform

from ancestral.trace.context.errors import SiteError
from ancestral.trace.nodes.distribution_params import factorized
from ancestral.trace.nodes.factor import Factor
from ancestral.trace.nodes.mask import is_passing
from ancestral.trace.nodes.node import NoDensityError
from ancestral.trace.serialize.plain import (
    NotPlainError,
    Plain,
    StoredTraceError,
    as_kind,
    field,
    items,
    kept,
    plain,
)


class UnloadedDistributionError(SiteError, NoDensityError):
    """Something of a distribution is needed that is not in the file it was loaded from."""

    def __init__(self, fn: "Unloaded") -> None:
        """Name the class, and say why it was not stored."""
        known = "" if fn.density is None else ", and the log-probability of the value it drew"
        Exception.__init__(
            self,
            f"{fn.reason}: of this {type(fn).__name__} a stored trace holds the name only{known}; "
            "make the distribution again",
        )


class Unloaded(Distribution):
    """A distribution that is stored by its name, with the density of one value, if it had any."""

    arg_constraints: Any = {}  # noqa: RUF012 (as torch writes it)

    def __init__(
        self, batch: torch.Size, event: torch.Size, density: Tensor | None, reason: str
    ) -> None:
        """Take the shapes, and the log-probability [*batch] of the value that was stored."""
        super().__init__(batch, event, validate_args=False)
        self.density = density
        self.reason = reason
        self.value: Tensor | None = None  # which the node holds too

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of the value that was stored.

        Raises:
            UnloadedDistributionError: if it is another, or had none.
        """
        if self.density is None or self.value is None or not torch.equal(self.value, value):
            raise UnloadedDistributionError(self)
        return self.density

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Raise: there is nothing to draw from."""
        raise UnloadedDistributionError(self)

    rsample = sample

    def _unknown(self, *_: Any, **__: Any) -> Any:
        """Raise: there is nothing to compute it of."""
        raise UnloadedDistributionError(self)

    expand = entropy = cdf = icdf = enumerate_support = perplexity = _unknown
    mean: Any = property(_unknown)
    mode: Any = property(_unknown)
    variance: Any = property(_unknown)
    support: Any = property(_unknown)


def stored(
    fn: Distribution, density: Callable[[], Tensor | None], flaw: str = ""
) -> dict[str, Plain]:
    """Return a distribution as plain data.

    Args:
        fn: the distribution.
        density: returns the log-probability of the value for each independent element, which is
            asked for where only the name of a class can be stored.
        flaw: why nothing but the name may be stored, if so.
    """
    try:
        if flaw:
            raise NotPlainError(flaw)
        return _stored(fn)
    except NotPlainError as error:
        inner = factorized(fn)
        if inner is not fn:
            return {
                "family": type(fn).__name__,
                "kind": "group",
                "base": stored(fn.base_dist, density, flaw),  # type: ignore[attr-defined] # Independent
                "size": fn.reinterpreted_batch_ndims,  # type: ignore[attr-defined]
            }
        found = density()
        return {
            "family": type(fn).__name__,
            "kind": "name",
            "reason": str(error),
            "batch": list(fn.batch_shape),
            "event": list(fn.event_shape),
            "log_prob": None if found is None else kept(found),
        }


def loaded(data: Plain, value: Tensor) -> Distribution:
    """Return the distribution of plain data, whose value was drawn.

    Raises:
        StoredTraceError: if it is none.
    """
    kind, family = field(data, "kind", str), field(data, "family", str)
    if kind == "object":
        found = _loaded(data)
        if not isinstance(found, Distribution):
            raise StoredTraceError(f"{family!r} is no distribution")
        return found
    if kind == "group":
        return torch.distributions.Independent(
            loaded(field(data, "base", dict), value), field(data, "size", int)
        )
    if kind != "name" or not family.isidentifier():
        raise StoredTraceError(f"a distribution is of kind {kind!r}, and called {family!r}")
    density = None if data.get("log_prob") is None else field(data, "log_prob", Tensor)
    named = type(family, (Unloaded,), {"__doc__": Unloaded.__doc__})
    unloaded: Unloaded = named(
        torch.Size(items(data, "batch", int)),
        torch.Size(items(data, "event", int)),
        density,
        field(data, "reason", str),
    )
    unloaded.value = value
    return unloaded


def _families() -> dict[str, type[Any]]:
    """Return the classes whose objects are stored, by name."""
    pending: list[type[Any]] = [Distribution, Transform]
    found: dict[str, type[Any]] = {"Factor": Factor}
    while pending:
        family = pending.pop()
        pending.extend(family.__subclasses__())
        if family.__module__.startswith("torch.distributions."):
            found[family.__name__] = family
    return found


def _stored(part: Distribution | Transform) -> dict[str, Plain]:
    family = type(part)
    if _families().get(family.__name__) is not family:
        raise NotPlainError(f"{family.__name__} is no class of torch.distributions")
    state = {name: _item(item) for name, item in vars(part).items() if not is_passing(part, name)}
    return {"family": family.__name__, "kind": "object", "state": state}


def _item(item: Any) -> Plain:
    if isinstance(item, (Distribution, Transform)):
        return {"object": _stored(item)}
    if isinstance(item, torch.Size):
        return {"size": list(item)}
    if isinstance(item, (list, tuple)):
        word = "list" if isinstance(item, list) else "tuple"
        return {word: [_item(part) for part in item]}
    if isinstance(item, dict):
        raise NotPlainError("a dictionary is no part of a distribution of torch")
    return plain(item)


def _loaded(data: Plain) -> Distribution | Transform:
    name = field(data, "family", str)
    family = _families().get(name)
    if family is None:
        raise StoredTraceError(f"this torch has no distribution or transform called {name!r}")
    part: Distribution | Transform = object.__new__(family)
    if isinstance(part, Transform):
        part._cached_x_y, part._inv = (None, None), None
    for key, item in field(data, "state", dict).items():
        text = as_kind(key, str, "state")
        known = inspect.getattr_static(family, text, None)
        if text.startswith("__") or isinstance(known, FunctionType | classmethod | staticmethod):
            raise StoredTraceError(f"{name!r} cannot hold {text!r}")
        part.__dict__[text] = _unitem(item)
    return part


def _unitem(item: Plain) -> Any:
    if not isinstance(item, dict):
        return item
    if len(item) != 1:
        raise StoredTraceError(f"a part of a distribution is {sorted(item)}")
    if "object" in item:
        return _loaded(field(item, "object", dict))
    if "size" in item:
        return torch.Size(items(item, "size", int))
    if "tuple" in item:
        return tuple(_unitem(part) for part in field(item, "tuple", list))
    return [_unitem(part) for part in field(item, "list", list)]
