"""Reference: docstrings as they are written, made fit for reStructuredText."""

import importlib
import inspect
import re
from types import ModuleType
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_HOMES = (
    *("ancestral.errors", "ancestral", "ancestral.estimators", "ancestral.infer"),
    "ancestral.handlers",
)
"""Modules that users import from: what two of them offer is described with the first."""


class Everything(SphinxDirective):
    """Document all that a module offers, so that no name can be forgotten."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the descriptions, in the order of the names."""
        home = self.arguments[0]
        elsewhere = {
            id(each) for other in _HOMES[: _HOMES.index(home)] for each in _offered(other).values()
        }
        lines: list[str] = []
        for name, item in sorted(_offered(home).items(), key=lambda each: each[0].lower()):
            if id(item) not in elsewhere:
                lines += _directive(f"{home}.{name}", item)
        described = nodes.section()
        described.document = self.state.document
        self.state.nested_parse(StringList(lines, self.arguments[0]), 0, described)
        return described.children


def _offered(home: str) -> dict[str, Any]:
    module = importlib.import_module(home)
    found = {name: getattr(module, name) for name in module.__all__}
    return {name: item for name, item in found.items() if not isinstance(item, ModuleType)}


def _directive(path: str, item: Any) -> list[str]:
    if not inspect.isclass(item):
        return [f".. auto{'function' if callable(item) else 'data'}:: {path}", ""]
    members = [] if issubclass(item, Exception) else ["   :members:"]
    return [f".. autoclass:: {path}", *members, ""]


def _escaped(line: str) -> str:
    """Escape what is markup only to reStructuredText: stars, bars, and names that end in _."""
    line = re.sub(r"^( +\w+: )(?=[A-Za-z]\.)", r"\1\\", line)  # a letter, and no item of a list
    parts = re.split(r"(``.*?``|`[^`]*`)", line)
    return "".join(
        part if part.startswith("`") else re.sub(r"([*|])|(?<=\w)_(?=\W|$)", r"\\\g<0>", part)
        for part in parts
    )


_FIELDS = tuple(f"{name}:" for name in ("Args", "Attributes", "Raises", "Returns", "Yields"))


def process(app: Sphinx, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Escape a docstring outside code, and keep the summary of a property whole."""
    in_block, in_fields = False, False
    for number, line in enumerate(lines):
        in_fields = in_fields or line in _FIELDS
        in_block = bool(line.strip()) and (in_block or line.lstrip().startswith(">>>"))
        if not in_block:
            lines[number] = _escaped(line)
            if not in_fields and line.startswith("    "):  # a formula, whose lines stay apart
                lines[number] = f"    | {lines[number].strip()}"
    if what in ("property", "attribute") and lines:
        lines.insert(0, "..")  # a summary up to a colon would be taken for a type
        lines.insert(1, "")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hook."""
    app.add_directive("everything", Everything)
    app.connect("autodoc-process-docstring", process, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
