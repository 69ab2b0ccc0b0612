"""Scores: densities that are evaluated together give the gradient that each by itself gives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from programs.estimates import fresh, gradients
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal, Poisson

import ancestral as an
from ancestral.estimators.gradient import score_function
from ancestral.trace.nodes.node import ModifiedParameterError, Node
from oracles import mean_and_truth

Family = Callable[[Tensor], Distribution]
FAMILIES: dict[str, Family] = {
    "Bernoulli of logits": lambda x: Bernoulli(logits=x),
    "Bernoulli of probs": lambda x: Bernoulli(x.sigmoid()),
    "Bernoullis of one event": lambda x: Independent(Bernoulli(logits=x), x.ndim),
    "Normal": lambda x: Normal(x, 0.5 + x**2),
    "Normal of a number": lambda x: Normal(x, 2.0),
    "Poisson": lambda x: Poisson(1 + x**2),
}
BASELINES: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "leave-one-out": lambda: an.estimators.LeaveOneOut(),
    "running mean": lambda: an.estimators.RunningMean(),
    "a number": lambda: lambda credit: torch.tensor(0.3),
}


class Counted:
    """Counts the sites whose densities are evaluated together."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sites = 0
        self._stacked = score_function._stacked
        monkeypatch.setattr(score_function, "_stacked", self)

    def __call__(self, nodes: list[Node]) -> Tensor | None:
        """Evaluate them."""
        self.sites += len(nodes)
        return self._stacked(nodes)


def chain(family: Family, theta: Tensor, shape: tuple[int, ...], length: int = 6) -> Tensor:
    """Return the loss of a chain of sites with a cost each."""
    z, loss = torch.zeros(shape, dtype=theta.dtype), torch.zeros((), dtype=theta.dtype)
    for step in range(length):
        z = family(theta[0] + theta[1] * z / (step + 1)).sample()
        loss = loss + ((z - 0.45) ** 2 * (step + 1)).sum()
    return loss


def gradient(
    family: Family, shape: tuple[int, ...], *, dtype: torch.dtype = torch.float64, **options: Any
) -> Tensor:
    """Return the estimate of the gradient at one seed."""
    torch.manual_seed(0)
    theta = torch.tensor([0.3, -0.2], dtype=dtype, requires_grad=True)
    with an.record():
        loss = chain(family, theta, shape)
    an.backward(loss, **options)
    assert theta.grad is not None
    return theta.grad


# A site of one number has no others to leave out, which a warning says.
@pytest.mark.filterwarnings("ignore::ancestral.errors.BaselineWarning")
@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_together_or_one_by_one_the_gradient_is_the_same(
    family: str, baseline: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    together = gradient(FAMILIES[family], shape, baseline=BASELINES[baseline]())
    assert counted.sites == 6
    monkeypatch.setattr(score_function, "_MANY", 1000)
    apart = gradient(FAMILIES[family], shape, baseline=BASELINES[baseline]())
    assert counted.sites == 6
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize(
    "estimator", [an.estimators.by_element, an.estimators.by_site, an.estimators.total_cost]
)
def test_every_credit_is_given_to_its_own_site(
    estimator: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = FAMILIES["Bernoulli of logits"]
    together = gradient(family, (5,), credit=estimator)
    monkeypatch.setattr(score_function, "_MANY", 1000)
    torch.testing.assert_close(together, gradient(family, (5,), credit=estimator))


def test_the_surrogate_has_the_second_derivatives_of_sites_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hessian() -> Tensor:
        torch.manual_seed(0)
        theta = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
        with an.record():
            loss = chain(FAMILIES["Bernoulli of logits"], theta, (3,))
        (first,) = torch.autograd.grad(an.surrogate(loss), theta, create_graph=True)
        return torch.stack([torch.autograd.grad(g, theta, retain_graph=True)[0] for g in first])

    counted = Counted(monkeypatch)
    together = hessian()
    assert counted.sites == 6 + 5  # and those before the draws that a baseline is subtracted for
    monkeypatch.setattr(score_function, "_MANY", 1000)
    torch.testing.assert_close(together, hessian())


def test_sites_of_several_types_and_shapes_are_evaluated_by_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def estimate() -> tuple[Tensor, ...]:
        torch.manual_seed(0)
        single = torch.tensor(0.3, requires_grad=True)
        double = torch.tensor([0.3, -0.3], dtype=torch.float64, requires_grad=True)
        with an.record():
            loss = torch.zeros((), dtype=torch.float64)
            for _ in range(5):
                a, b = Bernoulli(logits=single).sample(), Bernoulli(logits=double).sample()
                c, d = Normal(single, 1.0).sample(), Bernoulli(double.sigmoid()).sample()
                k = Categorical(logits=double).sample()
                repeated = Bernoulli(logits=double).sample((3,))
                loss = loss + a * (b * d).sum() + c**2 + k * repeated.sum()
        an.backward(loss)
        assert single.grad is not None
        assert double.grad is not None
        return single.grad, double.grad

    counted = Counted(monkeypatch)
    together = estimate()
    assert counted.sites == 20  # those with more draws than parameters, and of integers, are not
    monkeypatch.setattr(score_function, "_MANY", 1000)
    torch.testing.assert_close(together, estimate())


def test_a_density_that_was_asked_before_is_not_evaluated_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = Counted(monkeypatch)
    theta = torch.tensor(0.3, requires_grad=True)
    with an.record() as trace:
        loss = torch.stack([Bernoulli(logits=theta).sample() for _ in range(5)]).sum()
    trace.log_prob_sum()
    an.backward(loss)
    assert counted.sites == 0


def test_of_many_sites_the_one_whose_parameter_was_overwritten_is_named() -> None:
    thetas = [torch.tensor(0.3, requires_grad=True) for _ in range(6)]
    with an.record():
        z = [Bernoulli(logits=theta).sample() for theta in thetas]
        loss = torch.stack(z).sum()
    with torch.no_grad():
        thetas[3].add_(1)
    with pytest.raises(ModifiedParameterError, match="'bernoulli_3'"):
        an.backward(loss)


def test_of_many_sites_a_value_outside_of_the_support_is_refused() -> None:
    theta = torch.tensor(0.3, requires_grad=True)
    with an.record() as trace:
        loss = torch.stack([Bernoulli(logits=theta).sample() for _ in range(6)]).sum()
    list(trace.values())[2].value.fill_(0.5)
    with pytest.raises(ValueError, match=r"of shape \(\)"):
        an.backward(loss)


def test_a_density_that_the_user_gave_to_a_distribution_is_asked() -> None:
    theta = torch.tensor(0.3, requires_grad=True)
    asked: list[Tensor] = []

    def own(value: Tensor) -> Tensor:
        asked.append(value)
        return theta * value

    with an.record():
        values = []
        for _ in range(6):
            q = Bernoulli(logits=theta)
            values.append(q.sample())
            q.log_prob = own  # type: ignore[method-assign]
        loss = torch.stack(values).sum()
    an.backward(loss)
    assert len(asked) == 6


def test_parameters_that_broadcast_are_evaluated_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = Counted(monkeypatch)
    theta = torch.full((3,), 0.3, requires_grad=True)
    with an.record():
        loss = torch.stack([Bernoulli(logits=theta).sample((2,)).sum() for _ in range(6)]).sum()
    an.backward(loss)
    assert counted.sites == 0
    assert theta.grad is not None


def chosen_by_its_draw(p: Tensor) -> Tensor:
    q = Bernoulli(probs=p)
    z = q.sample()
    loss = z * 0.3
    if z.item() > 0:
        loss = loss + q.log_prob(z)
    return loss  # type: ignore[no-any-return]


def chosen_by_a_draw_of_its_draw(p: Tensor) -> Tensor:
    q = Bernoulli(probs=p)
    z = q.sample()
    w = Bernoulli(probs=0.2 + 0.6 * z).sample()
    loss = w * 0.3
    return loss + q.log_prob(z) if w.item() > 0 else loss  # type: ignore[no-any-return]


def chosen_among_finished_terms(p: Tensor) -> Tensor:
    q = Bernoulli(probs=p)
    z = q.sample()
    density, other = q.log_prob(z), z * 0.3
    return density if z.item() > 0 else other  # type: ignore[no-any-return]


def not_chosen(p: Tensor) -> Tensor:
    q = Bernoulli(probs=p)
    other = Bernoulli(probs=p.detach() * 0.5).sample()
    factor = 2.0 if other.item() > 0 else 0.5
    z = q.sample()
    return z * factor + q.log_prob(z)  # type: ignore[no-any-return]


@pytest.mark.parametrize("control", ["strict", "after"])
@pytest.mark.parametrize(
    "program",
    [chosen_by_its_draw, chosen_by_a_draw_of_its_draw, chosen_among_finished_terms, not_chosen],
)
def test_a_density_at_its_own_draw_that_the_draw_decides_on_keeps_its_gradient(
    program: Callable[[Tensor], Tensor], control: str
) -> None:
    """Its mean is zero over all draws, not over those for which the density is a term."""
    if control == "after" and program is chosen_among_finished_terms:
        return  # finished terms are to count regardless then
    leaves = [torch.tensor(0.3, dtype=torch.float64, requires_grad=True)]

    def estimate(run: Any, parameters: Any) -> Tensor:
        (leaf,) = fresh(parameters)
        with an.record(control=control):
            loss = run(leaf)
        an.backward(loss)
        return gradients([leaf])

    torch.testing.assert_close(*mean_and_truth(program, leaves, estimate))


def test_a_density_at_its_own_draw_that_another_draw_decided_on_has_none_left() -> None:
    """Of mean zero given what was read before: of the term, only the credit is left."""
    leaf = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    with an.record():
        other = Bernoulli(probs=torch.tensor(0.5, dtype=torch.float64)).sample()
        if other.item() > 0:
            pass
        q = Bernoulli(probs=leaf)
        z = q.sample()
        loss = q.log_prob(z) * 1.0
    an.backward(loss)
    assert leaf.grad is not None
    value = an.untrack(z).item()
    score = 1 / 0.3 if value else -1 / 0.7
    density = torch.log(torch.tensor(0.3 if value else 0.7, dtype=torch.float64))
    torch.testing.assert_close(leaf.grad, score * density)
