"""The table of benchmarks: tracking and the estimator, beside plain torch and Pyro in one process.

Every figure is a ratio to plain torch, from interleaved rounds of which the fastest counts.
``make bench`` prints the tables, and writes them into docs/measured.md; a row whose figure misses
its bound says so. ``make bench ONLY="ops steps"`` measures some sections anew.
"""

import argparse
import math
import sys
import timeit
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor, nn

from ancestral.provenance.algebra.provenance import Source, Universe
from ancestral.provenance.tensor.tensor import alias, attach
from ancestral.tools.bench.agreement import agreement_rows
from ancestral.tools.bench.baseline_variance import coin_rows, cost_rows
from ancestral.tools.bench.chain import Chain, pyro_chain
from ancestral.tools.bench.compiled import compiled_rows, pyro_rows
from ancestral.tools.bench.page import PAGE, machine, of_cells, of_rows, written
from ancestral.tools.bench.recording import dependency_rows, recording_rows
from ancestral.tools.bench.rows import Row, ratios, repeated, show
from ancestral.tools.bench.scale import SIZES, report
from ancestral.tools.bench.steps import first_rows, monitor_rows, pyro_loss_rows, step_rows
from ancestral.tools.demo.belief_net import BeliefNet
from ancestral.tools.demo.demo import gradient_variance
from ancestral.tools.demo.digits import load
from ancestral.tools.demo.variance import folds
from ancestral.trace.recording.record import record

Tables = dict[str, str]
"""Tables for the page, by name, besides those of rows."""


def tracked_pair() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return two plain tensors of ten floats, and two that depend on different sources."""
    x, y = torch.randn(10), torch.randn(10)
    universe = Universe()
    p, q = (universe.of(Source(name, (10,)), (10,)) for name in "pq")
    return x, y, attach(alias(x), p), attach(alias(y), q)


def op_rows() -> list[Row]:
    """Measure single ops, within a recording as a model runs them."""
    x, y, tracked_x, tracked_y = tracked_pair()
    with record():
        _, operator = ratios([lambda: x + y, lambda: tracked_x + tracked_y], 20_000)
        _, function = ratios(
            [lambda: torch.add(x, y), lambda: torch.add(tracked_x, tracked_y)], 20_000
        )
    return [
        Row("x + y of 10 floats, tracked", operator, 2.2),
        Row("torch.add(x, y) of 10 floats, tracked", function, 4.0),
        Row("x + y of 10 floats, untracked, within a recording", untracked_within(x, y), 1.03),
        *pyro_op_rows(x, y),
    ]


def untracked_within(x: Tensor, y: Tensor) -> float:
    """Return what an addition of plain tensors costs within a recording, as a ratio."""
    inside = outside = math.inf
    for _ in range(200):  # a few percent are seen in many short rounds only
        outside = min(outside, timeit.timeit(lambda: x + y, number=5_000))
        with record():
            inside = min(inside, timeit.timeit(lambda: x + y, number=5_000))
    return inside / outside


def pyro_op_rows(x: Tensor, y: Tensor) -> list[Row]:
    """Measure the same op on Pyro's provenance tensor."""
    from pyro.ops.provenance import track_provenance

    a, b = track_provenance(x, frozenset("p")), track_provenance(y, frozenset("q"))
    return [
        Row("  the same, Pyro's ProvenanceTensor", ratios([lambda: x + y, lambda: a + b], 2_000)[1])
    ]


def mlp_rows() -> list[Row]:
    """Measure a step of a network whose input is tracked."""
    layers = [nn.Linear(784, 200), nn.Linear(200, 200), nn.Linear(200, 10)]
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    x, target = torch.randn(64, 784), torch.randint(10, (64,))
    tracked = attach(alias(x), Universe().of(Source("x", (64, 784)), (64, 784)))

    def step(given: Tensor) -> None:
        F.cross_entropy(model(given), target).backward()

    figures = ratios([lambda: step(x), lambda: step(tracked)], 5, rounds=60)
    return [Row("MLP 784-200-200-10 at batch 64, forward and backward", figures[1], 1.08)]


def chain_rows() -> list[Row]:
    """Measure a step on chains, beside plain torch and Pyro."""
    short, middle, long = Chain(80), Chain(100), Chain(1_000)
    ours = ratios([short.reinforce, short.ancestral], 1, rounds=30)[1]
    theirs = ratios([short.reinforce, pyro_chain(80)], 1, rounds=3)[1]
    return [
        Row("chain of 80 sites with a cost each, one step", ours, 6.0),
        Row("  the same, Pyro's TraceGraph_ELBO", theirs),
        Row(
            "chain of 1,000 sites, one step",
            ratios([long.reinforce, long.ancestral], 1, rounds=5)[1],
            5.0,
        ),
        Row(
            "chain of 100 sites, one step, to Pyro's",
            ratios([pyro_chain(100), repeated(middle.ancestral, 20)], 1, rounds=5)[1] / 20,
            1 / 100,
        ),
    ]


def scale_rows(tables: Tables) -> list[Row]:
    """Print how structures and a recorded chain grow, and return the figures that have a bound."""
    found = report()
    head = ["shape", "batch", *(f"{size:,}, seconds" for size in SIZES), "peak MB", "exponent"]
    tables["growth of each shape"] = of_cells(head, [each.cells() for each in found])
    *structures, by_hand, recorded = found
    exponents = {each.shape: each.exponent for each in structures if each.batch == 1}
    largest, least = recorded.costs[SIZES[-1]], by_hand.costs[SIZES[-1]]
    return [
        Row("credit of a tree, exponent of growth", exponents["tree"], 1.05),
        Row("credit of a random graph of in-degree 4, exponent", exponents["dag"], 1.15),
        Row("recorded chain, exponent of growth", recorded.exponent, 1.05),
        Row("  the same estimator by hand", by_hand.exponent),
        Row(f"recorded chain of {SIZES[-1]:,} sites, one step, seconds", largest.seconds, 15.0),
        Row("  the same estimator by hand", least.seconds),
        Row(f"recorded chain of {SIZES[-1]:,} sites, peak GiB", largest.megabytes / 1024, 1.0),
        Row("  the same estimator by hand", least.megabytes / 1024),
    ]


def model_rows(tables: Tables) -> Iterator[Row]:
    """Measure the variance of the reference models, which lie among the tests."""
    from models import REFERENCES
    from models.variance import BY_HAND, LEAVE_ONE_OUT, PER_EXAMPLE, variances

    bounds = {"belief_net": 0.62, "discrete_vae": 0.3}
    columns = (PER_EXAMPLE, LEAVE_ONE_OUT, "default", "Optimal", "Neural", "whole batch")
    lines: list[list[str]] = []
    for name, reference in REFERENCES.items():
        found = variances(reference, repeats=200, warm_up=500)
        lines.append([reference.words, *(f"{found[column]:,.3g}" for column in columns)])
        tables["variance of each model"] = of_cells(["model", *columns], lines)
        ours = found["default"]
        yield Row(f"variance of an.backward(loss), {reference.words}", ours)
        by_hand = ours / found[LEAVE_ONE_OUT]
        yield Row("  / per example, leave-one-out, by hand", by_hand, bounds.get(name, 1.0))
        for learned in ("Optimal", "Neural", "RunningMean"):
            yield Row(f"  {learned} / the default, after 500 steps", found[learned] / ours)
        yield Row("  / per example, by hand", ours / found[PER_EXAMPLE])
        yield Row("  / the whole batch's loss for each draw", ours / found["whole batch"])
        bare = found["bare"] / found[BY_HAND]
        yield Row("  without a baseline / downstream, by hand", bare, 1.02)


def belief_net_rows() -> list[Row]:
    """Measure by what part the total gradient variance of the fresh belief net falls."""
    torch.manual_seed(0)
    model = BeliefNet()
    images = load().train[:64]
    rows = gradient_variance(model, images, 500, 0, lambda: None)
    fall = folds(rows, "b")
    return [
        Row("belief net of the demo, variance of (c) / (b)", 1 / fall["c", "total"], 0.62),
        Row("  that of (d) / (b)", 1 / fall["d", "total"]),
    ]


SECTIONS: dict[str, Callable[[Tables], list[Row]]] = {
    "recordings": lambda _: recording_rows(),  # before Pyro, whose classes are looked at
    "steps": lambda _: [*step_rows(), *chain_rows()],
    "ops": lambda _: [*op_rows(), *mlp_rows(), *first_rows()],
    "growth": scale_rows,
    "variances": lambda tables: [*belief_net_rows(), *model_rows(tables), *coin_rows()],
    "additions": lambda _: [*cost_rows(), *monitor_rows()],
    "agreement": lambda _: [*agreement_rows(), *dependency_rows()],
    "compiled": lambda _: [*compiled_rows()],
    "pyro": lambda _: [*pyro_rows(), *pyro_loss_rows()],
}
"""The sections of the page, in the order in which they are measured."""


def main() -> int:
    """Measure, print the tables, and write them into the page."""
    reader = argparse.ArgumentParser(description="Measure what docs/measured.md says.")
    reader.add_argument("sections", nargs="*", help=f"some of {', '.join(SECTIONS)}; default: all")
    chosen: list[str] = reader.parse_args().sections or list(SECTIONS)
    unknown = [name for name in chosen if name not in SECTIONS]
    if unknown:
        reader.error(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    about = machine()
    written(PAGE.read_text(), dict.fromkeys(chosen, ""))  # it has a place for each
    print(about)
    print("Each figure is a ratio to plain torch in this process, unless it says otherwise.")
    for section in chosen:
        print(f"\n{section}", flush=True)
        tables: Tables = {}
        rows = SECTIONS[section](tables)
        show(rows)
        tables[section] = f"Measured with {about}.\n\n{of_rows(rows)}"
        PAGE.write_text(written(PAGE.read_text(), tables))
    print(f"\n{PAGE} has these figures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
