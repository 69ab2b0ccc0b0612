"""Operators: what is kept of one call says nothing wrong of the next."""

import itertools
import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, MultivariateNormal

import ancestral as an
from ancestral.provenance.tensor.tensor import provenance

Binary = Callable[[Tensor, Tensor], Tensor]
FUNCTIONS: dict[str, tuple[Binary, Binary]] = {
    "add": (torch.add, lambda x, y: x + y),
    "sub": (torch.sub, lambda x, y: x - y),
    "mul": (torch.mul, lambda x, y: x * y),
    "div": (torch.div, lambda x, y: x / y),
    "Tensor.add": (Tensor.add, lambda x, y: x + y),
    "Tensor.true_divide": (Tensor.true_divide, lambda x, y: x / y),
}


def coins() -> tuple[Tensor, Tensor, Tensor]:
    """Draw two coins for each of three cases; return them and what is learned."""
    probs = torch.full((3,), 0.4, requires_grad=True)
    return Bernoulli(probs).sample(), Bernoulli(probs).sample(), probs


OPERANDS: dict[str, Callable[[Tensor], Tensor]] = {
    "tracked": lambda y: y + 1,
    "plain": lambda y: torch.tensor([1.0, 2.0, 3.0]),
    "parameter": lambda y: nn.Parameter(torch.tensor([1.0, 2.0, 3.0])),
    "of fewer dimensions": lambda y: nn.Parameter(torch.tensor(2.0)),
    "of more dimensions": lambda y: torch.ones(2, 1) + 1,
}


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("operand", OPERANDS)
@pytest.mark.parametrize("has_history", [True, False])
def test_a_function_is_followed_as_its_operator(
    function: str, operand: str, has_history: bool
) -> None:
    found: list[tuple[object, ...]] = []
    for call in FUNCTIONS[function]:
        torch.manual_seed(0)
        with an.record():
            x, y, probs = coins()
            with torch.set_grad_enabled(has_history):
                result = call(x, OPERANDS[operand](y))
            loss = (result * torch.arange(3.0)).sum()
        an.backward(loss)
        known = provenance(result)
        assert known is not None
        assert probs.grad is not None
        names = sorted(source.name for source in known.sources)
        found.append((names, probs.grad.tolist(), result._form is None))  # type: ignore[attr-defined]
    assert found[0] == found[1]


@pytest.mark.parametrize("operand", [nn.Parameter, lambda w: w.requires_grad_()])
def test_a_factor_that_is_learned_gets_its_gradient_whatever_it_was_before(
    operand: Callable[[Tensor], Tensor],
) -> None:
    for dtype, is_learned in itertools.product((torch.float32, torch.float64), (False, True) * 2):
        w = operand(torch.full((3,), 2.0, dtype=dtype)).requires_grad_(is_learned)
        with an.record():
            x, y, probs = coins()
            loss = (x * w + y / w).sum()
        an.backward(loss)
        assert probs.grad is not None
        expected = an.untrack(x) - an.untrack(y) / 4
        assert (w.grad is None) is not is_learned
        if w.grad is not None:
            torch.testing.assert_close(w.grad, expected.to(dtype))


def test_a_factor_that_is_written_into_before_the_gradient_leaves_one_cost() -> None:
    w = nn.Parameter(torch.ones(3))
    with an.record():
        x, _, probs = coins()
        loss = (x * w).sum()
        with torch.no_grad():
            w.add_(1)
    an.backward(loss, baseline=None)
    drawn = an.untrack(x)
    score = (drawn - 0.4) / (0.4 * 0.6)
    torch.testing.assert_close(probs.grad, drawn.sum() * score)


def test_the_join_of_two_tensors_is_that_of_these_two() -> None:
    with an.record():
        x, y, _ = coins()
        z = Bernoulli(0.5 * torch.ones(3)).sample()
        for other in (y, z, y, x):
            names = an.provenance_of(x) | an.provenance_of(other)
            for _ in range(2):
                assert an.provenance_of(x + other) == names
                assert an.provenance_of(other - x) == names
    with an.record():
        x, y, _ = coins()
        assert provenance(x + y) is provenance(x + y)


def test_truth_values_have_no_sum_though_numbers_of_the_same_sources_have() -> None:
    with an.record():
        x, y, _ = coins()
        for _ in range(2):
            assert (x + y)._form is not None  # type: ignore[attr-defined]
            assert ((x > 0) + (y > 0))._form is None  # type: ignore[attr-defined]


def test_a_sum_after_the_gradient_is_a_constant() -> None:
    with an.record():
        x, y, _ = coins()
        loss = (x + y).sum()
        assert len(an.provenance_of(x + y)) == 2
    an.backward(loss)
    assert an.provenance_of(x + y) == frozenset()
    assert an.provenance_of(torch.add(x, y)) == frozenset()


def test_a_sum_that_shapes_make_raise_is_no_escape() -> None:
    with an.record(control="error"):
        x, _, _ = coins()
        with pytest.raises(RuntimeError, match="size"):
            torch.add(x, torch.ones(2))
        an.backward(x.sum())


def test_a_function_of_an_inference_tensor_says_what_to_do() -> None:
    with an.record():
        x, _, _ = coins()
        w = torch.ones(3, requires_grad=True)
        with torch.inference_mode():
            held = x * 2
        for call in (torch.mul, lambda a, b: a * b):
            with pytest.raises(an.errors.InferenceTensorError, match="no_grad"):
                call(held, w)
        an.backward(x.sum())


@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_a_comparison_can_be_viewed_as_torch_lays_it_out(name: str) -> None:
    rows = torch.arange(6.0).view(2, 3)
    compare = getattr(operator, name)
    with an.record():
        columns = Bernoulli(torch.full((3, 2), 0.4)).sample().mT
        for first, second in ((rows, columns), (columns, rows)):
            found = compare(first, second)
            assert torch.equal(an.untrack(found), compare(an.untrack(first), an.untrack(second)))
            assert found.view(-1).shape == (6,)  # rows first: Python does not tell which it was


def test_a_tracked_matrix_that_a_factorization_lays_out_in_columns_is_a_scale() -> None:
    root = torch.tensor([[1.0, 0.0], [0.4, 0.9]])
    with an.record():
        factor = Bernoulli(torch.full((3, 1, 1), 0.4)).sample() + 1
        scale = torch.linalg.cholesky(factor * (root @ root.mT))
        fn = MultivariateNormal(torch.zeros(3, 2), scale_tril=scale)
        z = fn.sample()
        assert fn.log_prob(z).shape == (3,)
    assert not scale.is_contiguous()
