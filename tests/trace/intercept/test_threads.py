"""Threads that are older than a recording: their work is followed, or refused by name."""

import asyncio
import queue
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Independent, Normal, Poisson

import ancestral as an
from ancestral.errors import OtherRecordingError, UnrecordedDrawError

_Draw = Callable[[Tensor], Tensor]
_Call = Callable[[_Draw, Tensor], Tensor]


def _start() -> Tensor:
    return torch.tensor(0.3, requires_grad=True)


def _sampled(a: Tensor) -> Tensor:
    z: Tensor = Bernoulli(logits=a).sample()
    return z


@contextmanager
def _thread_pool(way: str) -> Generator[_Call]:
    with ThreadPool(1) as pool:
        pool.apply(abs, (1,))
        yield {
            "apply": lambda f, a: pool.apply(f, (a,)),
            "keyword": lambda f, a: pool.apply_async(func=f, args=(a,)).get(),
            "map": lambda f, a: sum(pool.map(f, [a, a])),
            "starmap": lambda f, a: sum(pool.starmap(f, [(a,), (a,)])),
            "imap": lambda f, a: sum(pool.imap(f, [a, a])),
            "imap_unordered": lambda f, a: sum(pool.imap_unordered(f, [a, a])),
        }[way]


@contextmanager
def _executor(way: str) -> Generator[_Call]:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(abs, 1).result()

        async def awaited(f: _Draw, a: Tensor) -> Tensor:
            return await asyncio.get_running_loop().run_in_executor(pool, f, a)

        yield {
            "submit": lambda f, a: pool.submit(f, a).result(),
            "executor.map": lambda f, a: sum(pool.map(f, [a, a])),
            "run_in_executor": lambda f, a: asyncio.run(awaited(f, a)),
        }[way]


@contextmanager
def _joblib() -> Generator[_Call]:
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    with joblib.Parallel(2, backend="threading") as parallel:
        parallel([joblib.delayed(abs)(1)])
        yield lambda f, a: sum(parallel([joblib.delayed(f)(a)]))


@contextmanager
def _loop() -> Generator[_Call]:
    """Yield what hands a coroutine to a loop that runs in its own thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def awaited(f: _Draw, a: Tensor) -> Tensor:
        await asyncio.sleep(0)
        return f(a)

    yield lambda f, a: asyncio.run_coroutine_threadsafe(awaited(f, a), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


_POOLED = ("apply", "keyword", "map", "starmap", "imap", "imap_unordered")
_SUBMITTED = ("submit", "executor.map", "run_in_executor")
_FOLLOWED: dict[str, Callable[[], Any]] = {
    **{way: partial(_thread_pool, way) for way in _POOLED},
    **{way: partial(_executor, way) for way in _SUBMITTED},
    "joblib": _joblib,
    "run_coroutine_threadsafe": _loop,
}


def _branching(a: Tensor) -> Tensor:
    z = torch.bernoulli(a.sigmoid())
    return z * 2 + Bernoulli(logits=a).sample() if z > 0 else z


_WORK: dict[str, _Draw] = {
    "sample": _sampled,
    "bernoulli": lambda a: torch.bernoulli(a.sigmoid()),
    "method": lambda a: a.sigmoid().bernoulli(),
    "in place": lambda a: torch.empty(()).bernoulli_(a.sigmoid()),
    "multinomial": lambda a: torch.multinomial(torch.stack([a, 1 - a]), 1).sum().float(),
    "events": lambda a: Independent(Bernoulli(logits=a.expand(3)), 1).sample().sum(),
    "statement": lambda a: an.sample("z", Poisson(a.exp())),
    "loss": lambda a: (_sampled(a) - 0.3) ** 2,
    "branch": _branching,
}


@pytest.mark.parametrize("control", ["strict", "after"])
@pytest.mark.parametrize("work", ["sample", "bernoulli", "in place", "loss", "branch"])
@pytest.mark.parametrize("way", _FOLLOWED)
def test_work_that_is_handed_to_an_older_thread_takes_part(
    way: str, work: str, control: str
) -> None:
    gradients: list[Any] = []
    copies = 2 if "map" in way else 1

    def inline(f: _Draw, a: Tensor) -> Tensor:
        return sum((f(a) for _ in range(copies)), torch.zeros(()))

    with _FOLLOWED[way]() as call:
        for each in (inline, call):
            a = _start()
            torch.manual_seed(5)
            with an.record(control=control) as trace:
                b = Bernoulli(logits=2 * a).sample()
                z = each(_WORK[work], a)
                loss = (z - 0.3) ** 2 + b * z
            an.backward(loss)
            gradients.append((a.grad, list(trace), [len(n.parents) for n in trace.values()]))
    torch.testing.assert_close(gradients[1][0], gradients[0][0])
    assert gradients[1][1:] == gradients[0][1:]


# What stands for a worker that nothing is known of: it is fed, and answers, by some channel.


@contextmanager
def _fed(channel: Callable[[], Any]) -> Generator[_Call]:
    tasks, results = channel(), channel()

    def work() -> None:
        while (task := tasks.get()) is not None:
            results.put(task[0](task[1]))

    worker = threading.Thread(target=work, name="worker")
    worker.start()

    def call(f: _Draw, a: Tensor) -> Tensor:
        tasks.put((f, a))
        answer: Tensor = results.get(timeout=20)
        return answer

    yield call
    tasks.put(None)
    worker.join()


class _Shared:
    """A list that is looked at again and again."""

    def __init__(self) -> None:
        self._items: list[Any] = []
        self._there = threading.Condition()

    def put(self, item: Any) -> None:
        with self._there:
            self._items.append(item)
            self._there.notify()

    def get(self, timeout: float | None = None) -> Any:
        with self._there:
            while not self._items:
                self._there.wait(timeout)
            return self._items.pop()


_UNKNOWN = {"Queue": queue.Queue, "SimpleQueue": queue.SimpleQueue, "list": _Shared}


@pytest.mark.parametrize("control", ["strict", "after", "error", "ignore"])
@pytest.mark.parametrize("work", [name for name in _WORK if name != "branch"])
@pytest.mark.parametrize("channel", _UNKNOWN)
def test_a_draw_of_an_older_thread_is_refused_where_its_value_is_used(
    channel: str, work: str, control: str
) -> None:
    a = _start()
    uses: list[Callable[[Tensor], Tensor]] = [
        lambda z: (z - 0.3) ** 2,
        lambda z: (z - 0.3) * Bernoulli(logits=a).sample(),
        lambda z: Bernoulli(0.2 + 0.01 * z).sample() + Bernoulli(logits=a).sample(),
        lambda z: torch.zeros(3).index_add_(0, torch.tensor([1]), z.reshape(1))[1] * a,
    ]
    with _fed(_UNKNOWN[channel]) as call:
        for use in uses:
            with an.record(control=control):
                loss = use(call(_WORK[work], a))
            with pytest.raises(UnrecordedDrawError, match=r"in thread 'worker'.*let the recording"):
                an.backward(loss)


def test_an_older_thread_that_draws_is_named_with_the_line() -> None:
    with _fed(queue.Queue) as call:
        with an.record():
            loss = call(_sampled, _start()) * 2
        line = _sampled.__code__.co_firstlineno + 1
        with pytest.raises(UnrecordedDrawError, match=rf"'z' was drawn at .*threads.py:{line} in"):
            an.backward(loss)


def test_a_declared_cost_of_an_older_thread_is_refused() -> None:
    with _fed(queue.Queue) as call:
        with an.record() as trace:
            an.cost("loss", call(_sampled, _start()) * 2)
            Bernoulli(logits=_start()).sample()
        with pytest.raises(UnrecordedDrawError):
            trace.backward()


def _at(z: Tensor) -> int:
    return len(z.reshape(1).nonzero())


@pytest.mark.parametrize("read", [bool, float, Tensor.item, Tensor.tolist, str, _at])
def test_a_decision_on_the_draw_of_an_older_thread_is_refused(
    read: Callable[[Tensor], Any],
) -> None:
    a = _start()

    def run(control: str) -> Tensor:
        with an.record(control=control):
            loss: Tensor = Bernoulli(logits=a).sample() - 0.3
            if read(call(_sampled, a)):
                loss = loss * 2
        return loss

    with _fed(queue.Queue) as call:
        loss = run("strict")
        with pytest.raises(UnrecordedDrawError):
            an.backward(loss)
        with pytest.raises(an.errors.EscapeError, match="'z'"):
            run("error")
        an.backward(run("ignore"))  # on the user's word


def test_an_audit_refuses_the_draw_of_an_older_thread() -> None:
    with _fed(queue.Queue) as call, pytest.raises(UnrecordedDrawError), an.record(audit=True):
        call(_sampled, _start()) * 2


def test_a_pathwise_draw_of_an_older_thread_is_refused_only_behind_a_step() -> None:
    a, b = _start(), _start()
    with _fed(queue.Queue) as call:

        def run(f: _Draw, step: Callable[[Tensor], Tensor]) -> None:
            with an.record():
                loss = step(call(f, a)) * 3 + Bernoulli(logits=b).sample()
            an.backward(loss)

        run(lambda a: Normal(a, 1.0).rsample(), lambda y: y)
        assert a.grad == 3.0
        for f, step in (
            (lambda a: Normal(a, 1.0).rsample(), lambda y: (y > 0).float()),
            (lambda a: Normal(a, 1.0).rsample().round(), lambda y: y),
            (lambda a: Normal(a, 1.0).rsample(), lambda y: torch.tensor(float(y > 0))),
        ):
            with pytest.raises(UnrecordedDrawError):
                run(f, step)


def test_what_has_nothing_to_learn_is_data_in_an_older_thread() -> None:
    a = _start()
    with torch.no_grad():
        probs = a.sigmoid()
    with _fed(queue.Queue) as call:
        for f in (
            lambda _: Bernoulli(torch.tensor(0.5)).sample(),
            lambda _: torch.bernoulli(probs),
            lambda _: Normal(0.0, 1.0).sample(),
            lambda a: an.untrack(Bernoulli(logits=a).sample()),
        ):
            with an.record():
                z = call(f, a)
                assert type(z) is Tensor
                loss = z * Bernoulli(logits=a).sample()
            an.backward(loss)


def test_a_thread_that_trains_another_model_is_left_alone() -> None:
    """By hand, with what a tracked tensor is refused in a recording."""

    def train(_: Tensor) -> Tensor:
        weights = torch.zeros(3, requires_grad=True)
        policy = Categorical(logits=weights)
        action = policy.sample()
        reward = 1.0 if action.item() == 1 else 0.5
        (-policy.log_prob(action) * reward).backward()
        onehot = Bernoulli(logits=weights).sample()
        torch.func.grad(lambda p: (p * onehot).sum())(torch.ones(3))
        torch.nn.Parameter(torch.zeros(3)).data.copy_(onehot)
        (onehot[onehot > 0], onehot.numpy(), str(onehot), onehot.tolist())
        assert weights.grad is not None
        return torch.zeros(())

    with ExitStack() as open_:
        call = open_.enter_context(_fed(queue.Queue))
        with an.record(control="error") as trace:
            call(train, _start())
            Bernoulli(logits=_start()).sample()
    assert len(trace) == 1
    assert not trace.escapes


def test_tasks_of_one_thread_that_are_older_are_refused() -> None:
    a = _start()

    async def worker(tasks: Any, results: Any) -> None:
        await tasks.get()
        results.put_nowait(_sampled(a) + torch.bernoulli(a.sigmoid()))

    async def main() -> Tensor:
        tasks: Any = asyncio.Queue()
        results: Any = asyncio.Queue()
        older = asyncio.ensure_future(worker(tasks, results))
        await asyncio.sleep(0)
        with an.record():
            tasks.put_nowait(None)
            loss: Tensor = await results.get() * 2 + Bernoulli(logits=a).sample()
        await older
        return loss

    loss = asyncio.run(main())
    with pytest.raises(UnrecordedDrawError):
        an.backward(loss)


@pytest.mark.parametrize(
    "use",
    [
        lambda z, y: y * 2 if z > 0 else y,
        lambda z, y: y + float(z),
        lambda z, y: y + Bernoulli(0.2 + 0.5 * z).sample(),
        lambda z, y: y * z,
        lambda z, y: y * torch.full((), z.item()),
    ],
)
def test_a_draw_of_another_recording_is_refused_however_it_is_used(
    use: Callable[[Tensor, Tensor], Tensor],
) -> None:
    a = _start()
    with an.record() as first:
        z = Bernoulli(logits=a).sample()
    with an.record():
        loss = use(z, Bernoulli(logits=a).sample()) - 0.3
    with pytest.raises(OtherRecordingError, match="'z'"):
        an.backward(loss)
    with an.record() as first:
        y = Normal(a, 1.0).rsample()
    with an.record():
        loss = (y > 0).float() + Bernoulli(logits=a).sample()
    with pytest.raises(OtherRecordingError, match="'y'"):
        an.backward(loss)
    assert len(first) == 1
