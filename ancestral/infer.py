"""Inference: bounds, exact sums, importance weights, predictions, and checks of guides.

>>> import torch
>>> import ancestral as an
>>> from torch.distributions import Normal
>>> def model():
...     z = an.sample("z", Normal(torch.zeros(2), 1.0))
...     an.sample("x", Normal(z, 1.0), obs=torch.ones(2))
>>> def guide():
...     an.sample("z", Normal(torch.full((2,), 0.5), 0.5**0.5))     # the posterior
>>> float(an.infer.elbo(model, guide).value) < 0
True
"""

from typing import TYPE_CHECKING, Any

from ancestral.estimators.elimination.expectation import expectation
from ancestral.estimators.elimination.marginals import log_marginal, marginals
from ancestral.estimators.elimination.posterior import sample_posterior
from ancestral.estimators.inference.check_guide import GuideReport, check_guide
from ancestral.estimators.inference.elbo import Elbo, elbo, negative_elbo
from ancestral.estimators.inference.importance import Importance, importance
from ancestral.estimators.inference.predictive import Predictive
from ancestral.estimators.objectives.bound import Bound, of_log_weights
from ancestral.estimators.objectives.iwae import iwae, multi_sample, renyi
from ancestral.estimators.objectives.mean_field import mean_field
from ancestral.estimators.objectives.tail_adaptive import tail_adaptive
from ancestral.estimators.objectives.thermodynamic import thermodynamic
from ancestral.estimators.objectives.wake_sleep import forward_kl, log_evidence, wake_sleep
from ancestral.estimators.sequences.fivo import Fivo, fivo
from ancestral.estimators.sequences.particle_filter import Filtered, particle_filter
from ancestral.tools.arviz import to_inference_data
from ancestral.trace.recording.get_dependencies import (
    posterior_dependencies,
    prior_dependencies,
    suggest_guide_order,
)

if TYPE_CHECKING:
    from ancestral.estimators.inference.pyro_losses import TraceEnum_ELBO, TraceGraph_ELBO

__all__ = [
    "Bound",
    "Elbo",
    "Filtered",
    "Fivo",
    "GuideReport",
    "Importance",
    "Predictive",
    "TraceEnum_ELBO",
    "TraceGraph_ELBO",
    "check_guide",
    "elbo",
    "expectation",
    "fivo",
    "forward_kl",
    "importance",
    "iwae",
    "log_evidence",
    "log_marginal",
    "marginals",
    "mean_field",
    "multi_sample",
    "negative_elbo",
    "of_log_weights",
    "particle_filter",
    "posterior_dependencies",
    "prior_dependencies",
    "renyi",
    "sample_posterior",
    "suggest_guide_order",
    "tail_adaptive",
    "thermodynamic",
    "to_inference_data",
    "wake_sleep",
]

_FOR_PYRO = frozenset({"TraceEnum_ELBO", "TraceGraph_ELBO"})


def __getattr__(name: str) -> Any:
    """Return a loss for Pyro's SVI; Pyro, which takes a second to import, is so when it is used."""
    if name not in _FOR_PYRO:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from ancestral.estimators.inference import pyro_losses
    except ModuleNotFoundError as error:
        if error.name != "pyro":
            raise
        return type(name, (), {"__init__": _without_pyro, "__module__": __name__})
    return getattr(pyro_losses, name)


def _without_pyro(self: object, *_: Any, **__: Any) -> None:
    raise ImportError(
        f"ancestral.infer.{type(self).__name__} is a loss for Pyro's SVI, and Pyro is not "
        "installed; run pip install 'ancestral[pyro]', or use ancestral.infer.elbo, which takes "
        "programs of this library"
    )
