"""Primitives: the statements that a probabilistic program is written in.

>>> import torch
>>> from torch.distributions import Normal
>>> from ancestral.trace.recording.record import record
>>> with record() as trace:
...     mu = sample("mu", Normal(0.0, 1.0))
...     x = sample("x", Normal(mu, 1.0), obs=torch.tensor(0.3))
>>> {name: (node.is_observed, sorted(node.parents)) for name, node in trace.items()}
{'mu': (False, []), 'x': (True, ['mu'])}
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.context.argument_checks import short
from ancestral.trace.context.compile import eagerly
from ancestral.trace.context.place import place
from ancestral.trace.context.stack import local
from ancestral.trace.enumeration.enumerate import open_room
from ancestral.trace.nodes.factor import Factor
from ancestral.trace.nodes.plate_frame import open_plates, scale_of
from ancestral.trace.params.store import valued
from ancestral.trace.program.checks import (
    check_factor,
    check_fn,
    check_infer,
    check_name,
    check_obs_mask,
    fitting,
    supported,
    weighable,
)
from ancestral.trace.program.plate import subsample
from ancestral.trace.program.site import drawn, given, named, spread, value_of
from ancestral.trace.recording.message import Handler, Message, apply_stack, is_handled
from ancestral.trace.recording.record import current
from ancestral.trace.recording.record_site import declare


@eagerly
def sample(
    name: str,
    fn: Distribution,
    obs: Tensor | None = None,
    *,
    obs_mask: Tensor | bool | None = None,
    infer: Mapping[str, Any] | None = None,
) -> Tensor:
    """Draw from a distribution under a name, or observe a value of it, and return the value.

    A draw is reparameterized where the distribution can (``rsample``). Within plates, the batch is
    expanded to their sizes. Outside a recording and without handlers it is a plain draw.

    Args:
        name: the name of the site in the trace.
        fn: the distribution.
        obs: the value observed, whose batch broadcasts with that of `fn`.
        obs_mask: which elements of the batch `obs` is observed at, a bool or a tensor of them; the
            others are drawn, as site ``{name}_unobserved``, and weigh as such; the observed ones
            are ``{name}_observed``.
        infer: what inference is to do with the site: ``{"enumerate": False}`` and
            ``{"is_auxiliary": True}`` are read, other keys are the user's.

    Raises:
        SiteError: if the name is taken, or the value has a wrong type, shape or support.
    """
    where = place()
    check_name(name, where)
    check_fn(name, fn, where)
    if infer:
        check_infer(name, infer, where)
    plates = open_plates()
    spread_fn = spread(fn, plates, f"site {name!r} ({where.location})") if plates else fn
    if obs_mask is not None:
        check_obs_mask(name, obs, obs_mask, where)
        return _partly_observed(name, spread_fn, obs, obs_mask, infer)
    handled = is_handled()
    if not handled and obs is None:  # the most frequent case
        value: Tensor = value_of(
            name, spread_fn, where, bool(fn.has_rsample), {} if infer is None else infer
        )
        return value
    message = Message(
        "sample",
        name,
        where,
        spread_fn,
        value=obs,
        is_observed=obs is not None,
        is_reparameterized=bool(fn.has_rsample),
        infer={} if infer is None else infer,
        scale=scale_of(plates) if plates else 1.0,
        plates=plates,
        traces=() if handled else local.traces,
    )
    answered = apply_stack(message, settled) if handled else settled(message)
    assert answered.value is not None
    return answered.value


def settled(message: Message) -> Message:
    """Give a message its value, and take it into the recordings that see it."""
    if message.kind == "param":
        return named(replace(message, value=valued(message)))
    if message.kind == "sample" and message.is_intervened:
        return named(fitting(message))
    if message.kind != "sample":
        return named(message)
    if message.value is None:
        return weighable(drawn(message))
    return given(supported(weighable(fitting(message))))


def _partly_observed(
    name: str,
    fn: Distribution,
    obs: Tensor | None,
    obs_mask: Tensor | bool,
    infer: Mapping[str, Any] | None,
) -> Tensor:
    if obs is None:
        return sample(name, fn, infer=infer)
    if isinstance(obs_mask, bool):
        obs_mask = torch.tensor(obs_mask, device=obs.device)
    with _Among(~obs_mask):
        free = sample(f"{name}_unobserved", fn, infer=infer)
    event = (None,) * len(fn.event_shape)
    is_seen = obs_mask[(..., *event)]
    # What is not observed has no value: any that the distribution can take will do, and as it does
    # not count, what is observed does not depend on it.
    filled = torch.where(is_seen, obs, _one_of(free, len(event)))
    with _Among(obs_mask):
        seen = sample(f"{name}_observed", fn, obs=filled, infer=infer)
    return deterministic(name, torch.where(is_seen, seen, free), event_dim=len(event))


class _Among(Handler):
    """Lets some elements of the batch of a site count."""

    def __init__(self, which: Tensor) -> None:
        self._which = which

    def process(self, message: Message) -> Message:
        """Give a sample its mask, which those of handlers further out narrow."""
        return replace(message, mask=self._which) if message.kind == "sample" else message


def _one_of(free: Tensor, event: int) -> Tensor:
    """Return values of a site, the same ones for all that sites are enumerated along."""
    plain, room = untrack(free).detach(), open_room()
    wide = 0 if room is None else max(plain.dim() - event - room, 0)
    return plain[(0,) * wide]


def observe(name: str, fn: Distribution, value: Tensor) -> Tensor:
    """Observe a value of a distribution; the same as ``sample(name, fn, obs=value)``.

    Raises:
        SiteError: if the name is taken, or the value has a wrong type, shape or support.
    """
    return sample(name, fn, obs=value)


@eagerly
def factor(name: str, log_factor: Tensor) -> None:
    """Multiply the density of the program by a factor, given as its logarithm, [*batch].

    It is an observed site whose log-probability is the logarithm.

    Raises:
        SiteError: if the name is taken, or the logarithm is no tensor.
    """
    check_factor(name, log_factor, place())
    fn = Factor(log_factor)
    sample(name, fn, obs=fn.nothing)


@eagerly
def param(
    name: str,
    init: Tensor | Callable[[], Tensor] | None = None,
    constraint: Constraint | None = None,
    event_dim: int | None = None,
) -> Tensor:
    """Return the value of a parameter that is learned, which the open `ParamStore` keeps.

    The value is differentiable in the unconstrained leaf that the store learns. Whoever asks again
    gets the same parameter; by its name alone, whatever its constraint is.

    Args:
        name: the name of the parameter in the trace, and in the state of the store.
        init: the value that it begins with, or a function of no argument that returns it, which is
            called once.
        constraint: what values it may have, of `torch.distributions.constraints`; by default any
            real number.
        event_dim: how many of its last dimensions are no plates. If given, the rows of the
            subsampled plates around are returned, as by `subsample`; by default the whole is.

    Raises:
        SiteError: if no store is open, if it is asked for as another than it is, if it has no
            initial value that the constraint allows, or if its size is not that of a plate.
        ValueError: if it has fewer dimensions than `event_dim`.
    """
    where = place()
    check_name(name, where)
    options = {"init": init, "constraint": constraint}
    answered = apply_stack(Message("param", name, where, options=options), settled)
    assert answered.value is not None
    return answered.value if event_dim is None else subsample(answered.value, event_dim)


@eagerly
def deterministic(name: str, value: Tensor, event_dim: int | None = None) -> Tensor:
    """Give a computed value a name in the trace, and return it with its provenance.

    It is in the plates around it, whose repetitions may be mixed in it: it has no density.

    Args:
        name: the name of the value in the trace.
        value: the value, [*batch, *event].
        event_dim: how many of its last dimensions are an event, so that plates are counted from
            there; by default the fewest for which the plates fit, as far as they do.

    Raises:
        SiteError: if the name is taken.
        TypeError: if `value` is no tensor.
        ValueError: if it has fewer dimensions than `event_dim`.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"deterministic {short(name)} is a {type(value).__name__}; expected a torch.Tensor"
        )
    is_count = isinstance(event_dim, int) and 0 <= event_dim <= value.dim()
    if event_dim is not None and not is_count:
        raise ValueError(
            f"deterministic {short(name)} has {value.dim()} dimensions; event_dim must be one of "
            f"0 to that, not {short(event_dim)}"
        )
    where = place()
    check_name(name, where)
    options = {} if event_dim is None else {"event_dim": event_dim}
    plates = open_plates()
    message = Message("deterministic", name, where, value=value, plates=plates, options=options)
    answered = apply_stack(message, named)
    assert answered.value is not None
    return answered.value


@eagerly
def cost(name: str, value: Tensor) -> Tensor:
    """Declare a cost, a term of the objective whose expected sum is differentiated, and return it.

    `Trace.backward` sums the declared costs. A value of Python that escapes from the recording
    later does not blur this term. Outside a recording nothing happens.

    Args:
        name: the name of the cost in the trace.
        value: the cost of each independent case, of any shape; its elements are summed.

    Raises:
        TypeError: if `value` is no tensor.
        SiteError: if the recording knows the name.
    """
    if not isinstance(value, Tensor):
        raise TypeError(
            f"cost {short(name)} is a {type(value).__name__}; expected a torch.Tensor, whose "
            "provenance says which draws it depends on"
        )
    if current() is not None:
        declare(name, value)
    return value
