"""Site recording: a draw, an observation or a cost as a node of the open recordings."""

from collections.abc import Mapping
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.distributions import Distribution

from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.algebra.provenance import Provenance, Source
from ancestral.provenance.dispatch import implicit_reads
from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.control_flow import (
    controlling,
)
from ancestral.provenance.tensor.tensor import (
    ProvenanceTensor,
    Unseen,
    alias,
    attach,
    compact,
    provenance,
    raw,
    untrack,
)
from ancestral.provenance.tensor.torch_internals import detach
from ancestral.trace.context.place import Place, place
from ancestral.trace.context.plain import aside
from ancestral.trace.context.stack import Recording, local
from ancestral.trace.nodes.autograd_graph import has_gradient
from ancestral.trace.nodes.autograd_graph import is_learned as is_learned_tensor
from ancestral.trace.nodes.distribution_params import (
    Held,
    declares_all,
    event_dims,
    factorized,
    forget_noise,
    is_of_torch,
    param_provenance,
    parameters,
)
from ancestral.trace.nodes.node import Gate, Node
from ancestral.trace.nodes.plate_frame import Plate, open_plates, scale_of
from ancestral.trace.nodes.versions import versions_of
from ancestral.trace.recording.constant_draws import has_tangent, transformed_draw
from ancestral.trace.recording.leaf_writes import SettledError
from ancestral.trace.recording.message import Message

_MANY = 1_000  # sites of a long recording, in which the memory that each of them takes counts
_register_hook = Tensor.register_hook  # torch's own: the gate is no hook of the user


def draw(
    fn: Distribution,
    held: list[Held],
    value: Any,
    *,
    is_reparameterized: bool,
    where: Place,
    name: str | None = None,
    infer: Mapping[str, Any] | None = None,
    message: Message | None = None,
) -> Any:
    """Record a draw of `fn` in the open recordings; return it with its own site as provenance.

    Args:
        fn: the distribution.
        held: its parameters.
        value: what was drawn, [*sample, *batch, *event].
        is_reparameterized: whether gradients flow through the value, as far as torch lets them.
        where: the user's call.
        name: what the program calls the site, None for a draw of plain torch.
        infer: what the program says of how to infer it.
        message: what handlers made of it, None where none is open.
    """
    if storage.local.mode is not None:
        storage.tidy()
    is_learned = has_gradient(held)
    if is_learned and where.is_differentiated:
        raise transformed_draw(type(fn).__name__, where)
    if forward_ad._current_level >= 0 and any(has_tangent(t) for t, _ in held):
        raise transformed_draw(type(fn).__name__, where)
    if not isinstance(value, Tensor):
        if is_learned or any(provenance(tensor) is not None for tensor, _ in held):
            raise TypeError(
                f"{type(fn).__name__} drew a {type(value).__name__} at {where.location}; a draw "
                "must be one torch.Tensor for its dependencies to be followed"
            )
        return value
    if torch.is_inference_mode_enabled():
        with torch.inference_mode(False):  # for autograd to save it
            return draw(
                fn,
                held,
                raw(Tensor.clone, value),
                is_reparameterized=is_reparameterized,
                where=where,
                name=name,
                infer=infer,
                message=message,
            )
    is_declared = name is not None or message is not None
    kind: Any = type(fn)
    is_plain = declares_all(kind)  # has no parts: groups nothing, and keeps nothing of a draw
    inner = fn if is_plain else factorized(fn)
    size = tuple(value.shape)
    shape = size[: len(size) - len(fn._event_shape)] if is_plain else independent(inner, value)
    drawn = provenance(value) if storage.table else getattr(value, "_provenance", None)
    is_scored = is_learned and not is_reparameterized
    found = controlled(param_provenance(fn, held, shape, drawn, is_scored=is_scored), shape)
    traces, plates = local.traces, open_plates()
    universe = traces[0].universe
    if message is not None:
        name = _shown_name(traces[0], message)
    elif name is None:
        name = traces[0].fresh_name(base_name(inner, where))
    if is_learned and (is_reparameterized or not is_plain):
        is_reparameterized = _is_pathwise(value, is_plain)
    is_scored = is_learned and not is_reparameterized
    is_settled = universe.is_past and universe.state == "settled"
    if is_settled and is_scored and torch.is_grad_enabled():
        raise SettledError.of_draw(name, where)
    is_confined = message is not None and message.is_spread
    source = Source(name, shape, universe, is_confined=is_confined)
    shown = _fresh(value, held)
    # The user may write into the value later; the density is that of the draw.
    plain = _aside(shown) if is_reparameterized else _copied(shown)
    gate = None
    if is_reparameterized and plain.requires_grad:
        gate = Gate()
        raw(_register_hook, shown, gate)
        universe.differentiable.add(source)
    fields: dict[str, Any] = {
        "name": name,
        "fn": fn,
        "value": plain,
        "shape": shape,
        "source": source,
        "param_provenance": found,
        "location": where.location,
        "is_learned": is_learned,
        "infer": {} if infer is None else infer,
        "versions": versions_of(held, plain if is_reparameterized else None),
    }
    if where.module_path:
        fields["module_path"] = where.module_path
    if is_reparameterized:
        fields |= {"is_reparameterized": True, "gate": gate}
    if is_declared:
        fields["is_declared"] = True
    if not is_plain:
        fields["event_dims"] = event_dims(fn)
    if message is not None or plates:
        fields |= _around(message, plates)
    node = Node.made(fields)
    admit(node, traces, traces if message is None else message.traces)
    if type(shown) is ProvenanceTensor:
        shown._form, shown._written = None, -1
    attach(shown, universe.of(source, size))._site = ref(node)  # type: ignore[attr-defined]
    if len(universe.sources) > _MANY:
        compact(shown)
        for tensor, _ in held:
            compact(tensor)
    if not is_plain:
        forget_noise(fn, shown, source, is_pathwise=is_reparameterized)
    if local.audit is not None:
        local.audit.drawn(node, held, value, shown)
    return shown


def _around(message: Message | None, plates: tuple[Plate, ...]) -> dict[str, Any]:
    """Return what handlers and plates say of a draw, at least one of which is open."""
    if message is not None:
        return {
            "infer": message.infer,
            "scale": message.scale,
            "mask": message.mask,
            "enumeration": message.enumeration,
            "cond_indep_stack": message.plates,
        }
    return {"scale": scale_of(plates), "cond_indep_stack": plates}


def _is_pathwise(value: Tensor, is_plain: bool) -> bool:
    """Return whether a gradient goes through a draw, to what is learned.

    None does through `rsample` under `torch.no_grad`. A class of the user, which is not plain, may
    cut it off, and its `sample` may let it through.
    """
    return value.requires_grad and (is_plain or is_learned_tensor(value))


def _aside(value: Tensor) -> Tensor:
    """Return a plain tensor on the same data, with the same history if there is one."""
    with Unseen():
        if not value.requires_grad:
            return detach(value)
    return aside(value)


def _copied(value: Tensor) -> Tensor:
    """Return a copy without history."""
    with Unseen():
        return (detach(value) if value.requires_grad else value).clone()


def observe(fn: Distribution, value: Tensor, density: Tensor, where: Place, name: str) -> None:
    """Record that the density of `fn` was asked at a value that depends on no site."""
    tracked = getattr(density, "_provenance", None)
    shape = tuple(raw(Tensor.size, density)) if tracked is None else tracked.shape
    held = parameters(fn)
    traces, plates = local.traces, open_plates()
    unique, universe = traces[0].fresh_name(name), traces[0].universe
    node = Node.made(
        {
            "name": unique,
            "type": "sample",
            "fn": fn,
            "value": untrack(value),
            "shape": shape,
            "source": Source(unique, shape, universe),
            "param_provenance": controlled(param_provenance(fn, held, shape, None), shape),
            "location": where.location,
            "module_path": where.module_path,
            "is_observed": True,
            "is_learned": has_gradient(held),
            "scale": scale_of(plates) if plates else 1.0,
            "cond_indep_stack": plates,
            "event_dims": local.event_dims,
            "infer": {},
        }
    )
    admit(node, traces, traces)
    if local.audit is not None:
        local.audit.observed(node, held)
    if isinstance(density, ProvenanceTensor):
        density._scored, density._form = node, None


def declare(name: str, value: Tensor) -> None:
    """Record a cost in the open recordings."""
    found = provenance(value)
    outermost = local.traces[0]
    shape = tuple(raw(Tensor.size, value))
    node = Node(
        name=name,
        type="cost",
        fn=None,
        value=value,
        shape=shape,
        source=Source(name, shape, outermost.universe),
        param_provenance=controlled(found, shape),
        location=place().location,
        scale=scale_of(open_plates()),
        cond_indep_stack=open_plates(),
        control=controlled(None, shape),
    )
    admit(node, local.traces, local.traces)
    if local.audit is not None:
        local.audit.declared(node)


def admit(node: Node, traces: tuple[Recording, ...], seeing: tuple[Recording, ...]) -> None:
    """Take a node into the open recordings, unless a plate around it claims what does not hold.

    Those that are not among `seeing` take it in without showing it.
    """
    traces[0].ledger.admit(node)
    for trace in traces:
        trace.add(node, is_hidden=trace not in seeing)


def independent(fn: Distribution, value: Tensor) -> Shape:
    """Return the leading dimensions of a draw that are independent, given its `factorized`.

    A class of the user may draw events of which its `event_shape` does not tell: its density does,
    which then has fewer dimensions.
    """
    size, event = tuple(raw(Tensor.size, value)), len(fn.event_shape)
    shape = size[: len(size) - event] if event <= len(size) else ()
    if is_of_torch(fn) or len(shape) <= len(fn.batch_shape):
        return shape
    density = _density_shape(fn, value)
    return shape if density is None or density != shape[: len(density)] else density


def _density_shape(fn: Distribution, value: Tensor) -> Shape | None:
    """Return the shape of a density, None where there is none."""
    was_inside, local.is_inside = local.is_inside, True  # to ask is not to observe
    reads = list(implicit_reads.local.found)
    try:
        with Unseen(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            return tuple(fn.log_prob(detach(value).clone()).shape)
    except Exception:  # whoever needs the density gets the error
        return None
    finally:
        local.is_inside = was_inside
        implicit_reads.local.found[:] = reads


def controlled(found: Provenance | None, shape: Shape) -> Provenance | None:
    """Add what Python may have branched on before, and what reached a function around the draw."""
    decision = controlling()
    if decision is None and not local.around:
        return found
    for around in (*local.around, *(() if decision is None else (decision,))):
        lost = around.lost(shape)
        found = lost if found is None else found.union(lost)
    return found


def _shown_name(outermost: Recording, message: Message) -> str:
    """Return the name of a draw: the program's own, if any recording shows it."""
    if message.is_found and message.name in outermost:
        return outermost.fresh_name(message.name)
    return message.name if message.traces else outermost.fresh_name(f"{message.name} (hidden)")


def base_name(fn: Distribution, where: Place) -> str:
    """Return the name, not yet numbered, of a draw of a distribution of elements without one."""
    name = where.variable or type(fn).__name__.lower()
    return f"{where.module_path}.{name}" if where.module_path else name


def _fresh(value: Tensor, held: list[Held]) -> Tensor:
    """Return a tensor on this value that nobody else holds."""
    if (value.requires_grad and value.is_leaf) or type(value) not in (Tensor, ProvenanceTensor):
        return alias(value)
    for tensor, _ in held:
        if value is tensor:
            return alias(value)
    return value
