"""Programs as the compiler reads them: each statement as the ops of torch that are left of it.

A recording of the same program, beside which each plan is compared, checks what is said of it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ancestral.estimators.inference.elbo import Elbo
from ancestral.trace.handlers.condition import condition
from ancestral.trace.handlers.weight import mask, scale
from ancestral.trace.params.constraints import transform_of
from ancestral.trace.params.store import ParamStore
from ancestral.trace.recording.message import Handler


class _Plate:
    """A plate that is open."""

    def __init__(self, dim: int | None, size: int, part: int, indices: Tensor | None) -> None:
        self.dim, self.size, self.subsample_size, self.indices = dim, size, part, indices


class _Open:
    """What is open where the compiler reads: it follows the attributes."""

    def __init__(self) -> None:
        self.plates: tuple[_Plate, ...] = ()
        self.handlers: tuple[Handler, ...] = ()
        self.stores: tuple[ParamStore, ...] = ()
        self.bound: _Bound | None = None


class _Bound:
    """The negative bound of a guide and a model, as far as they were read."""

    def __init__(self) -> None:
        self.terms: list[Tensor] = []
        self.values: dict[str, Tensor] = {}  # that the guide has drawn
        self.indices: dict[str, Tensor] = {}  # of its plates
        self.is_model = False


opened = _Open()
OWN: dict[str, Callable[..., Any]] = {}
"""The statements themselves, by name."""


def sample(name: str, fn: Distribution, obs: Tensor | None, obs_mask: Any) -> Any:
    """Return a draw, pathwise where that is possible, or the data, or each where it is seen."""
    shape = _within_plates(fn.batch_shape)
    if shape != [*fn.batch_shape]:
        fn = fn.expand(torch.Size(shape))
    if obs is None or obs_mask is None:
        return _sampled(name, fn, obs, None)
    seen = torch.tensor(obs_mask) if isinstance(obs_mask, bool) else obs_mask
    free = _sampled(f"{name}_unobserved", fn, None, ~seen)
    is_seen = seen[(..., *(None for _ in fn.event_shape))]
    # What is not seen may be anything, and what is observed does not depend on it.
    filled = torch.where(is_seen, obs, free.detach())
    known = _sampled(f"{name}_observed", fn, filled, seen)
    return deterministic(torch.where(is_seen, known, free))


def _sampled(name: str, fn: Distribution, value: Tensor | None, among: Tensor | None) -> Tensor:
    bound = opened.bound
    for handler in reversed(opened.handlers):
        if isinstance(handler, condition) and name in handler.values:
            value = handler.values[name].expand([*fn.batch_shape, *fn.event_shape])
    if value is None and bound is not None and bound.is_model:
        value = bound.values.get(name)
    is_drawn = value is None
    if value is None:
        value = fn.rsample() if fn.has_rsample else fn.sample()
    if bound is not None and not (bound.is_model and is_drawn):  # else it is from its prior
        which = _which(among)
        density = fn.log_prob(value if which is None else _filled(fn, value, which))
        density = density if which is None else density.where(which, 0)
        _count(bound, density if among is None else deterministic(density))
    if bound is not None and not bound.is_model:
        bound.values[name] = value
    return value


def _filled(fn: Distribution, value: Tensor, which: Tensor) -> Tensor:
    """Return a value with the first element that counts at those that do not: data may be NaN."""
    event = (None,) * len(fn.event_shape)
    batch = torch.broadcast_shapes(which.shape, fn.batch_shape)
    whole = value.expand([*batch, *fn.event_shape])
    first = which.expand(batch).reshape(-1).int().argmax().reshape(1)
    one = whole.reshape([-1, *fn.event_shape]).index_select(0, first).detach()
    return torch.where(which[(..., *event)], whole, one.reshape([*fn.event_shape]))


def _which(found: Any = None) -> Any:
    """Return which elements count within the masks that are open, and another; None for all."""
    for handler in opened.handlers:
        if isinstance(handler, mask):
            found = handler.which if found is None else found & handler.which
    return found


def deterministic(value: Tensor) -> Tensor:
    """Return a value, which is one cost where it counts, and not what it was computed from."""
    found: Tensor = torch.ops.ancestral.whole(value)
    return found


def factor(log_factor: Tensor) -> None:
    """Let a factor count in a bound."""
    if opened.bound is not None:
        which, whole = _which(), log_factor.expand(_within_plates(log_factor.shape))
        _count(opened.bound, whole if which is None else whole.where(which, 0))


def _within_plates(shape: Sequence[int]) -> list[int]:
    """Return the shape of a batch that is expanded to the plates around it."""
    wanted = [*shape]
    for plate in opened.plates:
        if plate.dim is not None:
            wanted = [1] * (-plate.dim - len(wanted)) + wanted
            if wanted[plate.dim] == 1:
                wanted[plate.dim] = plate.subsample_size
    return wanted


def _count(bound: _Bound, density: Tensor) -> None:
    factor: Any = 1.0
    for plate in opened.plates:
        factor = factor * (plate.size / plate.subsample_size)
    for handler in opened.handlers:
        if isinstance(handler, scale):
            factor = factor * handler.factor
    if isinstance(factor, Tensor) or factor != 1:
        density = factor * density
    total = density.sum()
    bound.terms.append(-total if bound.is_model else total)


def bound(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    particles: int,
    nesting: int | None,
) -> Elbo:
    """Return the bound, and its negative, which the step scores.

    Several particles are in a plate to the left of `nesting` dimensions.
    """
    before = opened.plates
    if particles > 1:
        if nesting is None:
            raise NotImplementedError("max_plate_nesting= is to say where the particles are")
        opened.plates = (*before, _Plate(-1 - nesting, particles, particles, None))
    loss = _loss(model, guide, args, kwargs) / particles
    opened.plates = before
    return Elbo(-loss.detach(), loss)


def _loss(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Tensor:
    found = opened.bound = _Bound()
    guide(*args, **kwargs)
    found.is_model = True
    model(*args, **kwargs)
    opened.bound = None
    loss = found.terms[0]
    for term in found.terms[1:]:
        loss = loss + term
    return loss


def param(name: str, event_dim: int | None) -> Tensor:
    """Return the value of a parameter that the open store has.

    A recording makes those that are new, and checks what is asked for.
    """
    if not opened.stores:
        raise NotImplementedError(f"no store is open that could keep the parameter {name!r}")
    store = opened.stores[-1]
    value: Tensor = transform_of(store._declared[name].constraint)(store._parameters[name])
    return value if event_dim is None else subsample(value, event_dim)


def subsample(data: Tensor, event_dim: int) -> Tensor:
    """Return the rows of data that the subsampled plates around have."""
    for plate in opened.plates:
        if plate.dim is None or plate.dim - event_dim < -data.dim():
            continue
        dim = plate.dim - event_dim
        if plate.indices is not None and data.shape[dim] == plate.size:
            data = data.index_select(dim, plate.indices.to(data.device))
    return data


def make_plate(
    self: Any,
    name: str,
    size: int,
    subsample_size: int | None = None,
    dim: int | None = None,
    *,
    subsample: Tensor | None = None,
) -> None:
    """Make a plate; its arguments are checked where it is recorded."""
    self.name, self.size, self.dim = name, size, dim
    part = size if subsample_size is None else subsample_size
    self.subsample_size = part if subsample is None else subsample.shape[0]
    self._given = None if subsample is None else subsample.clone()
    self._indices = None


def enter_plate(self: Any) -> Tensor:
    """Open a plate, and return its indices."""
    taken, dim = [plate.dim for plate in opened.plates], self.dim
    if dim is None:
        dim = -1
        while dim in taken:
            dim -= 1
    if self._indices is None:
        self._indices = _indices(self)
    if opened.bound is not None and not opened.bound.is_model:
        opened.bound.indices[self.name] = self._indices
    is_whole = self._given is None and self.subsample_size == self.size
    chosen = None if is_whole else self._indices
    opened.plates = (*opened.plates, _Plate(dim, self.size, self.subsample_size, chosen))
    indices: Tensor = self._indices
    return indices


def _indices(plate: Any) -> Tensor:
    if plate._given is not None:
        given: Tensor = plate._given
        return given
    bound = opened.bound
    if bound is not None and bound.is_model and plate.name in bound.indices:
        return bound.indices[plate.name]
    if plate.subsample_size == plate.size:
        return torch.arange(plate.size)
    return torch.randperm(plate.size)[: plate.subsample_size]


def exit_plate(self: Any, *raised: Any) -> None:
    """Close a plate."""
    opened.plates = opened.plates[:-1]


def turns_of_plate(self: Any) -> Iterator[int]:
    """Yield the indices, each within the plate."""
    if self._given is not None or self.subsample_size != self.size:
        raise NotImplementedError("the turns of a plate that is subsampled are not compiled")
    for turn in range(self.size):
        opened.plates = (*opened.plates, _Plate(None, self.size, self.size, None))
        yield turn
        opened.plates = opened.plates[:-1]


def make_mask(self: Any, which: Any) -> None:
    """Make a mask; its argument is checked where it is recorded."""
    self.which = torch.tensor(which) if isinstance(which, bool) else which


def make_scale(self: Any, factor: Any) -> None:
    """Make a scale; its argument is checked where it is recorded."""
    self.factor = factor


def make_condition(self: Any, values: Mapping[str, Tensor]) -> None:
    """Make what gives values by name; they are checked where it is recorded."""
    self.values = dict(values)


def enter_handler(self: Any) -> Any:
    """Open a store of parameters, or a handler whose words are few."""
    if isinstance(self, ParamStore):
        opened.stores = (*opened.stores, self)
    elif type(self) in (mask, scale, condition):
        opened.handlers = (*opened.handlers, self)
    else:
        raise NotImplementedError("this handler of an.handlers is not compiled")
    return self


def exit_handler(self: Any, *raised: Any) -> None:
    """Close it."""
    if isinstance(self, ParamStore):
        opened.stores = opened.stores[:-1]
    else:
        opened.handlers = opened.handlers[:-1]
