"""REBAR and RELAX have the exact gradient as mean: their noise is integrated by product rules."""

from typing import Any

import pytest
import torch
from grids import NORMAL, Rows, bits, exact, legendre, mean_of, tanh_sinh
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal, OneHotCategorical

import ancestral as an
from ancestral.estimators import REBAR, RELAX
from ancestral.estimators.rerun.site_draw import SiteEstimator


def one_bit(theta: Tensor) -> Any:
    z = Bernoulli(logits=theta[:, 0]).sample()
    return ((z - 0.45) ** 3 + theta[:, 0] * z).sum()


def pair(theta: Tensor) -> Any:
    z = Bernoulli(logits=theta).sample()
    return ((z - 0.3).pow(2).sum(-1) + 1.3 * z[:, 0] * z[:, 1] * theta[:, 0]).sum()


def pair_by_probs(theta: Tensor) -> Any:
    z = Bernoulli(probs=theta.sigmoid() ** 2).sample()
    return ((z[:, 0] - 0.3 * z[:, 1] + theta[:, 1]) ** 2).sum()


def one_event(theta: Tensor) -> Any:
    z = Independent(Bernoulli(logits=theta), 1).sample()
    return (z.sum(-1) - 0.7).pow(3).sum()


def examples_apart(theta: Tensor) -> Any:
    z = Bernoulli(logits=theta[:, :1] * torch.tensor([1.0, -0.4, 0.3])).sample()
    return ((z - 0.2) ** 2 * torch.tensor([1.0, 2.0, -1.0]) * theta[:, 1:]).sum()


def examples_of_pairs(theta: Tensor) -> Any:
    z = Bernoulli(logits=torch.stack([theta, 0.5 - theta], 1)).sample()
    return ((z[..., 0] - 0.4 * z[..., 1] + 0.2) ** 2).mean(-1).sum()


def three_bits(theta: Tensor) -> Tensor:
    z = Bernoulli(logits=theta).sample()
    return ((z @ torch.tensor([1.0, -0.6, 0.4], dtype=theta.dtype) - 0.2) ** 2).sum()  # type: ignore[no-any-return]


def below_a_layer(theta: Tensor) -> Any:
    x = Bernoulli(logits=theta[:, 0]).sample()
    z = Bernoulli(logits=theta[:, 1] - 0.8 * x).sample()
    return ((z - 0.6 * x + 0.1) ** 2 + x * theta[:, 0]).sum()


def loop(theta: Tensor) -> Tensor:
    state, total = torch.zeros_like(theta[:, 0]), torch.zeros_like(theta[:, 0])
    for step in range(2):
        z = an.sample(f"z{step}", Bernoulli(logits=theta[:, step]))
        state = 0.6 * state.tanh() + z * theta[:, 1]
        total = total + (state - 0.3) ** 2
    return total.sum()


def beside_one_another(theta: Tensor) -> Any:
    x = Bernoulli(logits=theta[:, 0]).sample()
    z = Bernoulli(logits=theta[:, 1]).sample()
    return ((x - 0.3) ** 2 * z + z * theta[:, 0]).sum()


def between_normals(theta: Tensor) -> Tensor:
    a = Normal(theta[:, 0], 0.5).rsample()
    z = Bernoulli(logits=theta[:, 1] + a).sample()
    b = Normal(z * theta[:, 0], 0.3).rsample()
    return ((b - 0.2) ** 2 + a * z).sum()  # type: ignore[no-any-return]


def elbo(theta: Tensor) -> Tensor:
    q = Bernoulli(logits=theta, validate_args=False)
    z = q.sample()
    p = Bernoulli(logits=torch.tensor([0.3, -0.2], dtype=theta.dtype), validate_args=False)
    return (q.log_prob(z) - p.log_prob(z)).sum() + (z.sum(-1) - 0.4).pow(2).sum()  # type: ignore[no-any-return]


def in_a_plate(theta: Tensor) -> Tensor:
    with an.plate("rows", len(theta)):
        z = an.sample("z", Bernoulli(logits=theta[:, 0]))
    return ((z - 0.4) ** 4 * theta[:, 1]).sum()


def two_classes(theta: Tensor) -> Tensor:
    z = OneHotCategorical(logits=theta).sample()
    return ((z @ torch.tensor([1.0, -0.5], dtype=theta.dtype)) ** 3 * (1 + theta[:, 0])).sum()  # type: ignore[no-any-return]


def three_classes(theta: Tensor) -> Tensor:
    z = OneHotCategorical(logits=theta).sample()
    return ((z @ torch.tensor([1.0, 2.0, -0.5], dtype=theta.dtype)) ** 2).sum()  # type: ignore[no-any-return]


def one_hot_examples(theta: Tensor) -> Tensor:
    z = OneHotCategorical(logits=torch.stack([theta, -theta / 2], 1)).sample()
    return ((z @ torch.tensor([1.0, -0.5], dtype=theta.dtype) - 0.3) ** 3).sum()  # type: ignore[no-any-return]


ONE, TWO = bits(), bits(2)
PAIRED, THREE = (torch.eye(count, dtype=torch.float64) for count in (2, 3))
CASES = {
    case.program.__name__: case
    for case in (
        Rows(one_bit, [0.9], {"z": ONE}),
        Rows(pair, [0.3, -0.8], {"z": TWO}, 2),
        Rows(pair_by_probs, [0.3, -0.8], {"z": TWO}, 2),
        Rows(one_event, [0.3, -0.8], {"z": TWO}, 2),
        Rows(examples_apart, [0.9, -0.4], {"z": bits(3)}),
        Rows(
            examples_of_pairs,
            [0.3, -0.8],
            {"z": bits(2, 2)},
            2,
            legendre,
            lambda found, shape: found[:, None].expand(shape),
        ),
        Rows(below_a_layer, [0.3, -0.8], {"x": ONE, "z": ONE}),
        Rows(loop, [0.3, -0.8], {"z0": ONE, "z1": ONE}),
        Rows(beside_one_another, [0.3, -0.8], {"x": ONE, "z": ONE}),
        Rows(between_normals, [0.3, -0.8], {"a": NORMAL, "z": ONE, "b": NORMAL}),
        Rows(elbo, [0.9, -0.3], {"z": TWO}, 2),
        Rows(in_a_plate, [0.9, -0.3], {"z": ONE}),
        Rows(two_classes, [0.3, -0.5], {"z": PAIRED}, 2, tanh_sinh),
        Rows(
            one_hot_examples,
            [0.3, -0.5],
            {"z": torch.stack([torch.stack([a, b]) for a in PAIRED for b in PAIRED])},
            2,
            tanh_sinh,
            lambda found, shape: found[:, None].expand(shape),
        ),
    )
}
LARGE = {
    case.program.__name__: case
    for case in (
        Rows(three_bits, [0.3, -0.8, 0.5], {"z": bits(3)}, 3),
        Rows(
            three_classes, [0.3, -0.8, 0.1], {"z": torch.eye(3, dtype=torch.float64)}, 3, tanh_sinh
        ),
    )
}


def check(case: Rows, estimator: SiteEstimator, nodes: int) -> None:
    relaxed = {name: estimator for name in case.sites if name.startswith("z")}
    found = mean_of(case, {**relaxed, "*": "auto"}, nodes)
    expected = exact(case)
    assert float((found - expected).abs().max()) <= 1e-8 * float(expected.abs().max())


def nodes_of(case: Rows) -> int:
    return 44 if case.rule is tanh_sinh else 16


def control(y: Tensor) -> Tensor:
    return 0.3 * y.sigmoid().sum() + 0.1 * (y / 2).tanh().prod()


@pytest.mark.parametrize("estimator", [REBAR(1.0), REBAR(0.5, 0.3)], ids=repr)
@pytest.mark.parametrize("name", CASES)
def test_rebar(name: str, estimator: SiteEstimator) -> None:
    check(CASES[name], estimator, nodes_of(CASES[name]))


@pytest.mark.parametrize(("name", "nodes"), [("three_bits", 12), ("three_classes", 36)])
def test_rebar_of_three(name: str, nodes: int) -> None:
    check(LARGE[name], REBAR(1.0), nodes)


@pytest.mark.parametrize("name", [name for name in CASES if name != "one_hot_examples"])
def test_relax(name: str) -> None:
    nodes = 10 if name == "examples_of_pairs" else nodes_of(CASES[name])
    check(CASES[name], RELAX(control, 0.6, 1.0), nodes)
