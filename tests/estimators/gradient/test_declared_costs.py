"""Declared costs: what a trace has the gradient of, kept apart from what Python reads later."""

from collections.abc import Sequence

import pytest
import torch
from programs.estimates import fresh, gradients
from torch import Tensor
from torch.distributions import Bernoulli
from two_coins import drawn, leaves

import ancestral as an
from ancestral.estimators.gradient.loss_pytree import LossError
from oracles import Program, estimates, exact_gradient, mean_and_truth, moments_of, probabilities
from oracles import paths as paths_of


@pytest.fixture
def logits() -> Tensor:
    """Logits with a gradient to learn."""
    return leaves()[0]


def test_a_trace_that_declares_no_cost_has_no_gradient(logits: Tensor) -> None:
    with an.record() as trace:
        drawn(logits).sum()
    with pytest.raises(LossError, match=r"declares no cost: use an\.cost"):
        trace.backward()


def declares_then_escapes(logits: Tensor) -> Tensor:
    """Declare the cost of the first coin, then branch on the second, and pay for that."""
    first = Bernoulli(logits=logits[0]).sample()
    an.cost("pay", (first - 0.45) ** 2)
    second = Bernoulli(logits=logits[1]).sample()
    extra = 2.0 if second > 0 else -1.0
    paid = an.cost("bonus", torch.tensor(extra, dtype=torch.float64))
    return (first - 0.45) ** 2 + paid  # type: ignore[no-any-return]


def declared(program: Program, parameters: Sequence[Tensor]) -> Tensor:
    """Estimate by `Trace.backward`."""
    leaves = fresh(parameters)
    with an.record() as trace:
        program(*leaves)
    trace.backward()
    return gradients(leaves)


def test_a_declared_cost_is_not_blurred_by_a_later_escape(logits: Tensor) -> None:
    """The first coin's score meets its own cost only, though Python branches later."""
    weights, found = estimates(declares_then_escapes, [logits], declared)
    runs = paths_of(declares_then_escapes, [logits])
    torch.testing.assert_close(weights, probabilities(runs))
    p = logits.detach().sigmoid()
    by_hand = torch.stack(
        [
            torch.stack(
                [
                    (path.draws[0] - p[0]) * (path.draws[0] - 0.45) ** 2,
                    (path.draws[1] - p[1]) * (2.0 if path.draws[1] > 0 else -1.0),
                ]
            )
            for path in runs
        ]
    )
    torch.testing.assert_close(found, by_hand)
    mean = moments_of(weights, found).mean
    torch.testing.assert_close(mean, exact_gradient(declares_then_escapes, [logits]))


def test_an_escape_before_the_declaration_counts(logits: Tensor) -> None:
    def program(logits: Tensor) -> Tensor:
        first = Bernoulli(logits=logits[0]).sample()
        second = Bernoulli(logits=logits[1]).sample()
        high, low = second * 2, (second - 0.45) ** 2
        return an.cost("chosen", high if first > 0 else low)

    torch.testing.assert_close(*mean_and_truth(program, [logits], declared))
