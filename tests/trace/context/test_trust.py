"""Trust: what code of a module reads is a check or logging, on the user's word."""

import importlib
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli

import ancestral as an

LIBRARY = """
import json
import logging
import numpy
from {name}.{inner} import read

def log(z):
    json.dumps({{"z": z.item()}})

def formatted(z):
    return logging.LogRecord("a", 0, "a", 0, "z is %s", (z,), None).getMessage()

def mean(z):
    return numpy.median(z)

def call(function, z):
    return function(z)
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Return a package, `library`, that has a module `inner`."""
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "inner.py").write_text("def read(z):\n    return z.item()\n")
    (folder / "__init__.py").write_text(LIBRARY.format(name="library", inner="inner"))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("library")
    for name in ("library", "library.inner"):
        sys.modules.pop(name, None)


def coin() -> Tensor:
    z: Tensor = Bernoulli(torch.tensor(0.4, requires_grad=True)).sample()
    return z


def test_reads_of_a_package_and_of_what_it_calls_of_the_standard_library_are_no_escapes(
    library: ModuleType,
) -> None:
    with an.record(control="error", trust=("library",)) as trace:
        z = coin()
        library.log(z)
        library.formatted(z)
        library.read(z)
        library.mean(z)
    assert trace.escapes == ()


def test_a_module_of_a_package_is_trusted_alone(library: ModuleType) -> None:
    with an.record(trust="library.inner") as trace:
        z = coin()
        library.read(z)
        assert trace.escapes == ()
        library.formatted(z)
    assert len(trace.escapes) == 1


def test_the_users_own_code_is_not_trusted_because_a_package_calls_it(library: ModuleType) -> None:
    with an.record(trust="library") as trace:
        library.call(lambda z: z.item(), coin())
    assert [escape.filename for escape in trace.escapes] == [__file__]


def test_a_package_whose_name_begins_alike_is_not_trusted(library: ModuleType) -> None:
    with an.record(trust=("librar" if "librar" in sys.modules else "lib2to3",)) as trace:
        library.read(coin())
    assert len(trace.escapes) == 1


def test_an_inner_recording_trusts_more_until_it_ends(library: ModuleType) -> None:
    with an.record() as trace:
        z = coin()
        with an.record(trust="library"):
            library.read(z)
        assert trace.escapes == ()
        library.read(z)
    assert len(trace.escapes) == 1
    with an.record(trust="library") as trace, an.record():
        library.read(coin())
    assert trace.escapes == ()


class Model(nn.Module):
    def forward(self) -> Tensor:
        z = coin()
        sys.modules["library"].read(z)
        return z


def test_a_wrapped_module_keeps_what_it_trusts(library: ModuleType) -> None:
    model: Any = an.wrap(Model(), trust=("library",))
    for each in (model, pickle.loads(pickle.dumps(model)), an.wrap(model, trust="library")):
        each()
        assert each.trace.escapes == ()
    function = an.record(trust="library")(lambda: library.read(coin()))
    function()
    assert function.trace.escapes == ()


@pytest.mark.parametrize(
    ("trust", "text"),
    [
        (("torchh",), r"'torchh', and there is no module of that name; did you mean 'torch'"),
        ("not a name", r"'not a name', .*such as trust=\('rl4co',\)"),
        ("torch.no_such", r"'torch.no_such'"),
        ("no_such_package.inner", r"'no_such_package.inner'"),
        ("", r"''"),
        (("torch", "z.item"), r"'z.item'"),
    ],
)
def test_a_name_that_no_module_has_is_refused_at_once(trust: Any, text: str) -> None:
    for ask in (an.record, lambda trust: an.wrap(Model(), trust=trust)):
        with pytest.raises(ValueError, match=text):
            ask(trust=trust)


@pytest.mark.parametrize("trust", [torch, 3, (torch,), (None,)])
def test_what_is_no_name_is_refused(trust: object) -> None:
    with pytest.raises(TypeError, match="trust takes the names of modules"):
        an.record(trust=trust)  # type: ignore[arg-type]
