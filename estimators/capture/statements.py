"""Statements of programs while the compiler reads them: what is left of them in a captured graph.

A sample is a draw, or the data; a declared cost is its value, since the gradient is that of the
loss that is returned; a plate is the sizes that it gives to what is drawn within it. What the
compiler is to read stands in `ancestral.estimators.capture.programs`: here is what takes it there
from the modules where the statements are defined.
"""

import functools
from collections.abc import Callable, Mapping
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ancestral.estimators.capture import programs
from ancestral.estimators.capture.parallel import FORWARD
from ancestral.estimators.inference import elbo as bounds
from ancestral.trace.handlers.by_name import ByName
from ancestral.trace.handlers.condition import condition
from ancestral.trace.handlers.weight import mask, scale
from ancestral.trace.program import plate as plates
from ancestral.trace.program import primitives
from ancestral.trace.recording import module_wrapper
from ancestral.trace.recording.message import Handler
from ancestral.trace.recording.unused_handlers import Effective

# The code of each stands in for that of the statement, in whose module its names are looked up. A
# thread that compiles nothing may call it meanwhile, and is to get the statement's own.


def _sample(
    name: str,
    fn: Distribution,
    obs: Tensor | None = None,
    *,
    obs_mask: Any = None,
    infer: Mapping[str, Any] | None = None,
) -> Any:
    from ancestral.estimators.capture import programs

    if torch.compiler.is_dynamo_compiling():
        return programs.sample(name, fn, obs, obs_mask)
    return programs.OWN["sample"](name, fn, obs, obs_mask=obs_mask, infer=infer)


def _factor(name: str, log_factor: Tensor) -> Any:
    from ancestral.estimators.capture import programs

    if torch.compiler.is_dynamo_compiling():
        return programs.factor(log_factor)
    return programs.OWN["factor"](name, log_factor)


def _param(
    name: str, init: Any = None, constraint: Any = None, event_dim: int | None = None
) -> Any:
    from ancestral.estimators.capture import programs

    if torch.compiler.is_dynamo_compiling():
        return programs.param(name, event_dim)
    return programs.OWN["param"](name, init, constraint, event_dim)


def _deterministic(name: str, value: Tensor, event_dim: int | None = None) -> Any:
    from ancestral.estimators.capture import programs

    if torch.compiler.is_dynamo_compiling():
        return programs.deterministic(value)
    return programs.OWN["deterministic"](name, value, event_dim)


def _cost(name: str, value: Tensor) -> Any:
    from ancestral.estimators.capture import programs

    return value if torch.compiler.is_dynamo_compiling() else programs.OWN["cost"](name, value)


def _subsample(data: Tensor, event_dim: int = 0) -> Any:
    from ancestral.estimators.capture import programs

    if torch.compiler.is_dynamo_compiling():
        return programs.subsample(data, event_dim)
    return programs.OWN["subsample"](data, event_dim)


def _elbo(
    model: Any,
    guide: Any,
    *args: Any,
    particles: int = 1,
    vectorized: bool = False,
    max_plate_nesting: int | None = None,
    baseline: Any = "auto",
    estimator: Any = "auto",
    credit: Any = None,
    **kwargs: Any,
) -> Any:
    from ancestral.estimators.capture import programs

    if torch.compiler.is_dynamo_compiling():
        return programs.bound(model, guide, args, kwargs, particles, max_plate_nesting)
    options = {"particles": particles, "vectorized": vectorized, "baseline": baseline}
    options |= {"max_plate_nesting": max_plate_nesting, "estimator": estimator, "credit": credit}
    return programs.OWN["elbo"](model, guide, *args, **options, **kwargs)


def _is_recorded(module: Any) -> bool:
    from ancestral.estimators.capture import programs

    # A module that is wrapped is the module: the step has the scores of its draws.
    return torch.compiler.is_dynamo_compiling() or programs.OWN["_is_recorded"](module)


_READ: dict[Any, Any] = {
    primitives.sample: _sample,
    primitives.factor: _factor,
    primitives.param: _param,
    primitives.deterministic: _deterministic,
    primitives.cost: _cost,
    plates.subsample: _subsample,
    bounds.elbo: _elbo,
    module_wrapper._is_recorded: _is_recorded,
}


def _own(function: FunctionType) -> FunctionType:
    """Return a function as it is now, whatever code it is given later."""
    made = FunctionType(function.__code__, function.__globals__, function.__name__)
    made.__defaults__, made.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    return made


def _code(function: FunctionType, instead: FunctionType) -> CodeType:
    ours, theirs = instead.__code__, function.__code__
    count = ours.co_argcount + ours.co_kwonlyargcount
    assert ours.co_varnames[:count] == theirs.co_varnames[:count]
    return ours


programs.OWN.update((function.__name__, _own(function)) for function in _READ)
INSTEAD = {function: _code(function, instead) for function, instead in _READ.items()}
"""By statement, the code that the compiler is to read in place of what stands there."""


def _while_read(kind: type, name: str, instead: Callable[..., Any]) -> tuple[type, str, Any]:
    original: Any = vars(kind)[name]

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return instead(self, *args, **kwargs)
        return original(self, *args, **kwargs)

    return kind, name, method


METHODS = (
    _while_read(plates.plate, "__init__", programs.make_plate),
    _while_read(plates.plate, "__enter__", programs.enter_plate),
    _while_read(plates.plate, "__exit__", programs.exit_plate),
    _while_read(plates.plate, "__iter__", programs.turns_of_plate),
    *(_while_read(kind, "__enter__", programs.enter_handler) for kind in (Handler, ByName)),
    *(
        _while_read(kind, "__exit__", programs.exit_handler)
        for kind in (Handler, ByName, Effective)
    ),
    _while_read(mask, "__init__", programs.make_mask),
    _while_read(scale, "__init__", programs.make_scale),
    _while_read(condition.__mro__[1], "__init__", programs.make_condition),
    FORWARD,
)
"""By class and name, the methods that it is to read in place of those that stand there."""
