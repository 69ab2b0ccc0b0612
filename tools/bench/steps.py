"""Benchmarks of steps: a loss and its gradient, beside the estimator that one would write by hand.

    PYTHONPATH=tests python -m ancestral.tools.bench.steps  # the belief net by hand is there

Both draw the same values in the same order and weigh the score of each draw with the same costs, so
that what differs is the library. They run in turns in one process; a figure is the ratio of the
fastest rounds, or of those in the middle.

>>> model = vector_site()
>>> model.ours(), model.theirs()
(None, None)
"""

# torch.distributions has no annotations.
# mypy: disable-error-code="no-any-return"

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical

from ancestral.estimators.diagnostics.monitor import Monitor
from ancestral.estimators.gradient.surrogate import backward
from ancestral.tools.bench.chain import Chain
from ancestral.tools.bench.rows import Row, Step, ratios, wait
from ancestral.tools.demo.belief_net import BeliefNet
from ancestral.trace.recording.record import record

Loss = Callable[[Tensor], Tensor]


class Model(NamedTuple):
    """A loss that draws, its surrogate by hand without a baseline, their parameters and an input.

    Both return a scalar, [].
    """

    loss: Loss
    by_hand: Loss
    parameters: Sequence[Tensor]
    x: Tensor

    def ours(self) -> None:
        """Take a step by this library."""
        with record():
            loss = self.loss(self.x)
        backward(loss, baseline=None)

    def theirs(self) -> None:
        """Take a step of the estimator by hand."""
        self.by_hand(self.x).backward()


def vector_site() -> Model:
    """Return a site of 64 coins, each with a cost."""
    logits = torch.zeros(64, requires_grad=True)

    def loss(x: Tensor) -> Tensor:
        return (Bernoulli(logits=logits).sample() - x).pow(2).sum()

    def by_hand(x: Tensor) -> Tensor:
        q = Bernoulli(logits=logits)
        z = q.sample()
        cost = (z - x).pow(2)
        return cost.sum() + (q.log_prob(z) * cost).sum()

    return Model(loss, by_hand, [logits], torch.full((64,), 0.45))


def belief_net() -> Model:
    """Return the belief net of the demo, 64-32-16, at batch 64."""
    from models.belief_net import by_hand

    net = BeliefNet()
    x = torch.bernoulli(torch.full((64, 64), 0.4))
    return Model(net, partial(by_hand, net), list(net.parameters()), x)


def discrete_autoencoder(sites: int = 20, classes: int = 10) -> Model:
    """Return an autoencoder with 20 categories of 10, at batch 64."""
    encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, sites * classes))
    decoder = nn.Sequential(nn.Linear(sites * classes, 128), nn.ReLU(), nn.Linear(128, 64))

    def parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = Categorical(logits=encoder(x).reshape(-1, sites, classes))
        z = q.sample()
        log_px = Bernoulli(logits=decoder(F.one_hot(z, classes).float().flatten(1))).log_prob(x)
        return q.log_prob(z), Categorical(logits=torch.zeros(classes)).log_prob(z), log_px

    def loss(x: Tensor) -> Tensor:
        log_q, log_p, log_px = parts(x)
        return (log_q.sum(-1) - log_p.sum(-1) - log_px.sum(-1)).mean()

    def by_hand(x: Tensor) -> Tensor:
        log_q, log_p, log_px = parts(x)
        likelihood = log_px.sum(-1)
        with torch.no_grad():
            credit = (log_q - log_p - likelihood[:, None]) / len(x)
        return (log_q * credit).sum() - likelihood.mean()

    parameters = [*encoder.parameters(), *decoder.parameters()]
    x = torch.bernoulli(torch.full((64, 64), 0.4))
    return Model(loss, by_hand, parameters, x)


def chain(batch: tuple[int, ...] = ()) -> Model:
    """Return a chain of 80 coins, one or a batch of them, with a cost at each."""
    coins = Chain(80)
    return Model(coins.model, coins.by_hand, [coins.weights], torch.zeros(batch))


MODELS: dict[str, tuple[Callable[[], Model], float, int]] = {
    "one vector site": (vector_site, 2.0, 40),
    "belief net at batch 64": (belief_net, 1.8, 20),
    "autoencoder of 20 categories at batch 64": (discrete_autoencoder, 1.5, 10),
    "chain of 80": (chain, 1.8, 2),
    "chain of 80 at batch 64": (partial(chain, (64,)), 1.8, 2),
}
"""How each is made, the bound of its ratio, and how many steps make a round."""


class Times(NamedTuple):
    """Seconds of one step in rounds."""

    least: float
    median: float


def times(steps: Sequence[Step], number: int, rounds: int) -> list[Times]:
    """Return the seconds of steps, run in turns."""
    found: list[list[float]] = [[] for _ in steps]
    for step in steps:
        step()
    for _ in range(rounds):
        for index, step in enumerate(steps):
            start = time.process_time()  # what others do on the machine does not count
            for _ in range(number):
                step()
            wait()
            found[index].append((time.process_time() - start) / number)
    return [Times(min(each), statistics.median(each)) for each in found]


def step_rows(rounds: int = 25) -> list[Row]:
    """Measure a step of each model, as a ratio to the estimator by hand."""
    rows: list[Row] = []
    for words, (make, bound, number) in MODELS.items():
        model = make()
        theirs, ours = times([model.theirs, model.ours], number, rounds)
        rows.append(Row(f"step of {words}, to the estimator by hand", ours[0] / theirs[0], bound))
        rows.append(Row("  the same, of the median rounds", ours[1] / theirs[1], bound))
        rows.append(Row("  milliseconds by hand", 1e3 * theirs[0]))
    return rows


def monitor_rows(rounds: int = 25) -> list[Row]:
    """Measure what a monitor adds to a step: one that is measured, and one of ten as by default."""
    rows: list[Row] = []
    for words, (make, _, number) in MODELS.items():
        model = make()
        monitors = [None, Monitor(every=1), Monitor()]
        steps = [partial(_monitored, model, monitor) for monitor in monitors]
        # As many steps in a round as the default takes from one measured step to the next.
        plain, measured, usual = times(steps, max(number, 10), rounds)
        rows.append(Row(f"measured step of {words}, to one without", measured[1] / plain[1]))
        rows.append(Row("  a step with a monitor, one of ten measured", usual[1] / plain[1], 1.15))
    return rows


def _monitored(model: Model, monitor: Monitor | None) -> None:
    with record():
        loss = model.loss(model.x)
    backward(loss, monitor=monitor)


_WEIGHTS = torch.ones(2, 3)
FIRST_CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.where(z > 0, z, y)": lambda z: torch.where(z > 0, z, 1.0),
    "F.linear(z, w)": lambda z: F.linear(z, _WEIGHTS),
    "torch.cat([z, z], 1)": lambda z: torch.cat([z, z], 1),
    "z.sum(0)": lambda z: z.sum(0),
    "z.reshape(-1)": lambda z: z.reshape(-1),
    "z.log_softmax(1)": lambda z: z.log_softmax(1),
}


def first_rows(rounds: int = 300) -> list[Row]:
    """Measure the first call of ops in a recording that were called in an earlier one."""
    rows: list[Row] = []
    coin, plain = Bernoulli(logits=torch.zeros(4, 3)), torch.ones(4, 3)
    for words, call in FIRST_CALLS.items():
        ours, theirs = list[float](), list[float]()
        for _ in range(rounds):
            with record():
                z = coin.sample()
                ours.append(_seconds(call, z))
            theirs.append(_seconds(call, plain))
        rows.append(Row(f"first {words} of a recording, tracked", min(ours) / min(theirs)))
    return rows


def _seconds(call: Callable[[Tensor], Tensor], given: Tensor) -> float:
    start = time.perf_counter()
    call(given)
    return time.perf_counter() - start


# Steps of Pyro's SVI, its programs unchanged, with its own losses and with ours.


def pyro_loss_rows(lengths: Sequence[int] = (100,), width: int = 400) -> list[Row]:
    """Measure a step of an autoencoder, and of a chain of coins, by each loss."""
    from pyro.infer import Trace_ELBO, TraceGraph_ELBO

    from ancestral.estimators.inference.pyro_losses import TraceGraph_ELBO as Ours

    rows: list[Row] = []
    for name, is_normal in (("a normal", True), ("coins", False)):
        programs = _autoencoder(width, is_normal)
        steps = [_step(loss, *programs) for loss in (Trace_ELBO(), Ours())]
        rows.append(Row(f"SVI, VAE with {name}, to Trace_ELBO", ratios(steps, 1)[1], 1.2))
    for length in lengths:
        programs = _chain(length)
        steps = [_step(loss, *programs) for loss in (TraceGraph_ELBO(), Ours())]
        found = ratios(steps, 1, rounds=3)[1]
        rows.append(Row(f"SVI, chain of {length} coins, to Pyro's TraceGraph_ELBO", found, 0.1))
    return rows


def _step(
    loss: Any, model: Callable[..., Any], guide: Callable[..., Any], x: Tensor
) -> Callable[[], Any]:
    import pyro

    adam: Any = pyro.optim.Adam  # type: ignore[attr-defined]
    svi = pyro.infer.SVI(model, guide, adam({"lr": 1e-4}), loss=loss)
    return lambda: svi.step(x)


def _autoencoder(width: int, is_normal: bool) -> tuple[Any, Any, Tensor]:
    """Return an autoencoder of 256 pictures, its guide, and the pictures."""
    import pyro as annotated
    import pyro.distributions as dist

    pyro: Any = annotated
    codes, rows = 50, 256
    wide = 2 * codes if is_normal else codes
    encoder = nn.Sequential(nn.Linear(784, width), nn.Softplus(), nn.Linear(width, wide))
    decoder = nn.Sequential(nn.Linear(codes, width), nn.Softplus(), nn.Linear(width, 784))

    def prior() -> Any:
        if is_normal:
            return dist.Normal(torch.zeros(rows, codes), 1.0).to_event(1)
        return dist.Bernoulli(torch.full((rows, codes), 0.5)).to_event(1)

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("pictures", rows):
            z = pyro.sample("z", prior())
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("pictures", rows):
            code = encoder(x)
            if is_normal:
                loc, scale = code.chunk(2, -1)
                pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))
            else:
                pyro.sample("z", dist.Bernoulli(logits=code).to_event(1))

    return model, guide, (torch.rand(rows, 784) > 0.5).float()


def _chain(length: int) -> tuple[Any, Any, Tensor]:
    """Return a chain of coins with an observation at each, its guide, and the observations."""
    import pyro as annotated
    import pyro.distributions as dist

    pyro: Any = annotated

    def model(x: Tensor) -> None:
        z = torch.zeros(())
        for t in range(length):
            z = pyro.sample(f"z_{t}", dist.Bernoulli(logits=z - 0.2))
            pyro.sample(f"x_{t}", dist.Normal(z, 1.0), obs=x[t])

    def guide(x: Tensor) -> None:
        logits, z = pyro.param("logits", torch.zeros(length)), torch.zeros(())
        for t in range(length):
            z = pyro.sample(f"z_{t}", dist.Bernoulli(logits=logits[t] + z))

    return model, guide, torch.linspace(-1.0, 1.0, length)


def main() -> None:
    """Print the rows."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for row in (*first_rows(), *step_rows(), *monitor_rows()):
        name, figure, bound = row.cells()
        print(f"{name:60s} {figure:>9s}  {bound}".rstrip())


if __name__ == "__main__":
    main()
