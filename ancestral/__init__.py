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

# What follows provenance, and what catches draws, registers itself where it is needed.
# The interceptors register themselves where recordings find them.
import ancestral.provenance.propagation as _propagation  # noqa: F401
import ancestral.trace.attributes as _attributes  # noqa: F401
import ancestral.trace.constructors as _constructors  # noqa: F401
import ancestral.trace.cuts as _cuts  # noqa: F401
import ancestral.trace.distributions as _distributions  # noqa: F401
import ancestral.trace.draws as _draws  # noqa: F401
import ancestral.trace.gradients as _gradients  # noqa: F401
import ancestral.trace.kinds as _kinds  # noqa: F401
import ancestral.trace.saved as _saved  # noqa: F401
import ancestral.trace.scalars as _scalars  # noqa: F401
import ancestral.trace.storages as _storages  # noqa: F401
import ancestral.trace.threads as _threads  # noqa: F401
import ancestral.trace.transforms as _transforms  # noqa: F401
from ancestral import errors
from ancestral.estimators.baselines.leave_one_out import LeaveOneOut
from ancestral.estimators.baselines.running_mean import RunningMean
from ancestral.estimators.credit import by_element, by_site, total_cost
from ancestral.estimators.elbo import Elbo, elbo, negative_elbo
from ancestral.estimators.explanation import Explanation, explain
from ancestral.estimators.importance import Importance, importance
from ancestral.estimators.marginals import log_marginal, marginals
from ancestral.estimators.nested import LossError
from ancestral.estimators.non_finite import NonFiniteDensityError
from ancestral.estimators.pair_check import PairReport, check_pair
from ancestral.estimators.pairs import GuideError
from ancestral.estimators.pathwise import KinkWarning
from ancestral.estimators.posterior import sample_posterior
from ancestral.estimators.predictive import Predictive
from ancestral.estimators.problem import (
    CaughtError,
    ForgottenRecordingError,
    OtherRecordingError,
)
from ancestral.estimators.runs import InTurnWarning
from ancestral.estimators.surrogate import backward, surrogate
from ancestral.provenance.control import Escape, control_scope
from ancestral.provenance.escapes import ConfinedError, EscapeError
from ancestral.provenance.tensor import ProvenanceTensor, provenance_of
from ancestral.tools.inference_data import to_inference_data
from ancestral.tools.inspection import graph
from ancestral.tools.render import mimebundle as _mimebundle
from ancestral.tools.render import render as _render
from ancestral.trace import handlers
from ancestral.trace.dependencies import posterior_dependencies, prior_dependencies
from ancestral.trace.endings import SettledError
from ancestral.trace.errors import EnumerationError, SiteError
from ancestral.trace.findings import AuditError
from ancestral.trace.graph import Graph
from ancestral.trace.graph import install as _install
from ancestral.trace.guide_order import suggest_guide_order
from ancestral.trace.independence import Extent
from ancestral.trace.modules import module
from ancestral.trace.node import Node
from ancestral.trace.param_errors import ParamError, ParamWarning
from ancestral.trace.params import ParamStore
from ancestral.trace.plates import Plate, PlateError
from ancestral.trace.primitives import cost, deterministic, factor, observe, param, sample
from ancestral.trace.record import record, track
from ancestral.trace.repetitions import plate, subsample
from ancestral.trace.trace import Trace
from ancestral.trace.vouching import untrack
from ancestral.trace.wrap import wrap

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

_install(_render, _mimebundle)
