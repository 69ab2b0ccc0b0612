"""Ops that write into other arguments than the first: the table is complete, and it is followed."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import ancestral as an
from ancestral.provenance.dispatch.inplace import WriteIntoParameterError
from ancestral.provenance.rules.registry import WRITTEN
from perturbation import check, numbers


def normalized(function: Callable[..., Any]) -> Callable[[Tensor], Any]:
    """Return the call of a function that is given running statistics, and those afterwards."""

    def call(x: Tensor) -> Any:
        mean, variance = torch.zeros(3), torch.ones(3)
        return function(x, mean, variance), mean, variance

    return call


def observed(x: Tensor) -> Any:
    low, high = torch.tensor([float("inf")]), torch.tensor([float("-inf")])
    scale, zero = torch.ones(1), torch.zeros(1, dtype=torch.int32)
    on = torch.ones(1, dtype=torch.long)
    result = torch.fused_moving_avg_obs_fake_quant(
        x, on, on, low, high, scale, zero, 0.01, 0, 255, 0
    )
    return result, low, high, scale, zero


def noise(x: Tensor) -> Any:
    written, functions = torch.zeros(4, 3), vars(torch._C._nn)
    return functions["rrelu_with_noise"](x, written, 0.1, 0.3, True), written


def adam(x: Tensor) -> Any:
    weights, first, second = ([torch.zeros(4, 3)] for _ in range(3))
    torch._fused_adam_(
        weights, [x], first, second, [], [torch.ones(())],
        lr=0.1, beta1=0.9, beta2=0.99, weight_decay=0.0, eps=1e-8, amsgrad=False, maximize=False,
    )  # fmt: skip
    return weights, first, second


def descended(x: Tensor) -> Any:
    weights, momentum = [torch.zeros(4, 3)], [torch.zeros(4, 3)]
    torch._fused_sgd_(
        weights, [x], momentum,
        weight_decay=0.0, momentum=0.9, lr=0.1, dampening=0.0, nesterov=False, maximize=False,
        is_first_step=False,
    )  # fmt: skip
    return weights, momentum


def foreach(x: Tensor) -> Any:
    a, b = torch.zeros(4, 3), torch.ones(4, 3)
    torch._foreach_addcmul_([a], [b], [x])
    torch._foreach_copy_([b], [x])
    return a, b, torch._foreach_mul([x, b], 2)


def by_overload(x: Tensor) -> Any:
    a, b, c = torch.zeros(4, 3), torch.ones(4, 3), torch.ones(4, 3)
    torch.ops.aten.add_.Tensor(a, x)
    torch.ops.aten.copy_.default(self=b, src=x)
    torch.ops.aten.mul.out(x, x, out=c)
    return a, b, c


_aten = torch.ops.aten
NORMALIZED: dict[str, Callable[..., Any]] = {
    "F.batch_norm": lambda x, m, v: F.batch_norm(x, m, v, training=True),
    "F.batch_norm by keyword": lambda x, m, v: F.batch_norm(
        input=x, running_mean=m, running_var=v, training=True
    ),
    "F.instance_norm": lambda x, m, v: F.instance_norm(x[..., None].expand(4, 3, 2), m, v),
    "torch.batch_norm": lambda x, m, v: torch.batch_norm(
        x, None, None, m, v, True, 0.1, 1e-5, False
    ),
    "torch.instance_norm": lambda x, m, v: torch.instance_norm(
        x[..., None].expand(4, 3, 2), None, None, m, v, True, 0.1, 1e-5, False
    ),
    "native_batch_norm": lambda x, m, v: torch.native_batch_norm(
        x, None, None, m, v, True, 0.1, 1e-5
    ),
    "_native_batch_norm_legit": lambda x, m, v: torch._native_batch_norm_legit(
        x, None, None, m, v, True, 0.1, 1e-5
    ),
    "_batch_norm_impl_index": lambda x, m, v: torch._batch_norm_impl_index(
        x, None, None, m, v, True, 0.1, 1e-5, False
    ),
    "batch_norm_update_stats": lambda x, m, v: torch.batch_norm_update_stats(x, m, v, 0.1),
    "an overload": lambda x, m, v: _aten._native_batch_norm_legit.default(
        x, None, None, m, v, True, 0.1, 1e-5
    ),
    "a packet": lambda x, m, v: _aten.native_batch_norm(x, None, None, m, v, True, 0.1, 1e-5),
}
CALLS: dict[str, Callable[[Tensor], Any]] = {
    **{name: normalized(function) for name, function in NORMALIZED.items()},
    "fake quantization": observed,
    "rrelu": noise,
    "adam": adam,
    "descent": descended,
    "foreach": foreach,
    "overloads": by_overload,
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_written_besides_the_first_argument_is_followed(name: str) -> None:
    check(CALLS[name], numbers(4, 3))


def test_statistics_that_are_only_read_stay_as_they_are() -> None:
    with an.record():
        mean, variance = torch.zeros(3), torch.ones(3)
        z = an.track(numbers(4, 3), "z")
        F.batch_norm(z, mean, variance)
        F.instance_norm(z[..., None].expand(4, 3, 2), mean, variance, use_input_stats=False)
    assert type(mean) is type(variance) is Tensor


@pytest.mark.parametrize(
    "layer", [nn.Embedding(7, 4, max_norm=0.1), nn.EmbeddingBag(7, 4, max_norm=0.1)]
)
def test_a_weight_is_not_renormalized_where_a_draw_says_which(layer: nn.Module) -> None:
    with an.record(), pytest.raises(WriteIntoParameterError, match=r"embedding\w* .*'z'"):
        layer(an.track(torch.tensor([[1, 2]]), "z"))
    assert type(layer(torch.tensor([[1, 2]]))) is Tensor


def test_a_table_that_is_no_parameter_is_renormalized_and_followed() -> None:
    check(
        lambda x: (F.embedding(x, table := numbers(7, 4), max_norm=0.1), table),
        torch.tensor([1, 2, 4]),
    )


def written_elsewhere() -> Iterator[str]:
    """Yield the functions of torch whose schema says that they write into a later argument."""
    for schema in torch._C._jit_get_all_schemas():
        space, name = schema.name.split("::")
        if space != "aten" or not any(hasattr(s, name) for s in (torch, torch._C._nn)):
            continue
        for place, given in enumerate(schema.arguments):
            info = given.alias_info
            if place and info is not None and info.is_write and not given.kwarg_only:
                yield name


def test_every_function_that_writes_elsewhere_is_in_the_table() -> None:
    found = set(written_elsewhere())
    assert len(found) > 8
    assert found - set(WRITTEN) == set()


def test_every_function_with_running_statistics_is_in_the_table() -> None:
    statistics = {
        name
        for schema in torch._C._jit_get_all_schemas()
        if any(given.name == "running_mean" for given in schema.arguments)
        and hasattr(torch, name := schema.name.split("::")[1])
    }
    writers = {
        name for name in statistics if not name.endswith(("_backward", "_elemt", "_no_training"))
    }
    assert writers - set(WRITTEN) - {"quantized_batch_norm"} == set()
