"""Train a discrete autoencoder on several processes, with checkpoints to go on from.

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    torchrun --standalone --nproc-per-node 2 --max-restarts 3 examples/ranks/ddp.py --out state.pt

`AcrossRanks` lets the baseline see the examples of all ranks, so that the gradient is that of one
process on the whole batch. A rank that dies is started again by torchrun with all others, and they
go on from the checkpoint: parameters, optimizer, what the baseline has learned, and the step. The
variable keeps those that are started again from the addresses of those before, which torchrun's
store still has in torch 2.13, and with which a restart fails or hangs every second time.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributions import Bernoulli
from torch.nn.parallel import DistributedDataParallel

import ancestral as an

BATCH = 64


class Autoencoder(nn.Module):
    """Twelve pixels, six bits, twelve pixels."""

    def __init__(self) -> None:
        """Make two layers."""
        super().__init__()
        self.encode, self.decode = nn.Linear(12, 6), nn.Linear(6, 12)

    def forward(self, x: Tensor) -> Tensor:
        """Return the error of each example, [batch]."""
        code = Bernoulli(logits=self.encode(x)).sample()
        errors: Tensor = (self.decode(code) - x).square().sum(1)
        return errors


class Training:
    """What a checkpoint holds."""

    def __init__(self, path: Path) -> None:
        """Begin, or go on from the checkpoint that is there."""
        torch.manual_seed(0)  # all ranks begin with the same parameters
        self.model, self.path, self.step = Autoencoder(), path, 0
        self.parallel = DistributedDataParallel(self.model)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)
        self.baseline = an.estimators.AcrossRanks(an.estimators.Optimal())
        if path.exists():
            state: dict[str, Any] = torch.load(path, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.baseline.load_state_dict(state["baseline"])
            self.step = state["step"]

    def save(self) -> None:
        """Write a checkpoint, whole or not at all; one rank is enough."""
        if dist.get_rank() == 0:
            fresh = self.path.with_suffix(".tmp")
            parts = {n: getattr(self, n).state_dict() for n in ("model", "optimizer", "baseline")}
            torch.save({**parts, "step": self.step}, fresh)
            fresh.replace(self.path)
        dist.barrier()

    def advance(self) -> float:
        """Take one step, and return the loss of this rank."""
        rank, world = dist.get_rank(), dist.get_world_size()
        # By the step and the rank: other draws on each rank, and the same after a restart.
        torch.manual_seed(self.step * world + rank)
        x = (torch.rand(BATCH // world, 12) < 0.3).float()
        with an.record():
            loss = self.parallel(x).mean()
        self.optimizer.zero_grad()
        an.backward(loss, baseline=self.baseline)
        self.optimizer.step()
        self.step += 1
        return float(loss)


def train(path: Path, steps: int) -> None:
    """Train, and save each tenth step."""
    training, loss = Training(path), float("nan")
    while training.step < steps:
        loss = training.advance()
        if training.step % 10 == 0 or training.step == steps:
            training.save()
    if dist.get_rank() == 0:
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        print(f"step {training.step}: {loss:.2f}, after {attempt} restarts")


def main() -> None:
    """Read the arguments, and train on all ranks."""
    parser = argparse.ArgumentParser(description="Train on several processes.")
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint")
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    dist.init_process_group("gloo")  # "nccl" for GPUs
    train(options.out, options.steps)  # what it made is gone before the group is
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
