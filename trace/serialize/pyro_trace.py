"""Traces of Pyro: read as traces of this library, and written from them.

>>> import pyro, torch
>>> import pyro.distributions as dist
>>> trace = pyro.poutine.trace(lambda: pyro.sample("z", dist.Normal(0.0, 1.0))).get_trace()
>>> [node.name for node in from_pyro(trace).nodes]
['z']
"""

from collections.abc import Iterable
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.indep_messenger import CondIndepStackFrame
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor

from ancestral.provenance.algebra.provenance import Source, Universe
from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.context.argument_checks import kind_of
from ancestral.trace.context.place import Location
from ancestral.trace.nodes.distribution_params import event_dims, factorized
from ancestral.trace.nodes.factor import PointMass
from ancestral.trace.nodes.node import Node
from ancestral.trace.nodes.plate_frame import Plate
from ancestral.trace.serialize.nodes import Content
from ancestral.trace.serialize.plain import unreadable
from ancestral.trace.serialize.pyro_distributions import as_pyro, translated

_NOWHERE = Location("<pyro>", 0, "")


def from_pyro(trace: Any) -> Content:
    """Return what a trace of Pyro holds: its samples, parameters and named values.

    Raises:
        StoredTraceError: if it is none.
    """
    if not isinstance(trace, poutine.Trace):
        raise unreadable(f"it is {kind_of(trace)}, and no pyro.poutine.Trace")
    universe = Universe()
    pruned: Any = prune_subsample_sites(trace)
    sites = [site for site in pruned.nodes.values() if site["type"] in ("sample", "param")]
    nodes = tuple([_node(site, universe) for site in sites])
    universe.become("settled")  # the values are constants to whoever goes on with them
    return Content(universe, nodes, (), ())


def _node(site: Any, universe: Universe) -> Node:
    is_named = bool(site["infer"].get("_deterministic")) if site["type"] == "sample" else False
    if site["type"] == "param" or is_named:
        value = untrack(site["value"])
        kind = "deterministic" if is_named else "param"
        return _made(site, universe, kind, value, tuple(value.shape))
    fn, known, mask, _ = translated(site["fn"], site["value"], site["mask"])
    assert known is not None
    inner, plain = factorized(fn), untrack(known)
    shape = tuple(plain.shape[: plain.dim() - len(inner.event_shape)])
    return _made(
        site,
        universe,
        "sample",
        plain,
        shape,
        fn=fn,
        mask=mask,
        scale=site["scale"],
        is_observed=site["is_observed"],
        cond_indep_stack=tuple(map(_plate, site["cond_indep_stack"])),
        event_dims=event_dims(fn),
        infer={k: v for k, v in site["infer"].items() if not k.startswith("_")},
    )


def _made(
    site: Any, universe: Universe, kind: str, value: Tensor, shape: tuple[int, ...], **others: Any
) -> Node:
    source = Source(site["name"], shape, universe, is_known=True)
    return Node(
        name=site["name"],
        type=kind,
        fn=others.pop("fn", None),
        value=value,
        shape=shape,
        source=source,
        param_provenance=None,
        location=_NOWHERE,
        is_given=True,
        is_declared=True,
        **others,
    )


def _plate(frame: CondIndepStackFrame) -> Plate:
    size = frame.size if frame.full_size is None else frame.full_size
    turn = frame.counter if frame.dim is None else None
    return Plate(frame.name, int(size), int(frame.size), frame.dim, turn, is_checked=False)


def to_pyro(nodes: Iterable[Node]) -> Any:
    """Return a trace of Pyro with the samples, parameters and named values among some nodes."""
    trace: Any = poutine.Trace()
    for node in nodes:
        if node.type in ("sample", "param", "deterministic"):
            trace.add_node(node.name, **_site(node))
    return trace


def _site(node: Node) -> dict[str, Any]:
    value, is_named = untrack(node.value), node.type == "deterministic"
    site: dict[str, Any] = {
        "name": node.name,
        "type": "param" if node.type == "param" else "sample",
        "value": value,
        "args": (),
        "kwargs": {},
        "infer": dict(node.infer),
        "scale": node.scale if isinstance(node.scale, float | int) else untrack(node.scale),
        "mask": None if node.mask is None else untrack(node.mask),
        "cond_indep_stack": tuple(map(_frame, node.cond_indep_stack)),
        "is_observed": node.is_observed or is_named,
        "done": True,
        "stop": False,
        "continuation": None,
    }
    if node.fn is not None:
        return {**site, "fn": as_pyro(node.fn, value)}
    if is_named:
        infer = {**site["infer"], "_deterministic": True}
        return {**site, "fn": as_pyro(_nothing(value), value).mask(False), "infer": infer}
    return {**site, "fn": None}


def _nothing(value: Tensor) -> Any:
    """Return the point at a value that has no density."""
    return PointMass(torch.zeros(()), value.shape)


def _frame(plate: Plate) -> CondIndepStackFrame:
    turn = 0 if plate.turn is None else plate.turn
    full = plate.size if plate.size != plate.subsample_size else None
    return CondIndepStackFrame(plate.name, plate.dim, plate.subsample_size, turn, full)
