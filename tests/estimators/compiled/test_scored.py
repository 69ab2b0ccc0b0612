"""A loss has the derivative of its scores, and its value is computed without them."""

from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.distributions import Bernoulli

from ancestral.estimators.compiled import backends
from ancestral.estimators.compiled.compile import compile as compiled
from ancestral.estimators.compiled.scored import SCORED, scored


def test_the_derivative_is_that_of_both() -> None:
    x = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    total = scored(x.square(), x.exp())
    torch.testing.assert_close(total, x.square(), rtol=0, atol=0)
    (first,) = torch.autograd.grad(total, x, create_graph=True)
    (second,) = torch.autograd.grad(first, x)
    torch.testing.assert_close((first, second), (2 * x + x.exp(), 2 + x.exp()))


def test_a_loss_and_its_score_may_be_of_other_types() -> None:
    x = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    loss = torch.tensor(1.0)
    total = SCORED(loss, 3 * x)
    total.backward()
    assert total.dtype == torch.float32
    assert x.grad is not None
    assert x.grad.item() == 3


def test_it_maps() -> None:
    def total(x: Tensor) -> Tensor:
        return scored(2 * x, 3 * x)

    found = torch.func.vmap(torch.func.grad(total))(torch.arange(4.0))
    assert found.tolist() == [5.0] * 4


def test_what_is_returned_may_be_written_into() -> None:
    x = torch.tensor(0.4, requires_grad=True)
    loss = 2 * x
    scored(loss, x).mul_(5).backward()
    torch.testing.assert_close(loss, 2 * x, rtol=0, atol=0)
    assert x.grad is not None
    assert x.grad.item() == 15


def test_a_forward_pass_computes_no_density_of_a_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.zeros(3, requires_grad=True)
    graphs: list[str] = []
    original = backends._unchanged

    def noted(module: fx.GraphModule, given: Any) -> Any:
        graphs.append(module.code)
        return original(module, given)

    def loss_fn() -> Tensor:
        z: Tensor = Bernoulli(logits=logits).sample()
        return z.square().sum()

    monkeypatch.setattr(backends, "_unchanged", noted)
    compiled(loss_fn, backend="aot_eager")().backward()
    assert "bernoulli" in graphs[0]
    assert "binary_cross_entropy" not in graphs[0]
