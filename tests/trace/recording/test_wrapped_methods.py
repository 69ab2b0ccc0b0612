"""Wrapped methods: calls of other methods than `forward` are recorded where that is asked."""

import copy
import inspect
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ancestral as an

START = torch.zeros(3, 1, dtype=torch.long)


class Writer(nn.Module):
    """Draws words, each by those before it."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(4, 4)

    def forward(self, ids: Tensor) -> Tensor:
        """Draw the next word, [batch, 1], after [batch, time]."""
        chances = self.words(ids).sum(1).softmax(-1)
        word = torch.multinomial(chances, 1)
        return word

    @torch.no_grad()
    def generate(self, ids: Tensor, *, steps: int = 3) -> Tensor:
        """Draw some words after these."""
        for _ in range(steps):
            ids = torch.cat([ids, self(ids)], 1)
        return ids

    def again(self, ids: Tensor, depth: int) -> Tensor:
        """Draw a text after a text, by itself."""
        return self.generate(ids) if depth == 0 else self.again(self.generate(ids), depth - 1)

    def stream(self, ids: Tensor) -> Iterator[Tensor]:
        """Draw word after word, when asked."""
        yield self(ids)

    @property
    def size(self) -> int:
        return 4

    @staticmethod
    def helped() -> int:
        return 1


class Reader(Writer):
    """Inherits its methods."""


def trace_of(model: nn.Module) -> an.Trace:
    trace = model.trace
    assert isinstance(trace, an.Trace)
    return trace


@pytest.mark.parametrize("kind", [Writer, Reader])
def test_a_method_is_recorded_with_all_that_it_calls(kind: type[Writer]) -> None:
    model = an.wrap(kind(), methods=("generate",))
    words = model.generate(START)
    assert list(trace_of(model)) == ["word", "word_1", "word_2"]
    assert an.provenance_of(words) == {"word", "word_1", "word_2"}
    assert trace_of(model).graph.parents("word_2") == {"word", "word_1"}
    assert inspect.signature(model.generate) == inspect.signature(kind().generate)
    assert model.generate.__doc__ == kind.generate.__doc__


def test_only_what_was_asked_for_is_recorded() -> None:
    model = an.wrap(Writer(), methods=["generate"])
    assert type(model(START)) is Tensor
    with pytest.raises(RuntimeError, match="has not been called yet"):
        trace_of(model)
    both = an.wrap(Writer(), methods=("generate", "forward"))
    assert an.provenance_of(both(START)) == {"word"}
    assert list(trace_of(both)) == ["word"]
    both.generate(START, steps=2)
    assert list(trace_of(both)) == ["word", "word_1"]
    plain = an.wrap(Writer())
    plain.generate(START)
    assert list(trace_of(plain)) == ["word"]  # of the last call of forward


def test_calls_within_a_call_are_one_recording() -> None:
    model = an.wrap(Writer(), methods=("forward", "generate", "again"))
    words = model.again(START, 2)
    assert len(trace_of(model)) == 9
    assert an.provenance_of(words) == set(trace_of(model))
    first = trace_of(model)
    model(START)
    assert trace_of(model) is not first
    assert list(trace_of(model)) == ["word"]


def test_a_method_that_raises_ends_its_recording() -> None:
    model = an.wrap(Writer(), methods=("forward", "generate"))
    with pytest.raises(TypeError):
        model.generate(START, steps="three")  # type: ignore[arg-type]
    assert not trace_of(model)
    model.generate(START)
    assert len(trace_of(model)) == 3


def test_calls_of_other_threads_have_recordings_of_their_own() -> None:
    model = an.wrap(Writer(), methods=("forward", "generate"))
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda steps: model.generate(START, steps=steps), range(1, 9)))
    assert [len(an.provenance_of(text)) for text in texts] == list(range(1, 9))


def test_a_recording_around_has_the_draws_of_a_method_too() -> None:
    model = an.wrap(Writer(), methods=("generate",))
    with an.record() as trace:
        ids = model.generate(START, steps=1)
        model.generate(ids, steps=1)
    assert list(trace) == ["word", "word_1"]
    assert list(trace_of(model)) == ["word_1"]


def test_copies_and_pickles_record_the_same_methods() -> None:
    model = an.wrap(Writer(), methods=("generate",), control="after")
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin) is type(model)
        twin.generate(START)
        assert len(trace_of(twin)) == 3
        assert twin.words.weight is not model.words.weight


def test_wrapping_again_records_what_is_asked_for_then() -> None:
    original = Writer()
    model = an.wrap(original, methods=("generate",))
    assert an.wrap(model, methods=["generate", "generate"]) is model
    both = an.wrap(model, methods=("forward", "generate"))
    assert both is not model
    assert both.words is model.words
    both(START)
    assert list(trace_of(both)) == ["word"]
    assert isinstance(both, Writer)
    assert type(both).__mro__[1] is Writer
    assert type(an.wrap(both)).__mro__[1] is Writer


@pytest.mark.parametrize(
    ("methods", "error", "text"),
    [
        (("generated",), ValueError, "Writer has no method 'generated' to record"),
        (("forward", "words"), ValueError, "Writer has no method 'words'"),
        (("size",), ValueError, "Writer has no method 'size'"),
        (("helped",), ValueError, "no method 'helped' .* takes self"),
        ((), ValueError, "methods is empty"),
        ("generate", TypeError, r"such as \('forward', 'generate'\), not 'generate'"),
        (None, TypeError, "methods must be the names of methods"),
        ((1,), TypeError, "methods has .*expected names"),
        (("stream",), TypeError, "a generator or a coroutine"),
    ],
)
def test_methods_that_cannot_be_recorded_are_refused(
    methods: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        an.wrap(Writer(), methods=methods)
