"""What is not compiled: one warning with the line and the reason, and the eager gradient."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from steps import V, W, X, agree, agreeing
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Normal, Wishart, constraints

import ancestral as an

pytestmark = pytest.mark.usefixtures("fresh_compiler")

REFUSED: dict[str, tuple[Callable[[], Tensor], str]] = {}


def refused(reason: str) -> Callable[[Callable[[], Tensor]], Callable[[], Tensor]]:
    def register(function: Callable[[], Tensor]) -> Callable[[], Tensor]:
        REFUSED[function.__name__.strip("_")] = function, reason
        return function

    return register


@refused("read")
def _item() -> Any:
    z = Bernoulli(logits=W * X).sample()
    return (z * X).sum() * z[0, 0].item()


@refused("branching")
def _branch() -> Any:
    z = Bernoulli(logits=W * X).sample()
    return (z * X).sum() if z.sum() > 6 else (z * V).sum()


@refused("read|shape|nonzero|[Dd]ynamic")
def _masked_indexing() -> Any:
    z = Bernoulli(logits=W * X).sample()
    return (z * X)[z > 0].sum()


@refused("no density")
def _drawn_into_memory() -> Any:
    z, probs = torch.empty(4, 3, dtype=torch.float64), torch.sigmoid(W * X)
    with torch.no_grad():
        torch.bernoulli(probs, out=z)
    return (z * X).mean()


@refused("an.external is code that torch cannot see")
def _external() -> Any:
    step = an.external(lambda z: z.sum(1).numpy())
    return (step(Bernoulli(logits=W * X).sample()) * X[:, 0]).sum()


@refused("written into after it is read")
def _written_into_after_it_is_read() -> Any:
    z = Bernoulli(logits=W * X).sample()
    total = torch.zeros(4, dtype=torch.float64)
    first = total.add_((z * X).sum(-1))[0]
    total.mul_(2)
    return first + total.sum()


@refused("cannot follow it")
def _family_that_loops() -> Any:
    return (Wishart(5 + W[0], scale_tril=V.exp().diag()).sample() * X[:3]).mean()


class _WithoutDensity(Distribution):
    arg_constraints = {"probs": constraints.unit_interval}  # noqa: RUF012
    support = constraints.real

    def __init__(self, probs: Tensor) -> None:
        self.probs = probs
        super().__init__(probs.shape, validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.probs * torch.rand_like(self.probs)


@refused("without a log_prob")
def _no_density() -> Any:
    return (_WithoutDensity(W.sigmoid()).rsample() * V).mean()


@pytest.mark.parametrize("name", REFUSED)
def test_it_runs_eagerly_with_one_warning_that_names_line_and_reason(name: str) -> None:
    function, reason = REFUSED[name]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        step = agreeing(function, [W, V])
    (ours,) = (each for each in told if each.category is an.errors.NotCompiledWarning)
    assert re.search(reason, str(ours.message))
    code = function.__code__
    lines = {line for _, _, line in code.co_lines() if line}
    named = re.match(rf"{re.escape(code.co_filename)}:(\d+): ", str(ours.message))
    assert named is not None
    assert int(named[1]) in lines
    assert not step.plan.is_compiled
    assert str(step.plan).startswith("runs eagerly: ")


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.drop, self.is_squared, self.calls = nn.Dropout(0.3), False, 0

    def forward(self, x: Tensor) -> Any:
        z = Bernoulli(logits=self.drop(self.norm(self.layer(x)))).sample()
        cost = (z * x) ** 2 if self.is_squared else z * x
        return cost.mean() + (z @ self.layer.weight).mean()


def _net() -> tuple[_Net, list[nn.Parameter]]:
    torch.manual_seed(0)
    net = _Net()
    return net, list(net.parameters())


def test_a_step_counts_what_batch_norm_counts() -> None:
    net, parameters = _net()
    step: Any = an.compile(net, backend="eager")
    x = torch.randn(5, 3)
    for _ in range(3):
        step(x).backward()
    assert step.plan.is_compiled
    assert net.norm.num_batches_tracked == 3
    assert net.norm.running_mean is not None
    mean = net.norm.running_mean.clone()
    torch.manual_seed(1)
    step(x)
    assert not torch.equal(mean, net.norm.running_mean)
    assert parameters[0].grad is not None


CHANGES: dict[str, Callable[[_Net], object]] = {
    "parameter": lambda net: setattr(net.layer, "weight", nn.Parameter(torch.eye(3))),
    "layer": lambda net: setattr(net, "layer", nn.Linear(3, 3)),
    "flag": lambda net: setattr(net, "is_squared", True),
    "evaluation": lambda net: net.eval(),
    "dtype": lambda net: net.double(),
    "frozen": lambda net: net.norm.requires_grad_(False),
    "data": lambda net: net.layer.weight.data.mul_(2),
    "rate": lambda net: setattr(net.drop, "p", 0.8),
    "child": lambda net: setattr(net, "drop", nn.Identity()),
    "forward": lambda net: setattr(net.drop, "forward", lambda x: x * 2),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_between_steps_is_followed(name: str) -> None:
    net, _ = _net()
    x = torch.randn(5, 3)
    step: Any = an.compile(net, backend="eager")
    agree(step, net, list(net.parameters()), x, buffers=list(net.buffers()))
    CHANGES[name](net)
    x = x.to(net.layer.weight.dtype)
    agree(step, net, list(net.parameters()), x, buffers=list(net.buffers()))
    assert step.plan.is_compiled, step.plan


@pytest.mark.parametrize("name", ["log_prob", "sample"])
def test_a_patched_class_of_distributions_is_noticed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss() -> Any:
        q = Normal(W, V.exp())
        z = q.sample()
        return (z * X).mean() + q.log_prob(z).mean()

    step = agreeing(loss, [W, V], seeds=(0,))
    original = getattr(Normal, name)
    monkeypatch.setattr(Normal, name, lambda self, *args: 2 * original(self, *args))
    with pytest.warns(an.errors.NotCompiledWarning, match="replaced since"):
        agree(step, loss, [W, V])


def test_a_patched_class_of_modules_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    net, parameters = _net()
    net.eval()
    x = torch.randn(5, 3)
    step = agreeing(net, parameters, x, seeds=(0,))
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: x @ self.weight)
    with pytest.warns(an.errors.NotCompiledWarning, match="replaced since"):
        agree(step, net, parameters, x)


def test_other_sizes_are_compiled_by_themselves() -> None:
    net, parameters = _net()
    net.eval()
    step: Any = an.compile(net, backend="eager")
    for size in (4, 5, 4, 7):
        agree(step, net, parameters, torch.randn(size, 3))
    assert step.plan.is_compiled


def test_a_counter_that_has_it_compiled_again_and_again_ends_in_a_warning() -> None:
    class Counting(_Net):
        def forward(self, x: Tensor) -> Any:
            self.calls += 1
            return super().forward(x) * self.calls

    torch.manual_seed(0)
    net = Counting().eval()
    step: Any = an.compile(net, backend="eager")
    x = torch.randn(5, 3)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for at in range(12):
            value = step(x) * 0 + net.calls
            assert value == at + 1
    told = [each for each in told if each.category is an.errors.NotCompiledWarning]
    assert len(told) <= 1
    assert all("recompile_limit" in str(each.message) for each in told)


def test_the_checks_of_distributions_stay_as_the_user_has_set_them() -> None:
    before = Distribution._validate_args
    agreeing(lambda: (Bernoulli(logits=W).sample() * V).sum(), [W, V], seeds=(0,))
    assert Distribution._validate_args is before
    with pytest.raises(ValueError, match="probs"):
        Bernoulli(probs=torch.tensor(2.0))


def test_within_a_recording_a_step_is_its_loss_function() -> None:
    step: Any = an.compile(lambda x: (Bernoulli(logits=W).sample() * x).sum(), backend="eager")
    with an.record() as trace:
        loss = step(V) + step(V)
    an.backward(loss)
    assert len(trace) == 2


BAD: dict[str, tuple[Callable[[], Any], type[Exception]]] = {
    "no_scalar": (lambda: Bernoulli(logits=W).sample() * V, an.errors.LossError),
    "no_draw": (lambda: (W * V).sum(), an.errors.LossError),
    "no_tensor": (lambda: 3.0, Exception),
    "error": (lambda: (Bernoulli(logits=W).sample() @ X).sum(), RuntimeError),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_raises_what_it_raises_eagerly(name: str) -> None:
    function, kind = BAD[name]
    with pytest.raises(kind):
        an.compile(function, backend="eager")()


def test_what_is_no_function_or_backend_is_refused() -> None:
    with pytest.raises(TypeError, match="loss_fn must be a function"):
        an.compile(W)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="backend must be one of"):
        an.compile(lambda: W.sum(), backend="none")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="baseline"):
        an.compile(lambda: W.sum(), baseline=3.0)  # type: ignore[arg-type]


def test_a_loss_without_parameters_says_so() -> None:
    step: Any = an.compile(lambda x: (Bernoulli(0.5).sample() * x).sum(), backend="eager")
    with pytest.warns(an.errors.NotCompiledWarning, match="requires_grad=True"):
        step(torch.ones(2))


def test_what_recordings_replace_in_torch_has_nothing_compiled_anew() -> None:
    plans = list[Any]()
    step: Any = an.compile(lambda x: (Bernoulli(logits=W).sample() * x).sum(), backend="eager")
    for turn in range(4):
        step(V).backward()
        plans.append(step.plan)
        if turn % 2:
            an.restore_torch()
        with an.record():
            Bernoulli(logits=W).sample()
    assert all(plan.is_compiled for plan in plans)
    assert plans[1] is plans[2] is plans[3]
