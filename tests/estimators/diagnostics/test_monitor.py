"""The monitor's variances beside those by enumeration, by hand, and of repeated gradients."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.estimators.diagnostics import contrast
from oracles import paths, probabilities, replaying

A = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)
B = torch.tensor([0.5, -0.4, 0.9], dtype=torch.float64, requires_grad=True)
PARAMS = {"A": A, "B": B}
ALIKE, UNLIKE = ((0.2, 0.2),), ((0.2, -0.9), (0.6, 1.1), (-0.5, 0.3))


def inputs(rows: Sequence[Sequence[float]], count: int) -> Tensor:
    return torch.tensor([rows[n % len(rows)] for n in range(count)], dtype=torch.float64)


def program(x: Tensor) -> Tensor:
    """Two layers of coins, two and one for each example, and a cost of each."""
    a = Bernoulli(logits=A * x[:, :1] + x[:, 1:]).sample()
    b = Bernoulli(logits=a @ B[:2, None] + B[2:]).sample()
    cost_a = (a - 0.3 * x).pow(2) * torch.tensor([1.0, 2.0], dtype=torch.float64)
    cost_b = (b - 0.6).pow(2) * (1 + a.sum(1, keepdim=True))
    loss: Tensor = cost_a.sum() + cost_b.sum()
    return loss


def by_hand(x: Tensor, a: Tensor, b: Tensor, *, is_left: bool) -> dict[tuple[str, str], Tensor]:
    """Return by site and parameter the gradient of each example: [examples, coordinates].

    A coin of the first layer has its own cost and that of the second layer, which it changes.
    """
    cost_a = (a - 0.3 * x).pow(2) * torch.tensor([1.0, 2.0], dtype=torch.float64)
    cost_b = (b - 0.6).pow(2) * (1 + a.sum(1, keepdim=True))
    costs = {"a": cost_a + cost_b, "b": cost_b}
    if is_left:
        others = len(x) - 1
        costs = {k: c - (c.sum(0, keepdim=True) - c) / others for k, c in costs.items()}
    log_a = Bernoulli(logits=A * x[:, :1] + x[:, 1:]).log_prob(a)
    log_b = Bernoulli(logits=a @ B[:2, None] + B[2:]).log_prob(b)
    found = {}
    for site, param, log in (("a", "A", log_a), ("b", "B", log_b)):
        rows = [(log * costs[site]).sum(1)[n] for n in range(len(x))]
        grads = [torch.autograd.grad(row, PARAMS[param], retain_graph=True)[0] for row in rows]
        found[site, param] = torch.stack(grads)
    return found


def spread(g: Tensor) -> Tensor:
    """Return N/(N-1) Σ_n |g[n] - ḡ|², of [N, coordinates]."""
    return (g - g.mean(0)).square().sum() * len(g) / (len(g) - 1)


@contextmanager
def signs_of(order: Sequence[int]) -> Iterator[None]:
    """Let the signs come in an order that is given."""

    def signs(count: int, number: int, device: torch.device) -> Tensor:
        return ORIGINAL(count, 0, device).sort().values[torch.tensor(order)]

    with mock.patch.object(contrast, "signs", signs):
        yield


@contextmanager
def numbered(at: int) -> Iterator[None]:
    """Let the signs be those of a number that is given."""
    with mock.patch.object(contrast, "signs", lambda count, _, device: ORIGINAL(count, at, device)):
        yield


ORIGINAL = contrast.signs


def monitored(run: Callable[[], Tensor], monitor: an.Monitor, **options: object) -> an.Trace:
    with an.record() as trace:
        loss = run()
    for param in PARAMS.values():
        param.grad = None
    an.backward(loss, monitor=monitor, **options)  # type: ignore[arg-type]
    return trace


def over_all_orders(run: Callable[[], Tensor], count: int, **options: object) -> dict[str, float]:
    """Return what a monitor knows once it has measured with each order of the signs."""
    monitor = an.Monitor(PARAMS, every=1, decay=1)
    for order in itertools.permutations(range(count)):
        with signs_of(order):
            monitored(run, monitor, **options)
    return monitor.log(pairs=True)


@pytest.mark.parametrize(
    ("rows", "count", "baseline"),
    [(ALIKE, 2, None), (ALIKE, 2, "auto"), (UNLIKE, 2, None), (UNLIKE, 3, "auto")],
)
def test_the_mean_over_all_outcomes_is_the_stated_one_and_the_variance_of_alike_examples(
    rows: Sequence[Sequence[float]], count: int, baseline: object
) -> None:
    x = inputs(rows, count)
    runs = paths(lambda: program(x), [])
    weights = probabilities(runs)
    mean: dict[tuple[str, str], float] = dict.fromkeys([("a", "A"), ("b", "B")], 0.0)
    each: dict[tuple[str, str], list[Tensor]] = {key: [] for key in mean}
    for path, weight in zip(runs, weights.tolist(), strict=True):
        # Two signs have one order but for the sign of all, which a square does not see.
        orders = [(0, 1)] if count == 2 else [(0, 1, 2), (1, 0, 2), (0, 2, 1)]
        for order in orders:
            monitor = an.Monitor(PARAMS, every=1)
            with signs_of(order), replaying(path):
                monitored(lambda: program(x), monitor, baseline=baseline)
            log = monitor.log(pairs=True)
            for site, param in mean:
                value = log[f"site/{site}/param/{param}/variance"]
                mean[site, param] += weight * value / len(orders)
        hand = by_hand(x, *path.draws, is_left=baseline is not None)
        for key, g in hand.items():
            each[key].append(g)
    for key, found in mean.items():
        g = torch.stack(each[key])  # [outcomes, examples, coordinates]
        mu = torch.tensordot(weights, g, 1)
        away = g - mu
        own = torch.tensordot(weights, away.square().sum((1, 2)), 1)
        whole = torch.tensordot(weights, away.sum(1).square().sum(1), 1)
        between = (mu - mu.mean(0)).square().sum() * count / (count - 1)
        stated = own + between - (whole - own) / (count - 1)
        assert found == pytest.approx(float(stated), rel=1e-9)
        if rows is ALIKE and baseline is None:
            assert found == pytest.approx(float(whole), rel=1e-9)
        if baseline is not None:
            # Of means over the others, the covariance is the product of the mean gradients.
            pairs = mu.sum(0).square().sum() - mu.square().sum()
            assert float(whole - own) == pytest.approx(float(pairs / (count - 1) ** 2), abs=1e-9)


@pytest.mark.parametrize("baseline", [None, "auto"])
def test_a_batch_has_the_spread_of_the_gradients_of_its_examples_one_by_one(
    baseline: object,
) -> None:
    x = inputs(UNLIKE, 3)
    torch.manual_seed(4)
    draws: list[Tensor] = []

    def run() -> Tensor:
        torch.manual_seed(5)
        return program(x)

    trace = monitored(run, an.Monitor(), baseline=baseline)
    draws = [trace[name].value for name in ("a", "b")]
    log = over_all_orders(run, 3, baseline=baseline)
    hand = by_hand(x, *draws, is_left=baseline is not None)
    sites = {site: spread(g) for (site, _), g in hand.items()}
    for (site, param), g in hand.items():
        assert log[f"site/{site}/param/{param}/variance"] == pytest.approx(float(spread(g)))
        assert log[f"site/{site}/variance"] == pytest.approx(float(sites[site]))
        share = float(sites[site] / sum(sites.values()))
        assert log[f"site/{site}/variance_share"] == pytest.approx(share)
        assert log[f"param/{param}/variance_share"] == pytest.approx(share)


def test_parameters_that_sites_share_have_the_covariance_within_examples_too() -> None:
    shared = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
    x = inputs(UNLIKE, 3)

    def both() -> tuple[Tensor, Tensor, Tensor]:
        p, q = Bernoulli(logits=shared * x[:, :1]), Bernoulli(logits=shared * x[:, 1:])
        torch.manual_seed(1)
        a = p.sample()
        b = q.sample()
        return p.log_prob(a), q.log_prob(b), (a + b - 0.7).pow(2)

    monitor = an.Monitor({"w": shared}, every=1, decay=1)
    for order in itertools.permutations(range(3)):
        with an.record():
            loss = both()[-1].sum()
        with signs_of(order):
            an.backward(loss, monitor=monitor, baseline=None)
    log = monitor.log()
    a, b, cost = both()
    g = [
        torch.stack(
            [torch.autograd.grad(each[n, 0], shared, retain_graph=True)[0] for n in range(3)]
        )
        for each in (a * cost.detach(), b * cost.detach())
    ]
    assert log["site/a/variance"] == pytest.approx(float(spread(g[0])))
    assert log["site/b/variance"] == pytest.approx(float(spread(g[1])))
    assert log["param/w/variance"] == pytest.approx(float(spread(g[0] + g[1])))
    assert log["total/variance"] == pytest.approx(float(spread(g[0] + g[1])))
    assert log["site/a/variance_share"] + log["site/b/variance_share"] == pytest.approx(1)


@pytest.mark.parametrize("baseline", [None, an.estimators.LeaveOneOut(0)])
def test_it_agrees_with_the_sample_variance_of_repeated_gradients(baseline: object) -> None:
    """The loss has no derivative by the parameters: the gradient is that of the scores alone."""
    count, repeats = 16, 1500
    x = inputs(ALIKE, count)
    torch.manual_seed(0)
    monitor = an.Monitor(PARAMS, every=1, decay=1)
    grads: dict[str, list[Tensor]] = {name: [] for name in PARAMS}
    for _ in range(repeats):
        monitored(lambda: program(x) / count, monitor, baseline=baseline)
        for name, param in PARAMS.items():
            assert param.grad is not None
            grads[name].append(param.grad)
    log = monitor.log()
    for site, name in (("a", "A"), ("b", "B")):
        g = torch.stack(grads[name])
        away = (g - g.mean(0)).square().sum(1)
        sample, error = float(away.sum()) / (repeats - 1), float(away.std()) / math.sqrt(repeats)
        # The covariance that a mean over the others brings, of examples that are alike.
        ignored = 0.0 if baseline is None else float(g.mean(0).square().sum()) / (count - 1) ** 2
        found, own = log[f"site/{site}/variance"], log[f"site/{site}/variance_error"]
        assert abs(found + ignored - sample) < 4 * math.hypot(own, error)
        assert own < 0.05 * found  # the interval tells something
        assert error < 0.07 * sample


def test_the_interval_is_that_of_the_mean_over_the_steps() -> None:
    x = inputs(UNLIKE, 6)
    for decay in (1.0, 0.7):
        values, monitor = [], an.Monitor(PARAMS, every=1, decay=decay)
        for step in range(12):
            single = an.Monitor(PARAMS)
            with numbered(step):
                for each in (single, monitor):
                    torch.manual_seed(step)
                    monitored(lambda: program(x), each)
            values.append(single.log()["site/a/variance"])
        weights = np.array([decay ** (11 - i) for i in range(12)])
        mean = np.average(values, weights=weights)
        variance = np.cov(values, aweights=weights)
        error = math.sqrt(variance * (weights**2).sum()) / weights.sum()
        log = monitor.log()
        assert log["site/a/variance"] == pytest.approx(mean)
        assert log["site/a/variance_error"] == pytest.approx(error)


@given(st.integers(2, 40), st.integers(0, 2**40))
def test_signs_add_up_to_nothing_and_their_squares_to_the_count(count: int, number: int) -> None:
    found = ORIGINAL(count, number, torch.device("cpu"))
    assert float(found.sum()) == pytest.approx(0, abs=1e-12)
    assert float(found.square().sum()) == pytest.approx(count)


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_no_pair_of_examples_has_another_sign_more_often_than_others(count: int) -> None:
    """With E[ε ε'] = N/(N-1) (I - 1/N), the mean of H² is N times the sample variance."""
    found = torch.stack([ORIGINAL(count, n, torch.device("cpu")) for n in range(6000)])
    expected = (torch.eye(count) - 1 / count) * count / (count - 1)
    torch.testing.assert_close(
        (found.T @ found / len(found)).float(), expected, rtol=0, atol=4 * 1.6 / math.sqrt(6000)
    )
    lagged = found[1:].T @ found[:-1] / (len(found) - 1)  # nor does a number tell the next one's
    assert float(lagged.abs().max()) < 4 * 1.6 / math.sqrt(6000)


class Spy(an.estimators.LeaveOneOut):
    """Keeps what it is given and returns."""

    is_proven = True

    def __init__(self) -> None:
        super().__init__(0)
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __call__(self, credit: an.estimators.Credit, /) -> Tensor:
        found = super().__call__(credit)
        if credit.name == "a":
            self.seen.append((found.expand(credit.shape), credit.total.expand(credit.shape)))
        return found


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_the_correlation_is_that_of_the_values_that_were_subtracted(decay: float) -> None:
    spy, monitor = Spy(), an.Monitor(PARAMS, every=1, decay=decay)
    torch.manual_seed(3)
    for step in range(5):
        monitored(partial(program, inputs(UNLIKE, 4 + step)), monitor, baseline=spy)
    pairs = [torch.stack([x.reshape(-1) for x in seen]) for seen in spy.seen]
    weights = [np.full(pair.shape[1], decay ** (4 - i)) for i, pair in enumerate(pairs)]
    both, aweights = torch.cat(pairs, 1).numpy(), np.concatenate(weights)
    log = monitor.log()
    cov = np.cov(both, aweights=aweights)
    expected = cov[0, 1] / math.sqrt(cov[0, 0] * cov[1, 1])
    assert log["site/a/baseline_correlation"] == pytest.approx(expected)
    b, c = both
    gain = 1 - (aweights * (c - b) ** 2).sum() / (aweights * c**2).sum()
    assert log["site/a/baseline_gain"] == pytest.approx(gain)
    if decay == 1:
        assert expected == pytest.approx(np.corrcoef(both)[0, 1])


def test_a_baseline_that_does_not_vary_has_no_correlation() -> None:
    monitor = an.Monitor(PARAMS, every=1)
    monitored(lambda: program(inputs(UNLIKE, 4)), monitor, baseline=lambda credit: 0.1)
    assert not [name for name in monitor.log() if "correlation" in name]
    monitored(lambda: program(inputs(UNLIKE, 4)), monitor, baseline=None)
    assert not [name for name in monitor.log() if "correlation" in name]
