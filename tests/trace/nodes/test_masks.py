"""Masks: what a mask hides counts in no value, gradient, check of a support or message.

The oracle is plain torch, which is given the elements that count and no others.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from families import FAMILIES
from torch import Tensor
from torch.distributions import Distribution

import ancestral as an

KEEP = torch.tensor([[False, True], [True, False], [True, True]])
BAD = {"nan": torch.nan, "infinity": torch.inf, "padding": -1, "the largest number": None}
# The parts of the first lie along a dimension of the batch, so that elements on their own are other
# ones; the others have no density.
_LEFT_OUT = ("of CatTransform", "of LowerCholeskyTransform", "of PositiveDefiniteTransform")
ELEMENTWISE = [name for name in FAMILIES if name not in _LEFT_OUT]
# Torch does not make them of a matrix that cannot be decomposed.
DECOMPOSED = ("covariance_matrix", "precision_matrix", "cov_factor", "cov_diag")
# Torch computes with their arguments before the mask is known: autograd multiplies the gradient of
# zero that reaches the results by what is not finite. Those of the other elements are exact.
COMPUTED = (
    "Categorical Kumaraswamy ExpRelaxedCategorical LowRankMultivariateNormal MixtureSameFamily "
    "Multinomial OneHotCategorical OneHotCategoricalStraightThrough RelaxedOneHotCategorical "
    "Weibull"
).split()


@contextmanager
def validation(is_on: bool) -> Iterator[None]:
    known = Distribution._validate_args
    Distribution.set_default_validate_args(is_on)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(known)


def spoilt(tensor: Tensor, keep: Tensor, bad: float | None) -> Tensor:
    """Return a tensor, [**event], with a bad number where it is not kept."""
    if bad is None or not (tensor.is_floating_point() or math.isfinite(bad)):
        bad = (torch.finfo if tensor.is_floating_point() else torch.iinfo)(tensor.dtype).max
    return torch.where(keep[(..., *(None,) * (tensor.dim() - keep.dim()))], tensor, bad)


def observed(fn: Distribution, value: Tensor, keep: Tensor) -> Any:
    with an.record() as trace, an.handlers.mask(keep):
        an.sample("x", fn, obs=value)
    return trace["x"]


def leaves(given: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone().requires_grad_() for name, tensor in given.items()}


def drawn(name: str, given: dict[str, Tensor]) -> Tensor:
    with torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
        torch.manual_seed(1)
        warnings.simplefilter("ignore")  # of a Wishart, that a draw is singular: it draws again
        value: Tensor = FAMILIES[name].make(**given).sample()
    return value


def made(name: str) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {key: make() for key, make in FAMILIES[name].parameters.items()}


def expected(name: str, given: dict[str, Tensor], value: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return density and gradient of the elements that count alone, zero elsewhere."""
    whole = leaves(given)
    density = (
        FAMILIES[name].make(**{key: p[KEEP] for key, p in whole.items()}).log_prob(value[KEEP])
    )
    return density.detach(), list(torch.autograd.grad(density.sum(), list(whole.values())))


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("is_checked", [True, False])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_hidden_value_counts_nowhere(name: str, is_checked: bool, bad: str) -> None:
    given = made(name)
    value = drawn(name, given)
    density, gradient = expected(name, given, value)
    params = leaves(given)
    with validation(is_checked):
        node = observed(FAMILIES[name].make(**params), spoilt(value, KEEP, BAD[bad]), KEEP)
    found = node.log_prob
    torch.testing.assert_close(found[KEEP], density, check_dtype=False)
    assert (found[~KEEP] == 0).all()
    ours = torch.autograd.grad(found.sum(), list(params.values()))
    torch.testing.assert_close(ours, tuple(gradient))
    for each in ours:
        assert (each[~KEEP] == 0).all()


@pytest.mark.parametrize("bad", ["nan", "infinity"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_a_hidden_parameter_counts_nowhere(name: str, bad: str) -> None:
    given = made(name)
    value = drawn(name, given)
    density, gradient = expected(name, given, value)
    params = leaves(
        {k: p if k in DECOMPOSED else spoilt(p, KEEP, BAD[bad]) for k, p in given.items()}
    )
    with validation(False):
        node = observed(FAMILIES[name].make(**params), spoilt(value, KEEP, BAD[bad]), KEEP)
    found = node.log_prob
    torch.testing.assert_close(found[KEEP], density, check_dtype=False)
    ours = torch.autograd.grad(found.sum(), list(params.values()))
    for each, truth, key in zip(ours, gradient, params, strict=True):
        torch.testing.assert_close(each[KEEP], truth[KEEP], msg=key)
        assert name.split(" of ")[0] in COMPUTED or (each[~KEEP] == 0).all(), key
