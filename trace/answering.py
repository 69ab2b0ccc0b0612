"""Answering: who gives a parameter its value, a handler or the open store."""

from torch import Tensor
from torch.distributions import constraints

from ancestral.provenance.alignment import Shape
from ancestral.trace import constraining
from ancestral.trace.adopting import Slot
from ancestral.trace.param_errors import NoStoreError
from ancestral.trace.params import ParamStore
from ancestral.trace.request import Request, handlers


def open_store() -> ParamStore | None:
    """Return the innermost store that is open."""
    for handler in reversed(handlers()):
        if isinstance(handler, ParamStore):
            return handler
    return None


def valued(request: Request) -> Tensor:
    """Return the value of a parameter: that which a handler gave, or that of the open store.

    Raises:
        NoStoreError: if neither is there.
        ParamError: if the value is none that the parameter can have.
    """
    store = open_store()
    if request.value is None:
        if store is None:
            raise NoStoreError(request)
        return store.answer(request)
    known = None if store is None else store.constraints.get(request.name)
    asked = request.options["constraint"]
    constraint = asked if asked is not None else known or constraints.real
    constraining.check_value(request, expected_shape(request), constraint)
    return request.value


def expected_shape(request: Request) -> Shape | None:
    """Return the shape of a parameter as far as it is known without evaluating its init."""
    slot: Slot | None = request.options.get("slot")
    if slot is not None:
        return tuple(slot.leaf.shape)
    store = open_store()
    init, asked = request.options["init"], request.options["constraint"]
    constraint = constraints.real if asked is None else asked
    constraining.check_constraint(constraint, request)
    known = None if store is None else store.shape_of(request.name, constraint)
    if known is None and isinstance(init, Tensor):
        return tuple(init.shape)
    return known
