"""The demo: a sigmoid belief network learns real digits from plain torch code, in two minutes.

Leaves in one folder the dependency graph (`belief_net.svg`), the gradient variance of five
estimators at the same parameters (`variance.csv`), and the ELBO against the step for the first
three of them (`elbo.png`): the two that one writes by hand, and `an.backward(loss)`.
"""

import copy
import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]  # has no annotations

from ancestral.estimators.baselines.optimal import Optimal
from ancestral.estimators.credit.credit import total_cost
from ancestral.estimators.gradient.surrogate import backward
from ancestral.tools.demo.belief_net import BeliefNet
from ancestral.tools.demo.digits import Digits, load
from ancestral.tools.demo.variance import VarianceRow, folds, measure
from ancestral.tools.render.inspect import graph
from ancestral.tools.study.table import TOTAL
from ancestral.trace.recording.record import record
from ancestral.trace.serialize.file import replacing

STEPS = 2500
BATCH = 64
LEARNING_RATE = 3e-3
HELD_OUT_DRAWS = 100
"""How many draws of the latent units the held-out ELBO of each image is the mean of."""


Gradient = Callable[[BeliefNet, Tensor], Tensor]
"""Leaves a gradient estimate in `.grad`; returns the loss of a model on images [batch, 64]."""


def by_hand(model: BeliefNet, images: Tensor) -> Tensor:
    """Weigh the score of each image's draws with its own cost: REINFORCE for each example."""
    cost, log_q = model.per_image(images)
    (cost.detach() * log_q + cost).mean().backward()
    return cost.mean()


def by_hand_less_others(model: BeliefNet, images: Tensor) -> Tensor:
    """Take besides from each cost the mean of those of the other images."""
    cost, log_q = model.per_image(images)
    others = (cost.sum() - cost) / (len(cost) - 1)
    ((cost - others).detach() * log_q + cost).mean().backward()
    return cost.mean()


def recorded(ask: Callable[[Tensor], None]) -> Gradient:
    """Return what records the model, and asks for the gradient of its loss."""

    def gradient(model: BeliefNet, images: Tensor) -> Tensor:
        with record():
            loss: Tensor = model(images)
        ask(loss)
        return loss

    return gradient


@dataclass(frozen=True)
class Method:
    """One way to turn the loss into a gradient, made anew for each use, since some learn."""

    letter: str
    words: str
    make: Callable[[], Gradient]


METHODS = (
    Method("a", "REINFORCE for each example, by hand", lambda: by_hand),
    Method("b", "the same with a leave-one-out baseline, by hand", lambda: by_hand_less_others),
    Method("c", "an.backward(loss)", lambda: recorded(backward)),
    Method(
        "d",
        "an.backward(loss, baseline=Optimal())",
        lambda: recorded(partial(backward, baseline=Optimal())),
    ),
    Method(
        "e",
        "the whole batch's loss for every draw (REINFORCE)",
        lambda: recorded(partial(backward, credit=total_cost, baseline=None)),
    ),
)
TRAINED = METHODS[:3]


@dataclass(frozen=True)
class Training:
    """What one training left behind."""

    method: Method
    model: BeliefNet
    elbo: tuple[float, ...]  # [steps], nats per image on the batch of the step
    held_out_elbo: float  # nats per image


def run(out: Path = Path("out"), steps: int = STEPS, seed: int = 0, repeats: int = 500) -> None:
    """Train, measure, and leave the three files in `out`; print the table.

    Args:
        out: the folder, made where it is missing.
        steps: optimizer steps of each training.
        seed: decides the initial parameters, the batches and all draws.
        repeats: gradient estimates that each variance is taken over.

    Raises:
        ValueError: if there are no steps, or fewer than two repeats.
    """
    if steps < 1:
        raise ValueError(f"the demo needs at least one optimizer step, got steps={steps}")
    if repeats < 2:
        raise ValueError(f"a variance needs at least two repeats, got repeats={repeats}")
    out.mkdir(parents=True, exist_ok=True)
    digits = load()
    total = len(TRAINED) * steps + 2 * len(METHODS) * repeats
    bar = tqdm(total=total, unit="step", mininterval=0.5)
    with bar, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        initial = BeliefNet()
        draw_graph(initial, digits.train[:BATCH], out / "belief_net.svg")
        trainings = [train(method, initial, digits, steps, seed, bar) for method in TRAINED]
        bar.set_description("variance")
        rows = gradient_variance(
            trainings[-1].model, digits.train[:BATCH], repeats, seed, bar.update
        )
    write_rows(out / "variance.csv", rows)
    plot(trainings, out / "elbo.png")
    print(report(rows, trainings, steps))
    print(f"left in {out}: belief_net.svg, variance.csv, elbo.png")


def estimate(model: BeliefNet, images: Tensor, gradient: Gradient) -> float:
    """Leave a gradient estimate in `.grad`; return the negative ELBO in nats per image.

    Args:
        model: the plain torch model.
        images: [batch, 64].
        gradient: what the gradient is estimated with.
    """
    model.zero_grad()
    return float(gradient(model, images).detach())


def train(
    method: Method, initial: BeliefNet, digits: Digits, steps: int, seed: int, bar: tqdm
) -> Training:
    """Train a copy of the initial model; the batches are the same for every method."""
    bar.set_description(f"train {method.letter}")
    model = copy.deepcopy(initial)
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    batches = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    elbo: list[float] = []
    gradient = method.make()
    for _ in range(steps):
        chosen = torch.randint(len(digits.train), (BATCH,), generator=batches)
        elbo.append(-estimate(model, digits.train[chosen], gradient))
        optimizer.step()
        bar.update()
    return Training(method, model, tuple(elbo), held_out_elbo(model, digits.held_out, seed))


@torch.no_grad()
def held_out_elbo(model: BeliefNet, images: Tensor, seed: int) -> float:
    """Return the ELBO in nats per image, the mean over images [count, 64] and draws."""
    torch.manual_seed(seed)
    return -sum(float(model(images)) for _ in range(HELD_OUT_DRAWS)) / HELD_OUT_DRAWS


def gradient_variance(
    model: BeliefNet, images: Tensor, repeats: int, seed: int, tick: Callable[[], object]
) -> list[VarianceRow]:
    """Return the gradient variance of every method on one batch [64, 64], over the draws alone.

    As many estimates go before, from which (d) learns.
    """
    estimators = {m.letter: partial(estimate, model, images, gradient=m.make()) for m in METHODS}
    return measure(model, estimators, repeats, warm_up=repeats, seed=seed, tick=tick)


def draw_graph(model: BeliefNet, images: Tensor, path: Path) -> None:
    """Draw who depends on whom when the model sees these images."""
    graph(model, images).render(path)


def write_rows(path: Path, rows: Sequence[VarianceRow]) -> None:
    """Write the rows as CSV."""
    words = {method.letter: method.words for method in METHODS}
    lower = folds(rows, METHODS[0].letter)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["estimator", "credit", "layer", "coordinates", "repeats", "variance", "fold_below_a"]
    )
    for row in rows:
        head = [row.estimator, words[row.estimator], row.layer, row.coordinates, row.repeats]
        writer.writerow([*head, f"{row.variance:.6g}", f"{lower[row.estimator, row.layer]:.6g}"])
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def report(rows: Sequence[VarianceRow], trainings: Sequence[Training], steps: int) -> str:
    """Return the table for the screen."""
    cells = {(row.layer, row.estimator): row for row in rows}
    layers = list(dict.fromkeys(row.layer for row in rows))
    letters = [method.letter for method in METHODS]
    table = [["layer", "coordinates", *letters]] + [
        [layer, str(cells[layer, "a"].coordinates)]
        + [f"{cells[layer, letter].variance:.3g}" for letter in letters]
        for layer in layers
    ]
    default = TRAINED[-1].letter
    lower = folds(rows, default)
    return "\n".join(
        [
            f"Gradient variance of the negative ELBO (nats, mean over {BATCH} images) per layer,",
            f"over {rows[0].repeats} draws at the parameters that (c) reached after {steps} steps:",
            *(f"  ({method.letter}) {method.words}" for method in METHODS),
            "",
            aligned(table),
            "",
            *(
                f"total variance, {letter} / {default}: {1 / lower[letter, TOTAL]:,.2f}"
                for letter in letters
                if letter != default
            ),
            "",
            *(
                f"held-out ELBO after {steps} steps of ({t.method.letter}): "
                f"{t.held_out_elbo:.2f} nats per image"
                for t in trainings
            ),
        ]
    )


def aligned(table: Sequence[Sequence[str]]) -> str:
    """Return the rows as columns, the first to the left and the others to the right.

    >>> print(aligned([["layer", "a"], ["h1", "12"]]))
    layer   a
    h1     12
    """
    first, *others = (max(map(len, column)) for column in zip(*table, strict=True))
    return "\n".join(
        "  ".join([row[0].ljust(first), *map(str.rjust, row[1:], others)]) for row in table
    )


# Of the colours of Okabe and Ito: apart for every kind of colour vision.
STROKES = ("#D55E00", "--"), ("#009E73", "-."), ("#0072B2", "-")


def plot(trainings: Sequence[Training], path: Path) -> None:
    """Plot the ELBO of the trainings against the step as PNG: smoothed, the raw values behind."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lowest = float("inf")
    for training, (colour, style) in zip(trainings, STROKES, strict=True):
        label = f"({training.method.letter}) {training.method.words}"
        axes.plot(training.elbo, color=colour, alpha=0.2, linewidth=0.6)
        steps, means = smoothed(training.elbo)
        axes.plot(steps, means, style, color=colour, linewidth=2, label=label)
        lowest = min(lowest, *means)
    # The first steps fall far below: left in, they would flatten all that comes after.
    axes.set_ylim(bottom=lowest - 1)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("ELBO (nats per image)")
    axes.set_title(
        f"Sigmoid belief network on binary digits, Adam {LEARNING_RATE:g}, batch of {BATCH}\n"
        "thick: mean of a fiftieth of the run; thin: single batches",
        fontsize="medium",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=150)


def smoothed(values: Sequence[float]) -> tuple[list[int], list[float]]:
    """Return the steps and the means of a window around them, a fiftieth of the run long."""
    window = max(len(values) // 50, 1)
    means = torch.tensor(values, dtype=torch.float64).unfold(0, window, 1).mean(-1)
    return list(range(window // 2, window // 2 + len(means))), means.tolist()
