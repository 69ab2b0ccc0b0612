"""Notebooks: one that shows what there is to show is executed, and its outputs are looked at."""

import re
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs pip install 'ancestral[docs]'")
nbclient = pytest.importorskip("nbclient", reason="needs pip install 'ancestral[docs]'")

CELLS = [
    """import torch
from torch.distributions import Bernoulli
import ancestral as an
theta = torch.zeros(6, 4, requires_grad=True)
with an.record() as trace:
    z = Bernoulli(logits=theta).sample()
    loss = (z.sum(1) - 0.3).square().sum()""",
    "trace",
    "trace.plates",
    "trace.explain(loss)",
    "trace.graph",
    "trace.compare(trace)",
    "an.verify(lambda: Bernoulli(logits=theta[0, :2]).sample().sum(), parameters=[theta])",
    """def program():
    return (Bernoulli(logits=theta[0, :2]).sample() - 0.3).square().sum()
an.study(program, parameters={"theta": theta}, estimators="auto, score", draws=40, steps=0)""",
]


@pytest.fixture(scope="module")
def outputs() -> list[Any]:
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    return [cell.outputs for cell in book.cells]


def test_every_cell_shows_a_table_or_a_picture(outputs: list[Any]) -> None:
    assert outputs[0] == []
    for cell, (output,) in zip(CELLS[1:], outputs[1:], strict=True):
        rich = {"text/html", "image/svg+xml"} & output.data.keys()
        assert rich, cell
        assert "text/plain" in output.data


def test_the_tables_have_the_sites(outputs: list[Any]) -> None:
    for (output,) in outputs[1:4]:
        page = output.data["text/html"]
        assert "<table>" in page
        assert re.search(r"<td[^>]*>(z|plate_0)</td>", page)
    (graph,) = outputs[4]
    assert graph.data["image/svg+xml"].startswith("<svg")
