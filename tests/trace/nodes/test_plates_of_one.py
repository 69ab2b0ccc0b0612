"""A plate of size 1 takes what one of another size takes: a value without its dimension."""

from collections.abc import Callable
from contextlib import ExitStack
from math import prod

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal

import ancestral as an

WEIGHTS, LOCS = torch.tensor([0.2, 0.8]), torch.tensor([0.0, 1.5])
VALUE = torch.tensor(0.7)


def observes(value: Tensor, draw: Callable[[Tensor | None], None]) -> None:
    draw(value)


def conditions(value: Tensor, draw: Callable[[Tensor | None], None]) -> None:
    with an.handlers.condition({"x": value}):
        draw(None)


def substitutes(value: Tensor, draw: Callable[[Tensor | None], None]) -> None:
    with an.handlers.substitute({"x": value}):
        draw(None)


def replays(value: Tensor, draw: Callable[[Tensor | None], None]) -> None:
    with an.handlers.block(), an.record() as source, an.handlers.substitute({"x": value}):
        an.sample("x", Normal(torch.zeros(value.shape), 1.0))
    with an.handlers.replay(source):
        draw(None)


@pytest.mark.parametrize("first_dim", [-3, -5])
@pytest.mark.parametrize("sizes", [(1,), (2,), (1, 1), (1, 3), (3, 1), (2, 3)])
@pytest.mark.parametrize("way", [observes, conditions, substitutes, replays])
def test_a_value_without_the_dimensions_of_plates_is_that_of_each_repetition(
    way: Callable[..., None], sizes: tuple[int, ...], first_dim: int
) -> None:
    def draw(obs: Tensor | None) -> None:
        fn = Normal(LOCS[z], 1.0)
        with ExitStack() as plates:
            for number, size in enumerate(sizes):
                plates.enter_context(an.plate(f"p{number}", size))
            an.sample("x", fn, obs=obs)

    is_whole = way is replays and prod(sizes) > 1  # a separate draw is replayed for each
    value = VALUE.expand(sizes[::-1]) if is_whole else VALUE
    with an.record() as trace, an.handlers.enumerate(first_dim=first_dim):
        z = an.sample("z", Categorical(WEIGHTS))
        way(value, draw)
    truth = Normal(LOCS, 1.0).log_prob(VALUE) * prod(sizes)
    found = trace["x"].log_prob
    torch.testing.assert_close(found.flatten(1).sum(1), truth)
    assert found.shape[-len(sizes) :] == sizes[::-1]
    if way in (observes, conditions):
        torch.testing.assert_close(
            an.infer.log_marginal(trace), (WEIGHTS.log() + truth).logsumexp(0)
        )


@pytest.mark.parametrize("size", [1, 2])
def test_events_and_plates_left_of_others_take_such_values(size: int) -> None:
    data = torch.tensor([0.5, -1.0, 2.0])
    with an.record() as trace, an.handlers.enumerate(first_dim=-3):
        z = an.sample("z", Categorical(WEIGHTS))
        with an.plate("rows", size, dim=-2):
            an.sample(
                "x", Independent(Normal(LOCS[z].unsqueeze(-1), 1.0).expand([2, 1, 1, 3]), 1), data
            )
    truth = Normal(LOCS[:, None], 1.0).log_prob(data).sum(-1) * size
    torch.testing.assert_close(an.infer.log_marginal(trace), (WEIGHTS.log() + truth).logsumexp(0))


@pytest.mark.parametrize("size", [1, 2])
def test_an_enumerated_site_within_a_plate_takes_such_values(size: int) -> None:
    with an.record() as trace, an.handlers.enumerate(first_dim=-2), an.plate("p", size):
        z = an.sample("z", Categorical(WEIGHTS))
        an.sample("x", Normal(LOCS[z], 1.0), obs=VALUE)
    truth = (WEIGHTS.log() + Normal(LOCS, 1.0).log_prob(VALUE)).logsumexp(0) * size
    torch.testing.assert_close(an.infer.log_marginal(trace), truth)
