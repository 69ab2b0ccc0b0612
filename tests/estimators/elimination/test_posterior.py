"""Draws of enumerated sites from their posterior: all outcomes, with their exact probabilities."""

from collections import defaultdict
from typing import Any

import pytest
import torch
from programs.finite.exact import exact
from programs.finite.growth import grown
from programs.finite.run import numbers, run
from programs.finite.tree import Program, sites
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal, OneHotCategorical

import ancestral as an
from ancestral.trace.handlers import enumerate as enumeration
from ancestral.trace.handlers import substitute
from oracles import paths

# Of the random programs, those that have several elements to draw, and few joint values.
SEEDS = (15, 21, 22, 28, 48, 59, 69, 72, 81, 84, 101, 111, 114, 137, 148, 154)
P = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)


def outcomes(program: Program, trace: an.Trace, cells: Any) -> dict[tuple[int, ...], Tensor]:
    """Return the probability of each joint value to be drawn, by the values of the cells."""
    seen: list[tuple[int, ...]] = []
    owners = {site.name: site for site in sites(program.body)}
    truth = exact(program, trace)

    def draw() -> Tensor:
        found = an.infer.sample_posterior(trace, 1)
        value = []
        for name, at in cells:
            place = truth.place(at)[1]
            site = numbers(owners[name.split("_")[0]], found[name])[0]
            value.append(int(site[(*(0,) * (site.dim() - len(place)), *place)]))
        seen.append(tuple(value))
        return torch.zeros(())

    found: dict[tuple[int, ...], Tensor] = defaultdict(lambda: torch.zeros(()).double())
    for path, value in zip(paths(draw, []), seen, strict=True):
        found[value] = found[value] + path.log_prob.exp()
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_joint_values_are_drawn_with_their_posterior_probabilities(seed: int) -> None:
    program = grown(seed, is_scaled=False)
    trace = run(program)
    truth = exact(program, trace)
    posterior = truth.part().log.detach()
    posterior = (posterior - posterior.logsumexp(list(range(posterior.dim())))).exp()
    found = outcomes(program, trace, list(truth.axes))
    total = torch.zeros(()).double()
    for value, probability in found.items():
        expected = posterior[value[::-1]]
        torch.testing.assert_close(probability, expected, rtol=1e-9, atol=1e-9)
        total = total + expected
    torch.testing.assert_close(total, torch.ones(()).double(), rtol=1e-9, atol=1e-9)


def test_values_have_the_shape_that_a_run_which_draws_them_gives_them() -> None:
    def model() -> None:
        a = an.sample("a", OneHotCategorical(P))
        with an.plate("data", 4):
            b = an.sample("b", Bernoulli((a @ P)[..., None] if a.dim() == 1 else a @ P))
            an.sample("c", Categorical(torch.ones(1).double()))
            an.observe("x", Normal(b, 1.0), torch.zeros(4).double())

    with an.record() as trace, enumeration(first_dim=-2):
        model()
    found = an.infer.sample_posterior(trace, samples=7)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "a": (7, 3),
        "b": (7, 4),
        "c": (7, 4),
    }
    with an.record() as again, substitute({name: value[0] for name, value in found.items()}):
        model()
    assert again.log_prob_sum().isfinite()


def test_a_draw_is_no_site_of_a_recording_around_it() -> None:
    with an.record() as outer:
        with an.record() as trace, enumeration():
            an.sample("z", Categorical(P))
        an.infer.sample_posterior(trace, samples=2)
    assert list(outer) == ["z"]


def test_data_of_probability_zero_has_no_posterior_to_draw_from() -> None:
    with an.record() as trace, enumeration():
        an.sample("z", Categorical(P))
        an.factor("f", torch.tensor(-torch.inf).double())
    with pytest.raises(an.errors.EnumerationError, match="site 'z' has no posterior"):
        an.infer.sample_posterior(trace, samples=2)


@pytest.mark.parametrize("samples", [0, -1, 1.0, True])
def test_a_number_of_samples_that_is_none_raises(samples: Any) -> None:
    with an.record() as trace, enumeration():
        an.sample("z", Categorical(P))
    with pytest.raises(ValueError, match="samples must be an int greater than 0"):
        an.infer.sample_posterior(trace, samples)
