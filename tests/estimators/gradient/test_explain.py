"""Explanations: what stays separate by perturbation, what mixed the rest, and what that costs."""

from collections.abc import Callable

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


@pytest.mark.parametrize("batch", [8, 64])
def test_mixing_a_batch_of_equal_costs_makes_the_squared_credit_its_square(batch: int) -> None:
    with an.record() as trace:
        z = Bernoulli(logits=torch.zeros(batch, requires_grad=True)).sample()
        loss = (5 + 1e-12 * (z - z.mean())).square().sum()
    (line,) = trace.explain(loss).lines
    assert line.excess == pytest.approx(batch**2)


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
