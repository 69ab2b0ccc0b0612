"""Train a discrete autoencoder with Lightning: `an.surrogate` is the loss that it differentiates.

python examples/ranks/with_lightning.py

With `devices=2, strategy="ddp"` the same module trains on two processes.
"""

import lightning
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli
from torch.utils.data import DataLoader, TensorDataset

import ancestral as an


class Autoencoder(lightning.LightningModule):
    """Twelve pixels, six bits, twelve pixels."""

    def __init__(self) -> None:
        """Make two layers and a baseline."""
        super().__init__()
        self.encode, self.decode = nn.Linear(12, 6), nn.Linear(6, 12)
        self.baseline = an.estimators.AcrossRanks(an.estimators.LeaveOneOut())
        self.losses: list[float] = []

    def errors(self, x: Tensor) -> Tensor:
        """Return the error of each example, [batch]."""
        code = Bernoulli(logits=self.encode(x)).sample()
        errors: Tensor = (self.decode(code) - x).square().sum(1)
        return errors

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        """Return the surrogate of the loss."""
        with an.record():
            loss = self.errors(batch[0]).mean()
        found: Tensor = an.surrogate(loss, baseline=self.baseline)
        self.losses.append(loss.item())  # the loss itself is for the log
        return found

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.02)


def main() -> None:
    """Train for a few epochs."""
    lightning.seed_everything(0, verbose=False)
    data = TensorDataset((torch.rand(512, 12) < 0.3).float())
    trainer = lightning.Trainer(
        max_epochs=20,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Autoencoder()
    trainer.fit(model, DataLoader(data, batch_size=64))
    print(f"{model.losses[0]:.1f} -> {model.losses[-1]:.1f}")


if __name__ == "__main__":
    main()
