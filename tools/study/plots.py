"""Plots of a study as SVG: variances, variances against time, and losses of trainings.

Biased estimators are hatched, or have empty markers: a small variance is no merit of theirs.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from ancestral.tools.study.table import TOTAL, StudyRow
from ancestral.tools.study.work import Numbers

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Those of Okabe and Ito: apart for every kind of colour vision."""
_STYLES, _MARKERS = ("-", "--", "-.", ":"), "osD^v"
_MOST_GROUPS = 6


def plots_of(
    rows: Sequence[StudyRow], curves: Mapping[str, tuple[Numbers, Numbers]]
) -> dict[str, bytes]:
    """Return the plots by name."""
    total = [row for row in rows if row.group == TOTAL]
    found = {"variance": _bars(rows), "cost": _cost(total)}
    if curves:
        found["training"] = _training(curves)
    return {name: _svg(figure) for name, figure in found.items()}


def _bars(rows: Sequence[StudyRow]) -> Figure:
    """Draw the variance of each estimator, in all parameters and in each of the first groups."""
    names = list(dict.fromkeys(row.group for row in rows))
    groups = names if len(names) > 2 else [TOTAL]
    groups = [TOTAL, *(group for group in groups if group != TOTAL)][:_MOST_GROUPS]
    total = sorted(
        (row for row in rows if row.group == TOTAL), key=lambda row: row.variance, reverse=True
    )
    order = [row.estimator for row in total]
    width = 4.5 + 2.4 * (len(groups) - 1)
    figure = Figure(figsize=(width + 1.5, 1.4 + 0.32 * len(order)), layout="constrained")
    panels: Any = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, group in zip(panels, groups, strict=True):
        own = {row.estimator: row for row in rows if row.group == group}
        least = min((row.variance for row in own.values() if row.variance > 0), default=1.0)
        for place, name in enumerate(order):
            row = own[name]
            axes.barh(
                place,
                max(row.variance, least / 3),
                xerr=min(row.variance_error, 0.9 * row.variance) if row.variance > 0 else None,
                color="#BBBBBB" if row.is_biased else "#0072B2",
                hatch="///" if row.is_biased else None,
                edgecolor="white",
                error_kw={"ecolor": "#333333", "capsize": 2, "elinewidth": 1},
            )
            if row.variance <= 0:
                axes.text(least / 3, place, " 0", va="center", fontsize="small")
        most = max((row.variance for row in own.values()), default=0.0) or 1.0
        axes.set_xscale("log")
        axes.set_xlim(min(least / 3, most / 30), 2 * most)
        axes.xaxis.set_major_locator(LogLocator(numticks=5))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_yticks(range(len(order)), order)
        axes.set_title("all parameters" if group == TOTAL else group, fontsize="medium")
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.set_xlabel("variance")
    if any(row.is_biased for row in rows):
        figure.suptitle("variance of the gradient (hatched: biased)", fontsize="medium")
    return figure


def _cost(rows: Sequence[StudyRow]) -> Figure:
    """Draw variance against the time of a step, with lines of equal work."""
    figure = Figure(figsize=(8.5, 5), layout="constrained")
    axes: Any = figure.add_subplot()
    shown = [row for row in rows if row.variance > 0]
    for number, row in enumerate(sorted(shown, key=lambda row: row.work)):
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(
            1e3 * row.seconds,
            row.variance,
            _MARKERS[number // len(_COLOURS) % len(_MARKERS)],
            color=colour,
            markerfacecolor="none" if row.is_biased else colour,
            markersize=8,
            label=f"{row.estimator}: {row.work:.3g}{' (biased)' if row.is_biased else ''}",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(0.1)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    least, most = math.log10(left * bottom / 1e3), math.log10(right * top / 1e3)
    for power in range(math.floor(least), math.ceil(most) + 1):
        work = 1e3 * 10.0**power
        axes.plot([left, right], [work / left, work / right], ":", color="#BBBBBB", lw=0.8)
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(
        FormatStrFormatter("%g") if right < 20 * left else NullFormatter()
    )
    axes.set_xlabel("time of a step (ms)")
    axes.set_ylabel("variance of the gradient, all parameters")
    axes.set_title("dotted: equal variance × time, a factor of 10 apart", fontsize="medium")
    figure.legend(loc="outside right upper", fontsize="small", title="variance × s")
    return figure


def _training(curves: Mapping[str, tuple[Numbers, Numbers]]) -> Figure:
    """Draw the losses of trainings at equal steps and at equal times."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    panels: Any = figure.subplots(1, 2, sharey=True)
    lines = []
    shortest = min(float(seconds.sum()) for seconds, _ in curves.values())
    longest = max(float(seconds.sum()) for seconds, _ in curves.values())
    for number, (name, (seconds, losses)) in enumerate(curves.items()):
        look: dict[str, Any] = {
            "color": _COLOURS[number % len(_COLOURS)],
            "linestyle": _STYLES[number // len(_COLOURS) % len(_STYLES)],
            "linewidth": 1.5,
        }
        window = max(len(losses) // 20, 1)
        means = torch.from_numpy(losses).unfold(0, window, 1).mean(-1).tolist()
        steps = range(window - 1, len(losses))
        panels[0].plot(steps, means, **look)
        (line,) = panels[1].plot(seconds.cumsum()[window - 1 :], means, label=name, **look)
        lines.append(line)
    panels[0].set_xlabel("step")
    panels[0].set_ylabel("loss (mean of the last twentieth)")
    panels[1].set_xlabel("seconds")
    if longest > 8 * shortest:
        panels[1].set_xscale("log")
    for axes, title in zip(panels, ("at equal steps", "at equal time"), strict=True):
        axes.set_title(title, fontsize="medium")
        axes.grid(alpha=0.3)
    figure.legend(handles=lines, loc="outside right center", fontsize="small")
    return figure


def _svg(figure: Figure) -> bytes:
    """Return a figure as SVG, the same bytes for the same figure."""
    text = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "ancestral", "svg.fonttype": "path"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
