"""Mutations: a piece of the library is switched off, and some program must come out otherwise."""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import programs.control  # noqa: F401 (registers the programs)
import pytest
import torch
from programs.control.refused import REFUSED
from programs.control.register import CONTROL
from programs.estimates import by
from torch import Tensor

from ancestral.provenance.dispatch import implicit_reads, torch_function
from ancestral.trace.intercept import tensor_reads
from oracles import Path, Program, enumerated, estimates_on, moments_of

Outcome = str
"""Exact, biased, or the name of the error that is raised."""

Disable = Callable[[pytest.MonkeyPatch], None]
PROGRAMS: dict[str, Program] = {n: c.program for n, c in CONTROL.items()} | REFUSED
PARAMETERS = next(iter(CONTROL.values())).parameters


@functools.cache
def outcomes(name: str) -> tuple[list[Path], Tensor]:
    """Return every path of a program, and the exact gradient."""
    return enumerated(PROGRAMS[name], PARAMETERS)


def outcome(name: str, setting: str = "strict") -> Outcome:
    """Return what becomes of a program: the mean is the exact gradient or not, or it raises."""
    runs, gradient = outcomes(name)
    try:
        found = estimates_on(runs, PROGRAMS[name], PARAMETERS, by(control=setting))
    except Exception as error:
        return type(error).__name__
    is_exact = torch.allclose(moments_of(*found).mean, gradient, rtol=1e-6, atol=1e-6)
    return "exact" if is_exact else "biased"


@functools.cache
def healthy(name: str, setting: str = "strict") -> Outcome:
    """Return what becomes of a program with nothing switched off."""
    return outcome(name, setting)


@functools.cache
def source(name: str) -> str:
    """Return the text of a program."""
    alone: Any = CONTROL[name].alone if name in CONTROL else REFUSED[name].__wrapped__  # type: ignore[attr-defined]
    return inspect.getsource(alone)


def naming(pattern: str) -> list[str]:
    """Return the programs whose text has such a word."""
    word = re.compile(rf"\b(?:{pattern})\b")
    return [name for name in PROGRAMS if word.search(source(name))]


def blind_to_numbers(patch: pytest.MonkeyPatch) -> None:
    """Let torch take numbers out of tensors unseen, which else is a second line of defence."""
    patch.setattr(tensor_reads, "escape", lambda found: None)
    patch.setattr(implicit_reads, "note", lambda found: None)


def forget_traits(patch: pytest.MonkeyPatch) -> None:
    """Let what is known of functions be asked anew, now and after the test."""
    patch.setattr(torch_function, "_traits", {})
    patch.setattr(torch_function, "_plain_results", set())


def replaced(owner: Any, name: str, value: Any) -> Disable:
    """Return what puts something else in a place."""
    return lambda patch: patch.setattr(owner, name, value)
