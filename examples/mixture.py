"""A mixture of Gaussians whose assignments are drawn: 150 flowers, three kinds, no labels.

The model draws the kind of each flower and then its petals (scikit-learn's iris data). The guide
draws the kinds too, so that they need score functions; each flower's is credited with the costs of
that flower alone, which nothing in the programs says but the plate. The labels are looked at only
at the end.

    python examples/mixture.py
"""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_iris  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal, constraints

import ancestral as an
from ancestral.estimators.credit.credit import Estimator

KINDS = 3
NETWORK = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, KINDS))


@dataclass(frozen=True)
class Result:
    """What was found: the bound, the exact evidence of the parameters found, and the groups."""

    bound: float
    log_evidence: float
    accuracy: float
    variance_ratio: float  # of the gradient with credit by site, to that by element


def flowers() -> tuple[Tensor, Tensor]:
    """Return length and width of each petal [150, 2], standardized, and the true kinds [150]."""
    data = load_iris()
    petals = torch.as_tensor(data.data[:, 2:], dtype=torch.float32)
    return (petals - petals.mean(0)) / petals.std(0), torch.as_tensor(data.target)


def model(petals: Tensor) -> None:
    """Draw the kind of each flower, and observe its petals."""
    shares = an.param("shares", torch.full((KINDS,), 1 / KINDS), constraints.simplex)
    start = torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0]])
    centres = an.param("centres", start)
    widths = an.param("widths", torch.full((KINDS, 2), 0.5), constraints.positive)
    with an.plate("flowers", len(petals)):
        kind = an.sample("kind", Categorical(shares))
        an.sample("petals", Independent(Normal(centres[kind], widths[kind]), 1), obs=petals)


def guide(petals: Tensor) -> None:
    """Draw the kind of each flower from what a small network makes of its petals."""
    network = an.module("network", NETWORK)
    with an.plate("flowers", len(petals)):
        an.sample("kind", Categorical(logits=network(petals)))


def gradients(store: an.ParamStore, estimator: Estimator, petals: Tensor) -> Tensor:
    """Return 50 estimates of the gradient of the network's parameters, [50, parameters]."""
    found = []
    for _ in range(50):
        store.zero_grad()
        an.infer.elbo(model, guide, petals, credit=estimator, baseline=None).surrogate.backward()
        found.append(
            torch.cat([p.grad.flatten() for p in NETWORK.parameters() if p.grad is not None])
        )
    return torch.stack(found)


def main(steps: int = 600) -> Result:
    """Fit the mixture, print what was found, and return it."""
    torch.manual_seed(0)
    for layer in NETWORK:
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    petals, labels = flowers()
    store = an.ParamStore()
    with store:
        an.infer.elbo(model, guide, petals)  # makes the parameters
        by_site = gradients(store, an.estimators.by_site, petals).var(0).sum()
        by_element = gradients(store, an.estimators.by_element, petals).var(0).sum()

        optimizer = torch.optim.Adam(store.parameters(), lr=0.02)
        bounds = []
        for _ in range(steps):
            optimizer.zero_grad()
            # Eight draws of the kinds at once, each with the others for a baseline.
            estimate = an.infer.elbo(model, guide, petals, particles=8, vectorized=True)
            estimate.surrogate.backward()
            optimizer.step()
            bounds.append(float(estimate.value))

        # The kinds are few enough to be summed over: what the bound bounds.
        with torch.no_grad(), an.record() as trace, an.handlers.enumerate(first_dim=-2):
            model(petals)
        log_evidence = float(an.infer.log_marginal(trace))
        found = an.infer.marginals(trace)["kind"].argmax(0)
    # The groups have no names: each is called after the kind that most of its flowers are of.
    hits = sum(int(labels[found == k].bincount(minlength=1).max()) for k in found.unique())
    tail = bounds[-100:]
    result = Result(
        bound=sum(tail) / len(tail),
        log_evidence=log_evidence,
        accuracy=hits / len(labels),
        variance_ratio=float(by_site / by_element),
    )
    print(f"bound, mean of the last {len(tail)} steps  {result.bound:10.2f}")
    print(f"exact log evidence              {result.log_evidence:10.2f}")
    print(f"flowers in the right group      {result.accuracy:10.1%}")
    print(f"gradient variance, by site to by element {result.variance_ratio:8.0f}")
    return result


if __name__ == "__main__":
    main()
