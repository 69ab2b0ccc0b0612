"""A recording that was begun in another may outlive it: what it draws and reads counts still."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import asyncio
import functools
import gc
import threading
from collections.abc import Callable, Generator, Iterator

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.trace.context.stack import local
from oracles import Parameters, flat, mean_and_truth

close = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-12)


def coins(logits: Tensor) -> Tensor:
    return Bernoulli(logits=logits).sample()


def cost(z: Tensor) -> Tensor:
    return (z - 0.45) ** 2


def drawn_on(theta: Tensor) -> Iterator[Tensor]:
    """Draw twice, the second by the first, and yield when that may be interrupted."""
    a = coins(theta)
    yield cost(a).sum()
    b = coins(2 * theta + a)
    yield cost(a).sum() + 2 * cost(b).sum()


def chosen(theta: Tensor) -> Iterator[Tensor]:
    """Choose between two finished terms by a draw."""
    a = coins(theta)
    first, second = cost(a).sum(), 3 * cost(a).prod()
    yield first
    yield first if coins(2 * theta)[0] else second


def chosen_of_plain(theta: Tensor) -> Iterator[Tensor]:
    """Compute by a read draw what no draw reaches otherwise."""
    a = coins(theta)
    yield cost(a).sum()
    price = torch.tensor(3.0 if a[0] else 1.0).double()
    yield cost(a).sum() + price


Steps = Callable[[Tensor], Iterator[Tensor]]


def alone(steps: Steps, theta: Tensor) -> Tensor:
    return list(steps(theta))[-1]


def outlived(steps: Steps, theta: Tensor) -> Tensor:
    """Begin one recording in another, and end the outer one first."""
    outer, inner = an.record(), an.record()
    outer.__enter__()
    inner.__enter__()
    running = steps(theta)
    next(running)
    outer.__exit__(None, None, None)
    loss = next(running)
    inner.__exit__(None, None, None)
    return loss


def by_a_task(steps: Steps, theta: Tensor) -> Tensor:
    """Begin a recording in a task that outlives the one in which it was started."""

    async def task() -> Tensor:
        with an.record():
            running = steps(theta)
            next(running)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            return next(running)

    async def main() -> Tensor:
        with an.record():
            started = asyncio.create_task(task())
            await asyncio.sleep(0)
        return await started

    return asyncio.run(main())


def by_a_thread(steps: Steps, theta: Tensor) -> Tensor:
    begun, go_on = threading.Event(), threading.Event()
    found: list[Tensor] = []

    def run() -> None:
        with an.record():
            running = steps(theta)
            next(running)
            begun.set()
            go_on.wait()
            found.append(next(running))

    with an.record():
        thread = threading.Thread(target=run)
        thread.start()
        begun.wait()
    go_on.set()
    thread.join()
    return found[0]


@pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")
@pytest.mark.parametrize("run", [outlived, by_a_task, by_a_thread])
@pytest.mark.parametrize("steps", [drawn_on, chosen, chosen_of_plain])
def test_what_follows_the_end_of_the_outer_recording_is_followed(
    steps: Steps, run: Callable[[Steps, Tensor], Tensor]
) -> None:
    def estimate(_: object, parameters: Parameters) -> Tensor:
        (theta,) = parameters
        theta.grad = None
        an.backward(run(steps, theta))
        assert theta.grad is not None
        return flat([theta.grad])

    theta = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)
    close(*mean_and_truth(functools.partial(alone, steps), [theta], estimate))


def test_two_generators_that_take_turns_have_the_exact_gradient() -> None:
    def generator(theta: Tensor) -> Generator[Tensor]:
        with an.record():
            yield from drawn_on(theta)

    def estimate(_: object, parameters: Parameters) -> Tensor:
        (theta,) = parameters
        theta.grad = None
        first, second = generator(theta), generator(theta)
        next(first), next(second)
        loss = next(first)
        first.close()
        loss = loss + next(second)
        second.close()
        an.backward(loss)
        assert theta.grad is not None
        return flat([theta.grad])

    def program(theta: Tensor) -> Tensor:
        first, second = drawn_on(theta), drawn_on(theta)
        next(first), next(second)
        return next(first) + next(second)

    theta = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)
    close(*mean_and_truth(program, [theta], estimate))


def test_the_last_of_the_recordings_that_overlap_ends_them_all() -> None:
    theta = torch.zeros(2, requires_grad=True)
    outer, inner = an.record(), an.record()
    whole, part = outer.__enter__(), inner.__enter__()
    z = coins(theta)
    outer.__exit__(None, None, None)
    assert whole.is_open
    assert part.is_open
    an.backward(cost(z).sum())
    inner.__exit__(None, None, None)
    assert not any([whole.is_open, part.is_open])
    assert not local.traces
    del outer, whole
    gc.collect()
    assert type(coins(theta)) is Tensor
