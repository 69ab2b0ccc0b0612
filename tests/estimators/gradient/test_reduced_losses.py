"""Losses of `torch.nn.functional` that reduce: a cost for each element, as it was weighed."""

import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from terms import X, Y, assert_is_taken_apart, leaf, number, total
from torch import Tensor, nn

import ancestral as an
from ancestral.estimators.gradient.loss_terms import op_name, terms_of


def reduced_losses() -> dict[str, tuple[Callable[..., Tensor], tuple[object, ...]]]:
    """Return losses of `torch.nn.functional` and what they take after the input."""
    labels = torch.tensor([0, 2, 1, 2])
    weights = torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)
    part = functools.partial
    ones = torch.where(Y > 1, 1.0, -1.0).double()
    return {
        "mse": (F.mse_loss, (Y,)),
        "l1": (F.l1_loss, (Y,)),
        "smooth l1": (part(F.smooth_l1_loss, beta=0.3), (Y,)),
        "huber": (part(F.huber_loss, delta=0.7), (Y,)),
        "bce with logits": (F.binary_cross_entropy_with_logits, (Y.sigmoid(),)),
        "bce with weight": (
            part(F.binary_cross_entropy_with_logits, weight=Y, pos_weight=weights),
            (Y.sigmoid(),),
        ),
        "cross entropy": (F.cross_entropy, (labels,)),
        "cross entropy with weights": (part(F.cross_entropy, weight=weights), (labels,)),
        "cross entropy that ignores": (part(F.cross_entropy, ignore_index=2), (labels,)),
        "cross entropy with both": (
            part(F.cross_entropy, weight=weights, ignore_index=2),
            (labels,),
        ),
        "cross entropy, smooth": (part(F.cross_entropy, label_smoothing=0.1), (labels,)),
        "cross entropy, smooth and weighted": (
            part(F.cross_entropy, label_smoothing=0.2, weight=weights),
            (labels,),
        ),
        "cross entropy of probabilities": (F.cross_entropy, (Y.softmax(1),)),
        "nll": (F.nll_loss, (labels,)),
        "nll with both": (part(F.nll_loss, weight=weights, ignore_index=2), (labels,)),
        "poisson": (F.poisson_nll_loss, (Y,)),
        "soft margin": (F.soft_margin_loss, (ones,)),
        "hinge": (part(F.hinge_embedding_loss, margin=0.5), (ones,)),
        "kl": (F.kl_div, (Y.softmax(1),)),
    }


LOSSES = reduced_losses()


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")  # torch's remark on its kl_div
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_reduced_loss_is_a_cost_for_each_element(name: str, reduction: str) -> None:
    function, rest = LOSSES[name]
    x = leaf(X)
    loss = function(x, *rest, reduction=reduction)
    terms, constant, _ = terms_of(3 * loss + x.sum())
    whole, each = terms[0], function(an.untrack(x), *rest, reduction="none").detach()
    if whole.leaf is x:
        whole = terms[1]
    assert len(terms) == 2
    assert whole.value.shape == each.shape
    assert an.provenance_of(whole.leaf) == {"x"}
    kept = each != 0
    ratio = (whole.value[kept] / each[kept]).unique()
    assert ratio.max().item() == pytest.approx(ratio.min().item(), rel=1e-9)
    expected = number(3 * loss + x.sum())
    assert total(terms, constant) == pytest.approx(expected, rel=1e-9)


def test_the_default_reduction_is_the_mean() -> None:
    (term,), _, _ = terms_of(F.mse_loss(leaf(X), Y))
    torch.testing.assert_close(term.value, (X - Y) ** 2 / 12)


def test_batchmean_divides_by_the_batch() -> None:
    x = leaf(X)
    loss = F.kl_div(x, Y.softmax(1), reduction="batchmean")
    (term,), _, _ = terms_of(loss)
    each = F.kl_div(X, Y.softmax(1), reduction="none")
    torch.testing.assert_close(term.value, each / 4)


@pytest.mark.parametrize("shape", [(4,), (2, 3, 5)])
def test_classes_lie_in_dimension_one_whatever_follows(shape: tuple[int, ...]) -> None:
    logits = leaf(torch.randn(shape, dtype=torch.float64))
    target_shape = () if len(shape) == 1 else (shape[0], *shape[2:])
    target = torch.zeros(target_shape, dtype=torch.long)
    weight = torch.linspace(0.5, 2, shape[min(1, len(shape) - 1)], dtype=torch.float64)
    for labels in (target, target + 1):
        loss = F.cross_entropy(logits, labels, weight=weight)
        (term,), _, _ = terms_of(loss)
        assert term.value.shape == target_shape
        assert float(term.value.sum()) == pytest.approx(number(loss))


def test_a_loss_module_is_taken_apart_as_its_function() -> None:
    (term,), _, _ = terms_of(nn.MSELoss()(leaf(X), Y))
    assert term.value.shape == (4, 3)


def test_a_loss_without_reduction_is_one_cost() -> None:
    x = leaf(X)
    each = F.mse_loss(x, Y, reduction="none")
    assert_is_taken_apart(each.sum(), each)


def test_the_terms_of_an_elbo_have_the_shape_of_their_elements() -> None:
    logits = leaf(X)
    kl = (logits - 1).square()
    loss = F.binary_cross_entropy_with_logits(logits, Y.sigmoid()) + 0.5 * kl.sum(1).mean()
    terms, constant, _ = terms_of(loss)
    each = F.binary_cross_entropy_with_logits(X, Y.sigmoid(), reduction="none") / 12
    values = {op_name(term.leaf): term.value for term in terms}
    assert values.keys() == {"binary_cross_entropy_with_logits", "pow"}
    torch.testing.assert_close(values["pow"], (X - 1) ** 2 / 8)
    torch.testing.assert_close(values["binary_cross_entropy_with_logits"], each)
    assert total(terms, constant) == pytest.approx(number(loss))
