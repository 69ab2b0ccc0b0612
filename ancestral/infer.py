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

from ancestral.estimators.elimination.marginals import log_marginal, marginals
from ancestral.estimators.elimination.posterior import sample_posterior
from ancestral.estimators.inference.check_guide import GuideReport, check_guide
from ancestral.estimators.inference.elbo import Elbo, elbo, negative_elbo
from ancestral.estimators.inference.importance import Importance, importance
from ancestral.estimators.inference.predictive import Predictive
from ancestral.tools.arviz import to_inference_data
from ancestral.trace.recording.get_dependencies import (
    posterior_dependencies,
    prior_dependencies,
    suggest_guide_order,
)

__all__ = [
    "Elbo",
    "GuideReport",
    "Importance",
    "Predictive",
    "check_guide",
    "elbo",
    "importance",
    "log_marginal",
    "marginals",
    "negative_elbo",
    "posterior_dependencies",
    "prior_dependencies",
    "sample_posterior",
    "suggest_guide_order",
    "to_inference_data",
]
