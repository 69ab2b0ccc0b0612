"""Tables: the same cells in the terminal and in a notebook, which executes and shows them."""

import functools
import html
import re
from typing import Any

import pytest
import torch
from torch.distributions import Bernoulli, Normal

import ancestral as an
from ancestral.trace.display.text_table import Table, Tabular

NAMES = "trace plates explanation comparison equality guide verification plan monitor".split()


@functools.cache
def shown() -> dict[str, Any]:
    """Return one of each kind of thing that is shown as a table."""
    theta = torch.zeros(3, 2, requires_grad=True)

    def loss() -> Any:
        z = Bernoulli(logits=theta).sample()
        return (z.sum(1) - 0.3).square().sum()

    def model() -> None:
        an.sample("z<1>", Normal(0.0, 1.0))

    with an.record() as trace:
        total = loss()
    with an.record() as other:
        model()
    step: Any = an.compile(loss, backend="eager")
    step()
    monitor = an.Monitor(every=1)
    with an.record():
        watched = loss() + Bernoulli(logits=theta[0, 0]).sample()  # of one element
    an.backward(watched, monitor=monitor)
    return {
        "trace": trace,
        "plates": trace.plates,
        "explanation": trace.explain(total),
        "comparison": trace.compare(other),
        "equality": trace.compare(trace),
        "guide": an.infer.check_guide(model, lambda: None),
        "verification": an.verify(lambda: loss() / 3, parameters=[theta], draws=50),
        "plan": step.plan,
        "monitor": monitor,
    }


def cells(text: str) -> list[str]:
    return [html.unescape(cell) for cell in re.findall(r"<t[hd] [^>]*>(.*?)</t[hd]>", text)]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_has_the_cells_of_the_terminal(name: str) -> None:
    item = shown()[name]
    assert isinstance(item, Tabular)
    text, page = str(item), item._repr_html_()
    words = [word for cell in cells(page) for word in cell.split()]
    assert set(words) <= set(text.split())
    table = item.table()
    assert len(cells(page)) == len(table.head) * (len(table.rows) + 1)
    for line in (*table.above, *table.below):
        assert line in text.splitlines()
        assert f"<p>{html.escape(line)}</p>" in page


def test_names_are_text_and_no_markup() -> None:
    page = Table(["<b>"], [["a & b"]], above=["<i>"]).html()
    assert "&lt;b&gt;" in page
    assert "a &amp; b" in page
    assert "<i>" not in page


def test_a_table_without_a_head_is_its_lines() -> None:
    assert str(Table((), (), above=["no difference"])) == "no difference"
    assert Table((), (), above=["no difference"]).html() == "<p>no difference</p>"
