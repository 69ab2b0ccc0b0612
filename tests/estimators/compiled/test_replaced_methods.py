"""Methods that somebody replaces between two steps, wherever the compiler has read them."""

import abc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from steps import V, W, X, agree, agreeing
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Normal,
    SigmoidTransform,
    TransformedDistribution,
    kl_divergence,
)
from torch.distributions.kl import _KL_REGISTRY
from torch.nn.modules.module import register_module_forward_hook

import ancestral as an

pytestmark = pytest.mark.usefixtures("fresh_compiler")


class _Own(Bernoulli):
    def density(self, value: Tensor) -> Any:
        return Bernoulli.log_prob(self, value)

    def log_prob(self, value: Tensor) -> Any:
        return self.density(value)


class _Reward:
    def of(self, value: Tensor) -> Tensor:
        return value.mean()


class _Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(3, dtype=torch.float64))

    def helper(self, x: Tensor) -> Tensor:
        return x @ self.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.helper(x)


class _Hooked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = _Layer()

    def forward(self) -> Any:
        z = Bernoulli(logits=W * X).sample()
        return (self.layer(z * V) * X).mean()


def _twice(gradients: Any) -> Any:
    return gradients[0] * 2


def _tripled(module: nn.Module, _: Any, found: Any) -> Any:
    return found * 3 if isinstance(module, _Layer) else None


REWARD, LAYER, CHOICE = _Reward(), _Layer(), {"is_own": True}


def _with_own_density() -> Any:
    q = _Own(logits=W * X) if CHOICE["is_own"] else Bernoulli(logits=W * X)
    z = q.sample()
    return (z * X).mean() + q.log_prob(z).mean()


def _with_reward() -> Any:
    return REWARD.of(Bernoulli(logits=W * X).sample() * V)


def _with_layer() -> Any:
    z = Bernoulli(logits=LAYER(W * X)).sample()
    return (z * X).mean() + (z @ V).mean()


def _with_a_property() -> Any:
    q = Normal(W * X, V.exp())
    return (q.sample() * q.stddev).mean() + q.variance.mean()


def _with_a_transform() -> Any:
    q = TransformedDistribution(Normal(W * X, 1.0), [SigmoidTransform()])
    z = q.sample()
    return (z * V).mean() + q.log_prob(z).mean()


def _with_a_divergence() -> Any:
    z = Bernoulli(logits=W * X).sample()
    return kl_divergence(Normal(W * z, V.exp()), Normal(0.0, 1.0)).mean()


REPLACED: dict[str, tuple[Callable[[], Any], type, str, Any]] = {
    "helper": (_with_own_density, _Own, "density", lambda self, value: 3 * self.logits * value),
    "plain_class": (_with_reward, _Reward, "of", lambda self, value: value.sum()),
    "layer": (_with_layer, _Layer, "forward", lambda self, x: 2 * x @ self.weight),
    "helper_of_a_layer": (_with_layer, _Layer, "helper", lambda self, x: 3 * x @ self.weight),
    "property": (_with_a_property, Normal, "variance", property(lambda self: self.scale * 5)),
    "transform": (
        _with_a_transform,
        SigmoidTransform,
        "log_abs_det_jacobian",
        lambda self, x, y: 0 * x,
    ),
}


@pytest.mark.parametrize("name", REPLACED)
def test_a_replaced_method_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    function, owner, attribute, other = REPLACED[name]
    step = agreeing(function, [W, V], seeds=(0,))
    assert step.plan.is_compiled, step.plan
    monkeypatch.setattr(owner, attribute, other)
    with pytest.warns(an.errors.NotCompiledWarning, match="replaced since"):
        agree(step, function, [W, V])


def test_a_method_of_an_earlier_plan_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    step = agreeing(_with_own_density, [W, V], seeds=(0,))
    monkeypatch.setitem(CHOICE, "is_own", False)
    agree(step, _with_own_density, [W, V])
    monkeypatch.setattr(_Own, "log_prob", lambda self, value: 2 * self.density(value))
    monkeypatch.setitem(CHOICE, "is_own", True)
    with pytest.warns(an.errors.NotCompiledWarning, match="replaced since"):
        agree(step, _with_own_density, [W, V])


def test_a_divergence_that_is_registered_anew_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    step = agreeing(_with_a_divergence, [W, V], seeds=(0,))
    monkeypatch.setitem(_KL_REGISTRY, (Normal, Normal), lambda p, q: p.loc * 3)
    torch.distributions.kl._KL_MEMOIZE.clear()
    with pytest.warns(an.errors.NotCompiledWarning, match="replaced since"):
        agree(step, _with_a_divergence, [W, V])
    torch.distributions.kl._KL_MEMOIZE.clear()


def test_a_tensor_of_a_class_is_guarded_as_any_other() -> None:
    class Scaled:
        scale = torch.ones(3)

        def of(self, value: Tensor) -> Tensor:
            return (self.scale * value).mean()

    reward = Scaled()

    def loss() -> Any:
        return reward.of(Bernoulli(logits=W * X).sample() * V)

    step = agreeing(loss, [W, V], seeds=(0,))
    Scaled.scale = torch.tensor([1.0, 2.0, 3.0])
    agree(step, loss, [W, V])
    assert step.plan.is_compiled, step.plan


def test_a_number_of_a_class_is_guarded_as_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scaled:
        scale = 1.0

        def of(self, value: Tensor) -> Tensor:
            return self.scale * value.mean()

    reward = Scaled()

    def loss() -> Any:
        return reward.of(Bernoulli(logits=W * X).sample() * V)

    step = agreeing(loss, [W, V], seeds=(0,))
    Scaled.scale = 2.0
    agree(step, loss, [W, V])
    assert step.plan.is_compiled, step.plan


HOOKS: dict[str, Callable[[_Hooked], Any]] = {
    "forward": lambda net: net.layer.register_forward_hook(lambda m, x, y: y * 3),
    "forward pre": lambda net: net.layer.register_forward_pre_hook(lambda m, x: (x[0] * 3,)),
    "forward of the whole": lambda net: net.register_forward_hook(lambda m, x, y: y * 3),
    "backward": lambda net: net.layer.register_full_backward_hook(lambda m, x, y: (_twice(x),)),
    "of all modules": lambda _: register_module_forward_hook(_tripled),
}


@pytest.mark.filterwarnings("ignore::ancestral.errors.NotCompiledWarning")
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_that_comes_or_goes_is_noticed(name: str, steps: int) -> None:
    net = _Hooked()
    step = agreeing(net, [W, V], seeds=range(steps))
    assert step.plan.is_compiled, step.plan
    with HOOKS[name](net):
        agree(step, net, [W, V])
    agree(step, net, [W, V])


def test_a_method_that_is_given_other_code_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    net = _Hooked()
    step = agreeing(net, [W, V])
    monkeypatch.setattr(_Layer.helper, "__code__", (lambda self, x: x * 2).__code__)
    with pytest.warns(an.errors.NotCompiledWarning, match="replaced since"):
        agree(step, net, [W, V])


class _Kind(abc.ABC):  # noqa: B024 (as those of collections are that containers are asked for)
    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return False

    def method(self) -> int:
        return 0


def test_a_class_that_is_only_asked_what_it_is_may_change(monkeypatch: pytest.MonkeyPatch) -> None:
    def loss() -> Any:
        cost = Bernoulli(logits=W * X).sample() * V
        return cost.sum() if isinstance(X, _Kind) else cost.mean()

    step = agreeing(loss, [W, V], seeds=(0,))
    monkeypatch.setattr(_Kind, "method", lambda self: 1)
    agree(step, loss, [W, V])
    assert step.plan.is_compiled, step.plan
