"""Particle filters and their bound: enumerated, and against Kalman's filter and the forward one."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal

import ancestral as an
from ancestral.estimators.sequences.resampling import Comb
from oracles import (
    Parameters,
    derivatives,
    forcing,
    moments,
    moments_of,
    paths,
    replaying,
    score_function,
)

EXACT: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-8}
XS = torch.tensor([0.3, -1.1, 0.8], dtype=torch.float64)


def leaves() -> list[Tensor]:
    """Return the logit of the first state, those of the moves, the means of the data."""
    values = ([0.4], [-0.7, 0.9], [-0.6, 1.1])
    return [torch.tensor(value, dtype=torch.float64).requires_grad_() for value in values]


def hmm(first: Tensor, moves: Tensor, means: Tensor) -> tuple[Any, Any]:
    """Return a hidden Markov model of two states, whose proposal looks at the data."""

    def weighed(prior: Bernoulli, x: Tensor) -> tuple[Tensor, Tensor]:
        proposal = Bernoulli(logits=prior.logits + means[1] * x)
        z = proposal.sample()
        density = Normal(means[z.long()], 1.2).log_prob(x)
        return z, prior.log_prob(z) + density - proposal.log_prob(z)

    def initial(particles: int, x: Tensor) -> tuple[Tensor, Tensor]:
        return weighed(Bernoulli(logits=first.expand(particles)), x)

    def step(z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return weighed(Bernoulli(logits=moves[z.long()]), x)

    return initial, step


def evidence(first: Tensor, moves: Tensor, means: Tensor, xs: Tensor) -> Tensor:
    """Return log p(x) by the forward algorithm."""
    states = torch.tensor([0.0, 1.0], dtype=torch.float64)
    move = torch.stack([Bernoulli(logits=moves).log_prob(z) for z in states])  # [to, from]
    forward = Bernoulli(logits=first).log_prob(states)
    for t, x in enumerate(xs):
        forward = forward if t == 0 else (move + forward).logsumexp(1)
        forward = forward + Normal(means, 1.2).log_prob(x)
    return forward.logsumexp(0)


def by_hand(
    values: Parameters, xs: Tensor, threshold: float, *, is_given: bool = False, particles: int = 2
) -> Tensor:
    """Return the log-evidence of a filter that shares no code with the library's."""
    initial, step = hmm(*values)
    total, log_w = torch.zeros((), dtype=torch.float64), torch.zeros(particles).double()
    z = torch.zeros(0)
    for t, x in enumerate(xs):
        if t:
            weights = log_w.softmax(0)
            if threshold == 1 or 1 / weights.pow(2).sum() < threshold * particles:
                fn = Categorical(logits=log_w.detach() if is_given else log_w)
                chosen = fn.sample((particles,))
                z, log_w = z[chosen], torch.zeros_like(log_w)
            z, step_weight = step(z, x)
        else:
            z, step_weight = initial(particles, x)
        before = log_w.logsumexp(0)
        log_w = log_w + step_weight
        total = total + log_w.logsumexp(0) - before
    return total


CASES = [(1.0, 2, True), (0.99, 2, True), (1.0, 2, None), (0.0, 3, None)]


CHOICES: list[dict[str, Any]] = [
    {},
    {"baseline": None},
    {"credit": an.estimators.by_site},
    {"credit": an.estimators.total_cost},
]


@pytest.mark.parametrize("choice", CHOICES, ids=" ".join)
@pytest.mark.parametrize(("threshold", "steps", "wanted"), CASES)
def test_over_all_outcomes_the_gradient_is_that_of_the_bound_and_the_evidence_exact(
    threshold: float, steps: int, wanted: bool | None, choice: dict[str, Any]
) -> None:
    values, xs = leaves(), XS[:steps]
    options: dict[str, Any] = {"particles": 2, "ess_threshold": threshold}
    options["resampling_gradient"] = wanted

    def program(*values: Tensor) -> Tensor:
        found = an.infer.particle_filter(*hmm(*values), xs, **options)
        return found.log_evidence

    runs = paths(program, values)
    exact = torch.stack([run.log_prob.exp() * run.loss for run in runs]).sum()
    truth = derivatives(exact, values)
    weights = torch.stack([run.log_prob for run in runs]).detach().exp()
    found: list[Tensor] = []
    for run in runs:
        with replaying(run):
            fivo = an.infer.fivo(*hmm(*values), xs, **(options | choice))
        torch.testing.assert_close(fivo.value, run.loss.detach(), **EXACT)
        if threshold:
            with replaying(run):
                torch.testing.assert_close(by_hand(values, xs, threshold), run.loss, **EXACT)
        found.append(-derivatives(fivo.surrogate, values))
    torch.testing.assert_close(moments_of(weights, torch.stack(found)).mean, truth, **EXACT)
    mean = weights @ torch.stack([run.loss.detach() for run in runs]).exp()
    log_evidence = evidence(values[0], values[1], values[2], xs).detach()
    torch.testing.assert_close(mean.log(), log_evidence, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("threshold", [1.0, 0.99])
def test_without_the_resampling_gradient_the_scores_of_the_ancestors_alone_are_missing(
    threshold: float,
) -> None:
    values, xs = leaves(), XS[:2]
    options: dict[str, Any] = {"ess_threshold": threshold, "resampling_gradient": False}

    def given(*values: Tensor) -> Tensor:
        return by_hand(values, xs, threshold, is_given=True)

    def estimate(_: Any, values: Parameters) -> Tensor:
        found = an.infer.fivo(*hmm(*values), xs, particles=2, **options)
        return -derivatives(found.surrogate, values)

    expected = moments(given, values, score_function).mean
    torch.testing.assert_close(moments(given, values, estimate).mean, expected, **EXACT)


EVIDENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "logsumexp": lambda w: w.logsumexp(0) - math.log(len(w)),
    "mean": lambda w: w.exp().mean(0).log(),
    "sum": lambda w: (w.exp().sum() / len(w)).log(),
    "less the greatest": lambda w: w.max() + (w - w.max()).exp().mean().log(),
}


@pytest.mark.parametrize("name", EVIDENCES)
@pytest.mark.parametrize("control", ["strict", "after"])
def test_weights_that_python_reads_hold_no_score(name: str, control: Any) -> None:
    evidence_of, values = EVIDENCES[name], leaves()
    initial, step = hmm(*values)
    for seed in range(3):
        torch.manual_seed(seed)
        with an.record(control=control):
            z, weight = initial(3, XS[0])
            total = evidence_of(weight)
            for x in XS[1:]:
                shares = weight.softmax(0)
                if bool(1 / shares.pow(2).sum() < 2.5):
                    z, weight = z[Categorical(shares).sample((3,))], torch.zeros(3).double()
                before = evidence_of(weight)
                z, more = step(z, x)
                weight = weight + more
                total = total + evidence_of(weight) - before
            loss = -total / 3
        with warnings.catch_warnings():
            warnings.simplefilter("error", an.errors.HeldScoreWarning)
            warnings.simplefilter("ignore", an.errors.BlurredCreditWarning)
            an.backward(loss)


def test_a_filter_of_the_user_that_branches_on_the_sample_size_has_the_exact_gradient() -> None:
    values, xs = leaves(), XS[:2]

    def branching(*values: Tensor) -> Tensor:
        initial, step = hmm(*values)
        z, weight = initial(2, xs[0])
        total, before = weight.logsumexp(0), weight - weight.logsumexp(0)
        if bool(1 / before.exp().pow(2).sum() < 1.98):  # Python decides
            z = z[Categorical(logits=before).sample((2,))]
            before = torch.zeros_like(before)
        z, weight = step(z, xs[1])
        return total + (before + weight).logsumexp(0) - before.logsumexp(0)

    def estimate(_: Any, values: Parameters) -> Tensor:
        with an.record(control="after"):
            loss = branching(*values)
        return derivatives(an.surrogate(loss, baseline=None), values)

    runs = paths(branching, values)
    assert len({len(run.draws) for run in runs}) == 2  # some resample, some do not
    truth = derivatives(sum(run.log_prob.exp() * run.loss for run in runs), values)  # type: ignore[arg-type]
    torch.testing.assert_close(moments(branching, values, estimate).mean, truth, **EXACT)


WEIGHTS = torch.tensor([0.15, 0.6, 0.25], dtype=torch.float64)
ALL = torch.tensor(list(itertools.product(range(3), repeat=3)))


@pytest.mark.parametrize("is_systematic", [True, False])
def test_a_comb_gives_each_particle_as_many_copies_as_its_weight(is_systematic: bool) -> None:
    comb = Comb(WEIGHTS.log(), is_systematic=is_systematic)
    chances = comb.log_prob(ALL).exp()
    copies = torch.nn.functional.one_hot(ALL, 3).sum(1).double()
    torch.testing.assert_close(chances.sum().item(), 1.0)
    torch.testing.assert_close(chances @ copies, 3 * WEIGHTS)
    found = comb.sample((20_000,)) @ torch.tensor([9, 3, 1])
    seen = torch.bincount(found, minlength=27) / 20_000
    assert (seen[chances == 0] == 0).all()
    assert (seen - chances).abs().max() < 4 * (0.25 / 20_000) ** 0.5


def test_a_comb_chooses_none_that_has_no_weight() -> None:
    none = torch.tensor([0.0, 1.0, 0.0]).log()
    for is_systematic in (True, False):
        assert (Comb(none, is_systematic=is_systematic).sample((100,)) == 1).all()


@pytest.mark.parametrize("resampling", ["stratified", "systematic"])
def test_the_evidence_of_a_comb_is_unbiased(
    resampling: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = torch.tensor(list(itertools.product(range(2), repeat=2)))

    def sample(comb: Comb, _: Any = ()) -> Tensor:
        chances = comb.log_prob(outcomes)
        return outcomes[Categorical(logits=chances).sample()]

    monkeypatch.setattr(Comb, "sample", sample)

    def program(*values: Tensor) -> Tensor:
        return an.infer.particle_filter(
            *hmm(*values), XS[:2], particles=2, resampling=resampling
        ).log_evidence

    runs = paths(program, leaves())
    mean = sum((run.log_prob + run.loss).exp() for run in runs)
    first, moves, means = leaves()
    truth = evidence(first, moves, means, XS[:2])
    torch.testing.assert_close(mean, truth.exp(), rtol=1e-10, atol=1e-10)


def test_the_sequences_of_a_batch_have_their_credit_apart() -> None:
    xs = torch.tensor([[0.3, 1.5], [-1.1, 0.2], [0.8, -0.4]], dtype=torch.float64)
    values, drawn = leaves(), list[Tensor]()

    def batch(xs: Tensor, shape: tuple[int, ...]) -> Any:
        _, step = hmm(*values)

        def initial(particles: int, x: Tensor) -> Any:
            return step(torch.zeros(particles, *shape).double(), x)

        found = an.infer.fivo(initial, step, xs, particles=4, baseline=None)
        return derivatives(found.surrogate, values), found.log_evidence

    def fresh(fn: Any, shape: torch.Size) -> Tensor:
        if isinstance(fn, Categorical):
            rows = fn.probs.detach().expand(*shape, -1).reshape(-1, fn.probs.shape[-1])
            value = torch.multinomial(rows, 1).reshape(shape)
        else:
            value = torch.bernoulli(fn.probs.detach().expand(shape))
        drawn.append(value)
        return value

    with forcing(fresh):
        whole, log_evidence = batch(xs, (2,))
    for column in range(2):
        left = iter(value[:, column] for value in drawn)
        with forcing(lambda *_, left=left: next(left)):
            part, single = batch(xs[:, column], ())
        whole = whole - part
        torch.testing.assert_close(single, log_evidence[column])
    torch.testing.assert_close(whole, torch.zeros_like(whole), **EXACT)


def test_at_a_thousand_particles_the_bound_is_the_evidence_of_kalman() -> None:
    torch.manual_seed(0)
    xs, a, q, r = torch.randn(20).double().cumsum(0), 0.9, 0.8, 0.5

    def step(z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        z = Normal(a * z, q).rsample()
        return z, Normal(z, r).log_prob(x)

    def initial(particles: int, x: Tensor) -> tuple[Tensor, Tensor]:
        return step(torch.zeros(particles, dtype=torch.float64), x)

    mean, var, truth = torch.tensor(0.0).double(), 0.0, torch.tensor(0.0).double()
    for x in xs:
        mean, var = a * mean, a**2 * var + q**2
        truth = truth + Normal(mean, (var + r**2) ** 0.5).log_prob(x)
        gain = var / (var + r**2)
        mean, var = mean + gain * (x - mean), (1 - gain) * var
    for options in ({}, {"resampling": "systematic"}, {"ess_threshold": 0.5}):
        with torch.no_grad():
            values = torch.stack(
                [
                    an.infer.fivo(initial, step, xs, particles=1000, **options).value
                    for _ in range(10)
                ]
            )
        assert (values.mean() - truth).abs() < 3 * values.std() / 10**0.5


def hidden(particles: int, x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros(particles), torch.zeros(particles)


def stays(z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    return z, torch.zeros(3)


def drops(z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    return z[:2], torch.zeros(3)


def impossible(z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    return z, torch.full((3,), -torch.inf)


def no_number(z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    return z, torch.tensor([0.0, torch.nan, 0.0])


WRONG: list[tuple[Callable[..., Any], dict[str, Any], type[Exception], str]] = [
    (lambda z, x: z, {}, an.errors.ParticleError, r"step \(of observation 1\) returned .*Tensor"),
    (lambda z, x: (z, torch.zeros(2)), {}, an.errors.ParticleError, r"shape \[2\].* \[3\]"),
    (drops, {}, an.errors.ParticleError, r"state whose tensor has shape \[2\]"),
    (impossible, {}, an.errors.ParticleError, r"step \(of observation 1\) are all -inf"),
    (no_number, {}, an.errors.ParticleError, r"observation 1\) are not all numbers"),
    (stays, {"particles": 0}, ValueError, "particles"),
    (stays, {"resampling": "residual"}, ValueError, "one of 'multinomial', .*'residual'"),
    (stays, {"ess_threshold": 2}, ValueError, "ess_threshold must be a part"),
    (stays, {"resampling": "systematic", "resampling_gradient": True}, ValueError, "no score of"),
    (stays, {"observations": []}, ValueError, "observations has no step"),
]


@pytest.mark.parametrize(("step", "options", "kind", "match"), WRONG)
def test_what_is_no_filter_is_refused(
    step: Any, options: dict[str, Any], kind: type[Exception], match: str
) -> None:
    given: dict[str, Any] = {"observations": torch.zeros(2), "particles": 3} | options
    with pytest.raises(kind, match=match):
        an.infer.fivo(hidden, step, **given)
