"""The self-check: a plan that is wrong, in one way each, is not used; the gradient is right."""

from typing import Any

import pytest
import torch
from steps import V, W, X, agree
from torch import Tensor, nn
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.estimators.capture.refusal import Refusal
from ancestral.estimators.compiled import asking, emission
from ancestral.estimators.compiled.self_check import Outcome, compare

pytestmark = pytest.mark.usefixtures("fresh_compiler")


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 3).double(), nn.BatchNorm1d(3).double()

    def forward(self, x: Tensor) -> Any:
        z = Bernoulli(logits=self.norm(self.layer(x))).sample()
        return (z * x).mean() + (z @ self.layer.weight).mean()


def _factor(*given: Any) -> Tensor:
    return 1.01 * FACTOR(*given)


def _of_other_elements(*given: Any) -> Tensor:
    return FACTOR(*given).flip(0)


def _growing_with_size(*given: Any) -> Tensor:
    found = FACTOR(*given)
    return found * (found.shape[0] / 4)


def _without_scores(self: Any, score: Any) -> None:
    RETURN(self, None)


FACTOR, RETURN = asking.factor_of, emission._Emission._return
FAULTS: dict[str, tuple[Any, str, Any, str]] = {
    "a credit that is too large": (emission, "factor_of", _factor, "gradients differ"),
    "the credit of others": (emission, "factor_of", _of_other_elements, "gradients differ"),
    "no scores": (emission._Emission, "_return", _without_scores, "gradients differ"),
    "a write that is left out": (
        *(emission, "is_impure", lambda node: node.is_impure()),
        "written into buffers differs",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_plan_that_is_wrong_is_not_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, wrong, reason = FAULTS[name]
    monkeypatch.setattr(owner, attribute, wrong)
    torch.manual_seed(0)
    net, x = _Net(), torch.randn(4, 3).double()
    step: Any = an.compile(net, backend="eager")
    with pytest.warns(an.errors.NotCompiledWarning, match=f"self-check failed: .*{reason}"):
        agree(step, net, list(net.parameters()), x, buffers=list(net.buffers()))
    assert not step.plan.is_compiled


def test_a_plan_of_any_size_is_compared_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emission, "factor_of", _growing_with_size)
    net = _Net().eval()
    step: Any = an.compile(net, dynamic=True, backend="eager")
    parameters = list(net.parameters())
    agree(step, net, parameters, torch.randn(4, 3).double())
    assert step.plan.is_compiled, step.plan
    with pytest.warns(an.errors.NotCompiledWarning, match="self-check failed: gradients differ"):
        agree(step, net, parameters, torch.randn(6, 3).double())


def test_a_wrong_score_of_a_baseline_that_is_asked_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "factor_of", _factor)
    net = _Net().eval()
    x = torch.randn(4, 3).double()
    step: Any = an.compile(net, baseline=lambda credit: 0.3, backend="eager")
    with pytest.warns(an.errors.NotCompiledWarning, match="self-check failed: gradients differ"):
        agree(step, net, list(net.parameters()), x, baseline=lambda credit: 0.3)


def _counted_alone_and_in_another(weight: Tensor) -> Any:
    q = Bernoulli(logits=W * X)
    z = q.sample()
    gain = (z * X * V).sum(-1) - q.log_prob(z).sum(-1)
    return weight * (gain.mean() - gain.logsumexp(0))


def test_a_cost_that_is_part_of_another_counts_in_both() -> None:
    step: Any = an.compile(_counted_alone_and_in_another, backend="eager")
    for seed, weight in enumerate((0.0, 1.0, 1.0)):  # the first step shows nothing
        agree(step, _counted_alone_and_in_another, [W, V], torch.tensor(weight), seed=seed)
    assert step.plan.is_compiled, step.plan


ONE = Outcome(torch.tensor(2.0), (torch.ones(3), torch.full((2,), 1e-9)), (torch.ones(2),))


def _with(**changes: Any) -> Outcome:
    return Outcome(**{**vars(ONE), **changes})


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (_with(value=torch.tensor(2.01)), "the value of the loss differs"),
        (_with(value=torch.tensor(float("nan"))), "the value of the loss differs"),
        (_with(value=torch.tensor(2.0).double()), "in shape or type"),
        (_with(gradients=(torch.ones(3) * 1.01, ONE.gradients[1])), "gradients differ"),
        (_with(gradients=(torch.ones(1), ONE.gradients[1])), "in shape or type"),
        (_with(gradients=(torch.ones(3) * torch.nan, ONE.gradients[1])), "gradients differ"),
        (_with(written=(torch.zeros(2),)), "written into buffers differs"),
        (_with(written=(torch.ones(2, dtype=torch.long),)), "in shape or type"),
    ],
)
def test_outcomes_that_differ_are_refused(other: Outcome, reason: str) -> None:
    with pytest.raises(Refusal, match=reason):
        compare(other, ONE, 0.0)
    with pytest.raises(Refusal):
        compare(ONE, other, 0.0)


def test_of_what_is_small_beside_the_rest_rounding_is_that_of_the_rest() -> None:
    near = _with(gradients=(torch.ones(3), torch.full((2,), 2e-9)))
    assert compare(near, ONE, 0.0) < 1e-6
