"""The command line: ``ancestral graph``, ``audit``, ``study``, ``demo``, ``ancestral --version``.

A model is named as ``module:factory``, or by its file as ``path/file.py:factory``.

Whatever goes wrong is one line on the standard error, and the exit status 2; an audit that finds
something prints that, and its exit status is 1.
"""

import argparse
import importlib
import importlib.util
import os
import re
import sys
import tomllib
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ancestral import __version__
from ancestral.tools.render.inspect import graph
from ancestral.tools.study.errors import StudyError
from ancestral.tools.study.study import study
from ancestral.trace.audit.tables import AuditError
from ancestral.trace.recording.record import record


class UsageError(ValueError):
    """Something on the command line is wrong; its text says what was expected."""


def parse_input(text: str) -> Tensor:
    """Return an input that is described as ``dtype[sizes]``: ``float32[32,64]``, ``int64[8]``.

    Floating and complex tensors are drawn from a standard normal, all others are zero.

    Raises:
        UsageError: if the text is not of that form.

    >>> parse_input("float32[2,3]").shape
    torch.Size([2, 3])
    """
    match = re.fullmatch(r"\s*(\w+)\s*\[\s*((?:\d+\s*(?:,\s*\d+\s*)*)?)\]\s*", text)
    dtype = getattr(torch, match.group(1), None) if match else None
    if match is None or not isinstance(dtype, torch.dtype):
        raise UsageError(f"--input {text!r}: expected dtype[sizes], for example 'float32[32,64]'")
    sizes = [int(size) for size in match.group(2).split(",") if size.strip()]
    if dtype.is_floating_point or dtype.is_complex:
        return (
            torch.randn(sizes).to(dtype)
            if not dtype.is_complex
            else torch.randn(sizes, dtype=dtype)
        )
    return torch.zeros(sizes, dtype=dtype)


def load_model(target: str) -> Callable[..., Any]:
    """Return the model that ``module:factory`` names: a module, or what a factory makes.

    ``path/file.py:factory`` names one in a file, which is run as Python runs a script: what lies
    beside it can be imported.

    Raises:
        UsageError: if there is no such module, file or name, or it makes nothing that can be
            called.
    """
    place, _, path = target.rpartition(":")
    is_file = place.endswith(".py")
    if not (place and path) or not (is_file or re.fullmatch(r"[^./\\][^/\\]*", place)):
        raise UsageError(
            f"{target!r}: expected module:factory or path/file.py:factory, for example "
            "'models:BeliefNet'"
        )
    try:
        found: Any = _file(Path(place)) if is_file else _module(place)
    except SystemExit as error:
        raise UsageError(f"{place!r} ends the process when it is imported") from error
    for name in path.split("."):
        if not hasattr(found, name):
            raise UsageError(f"{place!r} has no {path!r}")
        found = getattr(found, name)
    model = found if isinstance(found, nn.Module) else found() if callable(found) else found
    if not callable(model):
        raise UsageError(f"{target!r} made a {type(model).__name__}, which cannot be called")
    called: Callable[..., Any] = model
    return called


def _module(name: str) -> ModuleType:
    """Import a module by its name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module is there, and misses another one
        raise UsageError(f"no module named {name!r} can be imported from here") from error


def _file(path: Path) -> ModuleType:
    """Run a file as a module, whose name is nobody else's."""
    if not path.is_file():
        raise UsageError(f"{str(path)!r} is no file")
    name = f"_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made  # a dataclass looks its module up
    sys.path.insert(0, str(path.resolve().parent))
    spec.loader.exec_module(made)
    return made


def draw_graph(options: argparse.Namespace) -> None:
    """Draw the graph of a model into a file.

    Raises:
        UsageError: if the folder of a study has no shares.
    """
    torch.manual_seed(options.seed)
    inputs = [parse_input(text) for text in options.input]
    found = graph(load_model(options.model), *inputs, noise=options.noise)
    if not found.vertices:
        print("ancestral: the model drew nothing", file=sys.stderr)
    if options.shares is not None:
        try:
            found = found.colored(options.shares)
        except ValueError as error:
            raise UsageError(f"--shares: {error}") from error
        if all(vertex.share is None for vertex in found.vertices):
            print(
                f"ancestral: no site of {options.shares} is in this graph, which has no colours; "
                "is it a study of this model, and of one with scores?",
                file=sys.stderr,
            )
    print(found.render(options.output, with_params=options.params))


def audit_model(options: argparse.Namespace) -> None:
    """Run a model once with an audit, and say how much was compared.

    Raises:
        AuditError: if a dependency is lost.
    """
    torch.manual_seed(options.seed)
    inputs = [parse_input(text) for text in options.input]
    model = load_model(options.model)
    with record(audit=True) as trace:
        result = model(*inputs)
    del result  # it was kept until here to be compared
    print(trace.audited)


STUDY: dict[str, Any] = {
    "estimators": None,
    "draws": 500,
    "steps": 100,
    "rate": 0.01,
    "warm_up": 100,
    "seed": 0,
}
"""The arguments of a study where neither the command nor a study.toml says."""


def run_study(options: argparse.Namespace) -> None:
    """Compare estimators on a model, and leave what is found in a folder.

    Raises:
        StudyError: if it cannot begin or go on, or an estimator has failed.
    """
    again = _study_of(Path(options.model)) if options.model.endswith(".toml") else {}
    given = {name: getattr(options, name) for name in STUDY}
    chosen = {
        name: again.get(name, default) if given[name] is None else given[name]
        for name, default in STUDY.items()
    }
    target = again.get("model", options.model)
    inputs = options.input or again.get("input", [])
    torch.manual_seed(chosen["seed"])
    tensors = [parse_input(text) for text in inputs]
    found = study(
        load_model(target),
        *tensors,
        **chosen,
        workers=options.workers,
        backend=options.backend,
        out=options.out,
        source={"model": target, "input": inputs},
    )
    print(found)
    print(f"left in {options.out}: {', '.join(path.name for path in found.files)}")
    if found.failed:
        raise StudyError(f"{', '.join(found.failed)} failed: see above; the others are kept")


def _study_of(path: Path) -> dict[str, Any]:
    """Return what a study.toml asks for.

    Raises:
        UsageError: if it is none.
    """
    try:
        found = tomllib.loads(path.read_text())["study"]
        model, inputs = found["model"], found["input"]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise UsageError(
            f"{str(path)!r} is no study.toml of this command: {error}; a study that was made by "
            "an.study is made again by the same call"
        ) from error
    known = {name: found[name] for name in STUDY if name in found}
    return {"model": model, "input": inputs, **known}


def run_demo(options: argparse.Namespace) -> None:
    """Train the belief net.

    Raises:
        UsageError: if what the extra `demo` brings is not installed.
    """
    try:
        from ancestral.tools.demo.demo import run  # needs the extra `demo`, the rest does not
    except ModuleNotFoundError as error:
        missing = str(error.name).partition(".")[0]
        if missing not in ("matplotlib", "sklearn", "tqdm"):
            raise
        raise UsageError(
            f"the demo needs {missing}, which is not installed: pip install 'ancestral[demo]'"
        ) from error
    given = {} if options.steps is None else {"steps": options.steps}
    run(out=options.out, seed=options.seed, **given)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="ancestral",
        description="Rao-Blackwellized gradients for torch models that sample.",
    )
    top.add_argument("--version", action="version", version=f"ancestral {__version__}")
    commands = top.add_subparsers(required=True, metavar="command")
    drawing = commands.add_parser("graph", help="draw who depends on whom in a model")
    _take_model(drawing)
    drawing.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("graph.svg"),
        help=".svg, .html, .png, .pdf, .dot, .mmd, .graphml or .json",
    )
    drawing.add_argument("--params", action="store_true", help="draw the parameters too")
    drawing.add_argument("--noise", action="store_true", help="draw dropout masks and the like too")
    drawing.add_argument(
        "--shares",
        type=Path,
        metavar="DIR",
        help="the folder of a study, by which sites are coloured: their shares of the variance",
    )
    drawing.set_defaults(action=draw_graph)
    auditing = commands.add_parser("audit", help="check that a recording of a model loses nothing")
    _take_model(auditing)
    auditing.set_defaults(action=audit_model)
    comparing = commands.add_parser("study", help="compare estimators of the gradient of a model")
    _take_model(comparing, is_again=True)
    comparing.add_argument(
        "--estimators", help="names, for example 'auto,disarm,arms(8)'; default: the common ones"
    )
    comparing.add_argument("--draws", type=int, help="estimates of each (500)")
    comparing.add_argument("--steps", type=int, help="training steps with each (100)")
    comparing.add_argument("--rate", type=float, help="step size of the training (0.01)")
    comparing.add_argument(
        "--warm-up", type=int, help="estimates from which those that learn have learned (100)"
    )
    comparing.add_argument("--workers", type=int, default=1, help="processes at work")
    comparing.add_argument(
        "--backend",
        default="processes",
        help="processes, or a cluster of dask or ray on this machine",
    )
    comparing.add_argument("--out", type=Path, required=True, help="the folder for results")
    comparing.set_defaults(action=run_study)
    training = commands.add_parser("demo", help="train a belief net on handwritten digits")
    training.add_argument("--out", type=Path, default=Path("out"), help="the folder for results")
    training.add_argument("--steps", type=int, default=None, help="gradient steps")
    training.add_argument("--seed", type=int, default=0)
    training.set_defaults(action=run_demo)
    return top


def _take_model(command: argparse.ArgumentParser, *, is_again: bool = False) -> None:
    """Let a command take a model, its inputs and a seed."""
    about = "a module of torch, or what makes one; also path/file.py:factory"
    about += "; or the study.toml of a study that is to be made again" if is_again else ""
    command.add_argument("model", metavar="module:factory", help=about)
    command.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="'dtype[sizes]'",
        help="an argument of the model, for example 'float32[32,64]'; once for each; numbers with "
        "a fraction are drawn from a standard normal, all others are zero",
    )
    command.add_argument("--seed", type=int, default=None if is_again else 0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status."""
    options = parser().parse_args(arguments)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # the models that lie here
    try:
        options.action(options)
    except AuditError as finding:
        print(f"ancestral: {' '.join(str(finding).split())}", file=sys.stderr)
        return 1
    except Exception as error:
        print(f"ancestral: error: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


def one_line(error: Exception) -> str:
    """Return what went wrong, and for an error of the user's model the line that raised it."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, (UsageError, OSError)):
        return text
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}:{error.lineno})"
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = os.path.realpath(last.filename)
    if where.startswith(_DRAWING) and where != os.path.realpath(__file__):
        return text  # our own message, which says what to do
    found = f"{type(error).__name__}: {text} ({last.filename}:{last.lineno})"
    if isinstance(error, ModuleNotFoundError):
        found += f"; install it for the Python that runs this, {sys.executable}"
    return found


_DRAWING = os.path.dirname(os.path.realpath(__file__)) + os.sep


if __name__ == "__main__":
    sys.exit(main())
