"""Values that decide: a plan made with some indices or masks is none for others."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from steps import V, W, X, agree
from torch import Tensor
from torch.distributions import Bernoulli
from torch.utils.checkpoint import checkpoint

import ancestral as an

pytestmark = pytest.mark.usefixtures("fresh_compiler")

KEPT = torch.tensor([0, 1, 2])
FIRST, SECOND = torch.tensor([0, 3, 5]), torch.tensor([1, 2, 3])
_Loss = Callable[..., Any]


def _drawn() -> Any:
    return Bernoulli(logits=W * X).sample()


def _written_at(index: Tensor) -> Any:
    z, buffer = _drawn().reshape(-1), torch.zeros(12, dtype=torch.float64)
    buffer[index] = z[:3] * V
    return (buffer * torch.arange(12)).sum() + z.sum()


def _taken_at(index: Tensor) -> Any:
    z = _drawn().reshape(-1)
    return z[index].sum() * V.sum() + z[3:].sin().sum()


def _taken_at_a_view(index: Tensor) -> Any:
    z, places = _drawn().reshape(-1), torch.zeros(3, dtype=torch.long)
    places[:].copy_(index)
    return z[places].sum() * V.sum() + z[3:].sin().sum()


def _taken_at_what_is_kept(index: Tensor) -> Any:
    z = _drawn().reshape(-1)
    KEPT.copy_(index)
    return z[KEPT].sum() * V.sum() + z[3:].sin().sum()


def _taken_in_a_checkpoint(index: Tensor) -> Any:
    z = _drawn().reshape(-1)
    taken: Tensor = checkpoint(lambda z, i: z[i].sum() * V.sum(), z, index, use_reentrant=False)
    return taken + z[3:].sin().sum()


def _added_at(index: Tensor) -> Any:
    total = torch.zeros(6, 3, dtype=torch.float64).index_add(0, index, _drawn()[:3])
    return (total.square() * V).sum()


def _masked(index: Tensor) -> Any:
    mask = torch.zeros(4, 3, dtype=torch.bool).reshape(-1).index_fill(0, index[1:], True)
    return ((_drawn() * V)[mask.reshape(4, 3)] ** 2).sum()


def _places_that_are_not_zero(index: Tensor) -> Any:
    return ((_drawn() * V)[(index - 3).nonzero()[:, 0]] ** 2).sum()


DECIDED = (
    *(_written_at, _taken_at, _taken_at_a_view, _taken_at_what_is_kept, _taken_in_a_checkpoint),
    *(_added_at, _masked, _places_that_are_not_zero),
)


@pytest.mark.parametrize("function", DECIDED, ids=lambda f: f.__name__.strip("_"))
def test_other_values_of_an_index_are_another_loss(function: _Loss) -> None:
    step: Any = an.compile(function, backend="eager")
    for seed in (0, 1):
        agree(step, function, [W, V], FIRST, seed=seed)
    assert step.plan.is_compiled, step.plan
    with pytest.warns(an.errors.NotCompiledWarning, match="other values"):
        agree(step, function, [W, V], SECOND)
    agree(step, function, [W, V], FIRST, seed=2)


@pytest.mark.parametrize("function", DECIDED, ids=lambda f: f.__name__.strip("_"))
@pytest.mark.filterwarnings("ignore::ancestral.errors.NotCompiledWarning")
def test_at_any_size_other_values_have_their_own_gradient(function: _Loss) -> None:
    step: Any = an.compile(function, dynamic=True, backend="eager")
    for seed, index in enumerate((FIRST, SECOND, FIRST)):
        agree(step, function, [W, V], index, seed=seed)


def test_many_values_tell_nothing_and_one_plan_serves_all_of_them() -> None:
    torch.manual_seed(0)
    step: Any = an.compile(_taken_at, backend="eager")
    for seed in (0, 1, 2):
        agree(step, _taken_at, [W, V], torch.randperm(12), seed=seed)
    assert step.plan.is_compiled, step.plan


def test_places_that_are_drawn_are_refused() -> None:
    def loss() -> Any:
        z = _drawn().reshape(-1)
        return z[torch.randperm(12)[:2]].sum() * V.sum() + z[3:].sin().sum()

    step: Any = an.compile(loss, backend="eager")
    with pytest.warns(an.errors.NotCompiledWarning, match="drawn anew"):
        agree(step, loss, [W, V])


def test_places_that_the_program_spells_out_are_compiled() -> None:
    def loss() -> Any:
        z, buffer = _drawn().reshape(-1), torch.zeros(12, dtype=torch.float64)
        buffer[torch.tensor([0, 3, 5])] = z[:3] * V
        mask = torch.tensor([True, False, True, True])
        return buffer.sum() + z[torch.arange(3) * 2].sum() + (z.reshape(4, 3)[mask] ** 2).mean()

    step: Any = an.compile(loss, backend="eager")
    for seed in (0, 1):
        agree(step, loss, [W, V], seed=seed)
    assert step.plan.is_compiled, step.plan


def test_masks_that_keep_the_shape_may_have_any_values() -> None:
    def loss(mask: Tensor) -> Any:
        z = _drawn()
        cost = (z * X).sum(-1) + torch.where(mask, torch.inf, 0.0)
        return torch.where(mask, 0.0, cost).sum() + (z.masked_fill(mask[:, None], 0) @ V).sum()

    step: Any = an.compile(loss, backend="eager")
    for seed, limit in enumerate((2.0, 0.0, 0.5)):
        agree(step, loss, [W, V], X[:, 0] > limit, seed=seed)
    assert step.plan.is_compiled, step.plan
