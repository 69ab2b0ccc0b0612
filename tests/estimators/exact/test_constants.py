"""Coefficients that are no constants: overwritten since, on shared memory, or of drawn classes."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from programs.estimates import by, library
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical

import ancestral as an
from ancestral.estimators.gradient.loss_terms import NonFiniteCostError, terms_of
from oracles import Program, autograd, exact_gradient, mean_and_truth, moments

close = functools.partial(torch.testing.assert_close, rtol=1e-7, atol=1e-10)
THETA = torch.tensor([0.3, -0.6, 0.9], dtype=torch.float64, requires_grad=True)


def coins(theta: Tensor) -> Tensor:
    """Return three draws."""
    return Bernoulli(logits=theta).sample()


def tainted_view(theta: Tensor) -> Tensor:
    """A coefficient that is a plain view of memory that a draw was written into."""
    memory = torch.ones(3, dtype=torch.float64)
    view = memory[:]
    memory.copy_(coins(theta[1].expand(3)))
    return ((coins(theta) + 0.2).exp() * view).sum()


def tainted_matrix(theta: Tensor) -> Tensor:
    """The same, contracted."""
    memory = torch.ones(3, dtype=torch.float64)
    view = memory[:]
    memory.copy_(coins(theta[1].expand(3)))
    return view @ (coins(theta) + 0.2).exp()


def tainted_mask(theta: Tensor) -> Tensor:
    """A mask that is a plain view of memory that a draw was written into."""
    memory = torch.ones(3, dtype=torch.bool)
    view = memory[:]
    memory.copy_(coins(theta[1].expand(3)) > 0)
    return torch.where(view, (coins(theta) + 0.2).exp(), 0).sum()


def permuted_mask(theta: Tensor) -> Tensor:
    """A mask that is turned in place, so that the sum is the same on some runs."""
    mask = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    loss = (mask * (coins(theta) + theta.detach())).sum()
    mask.copy_(mask.roll(1))
    return loss


def decaying(theta: Tensor) -> Tensor:
    """A discount that is updated in place."""
    z, loss = coins(theta), torch.zeros((), dtype=torch.float64)
    discount = torch.ones((), dtype=torch.float64)
    for t in range(3):
        loss = loss + discount * (z[t] - 0.3) ** 2
        discount *= 0.5
    return loss


def overwritten_matrix(theta: Tensor) -> Tensor:
    """A matrix that is overwritten after its use."""
    matrix = torch.eye(3, dtype=torch.float64)
    loss = (matrix @ (coins(theta) + 0.5)).sum()
    matrix.copy_(matrix.flip(0) * 1.0)
    return loss


CLASS_WEIGHTS = torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64)
LOGITS = torch.tensor([[0.1, 0.5, -1.0], [0.3, -0.4, 0.2], [0.7, 0, 1]], dtype=torch.float64)


def classes(theta: Tensor) -> Tensor:
    """Return two drawn classes."""
    return Categorical(logits=theta).sample((2,))


def targets(theta: Tensor) -> Tensor:
    """Return two drawn classes and one that is given."""
    return torch.cat([classes(theta), torch.tensor([2])])


def drawn_classes(**given: object) -> Callable[[Tensor], Tensor]:
    """Return a mean whose divisor depends on the drawn classes."""
    return lambda theta: F.cross_entropy(LOGITS, targets(theta), **given)  # type: ignore[arg-type]


def ignored_draws(theta: Tensor) -> Tensor:
    """A mean over those that a draw does not leave out."""
    z = targets(theta)
    return F.nll_loss(LOGITS, torch.where(z > 0, z, -100))


def drawn_target_weights(theta: Tensor) -> Tensor:
    """A mean over weights of classes that were drawn."""
    weight = coins(theta) + 0.5
    return F.cross_entropy(LOGITS, torch.tensor([0, 2, 1]), weight=weight)


WRONG: dict[str, Program] = {
    "a view": tainted_view,
    "a contracted view": tainted_matrix,
    "a mask on shared memory": tainted_mask,
    "a mask that is turned": permuted_mask,
    "a discount in place": decaying,
    "a matrix that is overwritten": overwritten_matrix,
    "weights of drawn classes": drawn_classes(weight=CLASS_WEIGHTS),
    "drawn classes that are ignored": drawn_classes(ignore_index=1),
    "targets that a draw leaves out": ignored_draws,
    "drawn weights": drawn_target_weights,
}


@pytest.mark.parametrize("control", ["strict", "after"])
@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_constant_is_no_coefficient(name: str, control: str) -> None:
    found = moments(WRONG[name], [THETA], by(control=control))
    close(found.mean, exact_gradient(WRONG[name], [THETA]))


def test_classes_that_cannot_be_ignored_are_costs_of_their_own() -> None:
    """By the variance: each class is given credit for its own cost only."""

    def program(theta: Tensor) -> Tensor:
        return F.cross_entropy(LOGITS[:2], classes(theta).reshape(2, 1).reshape(-1))

    def by_hand(theta: Tensor) -> Tensor:
        z = classes(theta)
        cost = F.cross_entropy(LOGITS[:2], z, reduction="none") / 2
        return cost.sum() + (Categorical(logits=theta).log_prob(z) * cost.detach()).sum()

    bare = library(baseline=None)
    found, expected = (moments(p, [THETA], e) for p, e in ((program, bare), (by_hand, autograd)))
    close(found.mean, expected.mean)
    close(found.variance, expected.variance)


@pytest.mark.parametrize("name", ["huber", "poisson"])
def test_a_number_that_was_chosen_by_a_draw_taints_a_reduced_loss(name: str) -> None:
    def program(theta: Tensor) -> Tensor:
        chosen = 0.2 if coins(theta[:1]) > 0 else 0.9
        z = coins(theta) + 0.1
        if name == "huber":
            return F.huber_loss(z, torch.zeros(3, dtype=torch.float64), delta=chosen)
        return F.poisson_nll_loss(
            z, torch.ones(3, dtype=torch.float64), eps=chosen, log_input=False
        )

    for control in ("strict", "after"):
        close(*mean_and_truth(program, [THETA], by(control=control)))


def test_an_argument_of_a_reduced_loss_that_is_overwritten_makes_it_one_cost() -> None:
    x = an.track(torch.rand(3, dtype=torch.float64), "x")
    target = torch.rand(3, dtype=torch.float64)
    loss = F.mse_loss(x, target)
    target.copy_(target.flip(0))
    (term,) = terms_of(loss).terms
    assert term.leaf is loss


PICKED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "where": lambda c, mask: torch.where(mask, c, 0.0).sum(),
    "masked_fill": lambda c, mask: c.masked_fill(~mask, 0.0).mean(),
    "an index": lambda c, mask: c[mask].sum() + c[0],
    "a slice": lambda c, mask: c[:1].sum(),
    "select": lambda c, mask: c.select(0, 0) + c.unbind()[2],
    "another": lambda c, mask: torch.where(mask, c, c.flip(0) * 0 + 1)[0],
}


@pytest.mark.parametrize("name", PICKED)
def test_an_infinite_cost_that_the_loss_leaves_out_is_left_out(name: str) -> None:
    cost = an.track(torch.tensor([1.0, float("inf"), 3.0], dtype=torch.float64), "x").clone()
    if name == "another":
        cost = an.track(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), "x").log()
    loss = PICKED[name](cost, torch.tensor([True, False, True]))
    terms, constant, _ = terms_of(loss)
    total = sum(float(term.value.sum()) for term in terms) + constant
    assert total == pytest.approx(float(an.untrack(loss)))
    assert all(torch.isfinite(term.live).all() for term in terms)


def test_an_infinite_cost_times_zero_is_an_error_still() -> None:
    cost = an.track(torch.tensor([1.0, float("inf")]), "x").clone()
    with pytest.raises(NonFiniteCostError, match="has 1 of 2 elements that are NaN"):
        terms_of((cost * torch.tensor([1.0, 0.0])).sum())


def test_a_constant_that_is_infinite_is_an_error() -> None:
    x = an.track(torch.ones(2), "x")
    with pytest.raises(NonFiniteCostError, match="the loss is inf"):
        terms_of(x.sum() + float("inf"))


NOTHING_SELECTED: dict[str, Callable[[Tensor], Tensor]] = {
    "mean of a mask": lambda x: x[torch.zeros(3, dtype=torch.bool)].mean(),
    "mean of a slice": lambda x: x.sum() + x[:0].mean(),
    "mean of rows": lambda x: x.expand(2, 3)[:, :0].mean(),
    "reduced loss": lambda x: x.sum() + F.mse_loss(x[:0], torch.zeros(0)),
    "cross entropy": lambda x: x.sum() + F.cross_entropy(x.expand(2, 3)[:0], torch.arange(0)),
    "mean of classes ignored": lambda x: F.cross_entropy(x[None], torch.tensor([-100])),
    "constant": lambda x: x.sum() + torch.zeros(0).mean(),
}


@pytest.mark.parametrize("name", NOTHING_SELECTED)
def test_the_mean_of_an_empty_selection_is_called_not_finite(name: str) -> None:
    loss = NOTHING_SELECTED[name](an.track(torch.rand(3), "x"))
    with pytest.raises(NonFiniteCostError, match=r"nan|NaN"):
        terms_of(loss)


def test_products_in_reduced_precision_are_costs_of_their_own() -> None:
    x = an.track(torch.rand(4, 4), "x")
    w = torch.rand(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = (x @ w).float().sum()
    (term,) = terms_of(loss).terms
    assert term.leaf is not x


MODULES: dict[str, tuple[nn.Module, Tensor]] = {
    "mse": (nn.MSELoss(reduction="sum"), torch.ones(4, 3).double()),
    "l1": (nn.L1Loss(), torch.ones(4, 3).double()),
    "smooth": (nn.SmoothL1Loss(), torch.ones(4, 3).double()),
    "huber": (nn.HuberLoss(), torch.ones(4, 3).double()),
    "bce": (nn.BCEWithLogitsLoss(pos_weight=CLASS_WEIGHTS), torch.ones(4, 3).double()),
    "ce": (nn.CrossEntropyLoss(CLASS_WEIGHTS, label_smoothing=0.1), torch.tensor([0, 2, 1, 1])),
    "nll": (nn.NLLLoss(CLASS_WEIGHTS, ignore_index=2), torch.tensor([0, 2, 1, 1])),
    "kl": (nn.KLDivLoss(reduction="batchmean"), torch.full((4, 3), 0.25).double()),
    "margin": (nn.MultiMarginLoss(), torch.tensor([0, 2, 1, 1])),
    "multilabel": (nn.MultiLabelSoftMarginLoss(), torch.ones(4, 3).double()),
    "soft margin": (nn.SoftMarginLoss(), torch.ones(4, 3).double()),
    "poisson": (nn.PoissonNLLLoss(), torch.ones(4, 3).double()),
    "hinge": (nn.HingeEmbeddingLoss(), torch.ones(4, 3).double()),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_loss_module_has_a_cost_for_each_example(name: str) -> None:
    module, target = MODULES[name]
    x = an.track(torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(4, 3), "x")
    loss = module(x, target)
    (term,) = terms_of(loss).terms
    assert term.value.shape[0] == 4
    assert float(term.value.sum()) == pytest.approx(float(an.untrack(loss)))


POSITIONAL: dict[str, Callable[[Tensor], Tensor]] = {
    "l1": lambda x: F.l1_loss(x, torch.ones(4, 3).double(), None, None, "sum"),
    "mse": lambda x: F.mse_loss(x, torch.ones(4, 3).double(), None, None, "mean"),
    "nll": lambda x: F.nll_loss(x, torch.tensor([0, 2, 1, 1]), None, None, 2, None, "mean"),
    "ce": lambda x: F.cross_entropy(
        x, torch.tensor([0, 2, 1, 1]), CLASS_WEIGHTS, None, -100, None, "mean", 0.1
    ),
    "kl": lambda x: F.kl_div(x, torch.full((4, 3), 0.25).double(), None, None, "batchmean"),
    "a sum": lambda x: torch.sum(x, 1, True)[:, 0].sum(),
    "a mean": lambda x: torch.mean(x, 0, False).sum(),
}


@pytest.mark.parametrize("name", POSITIONAL)
def test_arguments_may_be_given_by_position(name: str) -> None:
    x = an.track(torch.linspace(-1, 2, 12, dtype=torch.float64).reshape(4, 3), "x")
    loss = POSITIONAL[name](x)
    (term,) = terms_of(loss).terms
    assert term.value.shape[0] == 4
    assert float(term.value.sum()) == pytest.approx(float(an.untrack(loss)))
