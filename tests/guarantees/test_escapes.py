"""What Python may decide on, by the setting of control, within the block and after it."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from programs.estimates import by, fresh, gradients, library
from torch import Tensor
from torch.distributions import Bernoulli
from two_coins import Terms, assert_exact, drawn, leaves, reading, terms

import ancestral as an
from oracles import (
    Estimate,
    Parameters,
    Program,
    autograd,
    estimates,
    exact_gradient,
    mean_and_truth,
    moments,
    moments_of,
)


def branching(theta: Tensor) -> Tensor:
    z, w = drawn(theta[0]), drawn(theta[1])
    first, second = (w - 0.4) ** 2, w * theta[0]  # both finished before the branch
    constant = torch.tensor(0.7, dtype=torch.float64)
    chosen = first if z > 0 else second
    return chosen + constant * (2 if z.item() else 1)


def test_strict() -> None:
    """Under `control="strict"`, the default, the gradient is unbiased whatever Python does with
    an escaped value: all that is drawn or computed afterwards depends on it, and every term of
    the loss that was not declared with `an.cost` before.
    """
    assert_exact(branching, "strict")
    torch.testing.assert_close(*mean_and_truth(branching, leaves(), library()))
    (theta,) = leaves()
    with an.record() as trace:
        z = drawn(theta)
        an.cost("declared", (z - 0.1) ** 2)
        other = drawn(theta)
        other.tolist()
        after = torch.ones(2) * 2
        drawn(theta)
    assert trace["declared"].parents == {"z"}
    assert an.provenance_of(after) == {"z_1"}
    assert trace["z_2"].parents == {"z_1"}


def choosing(theta: Tensor) -> Tensor:
    low = torch.tensor(0.7, dtype=torch.float64)
    return low if drawn(theta)[0] > 0 else low * 3


def test_chosen_losses(nothing_recorded: None) -> None:
    """A tensor that was there before the read may be the loss that Python chose: a loss without
    provenance is one of the recording in which a value escaped, and is refused where several may
    have chosen it, or none.
    """
    with pytest.raises(an.errors.LossError, match="carries no provenance: it depends on no draw"):
        an.backward(torch.ones(()))
    assert_exact(choosing, "strict")
    held = []
    for _ in range(2):
        with an.record() as trace:
            choosing(*leaves())
        held.append(trace)
    with pytest.raises(an.errors.LossError, match="several recordings may have chosen it"):
        an.backward(torch.ones(()))


def rollout(theta: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for t in range(3):
        step = drawn(theta[0] - 0.2 * t)
        total = total + (step - 0.45) ** 2 + 0.3 * t
        if drawn(theta[1]).item() > 0:
            break
    return total


def rollout_by_hand(theta: Tensor) -> Tensor:
    """Weigh every score with the rewards from then on; that of an end, with those after it."""
    scores: list[Tensor] = []
    rewards: list[tuple[int, Tensor]] = []
    for t in range(3):
        fn, end = Bernoulli(logits=theta[0] - 0.2 * t), Bernoulli(logits=theta[1])
        step = fn.sample()
        scores.append(fn.log_prob(step))
        rewards.append((2 * t, (step - 0.45) ** 2))
        rewards.append((2 * t - 1, torch.tensor(0.3 * t, dtype=torch.float64)))
        stop = end.sample()
        scores.append(end.log_prob(stop))
        if stop > 0:
            break
    total = torch.zeros((), dtype=torch.float64)
    for index, score in enumerate(scores):
        is_step = index % 2 == 0
        credit = sum(r for at, r in rewards if (at == index if is_step else at >= index))
        total = total + score * credit
    return total


def test_after() -> None:
    """Under `control="after"`, finished terms keep their own sources, which is unbiased if they
    count regardless of the value, each with its weight: a rollout whose end is drawn gets
    reward-to-go.
    """
    assert_exact(rollout, "after")
    ours = moments(rollout, leaves(), by(control="after"))
    theirs = moments_of(*estimates(rollout_by_hand, leaves(), autograd))
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.variance, theirs.variance)
    strict = moments(rollout, leaves(), by(control="strict"))
    assert ours.variance[1] < strict.variance[1] / 6
    with pytest.raises(AssertionError):  # it chooses among finished terms
        assert_exact(branching, "after")


def test_error() -> None:
    """Under `control="error"`, an escape raises `an.errors.EscapeError`, which names the site, the
    line and the ways to mend it.
    """
    (theta,) = leaves()
    with an.record(control="error"):
        z = drawn(theta)
        with pytest.raises(
            an.errors.EscapeError, match=r"test_escapes.py:\d+: .*'z'.*torch.where.*an.untrack"
        ):
            z.tolist()


def logged(theta: Tensor) -> Tensor:
    z, w = drawn(theta[0]), drawn(theta[1])
    losses = (z - 0.3) ** 2 + (w - 0.4) ** 2
    float(losses)
    return losses


def test_ignore() -> None:
    """Under `control="ignore"`, an escape is only listed, which is unbiased if no decision
    follows.
    """
    assert_exact(logged, "ignore")
    with pytest.raises(AssertionError):
        assert_exact(branching, "ignore")
    (theta,) = leaves()
    with an.record(control="ignore") as trace:
        an.backward(logged(theta))
    assert [e.terms_blurred for e in trace.escapes] == [0]


def around_the_block(after: Callable[[Tensor, Tensor], Tensor], control: str) -> Estimate:
    """Return the estimate of what is drawn in a block, or by a wrapped model, and goes on after."""

    def estimate(_: Program, parameters: Parameters) -> Tensor:
        leaves = fresh(parameters)
        with an.record(control=control):
            z, losses = terms(leaves[0])
        an.backward(after(z, losses))
        return gradients(leaves)

    return estimate


def by_call(after: Callable[[Tensor, Tensor], Tensor], control: str) -> Estimate:
    def estimate(_: Program, parameters: Parameters) -> Tensor:
        model = an.wrap(Terms(parameters[0]), control=control)
        an.backward(after(*model()))
        return gradients([model.theta])

    return estimate


def printed_and_scaled(z: Tensor, losses: Tensor) -> Tensor:
    repr(losses)
    assert z.mean().item() < 2
    return losses.mean() * 0.5 / 4


def rewarded(z: Tensor, losses: Tensor) -> Tensor:
    reward = torch.as_tensor(1.3 - z.numpy()[0] * 2.1)
    return losses.sum() + reward


@reading
def test_reads_after_the_block() -> None:
    """The block is the program, and so is the call of a wrapped model: a read after it
    (`loss.item()`, a print, a metric) acts as under `"after"`, whatever the setting. Finished terms
    keep their sources, also divided or scaled; what is computed after the read depends on it, such
    as the reward that a simulator returns for an action.
    """
    for control in ("strict", "after", "error", "ignore"):
        for way in (around_the_block, by_call):
            found = moments(lambda t: rewarded(*terms(t)), leaves(), way(rewarded, control))
            torch.testing.assert_close(
                found.mean, exact_gradient(lambda t: rewarded(*terms(t)), leaves())
            )
            looked = moments(
                lambda t: printed_and_scaled(*terms(t)), leaves(), way(printed_and_scaled, control)
            )
            silent = moments(lambda t: terms(t)[1].mean() * 0.5 / 4, leaves(), library())
            torch.testing.assert_close(looked.mean, silent.mean)
            torch.testing.assert_close(looked.variance, silent.variance)


def one_of_two(z: Tensor, losses: Tensor) -> Tensor:
    return losses[0] if z[1] > 0 else losses[1]


def weighed(z: Tensor, losses: Tensor) -> Tensor:
    return losses[0] * (1 + z[1].item())


def test_choices_belong_in_the_block() -> None:
    """To choose between finished losses by a value, or to weigh one by it, belongs in the block:
    after it, they count regardless.
    """
    for choice in (one_of_two, weighed):
        whole = functools.partial(lambda choice, t: choice(*terms(t)), choice)
        assert_exact(whole, "strict")
        found = moments(whole, leaves(), around_the_block(choice, "strict")).mean
        assert not torch.allclose(found, exact_gradient(whole, leaves()))


def scoped(theta: Tensor) -> Tensor:
    z, w = drawn(theta[0]), drawn(theta[1])
    with an.control_scope():
        branch = z.exp() * (3 if z > 0 else 1)
    return branch + (w - 0.4) ** 2


def unscoped(theta: Tensor) -> Tensor:
    z, w = drawn(theta[0]), drawn(theta[1])
    return z.exp() * (3 if z > 0 else 1) + (w - 0.4) ** 2


def test_blurred_credit() -> None:
    """Where an escape blurs terms that were apart, `an.backward` warns once a line
    (`an.errors.BlurredCreditWarning`): which line read what, how many terms, what it costs, and the
    ways out.
    """
    (theta,) = leaves()
    for is_read in (False, True):
        with an.record():
            losses = (drawn(theta) - 0.3) ** 2
            for _ in range(3 * is_read):
                losses.sum().item()
        if is_read:
            with pytest.warns(
                an.errors.BlurredCreditWarning,
                match=r"test_escapes.py:\d+ .*1 of 1 terms.* what it was.*untrack.*trust=.*cost",
            ) as caught:
                an.backward(losses.mean())
            assert len(caught) == 1
        else:
            an.backward(losses.mean())


def test_scope() -> None:
    """`with an.control_scope():` ends, with the block, the taint of what escaped within it."""
    assert_exact(scoped, "strict")
    variances = [moments(p, leaves(), by(control="strict")).variance for p in (scoped, unscoped)]
    assert variances[0][0] < variances[1][0]


@reading
def test_escapes_are_listed() -> None:
    """`trace.escapes` lists every escape with its line, and how many terms of the loss it
    blurred.
    """
    (theta,) = leaves()
    with an.record() as trace:
        z, w = drawn(theta[0]), drawn(theta[1])
        bool(z > 0)
        loss = (z - 0.3) ** 2 + (w - 0.4) ** 2
    an.backward(loss)
    (found,) = trace.escapes
    assert found.sources == {"z"}
    assert found.filename == __file__
    assert "bool(z > 0)" in Path(__file__).read_text().splitlines()[found.line - 1]
    assert found.terms_blurred == 1
