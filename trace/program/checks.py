"""Checks of the statements of a program, before anything is recorded."""

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.tensor.tensor import alias, raw
from ancestral.trace.context.argument_checks import kind_of, short
from ancestral.trace.context.errors import SiteError
from ancestral.trace.context.place import Place
from ancestral.trace.nodes.distribution_params import plainly
from ancestral.trace.nodes.enum_dims import trailing
from ancestral.trace.nodes.mask import over
from ancestral.trace.nodes.support import takes, wrong_of
from ancestral.trace.recording.message import Message


class SiteNameError(SiteError):
    """A site has a name that is none."""

    def __init__(self, name: object, where: Place) -> None:
        """Give the name and the line."""
        super().__init__(
            f"the site at {where.location} is named {short(name)}; expected a text that is not "
            "empty"
        )


class SiteDistributionError(SiteError):
    """A site is to be drawn from something that is no distribution."""

    def __init__(self, name: str, fn: object, where: Place) -> None:
        """Name the site, its line, and what came."""
        super().__init__(
            f"site {name!r} ({where.location}) is drawn from a {type(fn).__name__}; expected a "
            "torch.distributions.Distribution"
        )


class FactorTypeError(SiteError):
    """A factor is given as something that is no tensor of numbers."""

    def __init__(self, name: str, where: Place, came: str) -> None:
        """Name the factor, its line, and what came."""
        super().__init__(
            f"factor {name!r} ({where.location}) is {came}; expected the logarithm of the factor, "
            f"a torch.Tensor of a floating dtype, such as {torch.get_default_dtype()}"
        )


class ValueTypeError(SiteError):
    """The value that a site is given is of a wrong type."""

    def __init__(self, message: Message, expected: str, came: str) -> None:
        """Name the site, its line, what was expected and what came."""
        super().__init__(f"{described(message)} must be {expected}, not {came}")


class ValueShapeError(SiteError):
    """The value that a site is given does not fit its distribution."""

    def __init__(self, message: Message) -> None:
        """Name the site, its line, the shape that was expected and the one that came."""
        fn, value = message.fn, message.value
        assert fn is not None
        assert value is not None
        super().__init__(
            f"{described(message)} has shape {list(value.shape)}; expected "
            f"{[*fn.batch_shape, *fn.event_shape]}: the batch {list(fn.batch_shape)} (or one that "
            "expands to it, or to which it expands), and the event "
            f"{list(fn.event_shape)} of {type(fn).__name__}"
        )


class WeightShapeError(SiteError):
    """A mask or a scale has more elements than the site that it weighs."""

    def __init__(self, message: Message, word: str, size: tuple[int, ...], batch: Shape) -> None:
        """Name the site, its line, the batch and the shape that came."""
        super().__init__(
            f"site {message.name!r} ({message.where.location}): its {word} has shape "
            f"{list(size)}; expected one that broadcasts to the batch {list(batch)} of the site, "
            f"each element of which counts once: give the {word} that shape, or the site a plate"
        )


class WeightDeviceError(SiteError):
    """A mask or a scale is on another device than the site that it weighs."""

    def __init__(
        self, message: Message, word: str, came: torch.device, expected: torch.device
    ) -> None:
        """Name the site, its line and both devices."""
        super().__init__(
            f"site {message.name!r} ({message.where.location}): its {word} is on device {came}; "
            f"expected {expected}, as its value: move it there with .to({str(expected)!r})"
        )


class SupportError(SiteError):
    """A value is none that the distribution of a site can take."""

    def __init__(self, message: Message, support: Constraint, wrong: str) -> None:
        """Name the site, its line, the support, and what is outside it."""
        super().__init__(
            f"{described(message)} is outside the support of {type(message.fn).__name__}: "
            f"{wrong}; expected {short(support)}; hide what is missing with an.handlers.mask; if "
            "its density is meant for such values too, make the distribution, and an Independent "
            "around it, with validate_args=False"
        )


class ObservedMaskError(SiteError):
    """A site is told wrongly which of its elements are observed."""

    def __init__(self, name: str, where: Place, problem: str) -> None:
        """Name the site, its line and what is wrong."""
        super().__init__(f"site {name!r} ({where.location}): {problem}")


def described(message: Message) -> str:
    """Return what a message calls the value of a site."""
    if message.is_observed:
        word = "the observed value"
    elif message.origin is not None:
        word = f"the value replayed from {message.origin.name!r} ({message.origin.location})"
    else:
        word = "the value"
    return f"site {message.name!r} ({message.where.location}): {word}"


def check_name(name: object, where: Place) -> None:
    """Raise unless a name is one."""
    if not isinstance(name, str) or not name:
        raise SiteNameError(name, where)


def check_fn(name: str, fn: object, where: Place) -> None:
    """Raise unless a distribution is one."""
    if not isinstance(fn, Distribution):
        raise SiteDistributionError(name, fn, where)


def check_obs_mask(name: str, obs: object, obs_mask: object, where: Place) -> None:
    """Raise unless a mask can say which elements are observed, and what is observed is there."""
    if not isinstance(obs_mask, bool | Tensor):
        found = kind_of(obs_mask)
        raise ObservedMaskError(name, where, f"its obs_mask must be bools in a tensor, not {found}")
    if isinstance(obs_mask, Tensor) and obs_mask.dtype != torch.bool:
        problem = f"its obs_mask has dtype {obs_mask.dtype}; expected torch.bool: say obs_mask != 0"
        raise ObservedMaskError(name, where, problem)
    if obs is not None and not isinstance(obs, Tensor):
        problem = f"the observed value must be a torch.Tensor, not a {type(obs).__name__}"
        raise ObservedMaskError(name, where, problem)


def check_factor(name: str, log_factor: object, where: Place) -> None:
    """Raise unless the logarithm of a factor is a tensor of numbers."""
    if not isinstance(log_factor, Tensor):
        raise FactorTypeError(name, where, kind_of(log_factor))
    if not log_factor.is_floating_point():
        raise FactorTypeError(name, where, str(log_factor.dtype))


def fitting(message: Message) -> Message:
    """Return a message whose value has the batch of its distribution, or one that it fits into.

    Raises:
        ValueTypeError: if the value is no tensor, or of a type that the distribution has not.
        ValueShapeError: if the shapes do not fit; sizes are never multiplied with each other, and
            only data may have more cases than the distribution.
    """
    fn, value = message.fn, message.value
    assert fn is not None
    if not isinstance(value, Tensor):
        raise ValueTypeError(message, "a torch.Tensor", kind_of(value))
    if not takes(fn, value.dtype):
        raise ValueTypeError(
            message, f"of a floating dtype, such as {torch.get_default_dtype()}", str(value.dtype)
        )
    event = len(fn.event_shape)
    size = tuple(raw(Tensor.size, value))
    batch, events = size[: len(size) - event], size[len(size) - event :]
    if event > len(size) or events != tuple(fn.event_shape):
        raise ValueShapeError(message)
    # Where sites are enumerated, one value is given for all of theirs.
    room = sys.maxsize if message.enumeration is None else message.enumeration.room
    ours, theirs = trailing(batch, room), trailing(fn.batch_shape, room)
    head = batch[: len(batch) - len(ours)]
    if message.enumeration is not None:
        plates = max((-plate.dim for plate in message.plates if plate.dim is not None), default=0)
        while len(theirs) > max(len(ours), plates) and theirs[0] == 1:
            theirs = theirs[1:]
    try:
        whole = torch.broadcast_shapes(ours, theirs)
    except RuntimeError as error:
        raise ValueShapeError(message) from error
    is_free = message.is_observed or message.enumeration is not None
    if whole == ours and (is_free or ours == theirs):
        return message
    if whole != theirs:
        raise ValueShapeError(message)
    return replace(message, value=value.expand(*head, *whole, *events))


def weighable(message: Message) -> Message:
    """Return a message that has its value, whose mask and scale make its batch no larger.

    Raises:
        WeightShapeError: if they would, so that a density counted more than once.
    """
    if message.mask is not None:
        _check_weight(message, "mask", message.mask)
    if isinstance(message.scale, Tensor):
        _check_weight(message, "scale", message.scale)
    return message


def _check_weight(message: Message, word: str, weight: Tensor) -> None:
    fn, value = message.fn, message.value
    if fn is None or not isinstance(value, Tensor):
        return
    if weight.device != value.device and weight.ndim:
        raise WeightDeviceError(message, word, weight.device, value.device)
    size = tuple(raw(Tensor.size, weight))
    whole = tuple(raw(Tensor.size, value))
    cases = whole[: len(whole) - len(fn.event_shape)]
    batch = tuple(torch.broadcast_shapes(fn.batch_shape, cases))
    ours, theirs = size, batch
    if message.enumeration is not None:  # a weight may depend on values, to the left of the room
        room = message.enumeration.room
        ours, theirs = trailing(size, room), trailing(batch, room)
    try:
        is_larger = math.prod(torch.broadcast_shapes(ours, theirs)) != math.prod(theirs)
    except RuntimeError as error:
        raise WeightShapeError(message, word, size, batch) from error
    if is_larger:
        raise WeightShapeError(message, word, size, batch)


def supported(message: Message) -> Message:
    """Return a message whose value its distribution can take.

    Raises:
        SupportError: if it cannot.
        ValueTypeError: if it is of a dtype that the support cannot be checked for.
    """
    fn, value = message.fn, message.value
    assert fn is not None
    assert value is not None
    if not getattr(fn, "_validate_args", False):
        return message
    plain = alias(value).detach()
    if plain.is_meta:
        return message
    try:
        support: Any = fn.support
        is_inside: Tensor = plainly(support, support.check, plain)
    except (NotImplementedError, RuntimeError, IndexError) as error:
        if isinstance(error, NotImplementedError) and not plain.is_complex():
            return message  # a user's class that declares none
        # A complex number has no order; a matching cannot index by each value.
        expected = f"one that {short(support)} can check ({error})"
        raise ValueTypeError(message, expected, str(plain.dtype)) from error
    if message.mask is not None:
        is_inside = is_inside | ~over(message.mask, tuple(is_inside.shape))
    if not bool(is_inside.all()):
        raise SupportError(message, support, wrong_of(support, plain, is_inside))
    return message


class InferKeyError(SiteError):
    """The `infer` of a site says what nothing reads."""

    def __init__(self, name: str, key: str, advice: str, where: Place) -> None:
        """Name the site, its line, the key, and what is meant perhaps."""
        super().__init__(
            f"site {name!r} ({where.location}): nothing reads {key!r} in its infer: {advice}"
        )


_READ = ("enumerate", "is_auxiliary", "baseline", "estimator", "credit")
_ELSEWHERE = {  # what Pyro reads there
    "num_samples": "what an.handlers.enumerate sums over, it sums over exactly",
    "expand": "values stand along a dimension that an.handlers.enumerate(first_dim=...) gives them",
}


def check_infer(name: str, infer: Mapping[Any, Any], where: Place) -> None:
    """Raise for a key that Pyro reads, or that is all but the name of one that is read.

    Others are the user's own.
    """
    for key in infer:
        if not isinstance(key, str) or key in _READ:
            continue
        close = get_close_matches(key, _READ, cutoff=0.8)
        if key in _ELSEWHERE or close:
            advice = _ELSEWHERE.get(key) or f"did you mean {close[0]!r}?"
            raise InferKeyError(name, key, advice, where)
