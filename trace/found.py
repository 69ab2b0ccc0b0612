"""Found draws: those of plain torch, under handlers that may know better what their value is."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ancestral.trace.checks import fitting, supported, weighable
from ancestral.trace.drawing import base_name, draw
from ancestral.trace.naming import Place, module_path
from ancestral.trace.parameters import Held
from ancestral.trace.plates import open_plates, scale_of
from ancestral.trace.request import Request, answer
from ancestral.trace.sites import given, named
from ancestral.trace.stack import local


def found(
    fn: Distribution,
    held: list[Held],
    drawn: Callable[[], Any],
    *,
    sample_shape: tuple[int, ...] = (),
    is_reparameterized: bool,
    where: Place,
) -> Any:
    """Return the value of a draw that plain torch makes, as the open handlers leave it.

    Its name is that which the innermost recording gives it.

    Args:
        fn: the distribution.
        held: its parameters.
        drawn: draws the value, [*sample, *batch, *event].
        sample_shape: the shape of the sample.
        is_reparameterized: whether gradients flow through the value.
        where: the user's call.
    """

    def settled(request: Request) -> Request:
        if request.kind != "sample" or request.is_intervened:
            return named(request)
        if request.value is not None:
            return given(weighable(supported(fitting(request))))
        kept = draw(
            fn, held, drawn(), is_reparameterized=is_reparameterized, where=where, request=request
        )
        return weighable(replace(request, value=kept))

    request = Request(
        "sample",
        local.traces[-1].fresh_name(base_name(fn, where, module_path(where.modules))),
        where,
        _over(fn, sample_shape),
        is_reparameterized=is_reparameterized,
        is_found=True,
        scale=scale_of(open_plates()),
        plates=open_plates(),
    )
    return answer(request, settled).value


def _over(fn: Distribution, sample_shape: tuple[int, ...]) -> Distribution:
    """Return the distribution of a whole sample, of which each draw is one of the batch."""
    if not sample_shape:
        return fn
    try:
        whole: Distribution = fn.expand(torch.Size((*sample_shape, *fn.batch_shape)))
        return whole
    except NotImplementedError:  # a user's class that cannot be expanded: its density broadcasts
        return fn


def size_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, ...]:
    """Return the sample shape that ``sample`` is called with."""
    shape = args[0] if args else kwargs.get("sample_shape", ())
    if isinstance(shape, Tensor):
        return tuple(shape.shape)
    return (shape,) if isinstance(shape, int) else tuple(shape)
