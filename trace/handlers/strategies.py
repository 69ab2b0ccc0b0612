"""Strategies of reparameterization: each draws auxiliary sites, and makes the site of them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
    TransformedDistribution,
    Uniform,
    constraints,
)
from torch.distributions.utils import clamp_probs

from ancestral.provenance.tensor.tensor import provenance
from ancestral.trace.context.argument_checks import kind_of, short
from ancestral.trace.handlers.by_name import broadcasts
from ancestral.trace.handlers.reparam import Strategy, cannot_draw
from ancestral.trace.nodes.distribution_params import event_dims, factorized
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
        fn = _inner(message)
        kind = type(fn)
        name = kind.__name__
        if name not in _SHAPES or kind is not getattr(torch.distributions, name, None):
            expected = f"one of {', '.join(_SHAPES)}, or an Independent of one"
            raise cannot_draw(message, fn, "LocScale", expected)
        loc, scale, centered = fn.loc, fn.scale, self._centered(message, fn)
        if isinstance(centered, float) and centered == 0:
            # Of nothing that the parents made, so that the site has no parents.
            about = torch.zeros(loc.shape, dtype=loc.dtype, device=loc.device)
            spread = about + 1
        else:
            about, spread = centered * loc, scale**centered
        shapes = {each: getattr(fn, each) for each in _SHAPES[name]}
        drawn = _drawn(message, "decentered", kind(**shapes, loc=about, scale=spread))
        value: Tensor = loc + scale ** (1 - centered) * (drawn - centered * loc)
        return value

    def _centered(self, message: Message, fn: Any) -> float | Tensor:
        given, loc = self.centered, fn.loc
        if given is None:
            assert message.fn is not None
            half = torch.full(message.fn.event_shape, 0.5, dtype=loc.dtype, device=loc.device)
            return param(f"{message.name}_centered", half, constraint=constraints.unit_interval)
        if not isinstance(given, Tensor):
            return float(given)
        if not broadcasts(tuple(given.shape), tuple(loc.shape)):
            found = f"LocScale(centered={short(given)})"
            expected = f"a centered that broadcasts to {list(loc.shape)}"
            raise cannot_draw(message, fn, found, expected)
        return given


@dataclass(frozen=True)
class Transform(Strategy):
    """Draw x = f(y) from a `TransformedDistribution` as its base ``{name}_base``, y.

        y ~ q,  x = f(y),  log q(y) = log p(x) + log |det df/dy|

    It takes subclasses too, such as LogNormal, HalfCauchy and Gumbel, and an `Independent` of them.
    """

    def __call__(self, message: Message) -> Tensor:
        """Draw the auxiliary site, and return the value that it makes."""
        fn = _inner(message)
        if not isinstance(fn, TransformedDistribution):
            expected = "a TransformedDistribution, or an Independent of one"
            raise cannot_draw(message, fn, "Transform", expected)
        value = _drawn(message, "base", fn.base_dist)
        for transform in fn.transforms:
            value = transform(value)
        return value


@dataclass(frozen=True)
class GumbelSoftmax(Strategy):
    """Draw a relaxed discrete site from noise ``{name}_uniform``, u, of the shape of its value.

        RelaxedOneHotCategorical(τ, l):  x = softmax((l - log(-log u)) / τ)
        RelaxedBernoulli(τ, l):          x = sigmoid((l + log u - log(1 - u)) / τ)

    The noise has no parents. Maddison, Mnih and Teh (2017), "The concrete distribution", section
    3.1; Jang, Gu and Poole (2017), "Categorical reparameterization with Gumbel-softmax".
    """

    def __call__(self, message: Message) -> Tensor:
        """Draw the noise, and return the value that it makes."""
        fn = _inner(message)
        if not isinstance(fn, (RelaxedBernoulli, RelaxedOneHotCategorical)):
            expected = "a RelaxedOneHotCategorical, a RelaxedBernoulli, or an Independent of them"
            raise cannot_draw(message, fn, "GumbelSoftmax", expected)
        logits, temperature = fn.logits, fn.temperature
        zero = torch.zeros(fn.batch_shape + fn.event_shape, dtype=logits.dtype)
        noise = Uniform(zero.to(logits.device), 1.0)
        u = clamp_probs(_drawn(message, "uniform", noise, len(fn.event_shape)))
        if isinstance(fn, RelaxedBernoulli):
            return torch.sigmoid((logits + u.log() - (-u).log1p()) / temperature)
        return torch.softmax((logits - (-u.log()).log()) / temperature, -1)


def _inner(message: Message) -> Any:
    """Return the distribution that the `Independent` of a site, if it has one, groups."""
    assert message.fn is not None
    return factorized(message.fn)


def _drawn(message: Message, word: str, fn: Distribution, event: int = 0) -> Tensor:
    """Draw an auxiliary site, its batch grouped as that of the site is, and `event` more."""
    assert message.fn is not None
    event += event_dims(message.fn)
    whole = Independent(fn, event) if event else fn
    return sample(f"{message.name}_{word}", whole, infer=message.infer)
