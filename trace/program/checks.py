"""Checks of the statements of a program, before anything is recorded."""

import math
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.algebra.alignment_map import common_shape
from ancestral.provenance.tensor.tensor import raw
from ancestral.provenance.tensor.torch_internals import detach
from ancestral.trace.context.argument_checks import kind_of, short
from ancestral.trace.context.errors import SiteError
from ancestral.trace.context.place import Place
from ancestral.trace.context.switch import unmet
from ancestral.trace.nodes.distribution_params import plainly
from ancestral.trace.nodes.enum_dims import trailing
from ancestral.trace.nodes.mask import over
from ancestral.trace.nodes.support import support_of, takes, wrong_of
from ancestral.trace.recording.message import Message


class SupportError(SiteError):
    """A value is none that the distribution of a site can take."""


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
        raise SiteError(
            f"the site at {where.location} is named {short(name)}; expected a text that is not "
            "empty"
        )


def check_fn(name: str, fn: object, where: Place) -> None:
    """Raise unless a distribution is one."""
    if not isinstance(fn, Distribution):
        raise SiteError(
            f"site {name!r} ({where.location}) is drawn from a {type(fn).__name__}; expected a "
            "torch.distributions.Distribution"
        )


def check_obs_mask(name: str, obs: object, obs_mask: object, where: Place) -> None:
    """Raise unless a mask can say which elements are observed, and what is observed is there."""
    if not isinstance(obs_mask, bool | Tensor):
        problem = f"its obs_mask must be bools in a tensor, not {kind_of(obs_mask)}"
    elif isinstance(obs_mask, Tensor) and obs_mask.dtype != torch.bool:
        problem = f"its obs_mask has dtype {obs_mask.dtype}; expected torch.bool: say obs_mask != 0"
    elif obs is not None and not isinstance(obs, Tensor):
        problem = f"the observed value must be a torch.Tensor, not a {type(obs).__name__}"
    else:
        return
    raise SiteError(f"site {name!r} ({where.location}): {problem}")


def check_factor(name: str, log_factor: object, where: Place) -> None:
    """Raise unless the logarithm of a factor is a tensor of numbers."""
    if not (isinstance(log_factor, Tensor) and log_factor.is_floating_point()):
        came = log_factor.dtype if isinstance(log_factor, Tensor) else kind_of(log_factor)
        raise SiteError(
            f"factor {name!r} ({where.location}) is {came}; expected the logarithm of the factor, "
            f"a torch.Tensor of a floating dtype, such as {torch.get_default_dtype()}"
        )


def fitting(message: Message) -> Message:
    """Return a message whose value has the batch of its distribution, or one that it fits into.

    Raises:
        SiteError: if the value is no tensor, or of a type that the distribution has not; if the
            shapes do not fit: sizes are never multiplied with each other, and only data may have
            more cases than the distribution.
    """
    fn, value = message.fn, message.value
    assert fn is not None
    if not isinstance(value, Tensor):
        raise no_tensor(message, value)
    if not takes(fn, value.dtype):
        expected = f"of a floating dtype, such as {torch.get_default_dtype()}"
        raise SiteError(f"{described(message)} must be {expected}, not {value.dtype}")
    event = len(fn.event_shape)
    size = tuple(value.shape)
    batch, events = size[: len(size) - event], size[len(size) - event :]
    if event > len(size) or events != tuple(fn.event_shape):
        raise _misshapen(message)
    # Where sites are enumerated, one value is given for all of theirs.
    ours, theirs = batch, tuple(fn.batch_shape)
    if message.enumeration is not None:
        room = message.enumeration.room
        ours, theirs = trailing(ours, room), trailing(theirs, room)
        plates = max((-plate.dim for plate in message.plates if plate.dim is not None), default=0)
        while len(theirs) > max(len(ours), plates) and theirs[0] == 1:
            theirs = theirs[1:]
    try:
        whole = common_shape(ours, theirs)
    except RuntimeError as error:
        raise _misshapen(message) from error
    is_free = message.is_observed or message.enumeration is not None
    if whole == ours and (is_free or ours == theirs):
        return message
    if whole != theirs:
        raise _misshapen(message)
    head = batch[: len(batch) - len(ours)]
    return replace(message, value=value.expand(*head, *whole, *events))


def no_tensor(message: Message, value: object) -> SiteError:
    """Return the error that the value that a site is given is no tensor."""
    return SiteError(f"{described(message)} must be a torch.Tensor, not {kind_of(value)}")


def _misshapen(message: Message) -> SiteError:
    """Return the error that the value that a site is given does not fit its distribution."""
    fn, value = message.fn, message.value
    assert fn is not None
    assert value is not None
    return SiteError(
        f"{described(message)} has shape {list(value.shape)}; expected "
        f"{[*fn.batch_shape, *fn.event_shape]}: the batch {list(fn.batch_shape)} (or one that "
        "expands to it, or to which it expands), and the event "
        f"{list(fn.event_shape)} of {type(fn).__name__}"
    )


def too_wide(message: Message, word: str, size: Shape, batch: Shape) -> SiteError:
    """Return the error that a mask or a scale has more elements than the site that it weighs."""
    return SiteError(
        f"site {message.name!r} ({message.where.location}): its {word} has shape "
        f"{list(size)}; expected one that broadcasts to the batch {list(batch)} of the site, "
        f"each element of which counts once: give the {word} that shape, or the site a plate"
    )


def weighable(message: Message) -> Message:
    """Return a message that has its value, whose mask and scale make its batch no larger.

    Raises:
        SiteError: if they would, so that a density counted more than once.
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
        raise SiteError(
            f"site {message.name!r} ({message.where.location}): its {word} is on device "
            f"{weight.device}; expected {value.device}, as its value: move it there with "
            f".to({str(value.device)!r})"
        )
    size = tuple(raw(Tensor.size, weight))
    whole = tuple(raw(Tensor.size, value))
    cases = whole[: len(whole) - len(fn.event_shape)]
    batch = common_shape(fn.batch_shape, cases)
    ours, theirs = size, batch
    if message.enumeration is not None:  # a weight may depend on values, to the left of the room
        room = message.enumeration.room
        ours, theirs = trailing(size, room), trailing(batch, room)
    try:
        is_larger = math.prod(common_shape(ours, theirs)) != math.prod(theirs)
    except RuntimeError as error:
        raise too_wide(message, word, size, batch) from error
    if is_larger:
        raise too_wide(message, word, size, batch)


def supported(message: Message) -> Message:
    """Return a message whose value its distribution can take.

    Raises:
        SupportError: if it cannot.
        SiteError: if it is of a dtype that the support cannot be checked for.
    """
    fn, value = message.fn, message.value
    assert fn is not None
    assert value is not None
    if not getattr(fn, "_validate_args", False):
        return message
    plain: Tensor = raw(detach, value)
    if plain.is_meta:
        return message
    support = support_of(fn)
    if support is None:
        return message  # a user's class that declares none
    try:
        is_inside: Tensor = plainly(support, support.check, plain)
    except (NotImplementedError, RuntimeError, IndexError) as error:
        if isinstance(error, NotImplementedError) and not plain.is_complex():
            return message  # a user's class that declares none
        # A complex number has no order; a matching cannot index by each value.
        expected = f"one that {short(support)} can check ({error})"
        problem = f"{described(message)} must be {expected}, not {plain.dtype}"
        raise SiteError(problem) from error
    if message.mask is not None:
        is_inside = is_inside | ~over(message.mask, tuple(is_inside.shape))
    with unmet():
        is_supported = bool(is_inside.all())
    if not is_supported:
        raise SupportError(
            f"{described(message)} is outside the support of {type(message.fn).__name__}: "
            f"{wrong_of(support, plain, is_inside)}; expected {short(support)}; hide what is "
            "missing with an.handlers.mask; if its density is meant for such values too, make the "
            "distribution, and an Independent around it, with validate_args=False"
        )
    return message


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
            raise SiteError(
                f"site {name!r} ({where.location}): nothing reads {key!r} in its infer: {advice}"
            )
