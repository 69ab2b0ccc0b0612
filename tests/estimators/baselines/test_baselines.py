"""Baselines: what they subtract, and that it never depends on the draw itself."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.estimators.credit.credit import Credit, Part


def credit(*parts: Tensor, name: str = "z", shape: tuple[int, ...] = (4, 3)) -> Credit:
    """Return the credit of a site."""
    kept = [frozenset(d for d, n in enumerate(part.shape) if n == shape[d] > 1) for part in parts]
    return Credit(name, shape, tuple(map(Part, parts, kept)))


def number(value: float, name: str = "z") -> Credit:
    """Return the credit of a site that is one number."""
    return credit(torch.tensor(value, dtype=torch.float64), name=name, shape=())


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(values=st.lists(st.floats(-100, 100), min_size=1, max_size=8), decay=st.floats(0, 0.99))
@example(values=[1.0, 2.0, 3.0], decay=0.0)
@example(values=[3.0, 3.0, 3.0], decay=0.99)
def test_a_running_mean_is_the_weighted_mean_of_the_steps_before(
    values: list[float], decay: float
) -> None:
    baseline = an.estimators.RunningMean(decay)
    for step, value in enumerate(values):
        found = baseline(number(value)).item()
        weights = [decay ** (step - 1 - k) for k in range(step)]  # the last step counts 1
        known = sum(w * v for w, v in zip(weights, values, strict=False))
        expected = known / sum(weights) if weights else 0.0
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_running_mean_keeps_the_sites_apart() -> None:
    baseline = an.estimators.RunningMean()
    baseline(number(1.0, "a"))
    baseline(number(100.0, "b"))
    assert baseline(number(7.0, "a")).item() == pytest.approx(1.0)
    assert baseline(number(7.0, "b")).item() == pytest.approx(100.0)
    assert baseline(number(7.0, "c")).item() == 0.0


def test_a_running_mean_averages_over_the_elements_and_parts() -> None:
    baseline = an.estimators.RunningMean()
    parts = (torch.arange(4.0).reshape(4, 1), torch.full((1, 1), 10.0))
    baseline(credit(*parts))
    found = baseline(credit(*parts))
    assert found.dim() == 0
    assert found.item() == pytest.approx(11.5)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\)"):
        an.estimators.RunningMean(decay)


def test_a_running_mean_holds_no_graph() -> None:
    baseline = an.estimators.RunningMean()
    learned = torch.tensor(2.0, requires_grad=True)
    baseline(credit(learned * 1, shape=()))
    assert not baseline(number(0.0)).requires_grad


def test_leave_one_out_is_the_mean_of_the_others() -> None:
    costs = torch.tensor([[1.0, 2.0], [3.0, 5.0], [-4.0, 0.5]], dtype=torch.float64)
    found = an.estimators.LeaveOneOut(0)(credit(costs, shape=(3, 2)))
    by_hand = [[(costs[:, j].sum() - costs[i, j]) / 2 for j in range(2)] for i in range(3)]
    torch.testing.assert_close(found, torch.tensor(by_hand, dtype=torch.float64))


@pytest.mark.parametrize("at", range(4))
def test_leave_one_out_never_uses_the_example_itself(at: int) -> None:
    costs = torch.randn(4, 3, dtype=torch.float64)
    changed = costs.clone()
    changed[at] += 1000.0
    before, after = (an.estimators.LeaveOneOut(0)(credit(c)) for c in (costs, changed))
    torch.testing.assert_close(before[at], after[at])
    others = [i for i in range(4) if i != at]
    assert (before[others] != after[others]).all()


def test_leave_one_out_adds_up_the_parts_that_are_apart_and_leaves_the_rest() -> None:
    by_row, by_element = torch.randn(4, 1), torch.randn(4, 3)
    shared = torch.full((1, 3), 1e6)
    found = an.estimators.LeaveOneOut(0)(credit(shared, by_row, by_element))
    both = by_row + by_element
    torch.testing.assert_close(found, (both.sum(0, keepdim=True) - both) / 3)


@pytest.mark.parametrize(
    ("shape", "part"),
    [((4, 3), (1, 3)), ((4, 3), (1, 1)), ((), ()), ((1, 3), (1, 3)), ((1,), (1,))],
    ids=["by the second dimension", "shared", "a scalar", "one example", "one"],
)
def test_leave_one_out_is_zero_where_nothing_is_apart_along_the_first_dimension_and_says_so(
    shape: tuple[int, ...], part: tuple[int, ...]
) -> None:
    with pytest.warns(an.errors.BaselineWarning, match="nothing from the credit of site 'z'"):
        found = an.estimators.LeaveOneOut(0)(
            credit(torch.ones(part, dtype=torch.float64), shape=shape)
        )
    assert found.item() == 0.0
    assert found.dtype is torch.float64


SHAPES = [(5, 3), (2, 6), (3, 4, 2), (2, 2), (1, 4), (4, 1, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_leave_one_out_along_all_dimensions_never_uses_the_element_itself(
    shape: tuple[int, ...],
) -> None:
    """By the derivative in every cost: of an element's baseline, none in its own."""
    costs = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    found = an.estimators.LeaveOneOut()(credit(costs, shape=shape)).expand(shape)
    own = torch.autograd.functional.jacobian(
        lambda c: an.estimators.LeaveOneOut()(credit(c, shape=shape)).expand(shape).flatten(), costs
    ).reshape(costs.numel(), -1)
    torch.testing.assert_close(own.diagonal(), torch.zeros(costs.numel(), dtype=torch.float64))
    assert bool((own != 0).any())
    assert bool(torch.isfinite(found).all())


def test_leave_one_out_fits_the_others_of_an_example_to_the_other_examples() -> None:
    """One by one, as one writes it: the slope is a regression on the other examples."""
    torch.manual_seed(0)
    costs = torch.randn(9, 3, dtype=torch.float64) + 2 * torch.randn(9, 1, dtype=torch.float64)
    siblings = (costs.sum(1, keepdim=True) - costs) / 2
    expected = torch.empty_like(costs)
    for n in range(9):
        rest = [m for m in range(9) if m != n]
        c, r = costs[rest] - costs[rest].mean(0), siblings[rest] - siblings[rest].mean(0)
        told = (r * c).sum() ** 2 / ((r * r).sum() * (c * c).sum())
        kept = (1 - (1 - told) / (6 * told)).clamp(min=0)
        slope = kept * (r * c).sum() / (r * r).sum()
        expected[n] = costs[rest].mean(0) + slope * (siblings[n] - siblings[rest].mean(0))
    found = an.estimators.LeaveOneOut()(credit(costs, shape=(9, 3)))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        an.estimators.LeaveOneOut()(credit(costs + 1e6, shape=(9, 3))), expected + 1e6
    )


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_leave_one_out_takes_what_is_alike_within_an_example_and_only_that(shift: float) -> None:
    """Of 64 inputs with 4 samples: no worse than the others of the input, or of the batch."""
    torch.manual_seed(0)
    costs = torch.randn(64, 4, dtype=torch.float64) + shift * torch.randn(64, 1).double()
    left = {
        "all": costs - an.estimators.LeaveOneOut()(credit(costs, shape=(64, 4))),
        "batch": costs - an.estimators.LeaveOneOut(0)(credit(costs, shape=(64, 4))),
        "samples": costs - an.estimators.LeaveOneOut(1)(credit(costs, shape=(64, 4))),
    }
    size = {name: float((each**2).mean()) for name, each in left.items()}
    # The mean of the batch costs 1/63, that of the samples 1/3.
    assert size["all"] < (1 + 2 / 63) * min(size["batch"], size["samples"])
    assert size["all"] < 0.8 * max(size["batch"], size["samples"])


@pytest.mark.parametrize("dim", [True, 1.0, "batch"])
def test_a_dim_that_is_none_is_refused(dim: object) -> None:
    with pytest.raises(TypeError, match="dim must be a dimension of the site or None"):
        an.estimators.LeaveOneOut(dim)  # type: ignore[arg-type]


def test_a_dim_that_a_site_has_not_is_refused() -> None:
    with pytest.raises(IndexError, match=r"site 'z' has 2 dimensions of elements, \[4, 3\], no 2"):
        an.estimators.LeaveOneOut(2)(credit(torch.ones(4, 3)))


def test_every_site_has_its_baseline_subtracted() -> None:
    """Whatever a baseline returns: for each site its own number, times the site's score."""
    p = torch.full((3,), 0.4, dtype=torch.float64, requires_grad=True)
    given_to: dict[str, float] = {"a": 0.7, "b": -2.0}
    seen: list[str] = []

    def constant(credit: Credit, /) -> Tensor:
        seen.append(credit.name)
        return torch.tensor(given_to[credit.name], dtype=torch.float64)

    with an.record() as trace:
        a = Bernoulli(p).sample()
        b = Bernoulli(p).sample()
        loss = (a * 2 + b * 3).sum()
    an.backward(loss, baseline=constant)
    assert sorted(seen) == ["a", "b"]
    twin = p.detach().clone().requires_grad_()
    costs = {"a": 2 * trace["a"].value, "b": 3 * trace["b"].value}
    for name, less in given_to.items():
        score = Bernoulli(twin).log_prob(trace[name].value)
        (score * (costs[name] - less)).sum().backward()
    torch.testing.assert_close(p.grad, twin.grad)


def test_a_baseline_must_say_what_it_subtracts_of_a_site_without_elements_too() -> None:
    """A batch of one has nobody else to learn from: the estimate is that without a baseline."""
    found: list[Tensor | None] = []
    for baseline in (None, an.estimators.LeaveOneOut(0)):
        torch.manual_seed(3)
        p = torch.full((1, 3), 0.4, requires_grad=True)
        with an.record():
            loss = Bernoulli(p).sample().exp().sum()
        if baseline is None:
            an.backward(loss, baseline=None)
        else:
            with pytest.warns(an.errors.BaselineWarning):
                an.backward(loss, baseline=baseline)
        found.append(p.grad)
    torch.testing.assert_close(found[0], found[1])
