"""Shapes of masks and scales: a weight never makes a density count more often than its cases."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal

import ancestral as an
from ancestral.errors import SiteError
from ancestral.trace.handlers import Handler, do, enumerate, mask, scale  # noqa: A004

DATA = torch.arange(4.0)


def observed(handler: Handler) -> an.Node:
    with an.record() as trace, handler:
        an.sample("x", Normal(torch.zeros(4), 1.0), obs=DATA)
    return trace["x"]


def both(size: tuple[int, ...]) -> list[Handler]:
    return [mask(torch.ones(size, dtype=torch.bool)), scale(torch.ones(size))]


@pytest.mark.parametrize("size", [(4, 1), (5, 4), (2, 1), (3,)])
def test_a_weight_that_does_not_broadcast_to_the_batch_is_refused(size: tuple[int, ...]) -> None:
    for handler, word in zip(both(size), ("mask", "scale"), strict=True):
        with pytest.raises(SiteError) as error:
            observed(handler)
        text = str(error.value)
        assert f"its {word} has shape {list(size)}; expected one that broadcasts" in text
        assert "to the batch [4] of the site" in text
        assert f"site 'x' ({__file__}:" in text


@pytest.mark.parametrize("size", [(), (1,), (4,), (1, 4)])
def test_a_weight_that_broadcasts_to_the_batch_counts_every_case_once(
    size: tuple[int, ...],
) -> None:
    expected = Normal(0.0, 1.0).log_prob(DATA).sum()
    for handler in both(size):
        torch.testing.assert_close(observed(handler).log_prob_sum, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("place", [0, 1])
def test_a_draw_is_refused_as_an_observation_is_and_one_of_plain_torch_too(place: int) -> None:
    for draw in (
        lambda: an.sample("z", Normal(torch.zeros(4), 1.0)),
        lambda: Bernoulli(logits=torch.zeros(4, requires_grad=True)).sample(),
    ):
        with an.record(), both((4, 1))[place], pytest.raises(SiteError, match=r"its \w+ has"):
            draw()


def test_a_sample_of_plain_torch_has_its_own_shape_as_the_batch() -> None:
    with an.record() as trace, mask(torch.ones(3, 1, dtype=torch.bool)):
        z = Normal(torch.zeros(4, requires_grad=True), 1.0).rsample(torch.Size((3,)))
    assert z.shape == trace["z"].log_prob.shape == (3, 4)


def test_data_may_be_what_makes_the_batch() -> None:
    with an.record() as trace, mask(torch.tensor([True, True, False, False])):
        an.sample("x", Normal(0.0, 1.0), obs=DATA)
    expected = Normal(0.0, 1.0).log_prob(DATA[:2]).sum()
    torch.testing.assert_close(trace["x"].log_prob_sum, expected)


def test_events_are_no_cases_that_a_mask_weighs() -> None:
    fn = Independent(Normal(torch.zeros(4, 3), 1.0), 1)
    with pytest.raises(SiteError, match=r"to the batch \[4\]"), mask(DATA[:3] > 0):
        an.sample("x", fn)


def test_one_draw_is_not_counted_for_each_case_that_is_not_observed() -> None:
    seen: Tensor = torch.tensor([True, False, False, True])
    with pytest.raises(SiteError, match="site 'x_unobserved'"), an.record():
        an.sample("x", Normal(0.0, 1.0), obs=DATA, obs_mask=seen)
    with an.record() as trace, an.plate("data", 4):
        an.sample("x", Normal(0.0, 1.0), obs=DATA, obs_mask=seen)
    assert trace["x_unobserved"].log_prob.count_nonzero() == 2


def test_a_weight_may_depend_on_values_that_are_enumerated() -> None:
    with an.record() as trace, enumerate(first_dim=-2):
        z = an.sample("z", Bernoulli(torch.tensor(0.5)))
        with mask(z > 0):
            an.sample("x", Normal(torch.zeros(4), 1.0), obs=DATA)
    likelihood = Normal(0.0, 1.0).log_prob(DATA).sum()
    expected = torch.stack([torch.tensor(0.0), likelihood]).logsumexp(0) + torch.tensor(0.5).log()
    torch.testing.assert_close(an.infer.log_marginal(trace), expected)


def test_what_is_set_from_outside_has_no_density_to_be_weighed() -> None:
    with an.record() as trace, mask(DATA > 0), do({"z": torch.tensor(1.0)}):
        an.sample("z", Normal(0.0, 1.0))
    assert trace["z"].fn is None
