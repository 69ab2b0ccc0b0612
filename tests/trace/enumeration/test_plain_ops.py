"""Draws of plain torch that are summed out: equal to brute force, or refused with op and line.

All sizes are three, so that a dimension that is taken for another fits.
"""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return, no-untyped-call"

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal

import ancestral as an
from oracles import derivatives, enumerated, expectation, moments, paths

EXACT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}
X = torch.tensor([[0.3, -1.0, 0.8], [1.1, 0.4, -0.6], [-0.9, 0.2, 0.5]], dtype=torch.float64)
Body = Callable[[Tensor, Tensor, Tensor], Tensor]


def leaves() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(3, 3, dtype=torch.float64, generator=generator).requires_grad_()
        for _ in range(2)
    ]


class Model(nn.Module):
    """Draws one of three for each row, and computes a cost of it."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body

    def forward(self, logits: Tensor, table: Tensor) -> Tensor:
        k = Categorical(logits=X @ logits).sample()
        return self.body(k, table, X)


def summed(body: Body, values: Sequence[Tensor], sites: Sequence[str] = ("k",)) -> Tensor:
    with an.record(), an.handlers.enumerate(sites=sites):
        cost = Model(body)(*values)
        return an.untrack(an.infer.expectation(cost).sum())


def pair(k: Tensor, table: Tensor, x: Tensor) -> Tensor:
    j = Categorical(logits=table[k]).sample()
    return (table[j] * x).sum(-1) * (k - 0.5 * j)


RIGHT: dict[str, Body] = {
    "numbers": lambda k, t, x: (k.double() - 0.4) ** 2 * x[..., 0],
    "rows": lambda k, t, x: (torch.tanh(t[k]) - x).pow(2).sum(-1),
    "embedding": lambda k, t, x: F.linear(F.embedding(k, t), t).mean(dim=-1) + x.sum(1),
    "softmax": lambda k, t, x: (F.softmax(t[k], -1) * x).logsumexp(-1),
    "classes": lambda k, t, x: ((F.one_hot(k, 3).double() @ t) * x).sum(dim=-1),
    "condition": lambda k, t, x: torch.where(k > 0, t[0], k * x[..., 1]),
    "density": lambda k, t, x: Independent(Normal(t[k], 1.3), 1).log_prob(x),
    "part": lambda k, t, x: t[k][..., 1] * x[..., 2] + k,
    "norm": lambda k, t, x: (F.layer_norm(t[k], (3,)) * x).sum(-1),
    "pair": pair,
}

REFUSED: dict[str, tuple[Body, str]] = {
    "reshape": (lambda k, t, x: t[k].reshape(3, 3).sum(-1), "reshape"),
    "flatten": (lambda k, t, x: t[k].flatten(), "flatten"),
    "view": (lambda k, t, x: t[k].view(-1, 3).sum(-1), "view"),
    "all": (lambda k, t, x: (t[k] * x).mean(), "mean is along"),
    "loss": (lambda k, t, x: F.mse_loss(t[k], x), "mse_loss|mixed by"),
    "first": (lambda k, t, x: (t[k] * x).sum(0), "sum is along"),
    "second": (lambda k, t, x: F.softmax(t[k], dim=1).sum(-1), "softmax is along"),
    "batch norm": (lambda k, t, x: F.batch_norm(t[k], None, None, training=True).sum(-1), "norm"),
    "matmul": (lambda k, t, x: x.mT @ t[k], "matmul"),
    "cumsum": (lambda k, t, x: (t[k] * x).cumsum(0).sum(-1), "cumsum"),
    "element": (lambda k, t, x: t[k][0] * x, "__getitem__ counts"),
    "column": (lambda k, t, x: t[k][:, 0], "__getitem__ counts"),
    "transposed": (lambda k, t, x: (t[k].transpose(0, 1) * x).sum(-1), "transpose"),
    "joined": (lambda k, t, x: torch.cat([t[k], x], 1).sum(-1), "cat"),
    "length": (lambda k, t, x: (t[k] * x).sum(-1) / len(k), "__len__ tells"),
    "size": (lambda k, t, x: (t[k] * x).sum(-1) / k.shape[0], "shape tells"),
    "batch shape": (lambda k, t, x: x * Normal(t[k], 1.0).batch_shape[0], "batch_shape of Normal"),
    "of parameters": (lambda k, t, x: x * Bernoulli(k / 2).param_shape[0], "param_shape of Bern"),
    "of an event": (
        lambda k, t, x: x * len(Independent(Normal(t[k], 1), 1).batch_shape),
        "batch_shape of Independent",
    ),
    "write": (lambda k, t, x: t[k].mul_(x).sum(-1), "mul_ writes"),
    "stack": (lambda k, t, x: (t[k] * x.expand(3, 1, 1, 1, 3, 3)).sum(-1), "meets a tensor"),
    "over": (lambda k, t, x: (t[k] * x).sum(-1).sum(-1) * x.sum(), "moved|keep apart"),
    "others": (lambda k, t, x: (k.double() * x[..., 0]).softmax(-1), "mixed by softmax"),
    "drawn": (
        lambda k, t, x: Bernoulli(logits=k.double()).sample() * x[..., 0],
        "drawn once for each of its values",
    ),
    "sample": (lambda k, t, x: Normal(t[k], 1.0).sample().sum(-1), "Independent"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_draw_is_summed_out_of_value_and_gradient(name: str) -> None:
    values = leaves()
    runs, gradient = enumerated(lambda *v: Model(RIGHT[name])(*v).sum(), values)
    found = summed(RIGHT[name], values, ("k", "j") if name == "pair" else ("k",))
    torch.testing.assert_close(found, expectation(runs), **EXACT)
    torch.testing.assert_close(derivatives(found, values), gradient, **EXACT)


@pytest.mark.parametrize("name", REFUSED)
def test_an_op_that_would_mix_the_values_is_refused_with_its_line(name: str) -> None:
    body, match = REFUSED[name]
    with pytest.raises(an.errors.EnumerationError, match=match) as error:
        summed(body, leaves())
    assert "test_plain_ops.py:" in str(error.value)


def test_python_reads_no_value_that_is_all_of_them() -> None:
    for read in (lambda k, t, x: t[int(k > 0)], lambda k, t, x: k * k.max().item()):
        with pytest.raises(an.errors.EnumerationError, match=r"test_plain_ops.py.*'k'"):
            summed(read, leaves())


def test_a_name_that_is_not_drawn_is_refused_and_others_are_drawn() -> None:
    with pytest.raises(an.errors.EnumerationError, match=r"no finite site 'q' was drawn"):
        summed(lambda k, t, x: k.double(), leaves(), ("q",))
    with pytest.raises(TypeError, match="sites must be names"):
        an.handlers.enumerate(sites="k")
    with an.record() as trace, an.handlers.enumerate(sites=["k"]):
        k = Categorical(torch.ones(3)).sample()
        j = Categorical(torch.ones(3)).sample()
        assert (trace["k"].is_enumerated, trace["j"].is_enumerated) == (True, False)
        assert an.infer.expectation(j) is j
        torch.testing.assert_close(an.untrack(an.infer.expectation(k)), torch.tensor(1.0))
    with pytest.raises(an.errors.EnumerationError, match=r"'k' .*whose block has ended"):
        an.infer.expectation(k)


def test_scores_of_draws_before_are_weighed_with_the_probabilities() -> None:
    values = leaves()

    def cost(k: Tensor, z: Tensor, table: Tensor) -> Tensor:
        return table[k.long()][..., 0] * (z - 0.3) + z * table[k.long()][..., 1] + k * z

    def program(logits: Tensor, table: Tensor) -> Tensor:
        z = Bernoulli(logits=logits[0, :2]).sample()
        k = torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(2, 1)
        chances = Bernoulli(logits=logits[1, :2] * z - 0.2).log_prob(k).exp()
        return (chances * cost(k, z, table)).sum()

    def estimate(_: Any, values: Any) -> Tensor:
        logits, table = values
        with an.record(), an.handlers.enumerate(sites=["k"]):
            z = Bernoulli(logits=logits[0, :2]).sample()
            k = Bernoulli(logits=logits[1, :2] * z - 0.2).sample()
            loss = an.infer.expectation(cost(k, z, table)).sum()
        return derivatives(an.surrogate(loss, baseline=None), values)

    truth = derivatives(expectation(paths(program, values)), values)
    torch.testing.assert_close(moments(program, values, estimate).mean, truth, **EXACT)


def test_shapes_are_told_within_another_thread_and_after_the_block() -> None:
    told = vars(Distribution)["batch_shape"]
    with an.record(), an.handlers.enumerate(sites=["k"]):
        k = Categorical(torch.ones(3)).sample()
        with ThreadPoolExecutor() as pool:
            assert pool.submit(lambda: Bernoulli(torch.ones(2)).batch_shape).result() == (2,)
        assert Bernoulli(torch.ones(2)).batch_shape == (2,)
        an.infer.expectation(k)
    assert vars(Distribution)["batch_shape"] is told


def test_a_loss_of_all_values_is_no_loss() -> None:
    with an.record(), an.handlers.enumerate(sites=["k"]):
        cost = Model(RIGHT["rows"])(*leaves())
    with pytest.raises(an.errors.EnumerationError, match="k"):
        an.backward(cost.sum())
