"""Explored graph: the page of a graph, made by the build and shown on a page of the site."""

from pathlib import Path

import torch
from sphinx.application import Sphinx

import ancestral as an
from ancestral.tools.demo.belief_net import BeliefNet

_PAGE, _FILE = "pictures", "belief_net.html"
_FRAME = f"""
## A graph to explore

Its sites are coloured by their shares of the gradient's variance.

```{{raw}} html
<iframe class="explored" src="_static/{_FILE}" title="Graph of a belief net, to explore"></iframe>
```
"""


def show(app: Sphinx, page: str, source: list[str]) -> None:
    """Add the frame to its page."""
    if page == _PAGE:
        source[0] += _FRAME


def make(app: Sphinx, error: Exception | None) -> None:
    """Write the graph where the frame looks for it."""
    if error is None and app.builder.format == "html":
        model, monitor = BeliefNet(), an.Monitor(every=1)
        with torch.random.fork_rng(), an.record() as trace:
            torch.manual_seed(0)
            loss = model(torch.zeros(64, 64))
        an.backward(loss, monitor=monitor)
        trace.graph.colored(monitor.shares()).render(Path(app.outdir) / "_static" / _FILE)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hooks."""
    app.connect("source-read", show)
    app.connect("build-finished", make)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
