"""Ops that mix the features of a batch and keep its examples apart."""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor
from torch.distributions import Bernoulli

from programs.batches import INPUTS
from programs.example import const, weigh

MIXING = const((0.5, -0.3, 1.1), (0.2, 1.0, -0.4))
SECOND = torch.tensor([[1, 0], [1, 1]])

APART: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda z: F.linear(z, MIXING.t(), const(0.1, 0.2, 0.3)),
    "matmul": lambda z: z @ MIXING,
    "matmul_of_vector": lambda z: torch.matmul(z, MIXING[:, 0]),
    "addmm": lambda z: torch.addmm(const(0.1, 0.2, 0.3), z, MIXING),
    "bmm": lambda z: torch.bmm(z[:, None], MIXING.expand(2, 2, 3)),
    "bmm_with_itself": lambda z: z[:, :, None] @ z[:, None, :],
    "einsum": lambda z: torch.einsum("bf,fg->bg", z, MIXING),
    "outer_products": lambda z: z[:, :, None] * z[:, None, :] * MIXING[:, :2],
    "broadcast": lambda z: z * const(1.0, -2.0) + z.sum(1, keepdim=True),
    "softmax": lambda z: (z * INPUTS).softmax(1) * MIXING[:, 1:],
    "log_softmax": lambda z: F.log_softmax(z * INPUTS, dim=-1)[:, 0],
    "logsumexp": lambda z: torch.logsumexp(z * INPUTS, dim=1),
    "mean": lambda z: z.mean(dim=-1, keepdim=True),
    "maximum": lambda z: z.max(dim=1).values,
    "amax": lambda z: z.amax(1),
    "prod": lambda z: (z + 0.5).prod(1),
    "variance": lambda z: z.var(dim=1),
    "norm": lambda z: torch.linalg.vector_norm(z, dim=1),
    "normalize": lambda z: F.normalize(z + 1, dim=1)[:, 0],
    "layer_norm": lambda z: F.layer_norm(z * INPUTS, (2,))[:, 0],
    "cosine_similarity": lambda z: F.cosine_similarity(z + 1, INPUTS, dim=1),
    "pad": lambda z: F.pad(z, (1, 0)).cumsum(1),
    "conv1d": lambda z: F.conv1d(z[:, None], MIXING[None, :1, :2]),
    "cumsum": lambda z: z.cumsum(1),
    "flip": lambda z: z.flip(1) * const(1.0, -2.0),
    "roll": lambda z: z.roll(1, 1) * const(1.0, -2.0),
    "sort": lambda z: z.sort(dim=1).values * const(1.0, -2.0),
    "reshape": lambda z: z.reshape(2, 1, 2),
    "view": lambda z: z.view(2, -1, 1),
    "flatten": lambda z: z[:, :, None].flatten(1),
    "expand": lambda z: z.unsqueeze(-1).expand(2, 2, 3),
    "repeat": lambda z: z.repeat(1, 2),
    "permute": lambda z: z[:, :, None].permute(2, 0, 1).squeeze(0),
    "transpose": lambda z: (z.t() * const((1.0,), (-2.0,))).T,
    "slice": lambda z: z[:, :1],
    "column": lambda z: z[:, 0] - 2 * z[:, -1],
    "ellipsis": lambda z: z[..., None, 0] * z[..., 1:],
    "unbind": lambda z: torch.mul(*z.unbind(1)) + z.select(1, 0),
    "chunk": lambda z: torch.cat(z.chunk(2, dim=1)[::-1], dim=1).cumsum(1),
    "split": lambda z: z.split(1, dim=1)[1].exp(),
    "cat": lambda z: torch.cat([z, 2 * z, INPUTS], dim=1),
    "stack": lambda z: torch.stack([z, 1 - z * z], dim=1),
    "stack_last": lambda z: torch.stack([z, INPUTS], -1),
    "where": lambda z: torch.where(z > 0.5, INPUTS, z.sum(1, keepdim=True)),
    "masked_fill": lambda z: z.masked_fill(INPUTS > 0.5, 0.3) * INPUTS,
    "gather": lambda z: z.gather(1, SECOND),
    "index_select": lambda z: z.index_select(1, torch.tensor([1, 1])),
    "one_hot": lambda z: F.one_hot(z.long(), 3) * MIXING,
    "embedding": lambda z: F.embedding(z.long(), MIXING),
    "comparison": lambda z: (z[:, :1] >= z[:, 1:]).double(),
    "clamp": lambda z: (z.sum(1) - 0.5).clamp(min=0.0),
}


# Which features an op reads, where it does not read all.
READ = {"slice": const(1.0, 0.0), "split": const(0.0, 1.0), "index_select": const(0.0, 1.0)}


def apart(name: str, weight: Tensor) -> Tensor:
    """Draw a batch, apply an op to it, and average a cost that mixes the features only."""
    z = Bernoulli(logits=INPUTS @ weight).sample()
    return ((APART[name](z).reshape(2, -1).sum(1) - 0.3) ** 2).mean()


def apart_by_hand(name: str, weight: Tensor) -> Tensor:
    """Return the surrogate that gives every example its own cost."""
    q = Bernoulli(logits=INPUTS @ weight)
    z = q.sample()
    row = (APART[name](z).reshape(2, -1).sum(1) - 0.3) ** 2 / 2
    return weigh(q.log_prob(z), row[:, None] * READ.get(name, 1.0))
