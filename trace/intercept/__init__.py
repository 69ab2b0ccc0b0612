"""Interceptors: the patches of torch during a recording, one file for each part of torch.

`INTERCEPTORS` lists all of it, in the order in which a recording switches it on.
"""

from ancestral.trace.context.switch import Interceptor
from ancestral.trace.intercept import random_ops, tensor_reads
from ancestral.trace.intercept.autograd import Gradients
from ancestral.trace.intercept.batch_shape import Batches
from ancestral.trace.intercept.checkpoint import Checkpoints
from ancestral.trace.intercept.distributions import Distributions
from ancestral.trace.intercept.functorch import FunctionTransforms
from ancestral.trace.intercept.random_ops import Dispatcher
from ancestral.trace.intercept.straight_through import CUTS
from ancestral.trace.intercept.tensor_reads import Attributes, Storages
from ancestral.trace.intercept.threads import Threads
from ancestral.trace.intercept.unrecorded_threads import Unrecorded
from ancestral.trace.intercept.wrapper_subclasses import TensorSubclasses
from ancestral.trace.pyro.stack import PyroStack

INTERCEPTORS: tuple[Interceptor, ...] = (
    CUTS,
    Attributes(),
    Gradients(),
    Checkpoints(),
    Unrecorded(),
    Distributions(),
    Batches(),
    Dispatcher((*random_ops.KERNELS, *tensor_reads.KERNELS)),
    TensorSubclasses(),
    Storages(),
    Threads(),
    FunctionTransforms(),
    PyroStack(),
)
