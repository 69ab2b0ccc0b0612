"""Sites of a program: named statements with their values, taken into the recordings."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.algebra.alignment_map import common_shape
from ancestral.provenance.algebra.provenance import Provenance, Source, Universe
from ancestral.provenance.tensor.tensor import ProvenanceTensor, provenance, untrack
from ancestral.trace.context.errors import SiteError
from ancestral.trace.context.place import Place
from ancestral.trace.context.plain import aside
from ancestral.trace.context.stack import local
from ancestral.trace.nodes.autograd_graph import has_gradient
from ancestral.trace.nodes.distribution_params import (
    Held,
    event_dims,
    factorized,
    is_of_torch,
    param_provenance,
    parameters,
    parts_of,
)
from ancestral.trace.nodes.known_families import drawn as drawn_simply
from ancestral.trace.nodes.node import Node
from ancestral.trace.nodes.plate_frame import open_plates, scale_of
from ancestral.trace.nodes.versions import versions_of
from ancestral.trace.program.checks import fitting, supported, weighable
from ancestral.trace.recording.constant_draws import (
    is_noise,
    is_within_transform,
    refuse_transformed,
    transformed_draw,
)
from ancestral.trace.recording.message import Message, apply_stack
from ancestral.trace.recording.record_site import base_name, controlled, draw, independent


def unseen(fn: Distribution, is_reparameterized: bool = False) -> Any:
    """Return a draw that no recording takes in."""
    return _unseen(drawn_simply, fn, is_reparameterized)


def _unseen(draws: Callable[..., Any], *args: Any) -> Any:
    """Return what a function draws, which no recording takes in."""
    was_inside, local.is_inside = local.is_inside, True
    try:
        return draws(*args)
    finally:
        local.is_inside = was_inside


def drawn(message: Message) -> Message:
    """Answer a message for a sample with a draw, which the open recordings take in."""
    assert message.fn is not None
    value = value_of(
        message.name,
        message.fn,
        message.where,
        message.is_reparameterized,
        message.infer,
        message,
    )
    return message.answered(value)


def value_of(
    name: str,
    fn: Distribution,
    where: Place,
    is_reparameterized: bool,
    infer: Mapping[str, Any],
    message: Message | None = None,
) -> Any:
    """Return a draw that the open recordings take in, as `message` says if there are handlers."""
    if not local.traces:
        return fn.rsample() if is_reparameterized else fn.sample()
    try:
        sampler = None if message is None else message.sampler
        value = unseen(fn, is_reparameterized) if sampler is None else _unseen(sampler)
    except NotImplementedError as error:
        if error.args:  # no method is missing
            raise
        raise _undrawable(name, fn, where, is_reparameterized) from error
    except RuntimeError as error:
        refuse_transformed(type(fn).__name__, (t for t, _ in parameters(fn)), error)
        raise
    held = parameters(fn)
    if isinstance(value, Tensor) and is_within_transform(value):
        if is_noise(item.tensor for item in held):
            return value
        raise transformed_draw(type(fn).__name__, where)
    return draw(
        fn,
        held,
        value,
        is_reparameterized=is_reparameterized,
        where=where,
        name=name,
        infer=infer,
        message=message,
    )


def _undrawable(name: str, fn: Distribution, where: Place, is_reparameterized: bool) -> SiteError:
    """Return the error of a class that has no method to draw by."""
    method, otherwise = (
        ("rsample", ", as its has_rsample = True says; define it, or set has_rsample = False there")
        if is_reparameterized
        else ("sample", "; define it")
    )
    return SiteError(
        f"site {name!r} ({where.location}): expected a class that draws, and {_innermost(fn)} has "
        f"no {method}{otherwise}"
    )


def _innermost(fn: Distribution) -> str:
    """Return the class within a distribution that lacks what the others would call of it."""
    parts = [part for part in parts_of(fn) if isinstance(part, Distribution)]
    users = [type(part) for part in parts if not is_of_torch(part)]
    return (users or [type(fn)])[-1].__name__


def given(message: Message) -> Message:
    """Answer a message for a sample with a value from elsewhere: data, or another trace's."""
    assert message.fn is not None
    assert message.value is not None
    traces = local.traces
    if not traces:
        return message
    fn, value, universe = message.fn, message.value, traces[0].universe
    shape, found = independent(factorized(fn), value), provenance(value)
    held, plain = parameters(fn), aside(value) if isinstance(value, ProvenanceTensor) else value
    source = _source(message, found, shape, universe)
    node = Node.made(
        {
            "name": message.name,
            "type": "sample",
            "fn": fn,
            "value": plain,
            "shape": shape,
            "source": source,
            "param_provenance": controlled(_upstream(message, held, shape), shape),
            "location": message.where.location,
            "module_path": message.where.module_path,
            "is_observed": message.is_observed,
            "is_reparameterized": message.origin is not None and message.origin.is_reparameterized,
            "is_learned": has_gradient(held),
            "is_given": True,
            "is_declared": True,
            "held": _held(found, source, tuple(value.shape), universe),
            "scale": message.scale,
            "mask": message.mask,
            "cond_indep_stack": message.plates,
            "event_dims": event_dims(fn),
            "infer": message.infer,
            "enumeration": message.enumeration,
            "versions": versions_of(held, plain),
        }
    )
    traces[0].ledger.admit(node)
    admit(node, message)
    return message.answered(node.tracked_value)


def _upstream(message: Message, held: list[Held], shape: Shape) -> Provenance | None:
    """Return the provenance of the parameters of a site over the independent draws of its value.

    What the parameters are enumerated along lies to the left of these.
    """
    fn = message.fn
    assert fn is not None
    if message.enumeration is None:
        return param_provenance(fn, held, shape, None)
    batch = factorized(fn).batch_shape
    if len(batch) <= len(shape):
        return param_provenance(fn, held, shape, None)
    whole = common_shape(shape, batch)
    found = param_provenance(fn, held, whole, None)
    last = tuple(range(len(whole) - len(shape), len(whole)))
    return None if found is None else found.remap(shape, last)


def named(message: Message) -> Message:
    """Answer a message with the value that it came with: what was computed, set or asked for."""
    assert message.value is not None
    traces = local.traces
    if not traces or not message.traces:
        return message
    value, universe = message.value, traces[0].universe
    size: Shape = tuple(value.shape)
    is_cut, found = message.is_intervened, provenance(value)
    source = _source(message, found, size, universe)
    held = _held(found, source, size, universe) if is_cut else found
    if message.kind == "deterministic" and not is_cut:
        if found is not None and found.universe is not universe:
            found = universe.adopt(found)
        source = _source_of(message.name, size, found, universe)
        held = universe.of(source, size)
    node = Node(
        name=message.name,
        type="deterministic" if is_cut else message.kind,
        fn=None,
        value=untrack(value),
        shape=size,
        source=source,
        param_provenance=None if is_cut else controlled(found, size),
        location=message.where.location,
        module_path=message.where.module_path,
        is_given=is_cut,
        is_declared=True,
        held=held,
        scale=message.scale,
        mask=message.mask,
        cond_indep_stack=message.plates,
        event_dims=_events(message, size) if message.plates else 0,
        infer=message.infer,
    )
    if message.kind == "deterministic":
        traces[0].ledger.admit(node)
    admit(node, message)
    return message.answered(node.tracked_value)


def _source_of(name: str, shape: Shape, found: Provenance | None, universe: Universe) -> Source:
    """Return the source that stands for what a value was computed from, if from any source."""
    is_known = found is None or all(s.is_known for s in universe.origins(found.members))
    source = Source(name, shape, universe, stands_for=found, is_known=is_known, is_named=True)
    if found is not None and found.members & universe.differentiable:
        universe.differentiable.add(source)
    return source


def _events(message: Message, size: Shape) -> int:
    """Return how many of the last dimensions of a value without a density are an event.

    Where nobody says, it is the fewest such that as many plates as can be are dimensions of its
    batch: none is of another size, or indexes other repetitions of what the value depends on.
    """
    if message.fn is not None:
        return len(message.fn.event_shape)
    known: int | None = message.options.get("event_dim")
    if known is not None or message.kind != "deterministic":
        return known or 0
    ledger, found = local.traces[0].ledger, provenance(message.value)
    plates = [plate for plate in message.plates if plate.dim is not None]
    apart = {plate.name: ledger.apart(found, plate.name) for plate in plates}

    def placed(events: int) -> int:
        """Return how many plates are dimensions of the batch, -1 if one cannot be."""
        count = 0
        for plate in plates:
            assert plate.dim is not None
            place, known = len(size) - events + plate.dim, apart[plate.name]
            if place < 0 or size[place] == 1:
                continue
            if size[place] != plate.subsample_size or not (known is None or place in known):
                return -1
            count += 1
        return count

    return max(range(len(size) + 1), key=placed)  # the first of the best


def _source(message: Message, found: Provenance | None, shape: Shape, universe: Universe) -> Source:
    """Return the source that a value from elsewhere is: its own, or one of a known value."""
    origin = message.origin
    if origin is not None and found is not None and origin.source in found.members:
        return origin.source
    return Source(message.name, shape, universe, is_known=True, is_confined=message.is_spread)


def _held(
    found: Provenance | None, source: Source, size: Shape, universe: Universe
) -> Provenance | None:
    """Return what a value from elsewhere depends on: a known source, and what it came with."""
    if not source.is_known:
        return found
    own = universe.of(source, size)
    return own if found is None or found.universe.state == "settled" else own.union(found)


def admit(node: Node, message: Message) -> None:
    """Take a node that was not drawn into the recordings that see it.

    The innermost refuses a name that is taken; those around it number it. One that has the node
    that the value came from is left as it is.
    """
    for trace in message.traces:
        if message.origin is not None and trace.get(message.origin.name) is message.origin:
            continue
        known = trace.get(node.name)
        if known is not None and known.type == node.type and node.type in ("param", "plate"):
            continue  # which a program may ask for often
        is_taken = known is not None and trace is not message.traces[-1]
        trace.add(replace(node, name=trace.fresh_name(node.name)) if is_taken else node)


def spread(fn: Distribution, message_plates: tuple[Any, ...], described: str) -> Distribution:
    """Return a distribution with its batch expanded to the plates around it.

    Raises:
        SiteError: if it cannot be expanded; `described` is the site.
    """
    wanted = list(fn.batch_shape)
    for plate in message_plates:
        if plate.dim is None:
            continue
        wanted = [1] * (-plate.dim - len(wanted)) + wanted
        if wanted[plate.dim] == 1:
            wanted[plate.dim] = plate.subsample_size
    shape = torch.Size(wanted)
    if shape == fn.batch_shape:
        return fn
    try:
        expanded: Distribution = fn.expand(shape)
    except NotImplementedError as error:
        raise SiteError(
            f"{described}: the batch {list(fn.batch_shape)} is to be that of the plates around it, "
            f"{list(shape)}, and {_innermost(fn)} has no expand; define its expand(batch_shape), "
            "or give it parameters of that batch"
        ) from error
    return expanded


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

    The innermost recording gives it its name.

    Args:
        fn: the distribution.
        held: its parameters.
        drawn: draws the value, [*sample, *batch, *event].
        sample_shape: the shape of the sample.
        is_reparameterized: whether gradients flow through the value.
        where: the user's call.
    """

    def settled(message: Message) -> Message:
        if message.kind != "sample" or message.is_intervened:
            return named(message)
        if message.value is not None:
            return given(weighable(supported(fitting(message))))
        kept = draw(
            fn,
            held,
            drawn() if message.sampler is None else _unseen(message.sampler),
            is_reparameterized=message.is_reparameterized,
            where=where,
            message=message,
        )
        return weighable(replace(message, value=kept))

    message = Message(
        "sample",
        local.traces[-1].fresh_name(base_name(factorized(fn), where)),
        where,
        _over(fn, sample_shape),
        is_reparameterized=is_reparameterized,
        is_found=True,
        scale=scale_of(open_plates()),
        plates=open_plates(),
    )
    return apply_stack(message, settled).value


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
