"""What tests, other libraries and users put into torch: it is there, and it is a draw."""

import gc
import weakref
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributions as d
from recorded import P, recorded
from torch import Tensor

import ancestral as an

pytestmark = pytest.mark.usefixtures("restored")


def ones(self: Any, sample_shape: Any = ()) -> Tensor:
    return torch.ones(2, dtype=torch.float64)


PLACES = [(d.Bernoulli, "sample"), (Tensor, "detach"), (torch, "full"), (torch.nested, "narrow")]


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize(("owner", "name"), PLACES)
def test_what_a_test_puts_there_is_there_between_recordings(
    owner: Any, name: str, is_first: bool
) -> None:
    own = vars(owner).get(name)
    if not is_first:
        recorded()
    with mock.patch.object(owner, name, ones):
        for _ in range(2):
            assert vars(owner)[name] is ones
            with an.record():
                assert vars(owner)[name] is not ones
        assert vars(owner)[name] is ones
    an.restore_torch()
    assert vars(owner).get(name) is own


def test_what_a_test_puts_there_is_a_draw() -> None:
    for _ in range(2):
        with mock.patch.object(d.Bernoulli, "sample", ones), an.record() as trace:
            z = d.Bernoulli(P).sample()
        assert torch.equal(trace["z"].value, torch.ones(2, dtype=torch.float64))
        assert an.provenance_of(z) == {"z"}
        recorded()


@pytest.mark.parametrize(("owner", "name"), PLACES)
def test_a_patch_of_a_test_may_end_after_the_recording_that_it_began_in(
    owner: Any, name: str
) -> None:
    own = vars(owner).get(name)
    patch = mock.patch.object(owner, name, ones)
    with an.record():
        patch.start()
    assert vars(owner)[name] is ones
    patch.stop()
    recorded()
    an.restore_torch()
    assert vars(owner).get(name) is own


def test_a_mock_is_a_draw_and_counts_its_calls() -> None:
    recorded()
    with mock.patch.object(d.Bernoulli, "sample", autospec=True) as spy:
        spy.return_value = torch.ones(2)
        with an.record() as trace:
            d.Bernoulli(P).sample()
        assert d.Bernoulli.sample is spy
        d.Bernoulli(P).sample()
        assert spy.call_count == 2
    assert list(trace) == ["bernoulli"]
    with mock.patch.object(d.Bernoulli, "sample", mock.Mock(return_value=torch.ones(2))):
        with an.record() as trace:
            d.Bernoulli(P).sample()
        d.Bernoulli.sample.assert_called_once()
    assert list(trace) == ["bernoulli"]


def test_a_wrapper_of_another_library_stays_and_draws_once() -> None:
    own = vars(d.Bernoulli)["sample"]
    recorded()
    ours: Any = d.Bernoulli.sample
    calls: list[int] = []

    def theirs(self: Any, *args: Any) -> Any:
        calls.append(1)
        return ours(self, *args)

    with mock.patch.object(d.Bernoulli, "sample", theirs):
        for _ in range(2):
            with an.record() as trace:
                d.Bernoulli(P).sample()
            assert len(trace) == 1
        an.restore_torch()
        assert vars(d.Bernoulli)["sample"] is theirs
        assert d.Bernoulli(P).sample().shape == (2,)
        assert len(calls) == 3
    an.restore_torch()
    assert vars(d.Bernoulli)["sample"] is own


def test_a_class_that_is_defined_between_recordings_is_caught_and_left_alone() -> None:
    recorded()

    class Silent:
        def __init_subclass__(cls) -> None:
            """Tell nobody above."""

    class Late(Silent, d.Bernoulli):
        again: Any = d.Bernoulli.sample
        sample = ones

    class Below(Late):
        def sample(self, sample_shape: Any = ()) -> Any:
            return super().sample() + super().again()

    assert vars(Late)["sample"] is ones
    for _ in range(2):
        with an.record() as trace:
            z = Late(P).sample()
            x = Below(P).sample()
            y = Late(P).again()
        assert list(trace) == ["z", "x", "y"]
        assert an.provenance_of(z + x + y) == {"z", "x", "y"}
        assert vars(Late)["sample"] is ones
        assert not hasattr(vars(Below)["sample"], "__wrapped__")
    Late.sample = d.Bernoulli.sample
    with an.record() as trace:
        Late(P).sample()
    assert len(trace) == 1


def test_a_class_of_a_user_is_let_go_of() -> None:
    def used() -> "weakref.ref[type]":
        kind = type("Mine", (d.Bernoulli,), {"log_prob": lambda self, value: value})
        recorded()
        return weakref.ref(kind)

    held = used()
    gc.collect()
    assert held() is None
