"""Report of a study: what to run it again with, and one page of HTML with all that was found."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ancestral.tools.study.errors import writing
from ancestral.tools.study.table import (
    Study,
    StudyRow,
    as_csv,
    curves_as_csv,
    sites_as_csv,
    write_parquet,
)
from ancestral.trace.serialize.file import replacing

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem;
       color: #222; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .55rem; text-align: right; white-space: nowrap; }
th { border-bottom: 2px solid #888; cursor: default; } td { border-bottom: 1px solid #ddd; }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
tr.biased td { color: #666; } tr.biased td.bias { color: #b00020; font-weight: 600; }
tr.total td { font-weight: 600; } tr.best td.work { background: #d8f0e0; }
.scroll { overflow-x: auto; } img { max-width: 100%; height: auto; background: #fff; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; } dd { margin: 0; }
pre { background: #f4f4f4; padding: .8rem; overflow-x: auto; } .note { color: #555; }
"""
_TITLES = {
    "variance": "Variance",
    "cost": "Variance against time",
    "training": "Training",
}


def toml_of(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Return settings as TOML: texts, numbers, truth values, and lists of them.

    >>> print(toml_of({"study": {"seed": 0, "estimators": ["auto", "arms(3)"]}}), end="")
    [study]
    seed = 0
    estimators = ["auto", "arms(3)"]
    """
    lines: list[str] = []
    for title, section in sections.items():
        lines += ["", f"[{title}]"] if lines else [f"[{title}]"]
        # A text, a number and a list of these are in TOML what they are in JSON.
        lines += [f"{_key(key)} = {json.dumps(value)}" for key, value in section.items()]
    return "\n".join(lines) + "\n"


def _key(key: str) -> str:
    return key if key.replace("-", "").replace("_", "").isalnum() else json.dumps(key)


def page(
    rows: Sequence[StudyRow], facts: Mapping[str, str], plots: Mapping[str, bytes], toml: str
) -> str:
    """Return a page that needs no other file.

    Args:
        rows: the table.
        facts: what else is to be said, by its title.
        plots: SVG by name.
        toml: what to run the study again with.
    """
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{_text(facts['program'])}: a study of estimators</title>",
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>Estimators of the gradient of {_text(facts['program'])}</h1>",
        _list(facts),
        "<h2>Table</h2>",
        _table(rows),
        '<p class="note">Bias is the norm of the difference between the mean of the estimates and '
        "the reference, beyond what their own variance makes of it; the interval misses it once "
        "in a thousand, and one that leaves out zero shows a bias. Variance is summed over the "
        "coordinates, ± its standard error. Variance × s is the variance that an estimate of one "
        "second would have; the least of an unbiased estimator in each group is marked.</p>",
        *(_figure(name, plot) for name, plot in plots.items()),
        "<h2>To run it again</h2>",
        f"<pre>{_text(toml)}</pre>",
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _text(text: str) -> str:
    return html.escape(text)


def _list(facts: Mapping[str, str]) -> str:
    items = (f"<dt>{_text(key)}</dt><dd>{_text(value)}</dd>" for key, value in facts.items())
    return f"<dl>{''.join(items)}</dl>"


def _table(rows: Sequence[StudyRow]) -> str:
    head = [
        *("estimator", "group", "coordinates", "gradient", "bias", "interval", "variance", "±"),
        *("evaluations", "ms a step", "variance × s"),
    ]
    best: dict[str, float] = {}
    for row in rows:
        if not row.is_biased:
            best[row.group] = min(row.work, best.get(row.group, row.work))
    lines = [f"<tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>"]
    for row in rows:
        kinds = [
            *(["biased"] if row.is_biased else []),
            *(["total"] if row.group == "total" else []),
            *(["best"] if not row.is_biased and row.work == best[row.group] else []),
        ]
        cells = [
            *(("", row.estimator), ("", row.group), ("", f"{row.coordinates:,}")),
            *(("", f"{row.gradient:.4g}"), ("bias", f"{row.bias:.3g}")),
            ("bias", f"{row.bias_low:.3g} to {row.bias_high:.3g}"),
            *(("", f"{row.variance:.4g}"), ("", f"{row.variance_error:.2g}")),
            *(("", f"{row.evaluations:.4g}"), ("", f"{1e3 * row.seconds:.3g}")),
            ("work", f"{row.work:.3g}"),
        ]
        shown = "".join(f'<td class="{kind}">{_text(cell)}</td>' for kind, cell in cells)
        lines.append(f'<tr class="{" ".join(kinds)}">{shown}</tr>')
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _figure(name: str, plot: bytes) -> str:
    title = _TITLES.get(name, name)
    body = base64.b64encode(plot).decode()
    return f'<h2>{title}</h2>\n<img alt="{title}" src="data:image/svg+xml;base64,{body}">'


def written(study: Study, folder: Path, facts: Mapping[str, str], toml: str) -> Study:
    """Write the tables, the plots and the report, and return the study with what was written."""
    files = {"study.toml": b"", "table.csv": as_csv(study.rows).encode()}
    files["sites.csv"] = sites_as_csv(study.sites).encode()
    if study.curves:
        files["training.csv"] = curves_as_csv(study.curves).encode()
    try:
        from ancestral.tools.study.plots import plots_of
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] != "matplotlib":
            raise
        plots: dict[str, bytes] = {}
    else:
        plots = plots_of(study.rows, study.curves) if study.rows else {}
    files.update({f"{name}.svg": body for name, body in plots.items()})
    files["report.html"] = page(study.rows, facts, plots, toml).encode()
    for name, body in files.items():
        if body:
            write(folder / name, body)
    if write_parquet(study.rows, folder / "table.parquet"):
        files["table.parquet"] = b""
    kept = {**vars(study), "files": tuple(folder / name for name in sorted(files))}
    return Study(**kept)


def write(path: Path, content: str | bytes) -> None:
    """Write a file, which takes the place of another once it is whole."""
    with writing(), replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
