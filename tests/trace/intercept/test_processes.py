"""Processes that work for a recording: what they would draw unseen is refused by name."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal
from torch.utils.data import DataLoader, Dataset

import ancestral as an
from ancestral.errors import UnrecordedDrawError
from ancestral.trace.context.switch import switch

# Later Pythons warn of a fork beside other threads, of which torch has some.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
_fork: Any = multiprocessing.get_context("fork")
_Work = Callable[[Tensor], Any]


def _start() -> Tensor:
    return nn.Parameter(torch.tensor(0.3))


def sampled(a: Tensor) -> Tensor:
    z: Tensor = Bernoulli(logits=a).sample()
    return z


def as_number(a: Tensor) -> float:
    return float(torch.bernoulli(a.sigmoid()).detach())


def in_place(a: Tensor) -> Tensor:
    return torch.empty(()).bernoulli_(a.sigmoid()).detach()


def pathwise(a: Tensor) -> float:
    return Normal(a, 1.0).rsample().item()


def stated(a: Tensor) -> Tensor:
    return an.sample("z", Bernoulli(logits=a)).detach()


def recorded(a: Tensor) -> Any:
    with an.record():
        return {"z": [Bernoulli(logits=a).sample()]}


def augmented(a: Tensor) -> Tensor:
    """Draw what data is augmented by, and compute what needs no draw."""
    flip = torch.bernoulli(torch.tensor(0.5)) + torch.rand(())
    noise: Tensor = Normal(0.0, 1.0).sample() + Bernoulli(logits=a.detach()).sample()
    return flip + noise + a.detach()


def trained(a: Tensor) -> Tensor:
    with an.record():
        loss = (Bernoulli(logits=a).sample() - 0.3) ** 2
    an.backward(loss)
    assert a.grad is not None
    return a.grad


_LEARNED = (sampled, as_number, in_place, pathwise, stated)


class _Data(Dataset[Tensor]):
    def __init__(self, work: _Work, a: Tensor) -> None:
        self.work, self.a = work, a

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Tensor:
        return torch.as_tensor(self.work(self.a)).detach()


def _answer(answers: Any, work: _Work, a: Tensor) -> None:
    try:
        answers.put(float(work(a)))
    except UnrecordedDrawError as error:
        answers.put(error)


def _by_executor(work: _Work, a: Tensor, context: Any = _fork) -> Any:
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, a).result()


def _by_pool(work: _Work, a: Tensor, context: Any = _fork) -> Any:
    with context.Pool(1) as pool:
        return pool.map(work, [a])[0]


def _by_process(work: _Work, a: Tensor, context: Any = _fork) -> Any:
    answers = context.Queue()
    process = context.Process(target=_answer, args=(answers, work, a))
    process.start()
    answer = answers.get(timeout=60)
    process.join()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _by_loader(work: _Work, a: Tensor, context: Any = _fork) -> Any:
    return next(iter(DataLoader(_Data(work, a), num_workers=1, multiprocessing_context=context)))


def _by_joblib(work: _Work, a: Tensor) -> Any:
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    return joblib.Parallel(2, backend="loky")([joblib.delayed(work)(a)])[0]


def _by_fork(work: _Work, a: Tensor) -> Any:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            work(a)
            os.write(writing, b"drawn")
        except UnrecordedDrawError:
            os.write(writing, b"refused")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    if os.read(reading, 10) == b"refused":
        raise UnrecordedDrawError("is drawn at test_processes.py:0 in a process that works for")
    return torch.tensor(1.0)


_NEW = (_by_executor, _by_pool, _by_process, _by_loader, _by_fork)


def _gradient(call: Callable[[Tensor], Any]) -> Tensor | None:
    a = _start()
    with an.record():
        loss = torch.as_tensor(call(a)).sum() * 2 + Bernoulli(logits=a).sample()
    an.backward(loss)
    return a.grad


@pytest.mark.parametrize("work", _LEARNED)
@pytest.mark.parametrize("way", _NEW)
def test_a_draw_in_a_process_that_the_recording_started_is_refused(way: Any, work: _Work) -> None:
    with pytest.raises(UnrecordedDrawError, match=r"is drawn at .*test_processes.py:\d+ in a proc"):
        _gradient(lambda a: way(work, a))


@pytest.mark.parametrize("work", [augmented, trained])
@pytest.mark.parametrize("way", _NEW)
def test_a_process_may_draw_what_has_nothing_to_learn_and_record_for_itself(
    way: Any, work: _Work
) -> None:
    assert _gradient(lambda a: way(work, a)) is not None


@pytest.mark.parametrize("work", [*_LEARNED, recorded])
def test_a_draw_in_a_pool_of_processes_that_is_older_is_refused(work: _Work) -> None:
    with ProcessPoolExecutor(1, mp_context=_fork) as executor, _fork.Pool(1) as pool:
        calls: list[Callable[[Tensor], Any]] = [
            lambda a: executor.submit(work, a).result(),
            lambda a: next(iter(executor.map(work, [a]))),
            lambda a: pool.apply(work, (a,)),
            lambda a: pool.starmap(work, [(a,)])[0],
            lambda a: next(pool.imap(work, [a])),
        ]
        calls[0](_start()), calls[2](_start())  # they are there, and work
        for call in calls:
            with pytest.raises(UnrecordedDrawError, match="return the parameters"):
                _gradient(call)
        assert _gradient(lambda a: executor.submit(augmented, a).result()) is not None
        calls[0](_start()), calls[2](_start())  # outside of the block they may draw again


def test_a_pool_that_was_made_in_a_recording_draws_after_it() -> None:
    with an.record():
        pool = ProcessPoolExecutor(1, mp_context=_fork)
        pool.submit(abs, 1).result()
    with pool:
        assert type(pool.submit(sampled, _start()).result()) is Tensor


def test_joblib_refuses_a_draw_in_its_processes() -> None:
    with pytest.raises(UnrecordedDrawError):
        _gradient(lambda a: _by_joblib(sampled, a))
    _by_joblib(sampled, _start())


@pytest.mark.parametrize("way", [_by_executor, _by_loader])
def test_a_draw_in_a_process_that_inherits_nothing_is_refused(way: Any) -> None:
    spawn = multiprocessing.get_context("spawn")
    with pytest.raises(UnrecordedDrawError):
        _gradient(lambda a: way(sampled, a, spawn))


def test_a_forked_process_leaves_torch_and_the_recordings_of_its_parent_alone() -> None:
    with an.record(audit=True) as trace:
        child = _by_process(trained, _start())
        assert isinstance(child, float)
        Bernoulli(logits=_start()).sample()
    assert len(trace) == 1
    assert not switch.is_on
    an.restore_torch()
    assert not hasattr(vars(Bernoulli)["sample"], "__wrapped__")
