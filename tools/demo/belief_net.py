"""A sigmoid belief network in plain torch: it draws Bernoulli units and sums log-probabilities.

Nothing here knows who will differentiate it. Two layers of binary units explain a binary image:
the generative net runs h2 -> h1 -> x, the inference net x -> h1 -> h2.

>>> _ = torch.manual_seed(0)
>>> BeliefNet()(torch.ones(8, 64)).shape
torch.Size([])

Neal (1992), "Connectionist learning of belief networks"; Mnih and Gregor (2014), "Neural
variational inference and learning in belief networks".
"""

# torch.distributions has no annotations, and a plain model should not have to say so in each line.
# mypy: allow-untyped-calls

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli


class BeliefNet(nn.Module):
    """A sigmoid belief network with two stochastic layers, and the net that infers them.

    Args:
        pixels: number of visible units.
        units: number of units of h1, the layer that draws the pixels.
        causes: number of units of h2, the layer that draws h1.
    """

    def __init__(self, pixels: int = 64, units: int = 32, causes: int = 16) -> None:
        """Make the layers; torch's generator decides their weights."""
        super().__init__()
        self.infer_h1 = nn.Linear(pixels, units)
        self.infer_h2 = nn.Linear(units, causes)
        self.prior_h2 = nn.Parameter(torch.zeros(causes))
        self.generate_h1 = nn.Linear(causes, units)
        self.generate_x = nn.Linear(units, pixels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the negative ELBO in nats per image, the mean over the batch.

        Args:
            x: [batch, pixels], zeros and ones.
        """
        loss: Tensor = self.per_image(x)[0].mean()
        return loss

    def per_image(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the negative ELBO of each image, [batch], and log q of what is drawn, [batch].

        The ELBO is log p(h2) + log p(h1 | h2) + log p(x | h1) - log q(h1 | x) - log q(h2 | h1) at
        one draw of h1 and h2.

        Args:
            x: [batch, pixels], zeros and ones.
        """
        q_h1 = Bernoulli(logits=self.infer_h1(x))
        h1 = q_h1.sample()
        q_h2 = Bernoulli(logits=self.infer_h2(h1))
        h2 = q_h2.sample()

        log_q = q_h1.log_prob(h1).sum(-1) + q_h2.log_prob(h2).sum(-1)
        log_p_h2 = Bernoulli(logits=self.prior_h2).log_prob(h2).sum(-1)
        log_p_h1 = Bernoulli(logits=self.generate_h1(h2)).log_prob(h1).sum(-1)
        log_p_x = Bernoulli(logits=self.generate_x(h1)).log_prob(x).sum(-1)
        return log_q - log_p_h2 - log_p_h1 - log_p_x, log_q
