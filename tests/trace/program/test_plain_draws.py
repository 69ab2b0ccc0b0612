"""Handlers around plain torch: draws that no program names take part in what handlers do."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Independent, Normal

import ancestral as an
from ancestral.trace.handlers import block, condition, do, mask, replay, scale, substitute

P = torch.full((3,), 0.4, requires_grad=True)


class Net(nn.Module):
    """Two layers of plain torch, drawn in three ways."""

    def __init__(self) -> None:
        """Make the weights."""
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, -0.2, 0.5]))

    def forward(self) -> Tensor:
        """Draw a coin for each weight, noise around them, and a class."""
        z = torch.bernoulli(self.weight.sigmoid())
        y = Normal(z * self.weight, 1.0).rsample()
        k = Categorical(logits=torch.stack([y.sum(), self.weight.sum()])).sample((2,))
        return y.sum() + k.sum()  # type: ignore[no-any-return]


def values(trace: an.Trace) -> dict[str, list[float]]:
    return {name: node.value.tolist() for name, node in trace.items()}


def test_replay_of_plain_torch_reproduces_it() -> None:
    net = Net()
    with an.record() as first:
        a = net()
    with an.record() as second, replay(first):
        b = net()
    assert list(first) == ["z", "y", "k"]
    assert values(first) == values(second)
    assert torch.equal(an.untrack(a), an.untrack(b))
    for name in first:
        torch.testing.assert_close(first[name].log_prob, second[name].log_prob)
        assert first[name].parents == second[name].parents
        assert not second[name].is_drawn


def test_the_gradient_of_both_runs_counts_each_draw_once() -> None:
    """A guide of plain torch, replayed in a model of plain torch: the scores are the guide's."""
    logits = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    gradients = []
    for p in (0.0, 1.0):
        chosen = {"z": torch.tensor(p, dtype=torch.float64)}
        with an.record(), substitute(chosen), an.record() as guide:
            z = Bernoulli(logits=logits).sample()
            assert z == p
        assert not guide["z"].is_drawn  # a given value has no score
    for _ in range(2):
        torch.manual_seed(1)
        with an.record():
            with an.record() as guide:
                z = Bernoulli(logits=logits).sample()
            with an.record() as model, replay(guide):
                z = Bernoulli(torch.tensor(0.5, dtype=torch.float64)).sample()
                loss = (z - 0.45) ** 2
        assert list(model) == list(guide) == ["z"]
        an.backward(loss)
        assert logits.grad is not None
        gradients.append(logits.grad.clone())
        logits.grad = None
    z = guide["z"].value
    expected = (z - logits.sigmoid()) * (z - 0.45) ** 2
    torch.testing.assert_close(gradients[0], expected.detach())
    assert gradients[0] == gradients[1]


@pytest.mark.parametrize(
    "draw",
    [
        lambda: Bernoulli(P).sample(),
        lambda: torch.bernoulli(P),
        lambda: P.bernoulli(),
        lambda: torch.zeros(3).bernoulli_(P),
        lambda: torch.bernoulli(an.track(P.detach(), "p"), out=torch.zeros(3)),
        lambda: Independent(Bernoulli(P), 1).sample(),
        lambda: Bernoulli(P[0]).sample((3,)),
    ],
)
def test_condition_observes_a_draw_of_plain_torch(draw: Callable[[], Tensor]) -> None:
    data = torch.tensor([1.0, 0.0, 1.0])
    with an.record() as trace, condition({"bernoulli": data}):
        z = draw()
        loss = (z * 2).sum()
    assert trace["bernoulli"].is_observed
    assert torch.equal(an.untrack(z), data)
    assert an.provenance_of(loss) == {"bernoulli"}
    expected = torch.where(data > 0, P.log(), (1 - P).log()).sum()
    torch.testing.assert_close(trace.log_prob_sum(), expected)


def test_memory_that_a_draw_was_written_into_holds_the_data() -> None:
    held = torch.zeros(3)
    with an.record(), condition({"z": torch.ones(3)}):
        z = held.bernoulli_(P)
        assert held.tolist() == [1, 1, 1]
        assert an.provenance_of(held + 1) == an.provenance_of(z + 1) == {"z"}


def test_do_cuts_a_draw_of_plain_torch_off() -> None:
    net = Net()
    with an.record() as trace, do({"y": torch.zeros(3)}):
        net()
    assert trace["y"].type == "deterministic"
    assert not trace["y"].parents
    assert trace["k"].parents == {"y"}


def test_block_mask_and_scale_reach_draws_of_plain_torch() -> None:
    net = Net()
    with an.record() as trace, scale(2.0), mask(torch.tensor([True, False, True])), block("k"):
        net()
    assert list(trace) == ["z", "y"]
    for node in trace.values():
        expected = node.unscaled_log_prob * torch.tensor([2.0, 0.0, 2.0])
        torch.testing.assert_close(node.log_prob, expected)


def test_noise_is_no_site_whatever_handlers_are_open() -> None:
    no_effect = pytest.warns(an.errors.NoEffectWarning, match="scale at .* no site")
    with no_effect, an.record() as trace, scale(2.0):
        torch.empty(3).bernoulli_(0.5)
        nn.functional.dropout(torch.ones(4))
    assert not trace
