"""Several runs at once are the runs in turn; where that is not shown, they are made in turn."""

from collections.abc import Callable
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from programs.random import RandomProgram, programs
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Normal, OneHotCategorical

import ancestral as an
from ancestral.errors import EstimatorError
from ancestral.estimators import ARMS, RLOO, ExactSum, LocalExpectation, UnorderedSet, total_cost

pytestmark = pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")

WEIGHT = torch.linspace(-1.0, 1.0, 20, dtype=torch.float64).reshape(5, 4)
LAYER = nn.Linear(5, 3).double()
Program = Callable[[Tensor], Tensor]


def bits(theta: Tensor) -> Tensor:
    """Return bits [4, 5], one for each element of five, of four examples."""
    z = Bernoulli(logits=theta + WEIGHT.T).sample()
    return z  # type: ignore[no-any-return]


def mean_of_examples(theta: Tensor) -> Tensor:
    z = bits(theta)
    return (z @ WEIGHT).pow(2).sum(-1).mean() + 0.1 * theta.sum()


def through_a_layer(theta: Tensor) -> Tensor:
    z = bits(theta)
    return torch.tanh(LAYER(z)).sum(-1).mean() + z[:, 0].mean()


def sums_and_means(theta: Tensor) -> Tensor:
    z = bits(theta)
    return (z @ WEIGHT).pow(2).mean() + (z.sum(-1) - 1).pow(2).sum()


def by_last_dims(theta: Tensor) -> Tensor:
    z = bits(theta)
    return (z[..., 0] * z[..., 1] - z[..., 2:].prod(-1)).sum()


def beside(theta: Tensor) -> Tensor:
    z = bits(theta)
    other = Normal(theta, 1.0).sample()
    return ((z - other) @ WEIGHT).pow(2).sum(-1).mean() + other.sum()  # type: ignore[no-any-return]


def classes(theta: Tensor) -> Tensor:
    z = Categorical(logits=theta.expand(4, 5) * torch.arange(1.0, 5.0).reshape(4, 1)).sample()
    return (z - 1.5).pow(2).mean()  # type: ignore[no-any-return]


def one_hot(theta: Tensor) -> Tensor:
    z = OneHotCategorical(logits=theta.expand(3, 5)).sample()
    return (z[..., 0, :] * z[..., 1, :]).sum() + (z @ WEIGHT).pow(2).sum()  # type: ignore[no-any-return]


PROVEN = [mean_of_examples, through_a_layer, sums_and_means, by_last_dims, beside, classes, one_hot]


def of_all_examples(theta: Tensor) -> Tensor:
    return (bits(theta).sum() - 8) ** 2


def along_the_first(theta: Tensor) -> Tensor:
    return (bits(theta).sum(0) @ WEIGHT).pow(2).sum()


def picked_from_the_left(theta: Tensor) -> Tensor:
    z = bits(theta)
    return z[:, 0].sum() + z[0].prod()


def counted(theta: Tensor) -> Tensor:
    z = bits(theta)
    return ((z.sum(-1) / len(z)) ** 2 + z.dim()).sum()


def transposed(theta: Tensor) -> Tensor:
    return (bits(theta).T.flip(0) @ WEIGHT.T).pow(3).sum()


def read(theta: Tensor) -> Tensor:
    z = bits(theta)
    return (z * 2 if z.sum() > 9 else z @ torch.eye(5, dtype=z.dtype)).sum()


def hidden(theta: Tensor) -> Tensor:
    z = bits(theta)
    return (z * an.untrack(z).mean()).sum()


def drawn_below(theta: Tensor) -> Tensor:
    z = bits(theta)
    y = Bernoulli(logits=z @ WEIGHT).sample()
    return (y - 0.3).pow(2).sum()  # type: ignore[no-any-return]


def dropped(theta: Tensor) -> Tensor:
    return nn.functional.dropout(bits(theta) @ WEIGHT, 0.5).pow(2).sum()


def normalized(theta: Tensor) -> Tensor:
    z = bits(theta) @ WEIGHT
    return ((z - z.mean(0)) / (z.std(0) + 1)).pow(3).sum()


def largest(theta: Tensor) -> Tensor:
    return (bits(theta) @ WEIGHT).max()


def reshaped(theta: Tensor) -> Tensor:
    return (bits(theta).reshape(-1)[:7] * torch.arange(7.0)).sum() ** 2


IN_TURN = [
    of_all_examples,
    along_the_first,
    picked_from_the_left,
    counted,
    transposed,
    read,
    hidden,
    drawn_below,
    dropped,
    normalized,
    largest,
    reshaped,
]


def zero_where_it_is_compared(theta: Tensor) -> Tensor:
    """Count examples, which shows only where all elements are ones."""
    z = bits(theta)
    return (z.prod(-1) / len(z) + 0.1 * z[..., 0]).pow(2).sum()


IN_TURN.append(zero_where_it_is_compared)


def estimates(program: Program, estimator: object, **options: object) -> list[tuple[int, Tensor]]:
    """Return how often a program is called, and the estimate: at once and in turn."""
    found, evaluations = [], []
    for vectorized in (True, False):
        torch.manual_seed(4)
        theta = torch.tensor([0.9, 0.8, 0.1, 0.5, -0.2], dtype=torch.float64, requires_grad=True)
        counted = mock.Mock(side_effect=program)
        each = an.estimate(
            counted,
            theta,
            estimators={"z": estimator, "*": "auto"},  # type: ignore[dict-item]
            vectorized=vectorized,
            check=False,
            **options,  # type: ignore[arg-type]
        )
        evaluations.append(each.evaluations)
        grad = torch.autograd.grad(each.surrogate, [theta])[0]
        found.append((counted.call_count, grad))
    assert evaluations == [found[1][0]] * 2
    return found


def agree(at_once: Tensor, in_turn: Tensor) -> None:
    torch.testing.assert_close(at_once, in_turn, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("estimator", [LocalExpectation(), RLOO(9)], ids=repr)
@pytest.mark.parametrize("program", PROVEN)
def test_what_is_proven_is_run_at_once(program: Program, estimator: object) -> None:
    (calls, found), (in_turn, expected) = estimates(program, estimator)
    agree(found, expected)
    assert calls == 4 or calls == in_turn < 7  # the first, all twice, one by itself; or too few


@pytest.mark.parametrize("estimator", [LocalExpectation(), RLOO(9)], ids=repr)
@pytest.mark.parametrize("program", IN_TURN)
def test_what_is_not_proven_is_run_in_turn(program: Program, estimator: object) -> None:
    (calls, found), (in_turn, expected) = estimates(program, estimator)
    agree(found, expected)
    assert calls >= in_turn


@pytest.mark.parametrize("estimator", [ExactSum(), ARMS(8), UnorderedSet(5)], ids=repr)
def test_of_other_estimators(estimator: object) -> None:
    program = one_hot if isinstance(estimator, UnorderedSet) else mean_of_examples
    (calls, found), (_, expected) = estimates(program, estimator)
    assert calls == 4
    agree(found, expected)


def test_the_credit_of_the_whole_loss_is_run_in_turn() -> None:
    (calls, found), (in_turn, expected) = estimates(mean_of_examples, RLOO(9), credit=total_cost)
    assert calls > in_turn
    agree(found, expected)


@pytest.mark.parametrize("noise", ["common", "independent"])
def test_what_is_drawn_below_is_drawn_in_turn_whatever_the_noise(noise: str) -> None:
    (calls, _), (in_turn, _) = estimates(drawn_below, RLOO(9), noise=noise)
    assert calls > in_turn


@pytest.mark.filterwarnings("ignore:.")  # of blurred credit, kinks and held scores
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[*HealthCheck],
)
@given(program=programs())
def test_whatever_the_ops_are_at_once_is_in_turn(program: RandomProgram) -> None:
    parameters, found = program.parameters, []
    for vectorized in (True, False):
        torch.manual_seed(3)
        try:
            each = an.estimate(
                program, *parameters, estimators=RLOO(12), vectorized=vectorized, check=False
            )
        except EstimatorError:
            assume(False)
        grads = torch.autograd.grad(each.surrogate, parameters, materialize_grads=True)
        found.append(torch.cat([grad.flatten() for grad in grads]))
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-9)
