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

from ancestral import errors
from ancestral.estimators.baselines.leave_one_out import LeaveOneOut
from ancestral.estimators.baselines.running_mean import RunningMean
from ancestral.estimators.batched.run_many import InTurnWarning
from ancestral.estimators.elimination.marginals import log_marginal, marginals
from ancestral.estimators.elimination.posterior import sample_posterior
from ancestral.estimators.gradient.credit import by_element, by_site, total_cost
from ancestral.estimators.gradient.explain import Explanation, explain
from ancestral.estimators.gradient.left_out import ForgottenRecordingError, OtherRecordingError
from ancestral.estimators.gradient.loss_terms import NonFiniteDensityError
from ancestral.estimators.gradient.nested_loss import LossError
from ancestral.estimators.gradient.pathwise import KinkWarning
from ancestral.estimators.gradient.problem import CaughtError
from ancestral.estimators.gradient.surrogate import backward, surrogate
from ancestral.estimators.inference.check_guide import PairReport, check_pair
from ancestral.estimators.inference.elbo import Elbo, elbo, negative_elbo
from ancestral.estimators.inference.importance import Importance, importance
from ancestral.estimators.inference.model_guide import GuideError
from ancestral.estimators.inference.predictive import Predictive
from ancestral.provenance.dispatch.escape import ConfinedError, EscapeError
from ancestral.provenance.tensor.control_flow import Escape, control_scope
from ancestral.provenance.tensor.tensor import ProvenanceTensor, provenance_of
from ancestral.tools.arviz import to_inference_data
from ancestral.tools.render.inspect import graph
from ancestral.tools.render.render import mimebundle as _mimebundle
from ancestral.tools.render.render import render as _render
from ancestral.trace import handlers
from ancestral.trace.audit.tables import AuditError
from ancestral.trace.context.errors import EnumerationError, SiteError
from ancestral.trace.context.patch import install as _install_interceptors
from ancestral.trace.graph.find_plates import Extent
from ancestral.trace.graph.graph import Graph
from ancestral.trace.graph.graph import install as _install
from ancestral.trace.intercept import INTERCEPTORS as _INTERCEPTORS
from ancestral.trace.nodes.node import Node
from ancestral.trace.nodes.plate import Plate, PlateError
from ancestral.trace.params.errors import ParamError, ParamWarning
from ancestral.trace.params.store import ParamStore
from ancestral.trace.program.module import module
from ancestral.trace.program.plate import plate, subsample
from ancestral.trace.program.primitives import cost, deterministic, factor, observe, param, sample
from ancestral.trace.recording.dependencies import (
    posterior_dependencies,
    prior_dependencies,
    suggest_guide_order,
)
from ancestral.trace.recording.leaf_writes import SettledError
from ancestral.trace.recording.record import record, track
from ancestral.trace.recording.trace import Trace
from ancestral.trace.recording.untrack import untrack
from ancestral.trace.recording.wrap import wrap

__version__ = "0.1.0"
__all__ = [
    "AuditError",
    "CaughtError",
    "ConfinedError",
    "Elbo",
    "EnumerationError",
    "Escape",
    "EscapeError",
    "Explanation",
    "Extent",
    "ForgottenRecordingError",
    "Graph",
    "GuideError",
    "Importance",
    "InTurnWarning",
    "KinkWarning",
    "LeaveOneOut",
    "LossError",
    "Node",
    "NonFiniteDensityError",
    "OtherRecordingError",
    "PairReport",
    "ParamError",
    "ParamStore",
    "ParamWarning",
    "Plate",
    "PlateError",
    "Predictive",
    "ProvenanceTensor",
    "RunningMean",
    "SettledError",
    "SiteError",
    "Trace",
    "backward",
    "by_element",
    "by_site",
    "check_pair",
    "control_scope",
    "cost",
    "deterministic",
    "elbo",
    "errors",
    "explain",
    "factor",
    "graph",
    "handlers",
    "importance",
    "log_marginal",
    "marginals",
    "module",
    "negative_elbo",
    "observe",
    "param",
    "plate",
    "posterior_dependencies",
    "prior_dependencies",
    "provenance_of",
    "record",
    "sample",
    "sample_posterior",
    "subsample",
    "suggest_guide_order",
    "surrogate",
    "to_inference_data",
    "total_cost",
    "track",
    "untrack",
    "wrap",
]

_install_interceptors(_INTERCEPTORS)
_install(_render, _mimebundle)
