"""Frames: module and file together tell whose code runs, so that no code of users is skipped."""

import sys
from collections.abc import Iterator
from types import FrameType

import pytest
import torch
import torch.distributions as td

import ancestral as an
import ancestral.trace.recording.record as recording
from ancestral.provenance.tensor.frame_owner import is_user, owner_of

CODE = """
def program(logits):
    z = draw(logits)
    count = 0
    while count < 2 and z > 0:
        count += 1
    return count + z
"""
GLOBALS = {
    "no name": {},
    "that of a user": {"__name__": "my_model"},
    "those of torch.distributions": dict(vars(td)),
    "those of torch": dict(vars(torch)),
    "those of a module of ours": dict(vars(recording)),
}


@pytest.mark.parametrize("filename", ["<string>", "<program>", "model.py", td.__file__ + "x"])
@pytest.mark.parametrize("given", GLOBALS)
def test_generated_code_is_the_users_whatever_its_globals(given: str, filename: str) -> None:
    names = {**GLOBALS[given], "draw": lambda logits: td.Bernoulli(logits=logits).sample()}
    exec(compile(CODE, filename, "exec"), names)
    with an.record() as trace:
        for _ in range(10):
            names["program"](torch.zeros((), requires_grad=True))
    values = [float(node.value) for node in trace.values()]
    reads = sum(3 if value else 1 for value in values) - sum(values)
    assert len(trace.escapes) == reads
    assert {escape.filename for escape in trace.escapes} == {filename}


def frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


class Watching(td.Normal):
    """A distribution that looks at the frames around it."""

    def rsample(self, *args: object) -> torch.Tensor:
        self.seen = [(frame.f_code.co_name, owner_of(frame)) for frame in frames()]
        return torch.zeros(())


def test_the_layers_between_a_draw_and_the_user_are_known() -> None:
    fn = Watching(0.0, 1.0)
    with an.record():
        an.sample("z", fn)
    seen = dict(reversed(fn.seen))
    assert seen["sample"] == "library"
    assert seen["rsample"] == "user"
    assert seen["test_the_layers_between_a_draw_and_the_user_are_known"] == "user"
    assert is_user(sys._getframe())
