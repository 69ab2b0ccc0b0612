"""Handlers: each changes the statements of a block in one way, and they compose in any order.

>>> import torch
>>> from torch.distributions import Normal
>>> from ancestral.trace.program.primitives import sample
>>> from ancestral.trace.recording.record import record
>>> def model():
...     return sample("z", Normal(0.0, 1.0))
>>> with record() as trace, condition({"z": torch.tensor(0.5)}):  # around a block
...     z = model()
>>> trace["z"].is_observed
True
>>> seed(0)(model)() == seed(0)(model)()  # around a function
tensor(True)
"""

from ancestral.trace.enumeration.enumerate import enumerate  # noqa: A004 (the name that users of Pyro know)
from ancestral.trace.enumeration.markov import markov
from ancestral.trace.handlers.block import block, expose
from ancestral.trace.handlers.by_name import UnknownSiteError
from ancestral.trace.handlers.condition import condition, do, uncondition
from ancestral.trace.handlers.infer_config import infer_config
from ancestral.trace.handlers.lift import lift
from ancestral.trace.handlers.reparam import ReparamError, Strategy, reparam
from ancestral.trace.handlers.replay import replay, substitute
from ancestral.trace.handlers.seed import seed
from ancestral.trace.handlers.strategies import GumbelSoftmax, LocScale, Transform
from ancestral.trace.handlers.weight import mask, scale
from ancestral.trace.recording.message import Handler, Message
from ancestral.trace.recording.record import record

__all__ = [
    "GumbelSoftmax",
    "Handler",
    "LocScale",
    "Message",
    "ReparamError",
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
