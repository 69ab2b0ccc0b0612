"""Straight-through estimators around recorded draws: noticed, whatever they are written with.

By enumeration: the plain gradient is that estimator alone, and `an.backward` adds the score.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from programs.estimates import fresh, gradients
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Normal,
    OneHotCategorical,
    OneHotCategoricalStraightThrough,
)

import ancestral as an
from ancestral.errors import KinkWarning, MissingScoreWarning, StraightThroughWarning
from oracles import exact_gradient, moments

LOGITS = torch.tensor([0.3, -0.5], dtype=torch.float64, requires_grad=True)
WEIGHTS = torch.tensor([1.0, 2.0], dtype=torch.float64)
TABLE = torch.tensor([[0.4, -1.1, 0.2], [0.9, 0.3, -0.6]], dtype=torch.float64)
Trick = Callable[[Tensor, Tensor], Tensor]


class Passing(torch.autograd.Function):
    """Gives the first argument, and the gradient to the second."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, learned: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, gradient


class Returning(torch.autograd.Function):
    """Gives the second argument as it is, and the gradient to the first."""

    @staticmethod
    def forward(ctx: Any, learned: Tensor, value: Tensor) -> Tensor:
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def without_gradients(z: Tensor, p: Tensor) -> Tensor:
    with torch.no_grad():
        difference = z - p
    return p + difference


def in_place(z: Tensor, p: Tensor) -> Tensor:
    value = z.clone()
    value += p - p.detach()
    return value


TRICKS: dict[str, Trick] = {
    "z + p - p.detach()": lambda z, p: z + p - p.detach(),
    "p + (z - p).detach()": lambda z, p: p + (z - p).detach(),
    "(z - p).detach() + p": lambda z, p: (z - p).detach() + p,
    "z - p.detach() + p": lambda z, p: z - p.detach() + p,
    "z + (p - p.detach())": lambda z, p: z + (p - p.detach()),
    "p - p.detach() + z": lambda z, p: p - p.detach() + z,
    "z - (p.detach() - p)": lambda z, p: z - (p.detach() - p),
    "p.data": lambda z, p: z + p - p.data,
    "a copy": lambda z, p: z + p - p.detach().clone(),
    "a copy, detached": lambda z, p: z + p - p.clone().detach(),
    "functions": lambda z, p: torch.sub(torch.add(z, p), torch.detach(p)),
    "no_grad": without_gradients,
    "in place": in_place,
    "a function": lambda z, p: Passing.apply(z, p),  # type: ignore[no-untyped-call]
    "a function that returns": lambda z, p: Returning.apply(p, z),  # type: ignore[no-untyped-call]
    "where": lambda z, p: torch.where(z > 0, 1 + p - p.detach(), p - p.detach()),
    "a product": lambda z, p: z + p * 1.0 - (p * 1.0).detach(),
}
VALUES: dict[str, Trick] = {
    "the draw": lambda z, p: z + 0 * p,
    "a difference": lambda z, p: z - p,
    "a sum": lambda z, p: z + p,
    "a product": lambda z, p: z * p,
    "a detached mean": lambda z, p: z - p.detach() + 0 * p,
    "a detached log": lambda z, p: (p.detach().log(), z - p)[1],
    "with zero": lambda z, p: z + p.detach() + 0 * p.sum(),
    "where": lambda z, p: torch.where(z > 0, p, 1 - p) + 0 * p.detach(),
}


def cost(value: Tensor) -> Tensor:
    return (value * WEIGHTS).sum()


def square(value: Tensor) -> Tensor:
    return ((value - 0.3) ** 2 * WEIGHTS).sum()


def program(trick: Trick, loss: Callable[[Tensor], Tensor] = cost) -> Callable[..., Tensor]:
    def run(logits: Tensor) -> Tensor:
        p = logits.sigmoid()
        z = Bernoulli(probs=p).sample()
        return loss(trick(z, p))

    return run


# Of these, the value alone tells; zeros are that of a product too.
BY_VALUE = ("where", "in place")
Estimate = Callable[[Callable[..., Tensor], Sequence[Tensor]], Tensor]


def by(call: str, *caught: type[Warning], even_of_zeros: bool = True) -> Estimate:
    """Return an estimate by one of the two calls; it warns of this and of nothing else."""

    def estimate(run: Callable[..., Tensor], parameters: Sequence[Tensor]) -> Tensor:
        leaves = fresh(parameters)
        with an.record() as trace:
            loss = run(*leaves)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            an.backward(loss) if call == "ours" else loss.backward()
        if even_of_zeros or all(node.value.any() for node in trace.stochastic_nodes):
            assert [each.category for each in found] == list(caught)
        return gradients(leaves)

    return estimate


@pytest.mark.parametrize("name", TRICKS)
def test_a_straight_through_estimator_by_hand_is_noticed(name: str) -> None:
    """Alone it has its biased gradient, with the score function twice the exact one."""
    run, of_zeros = program(TRICKS[name]), name not in BY_VALUE
    exact = exact_gradient(program(lambda z, p: z), [LOGITS])
    plain = moments(run, [LOGITS], by("theirs", even_of_zeros=of_zeros)).mean
    torch.testing.assert_close(plain, exact)  # of a linear cost, it has no bias
    ours = by("ours", StraightThroughWarning, even_of_zeros=of_zeros)
    torch.testing.assert_close(moments(run, [LOGITS], ours).mean, 2 * exact)


@pytest.mark.parametrize("name", VALUES)
def test_what_adds_something_to_the_value_is_none(name: str) -> None:
    run = program(VALUES[name], square)
    ours = moments(run, [LOGITS], by("ours")).mean
    if "detached" not in name and name != "with zero":  # what is cut is cut
        torch.testing.assert_close(ours, exact_gradient(run, [LOGITS]))
    moments(run, [LOGITS], by("theirs", MissingScoreWarning))


def classes(p: Tensor) -> tuple[Tensor, Tensor]:
    rows = torch.stack([p, 1 - p], -1)
    return F.one_hot(Categorical(rows).sample(), 2).double(), rows


def one_hots(p: Tensor) -> tuple[Tensor, Tensor]:
    rows = torch.stack([p, 1 - p], -1)
    return OneHotCategorical(rows).sample(), rows


def numbers(p: Tensor) -> tuple[Tensor, Tensor]:
    return Normal(p, 1.0).sample(), p


def embeddings(p: Tensor) -> tuple[Tensor, Tensor]:
    z = Bernoulli(probs=p).sample()
    return z @ TABLE.to(p), p @ TABLE.to(p)


def after_another(p: Tensor) -> tuple[Tensor, Tensor]:
    learned = p * Bernoulli(probs=torch.tensor([0.3, 0.8]).to(p)).sample() * 0.5 + 0.2
    return Bernoulli(probs=learned).sample(), learned


def from_a_layer(p: Tensor) -> tuple[Tensor, Tensor]:
    learned = F.linear(p, torch.eye(2).to(p), torch.zeros(2).to(p)).sigmoid()
    return Bernoulli(probs=learned).sample(), learned


def drawn_by_torch(p: Tensor) -> tuple[Tensor, Tensor]:
    return torch.bernoulli(p), p


def signs(p: Tensor) -> tuple[Tensor, Tensor]:
    return 2 * Bernoulli(probs=p).sample() - 1, p


@pytest.mark.parametrize("name", ["z + p - p.detach()", "p + (z - p).detach()", "a copy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "draw",
    [classes, one_hots, numbers, embeddings, after_another, from_a_layer, drawn_by_torch, signs],
)
def test_whatever_is_drawn_the_trick_is_noticed(draw: Any, dtype: torch.dtype, name: str) -> None:
    torch.manual_seed(1)
    leaf = LOGITS.detach().to(dtype).requires_grad_()
    with an.record():
        z, p = draw(leaf.sigmoid())
        loss = ((TRICKS[name](z, p) - 0.3) ** 2).sum().tanh()
    with pytest.warns(StraightThroughWarning, match="test_straight_through.py:") as found:
        an.backward(loss)
    assert len(found) == 1


def test_a_box_of_scores_is_noticed_as_well() -> None:
    learned = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    leaf = LOGITS.detach().clone().requires_grad_()
    with an.record():
        z = Bernoulli(logits=leaf).sample()
        density = Bernoulli(logits=leaf).log_prob(z).sum()
        loss = torch.exp(density - density.detach()) * ((z - learned) ** 2).sum()
    with pytest.warns(StraightThroughWarning):
        an.backward(loss)


def test_a_straight_through_distribution_gets_its_score_function_instead() -> None:
    """It says itself that its draws are of finitely many values: no gradient goes through them."""

    def run(logits: Tensor) -> Tensor:
        return square(OneHotCategoricalStraightThrough(logits=logits).rsample())

    def meant(logits: Tensor) -> Tensor:
        return square(OneHotCategorical(logits=logits).sample())

    exact = exact_gradient(meant, [LOGITS])
    torch.testing.assert_close(moments(run, [LOGITS], by("ours")).mean, exact)
    plain = moments(run, [LOGITS], by("theirs")).mean  # the user's own choice, and biased
    assert not torch.allclose(plain, exact, atol=1e-3)
    leaf = LOGITS.detach().clone().requires_grad_()
    with an.record():
        loss = run(leaf)
    with pytest.warns(KinkWarning, match="OneHotCategoricalStraightThrough"):
        an.backward(loss, estimator="pathwise")


def test_gumbel_softmax_has_no_score_to_count_twice() -> None:
    leaf = LOGITS.detach().clone().requires_grad_()
    with an.record() as trace:
        loss = cost(F.gumbel_softmax(leaf, hard=True))
    assert not trace.stochastic_nodes
    loss.backward()
    with pytest.raises(an.errors.LossError):
        an.backward(loss)


def test_after_a_recording_nothing_is_looked_at() -> None:
    before = Tensor.detach, torch.detach
    with an.record():
        assert Tensor.detach is not before[0]
        LOGITS.detach()
    assert (Tensor.detach, torch.detach) == before
    assert torch._C._len_torch_function_stack() == 0
