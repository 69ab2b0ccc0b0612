"""Executed blocks: a page's blocks of Python become cells, whose real output is shown.

GitHub shows the pages as they are, with the output that a test compares; the site leaves that out
and shows what the cells print when it is built.
"""

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

_HEAD = """---
file_format: mystnb
kernelspec:
  name: python3
---
"""
_BLOCK = re.compile(r"```python\n(.*?)```\n(?:\n```text\n.*?```\n)?", re.DOTALL)
_INCLUDED = re.compile(r"(?<!!)\[([^\]]*)\]\((?:\.\./)?docs/([\w/]+\.md)(#[\w-]+)?\)")


def to_cells(app: Sphinx, page: str, source: list[str]) -> None:
    """Turn the blocks of a page into cells."""
    if Path(app.env.doc2path(page)).suffix != ".md":
        return
    text = _INCLUDED.sub(r"[\1](\2\3)", source[0])
    if _BLOCK.search(text) and app.config.nb_execution_mode != "off":
        # Traces name this file and not a temporary one.
        os.environ["IPYKERNEL_CELL_NAME"] = f"{Path(page).name}.py"
        text = _HEAD + _BLOCK.sub(r"```{code-cell}\n\1```\n", text)
    source[0] = text


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hook."""
    app.connect("source-read", to_cells)
    return {"parallel_read_safe": False}
