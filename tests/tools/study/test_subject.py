"""Subjects: what tells one from another, and that other processes compute what this one does."""

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.tools.study.subject import Subject


def coins(theta: Tensor, scale: Any = 1.0) -> Tensor:
    loss: Tensor = (Bernoulli(logits=theta).sample() - 0.45).pow(2).sum() * float(scale)
    return loss


def leaf() -> Tensor:
    return torch.zeros(2, requires_grad=True)


def digest(program: Callable[..., Any], *args: Any) -> str:
    return Subject(program, args, (leaf(),)).digest


class Frozen(nn.Module):
    def __init__(self, data: float) -> None:
        super().__init__()
        self.register_buffer("data", torch.tensor(data))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (1.0, 2.0),
        (1, 1.0),
        (torch.zeros(2), torch.zeros(3)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (np.zeros(2), np.ones(2)),
        ({"a": [1, (2.0, None)]}, {"a": [1, (2.0, "")]}),
        (Frozen(1.0), Frozen(2.0)),
    ],
    ids=str,
)
def test_other_arguments_make_another_subject(ours: Any, theirs: Any) -> None:
    assert digest(coins, ours) == digest(coins, ours)
    assert digest(coins, ours) != digest(coins, theirs)


def test_what_a_module_holds_is_part_of_the_subject() -> None:
    assert digest(Frozen(1.0)) == digest(Frozen(1.0)) != digest(Frozen(2.0))


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_not_sent_along_is_noticed(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A setting of an imported module that this process has changed: another imports it anew."""
    (tmp_path / "settings_of_the_test.py").write_text("scale = 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import settings_of_the_test as settings  # type: ignore[import-not-found]

    def program(theta: Tensor) -> Tensor:
        return coins(theta, settings.scale)

    monkeypatch.setattr(settings, "scale", 3.0)
    ask = functools.partial(an.study, program, leaf(), estimators="auto", draws=4, steps=0)
    if workers == 1:
        assert ask().total
        return
    with pytest.raises(
        an.errors.WorkerError, match="gives another loss or gradient in another process"
    ):
        ask(workers=workers)


def test_what_cannot_be_sent_is_said() -> None:
    lock = threading.Lock()

    def program(theta: Tensor) -> Tensor:
        with lock:
            return coins(theta)

    with pytest.raises(
        an.errors.StudyError, match=r"cannot be sent .* keep out of it what is open"
    ):
        an.study(program, leaf(), estimators="auto", draws=4)


def test_programs_are_methods_partial_functions_and_closures_too() -> None:
    theta = leaf()

    class Model:
        def loss(self, scale: float) -> Tensor:
            return coins(theta, scale)

    programs: list[Callable[[], Any]] = [
        functools.partial(Model().loss, 2.0),
        lambda: coins(theta, 2.0),
        functools.partial(coins, theta, scale=2.0),
    ]
    found = [an.study(each, estimators="auto", draws=4, steps=0, workers=1) for each in programs]
    assert len({each["auto"].variance for each in found}) == 1
