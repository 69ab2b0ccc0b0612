"""The terms of a loss: what is taken apart, what stays whole, and that they always add up."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from hypothesis import given, settings
from hypothesis import strategies as st
from terms import X, Y, assert_is_taken_apart, leaf, number, total
from torch import Tensor, nn

import ancestral as an
from ancestral.estimators.gradient.decompose import Step as Taken
from ancestral.estimators.gradient.decompose import Walk
from ancestral.estimators.gradient.loss_terms import (
    NonFiniteCostError,
    Term,
    describe,
    op_name,
    terms_of,
    vertices_of,
)

SCALE = nn.Parameter(torch.tensor([0.5, -2.0, 3.0], dtype=torch.float64))


def sources(term: Term) -> frozenset[str]:
    """Return the names of the sources that a term depends on."""
    return an.provenance_of(term.leaf)


# Each makes a scalar of two costs.
LINEAR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sums": lambda a, b: a.sum() + b.sum(),
    "torch.sum": lambda a, b: torch.sum(a) + torch.add(b, 0).sum(),
    "means": lambda a, b: a.mean() + torch.mean(b),
    "a difference": lambda a, b: (a - b).sum(),
    "a difference from a number": lambda a, b: (1 - a).sum() - (b - 2).mean(),
    "sub with alpha": lambda a, b: torch.sub(a, b, alpha=3).sum(),
    "add with alpha": lambda a, b: a.add(b, alpha=-0.5).mean(),
    "rsub": lambda a, b: torch.rsub(a, 1.0).sum() + b.sum(),
    "minus": lambda a, b: -(a.sum()) + torch.neg(b).mean(),
    "a factor": lambda a, b: 2.5 * a.sum() + (b * -3).mean(),
    "a factor tensor": lambda a, b: (a * Y).sum() + (Y.exp() * b).sum(),
    "a factor of a row": lambda a, b: (a * Y[0] + Y[:, :1] * b).mean(),
    "a learned factor": lambda a, b: (a * SCALE).sum() + (SCALE.exp() * b).mean(),
    "a learned scalar": lambda a, b: SCALE[1] * a.sum() + SCALE[2] * b.sum(),
    "a quotient": lambda a, b: (a / 4).sum() + (b / SCALE).sum() + torch.div(a, Y).mean(),
    "over dimensions": lambda a, b: a.sum(0).mean() + b.mean(1).sum() + a.sum((0, 1)),
    "over the last": lambda a, b: a.sum(-1).mean() + b.sum(dim=-2, keepdim=True).mean(),
    "a reshape": lambda a, b: a.reshape(2, 6).sum(0).mean() + b.view(12)[3:7].sum(),
    "flattened": lambda a, b: a.flatten().sum() + b.flatten().unflatten(0, (6, 2)).mean(),
    "one dimension more": lambda a, b: (a.unsqueeze(1) + b[None]).squeeze().mean(),
    "a permutation": lambda a, b: (a.permute(1, 0) * Y.T).sum() + b.transpose(0, 1)[1].sum(),
    "T": lambda a, b: a.T[0].sum() + b.mT.mean(),
    "a slice": lambda a, b: a[1:].sum() - b[::2, 1].mean(),
    "an index": lambda a, b: a[2, 1] + b[-1].sum() + a[..., 0].sum(),
    "indexed by a tensor": lambda a, b: a[torch.tensor([0, 2, 2])].sum() + b.mean(),
    "narrowed": lambda a, b: a.narrow(0, 1, 2).sum() + b.select(1, 0).sum() + b.flip(0)[0].sum(),
    "stacked": lambda a, b: torch.stack([a, b, a]).mean() + torch.stack([b, b], 2)[..., 1].sum(),
    "joined": lambda a, b: torch.cat([a, b]).mean() + torch.cat([b, a, b], dim=1)[:, 2:7].sum(),
    "expanded": lambda a, b: a.expand(5, 4, 3).mean() + b[:, :1].expand(4, 6).sum(),
    "broadcast": lambda a, b: (a.sum(0) + b).mean() + (a[:1] - b[:, :1]).sum(),
    "broadcast with a number": lambda a, b: (a.sum() + b).mean(),
    "cast": lambda a, b: a.double().sum() + b.to(torch.float64).clone().contiguous().mean(),
    "python sum": lambda a, b: sum([a.sum(), b.mean(), a.mean()], torch.zeros(())),
    "python sum of rows": lambda a, b: sum([a[0], b[1], a[2], b[3]], Y[0]).sum(),
    "the same cost often": lambda a, b: a.sum() + b.sum() - a.mean() + 2 * (a + b).sum(),
    "a part that drops out": lambda a, b: a.sum() + b.sum() + (a - a).sum(),
    "a constant part": lambda a, b: a.sum() + b.sum() + 7 + Y.sum() - SCALE.sum(),
    "deep": lambda a, b: (((a - 1) / 2 + b * 3).sum(1) * Y[:, 0])[1:].mean() * 5 - b.sum(),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_steps_are_undone(name: str) -> None:
    a, b = leaf(X, "a").exp(), leaf(Y, "b").cos()
    assert_is_taken_apart(LINEAR[name](a, b), a, b)


@pytest.mark.parametrize("count", [10, 10_000])
def test_a_loss_that_is_summed_in_a_loop_has_a_term_for_each_step(count: int) -> None:
    x = leaf(torch.arange(float(count)))
    for is_in_place in (False, True):
        costs = [row.cos() for row in x.unbind()]
        loss: Tensor = torch.zeros(())
        for cost in costs:
            if is_in_place:
                loss += cost
            else:
                loss = loss + cost
        terms, constant, _ = terms_of(loss)
        assert len(terms) == count
        assert constant == 0
        assert total(terms, constant) == pytest.approx(number(x.cos().sum()), rel=1e-3)


PLAIN_FACTOR: dict[str, Callable[[Tensor], Tensor]] = {
    "joined": lambda a: torch.cat([a, a]),
    "stacked": lambda a: torch.stack([a, a]),
    "reshaped": lambda a: a.reshape(4, 3),
    "summed": lambda a: a.reshape(2, 2, 3).sum(1),
    "averaged and kept": lambda a: a.mean(0, keepdim=True).expand(4, 3),
    "turned": lambda a: a.t().t(),
}


@pytest.mark.parametrize("shape", [(), (3,), (1, 3)])
@pytest.mark.parametrize("name", PLAIN_FACTOR)
def test_a_factor_that_is_broadcast_weighs_what_was_rearranged_before(
    name: str, shape: tuple[int, ...]
) -> None:
    cost = leaf(X).exp()
    factor = torch.linspace(1, 2, 3, dtype=torch.float64)[: 3 if shape else 1].reshape(shape)
    assert_is_taken_apart((PLAIN_FACTOR[name](cost) * factor).sum(), cost)


def test_the_walk_takes_as_many_steps_as_the_loss_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A form that is used twice is walked once: no doubling with the depth of the sharing."""
    steps = 0
    original = Walk.step

    def counted(self: Walk) -> Taken:
        nonlocal steps
        steps += 1
        return original(self)

    monkeypatch.setattr(Walk, "step", counted)
    cost = leaf(X).exp()
    shared = cost.sum()
    for _ in range(60):
        shared = (shared + shared) / 2
    (term,), _, _ = terms_of(shared)
    torch.testing.assert_close(term.value, X.exp())
    assert steps == 121  # a sum, then an addition and a division each round


def test_a_loss_that_is_added_to_in_place_keeps_its_first_cost() -> None:
    x = leaf(X)
    first, second = x.exp(), x.cos()
    loss = first.sum()
    loss += second.sum()
    loss -= 0.5 * second.mean()
    terms, _, _ = terms_of(loss)
    assert {id(term.leaf) for term in terms} == {id(first), id(second)}


def test_an_operand_that_is_overwritten_makes_the_loss_one_cost_that_is_right() -> None:
    x = leaf(X)
    a, b = x.exp().detach(), x.cos()
    loss = a.sum() + b.sum()
    value = number(loss)
    a.mul_(b.detach())
    terms, constant, _ = terms_of(loss)
    assert len(terms) == 1
    assert constant == 0
    assert float(terms[0].value.sum()) == value
    assert terms[0].leaf is loss


def test_an_operand_that_is_overwritten_before_its_use_is_no_obstacle() -> None:
    x = leaf(X)
    a = x.exp()
    a *= 2
    b = x.cos()
    loss = a.sum() + b.sum()
    terms, constant, _ = terms_of(loss)
    assert len(terms) == 2
    assert total(terms, constant) == pytest.approx(number(loss))


WHOLE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a product": lambda a, b: a.sum() * b.sum(),
    "a product of elements": lambda a, b: torch.einsum("ij,ij->", a, b),
    "a quotient": lambda a, b: a.sum() / b.sum(),
    "logsumexp": lambda a, b: torch.logsumexp((a + b).flatten(), 0),
    "max": lambda a, b: (a + b).max(),
    "a norm": lambda a, b: (a - b).norm(),
    "a square": lambda a, b: (a.sum() + b.sum()) ** 2,
    "a root": lambda a, b: (a.sum() + b.sum()).exp(),
    "prod": lambda a, b: (a + b).prod(),
    "rounded": lambda a, b: torch.div(a.sum() + b.sum(), 2, rounding_mode="floor") + a.max() * 0,
    "clamped": lambda a, b: (a.sum() + b.sum()).clamp(max=1.0),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_not_linear_stays_one_cost(name: str) -> None:
    a, b = leaf(X, "a").exp(), leaf(Y, "b").cos()
    loss = WHOLE[name](a, b)
    terms, constant, _ = terms_of(3 * loss + 1)
    whole = next(term for term in terms if sources(term) == {"a", "b"})
    assert whole.value.shape == ()
    value = number(loss) * 3 + 1
    assert total(terms, constant) == pytest.approx(value, rel=1e-9)


def test_weights_that_cancel_leave_rounding_errors_behind() -> None:
    cost = leaf(X).exp()
    steps = torch.full((3,), 0.1, dtype=torch.float64)
    loss = (cost[:3, 0] * 0.3).cumsum(0)[2] - (cost[:3, 0] * steps).sum() * 3
    terms, constant, _ = terms_of(loss - loss)
    assert total(terms, constant) == pytest.approx(0.0, abs=1e-14)


def test_an_or_of_truth_values_is_no_sum() -> None:
    x = leaf(X)
    a, b = x > 0, x > 0.5
    for either in (a + b, torch.add(a, b)):
        loss = either.double().sum()
        terms, constant, _ = terms_of(loss)
        assert total(terms, constant) == number(loss) == float((X > 0).sum())


def test_a_sum_of_integers_is_exact() -> None:
    x = an.track(torch.arange(5), "x")
    loss = (x * 2 + 1).sum()
    terms, constant, _ = terms_of(loss)
    assert total(terms, constant) == 25


def test_a_loss_that_depends_on_no_source_is_a_constant() -> None:
    terms, constant, _ = terms_of(X.sum())
    assert terms == []
    assert constant == pytest.approx(float(X.sum()))


def test_a_weight_counts_the_elements_of_a_loss() -> None:
    x = leaf(X)
    cost = x.exp()
    (term,), _, _ = terms_of(2 * cost, Y)
    torch.testing.assert_close(term.value, X.exp() * 2 * Y)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_cost_that_is_no_number_is_named(bad: float) -> None:
    a, b = leaf(X, "a").exp(), leaf(Y, "b").cos()
    holed = b * torch.tensor([1.0, bad, 1.0], dtype=torch.float64)
    with pytest.raises(
        NonFiniteCostError,
        match=r"term [01] of the loss, made by cos, of shape \[4, 3\], depending on 'b', has 4 of",
    ):
        terms_of(a.sum() + holed.sum())


def test_a_term_is_described_by_its_op_shape_and_sources() -> None:
    with an.record():  # whose sources are numbered in their order
        a, b = an.track(torch.ones(2), "a"), leaf(X, "b")
    (made,), _, _ = terms_of((a[0] * b).exp().sum())
    assert describe(made) == "made by exp, of shape [4, 3], depending on 'a', 'b'"
    (plain,), _, _ = terms_of(a.sum())
    assert describe(plain) == "a leaf, of shape [2], depending on 'a'"


def test_an_op_is_called_as_in_torch() -> None:
    x = X.clone().requires_grad_()
    assert op_name(F.binary_cross_entropy_with_logits(x, Y, reduction="none")) == (
        "binary_cross_entropy_with_logits"
    )
    assert [op_name(x.sum(0)), op_name(x), op_name(x * 2)] == ["sum", "", "mul"]


def test_the_costs_of_a_graph_leave_out_what_belongs_to_a_site() -> None:
    p = torch.full((3,), 0.4, requires_grad=True)
    with an.record():
        q = torch.distributions.Bernoulli(p)
        z = q.sample()
        loss = (z * SCALE).exp().sum() - q.log_prob(z).sum()
    terms, _, _ = terms_of(loss)
    assert len(terms) == 2
    costs = vertices_of((term, term.made) for term in terms)
    assert [(v.kind, v.distribution, v.shape) for v, _ in costs] == [("cost", "exp", (3,))]


@dataclass(frozen=True)
class Step:
    """One linear step of a random program: its words, and the tensors that it takes."""

    name: str
    operands: tuple[int, int]


STEPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a + b": lambda a, b: a + b,
    "a - b": lambda a, b: a - b,
    "b - 2a": lambda a, b: torch.sub(b, a, alpha=2),
    "-a": lambda a, b: -a,
    "a * 3": lambda a, b: a * 3,
    "Y * a": lambda a, b: Y * a,
    "a * scale": lambda a, b: a * SCALE,
    "a / 4": lambda a, b: a / 4,
    "1 - a": lambda a, b: 1 - a,
    "row": lambda a, b: a + b[:1],
    "column mean": lambda a, b: a - b.mean(1, keepdim=True),
    "total": lambda a, b: a + b.sum(),
    "turned": lambda a, b: a.t().reshape(4, 3),
    "rolled": lambda a, b: torch.cat([a[1:], b[:1]]),
    "picked": lambda a, b: torch.stack([a[0], b[1], a[2], b[3]]),
    "flipped": lambda a, b: a.flip(0),
    "expanded": lambda a, b: b[:, :1].expand(4, 3) + a,
    "exp": lambda a, b: (a / 8).tanh().exp(),
    "product": lambda a, b: (a * b) / 16,
}
STARTS = 3


@st.composite
def programs(draw: st.DrawFn) -> tuple[Step, ...]:
    """Draw a program: every step may take any tensor made before."""
    count = draw(st.integers(1, 10))
    return tuple(
        Step(
            draw(st.sampled_from(sorted(STEPS))),
            (draw(st.integers(0, STARTS + at - 1)), draw(st.integers(0, STARTS + at - 1))),
        )
        for at in range(count)
    )


def run(program: tuple[Step, ...]) -> Tensor:
    """Return the sum of all that a program makes."""
    tensors = [leaf(X, "x").cos(), leaf(Y, "y").exp(), Y.sin()]
    for step in program:
        first, second = (tensors[at] for at in step.operands)
        tensors.append(STEPS[step.name](first, second))
    return torch.stack(tensors).mean(1).sum() + tensors[-1].mean()


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(program=programs())
def test_the_terms_add_up_and_their_weights_are_the_derivatives(program: tuple[Step, ...]) -> None:
    loss = run(program)
    terms, constant, _ = terms_of(loss)
    assert total(terms, constant) == pytest.approx(number(loss), rel=1e-9, abs=1e-9)
    # The derivative by a cost where all other costs are held: cut the graph at each of them.
    if all(step.name not in ("exp", "product") for step in program):
        leaves = [term.leaf for term in terms]
        slopes = torch.autograd.grad(an.untrack(loss), leaves, allow_unused=True)
        for term, slope in zip(terms, slopes, strict=True):
            expected = torch.zeros_like(term.value) if slope is None else an.untrack(slope)
            weight = torch.as_tensor(term.weight, dtype=torch.float64).expand(term.value.shape)
            torch.testing.assert_close(weight.detach(), expected.detach())


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(program=programs())
def test_the_live_terms_have_the_gradient_of_the_loss(program: tuple[Step, ...]) -> None:
    """By what is learned: the factors of the terms are part of their history."""
    SCALE.grad = None
    loss = run(program)
    terms, _, _ = terms_of(loss)
    live = torch.stack([term.live.sum() for term in terms]).sum()
    (whole,) = torch.autograd.grad(
        an.untrack(loss), [SCALE], retain_graph=True, materialize_grads=True
    )
    found = (
        torch.autograd.grad(live, [SCALE], materialize_grads=True)[0]
        if live.requires_grad
        else torch.zeros_like(SCALE)
    )
    # The constant, what depends on no source, may be learned too.
    if not any(2 in step.operands for step in program):
        torch.testing.assert_close(found, whole)


def test_a_cost_that_was_rounded_on_the_way_is_a_cost_of_its_own() -> None:
    p = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    for rounded in (
        lambda x: x.float(),
        lambda x: x.to(torch.float32),
        lambda x: x.to(torch.int64),
        lambda x: x.type_as(torch.zeros(1)),
    ):
        with an.record():
            z = torch.distributions.Bernoulli(p).sample() + 0.7
            loss = (rounded(z) * 0.3).sum() + z / 3
        terms, constant, _ = terms_of(loss)
        torch.testing.assert_close(
            sum(term.value.sum().item() for term in terms) + constant,
            loss.item(),
            rtol=1e-6,
            atol=0,
        )


def test_a_cost_counted_in_integers_is_weighed_in_the_precision_of_the_loss() -> None:
    p = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    with an.record():
        count = (torch.distributions.Bernoulli(p).sample((5,)) < 2).sum()
        loss = count * p.detach() / 3 + 0 * count
    terms, _, _ = terms_of(loss)
    assert sum(term.value.sum().item() for term in terms) == pytest.approx(2 / 3, rel=1e-14)
