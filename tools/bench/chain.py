"""The chain that benchmarks run: in plain torch, by this library, and by Pyro.

>>> chain = Chain(3)
>>> chain.ancestral()
>>> chain.weights.grad is not None
True
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Bernoulli

from ancestral.estimators.gradient.surrogate import backward
from ancestral.trace.recording.record import record


class Chain:
    """A chain of coins, z_t ~ Bernoulli(sigmoid(a + b z_{t-1})), with a cost for each."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.weights = torch.tensor([0.3, -0.2], requires_grad=True)

    def reinforce(self) -> None:
        """Take a step of REINFORCE written by hand in plain torch: every score, the whole cost."""
        z, scores, costs = torch.zeros(()), [], []
        for _ in range(self.length):
            q = Bernoulli(logits=self.weights[0] + self.weights[1] * z)
            z = q.sample()
            scores.append(q.log_prob(z))
            costs.append((z - 0.45) ** 2)
        total = sum(costs, torch.zeros(()))
        (total + total.detach() * sum(scores)).backward()

    def model(self, z: Tensor) -> Tensor:
        """Return the loss of one run from a first value, the mean over its elements, [].

        Args:
            z: of any shape, [] for one chain.
        """
        loss = torch.zeros(())
        for _ in range(self.length):
            z = Bernoulli(logits=self.weights[0] + self.weights[1] * z).sample()
            loss = loss + ((z - 0.45) ** 2).mean()
        return loss

    def by_hand(self, z: Tensor) -> Tensor:
        """Return the surrogate that weighs the score of each draw with the costs from there on.

        Args:
            z: as for `model`.
        """
        scores: list[Tensor] = []  # plain, as the compiler reads it
        costs: list[Tensor] = []
        for _ in range(self.length):
            q = Bernoulli(logits=self.weights[0] + self.weights[1] * z)
            z = q.sample()
            scores.append(q.log_prob(z))
            costs.append((z - 0.45) ** 2)
        cost, score = torch.stack(costs) / max(1, z.numel()), torch.stack(scores)
        return cost.sum() + (score * cost.flip(0).cumsum(0).flip(0)).sum()

    def estimator(self) -> None:
        """Take a step with element-wise downstream costs, written by hand."""
        self.by_hand(torch.zeros(())).backward()

    def ancestral(self) -> None:
        """Take a step with element-wise downstream costs."""
        with record():
            loss = self.model(torch.zeros(()))
        backward(loss)


def pyro_chain(length: int) -> Callable[[], None]:
    """Return a step of Pyro's TraceGraph_ELBO on the same chain, the costs as factors."""
    import pyro
    import pyro.distributions as dist
    from pyro.infer import TraceGraph_ELBO

    weights = torch.tensor([0.3, -0.2], requires_grad=True)

    def guide() -> None:
        z = torch.zeros(())
        for t in range(length):
            z = pyro.sample(f"z{t}", dist.Bernoulli(logits=weights[0] + weights[1] * z))

    def model() -> None:
        for t in range(length):
            z = pyro.sample(f"z{t}", dist.Bernoulli(0.5))
            pyro.factor(f"c{t}", -((z - 0.45) ** 2))

    elbo = TraceGraph_ELBO()

    def step() -> None:
        pyro.clear_param_store()
        elbo.loss_and_grads(model, guide)

    return step
