"""What surrounds layers: hooks, parametrizations, states, weights that are given from outside."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import (
    clip_grad_norm_,
    parameters_to_vector,
    parametrizations,
    parametrize,
    prune,
    vector_to_parameters,
)
from torch.nn.utils import rnn as sequences

import ancestral as an
from ancestral.provenance.dispatch.inplace import WriteIntoParameterError
from perturbation import check, gradients, numbers


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight * 2


def linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 3)


def hooked(x: Tensor) -> Any:
    """Forward hooks see tracked tensors, and what they keep and give back is followed."""
    layer, seen = linear(), []
    layer.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    layer.register_forward_pre_hook(lambda m, args, kwargs: seen.append(args[0]), with_kwargs=True)
    layer.register_forward_hook(lambda m, args, out: seen.append(out))
    layer.register_forward_hook(lambda m, args, out: out + args[0])
    with nn.modules.module.register_module_forward_hook(lambda m, args, out: out * args[0].sum()):
        return layer(x), seen


def full_backward(x: Tensor) -> Any:
    layer = linear()
    layer.register_full_backward_hook(lambda m, into, out: None)
    layer.register_full_backward_pre_hook(lambda m, out: None)
    return layer(x)


def parametrized(x: Tensor) -> Any:
    layer = linear()
    parametrize.register_parametrization(layer, "weight", Doubled())
    with parametrize.cached():
        return layer(x), layer(x)


def computed_weight(x: Tensor) -> Any:
    """A parametrization whose result depends on the input."""

    class Scaled(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight * x.sum()

    layer = linear()
    parametrize.register_parametrization(layer, "weight", Scaled())
    return layer(torch.ones(2, 3)), layer.weight


def spectral(x: Tensor) -> Any:
    layer = parametrizations.spectral_norm(linear())
    return layer(x), dict(layer.named_buffers())


def old_norms(x: Tensor) -> Any:
    a, b = torch.nn.utils.weight_norm(linear()), torch.nn.utils.spectral_norm(linear(1))
    return a(x), b(x)


def pruned(x: Tensor) -> Any:
    layer = linear()
    prune.custom_from_mask(layer, "weight", torch.eye(3))
    return layer(x)


def pruned_by(x: Tensor) -> Any:
    """A mask that depends on the input, and what the layer gives with it."""
    layer = linear()
    prune.custom_from_mask(layer, "weight", (x[:3, :3] > 0).float())
    return layer(torch.ones(2, 3)), layer.weight_mask


def padded(x: Tensor) -> Any:
    rows = [x[0, :2], x[1]]
    packed = sequences.pack_sequence(rows, enforce_sorted=False)
    return (
        sequences.pad_sequence(rows, batch_first=True),
        packed,
        sequences.pad_packed_sequence(packed),
        sequences.unpack_sequence(packed),
        sequences.unpad_sequence(sequences.pad_sequence(rows), torch.tensor([2, 3])),
    )


def loaded(x: Tensor) -> Any:
    """A buffer that is loaded from a value depends on it; it is read by a later call."""
    layer = nn.BatchNorm1d(3).eval()
    layer.load_state_dict({**layer.state_dict(), "running_mean": x[0]})
    return layer(torch.ones(4, 3)), layer.state_dict(), copy.deepcopy(layer)(torch.ones(4, 3))


def assigned(x: Tensor) -> Any:
    layer = nn.BatchNorm1d(3).eval()
    layer.load_state_dict({**layer.state_dict(), "running_mean": x[0]}, assign=True)
    return layer(torch.ones(4, 3)), layer.state_dict()


def registered(x: Tensor) -> Any:
    layer = nn.Module()
    layer.register_buffer("scale", x)
    layer.register_buffer("hidden", x * 2, persistent=False)
    moved = layer.to(torch.float64)
    scale: Any = moved.scale
    return scale * 1, moved.hidden, layer.state_dict(), list(layer.buffers())


def given_weights(x: Tensor) -> Any:
    layer = linear()
    weights = {"weight": x[:3, :3], "bias": x[3]}
    return (
        functional_call(layer, weights, torch.ones(2, 3)),
        functional_call(layer, weights, (), {"input": torch.ones(2, 3)}),
        functional_call(layer, (weights, {}), (x,)),
        torch.nn.utils.stateless._reparametrize_module is not None,
    )


def given_to_norm(x: Tensor) -> Any:
    """What a layer writes into the buffers that it is given is followed."""
    layer = nn.BatchNorm1d(3)
    state = {name: value.clone() for name, value in layer.named_buffers()}
    return functional_call(layer, state, (x,)), state


def vectors(x: Tensor) -> Any:
    return parameters_to_vector([x, x * 2])


def attention(x: Tensor) -> Any:
    q = x[None, None]
    k = numbers(1, 1, 5, 3)
    return (
        F.scaled_dot_product_attention(q, k, k),
        F.scaled_dot_product_attention(k, q, k[:, :, :4], dropout_p=0.5),
        F.scaled_dot_product_attention(k, k, k, attn_mask=x[:, :1].sum() * torch.ones(5, 5)),
        F.scaled_dot_product_attention(q, q, q, is_causal=True),
    )


def lazy(x: Tensor) -> Any:
    layer = nn.LazyLinear(2)
    return layer(x), layer.in_features


def sampled_grid(x: Tensor) -> Any:
    grid = torch.tanh(numbers(1, 4, 3, 2)) * x[:, :3, None].mean()
    image = numbers(1, 2, 5, 5)
    return F.grid_sample(image, grid, align_corners=False), F.affine_grid(
        x[None, :2, :3], [1, 2, 3, 3], align_corners=False
    )


CALLS: dict[str, Callable[[Tensor], Any]] = {
    function.__name__: function
    for function in (
        *(hooked, full_backward, parametrized, computed_weight, spectral, old_norms, pruned),
        *(pruned_by, padded, loaded, assigned, registered, given_weights, given_to_norm, vectors),
        *(attention, lazy, sampled_grid),
    )
}
PLAIN_GRADIENT = {"registered", "pruned_by", "loaded", "assigned"}  # through a step or a statistic


@pytest.mark.filterwarnings("ignore")  # of torch: layers that are old
@pytest.mark.parametrize("name", CALLS)
def test_a_call_of_a_module_is_followed(name: str) -> None:
    check(CALLS[name], numbers(4, 3))
    if name not in PLAIN_GRADIENT:
        gradients(CALLS[name], numbers(4, 3))


WRITES: dict[str, Callable[[nn.Linear, Any], object]] = {
    "load_state_dict": lambda m, z: m.load_state_dict({"weight": z, "bias": z[0]}),
    "vector_to_parameters": lambda m, z: vector_to_parameters(
        torch.cat([z.flatten(), z[0]]), m.parameters()
    ),
    "data": lambda m, z: setattr(m.weight, "data", z),
    "init": lambda m, z: nn.init.constant_(m.bias, z[0, 0]),
    "an optimizer": lambda m, z: stepped(m, z),
}


def stepped(layer: nn.Linear, z: Tensor) -> None:
    layer.weight.grad = z
    torch.optim.SGD(layer.parameters(), lr=0.1, foreach=False).step()


@pytest.mark.parametrize("name", WRITES)
def test_a_parameter_takes_no_tracked_value(name: str) -> None:
    layer = linear()
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    with an.record(), pytest.raises(Exception, match="'z'") as caught:
        WRITES[name](layer, an.track(torch.zeros(3, 3), "z"))
    assert isinstance(caught.value, (WriteIntoParameterError, RuntimeError))
    assert "nn.Parameter" in str(caught.value)
    assert all(bool((value == before[key]).all()) for key, value in layer.state_dict().items())


def test_what_is_written_past_a_parameter_is_followed() -> None:
    layer = linear()
    with an.record():
        layer.weight.data.copy_(an.track(torch.zeros(3, 3), "z"))
        assert type(layer.weight) is nn.Parameter
        assert an.provenance_of(layer(torch.ones(3))) == {"z"}


def test_clipping_tracked_gradients_is_followed() -> None:
    layer = linear()
    with an.record():
        z = an.track(torch.ones(3, 3), "z")
        layer.weight.grad, layer.bias.grad = z * 5, torch.ones(3)
        total = clip_grad_norm_(layer.parameters(), 1.0)
    assert an.provenance_of(total) == an.provenance_of(layer.weight.grad) == {"z"}
    assert an.provenance_of(layer.bias.grad) == {"z"}  # it is scaled by the norm of both


def test_a_swap_takes_the_provenance_along() -> None:
    with an.record():
        z, plain = an.track(torch.ones(3), "z"), torch.zeros(3)
        torch.utils.swap_tensors(z, plain)
        assert an.provenance_of(plain * 1) == {"z"}
        assert an.provenance_of(z * 1) == frozenset()


def test_a_module_that_keeps_a_tracked_tensor_is_listed_with_it() -> None:
    layer = nn.Module()
    layer.register_buffer("kept", an.track(torch.ones(2), "z"))
    assert [an.provenance_of(b) for b in layer.buffers()] == [{"z"}]
    state = layer.state_dict()
    assert type(state) is OrderedDict
    assert an.provenance_of(state["kept"]) == {"z"}
