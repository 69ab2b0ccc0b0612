"""The log-marginal: its closed forms, how handlers compose with it, and what has none."""

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal

import ancestral as an
from ancestral.trace.handlers import condition, replay, scale, substitute
from ancestral.trace.handlers import enumerate as enumeration
from ancestral.trace.handlers import mask as masked

torch.manual_seed(0)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


# Mixtures, against the closed form.

WEIGHTS = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
MEANS = torch.tensor([-2.0, 0.0, 3.0]).double()
POINTS = torch.tensor([-1.5, 0.1, 2.0, 4.0]).double()


def mixture(points: Tensor) -> None:
    with an.plate("points", len(points)):
        z = an.sample("z", Categorical(WEIGHTS))
        an.sample("x", Normal(MEANS[z], 1.0), obs=points)


def joint() -> Tensor:
    """Return log p(z = k, x_n): [K, N]."""
    density: Tensor = Normal(MEANS[:, None], 1.0).log_prob(POINTS)
    return WEIGHTS.log()[:, None] + density


SEEN = torch.tensor([True, False, True, True])
VALUES = torch.tensor([0, 1, 2, 2])
EACH = torch.tensor([0.5, 1.0, 2.0, 3.0]).double()
# A handler around a mixture, what is left of the points of the closed form, and of the posterior.
AROUND: dict[str, tuple[Any, Callable[[], Tensor], bool]] = {
    "nothing": (nullcontext(), lambda: joint().logsumexp(0), True),
    "a scale": (scale(0.25), lambda: 0.25 * joint().logsumexp(0), True),
    "a scale for each": (scale(EACH), lambda: EACH * joint().logsumexp(0), True),
    "a mask": (masked(SEEN), lambda: joint().logsumexp(0)[SEEN], False),
    "values": (condition({"z": VALUES}), lambda: joint()[VALUES, torch.arange(4)], False),
}


@pytest.mark.parametrize("name", AROUND)
def test_a_mixture_within_a_handler_has_the_marginal_of_the_closed_form(name: str) -> None:
    around, expected, has_posterior = AROUND[name]
    with an.record() as trace, enumeration(), around:
        mixture(POINTS)
    close(an.infer.log_marginal(trace), expected().sum())
    if has_posterior:
        close(an.infer.marginals(trace)["z"], joint().log_softmax(0))
    assert (an.infer.marginals(trace) == {}) is (name == "values")


def test_a_mixture_in_turn_is_the_same_as_one_in_a_batch() -> None:
    with an.record() as trace, enumeration():
        for n in an.plate("points", 4):
            z = an.sample(f"z{n}", Categorical(WEIGHTS))
            an.observe(f"x{n}", Normal(MEANS[z], 1.0), POINTS[n])
    close(an.infer.log_marginal(trace), joint().logsumexp(0).sum())


def test_a_subsample_in_turn_counts_as_often_as_it_stands_for() -> None:
    with an.record() as trace, enumeration():
        shared = an.sample("shared", Bernoulli(torch.tensor(0.3).double()))
        for n in an.plate("points", 8, subsample_size=2):
            z = an.sample(f"z{n}", Categorical(WEIGHTS))
            an.observe(f"x{n}", Normal(MEANS[z] + shared, 1.0), POINTS[n % 4])
    turns = [n % 4 for n in an.untrack(trace["points"].value).tolist()]
    logs = [
        math.log(p)
        + 4
        * (WEIGHTS.log()[:, None] + Normal(MEANS[:, None] + s, 1.0).log_prob(POINTS[turns]))
        .logsumexp(0)
        .sum()
        for s, p in ((0, 0.7), (1, 0.3))
    ]
    torch.testing.assert_close(an.infer.log_marginal(trace), torch.stack(logs).logsumexp(0))


def test_partly_observed_sites_have_the_marginal_of_what_is_observed() -> None:
    seen = torch.tensor([True, False, True, False])
    values = torch.tensor([0, 0, 2, 0])
    with an.record() as trace, enumeration(), an.plate("points", 4):
        z = an.sample("z", Categorical(WEIGHTS), values, obs_mask=seen)
        an.observe("x", Normal(MEANS[z], 1.0), POINTS)
    known = joint()[values, torch.arange(4)]
    close(an.infer.log_marginal(trace), torch.where(seen, known, joint().logsumexp(0)).sum())


# Composition with the other handlers.


def test_one_observation_may_be_there_or_not() -> None:
    for is_seen in (True, False):
        with an.record() as trace, enumeration():
            an.sample("z", Categorical(WEIGHTS), torch.tensor(1), obs_mask=torch.tensor(is_seen))
        close(
            an.infer.log_marginal(trace), WEIGHTS[1].log() if is_seen else torch.zeros(()).double()
        )


def test_a_latent_site_that_is_given_counts_at_its_value() -> None:
    with an.record() as trace, enumeration(), substitute({"mu": torch.tensor(0.5).double()}):
        mu = an.sample("mu", Normal(torch.zeros(()).double(), 1.0))
        z = an.sample("z", Bernoulli(torch.tensor(0.3).double()))
        an.observe("x", Normal(mu + z, 1.0), torch.tensor(1.0).double())
    own = Normal(0.0, 1.0).log_prob(torch.tensor(0.5).double())
    logs = [
        math.log(p) + Normal(0.5 + z, 1.0).log_prob(torch.tensor(1.0))
        for z, p in ((0, 0.7), (1, 0.3))
    ]
    torch.testing.assert_close(
        an.infer.log_marginal(trace),
        own + torch.stack(logs).logsumexp(0).double(),
        rtol=1e-6,
        atol=0,
    )


def test_a_latent_site_replayed_from_a_guide_counts_at_its_value() -> None:
    with an.record() as guide:
        an.sample("y", Normal(torch.zeros(3).double(), 1.0))

    def model() -> None:
        z = an.sample("z", Categorical(WEIGHTS))
        with an.plate("points", 3):
            an.sample("y", Normal(MEANS[z], 1.0))

    with an.record() as trace, replay(guide), enumeration():
        model()
    value = guide["y"].value
    logs = WEIGHTS.log() + Normal(MEANS[:, None], 1.0).log_prob(value).sum(-1)
    close(an.infer.log_marginal(trace), logs.logsumexp(0))


def test_what_scales_the_data_alone_tempers_it() -> None:
    with an.record() as trace, enumeration(), an.plate("points", 4):
        z = an.sample("z", Categorical(WEIGHTS))
        with scale(0.5):
            an.observe("x", Normal(MEANS[z], 1.0), POINTS)
    tempered = WEIGHTS.log()[:, None] + 0.5 * Normal(MEANS[:, None], 1.0).log_prob(POINTS)
    close(an.infer.log_marginal(trace), tempered.logsumexp(0).sum())


def test_a_mask_that_depends_on_an_enumerated_site_is_followed() -> None:
    with an.record() as trace, enumeration():
        z = an.sample("z", Bernoulli(torch.tensor(0.3).double()))
        with masked(z > 0):
            an.observe("x", Normal(torch.zeros(()).double(), 1.0), torch.tensor(1.0).double())
    density = Normal(0.0, 1.0).log_prob(torch.tensor(1.0)).double().exp()
    torch.testing.assert_close(an.infer.log_marginal(trace), (0.7 + 0.3 * density).log())


def test_without_enumerated_sites_it_is_the_sum_of_the_log_probabilities() -> None:
    with an.record() as trace, enumeration():
        an.observe("x", Normal(0.0, 1.0), torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(an.infer.log_marginal(trace), trace.log_prob_sum())


# Probabilities of zero.


def test_a_value_of_probability_zero_takes_no_part_and_has_no_gradient() -> None:
    free = torch.tensor([0.3, -0.2]).double().requires_grad_()
    logits = torch.cat([free, torch.tensor([-torch.inf]).double()])
    with an.record() as trace, enumeration():
        z = an.sample("z", Categorical(logits=logits))
        an.observe("x", Normal(MEANS[z], 1.0), torch.tensor(0.4).double())
    density = Normal(MEANS[:2], 1.0).log_prob(torch.tensor(0.4).double())
    expected = (free.log_softmax(0) + density).logsumexp(0)
    close(an.infer.log_marginal(trace), expected)
    ours, theirs = (
        torch.autograd.grad(total, free, retain_graph=True)[0]
        for total in (an.infer.log_marginal(trace), expected)
    )
    close(ours, theirs)
    assert an.infer.marginals(trace)["z"][2] == -torch.inf


def test_data_of_probability_zero_has_the_log_marginal_of_zero_and_no_posterior() -> None:
    with an.record() as trace, enumeration():
        an.sample("z", Categorical(WEIGHTS))
        an.factor("f", torch.tensor(-torch.inf).double())
    assert an.infer.log_marginal(trace) == -torch.inf
    with pytest.raises(an.errors.EnumerationError, match="site 'z' has no posterior"):
        an.infer.marginals(trace)


def test_no_weight_underflows() -> None:
    with an.record() as trace, enumeration():
        z = an.sample("z", Categorical(torch.tensor([0.5, 0.5]).double()))
        an.factor("f", torch.tensor([0.0, -2000.0]).double()[z])
        an.factor("g", torch.tensor([-3000.0, 0.0]).double()[z])
    close(an.infer.log_marginal(trace), torch.tensor(-2000 + math.log(0.5), dtype=torch.float64))


# What is drawn beside what is enumerated keeps its score.


def test_the_marginal_depends_on_what_is_drawn_and_on_nothing_that_is_summed_out() -> None:
    logits = torch.zeros(4, requires_grad=True)
    with an.record() as trace, enumeration(), an.plate("points", 4):
        drawn = an.sample("w", Bernoulli(logits=logits), infer={"enumerate": False})
        z = an.sample("z", Categorical(WEIGHTS))
        an.observe("x", Normal(MEANS[z] + drawn, 1.0), POINTS)
    assert an.provenance_of(an.infer.log_marginal(trace)) == {"w"}


def test_a_score_is_weighed_by_the_marginal_of_its_own_repetition_alone() -> None:
    logits = torch.zeros(4).double().requires_grad_()
    with an.record() as trace, enumeration(), an.plate("points", 4):
        drawn = an.sample("w", Bernoulli(logits=logits), infer={"enumerate": False})
        z = an.sample("z", Categorical(WEIGHTS))
        an.observe("x", Normal(MEANS[z] + drawn, 1.0), POINTS)
    an.backward(an.infer.log_marginal(trace), baseline=None)
    w = trace["w"].value
    own = Bernoulli(logits=logits).log_prob(w)
    marginal = own + (
        WEIGHTS.log()[:, None] + Normal(MEANS[:, None] + w, 1.0).log_prob(POINTS)
    ).logsumexp(0)
    score = torch.autograd.grad((own * marginal.detach() + own).sum(), logits)[0]
    assert logits.grad is not None
    close(logits.grad, score)


# What has no answer raises.


ZERO = torch.tensor(0.0).double()


def joined_across_plates() -> None:
    rows, columns = an.plate("rows", 2, dim=-1), an.plate("columns", 3, dim=-2)
    with rows:
        a = an.sample("a", Categorical(WEIGHTS))
    with columns:
        b = an.sample("b", Categorical(WEIGHTS))
    with rows, columns:
        an.observe("x", Normal(MEANS[a] + MEANS[b], 1.0), torch.zeros(3, 2).double())


def drawn_for_each_value() -> None:
    z = an.sample("z", Categorical(WEIGHTS))
    an.sample("y", Normal(MEANS[z], 1.0))


def of_other_scales(first: float, second: float) -> None:
    with scale(first):
        z = an.sample("z", Categorical(WEIGHTS))
    with scale(second):
        w = an.sample("w", Bernoulli(WEIGHTS[z]))
    an.observe("x", Normal(w, 1.0), ZERO)


UNANSWERED: list[tuple[Callable[[], None], str]] = [
    (joined_across_plates, r"site '[abx]' joins .*exponential in the size"),
    (drawn_for_each_value, r"site 'y' .*drawn once for each value"),
    (lambda: of_other_scales(0.5, 1.0), "their scales differ"),
    (lambda: of_other_scales(1.0, 0.5), "their scales differ"),
]


@pytest.mark.parametrize(("program", "text"), UNANSWERED)
def test_what_has_no_log_marginal_raises(program: Callable[[], None], text: str) -> None:
    with an.record() as trace, enumeration():
        program()
    with pytest.raises(an.errors.EnumerationError, match=text):
        an.infer.log_marginal(trace)


def test_an_enumerated_site_that_the_trace_lacks_raises() -> None:
    with an.record(), enumeration():
        z = an.sample("z", Categorical(WEIGHTS))
        with an.record() as part:
            an.observe("x", Normal(MEANS[z], 1.0), ZERO)
    with pytest.raises(an.errors.EnumerationError, match=r"site 'x' .* 'z' .*not in this trace"):
        an.infer.log_marginal(part)


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_sites_that_do_not_count_once_are_summed_out_before_those_that_do(
    is_first: bool, size: int
) -> None:
    """What counts once is a sum over the other, whatever the order of the sites and their sizes."""
    other = torch.arange(1.0, size + 1).double().log_softmax(0)
    with an.record() as trace, enumeration(first_dim=-1):
        if is_first:
            z = an.sample("z", Categorical(WEIGHTS))
        with scale(3.0):
            w = an.sample("w", Categorical(logits=other))
        if not is_first:
            z = an.sample("z", Categorical(WEIGHTS))
        with scale(3.0):
            an.observe("x", Normal(MEANS[z] + w, 1.0), torch.tensor(1.0).double())
    fit = Normal(MEANS[:, None] + torch.arange(size), 1.0).log_prob(torch.tensor(1.0).double())
    inner = 3 * (other + fit).logsumexp(1)
    close(an.infer.log_marginal(trace), (WEIGHTS.log() + inner).logsumexp(0))


def test_a_site_that_does_not_count_once_is_summed_out_for_each_value_of_one_that_does() -> None:
    moves = torch.tensor([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]], dtype=torch.float64)
    with an.record() as trace, enumeration():
        z = an.sample("z", Categorical(WEIGHTS))
        with scale(2.0):
            w = an.sample("w", Categorical(moves[z]))
            an.observe("x", Normal(w.double(), 1.0), torch.tensor(0.4).double())
    fit = Normal(torch.arange(2).double(), 1.0).log_prob(torch.tensor(0.4).double())
    inner = 2 * (moves.log() + fit).logsumexp(1)
    close(an.infer.log_marginal(trace), (WEIGHTS.log() + inner).logsumexp(0))


def test_two_runs_within_one_recording_keep_their_sites_apart() -> None:
    def once() -> Callable[[], None]:
        return enumeration()(lambda: mixture(POINTS))

    with an.record() as both:
        for _ in range(2):
            with an.record():
                once()()
    close(an.infer.log_marginal(both), 2 * joint().logsumexp(0).sum())


def test_a_density_that_is_asked_of_torch_counts_where_it_is_given_to_a_factor() -> None:
    with an.record() as trace, enumeration():
        z = an.sample("z", Categorical(WEIGHTS))
        an.factor("f", Normal(MEANS[z], 1.0).log_prob(POINTS[0]))
    close(an.infer.log_marginal(trace), joint()[:, 0].logsumexp(0))
    close(an.infer.marginals(trace)["z"], joint()[:, 0].log_softmax(0))


def test_a_site_that_depends_on_one_of_a_block_that_has_ended_raises() -> None:
    with an.record() as trace:
        with enumeration():
            z = an.sample("z", Categorical(WEIGHTS))
        an.observe("x", Normal(MEANS[z], 1.0), torch.tensor(0.0).double())
    with pytest.raises(an.errors.EnumerationError, match=r"site 'x' .* 'z' .*block .* had ended"):
        an.infer.log_marginal(trace)


@pytest.mark.parametrize("is_drawn_between", [True, False])
def test_the_log_probabilities_for_each_value_of_a_site_of_another_trace_have_no_sum(
    is_drawn_between: bool,
) -> None:
    with an.record(), enumeration():
        z = an.sample("z", Categorical(WEIGHTS))
        loc = an.sample("y", Normal(MEANS[z], 1.0)) if is_drawn_between else MEANS[z]
        with an.record() as part:
            an.sample("w", Normal(torch.zeros(()), 1.0))
            an.observe("x", Normal(loc, 1.0), torch.tensor(0.0).double())
    with pytest.raises(an.errors.EnumerationError, match=r"log-probabilities .*'z'"):
        part.log_prob_sum()
    assert part.log_prob_sum(lambda node: node.name == "w").shape == ()


@pytest.mark.parametrize("is_drawn_between", [True, False])
def test_a_cost_for_each_value_of_a_site_is_no_cost(is_drawn_between: bool) -> None:
    logits = torch.zeros(3, requires_grad=True)
    with an.record() as trace, enumeration():
        z = an.sample("z", Categorical(logits=logits))
        value = an.sample("y", Normal(MEANS[z], 1.0)) if is_drawn_between else MEANS[z]
        an.cost("c", value**2)
    with pytest.raises(an.errors.EnumerationError, match=r"cost 'c' .*enumerated site 'z'"):
        trace.backward()


def test_a_likelihood_for_each_value_of_a_site_is_no_cost() -> None:
    with an.record() as trace, enumeration():
        mixture(POINTS)
    with pytest.raises(an.errors.EnumerationError, match=r"cost 'x' .*log_marginal"):
        trace.backward()
    with pytest.raises(an.errors.EnumerationError, match=r"log-probabilities .*'z'"):
        trace.log_prob_sum()


def test_the_marginal_itself_can_be_a_cost() -> None:
    logits = torch.zeros(3).double().requires_grad_()
    with an.record() as trace:
        with an.record() as model, enumeration():
            z = an.sample("z", Categorical(logits=logits))
            an.sample("x", Normal(MEANS[z], 1.0), obs=POINTS[0])
        loss = -an.infer.log_marginal(model)
    with pytest.raises(an.errors.LossError):
        an.backward(loss)  # nothing is drawn: the gradient is that of torch
    loss.backward()
    assert logits.grad is not None
    assert list(trace) == ["z", "x"]
