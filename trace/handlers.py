"""Handlers: what changes the statements of a block, each one thing; they compose in any order.

>>> import torch
>>> from torch.distributions import Normal
>>> from ancestral.trace.primitives import sample
>>> from ancestral.trace.record import record
>>> def model():
...     return sample("z", Normal(0.0, 1.0))
>>> with record() as trace, condition({"z": torch.tensor(0.5)}):  # around a block
...     z = model()
>>> trace["z"].is_observed
True
>>> seed(0)(model)() == seed(0)(model)()  # around a function
tensor(True)
"""

from ancestral.trace.by_name import UnknownSiteError
from ancestral.trace.conditioning import condition, do, uncondition
from ancestral.trace.configuring import infer_config
from ancestral.trace.enumeration import enumerate  # noqa: A004 (the name that users of Pyro know)
from ancestral.trace.gumbel import GumbelSoftmax
from ancestral.trace.hiding import block, expose
from ancestral.trace.lifting import PriorShapeError, lift
from ancestral.trace.locscale import LocScale
from ancestral.trace.markov import markov
from ancestral.trace.record import record
from ancestral.trace.reparam import ReparamError, Strategy, reparam
from ancestral.trace.replaying import ReplayShapeError, replay, substitute
from ancestral.trace.request import Handler, Request
from ancestral.trace.seeding import seed
from ancestral.trace.unpushing import Transform
from ancestral.trace.weighting import mask, scale

__all__ = [
    "GumbelSoftmax",
    "Handler",
    "LocScale",
    "PriorShapeError",
    "ReparamError",
    "ReplayShapeError",
    "Request",
    "Strategy",
    "Transform",
    "UnknownSiteError",
    "block",
    "condition",
    "do",
    "enumerate",
    "expose",
    "infer_config",
    "lift",
    "markov",
    "mask",
    "record",
    "reparam",
    "replay",
    "scale",
    "seed",
    "substitute",
    "uncondition",
]
