"""Inline pictures: an SVG is part of the page, with its tooltips and the page's day or night."""

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

_NIGHT = re.compile(r"@media \(prefers-color-scheme: dark\) \{\n(.*?)\n\}\n", re.DOTALL)


def inline(app: Sphinx, document: nodes.document, page: str) -> None:
    """Replace the images of a page that are SVG by their text."""
    for image in list(document.findall(nodes.image)):
        path = Path(app.srcdir) / image["uri"]
        if path.suffix != ".svg" or not path.is_file():
            continue
        text = _NIGHT.sub(_themed, path.read_text().partition("?>")[2] or path.read_text())
        text = re.sub(r'<svg role="img" width="([\d.]+)pt"[^>]*?height="[\d.]+pt"', _fitting, text)
        label = image.get("alt")
        if label:
            text = text.replace('<svg role="img"', f'<svg role="img" aria-label="{label}"', 1)
        image.replace_self(nodes.raw("", f'<span class="picture">{text}</span>', format="html"))


def _themed(rules: re.Match[str]) -> str:
    """Let the reader's choice of a theme decide, and the system where there is none."""
    by_choice = f'body[data-theme="dark"] {{\n{rules[1]}\n}}'
    by_system = f'body:not([data-theme="light"]) {{\n{rules[1]}\n}}'
    return f"{by_choice}\n@media (prefers-color-scheme: dark) {{\n{by_system}\n}}\n"


def _fitting(tag: re.Match[str]) -> str:
    return f'<svg role="img" style="width: {float(tag[1]):g}pt; max-width: 100%; height: auto"'


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the hook."""
    app.connect("doctree-resolved", inline)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
