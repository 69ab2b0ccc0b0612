"""Handlers: what changes a program from outside, such as `condition`, `replay` and `enumerate`.

>>> import torch
>>> import ancestral as an
>>> from torch.distributions import Normal
>>> with an.record() as trace, an.handlers.condition({"z": torch.tensor(0.5)}):
...     z = an.sample("z", Normal(0.0, 1.0))
>>> trace["z"].is_observed
True
"""

from ancestral.trace import handlers as _handlers
from ancestral.trace.handlers import *  # noqa: F403 (all of it)

__all__ = _handlers.__all__
