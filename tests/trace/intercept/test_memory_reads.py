"""What recordings hold on to: nothing, once they are over."""

import gc
import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.provenance.algebra.provenance import alive
from ancestral.provenance.tensor import storage

# The programs read what is drawn, on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")


class Net(nn.Module):
    """Writes into a buffer and through views, branches, and carries a running mean along."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(3))
        self.register_buffer("seen", torch.zeros(3))
        self.mean = torch.zeros(())
        self.asks = itertools.cycle((an.backward, lambda loss: an.surrogate(loss).backward()))

    def step(self) -> None:
        with an.record() as trace:
            z = Bernoulli(logits=self.logits).sample()
            row = torch.zeros(2, 3)
            view = row[0]
            row.add_(z)
            self.get_buffer("seen").mul_(0.9).add_(z.detach())
            loss = (view - 0.4).square().sum()
            if z.sum() > 1:
                loss = loss + 1
            self.mean = torch.add(0.9 * self.mean, 0.1 * loss.detach())
        next(self.asks)(loss)
        assert trace.escapes


def test_a_thousand_recordings_hold_memory_flat() -> None:
    net = Net()

    def used(steps: int) -> tuple[int, int]:
        for _ in range(steps):
            net.step()
        gc.collect()
        storage.purge()
        universes = len(alive)
        return len(gc.get_objects()), universes

    used(100)
    early, universes = used(100)
    late, universes_late = used(1000)
    assert universes_late <= universes + 1
    assert len(storage.table) <= 2
    assert late - early < 25  # less than one object for forty steps


def test_a_written_storage_is_forgotten_with_its_recording() -> None:
    base = torch.zeros(2, 3)
    logits = torch.zeros(3, requires_grad=True)
    older: Tensor = base[0]
    with an.record():
        z = Bernoulli(logits=logits).sample()
        base.add_(z)
        assert an.provenance_of(older + 1) == {"z"}
        an.backward(base.sum())
    assert an.provenance_of(older + 1) == frozenset()
    assert type(older * 1) is Tensor
