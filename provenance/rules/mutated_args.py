"""Writes besides the first argument: running statistics, noise, the states of an optimizer.

An op says by its name that it writes into its first argument; what else it writes, a table says,
or the schema of the op where it has one. A later op that reads it depends on all that came in.
"""

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from ancestral.provenance.rules.registry import argument, tensors_in
from ancestral.provenance.tensor.torch_internals import OpOverload, OpOverloadPacket

_Function = Callable[..., Any]


_Place = tuple[int, str]
_BY_NAME = sys.maxsize  # the place of an argument that has none


class _Written(NamedTuple):
    """Where the arguments stand that an op writes into, and what says whether it does."""

    places: tuple[_Place, ...]
    condition: tuple[int, str, bool] | None = None  # place, name and default


_STATISTICS = ((1, "running_mean"), (2, "running_var"))
_LATER = ((3, "running_mean"), (4, "running_var"))
_OBSERVED = ((3, "running_min"), (4, "running_max"), (5, "scale"), (6, "zero_point"))
_MOMENTS = ((1, "grads"), (2, "exp_avgs"), (3, "exp_avg_sqs"), (4, "max_exp_avg_sqs"))

# By the module of the function and its name: torch.nn.functional has other arguments.
_IN_FUNCTIONAL = {
    "batch_norm": _Written(_STATISTICS, (5, "training", False)),
    "instance_norm": _Written(_STATISTICS, (5, "use_input_stats", True)),
    "embedding": _Written(((1, "weight"),), (3, "max_norm", False)),
    "embedding_bag": _Written(((1, "weight"),), (3, "max_norm", False)),
}
_IN_TORCH = {
    "batch_norm": _Written(_LATER, (5, "training", False)),
    "native_batch_norm": _Written(_LATER, (5, "training", False)),
    "_native_batch_norm_legit": _Written(_LATER, (5, "training", False)),
    "_batch_norm_impl_index": _Written(_LATER, (5, "training", False)),
    "_batch_norm_with_update": _Written(_LATER),
    "cudnn_batch_norm": _Written(_LATER, (5, "training", False)),
    "miopen_batch_norm": _Written(_LATER, (5, "training", False)),
    "instance_norm": _Written(_LATER, (5, "use_input_stats", True)),
    "batch_norm_update_stats": _Written(((1, "running_mean"), (2, "running_var"))),
    "batch_norm_gather_stats": _Written(_LATER),
    "batch_norm_gather_stats_with_counts": _Written(_LATER),
    "fused_moving_avg_obs_fake_quant": _Written(_OBSERVED),
    "_fused_moving_avg_obs_fq_helper": _Written(_OBSERVED),
    "rrelu_with_noise": _Written(((1, "noise"),)),
    "rrelu_with_noise_": _Written(((1, "noise"),)),
    "_amp_foreach_non_finite_check_and_unscale_": _Written(((1, "found_inf"),)),
    "_amp_update_scale_": _Written(((1, "growth_tracker"),)),
    "_fused_adam_": _Written(_MOMENTS),
    "_fused_adamw_": _Written(_MOMENTS),
    "_fused_sgd_": _Written(((1, "grads"), (2, "momentum_buffer_list"))),
    "_fused_adagrad_": _Written(((1, "grads"), (2, "state_sums"), (3, "state_steps"))),
    "fbgemm_linear_fp16_weight": _Written(((3, "output"),)),
    "fbgemm_linear_fp16_weight_fp32_activation": _Written(((3, "output"),)),
    "_cummax_helper": _Written(((1, "values"), (2, "indices"))),
    "_cummin_helper": _Written(((1, "values"), (2, "indices"))),
}


def writes_besides(func: _Function) -> bool:
    """Return whether an op may write into an argument that its name does not tell."""
    return _row_of(func) is not None or (
        isinstance(func, (OpOverload, OpOverloadPacket)) and bool(_declared(func))
    )


def written_besides(
    func: _Function, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> list[Tensor]:
    """Return the tensors that an op writes into though its name does not tell."""
    found: list[Tensor] = []
    if isinstance(func, (OpOverload, OpOverloadPacket)):
        for place, name in _declared(func):
            found.extend(tensors_in(argument(args, kwargs, place, name)))
    row = _row_of(func)
    if row is not None and (row.condition is None or _is_met(row.condition, args, kwargs)):
        for place, name in row.places:
            found.extend(tensors_in(argument(args, kwargs, place, name)))
    return found


@functools.lru_cache(maxsize=1024)
def _declared(func: OpOverload[..., Any] | OpOverloadPacket[..., Any]) -> tuple[_Place, ...]:
    """Return the arguments that the schema of an op, or any of its packet, declares written."""
    if isinstance(func, OpOverloadPacket):
        overloads = (getattr(func, name) for name in func.overloads())
        return tuple({place: None for each in overloads for place in _declared(each)})
    return tuple(
        (_BY_NAME if given.kwarg_only else place, given.name)
        for place, given in enumerate(func._schema.arguments)
        if given.alias_info is not None and given.alias_info.is_write
    )


def _is_met(
    condition: tuple[int, str, bool], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> bool:
    place, name, default = condition
    given = argument(args, kwargs, place, name, default=default)
    # Something else than a truth value is what the op is asked to write: a largest norm.
    return given is not None and given is not False


def _row_of(func: _Function) -> _Written | None:
    name = func.__name__
    if isinstance(func, (OpOverload, OpOverloadPacket)):
        return _IN_TORCH.get(name.split(".")[0])
    is_functional = getattr(func, "__module__", None) == "torch.nn.functional"
    return (_IN_FUNCTIONAL if is_functional else _IN_TORCH).get(name)
