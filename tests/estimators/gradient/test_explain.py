"""Explanations: what stays separate by perturbation, what mixed the rest, and what that costs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor
from torch.distributions import Bernoulli, Categorical

import ancestral as an
from ancestral.estimators.gradient.explain import Line
from ancestral.estimators.gradient.loss_pytree import LossError
from ancestral.provenance.algebra.alignment_loss import Mix

B, N = 4, 3
LOGITS = torch.linspace(-1.0, 1.0, B * N, dtype=torch.float64).reshape(B, N)
MIXING = torch.tensor([[0.5, -0.3, 1.1], [0.2, 1.0, -0.4], [0.7, 0.1, -0.9]], dtype=torch.float64)
Step = Callable[[Tensor], Tensor]

# A step, and the ops that mix dimension 0 and dimension 1, "" where it stays separate.
STEPS: dict[str, tuple[Step, str, str]] = {
    "elementwise": (lambda z: z.exp() + 1, "", ""),
    "a sum over features": (lambda z: z.sum(1), "", "sum"),
    "a linear layer": (lambda z: F.linear(z, MIXING), "", "linear"),
    "a product from the left": (lambda z: LOGITS[:, :2].T @ z, "matmul", ""),
    "a mean that is subtracted": (lambda z: z - z.mean(0), "mean", ""),
    "roll": (lambda z: (z * 2).roll(1, 0).exp(), "roll", ""),
    "cumsum": (lambda z: z.cumsum(0) + z, "cumsum", ""),
    "sort": (lambda z: z.sort(1).values, "", "sort"),
    "flatten and back": (lambda z: z.flatten().reshape(B, N) * 2, "", ""),
    "batch norm": (lambda z: F.batch_norm(z, None, None, training=True), "batch_norm", ""),
    "layer norm": (lambda z: F.layer_norm(z, (N,)), "", "layer_norm"),
    "element by element": (lambda z: torch.stack([row * 2 for row in z]), "", ""),
    "two in turn": (lambda z: F.linear(z.roll(1, 0), MIXING), "roll", "linear"),
    "an op without a rule": (lambda z: z.as_strided((B, N), (N, 1)), "as_strided", "as_strided"),
}


def separates(step: Step, dim: int) -> bool:
    """Return whether no element of the cost changes with elements of two indices along `dim`."""
    seen: dict[tuple[int, ...], int] = {}
    for bits in range(0, 2 ** (B * N), 37):
        z = torch.tensor([bits >> i & 1 for i in range(B * N)], dtype=torch.float64).reshape(B, N)
        for place in ((n, (n + 1) % N) for n in range(B)):
            other = z.clone()
            other[place] = 1 - other[place]
            for at in ((step(z) - step(other)).abs() > 1e-9).nonzero().tolist():
                if seen.setdefault(tuple(at), place[dim]) != place[dim]:
                    return False
    return True


def explained(step: Step) -> dict[int, Line]:
    with an.record():
        z = Bernoulli(logits=LOGITS.clone().requires_grad_()).sample()
        cost = step(z) ** 2
    return {line.dim: line for line in an.explain(z, cost).lines}  # type: ignore[misc]


@pytest.mark.parametrize("name", STEPS)
def test_a_dimension_is_separate_only_if_a_perturbation_says_so(name: str) -> None:
    step, *mixing = STEPS[name]
    for dim, line in explained(step).items():
        assert line.is_separate == (not mixing[dim])
        assert not line.is_separate or separates(step, dim)


@pytest.mark.parametrize("name", STEPS)
def test_the_op_that_mixed_is_named_with_its_line(name: str) -> None:
    step, *mixing = STEPS[name]
    place = f"{__file__}:{step.__code__.co_firstlineno}"
    for dim, line in explained(step).items():
        assert line.mixes == ((Mix(mixing[dim], place),) if mixing[dim] else ())
        assert (line.site, line.size) == ("z", (B, N)[dim])


def test_a_mixing_op_before_a_site_between_is_found() -> None:
    with an.record() as trace:
        z = Bernoulli(logits=LOGITS.clone().requires_grad_()).sample()
        mixed = z.cumsum(0)
        w = Bernoulli(logits=mixed).sample()
        loss = ((w - 0.3) ** 2).sum()
    found = {(line.site, line.dim): line for line in trace.explain(loss).lines}
    assert [mix.op for mix in found["z", 0].mixes] == ["cumsum"]
    assert found["z", 1].is_separate
    assert found["w", 0].is_separate


def test_the_draw_is_named_where_it_mixes_its_own_parameters() -> None:
    with an.record() as trace:
        z = Bernoulli(logits=LOGITS.clone().requires_grad_()).sample()
        k = Categorical(probs=z + 1, validate_args=False).sample()
        loss = (k.double() - 0.3).square().sum()
    found = {(line.site, line.dim): line for line in trace.explain(loss).lines}
    assert {mix.op for mix in found["z", 1].mixes} <= {"sum", "Categorical"}
    assert found["z", 1].mixes
    assert found["z", 0].is_separate


def test_a_decision_of_python_is_named() -> None:
    with an.record() as trace:
        z = Bernoulli(logits=LOGITS.clone().requires_grad_()).sample()
        sign = 1.0 if z.any() else -1.0
        w = Bernoulli(logits=LOGITS * sign).sample()
        loss = (w * 2.0).exp().sum()
    line = next(line for line in trace.explain(loss).lines if line.site == "z")
    assert not line.is_separate
    assert [mix.op for mix in line.mixes] == ["the decision", "any"]
    with an.record() as trace:
        z = Bernoulli(logits=torch.zeros(3, requires_grad=True)).sample()
        sign = 1.0 if z[0] else -1.0
        loss = (Bernoulli(logits=LOGITS * sign).sample() * 2.0).exp().sum()
    line = next(line for line in trace.explain(loss).lines if line.site == "z")
    assert ["decision" in mix.op for mix in line.mixes] == [True]


def test_of_elements_taken_by_a_mask_it_is_told_how_to_keep_them_at_their_places() -> None:
    table = torch.eye(3, requires_grad=True)
    with an.record() as trace:
        z = Categorical(logits=torch.zeros(6, 3, requires_grad=True)).sample()
        out = torch.zeros(6)
        for value in range(3):
            rows = torch.where(z == value)[0]
            out = out.index_add(0, rows, table[value].sum().expand(len(rows)))
        loss = out.square().sum()
    (advice,) = trace.explain(loss).advice
    assert "torch.where(mask, new, old)" in advice
    assert "an.record(trust=" not in advice


@pytest.mark.parametrize("batch", [8, 64])
def test_mixing_a_batch_of_equal_costs_makes_the_squared_credit_its_square(batch: int) -> None:
    with an.record() as trace:
        z = Bernoulli(logits=torch.zeros(batch, requires_grad=True)).sample()
        loss = (5 + 1e-12 * (z - z.mean())).square().sum()
    (line,) = trace.explain(loss).lines
    assert line.excess == pytest.approx(batch**2)


Tie = Callable[[Tensor, Tensor], Tensor]
Program = Callable[[Tensor, Tie], Tensor]


def tied(x: Tensor, by: Tensor) -> Tensor:
    """Let a tensor depend on another, and change by next to nothing."""
    return x + 1e-12 * by


def untied(x: Tensor, by: Tensor) -> Tensor:
    return x


def of_equal_costs(z: Tensor, tie: Tie) -> Tensor:
    return tie(5 + z, z.sum()).square().sum()


def beside_a_dimension_apart(z: Tensor, tie: Tie) -> Tensor:
    """The other dimension stays apart."""
    return tie(z - 3, z.sum(0)).square().sum()


def in_groups(z: Tensor, tie: Tie) -> Tensor:
    """Two elements each are tied, not all eight."""
    pairs = z.view(4, 2)
    return tie(pairs - 3, pairs.mean(1, keepdim=True)).flatten().pow(3).sum()


def beside_a_term_apart(z: Tensor, tie: Tie) -> Tensor:
    return (3 * z - 1).square().sum() + tie(z - 0.3, z.mean()).exp().sum()


def beside_a_pathwise_term(x: Tensor, tie: Tie) -> Tensor:
    """The smooth term, tied as well, is none of the site's credit."""
    step = (x > 0).double()
    smooth = tie(x + 4, x.mean()).square().sum()
    return smooth + tie(step - 0.3, step.mean()).square().sum()


def drawn_in(program: Program, tie: Tie) -> tuple[an.Trace, Tensor]:
    torch.manual_seed(3)
    logits = torch.linspace(-1.0, 1.0, 8, dtype=torch.float64).requires_grad_()
    with an.record() as trace:
        if program is beside_a_pathwise_term:
            z = torch.distributions.Normal(logits, 1.0).rsample()
        elif program is beside_a_dimension_apart:
            z = Bernoulli(logits=logits.view(2, 4)).sample()
        else:
            z = Bernoulli(logits=logits).sample()
        return trace, program(z, tie)


@pytest.mark.parametrize("is_after", [False, True])
@pytest.mark.parametrize(
    "program",
    [
        of_equal_costs,
        beside_a_dimension_apart,
        in_groups,
        beside_a_term_apart,
        beside_a_pathwise_term,
    ],
)
def test_a_mixed_dimension_costs_what_the_gradient_is_given_besides(
    program: Program, is_after: bool
) -> None:
    """Against the squared credit with the same costs, untied: both as `an.backward` has it."""
    squares = []

    def note(credit: Any) -> float:
        whole = an.untrack(credit.total).expand(credit.shape)
        squares.append(float(whole.square().sum()))
        return 0.0

    for tie in (tied, untied):
        trace, loss = drawn_in(program, tie)
        before = trace.explain(loss)
        an.backward(loss, baseline=note)
        lines = (trace.explain() if is_after else before).lines
        if tie is tied:
            (excess,) = [line.excess for line in lines if not line.is_separate and line.dim == 0]
    assert excess == pytest.approx(squares[0] / squares[1])
    assert excess > 1.2


def test_a_site_without_a_score_has_no_credit_to_lose() -> None:
    with an.record() as trace:
        x = torch.distributions.Normal(LOGITS[0].clone().requires_grad_(), 1.0).rsample()
        loss = (x - x.mean()).square().sum()
    (line,) = trace.explain(loss).lines
    assert not line.is_separate
    assert line.excess is None
    an.backward(loss, estimator="score")
    (line,) = trace.explain().lines
    assert line.excess is not None


def test_what_a_lost_dimension_costs_is_unknown_where_the_cost_has_none_of_its_size() -> None:
    with an.record() as trace:
        z = Bernoulli(logits=LOGITS.clone().requires_grad_()).sample()
        loss = F.linear(z, MIXING[:2]).exp().sum()
    found = {line.dim: line for line in trace.explain(loss).lines}
    assert found[1].excess is None


def test_the_most_expensive_comes_first_and_a_screen_is_the_most() -> None:
    with an.record() as trace:
        sites = [Bernoulli(logits=torch.zeros(3, 2, requires_grad=True)).sample()]
        sites += [Bernoulli(logits=sites[0] * 0.1 + i).sample() for i in range(60)]
        loss = sum((s.mean(0).exp().sum() for s in sites), torch.zeros(()))
    explanation = trace.explain(loss)
    spoilt = [line.is_separate for line in explanation.lines]
    assert spoilt == sorted(spoilt)
    text = str(explanation).splitlines()
    assert len(text) == 42
    assert text[-1].startswith("... and ")
    assert len({line.index("size") for line in text[:1]}) == 1


def test_nothing_changes_and_the_trace_explains_after_the_gradient() -> None:
    gradients = []
    for is_explained in (False, True):
        torch.manual_seed(0)
        logits = LOGITS.clone().requires_grad_()
        with an.record() as trace:
            z = Bernoulli(logits=logits).sample()
            loss = (F.linear(z, MIXING) ** 2).sum()
        before = str(trace.explain(loss)) if is_explained else ""
        an.backward(loss)
        gradients.append(logits.grad)
        assert not is_explained or str(trace.explain()) == before
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


def test_declared_costs_are_explained_without_a_loss() -> None:
    with an.record() as trace:
        z = Bernoulli(logits=LOGITS.clone().requires_grad_()).sample()
        an.cost("apart", z * 2)
        an.cost("mixed", z.mean(0).exp())
    assert {(line.dim, line.separate, line.costs) for line in trace.explain().lines} == {
        (0, 1, 2),
        (1, 2, 2),
    }


def test_a_site_that_is_none_and_a_cost_without_it_are_errors() -> None:
    with an.record():
        z = Bernoulli(logits=LOGITS.clone().requires_grad_()).sample()
        w = Bernoulli(logits=LOGITS.clone().requires_grad_()).sample()
        cost = (w * 2).exp()
    with pytest.raises(LossError, match=r"'nobody' is no site .*its sites are 'z', 'w'"):
        an.explain("nobody", cost)
    with pytest.raises(LossError, match="no draw gave"):
        an.explain(z * 1, cost)
    with pytest.raises(LossError, match=r"does not depend on site 'z' \(.*test_explain"):
        an.explain(z, cost)
    assert [line.site for line in an.explain("w", cost).lines] == ["w", "w"]
