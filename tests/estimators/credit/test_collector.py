"""Python's collector: it waits for a gradient of many sites, and never for what a user runs."""

import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.estimators.credit.collector import MANY, waiting


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.enable()
    yield
    if not was_on:
        gc.disable()


def loss_of(count: int, logits: Tensor) -> Tensor:
    return torch.stack([Bernoulli(logits=logits).sample() for _ in range(count)]).sum()


def test_it_goes_on_after_an_error() -> None:
    def fail() -> None:
        with waiting, waiting:
            assert not gc.isenabled()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert gc.isenabled()


def test_it_stays_off_where_the_user_has_switched_it_off() -> None:
    gc.disable()
    with waiting:
        pass
    assert not gc.isenabled()


@pytest.mark.parametrize(("count", "waits"), [(10, False), (MANY + 1, True)])
def test_it_waits_for_the_credit_of_many_sites_only(count: int, waits: bool) -> None:
    logits, seen = torch.zeros((), requires_grad=True), set[bool]()

    def baseline(_: an.estimators.Credit) -> float:
        seen.add(gc.isenabled())
        return 0.0

    with an.record():
        loss = loss_of(count, logits)
    an.backward(loss, baseline=baseline)
    assert seen == {not waits}
    assert gc.isenabled()


def test_it_is_at_work_while_autograd_runs_hooks() -> None:
    logits, seen = torch.zeros((), requires_grad=True), list[bool]()
    logits.register_hook(lambda _: seen.append(gc.isenabled()))
    with an.record():
        loss = loss_of(MANY + 1, logits)
    an.backward(loss)
    assert seen == [True]
