"""Whatever Python does with a value, the mean is the exact gradient."""

import functools

import pytest
import torch
from programs.control.register import CONTROL
from programs.control.rollouts import BY_HAND
from programs.estimates import higher_derivatives, library
from torch import Tensor

import programs.control  # noqa: F401 (registers the programs)
from ancestral.estimators.credit import Estimator, by_element, by_site, total_cost
from oracles import (
    Path,
    autograd,
    derivatives,
    estimates_on,
    exact_derivatives,
    expectation,
    moments,
    moments_of,
    paths,
)
