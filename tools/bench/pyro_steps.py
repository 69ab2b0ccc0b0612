"""Steps of Pyro's SVI with the loss of this library, beside Pyro's own losses.

>>> [row.name for row in pyro_loss_rows(lengths=(), width=8)]
['SVI, VAE with a normal, to Trace_ELBO', 'SVI, VAE with coins, to Trace_ELBO']
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ancestral.tools.bench.rows import Row, ratios


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
