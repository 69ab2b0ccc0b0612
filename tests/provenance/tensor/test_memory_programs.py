"""Programs on memory: whatever views and writes there are, what changes is claimed."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs.choose import Choose
from programs.memory import MemoryProgram, random_memory_program, verdict_on_memory

from ancestral.provenance.dispatch import inplace


def drawn(seed: int) -> MemoryProgram:
    numbers = random.Random(seed)
    return random_memory_program(Choose(lambda bound: int(numbers.random() * bound)))


@settings(max_examples=40)
@given(st.integers(0, 10**9))
def test_what_changes_with_a_source_is_claimed(seed: int) -> None:
    program = drawn(seed)
    verdict = verdict_on_memory(program)
    assert not verdict.is_failure, f"{verdict.text}\n{program.source}"


def test_a_write_that_its_memory_does_not_learn_of_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inplace, "mark_shared", lambda *_: None)
    assert any(verdict_on_memory(drawn(seed)).kind == "biased" for seed in range(40))


PROGRAMS = {
    "an expanded one": (
        (3,),
        "b = torch.zeros(3, dtype=z0.dtype)",
        "t = b.expand(2, 3)",
        "t[0] = z0",
    ),
    "windows that overlap": (
        (2,),
        "b = torch.zeros(4, dtype=z0.dtype)",
        "t = b.unfold(0, 2, 1)",
        "t[1] = z0",
    ),
    "data that another view sees": (
        (2, 2),
        "z0.data = torch.zeros_like(z0)",
        "t = torch.as_strided(z0, (1, 2), (1, 1), 1)",
        "z0[0, None] = z1[0]",
    ),
    "laid over other memory": ((2, 3), "z0.set_(z1)", "t = z0 * 2"),
    "a view laid over its base": ((2, 2), "t = z0[0]", "t.set_(z0)", "t *= 2"),
    "laid over memory by its storage": ((2,), "z0.set_(z1.untyped_storage(), 0, (2, 2))"),
    "reshaped in place": ((2, 2), "t = z0.T", "t.fill_diagonal_(2.0)", "z0.unsqueeze_(0)"),
    "reshaped in place where others see it": (
        (4,),
        "t = z0[...]",
        "z0 += z1[0, 0]",
        "z0.resize_(2)",
    ),
    "an output that is reshaped": ((2, 2), "t = z0[...]", "t += 1", "torch.sum(z1, 0, out=z0)"),
    "the real part": ((2, 2), "t = z0[:, 1:]", "z0.real = t"),
    "data of another shape": ((2,), "t = z0[...]", "t += z1[0, 0]", "z0.data = z1"),
    "beyond a view": ((2, 2), "t = z0[:, :1].as_strided((1,), (1,), 1)"),
    "beyond a view of a number": (
        (2, 2),
        "c = torch.cat([z0, z1])",
        "t = c[0, 0].as_strided((8,), (1,))",
    ),
    "beyond views that are alike, of memory that is not": (
        (2, 2),
        "c = torch.cat([z0, z0 * 2])[0, 0].as_strided((8,), (1,))",
        "t = torch.cat([z0, z1])[0, 0].as_strided((8,), (1,))",
    ),
    "beyond a view, in place": ((2, 2), "c = torch.cat([z0, z1])", "t = c[0]", "t.resize_(4, 2)"),
    "beyond a view, of other strides": (
        (2,),
        "c = torch.cat([z0, z1[0]])",
        "t = c[:1]",
        "t.as_strided_((4,), (1,))",
    ),
    "beyond a view that depends on nothing": (
        (2,),
        "c = torch.zeros(4, dtype=z0.dtype)",
        "c[2:] = z0",
        "t = c[:2]",
        "t.resize_as_(c)",
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_memory_that_is_laid_out_anew_is_followed(name: str) -> None:
    shape, *lines = PROGRAMS[name]
    verdict = verdict_on_memory(MemoryProgram((shape, (2, 2)), tuple(lines)))  # type: ignore[arg-type]
    assert verdict.kind == "exact", verdict.text
