"""What a baseline may depend on: all that is illegal is refused, all that is legal keeps the mean.

By enumeration, in float64: a baseline that the draw does not reach leaves the mean as it is.
"""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return, no-untyped-call"

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from programs.estimates import by, fresh, gradients
from torch import Tensor, nn
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.errors import BaselineError, BaselineWarning, DependentBaselineError
from ancestral.estimators.credit.credit import Credit
from oracles import Path, derivatives, enumerated, estimates_on, mean_and_truth, moments_of

LOGITS = torch.tensor([[0.3, -0.5], [0.1, 0.7]], dtype=torch.float64, requires_grad=True)
WEIGHTS = torch.tensor([1.0, 2.0], dtype=torch.float64)
INPUTS = torch.tensor([[0.4, -0.2], [1.1, 0.6]], dtype=torch.float64)


@dataclass(frozen=True)
class Run:
    """A site of two rows, one that it reaches, one that it does not, and the loss."""

    trace: an.Trace
    z: Tensor  # [2, 2]
    child: Tensor  # [2]
    other: Tensor  # [1, 1]
    loss: Tensor  # []


def costs(logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    other = Bernoulli(probs=torch.tensor([[0.3]]).double()).sample()
    z = Bernoulli(logits=logits).sample()
    child = Bernoulli(logits=z.sum(1) - 0.3).sample()
    loss = ((z - 0.3) ** 2 * WEIGHTS * (1 + other)).sum() + (child * z[:, 0]).sum()
    return z, child, other, loss


def program(logits: Tensor) -> Tensor:
    return costs(logits)[3]


def recorded(logits: Tensor) -> Run:
    with an.record() as trace:
        z, child, other, loss = costs(logits)
    return Run(trace, z, child, other, loss)


value = nn.Linear(2, 1).double()
stored: dict[str, Any] = {}


def kept(run: Run, key: Callable[[Credit], Any]) -> Callable[[Credit], Any]:
    """Return a baseline of state: what it kept of the very credit."""

    def baseline(credit: Credit) -> Any:
        stored["kept"] = key(credit)
        return stored["kept"]

    return baseline


def read_before(run: Run) -> Callable[[Credit], Any]:
    number = run.loss.item()
    return lambda _: number


def read_as_tensor(run: Run) -> Callable[[Credit], Any]:
    number = torch.tensor(run.loss.item(), dtype=torch.float64)
    return lambda _: number


def read_by_numpy(run: Run) -> Callable[[Credit], Any]:
    array = run.z.numpy().mean()
    return lambda _: torch.as_tensor(array)


ILLEGAL: dict[str, Callable[[Run], Any]] = {
    "the total": lambda run: lambda c: c.total,
    "the mean of the total": lambda run: lambda c: c.total.mean(),
    "the joint cost": lambda run: lambda c: c.joint,
    "a part": lambda run: lambda c: c.parts[0].value,
    "detached": lambda run: lambda c: c.total.detach(),
    "a clone": lambda run: lambda c: c.total.clone().detach() * 0.5,
    "the loss": lambda run: lambda c: run.loss,
    "the loss, detached": lambda run: lambda c: run.loss.detach(),
    "the draw": lambda run: lambda c: run.z,
    "the mean of the draw": lambda run: lambda c: run.z.mean(),
    "a row of the draw": lambda run: lambda c: run.z[:, :1],
    "a child": lambda run: lambda c: run.child.reshape(2, 1),
    "a function of a child": lambda run: lambda c: run.child.mean().exp(),
    "the value in the trace": lambda run: lambda c: run.trace["z"].value.mean(),
    "its density": lambda run: lambda c: run.trace["z"].tracked_log_prob,
    "a number": lambda run: lambda c: run.loss.item(),
    "a number that was read before": read_before,
    "a tensor of one": read_as_tensor,
    "an array": read_by_numpy,
    "a list": lambda run: lambda c: torch.tensor(c.total.tolist(), dtype=torch.float64),
    "memory of numpy": lambda run: lambda c: torch.from_numpy(c.total.detach().numpy()),
    "a branch": lambda run: lambda c: 1.0 if run.loss > 1 else 0.0,
    "state": lambda run: kept(run, lambda c: c.total.mean()),
    "state in numbers": lambda run: kept(run, lambda c: float(c.total.mean())),
    "the mean of the others": lambda run: lambda c: c.of_others(0).mean(),
    "the others, shifted": lambda run: lambda c: c.of_others(0).roll(1, 0),
    "the others, cut and joined": lambda run: (
        lambda c: torch.cat([c.of_others(0)[1:], c.of_others(0)[:1]])
    ),
    "the others, flipped": lambda run: lambda c: c.of_others(0).flip(0),
    "the others, transposed": lambda run: lambda c: c.of_others(0).T,
    "the others along another dimension": lambda run: lambda c: c.of_others(0).sum(0, keepdim=True),
    "the others and the own": lambda run: lambda c: c.of_others(0) + c.total,
    "a network of the draw": lambda run: lambda c: value(run.z),
}
LEGAL: dict[str, Callable[[Run], Any]] = {
    "a number": lambda run: lambda c: 0.5,
    "a whole number": lambda run: lambda c: 2,
    "a tensor": lambda run: lambda c: torch.tensor(0.5),
    "whole numbers": lambda run: lambda c: torch.tensor([[1], [2]]),
    "by row": lambda run: lambda c: torch.tensor([[1.0], [2.0]]),
    "by column": lambda run: lambda c: torch.tensor([[1.0, 2.0]]),
    "by element": lambda run: lambda c: torch.arange(4.0).reshape(2, 2),
    "one of any rank": lambda run: lambda c: torch.ones(1, 1, 1) * 0.3,
    "zeros": lambda run: lambda c: torch.zeros(c.shape),
    "the inputs": lambda run: lambda c: INPUTS,
    "a network of the inputs": lambda run: lambda c: value(INPUTS),
    "a parameter": lambda run: lambda c: value.bias.exp(),
    "a site that it does not reach": lambda run: lambda c: run.other,
    "the mean of such a site": lambda run: lambda c: run.other.mean() * 3,
    "the others": lambda run: lambda c: c.of_others(0),
    "the other columns": lambda run: lambda c: c.of_others(-1),
    "a function of the others": lambda run: lambda c: (c.of_others(0) * 0.5 + INPUTS).exp(),
    "the sum of the others' rows": lambda run: lambda c: c.of_others(0).sum(1, keepdim=True),
    "the others, cut and joined": lambda run: (
        lambda c: torch.cat([c.of_others(0)[:1], c.of_others(0)[1:]])
    ),
    "untracked on the user's word": lambda run: lambda c: an.untrack(run.other).sum(),
    "leave one out": lambda run: an.estimators.LeaveOneOut(),
    "a running mean": lambda run: an.estimators.RunningMean(),
    "nothing": lambda run: None,
}


@pytest.mark.parametrize("by_surrogate", [False, True])
@pytest.mark.parametrize("name", ILLEGAL)
def test_a_baseline_that_the_draw_reaches_is_refused(name: str, by_surrogate: bool) -> None:
    torch.manual_seed(0)
    run = recorded(LOGITS.detach().clone().requires_grad_())
    baseline = ILLEGAL[name](run)
    with pytest.raises(DependentBaselineError, match=r"site 'z' \(.*test_subtraction.py:") as found:
        (an.surrogate if by_surrogate else an.backward)(run.loss, baseline=baseline)
    assert "an.estimators.LeaveOneOut()" in str(found.value)


@functools.cache
def outcomes() -> tuple[list[Path], Tensor]:
    """Return every path of the program, and the exact gradient."""
    return enumerated(program, [LOGITS])


@pytest.mark.parametrize("name", LEGAL)
def test_a_baseline_that_the_draw_does_not_reach_keeps_the_mean(name: str) -> None:
    def backward(_: Any, parameters: Any) -> Tensor:
        leaves = fresh(parameters)
        run = recorded(*leaves)
        an.backward(run.loss, baseline=LEGAL[name](run))
        return gradients(leaves)

    def surrogate(_: Any, parameters: Any) -> Tensor:
        run = recorded(*parameters)
        return derivatives(an.surrogate(run.loss, baseline=LEGAL[name](run)), parameters)

    runs, exact = outcomes()
    is_of_both = name in ("by row", "the others", "leave one out")
    for estimate in (backward, surrogate)[: 1 + is_of_both]:
        found = moments_of(*estimates_on(runs, program, [LOGITS], estimate)).mean
        torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)
    assert value.weight.grad is None
    assert value.bias.grad is None


SHAPES: dict[str, tuple[Any, str]] = {
    "rows of a square": (torch.ones(2), r"shape \[2\].*\[2, 2\].*unsqueeze"),
    "one dimension more": (torch.ones(2, 2, 2), r"shape \[2, 2, 2\].*squeeze"),
    "a size that does not fit": (torch.ones(3, 1), r"shape \[3, 1\]"),
    "truth values": (torch.tensor(True), "of torch.bool"),
    "complex numbers": (torch.tensor(1j), "of torch.complex64"),
    "no number": (torch.tensor(float("nan")), "NaN or infinite"),
    "infinite": (torch.tensor([[1.0], [float("inf")]]), "NaN or infinite"),
    "infinite, of Python": (float("inf"), "NaN or infinite"),
    "nothing": (None, "is None"),
    "a text": ("0.5", "is a str"),
    "an array": (INPUTS.numpy(), "is a ndarray|is an ndarray"),
    "a truth": (True, "is a bool"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_result_that_does_not_fit_is_an_error_that_says_why(name: str) -> None:
    result, text = SHAPES[name]
    run = recorded(LOGITS.detach().clone().requires_grad_())
    with pytest.raises(BaselineError, match=rf"site 'z' \(.*\): its baseline .*{text}"):
        an.backward(run.loss, baseline=lambda _: result)


@pytest.mark.parametrize("result", [torch.ones(2, 1), torch.ones(5, 2), torch.ones(2, 2)])
def test_a_baseline_makes_no_site_larger(result: Tensor) -> None:
    leaf = torch.tensor([0.3, -0.5], requires_grad=True)
    with an.record():
        loss = Bernoulli(logits=leaf).sample().sum()
    with pytest.raises(BaselineError, match=r"expected that of the site, \[2\]"):
        an.backward(loss, baseline=lambda _: result)


def test_a_row_that_fits_in_one_way_only_is_taken() -> None:
    leaf = torch.zeros(4, 3, requires_grad=True)
    for result in (torch.ones(3), torch.ones(1, 3), torch.ones(4, 1)):
        with an.record():
            loss = Bernoulli(logits=leaf).sample().sum()
        an.backward(loss, baseline=lambda _, result=result: result)
    with an.record():
        loss = Bernoulli(logits=leaf).sample().sum()
    with pytest.raises(BaselineError, match="unsqueeze"):
        an.backward(loss, baseline=lambda _: torch.ones(4))


@pytest.mark.parametrize(
    ("baseline", "text"),
    [
        (
            an.estimators.LeaveOneOut,
            r"the class LeaveOneOut; expected an object of it: LeaveOneOut\(\)",
        ),
        (an.estimators.RunningMean, r"the class RunningMean"),
        (0.5, r"not a float; a constant is `lambda credit: 0.5`"),
        (torch.tensor(0.5), "not a Tensor"),
        ("leave-one-out", "not a str"),
        (True, "not a bool"),
    ],
)
def test_what_is_no_function_is_no_baseline(baseline: Any, text: str) -> None:
    run = recorded(LOGITS.detach().clone().requires_grad_())
    for call in (an.backward, an.surrogate):
        with pytest.raises(TypeError, match=text):
            call(run.loss, baseline=baseline)
    with pytest.raises(TypeError, match=text):
        an.infer.elbo(lambda: None, lambda: None, baseline=baseline)


def test_a_running_mean_holds_earlier_recordings_only_whatever_is_asked_of_this_one() -> None:
    """Asked twice of one recording, it may not hold what it took in the first time."""

    def twice(_: Any, parameters: Any) -> Tensor:
        leaves = fresh(parameters)
        run, baseline = recorded(*leaves), an.estimators.RunningMean()
        an.backward(run.loss, baseline=baseline, retain_graph=True)
        leaves[0].grad = None
        an.backward(run.loss, baseline=baseline)
        return gradients(leaves)

    torch.testing.assert_close(*mean_and_truth(program, [LOGITS], twice))


def test_a_running_mean_of_ones_own_is_legal_from_step_to_step() -> None:
    means: dict[str, Tensor] = {}

    def baseline(credit: Credit) -> Tensor:
        before = means.get(credit.name, torch.zeros(()))
        means[credit.name] = 0.9 * before + 0.1 * credit.total.mean().detach()
        return before

    for _ in range(3):
        run = recorded(LOGITS.detach().clone().requires_grad_())
        an.backward(run.loss, baseline=baseline)
    run = recorded(LOGITS.detach().clone().requires_grad_())
    an.backward(run.loss, baseline=baseline, retain_graph=True)
    with pytest.raises(DependentBaselineError):
        an.backward(run.loss, baseline=baseline)


def test_the_credit_of_one_site_is_no_baseline_of_another() -> None:
    """The first site's credit holds costs of the second, though the second's draw is no parent."""
    leaf = torch.tensor([0.3, -0.5], dtype=torch.float64, requires_grad=True)
    seen: list[Tensor] = []

    def baseline(credit: Credit) -> Tensor:
        seen.append(credit.total)
        return seen[0] if len(seen) > 1 else torch.zeros(())

    with an.record():
        a, b = Bernoulli(logits=leaf[0]).sample(), Bernoulli(logits=leaf[1]).sample()
        loss = (a - b - 0.3) ** 2
    with pytest.raises(DependentBaselineError, match="site 'b'"):
        an.backward(loss, baseline=baseline)


class OneNumber(Bernoulli):
    """Coins whose density is that of all of them."""

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the sum, []."""
        return super().log_prob(value).sum()


def test_elements_of_a_density_that_is_one_number_have_no_others() -> None:
    def run(logits: Tensor) -> Tensor:
        return ((OneNumber(logits=logits).sample() - 0.3) ** 2 * WEIGHTS).sum()

    def ask(loss: Tensor) -> None:
        with pytest.warns(BaselineWarning):
            an.backward(loss, baseline=an.estimators.LeaveOneOut())

    given = [LOGITS.detach()[0].clone().requires_grad_()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = mean_and_truth(run, given, by(ask))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda z: (z.sum() - 0.3) ** 2,
        lambda z: z.prod(),
        lambda z: (z - z.mean()).square().sum(),
        lambda z: z.sort().values @ torch.arange(2.0).double(),
    ],
)
def test_leave_one_out_says_where_nothing_is_apart(mixed: Callable[[Tensor], Tensor]) -> None:
    leaf = torch.tensor([0.3, -0.5], dtype=torch.float64, requires_grad=True)
    with an.record():
        z = Bernoulli(logits=leaf).sample()
        loss = mixed(z)
    with pytest.warns(BaselineWarning, match=r"site 'z', of shape \[2\]") as found:
        an.backward(loss, baseline=an.estimators.LeaveOneOut())
    assert [each.filename for each in found] == [__file__]


def test_the_others_along_a_dimension_that_a_site_has_not_are_an_error() -> None:
    run = recorded(LOGITS.detach().clone().requires_grad_())
    with pytest.raises(
        IndexError, match=r"site 'z' .*py:.* has 2 dimensions of elements, \[2, 2\], no 2"
    ):
        an.backward(run.loss, baseline=lambda c: c.of_others(2))
