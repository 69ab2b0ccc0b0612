"""The sigmoid belief network of the demo, and its estimator by hand."""

# torch.distributions has no annotations, and a plain model should not have to say so in each line.
# mypy: allow-untyped-calls

from torch import Tensor
from torch.distributions import Bernoulli

from ancestral.tools.demo.belief_net import BeliefNet
from ancestral.tools.demo.digits import load
from models.reference import PerExample, Reference, Setting


def by_hand(model: BeliefNet, x: Tensor) -> Tensor:
    """Return the surrogate of the negative ELBO.

    A unit of h1 changes its own log q(h1 | x), and all the other densities of its example, since
    the whole of h2 is drawn given h1. A unit of h2 changes its own log q(h2 | h1) and log p(h2),
    and log p(h1 | h2) of its example.
    """
    q_h1 = Bernoulli(logits=model.infer_h1(x))
    h1 = q_h1.sample()
    q_h2 = Bernoulli(logits=model.infer_h2(h1))
    h2 = q_h2.sample()

    log_q_h1, log_q_h2 = q_h1.log_prob(h1), q_h2.log_prob(h2)
    log_p_h2 = Bernoulli(logits=model.prior_h2).log_prob(h2)
    log_p_h1 = Bernoulli(logits=model.generate_h1(h2)).log_prob(h1)
    log_p_x = Bernoulli(logits=model.generate_x(h1)).log_prob(x)

    below = -log_p_h1.sum(1, keepdim=True)
    cost_h2 = log_q_h2 - log_p_h2 + below
    cost_h1 = log_q_h1 + below + (log_q_h2 - log_p_h2).sum(1, keepdim=True)
    cost_h1 = cost_h1 - log_p_x.sum(1, keepdim=True)
    scores = (log_q_h1 * cost_h1.detach()).sum(1) + (log_q_h2 * cost_h2.detach()).sum(1)
    total: Tensor = scores - log_p_h2.sum(1) - log_p_h1.sum(1) - log_p_x.sum(1)
    return total.mean()


def per_example(model: BeliefNet, x: Tensor) -> PerExample:
    """Return the negative ELBO of each image, and log q(h1, h2 | x)."""
    q_h1 = Bernoulli(logits=model.infer_h1(x))
    h1 = q_h1.sample()
    q_h2 = Bernoulli(logits=model.infer_h2(h1))
    h2 = q_h2.sample()
    log_q = q_h1.log_prob(h1).sum(1) + q_h2.log_prob(h2).sum(1)
    log_p_h2 = Bernoulli(logits=model.prior_h2).log_prob(h2).sum(1)
    log_p_h1 = Bernoulli(logits=model.generate_h1(h2)).log_prob(h1).sum(1)
    log_p_x = Bernoulli(logits=model.generate_x(h1)).log_prob(x).sum(1)
    return log_q - log_p_h2 - log_p_h1 - log_p_x, log_q


REFERENCE = Reference(
    "sigmoid belief net, 2 layers",
    by_hand,
    per_example,
    learned=("infer_h1", "infer_h2"),
    usual=lambda: Setting(BeliefNet(), (load().train[:64],)),
    tiny=lambda: Setting(BeliefNet(pixels=3, units=2, causes=2), (load().train[:2, 18:21],)),
)
