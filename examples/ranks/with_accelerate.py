"""Train a discrete autoencoder with Hugging Face's accelerate, on one process or on several.

    python examples/ranks/with_accelerate.py
    accelerate launch --cpu --num_processes 2 examples/ranks/with_accelerate.py

`accelerator.backward` takes the surrogate, as it takes every loss.
"""

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.distributions import Bernoulli
from torch.utils.data import DataLoader, TensorDataset

import ancestral as an


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


def main() -> None:
    """Train for a few epochs."""
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(0)
    data = TensorDataset((torch.rand(512, 12) < 0.3).float())
    model = Autoencoder()
    prepared = accelerator.prepare(
        model, torch.optim.Adam(model.parameters(), lr=0.02), DataLoader(data, batch_size=64)
    )
    parallel, optimizer, batches = prepared
    baseline = an.estimators.AcrossRanks(an.estimators.LeaveOneOut())
    torch.manual_seed(accelerator.process_index)  # other draws on each rank
    losses = []
    for _ in range(20):
        for (x,) in batches:
            with an.record():
                loss = parallel(x).mean()
            optimizer.zero_grad()
            accelerator.backward(an.surrogate(loss, baseline=baseline))
            optimizer.step()
            losses.append(loss.item())
    accelerator.print(f"{losses[0]:.1f} -> {losses[-1]:.1f}")


if __name__ == "__main__":
    main()
