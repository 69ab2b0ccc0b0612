"""Baselines of compiled steps: what is learned, and functions of the user, asked at each step."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from steps import V, X, agree
from steps import W as W64
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Distribution,
    Independent,
    LogNormal,
    MultivariateNormal,
    NegativeBinomial,
    OneHotCategorical,
)

import ancestral as an
from ancestral.estimators.credit.credit import Credit
from ancestral.tools.demo.belief_net import BeliefNet

pytestmark = pytest.mark.usefixtures("fresh_compiler")


def _belief_net() -> tuple[BeliefNet, list[nn.Parameter]]:
    torch.manual_seed(0)
    net = BeliefNet(8, 4, 3)
    return net, list(net.parameters())


def _images(count: int) -> Tensor:
    return torch.bernoulli(torch.full((count, 8), 0.4))


def _of_h1(baseline: Any) -> Any:
    return baseline["h1"] if isinstance(baseline, dict) else baseline


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("is_one", [True, False])
def test_a_baseline_learns_as_in_recordings(backend: Any, is_one: bool) -> None:
    net, parameters = _belief_net()
    mean = an.estimators.RunningMean(0.5)
    ours: Any = mean if is_one else {"h1": mean, "*": "auto"}
    theirs = copy.deepcopy(ours)
    step: Any = an.compile(net, baseline=ours, backend=backend)
    x = _images(6)
    for seed in range(5):
        agree(step, net, parameters, x, seed=seed, baseline=theirs)
        found, expected = _of_h1(ours).state_dict(), _of_h1(theirs).state_dict()
        torch.testing.assert_close(found, expected)
        if seed == 3:  # what is loaded counts from the next step on
            for each in (ours, theirs):
                state = {n: {k: 2 * v for k, v in m.items()} for n, m in found.items()}
                _of_h1(each).load_state_dict(state)
    assert step.plan.is_compiled, step.plan


class _Averaging:
    def __init__(self) -> None:
        self.means: dict[str, float] = {}

    def __call__(self, credit: Credit) -> float:
        before = self.means.get(credit.name, 0.0)
        self.means[credit.name] = 0.5 * before + 0.5 * float(an.untrack(credit.joint))
        return before


class _Decaying(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.tensor(3.0))

    def forward(self, credit: Credit) -> Tensor:
        value: Any = self.value
        found: Tensor = value.clone()
        value.mul_(0.9)
        return found


def _remembering() -> Callable[[Credit], float]:
    """Return a function whose state nobody can copy."""
    means = dict[str, float]()

    def baseline(credit: Credit) -> float:
        before = means.get(credit.name, 0.0)
        means[credit.name] = float(an.untrack(credit.joint))
        return before

    return baseline


ASKED: dict[str, Callable[[], Any]] = {
    "constant": lambda: lambda credit: 0.5,
    "by element": lambda: lambda credit: torch.linspace(0, 1, credit.shape[-1]),
    "others": lambda: lambda credit: 0.7 * credit.of_others(0),
    "object": _Averaging,
    "module": _Decaying,
    "closure": _remembering,
    "by pattern": lambda: {"h1": lambda credit: 0.3, "*": "auto"},
}


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_function_of_the_user_is_asked_as_in_recordings(name: str, backend: Any) -> None:
    net, parameters = _belief_net()
    theirs, x = ASKED[name](), _images(5)
    step: Any = an.compile(net, baseline=ASKED[name](), backend=backend)
    for seed in range(4):
        agree(step, net, parameters, x, seed=seed, baseline=theirs)
    assert step.plan.is_compiled, step.plan


def test_a_plan_asks_nothing_and_each_step_asks_once_for_each_site() -> None:
    net, asked = _belief_net()[0], list[str]()

    def baseline(credit: Credit) -> float:
        asked.append(credit.name)
        return 0.5

    step: Any = an.compile(net, baseline=baseline, backend="eager")
    for count in (4, 5, 4):
        step(_images(count)).backward()
    assert sorted(asked) == ["h1"] * 3 + ["h2"] * 3


W = torch.tensor([0.3, -0.2, 0.5], requires_grad=True)


def _loss() -> Any:
    return (Bernoulli(logits=W).sample() * torch.tensor([1.0, 2.0, 3.0])).sum()


def test_a_baseline_that_comes_to_depend_on_its_draw_is_refused() -> None:
    steps = list[int]()

    def baseline(credit: Credit) -> Any:
        steps.append(0)
        return 0.5 if len(steps) < 3 else credit.total

    step: Any = an.compile(_loss, baseline=baseline, backend="eager")
    for _ in range(2):
        torch.autograd.grad(step(), W)
    assert step.plan.is_compiled, step.plan
    with pytest.raises(an.errors.DependentBaselineError, match="depends on the very draw"):
        step()


@pytest.mark.parametrize("is_read", [False, True])
def test_a_baseline_that_may_read_the_draw_from_memory_is_refused(is_read: bool) -> None:
    kept = torch.zeros(3)

    def loss() -> Any:
        z = Bernoulli(logits=W).sample()
        kept.copy_(z)
        return (z * torch.tensor([1.0, 2.0, 3.0])).sum()

    def baseline(credit: Credit) -> Any:
        return kept.sum() if is_read else 0.5

    step: Any = an.compile(loss, baseline=baseline, backend="eager")
    if is_read:
        with pytest.raises(an.errors.DependentBaselineError):
            step()
    else:
        with pytest.warns(an.errors.NotCompiledWarning, match="what it writes a draw into"):
            torch.autograd.grad(step(), W)


def test_a_baseline_that_reads_the_node_of_its_site_runs_in_recordings() -> None:
    def baseline(credit: Credit) -> float:
        assert credit.site is not None
        return float(len(credit.site.name))

    step: Any = an.compile(_loss, baseline=baseline, backend="eager")
    with pytest.warns(an.errors.NotCompiledWarning, match="reads 'name' of the site"):
        torch.autograd.grad(step(), W)
    agree(step, _loss, [W], baseline=baseline)


def _shared() -> Any:
    torch.manual_seed(3)
    net = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.Linear(8, 1))
    return {"h1": an.estimators.Neural(net=net), "*": None}


LOOKING: dict[str, Callable[[], Any]] = {
    "optimal": an.estimators.Optimal,
    "neural": an.estimators.Neural,
    "one network": _shared,
    "given inputs": lambda: an.estimators.Neural(_images(6)),
    "asked for inputs": lambda: an.estimators.Neural(lambda credit: torch.ones(6, 2)),
    "learned beside optimal": lambda: {
        "h1": an.estimators.Optimal(),
        "*": an.estimators.RunningMean(),
    },
    "learned beside asked": lambda: {"h1": an.estimators.RunningMean(), "*": lambda credit: 0.5},
    "across ranks": lambda: an.estimators.AcrossRanks(an.estimators.Optimal()),
}


@pytest.mark.parametrize("name", LOOKING)
def test_a_baseline_that_looks_at_the_draws_learns_as_in_recordings(name: str) -> None:
    net, parameters = _belief_net()
    ours, x = LOOKING[name](), _images(6)
    theirs = copy.deepcopy(ours)
    step: Any = an.compile(net, baseline=ours, backend="eager")
    for seed in range(4):
        agree(step, net, parameters, x, seed=seed, baseline=theirs)
        found, expected = _of_h1(ours), _of_h1(theirs)
        torch.testing.assert_close(found.state_dict(), expected.state_dict())
    assert step.plan.is_compiled, step.plan


DRAWN_FROM: dict[str, Callable[[], Distribution]] = {
    "classes": lambda: Categorical(logits=W64 * X),
    "ones": lambda: OneHotCategorical(logits=W64 * X),
    "coins of a row": lambda: Independent(Bernoulli(logits=W64 * X), 1),
    "matrix": lambda: MultivariateNormal(W64 * X, scale_tril=V.exp().diag()),
    "transformed": lambda: LogNormal(W64 * X, V.exp()),
    "lazy": lambda: NegativeBinomial(V.exp(), logits=W64 * X),
}


@pytest.mark.parametrize("name", DRAWN_FROM)
def test_a_baseline_is_given_what_a_site_is_drawn_from(name: str) -> None:
    def loss() -> Any:
        z = DRAWN_FROM[name]().sample()
        return (z * V.sum()).sin().mean()

    before = V.detach().clone()
    for ours in (an.estimators.Optimal(), an.estimators.Neural()):
        theirs = copy.deepcopy(ours)
        step: Any = an.compile(loss, baseline=ours, backend="eager")
        for seed in range(3):
            agree(step, loss, [W64, V], seed=seed, baseline=theirs)
            with torch.no_grad():
                V.mul_(-0.9)  # what it is given is that of the step
        with torch.no_grad():
            V.copy_(before)
        assert step.plan.is_compiled, step.plan


class _Own(Bernoulli):
    """A class of which nobody knows what its density reads."""


def test_a_baseline_that_cannot_be_told_what_a_site_is_drawn_from_has_a_recording() -> None:
    def loss() -> Any:
        return (_Own(logits=W).sample() * torch.tensor([1.0, 2.0, 3.0])).sum()  # type: ignore[no-untyped-call]

    step: Any = an.compile(loss, baseline=an.estimators.Optimal(), backend="eager")
    with pytest.warns(an.errors.NotCompiledWarning, match="reads '_Own' of what it is drawn from"):
        agree(step, loss, [W], baseline=an.estimators.Optimal())


def test_a_baseline_in_the_infer_of_a_site_has_a_recording() -> None:
    def loss() -> Any:
        fn = Bernoulli(logits=W)
        return an.sample("z", fn, infer={"baseline": lambda credit: 0.5}).sum()

    step: Any = an.compile(loss, backend="eager")
    with pytest.warns(an.errors.NotCompiledWarning, match="stands in the infer of site 'z'"):
        agree(step, loss, [W])
