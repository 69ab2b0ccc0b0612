"""Rao-Blackwellized gradients for torch models that sample.

>>> import torch
>>> import ancestral as an
>>> logits = torch.zeros(100, requires_grad=True)
>>> with an.record() as trace:                                 # plain torch inside
...     z = torch.distributions.Bernoulli(logits=logits).sample()
...     loss = (z - 0.45).pow(2).sum()
>>> an.backward(loss)                                          # instead of loss.backward()
>>> sorted(an.provenance_of(loss)), trace["z"].shape
(['z'], (100,))
"""

from ancestral import errors, estimators, handlers, infer
from ancestral.estimators.compiled.compile import compile  # noqa: A004 (as torch calls it)
from ancestral.estimators.diagnostics.monitor import Monitor
from ancestral.estimators.gradient.explain import explain
from ancestral.estimators.gradient.surrogate import backward, surrogate
from ancestral.estimators.rerun.estimate import estimate
from ancestral.estimators.verification.verify import verify
from ancestral.provenance.tensor.control_flow import control_scope
from ancestral.provenance.tensor.tensor import ProvenanceTensor, provenance_of
from ancestral.tools.render.inspect import graph
from ancestral.tools.render.render import mimebundle as _mimebundle
from ancestral.tools.render.render import render as _render
from ancestral.tools.render.render import to_html as _to_html
from ancestral.tools.study.study import study
from ancestral.trace.context.switch import restore_torch
from ancestral.trace.context.switch import switch as _switch
from ancestral.trace.graph.drawing import install as _install
from ancestral.trace.graph.graph import Graph
from ancestral.trace.handlers.rescore import rescore
from ancestral.trace.intercept import INTERCEPTORS as _INTERCEPTORS
from ancestral.trace.nodes.node import Node
from ancestral.trace.nodes.plate_frame import Plate
from ancestral.trace.params.store import ParamStore
from ancestral.trace.program.external import external
from ancestral.trace.program.module_statement import module
from ancestral.trace.program.plate import plate, subsample
from ancestral.trace.program.primitives import cost, deterministic, factor, observe, param, sample
from ancestral.trace.recording.module_wrapper import wrap
from ancestral.trace.recording.record import record, track
from ancestral.trace.recording.trace import Trace
from ancestral.trace.recording.untrack import untrack
from ancestral.trace.serialize.checkpoint import load_checkpoint, save_checkpoint

__version__ = "0.2.0"
__all__ = [
    "Graph",
    "Monitor",
    "Node",
    "ParamStore",
    "Plate",
    "ProvenanceTensor",
    "Trace",
    "backward",
    "compile",
    "control_scope",
    "cost",
    "deterministic",
    "errors",
    "estimate",
    "estimators",
    "explain",
    "external",
    "factor",
    "graph",
    "handlers",
    "infer",
    "load_checkpoint",
    "module",
    "observe",
    "param",
    "plate",
    "provenance_of",
    "record",
    "rescore",
    "restore_torch",
    "sample",
    "save_checkpoint",
    "study",
    "subsample",
    "surrogate",
    "track",
    "untrack",
    "verify",
    "wrap",
]

_switch.install(_INTERCEPTORS)
_install(_render, _to_html, _mimebundle)
