"""Random numbers: one stream for each site, for each draw of an estimator, and for what is left."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import ancestral as an
from ancestral.estimators import RLOO, LocalExpectation, SiteDraw


def bits(size: int = 8) -> Tensor:
    return torch.zeros(size, dtype=torch.float64, requires_grad=True)


DRAWN: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda z: torch.normal(z, 1.0) - z,
    "bernoulli": lambda z: torch.bernoulli(0.5 + 0 * z),
    "in place": lambda z: torch.empty_like(z).bernoulli_(0.5 + 0 * z),
    "out": lambda z: torch.bernoulli(0.5 + 0 * z, out=torch.empty_like(z)),
    "with replacement": lambda z: torch.multinomial(1 + 0 * z, 20, replacement=True),
    "without replacement": lambda z: torch.multinomial(1 + 0 * z, 8),
    "of rows": lambda z: torch.multinomial((1 + 0 * z).expand(3, 8), 8),
    "gamma": lambda z: torch._standard_gamma(1 + 0 * z),
    "class": lambda z: Normal(z, 1.0).sample() - z,
}


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_noise_is_shared_where_a_draw_before_it_takes_more_numbers(
    draw: Callable[[Tensor], Tensor],
) -> None:
    theta, seen = bits(), []

    def program() -> Any:
        z = Bernoulli(logits=theta).sample()
        w = torch.poisson(1 + 50 * z)  # takes more numbers where z is a one
        seen.append((an.untrack(z), an.untrack(draw(z))))
        return (z * w).sum()

    torch.manual_seed(0)
    an.estimate(program, estimators={"z": RLOO(2), "*": "auto"}, check=False)
    (z, first), (other, second) = seen
    assert not torch.equal(z, other)
    torch.testing.assert_close(first, second)


class Noise:
    """Keeps the noise that it draws, and runs the program twice."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, site: SiteDraw) -> Tensor:
        for value in (0.1, 0.2):
            self.seen.append(site.draw(Normal(torch.zeros(8, dtype=torch.float64), 1.0)))
            site.evaluate(torch.full_like(site.value, value))
        return site.log_prob(site.value).sum()


@pytest.mark.parametrize("noise", ["common", "independent"])
def test_no_number_is_used_twice(noise: Any) -> None:
    theta, seen, estimator = bits(), [], Noise()

    def program() -> Tensor:
        z = an.sample("z", Normal(theta, 1.0))
        below = torch.normal(z, 1.0)
        seen.append([an.untrack(each).detach() for each in (z - theta, below - z, torch.randn(8))])
        return (z * below).sum()

    an.estimate(program, estimators={"z": estimator, "*": "auto"}, noise=noise, check=False)
    (above, first, rest), *later = seen
    used = [above, first, rest, *estimator.seen]
    for _, below, other in later:
        assert torch.equal(other, rest)
        if noise == "common":
            torch.testing.assert_close(below, first)
        else:
            used.append(below)
    numbers = torch.cat([each.double() for each in used])
    assert len(numbers.round(decimals=9).unique()) == len(numbers)


def test_estimates_one_after_the_other_have_other_numbers() -> None:
    theta, seen = bits(), []

    def program() -> Tensor:
        z = Normal(theta, 1.0).rsample()
        drawn = an.untrack(z).detach()
        seen.append([float(drawn.sum()), float(torch.rand(())), np.random.rand(), random.random()])
        return z.sum()

    torch.manual_seed(0)
    for _ in range(2):
        an.estimate(program)
    assert not set(seen[0]) & set(seen[1])


def following() -> list[float]:
    return [float(torch.rand(())), np.random.rand(), random.random()]


@pytest.mark.parametrize("estimator", ["auto", RLOO(2), RLOO(5), LocalExpectation()], ids=repr)
@pytest.mark.parametrize("check", [True, False])
def test_what_follows_an_estimate_is_the_same_whatever_its_runs(
    estimator: Any, check: bool
) -> None:
    theta = bits(2)

    def program() -> Tensor:
        np.random.rand()
        random.random()
        z = Bernoulli(logits=theta).sample()
        return (z * torch.rand(2, dtype=torch.float64)).sum()  # type: ignore[no-any-return]

    found = []
    for each in ("auto", estimator):
        torch.manual_seed(3)
        np.random.seed(3)
        random.seed(3)
        an.estimate(program, estimators=each, check=check)
        found.append(following())
    assert found[0] == found[1]


def test_a_program_that_fails_leaves_the_numbers_as_they_were() -> None:
    def program() -> Tensor:
        torch.rand(5)
        raise ZeroDivisionError

    def expected() -> list[float]:
        torch.manual_seed(3)
        an.estimate(lambda: Bernoulli(logits=bits()).sample().sum())
        return following()

    np.random.seed(3)
    random.seed(3)
    first = expected()
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    with pytest.raises(ZeroDivisionError):
        an.estimate(program)
    assert following() == first
