"""The losses of the library and of Pyro on the same programs, in one process.

    PYTHONPATH=tests python -m programs.pyro_examples.compare  # prints a table

What stands in the rows: how far the values at the same draws are from each other; the variance of
the gradient (the sum over parameters) and the time of a step, as ratios to Pyro's. The variance is
compared with `TraceGraph_ELBO` of the program without its plates, which is what Pyro knows of
independence unless it is told. Where sites are summed over, plates have to be there.
"""

import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from pyro import infer
from torch import Tensor

from programs.in_pyro import pyro
from programs.pyro_examples import EXAMPLES, Example, made


class Unplated(pyro.poutine.messenger.Messenger):  # type: ignore[misc, unused-ignore]
    """Makes the batch of each site an event, so that nothing says that its cases are apart."""

    def _pyro_sample(self, msg: Any) -> None:
        if type(msg["fn"]).__name__ == "_Subsample":
            return
        if isinstance(msg["mask"], Tensor):
            msg["fn"], msg["mask"] = msg["fn"].mask(msg["mask"]), None
        msg["fn"] = msg["fn"].to_event(len(msg["fn"].batch_shape))
        msg["cond_indep_stack"] = ()
        expected = msg["infer"].get("baseline", {}).get("baseline_value")
        if expected is not None:  # of the whole, then
            msg["infer"] = {**msg["infer"], "baseline": {"baseline_value": expected.sum()}}


def step(example: Example, loss: Any, seed: int) -> tuple[float, Tensor]:
    """Return a loss and its gradient, of all parameters beside each other, at the draws of a seed.

    The parameters of baselines are left out: they learn from the loss of theirs.
    """
    leaves = dict(pyro.get_param_store().named_parameters())
    for leaf in leaves.values():
        leaf.grad = None
    pyro.set_rng_seed(seed)
    value = loss.loss_and_grads(example.model, example.guide, *example.data)
    leaves = dict(pyro.get_param_store().named_parameters())
    kept = [leaf for name, leaf in leaves.items() if not name.startswith("predict")]
    grads = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in kept]
    return value, torch.cat([grad.flatten() for grad in grads])


def prepared(name: str) -> Example:
    """Return an example whose parameters are all there."""
    example = made(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example.losses()[1].loss(example.model, example.guide, *example.data)
    return example


def variances(name: str, draws: int) -> tuple[float, float]:
    """Return the variance of a gradient by the library's loss, and by Pyro's without plates."""
    example = prepared(name)
    ours, theirs = example.losses()
    unplated = example
    if example.nesting is None:
        model, guide = (Unplated()(program) for program in (example.model, example.guide))
        unplated = Example(model, guide, example.data)
    pairs = ((example, ours), (unplated, theirs))
    return tuple(  # type: ignore[return-value]
        float(torch.stack([step(of, loss, seed)[1] for seed in range(draws)]).var(0).sum())
        for of, loss in pairs
    )


class Row(NamedTuple):
    """A row of the table."""

    apart: float  # the values, at the same draws
    variance: float  # ours to Pyro's without plates
    time: float  # ours to Pyro's TraceGraph_ELBO, or TraceEnum_ELBO
    to_plain: float | None  # ours to Trace_ELBO


def compared(name: str, draws: int = 50, rounds: int = 10) -> Row:
    example = prepared(name)
    ours, theirs = example.losses()
    apart = abs(step(example, ours, 3)[0] - step(example, theirs, 3)[0])
    found, bound = variances(name, draws)
    example = prepared(name)
    others = [theirs] if example.nesting is not None else [theirs, infer.Trace_ELBO()]
    times = fastest([stepping(example, loss) for loss in (ours, *others)], rounds)
    to_plain = times[0] / times[2] if len(times) > 2 else None
    return Row(apart, found / bound if bound else 1.0, times[0] / times[1], to_plain)


def stepping(example: Example, loss: Any) -> Callable[[], Any]:
    """Return a step of training by a loss."""
    adam = pyro.optim.Adam({"lr": 1e-5})
    svi = infer.SVI(example.model, example.guide, adam, loss=loss)
    return lambda: svi.step(*example.data)


def fastest(steps: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    """Return the seconds of each step, the fastest of interleaved rounds; others may be at work."""
    best = [math.inf] * len(steps)
    for _ in range(rounds):
        for index, each in enumerate(steps):
            start = time.process_time()
            each()
            best[index] = min(best[index], time.process_time() - start)
    return best


def main() -> None:
    """Print the table, of the programs that are named, or of all."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    warnings.simplefilter("ignore")
    print(f"{'program':28s} {'apart':>8s} {'variance':>9s} {'time':>6s} {'to Trace_ELBO':>14s}")
    for name in sys.argv[1:] or EXAMPLES:
        apart, variance, ratio, plain = compared(name)
        last = "" if plain is None else f"{plain:.2f}"
        mark = "" if made(name).is_right_there else "  (Pyro's gradient is biased)"
        print(f"{name:28s} {apart:8.0e} {variance:9.3f} {ratio:6.2f} {last:>14s}{mark}", flush=True)


if __name__ == "__main__":
    main()
