"""Stored distributions: a family of torch by its name and tensors, any other by name only.

What a distribution of torch holds is tensors, numbers, and further distributions and transforms of
torch. It is put into an object of the family as it was, so that densities are the same to the bit.
"""

import inspect
from collections.abc import Mapping
from types import FunctionType
from typing import Any

from torch import Tensor
from torch.distributions import Distribution, Independent, Transform

from ancestral.trace.context.errors import SiteError
from ancestral.trace.nodes.factor import Factor
from ancestral.trace.nodes.mask import is_passing
from ancestral.trace.nodes.node import ModifiedParameterError, Node, NoDensityError
from ancestral.trace.serialize.plain import (
    NotPlainError,
    Plain,
    as_kind,
    each,
    plain,
    unreadable,
)


class UnloadedDistributionError(SiteError, NoDensityError):
    """Something of a distribution is needed that is not in the file it was loaded from."""


def _not_loaded(fn: "Unloaded") -> UnloadedDistributionError:
    """Return the error that something is not in the file of a trace, and why."""
    known = "" if fn.density is None else ", and the log-probability of the value it drew"
    return UnloadedDistributionError(
        f"{fn.reason}: of this {fn.family} a stored trace holds the name only{known}; "
        "make the distribution again",
    )


class Unloaded(Distribution):
    """A distribution that is stored by its name, with the density of one value, if it had any.

    Once loaded, its class has that name.
    """

    arg_constraints: Any = {}  # noqa: RUF012 (as torch writes it)
    is_computed = False  # so that no element is to be replaced where a mask hides it

    def __init__(self, fn: Distribution, density: Tensor | None, reason: str) -> None:
        """Take the log-probability [*batch] of the value that is stored with the site."""
        super().__init__(fn.batch_shape, fn.event_shape, validate_args=False)
        self.family = type(fn).__name__
        self.density = density
        self.reason = reason
        self.value: Tensor | None = None  # set from that of the node

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-probability of the value that was stored.

        Raises:
            UnloadedDistributionError: if it is another, or had none.
        """
        if self.density is None or self.value is None or not _is_same(self.value, value):
            raise _not_loaded(self)
        return self.density

    def _unknown(self, *_: Any, **__: Any) -> Any:
        """Raise: there is nothing to compute it of."""
        raise _not_loaded(self)

    sample = rsample = expand = entropy = cdf = icdf = enumerate_support = perplexity = _unknown
    mean: Any = property(_unknown)
    mode: Any = property(_unknown)
    variance: Any = property(_unknown)
    support: Any = property(_unknown)


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are the same; NaN, as of missing data, is the same as NaN."""
    if one.shape != other.shape:
        return False
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def stored(node: Node) -> Plain:
    """Return the distribution of a node as plain data, None for none.

    Where only the name of its class can be stored, that comes with the log-probability of the
    value for each independent element.
    """
    if node.fn is None:
        return None
    try:
        if node.is_modified:
            raise NotPlainError("a parameter was written into after the draw")
        return _object(node.fn)
    except NotPlainError as error:
        try:
            density = node.elementwise_log_prob
        except (NoDensityError, ModifiedParameterError):
            density = None
        return _object(_unloaded(node.fn, density, str(error)))


def _unloaded(fn: Distribution, density: Tensor | None, reason: str) -> Distribution:
    """Return what is stored in place of a distribution whose independent elements cannot be."""
    if isinstance(fn, Independent):
        base = _unloaded(fn.base_dist, density, reason)
        return Independent(base, fn.reinterpreted_batch_ndims)
    return Unloaded(fn, density, reason)


def _classes() -> dict[str, type[Any]]:
    """Return the classes whose objects are stored, by name."""
    found: list[type[Any]] = [Distribution, Transform]
    for family in found:
        found.extend(family.__subclasses__())
    torchs = [family for family in found if family.__module__.startswith("torch.distributions.")]
    return {family.__name__: family for family in (*torchs, Factor, Unloaded)}


def _object(part: Distribution | Transform) -> dict[str, Plain]:
    family = Unloaded if isinstance(part, Unloaded) else type(part)
    if _classes().get(family.__name__) is not family:
        raise NotPlainError(f"{family.__name__} is no class of torch.distributions")
    state = {name: _item(item) for name, item in vars(part).items() if not is_passing(part, name)}
    return {"class": family.__name__, "state": state}


def _item(item: Any) -> Plain:
    if isinstance(item, (Distribution, Transform)):
        return _object(item)
    if isinstance(item, (list, tuple)):
        return each(_item, item)
    if isinstance(item, Mapping):
        raise NotPlainError("a dictionary is no part of a distribution of torch")
    return plain(item)


def loaded(data: Plain) -> Distribution:
    """Return the distribution of plain data.

    Raises:
        StoredTraceError: if it is none.
    """
    return as_kind(_loaded(data), Distribution, "fn")


def _loaded(data: Plain) -> Any:
    name = as_kind(as_kind(data, dict, "fn")["class"], str, "class")
    family = _classes().get(name)
    if family is None:
        raise unreadable(f"this torch has no distribution or transform called {name!r}")
    part: Any = object.__new__(family)
    if isinstance(part, Transform):
        part._cached_x_y, part._inv = (None, None), None
    for key, item in as_kind(data["state"], dict, "state").items():
        text = as_kind(key, str, "state")
        known = inspect.getattr_static(family, text, None)
        if text.startswith("__") or isinstance(known, FunctionType | classmethod | staticmethod):
            raise unreadable(f"{name!r} cannot hold {text!r}")
        part.__dict__[text] = _loaded_item(item)
    if family is Unloaded:
        part.__class__ = type(part.family, (Unloaded,), {"__doc__": Unloaded.__doc__})
    return part


def _loaded_item(item: Plain) -> Any:
    if isinstance(item, dict):
        return _loaded(item)
    return each(_loaded_item, item) if isinstance(item, (list, tuple)) else item
