"""Tables of a study: what the results say of each method and group of parameters."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ancestral.tools.study.bias import Sample, bias_of
from ancestral.tools.study.errors import writing
from ancestral.tools.study.work import Numbers, Result, Task
from ancestral.trace.display.text_table import Table, Tabular
from ancestral.trace.serialize.file import replacing

TOTAL = "total"
"""The group of all parameters."""


@dataclass(frozen=True)
class StudyRow:
    """What is known of one method in one group of parameters.

    Attributes:
        estimator: the name of the method.
        group: a layer, or "total".
        coordinates: how many derivatives it has.
        draws: how many estimates were made.
        gradient: the norm of the reference.
        bias: the norm of the bias, what is most likely.
        bias_low: the least that it may be; greater than 0 shows that there is one.
        bias_high: the most that it may be.
        variance: the sum of the variances of the derivatives.
        variance_error: its standard error.
        evaluations: of the program for an estimate, on average.
        seconds: of an estimate with its derivatives, the median; measured, as all else is computed.
        work: variance × seconds: the variance that an estimate of one second would have.
    """

    estimator: str
    group: str
    coordinates: int
    draws: int
    gradient: float
    bias: float
    bias_low: float
    bias_high: float
    variance: float
    variance_error: float
    evaluations: float
    seconds: float
    work: float

    @property
    def is_biased(self) -> bool:
        """Whether a bias was found."""
        return self.bias_low > 0


COLUMNS = tuple(each.name for each in fields(StudyRow))
TIMED = ("seconds", "work")
"""The columns that are measured anew, and differ from run to run."""
_MOST_SHOWN = 40


@dataclass(frozen=True, eq=False, repr=False)
class Study(Tabular):
    """What a study has found; ``print`` shows a table.

    Attributes:
        rows: of each method and group of parameters; the group "total" has all.
        curves: of the training by each method, the seconds and the loss of each step, [steps].
        reference: what the means are compared with.
        left_out: why common methods were left out, by name.
        failed: why a method has no row, by name.
        seconds: how long the study took, the last time that it was at work.
        step_seconds: how much of that its estimates took, with their derivatives.
        files: what was written, in the order of their names.
        sites: of the default of `an.backward`, the variance of each site's scores' part of the
            gradient, the largest first; of up to 200 draws.
    """

    rows: tuple[StudyRow, ...]
    curves: Mapping[str, tuple[Numbers, Numbers]]
    reference: str
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    failed: Mapping[str, str] = field(default_factory=dict[str, str])
    seconds: float = 0.0
    step_seconds: float = 0.0
    files: tuple[Path, ...] = ()
    sites: Mapping[str, float] = field(default_factory=dict[str, float])

    def shares(self) -> dict[str, float]:
        """Return the share of each site in the sum of their variances, as `Monitor.shares` does.

        ``trace.graph.colored(study)`` shows them.
        """
        return shares_of(self.sites)

    def table(self) -> Table:
        """Return the table: all rows if there are few, else those of all parameters."""
        rows = self.rows if len(self.rows) <= _MOST_SHOWN else self.total
        below = [
            *(f"failed: {name}: {reason}" for name, reason in self.failed.items()),
            *(f"left out: {name}: {reason}" for name, reason in self.left_out.items()),
            f"{self.seconds:.1f} seconds, {self.step_seconds:.1f} of them in estimates",
        ]
        above = [f"reference: {self.reference}"]
        return Table(_HEAD, [*map(_cells, rows)], {2, 5, 6, 7, 8, 9}, above, below)

    def __repr__(self) -> str:
        """Show the table."""
        return str(self)

    def __getitem__(self, key: str | tuple[str, str]) -> StudyRow:
        """Return the row of a method, for all parameters or for a group."""
        name, group = (key, TOTAL) if isinstance(key, str) else key
        for row in self.rows:
            if (row.estimator, row.group) == (name, group):
                return row
        known = ", ".join(dict.fromkeys(row.estimator for row in self.rows))
        groups = ", ".join(dict.fromkeys(row.group for row in self.rows))
        raise KeyError(f"no row {key!r}; there are {known}, each for {groups}")

    @property
    def total(self) -> tuple[StudyRow, ...]:
        """The rows of all parameters."""
        return tuple(row for row in self.rows if row.group == TOTAL)


@dataclass(frozen=True, eq=False)
class Groups:
    """The parameters by groups, the last of which has all.

    Attributes:
        names: of the parameters, in order.
        sizes: how many derivatives each has.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]

    def leaves(self) -> dict[str, list[int]]:
        """Return the numbers of the parameters of each group."""
        found: dict[str, list[int]] = {}
        for number, name in enumerate(self.names):
            found.setdefault(layer_of(name), []).append(number)
        found.pop(TOTAL, None)
        return {**found, TOTAL: list(range(len(self.names)))}

    def index(self, leaves: Sequence[int]) -> Tensor:
        """Return where the derivatives of some parameters stand."""
        parts = torch.arange(sum(self.sizes)).split(list(self.sizes))
        return torch.cat([parts[leaf] for leaf in leaves])


def layer_of(parameter: str) -> str:
    """Return the layer of a parameter: its module, or itself where the model holds it.

    >>> layer_of("encoder.0.weight"), layer_of("prior")
    ('encoder.0', 'prior')
    """
    module, _, own = parameter.rpartition(".")
    return module or own


@dataclass(frozen=True, eq=False)
class Summary:
    """The blocks of a method put together, in their order.

    Attributes:
        sample: of all derivatives.
        squares: the summed squared deviations of each block from the mean of all, [blocks, leaves].
        counts: the draws of each block, [blocks].
        evaluations: the mean.
        seconds: the median.
    """

    sample: Sample
    squares: Tensor
    counts: Tensor
    evaluations: float
    seconds: float

    @classmethod
    def of(cls, results: Sequence[tuple[Task, Result]], sizes: Sequence[int]) -> "Summary":
        """Put blocks together: Chan, Golub and LeVeque (1979), "Updating formulae"."""
        counts = torch.tensor([task.count for task, _ in results], dtype=torch.float64)
        means = torch.stack([torch.from_numpy(result.mean) for _, result in results])
        draws = int(counts.sum())
        mean = (counts[:, None] * means).sum(0) / draws
        scatter = (means - mean) * counts[:, None].sqrt()
        between = torch.stack([part.square().sum(1) for part in scatter.split(list(sizes), 1)], 1)
        within = torch.stack([torch.from_numpy(result.squares) for _, result in results])
        squares = within + between
        seconds = torch.cat([torch.from_numpy(result.seconds) for _, result in results])
        evaluations = sum(result.evaluations for _, result in results) / draws
        sample = Sample(mean, scatter, float(squares.sum()) / (draws - 1), draws)
        return cls(sample, squares, counts, evaluations, float(seconds.median()))

    def variance(self, leaves: Sequence[int]) -> tuple[float, float]:
        """Return the variance of some parameters, and its standard error over the blocks."""
        squares = self.squares[:, list(leaves)].sum(1)
        draws, blocks = self.sample.draws, len(self.counts)
        variance = float(squares.sum()) / (draws - 1)
        if blocks < 2:
            return variance, float("nan")
        off = squares - self.counts / draws * squares.sum()
        error = float((off.square().sum() * blocks / (blocks - 1)).sqrt()) / draws
        return variance, error


def rows_of(
    summaries: Mapping[str, Summary], reference: Sample, groups: Groups, reference_by_leaf: Tensor
) -> list[StudyRow]:
    """Return the rows of all methods, group by group for each.

    Args:
        summaries: of the methods by name.
        reference: what their means are compared with.
        groups: the parameters.
        reference_by_leaf: the variance of a draw of the reference, [leaves].
    """
    rows, parts = [], []
    for group, leaves in groups.leaves().items():
        index = groups.index(leaves)
        other = reference.of(index, float(reference_by_leaf[leaves].sum()))
        parts.append((group, leaves, index, other))
    for name, found in summaries.items():
        for group, leaves, index, other in parts:
            variance, error = found.variance(leaves)
            own = found.sample.of(index, variance)
            bias = bias_of(own, other)
            noise = other.variance / other.draws
            norm = max(float(other.mean.square().sum()) - noise, 0.0) ** 0.5
            rows.append(
                StudyRow(
                    *(name, group, len(index), found.sample.draws, norm),
                    *(bias.norm, bias.low, bias.high, variance, error),
                    *(found.evaluations, found.seconds, variance * found.seconds),
                )
            )
    return rows


_HEAD = (
    *("estimator", "group", "bias", "interval", "", "variance", "±", "evaluations", "ms a step"),
    "variance × s",
)


def _cells(row: StudyRow) -> list[str]:
    return [
        *(row.estimator, row.group, f"{row.bias:.3g}"),
        f"{row.bias_low:.3g} to {row.bias_high:.3g}",
        "BIASED" if row.is_biased else "",
        *(f"{row.variance:.4g}", f"{row.variance_error:.2g}", f"{row.evaluations:.4g}"),
        *(f"{1e3 * row.seconds:.3g}", f"{row.work:.3g}"),
    ]


def as_csv(rows: Sequence[StudyRow]) -> str:
    """Return the rows as CSV; numbers are written so that they are read as they were."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([getattr(row, name) for name in COLUMNS] for row in rows)
    return text.getvalue()


def shares_of(variances: Mapping[str, float]) -> dict[str, float]:
    """Return the share of each site in the sum of the variances; of none if that is zero."""
    whole = sum(variances.values())
    return {site: variance / whole for site, variance in variances.items()} if whole else {}


def sites_as_csv(variances: Mapping[str, float]) -> str:
    """Return the variances and shares of sites as CSV, which `Graph.colored` reads."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["site", "variance", "share"])
    found = shares_of(variances)
    writer.writerows([site, v, found.get(site, 0.0)] for site, v in variances.items())
    return text.getvalue()


def curves_as_csv(curves: Mapping[str, tuple[Numbers, Numbers]]) -> str:
    """Return the losses of trainings as CSV, with the seconds that had passed by each step."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["estimator", "step", "seconds", "loss"])
    for name, (seconds, losses) in curves.items():
        passed = zip(seconds.cumsum().tolist(), losses.tolist(), strict=True)
        writer.writerows([name, step, *pair] for step, pair in enumerate(passed))
    return text.getvalue()


def write_parquet(rows: Sequence[StudyRow], path: Path) -> bool:
    """Write the rows as Parquet, and return whether pyarrow is there to do it."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        return False
    table: Any = pyarrow.Table.from_pylist([asdict(row) for row in rows])
    with writing(), replacing(path) as file:
        parquet.write_table(table, file)
    return True
