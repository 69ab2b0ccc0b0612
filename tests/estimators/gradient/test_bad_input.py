"""What a user can get wrong: every mistake is an error that names it, or is right all the same."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from programs.estimates import higher_derivatives, library
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Normal
from two_coins import drawn, leaves, score

import ancestral as an
from ancestral.estimators.gradient.loss_pytree import LossError
from ancestral.estimators.gradient.loss_terms import NonFiniteCostError
from ancestral.estimators.gradient.missing_scores import OtherRecordingError
from ancestral.trace.nodes.node import NoDensityError
from oracles import Program, exact_gradient, moments

Size = torch.Size | list[int] | tuple[int, ...]
CREDITS = (an.estimators.by_element, an.estimators.by_site, an.estimators.total_cost)
NO_SHAPE = torch.Size()
NO_NUMBERS = ("nan", "inf", "-inf")


@pytest.fixture
def logits() -> Tensor:
    """Logits with a gradient to learn."""
    return leaves()[0]


both_ways = pytest.mark.parametrize("ask", [an.backward, an.surrogate])


@pytest.fixture
def run(logits: Tensor) -> tuple[an.Trace, Tensor]:
    """Draw the coins, and declare a cost."""
    with an.record() as trace:
        z = drawn(logits)
        loss = an.cost("squared", (z - 0.3) ** 2).sum()
    return trace, loss


NO_LOSS: dict[str, Callable[[an.Trace], object]] = {
    "a float; expected a torch.Tensor: give the tensor itself, before .item()": lambda t: 1.0,
    "None; expected a torch.Tensor": lambda t: None,
    "a str; expected a torch.Tensor: the node of a declared cost is trace['x']": lambda t: "x",
    "a Trace; expected a torch.Tensor: call trace.backward()": lambda t: t,
    "a Node; expected a torch.Tensor: give the loss; .* trace['z'].value": lambda t: t["z"],
    "an Elbo; expected a torch.Tensor: call .surrogate.backward()": lambda t: an.infer.Elbo(
        torch.ones(()), torch.ones(())
    ),
    "a Linear; expected a torch.Tensor: call it": lambda t: torch.nn.Linear(1, 1),
}


@pytest.mark.parametrize("ask", [an.backward, an.surrogate, partial(an.explain, "z")])
@pytest.mark.parametrize("text", NO_LOSS)
def test_a_loss_that_is_no_tensor_is_refused_and_told_what_is_meant(
    ask: Callable[..., object], text: str, run: tuple[an.Trace, Tensor]
) -> None:
    match = ".*".join(re.escape(part) for part in text.split(".*"))
    with pytest.raises(LossError, match=f"is {match}"):
        ask(NO_LOSS[text](run[0]))
    an.backward(run[1])  # the refusal has not used the recording up


def test_sites_and_costs_are_explained_by_their_nodes_too(run: tuple[an.Trace, Tensor]) -> None:
    trace, loss = run
    expected = an.explain("z", loss)
    assert expected.lines
    assert an.explain(trace["z"], loss) == an.explain(trace["z"], trace["squared"]) == expected


@pytest.mark.parametrize("given", ["Z", 3, torch.ones(2), "another run"])
def test_explaining_what_is_no_site_names_the_sites(
    given: object, run: tuple[an.Trace, Tensor], logits: Tensor
) -> None:
    if given == "another run":
        with an.record() as other:
            drawn(logits)
        given = other["z"]
    with pytest.raises(LossError, match="is no site of the recording of the cost; its sites are"):
        an.explain(given, run[1])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given", [3, None, "other", an.estimators.LeaveOneOut(), an.estimators.RunningMean()]
)
def test_an_estimator_that_is_none_is_refused(given: object, run: tuple[an.Trace, Tensor]) -> None:
    text = "a baseline is passed as baseline=" if callable(given) else "must be 'auto', 'pathwise'"
    for ask in (partial(an.backward, run[1]), run[0].backward):
        with pytest.raises(ValueError, match=text):
            ask(estimator=given)


@pytest.mark.parametrize("given", [[], [3], [None], [torch.ones(2)], "drawn"])
def test_inputs_that_take_no_gradient_are_refused(
    given: object, run: tuple[an.Trace, Tensor]
) -> None:
    given = [run[0]["z"].value] if given == "drawn" else given
    with pytest.raises(ValueError, match=r"expected tensors with requires_grad=True"):
        an.backward(run[1], inputs=given)  # type: ignore[arg-type]


def test_inputs_limit_what_is_written_and_may_be_an_iterator_or_one_tensor(logits: Tensor) -> None:
    other = torch.ones((), requires_grad=True)
    for given in (iter([logits]), logits, [logits]):
        logits.grad = None
        with an.record():
            loss = drawn(logits).sum() * other
        an.backward(loss, inputs=given)
        assert logits.grad is not None
        assert other.grad is None


def without_gradients(logits: Tensor) -> Tensor:
    with torch.no_grad():
        return drawn(logits * 1).sum()


def not_finite(bad: float, logits: Tensor) -> Tensor:
    z = drawn(logits)
    return z.exp().sum() + (z.cos() * torch.tensor([1.0, bad], dtype=torch.float64)).sum()


class NoDensity(Distribution):
    """A distribution that can only be drawn from."""

    arg_constraints = {}  # noqa: RUF012 (as torch writes it)

    def __init__(self, p: Tensor) -> None:
        self.p = p
        super().__init__(p.shape, validate_args=False)

    def sample(self, sample_shape: Size = NO_SHAPE) -> Tensor:
        return (torch.rand_like(self.p) < self.p).double()


def without_density(logits: Tensor) -> Tensor:
    hidden = NoDensity(logits.sigmoid()).sample()
    return hidden.sum() + drawn(logits).sum()


NOT_FINITE = r"depending on 'z', has 1 of 2 elements that are NaN or infinite"
# A program, the error that its loss meets, and what that says.
REFUSED: list[tuple[Program, type[Exception], str]] = [
    (lambda x: (drawn(x), x.sum())[1], LossError, "carries no provenance: it depends on no draw"),
    (lambda x: drawn(x) * 2, LossError, r"shape \[2\]; expected a scalar"),
    *((partial(not_finite, float(x)), NonFiniteCostError, NOT_FINITE) for x in NO_NUMBERS),
    (without_density, NoDensityError, r"'hidden' .*: NoDensity has no log_prob, but a cost"),
]


# Of these there is a surrogate, but no gradient.
WITHOUT_GRADIENT: list[tuple[Program, type[Exception], str]] = [
    (without_gradients, LossError, r"requires_grad=True.*or were computed under"),
    (lambda x: drawn(x.detach()).sum(), LossError, "those of .z. .* are constants"),
]


@pytest.mark.parametrize(
    ("ask", "program", "error", "text"),
    [
        *((ask, *row) for row in REFUSED for ask in (an.backward, an.surrogate)),
        *((an.backward, *row) for row in WITHOUT_GRADIENT),
    ],
)
def test_a_loss_that_has_no_estimate_is_refused(
    ask: Callable[..., object],
    program: Program,
    error: type[Exception],
    text: str,
    logits: Tensor,
    nothing_recorded: None,
) -> None:
    with an.record():
        loss = program(logits)
        fine = drawn(logits).sum()
    with pytest.raises(error, match=text):
        ask(loss)
    assert logits.grad is None
    an.backward(fine)  # the refusal has not used the recording up


@both_ways
def test_a_loss_of_tracked_tensors_only_is_refused(
    ask: Callable[..., object], logits: Tensor
) -> None:
    with pytest.raises(LossError, match="on tracked tensors only"):
        ask(an.track(logits, "mine").sum())


@both_ways
@pytest.mark.parametrize("shape", [(), (3,), (2, 1)])
def test_a_gradient_of_another_shape_than_the_loss_is_refused(
    ask: Callable[..., object], logits: Tensor, shape: tuple[int, ...]
) -> None:
    with an.record():
        loss = drawn(logits) * 2
    with pytest.raises(LossError, match=r"gradient has shape .*; the loss has \[2\]"):
        ask(loss, torch.ones(shape))


def test_a_gradient_weighs_the_elements_of_the_loss(logits: Tensor) -> None:
    weight = torch.tensor([[0.5, -2.0], [1.5, 3.0]], dtype=torch.float64)
    found: list[Tensor | None] = []
    for is_summed in (False, True):
        torch.manual_seed(0)
        logits.grad = None
        with an.record():
            z = drawn(logits)
            loss = (z[:, None] - torch.eye(2, dtype=torch.float64)) ** 2 * logits.exp()
            whole = (loss * weight).sum()
        if is_summed:
            an.backward(whole)
        else:
            an.backward(loss, gradient=weight)
        found.append(logits.grad)
    assert found[0] is not None
    assert found[0].abs().min() > 0
    torch.testing.assert_close(found[0], found[1])


def test_a_surrogate_with_a_gradient_is_the_weighted_loss(logits: Tensor) -> None:
    weight = torch.tensor([0.5, -2.0], dtype=torch.float64)
    with an.record():
        loss = drawn(logits) * logits
        scalar = an.surrogate(loss, weight)
    torch.testing.assert_close(scalar.detach(), (an.untrack(loss) * weight).sum().detach())
    (theirs,) = torch.autograd.grad(scalar, logits, retain_graph=True)
    an.backward(loss, weight)
    torch.testing.assert_close(logits.grad, theirs)


@both_ways
def test_a_loss_across_recordings_is_refused_and_names_the_site_of_the_other(
    ask: Callable[..., object], logits: Tensor
) -> None:
    with an.record():
        kept = Bernoulli(logits=logits).sample()
    with an.record():
        other = Bernoulli(logits=logits).sample()
        loss = (kept * other).sum()
    text = r"site 'kept' \(.*test_bad_input\.py:\d+\) .* another recording"
    with pytest.raises(OtherRecordingError, match=text):
        ask(loss)


def test_a_distribution_without_density_that_no_cost_depends_on_is_no_error(logits: Tensor) -> None:
    with an.record() as trace:
        hidden = NoDensity(logits.sigmoid()).sample()
        z = drawn(logits)
        loss = (z * an.untrack(hidden)).sum()
    an.backward(loss, baseline=None)
    value = trace["z"].value
    torch.testing.assert_close(logits.grad, score(logits, value, value * an.untrack(hidden)))


def test_reading_a_density_within_the_recording_changes_nothing(logits: Tensor) -> None:
    with an.record() as trace:
        z = drawn(logits)
        density = trace["z"].log_prob
        an.backward(z.sum())
    assert list(trace) == ["z"]
    torch.testing.assert_close(density, Bernoulli(logits=logits).log_prob(trace["z"].value))


@pytest.mark.parametrize("estimator", CREDITS)
def test_a_coin_of_a_reparameterized_draw_may_decide(estimator: Any, logits: Tensor) -> None:
    def program(logits: Tensor) -> Tensor:
        noise = Normal(logits[0], 1.0).rsample()
        return noise * 2 if Bernoulli(logits=noise).sample() > 0 else logits[1] - noise

    exact = exact_gradient(program, [logits])
    for estimate in (library(estimator), higher_derivatives(1)):
        torch.testing.assert_close(moments(program, [logits], estimate).mean, exact)


def test_a_plain_backward_that_leaves_out_a_score_warns_and_names_the_site() -> None:
    logits = torch.zeros(3, requires_grad=True)
    with an.record():
        coin = Bernoulli(logits=logits).sample()
        loss = (coin + logits).sum()
    with pytest.warns(UserWarning, match="leaves out the score function of 'coin'") as caught:
        loss.backward(retain_graph=True)
    assert caught[0].filename == __file__
    an.untrack(loss).backward(retain_graph=True)  # meant so: no warning
    an.backward(loss)


def test_a_plain_backward_of_a_pathwise_loss_does_not_warn() -> None:
    loc = torch.zeros(3, requires_grad=True)
    with an.record():
        loss = Normal(loc, 1.0).rsample().sum()
    loss.backward()
    assert loc.grad is not None
