"""Engines: where they are looked for, their time limit, and what is said when one is missing."""

import os
import sys
import time
from pathlib import Path

import pytest

from ancestral.tools.render import engines
from ancestral.tools.render.engines import LayoutError, LayoutTimeoutError, NoEngineError, lay_out

DOT = 'digraph { a [label="the label"] }'
PYTHON = sys.executable


def fake(path: Path, body: str) -> None:
    """Write a command that has its input as `dot` and its options as `options`."""
    head = "import sys, time\ndot, options = sys.stdin.read(), sys.argv[1:]\n"
    path.write_text(f"#!{PYTHON} -S\n{head}{body}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(("form", "signature"), [("svg", b"<svg"), ("png", b"\x89PNG")])
def test_an_engine_from_pip_draws_without_anything_on_the_path(
    form: str, signature: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert signature in lay_out(DOT, form)[:2048]


def test_a_command_is_looked_for_beside_the_interpreter_then_among_scripts_then_on_the_path(
    scripts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, path = tmp_path / "beside", tmp_path / "path"
    monkeypatch.setattr(sys, "executable", str(beside / "python"))
    monkeypatch.setenv("PATH", str(path))
    assert engines.find("dot") is None
    for folder in (path, scripts, beside):  # each wins over those before
        folder.mkdir(exist_ok=True)
        fake(folder / "dot", "")
        assert engines.find("dot") == str(folder / "dot")


@pytest.mark.usefixtures("scripts")
@pytest.mark.parametrize(("form", "extra"), [("svg", "render"), ("png", "render"), ("pdf", "pdf")])
def test_with_no_engine_the_error_says_what_to_install(form: str, extra: str) -> None:
    with pytest.raises(NoEngineError, match=rf"pip install 'ancestral\[{extra}\]'.*`dot`"):
        lay_out(DOT, form)


def test_a_system_dot_draws_pdf_but_graphviz_pure_is_not_asked_to(scripts: Path) -> None:
    fake(scripts / "graphviz-pure", "print('%PDF from pure')")
    with pytest.raises(NoEngineError):
        lay_out(DOT, "pdf")
    fake(scripts / "dot", "print('%PDF', options, dot)")
    assert lay_out(DOT, "pdf").decode().strip() == f"%PDF ['-Tpdf'] {DOT}"


def test_pygraphviz_draws_pdf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pygraphviz.py").write_text(
        "class AGraph:\n"
        "    def __init__(self, string):\n"
        "        self.string, self.graph_attr = string, {}\n"
        "    def draw(self, format, prog):\n"
        "        return f'\\x89PNG %PDF {format} {prog} {self.graph_attr} {self.string}'"
        ".encode('latin-1')\n"
    )
    monkeypatch.setattr(engines, "find", lambda _: None)
    monkeypatch.delitem(sys.modules, "pygraphviz", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert f"%PDF pdf dot {{}} {DOT}".encode() in lay_out(DOT, "pdf")
    assert b"png dot {'dpi': '144'}" in lay_out(DOT, "png")


def test_an_engine_that_hangs_is_stopped_at_the_limit(scripts: Path) -> None:
    fake(scripts / "graphviz-pure", "time.sleep(60)")
    start = time.monotonic()
    with pytest.raises(LayoutTimeoutError, match=r"longer than 0\.5 s.*limit="):
        lay_out(DOT, "svg", limit=0.5)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    "body", ["sys.exit('it broke')", "print('no picture')", "print('<svg/>'); sys.exit(3)"]
)
def test_after_an_engine_that_fails_the_next_is_asked(scripts: Path, body: str) -> None:
    fake(scripts / "graphviz-pure", body)
    with pytest.raises(LayoutError, match="graphviz-pure failed"):
        lay_out(DOT, "svg")
    fake(scripts / "dot", "print('<svg/>')")
    assert lay_out(DOT, "svg") == b"<svg/>\n"


def test_an_engine_that_cannot_start_is_a_failure_too(scripts: Path) -> None:
    (scripts / "dot").write_text(f"#!{scripts / 'gone'}\n")
    os.chmod(scripts / "dot", 0o755)
    with pytest.raises(LayoutError, match="did not start"):
        lay_out(DOT, "svg")
