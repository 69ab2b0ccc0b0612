"""What tests of several folders share."""

import functools
import gc
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from torch.distributions import Distribution

import ancestral as an
from ancestral.provenance.algebra import pattern
from ancestral.provenance.algebra.provenance import alive
from ancestral.provenance.tensor import storage
from ancestral.trace.context.switch import switch
from sweep.table import table

# The tensors of the tests are tiny, and threads that wait for each other are slow.
torch.set_num_threads(1)

# The same examples every time, however slow the machine is.
settings.register_profile("ancestral", deadline=None, derandomize=True, database=None)
settings.load_profile("ancestral")


def pytest_collection_finish() -> None:
    """Let the collector look at what tests leave alone: twenty thousand tests are there to stay."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _untouched() -> Iterator[None]:
    """Forget what a test wrote into, and what it switched: the next begins as the first did."""
    Distribution.set_default_validate_args(True)  # other libraries switch it off
    yield
    storage.table.clear()
    storage.unwatch()


def _forgetting(method: Any) -> Any:
    """Return what replaces something, such that what rules have answered before is forgotten."""

    @functools.wraps(method)
    def replaced(*args: Any, **kwargs: Any) -> Any:
        pattern.forget()
        return method(*args, **kwargs)

    return replaced


for _name in "setattr delattr setitem delitem undo".split():
    setattr(pytest.MonkeyPatch, _name, _forgetting(getattr(pytest.MonkeyPatch, _name)))


@pytest.fixture
def in_double_precision() -> Iterator[None]:
    """Compute in float64, beside what Pyro computes with no parameter in its store."""
    import pyro  # few tests need it

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    pyro.clear_param_store()
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def restored() -> Iterator[None]:
    """Begin with torch as it is without the library, and leave it so."""
    an.restore_torch()
    yield
    assert not switch.is_on
    an.restore_torch()


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Keep Python's collector, which would look at all that other tests left, out of a timing."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Let the compiler forget, after a test, what it has compiled."""
    yield
    torch._dynamo.reset()


@pytest.fixture
def nothing_recorded() -> None:
    """Let go of the recordings that other tests have left without asking for their gradient."""
    for universe in list(alive.values()):
        universe.become("settled")


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only folder where commands are found; pygraphviz is not found either."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(folder))
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    monkeypatch.setenv("PATH", "")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print which ops were checked, and which are not applicable and why."""
    lines = list(table.lines())
    if lines:
        terminalreporter.section("ops against brute force")
        for line in lines:
            terminalreporter.write_line(line)
