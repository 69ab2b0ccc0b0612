"""Engines: the programs that lay out DOT text, and a time limit for every one.

Any one will do: ``graphviz-pure``, which pip installs beside the interpreter, draws SVG and PNG; a
``dot`` of the system and the Python package ``pygraphviz`` draw PDF too. Each runs in a process of
its own, for only a process can be stopped in the middle of a layout.

>>> find("no such command") is None
True
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

LIMIT = 20.0
"""Seconds that a layout may take."""

_SIGNATURES = {"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF"}
_INSTALL = {
    "svg": "pip install 'ancestral[render]'",
    "png": "pip install 'ancestral[render]'",
    "pdf": "pip install 'ancestral[pdf]'",
}
_OPTIONS = {"png": ("-Gdpi=144",)}  # sharp on today's screens
_PYGRAPHVIZ = """
import sys, pygraphviz
graph = pygraphviz.AGraph(string=sys.stdin.buffer.read().decode())
for option in sys.argv[2:]:
    key, _, value = option.removeprefix("-G").partition("=")
    graph.graph_attr[key] = value
sys.stdout.buffer.write(graph.draw(format=sys.argv[1], prog="dot"))
"""


class NoEngineError(RuntimeError):
    """Nothing that is installed can draw the format."""


class LayoutTimeoutError(RuntimeError):
    """A layout took longer than its limit."""


class LayoutError(RuntimeError):
    """An engine failed."""


def find(command: str) -> str | None:
    """Return where a command is: beside the interpreter, among its scripts or on the PATH."""
    user = sysconfig.get_preferred_scheme("user")
    folders = [
        str(Path(sys.executable).parent),
        sysconfig.get_path("scripts"),
        sysconfig.get_path("scripts", user),
        *os.environ.get("PATH", "").split(os.pathsep),
    ]
    return shutil.which(command, path=os.pathsep.join(filter(None, folders)))


def engines(form: str) -> tuple[tuple[str, ...], ...]:
    """Return the command lines that draw a format ("svg", "png" or "pdf"), best first."""
    pure = None if form == "pdf" else find("graphviz-pure")
    commands = [path for path in (pure, find("dot")) if path is not None]
    found = [(path, f"-T{form}", *_OPTIONS.get(form, ())) for path in commands]
    if importlib.util.find_spec("pygraphviz") is not None:
        # -P: a module of that name in the current folder is not the package.
        found.append((sys.executable, "-P", "-c", _PYGRAPHVIZ, form, *_OPTIONS.get(form, ())))
    return tuple(found)


def lay_out(dot: str, form: str, limit: float = LIMIT) -> bytes:
    """Return the picture of DOT text as "svg", "png" or "pdf", by the first engine that succeeds.

    Raises:
        NoEngineError: if nothing installed draws the format.
        LayoutTimeoutError: if the layout takes longer than `limit` seconds.
        LayoutError: if every engine fails.
    """
    commands = engines(form)
    if not commands:
        raise NoEngineError(
            f"no engine that draws {form.upper()} was found; get one with {_INSTALL[form]}, or "
            f"install Graphviz so that its command `dot` is on the PATH "
            f"(a path that ends in .dot needs no engine)"
        )
    complaints: list[str] = []
    for command in commands:
        try:
            return _run(command, dot, form, limit)
        except LayoutError as error:
            complaints.append(str(error))
    raise LayoutError("; ".join(complaints))


def _run(command: Sequence[str], dot: str, form: str, limit: float) -> bytes:
    try:
        done = subprocess.run(
            command, input=dot.encode(), capture_output=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        # All engines share their algorithms, so another would not be much faster.
        raise LayoutTimeoutError(
            f"the layout took longer than {limit:g} s; give it more time with limit=..., "
            f"or write a .dot file, which needs no layout"
        ) from None
    except OSError as error:
        raise LayoutError(f"{command[0]} did not start: {error}") from error
    if done.returncode != 0 or _SIGNATURES[form] not in done.stdout[:2048]:
        complaint = done.stderr.decode(errors="replace").strip()[-500:]
        raise LayoutError(f"{command[0]} failed (status {done.returncode}): {complaint}")
    return done.stdout
