"""What a study costs beside its own estimates: python -m models.study [draws].

A study of twelve estimators on a model of 64 pixels and 200 binary latents, with one process and
with two, beside its estimates made by hand. Seconds of the clock say little on a machine with other
work; those of the processors do.
"""

import resource
import sys
import time

import torch
from joblib.externals.loky import get_reusable_executor
from torch import Tensor, nn
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.tools.bench.rows import Row
from ancestral.tools.study.methods import methods_of
from ancestral.tools.study.table import Study

NAMES = (
    "auto, score, reinforce, optimal, loo, arm, disarm, arms, muprop, double-cv, rebar, "
    "straight-through"
)
PARTS = 5
"""In how many parts the estimates by hand are made, half of them before the study."""


class BinaryVAE(nn.Module):
    """A variational autoencoder with one layer of binary latents, linear on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(64, 200), nn.Linear(200, 64)
        self.prior = nn.Parameter(torch.zeros(200))

    def forward(self, x: Tensor) -> Tensor:
        """Return the negative ELBO, the mean over images [batch, 64]."""
        q = Bernoulli(logits=self.encoder(x), validate_args=False)
        z = q.sample()
        prior = Bernoulli(logits=self.prior, validate_args=False)
        likelihood = Bernoulli(logits=self.decoder(z)).log_prob(x).sum(-1)
        bound: Tensor = likelihood + prior.log_prob(z).sum(-1) - q.log_prob(z).sum(-1)
        return -bound.mean()


def processor_seconds(who: int) -> float:
    """Return the seconds that processors have spent on this process, or on those it has begun."""
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def studied(
    model: nn.Module, images: Tensor, draws: int, workers: int
) -> tuple[Study, float, float]:
    """Return a study, and the processor seconds of this process and of others."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    before = [processor_seconds(who) for who in whose]
    found = an.study(model, images, estimators=NAMES, draws=draws, steps=0, workers=workers)
    if workers > 1:
        get_reusable_executor().shutdown(wait=True)  # it counts when they have ended
    here, there = (processor_seconds(who) - old for who, old in zip(whose, before, strict=True))
    return found, here, there


def by_hand(model: nn.Module, images: Tensor, draws: int) -> tuple[float, float]:
    """Return the seconds of the clock and of the processor that estimates take by themselves.

    As many as the study makes: of each estimator, and of the reference run, which is "auto" again.
    """
    plans = [methods_of("auto")["auto"], *methods_of(NAMES).values()]
    parameters = list(model.parameters())
    clock, processor = time.perf_counter(), time.process_time()
    for plan in plans:
        for _ in range(draws):
            found = an.estimate(
                model,
                images,
                estimators=plan.estimators,
                baseline=plan.baseline,
                credit=plan.credit,
                check=False,
            )
            torch.autograd.grad(found.surrogate, parameters)
    return time.perf_counter() - clock, time.process_time() - processor


def main(draws: int) -> None:
    """Print the table."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, images = BinaryVAE(), torch.rand(50, 64).round()
    few = max(draws // PARTS, 1)
    by_hand(model, images, 2)  # what is slow once
    before = by_hand(model, images, few)
    alone, here, _ = studied(model, images, draws, workers=1)
    after = by_hand(model, images, few)
    two, parent, children = studied(model, images, draws, workers=2)
    clock, processor = (draws / few * (a + b) / 2 for a, b in zip(before, after, strict=True))
    print(alone)
    for row in (
        Row("processor seconds of the study / of its estimates by hand", here / processor, 1.1),
        Row("seconds of the study / of its estimates by hand", alone.seconds / clock, 1.1),
        Row("seconds of the study / of its own estimates", alone.seconds / alone.step_seconds, 1.1),
        Row("processor seconds with two processes / with one", (parent + children) / here),
        # Two work at once; this one does, but for what it does while they begin.
        Row(
            "  of this process and half of the two / of one",
            (parent + children / 2) / here,
            1 / 1.8,
        ),
        Row("seconds with two processes / with one", two.seconds / alone.seconds, 1 / 1.8),
    ):
        print("  ".join(row.cells()).rstrip())


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
