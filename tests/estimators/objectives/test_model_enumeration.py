"""What the model alone enumerates is summed out of the weights, as if it were summed by hand."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal
from torch.nn.functional import softplus

import ancestral as an

X = torch.tensor([0.3, -1.2, 0.8], dtype=torch.float64)
Parameters = dict[str, Tensor]


def parameters() -> Parameters:
    values = {"k": [0.2, -0.4, 0.1], "z": [0.3, -0.2, 0.9], "x": [0.1, 1.2, -0.7], "q": [0.4, -0.3]}
    return {n: torch.tensor(v, dtype=torch.float64).requires_grad_() for n, v in values.items()}


def enumerated(p: Parameters, is_shared: bool) -> Callable[[Tensor], None]:
    def model(x: Tensor) -> None:
        with an.handlers.enumerate(first_dim=-3):
            k = an.sample("k", Categorical(logits=p["k"])) if is_shared else torch.tensor(0)
            with an.plate("n", 3):
                if not is_shared:
                    k = an.sample("k", Categorical(logits=p["k"]))
                z = an.sample("z", Bernoulli(logits=p["z"][k]))
                an.sample("x", Normal(p["x"][k] + 2 * z, 1.0), obs=x)
            an.sample("y", Normal(p["x"].sum(), 1.0), obs=x.sum())

    return model


def by_hand(p: Parameters, is_shared: bool) -> Callable[[Tensor], None]:
    def model(x: Tensor) -> None:
        k = torch.arange(3)[:, None, None]
        log_k = Categorical(logits=p["k"]).logits[k]
        logits, means = p["z"][k], p["x"][k]
        with an.plate("n", 3):
            z = an.sample("z", Bernoulli(logits=torch.zeros(())))
            joint = logits * z - softplus(logits) + math.log(2)
            joint = joint - (x - means - 2 * z) ** 2 / 2 - math.log(2 * math.pi) / 2
            if not is_shared:
                an.factor("all", (joint + log_k).logsumexp(0))
        if is_shared:
            an.factor("all", (joint.sum(-1, keepdim=True) + log_k).logsumexp(0))
        an.sample("y", Normal(p["x"].sum(), 1.0), obs=x.sum())

    return model


CALLS: dict[str, Callable[..., Any]] = {
    "iwae": an.infer.iwae,
    "renyi": lambda *a, **k: an.infer.renyi(*a, alpha=0.5, **k),
    "multi_sample": lambda *a, **k: an.infer.multi_sample(*a, function=lambda w: w.mean(0), **k),
    "thermodynamic": an.infer.thermodynamic,
    "wake_sleep": an.infer.wake_sleep,
    "forward_kl": an.infer.forward_kl,
    "log_evidence": an.infer.log_evidence,
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("vectorized", [False, True])
def test_value_weights_and_gradient_are_those_of_a_sum_by_hand(
    name: str, is_shared: bool, vectorized: bool
) -> None:
    found = []
    for made in (enumerated, by_hand):
        p = parameters()

        def guide(x: Tensor, p: Parameters = p) -> None:
            with an.plate("n", 3):
                an.sample("z", Bernoulli(logits=p["q"][0] + p["q"][1] * x))

        torch.manual_seed(0)
        options = {"particles": 4, "vectorized": vectorized}
        bound = CALLS[name](made(p, is_shared), guide, X, max_plate_nesting=1, **options)
        grads = torch.autograd.grad(bound.surrogate, [*p.values()], materialize_grads=True)
        found.append((bound.value.double(), bound.log_weights, grads))
    is_whole = is_shared or name == "multi_sample"  # of which constants are a part
    assert found[0][1].shape == ((4,) if is_whole else (4, 3))
    torch.testing.assert_close(found[0], found[1])
