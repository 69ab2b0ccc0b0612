"""A loss that is summed in a loop: linear in time and in forms, and freed without a recursion."""

import gc
from collections.abc import Callable

import pytest
import torch
from loops import LOOPS, Add, looped
from torch import Tensor
from torch.nn import functional

import ancestral as an
from ancestral.estimators.gradient.decompose import Step, Walk
from ancestral.estimators.gradient.loss_terms import terms_of

every_loop = pytest.mark.parametrize("add", LOOPS.values(), ids=list(LOOPS))


@every_loop
@pytest.mark.usefixtures("uncollected")
def test_ten_times_the_steps_take_ten_times_as_long(add: Add) -> None:
    few, many = 300, 3_000
    looped(add, few)
    small = min((looped(add, few) for _ in range(3)), key=lambda cost: cost.taking_apart)
    large = looped(add, many)
    assert (small.terms, large.terms) == (few, many)
    # Were a step to look at all that came before, a hundred times as long.
    assert large.taking_apart < 40 * small.taking_apart
    assert large.adding < 40 * small.adding


@pytest.mark.parametrize("steps", [10, 200])
def test_a_loop_over_the_elements_of_a_tensor_is_walked_once(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Step] = []
    step = Walk.step

    def counted(self: Walk) -> Step:
        taken.append(step(self))
        return taken[-1]

    monkeypatch.setattr(Walk, "step", counted)
    cost = an.track(torch.rand(steps, dtype=torch.float64), "x").exp()
    for parts in (cost.unbind(), [cost[t] for t in range(steps)], cost.split(1)):
        taken.clear()
        loss = torch.zeros((), dtype=torch.float64)
        for part in parts:
            loss = loss + 2 * part.sum()
        (term,) = terms_of(loss).terms
        assert term.leaf is cost
        assert torch.equal(torch.as_tensor(term.weight), torch.full((steps,), 2.0).double())
        # A sum, a product and an addition for each, and what picks the part.
        assert len(taken) == 4 * steps


CHAINS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sums": lambda y, x: y + x,
    "negations": lambda y, x: -y,
    "flips": lambda y, x: y.flip(0),
    "joins of parts": lambda y, x: torch.cat([y[1:], x[:1]]),
    "losses of losses": lambda y, x: y / 2 + functional.mse_loss(y, x),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_a_chain_of_fifty_thousand_forms_is_freed(chain: str) -> None:
    x = an.track(torch.rand(2), "x")
    y = x
    for _ in range(50_000):
        y = CHAINS[chain](y, x)
    assert y._form is not None  # type: ignore[attr-defined]
    del y
    gc.collect()
    assert an.provenance_of(x) == {"x"}


def test_a_chain_of_fifty_thousand_sums_is_taken_apart() -> None:
    x = an.track(torch.rand(2, dtype=torch.float64), "x")
    y = x
    for _ in range(50_000):
        y = (y + x) / 2
    (term,) = terms_of(y.sum()).terms
    torch.testing.assert_close(term.weight, 1.0)
