"""Location-scale reparameterization: a site drawn wholly or partly without both."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Independent, constraints

from ancestral.provenance.tensor.tensor import provenance
from ancestral.trace.context.arguments import kind_of, short
from ancestral.trace.handlers.reparam import ReparamError, Strategy
from ancestral.trace.nodes.distribution_params import factorized
from ancestral.trace.program.primitives import param, sample
from ancestral.trace.recording.message import Message

# What else than location and scale a family has; old versions of torch lack some.
_SHAPES: dict[str, tuple[str, ...]] = {
    "Cauchy": (),
    "GeneralizedPareto": ("concentration",),
    "Gumbel": (),
    "Laplace": (),
    "Normal": (),
    "StudentT": ("df",),
}


@dataclass(frozen=True)
class LocScale(Strategy):
    """Draw x ~ D(m, s) as ``{name}_decentered``, from which location and scale are taken.

        y ~ D(c m, s^c),  x = m + s^(1 - c) (y - c m),  log p(y) = log p(x) + (1 - c) log s

    At c = 0 the auxiliary site has no parents but those of the shape, as the degrees of freedom of
    a StudentT: the non-centered form. At c = 1 it is the site itself.

    Attributes:
        centered: c, between 0 and 1, that broadcasts to the site; None for a parameter
            ``{name}_centered`` of the shape of the event, that is learned, and begins with 0.5.
    """

    centered: float | Tensor | None = 0.0

    def __post_init__(self) -> None:
        """Check the number.

        Raises:
            TypeError: if it is neither a number nor a tensor.
            ValueError: if it is not between 0 and 1.
        """
        given = self.centered
        if isinstance(given, bool) or not isinstance(given, (int, float, Tensor, type(None))):
            raise TypeError(
                "LocScale: centered must be a number between 0 and 1, a tensor of them, or None, "
                f"not {kind_of(given)}"
            )
        if given is None or (isinstance(given, Tensor) and provenance(given) is not None):
            return
        if not bool(((torch.as_tensor(given) >= 0) & (torch.as_tensor(given) <= 1)).all()):
            raise ValueError(
                f"LocScale: centered must be between 0 and 1, or None, not {short(given)}"
            )

    def __call__(self, message: Message) -> Tensor:
        """Draw the auxiliary site, and return the value that it makes."""
        assert message.fn is not None
        fn: Any = factorized(message.fn)
        kind = type(fn)
        if kind is not getattr(torch.distributions, kind.__name__, None) or (
            kind.__name__ not in _SHAPES
        ):
            expected = f"one of {', '.join(_SHAPES)}, or an Independent of one"
            raise ReparamError(message, fn, "LocScale", expected)
        loc, scale = fn.loc, fn.scale
        shapes = {name: getattr(fn, name) for name in _SHAPES[kind.__name__]}
        centered = self._centered(message, fn)
        if isinstance(centered, float) and centered == 0:
            # Of nothing that the parents made, so that the site has no parents.
            zero = torch.zeros(loc.shape, dtype=loc.dtype, device=loc.device)
            about, spread = zero, zero + 1
        else:
            about, spread = centered * loc, scale**centered
        auxiliary = kind(**shapes, loc=about, scale=spread)
        event_dims = len(message.fn.event_shape) - len(fn.event_shape)
        drawn = sample(
            f"{message.name}_decentered",
            Independent(auxiliary, event_dims) if event_dims else auxiliary,
            infer=message.infer,
        )
        value: Tensor = loc + scale ** (1 - centered) * (drawn - centered * loc)
        return value

    def _centered(self, message: Message, fn: Any) -> float | Tensor:
        loc: Tensor = fn.loc
        if self.centered is not None:
            given = self.centered
            if not isinstance(given, Tensor):
                return float(given)
            try:
                is_wider = torch.broadcast_shapes(given.shape, loc.shape) != loc.shape
            except RuntimeError:
                is_wider = True
            if is_wider:
                found = f"LocScale(centered={short(given)})"
                expected = f"a centered that broadcasts to {list(loc.shape)}"
                raise ReparamError(message, fn, found, expected)
            return given
        assert message.fn is not None
        half = torch.full(message.fn.event_shape, 0.5, dtype=loc.dtype, device=loc.device)
        return param(f"{message.name}_centered", half, constraint=constraints.unit_interval)
