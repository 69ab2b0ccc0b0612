"""Compiled probabilistic programs: statements, plates, and bounds of a model and a guide."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from steps import V, W, X, agree, agreeing, compiled, gradients
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal, constraints

import ancestral as an
from ancestral.estimators.inference.elbo import Elbo

pytestmark = pytest.mark.usefixtures("fresh_compiler")

P = torch.tensor(0.3, dtype=torch.float64)
PLATE = an.plate("outside", 4)
LOSSES: dict[str, Callable[[], Any]] = {}


def loss(function: Callable[[], Any]) -> Callable[[], Any]:
    LOSSES[function.__name__.strip("_")] = function
    return function


@loss
def _statements() -> Any:
    z = an.sample("z", Bernoulli(logits=W * X))
    y = an.sample("y", Normal(z * V, 1.0))
    an.observe("x", Normal(y, 1.0), X)
    d = an.deterministic("d", z * V)
    an.factor("f", d.sum(-1))
    return an.cost("c", (z * X).mean()) + ((y - X) ** 2).mean() + (d * X).mean()


@loss
def _in_a_plate() -> Any:
    with an.plate("n", 4) as index:
        z = an.sample("z", Bernoulli(logits=W[0] * X[:, 0]))
        y = an.sample("y", Normal(z * V[0], 1.0))
    return (z * X[index, 1]).mean() + (y * V[1]).sin().sum()


@loss
def _expanded_by_plates() -> Any:
    columns = an.plate("n", 3)
    with columns, an.plate("m", 4):
        z = an.sample("z", Bernoulli(logits=W))
    with an.plate("k", 2, dim=-3), columns:
        y = an.sample("y", Bernoulli(logits=V[0]))
    return (z * X).mean() + (y * V).sum() + (y.mean(0) * z).sum()


@loss
def _in_a_part_of_a_plate() -> Any:
    with an.plate("n", 4, subsample_size=2):
        z = an.sample("z", Bernoulli(logits=W[0] * an.subsample(X[:, 0])))
        cost = an.cost("c", z * an.subsample(X[:, 1]))
    return cost.mean() + (z * V[1]).sum()


def _in_a_plate_from_outside() -> Any:
    with PLATE:
        z = an.sample("z", Bernoulli(logits=W[0] * an.subsample(X[:, 0])))
    return (z * V[1]).sum()


SEEN = torch.tensor([True, False, True])
MISSING = torch.tensor([1.0, torch.nan, 0.0], dtype=torch.float64)


@loss
def _partly_observed() -> Any:
    z = an.sample("z", Bernoulli(logits=W), obs=MISSING, obs_mask=SEEN)
    rows = torch.tensor([True, False, True, False])
    y = an.sample("y", Independent(Normal(W * X, V.exp()), 1), obs=X, obs_mask=rows)
    return (z * V).sum() + (y * V).sin().mean() + ((y > 0.3) * V).sum()


@loss
def _within_handlers() -> Any:
    with an.handlers.condition({"x": torch.ones(3).double()}), an.handlers.mask(SEEN):
        z = an.sample("z", Bernoulli(logits=W))
        x = an.sample("x", Bernoulli(logits=W * z))
        with an.handlers.scale(0.5):
            y = an.sample("y", Bernoulli(logits=V * z + x))
    return (z * V).sum() + (y * X).mean() + (z * y * x * V).sum()


@loss
def _in_turn() -> Any:
    total: Any = 0.0
    for i in an.plate("steps", 3):
        total = total + an.sample(f"z{i}", Bernoulli(logits=W[i])) * V[i]
    return total * X.sum() + total


@pytest.mark.parametrize("name", LOSSES)
def test_a_program_is_compiled_with_the_gradient_of_a_recording(name: str) -> None:
    step = agreeing(LOSSES[name], [W, V])
    assert step.plan.is_compiled, step.plan


BOUNDS: dict[str, Callable[[], Elbo]] = {}


def bound(function: Callable[[], Elbo]) -> Callable[[], Elbo]:
    BOUNDS[function.__name__.strip("_")] = function
    return function


def _model() -> None:
    g = an.sample("g", Normal(0.0, 1.0))
    with an.plate("n", 4):
        z = an.sample("z", Bernoulli(P))
        an.sample("x", Normal(z * V[1] + g, 1.0), obs=X[:, 0])
        an.factor("f", g * V[2])


def _guide() -> None:
    with an.plate("n", 4):
        an.sample("z", Bernoulli(logits=W[0] * X[:, 0]))
    an.sample("g", Normal(W[1], V[0].exp()))


@bound
def _of_a_plate() -> Elbo:
    return an.infer.elbo(_model, _guide)


@bound
def _of_particles() -> Elbo:
    return an.infer.elbo(_model, _guide, particles=3, vectorized=True, max_plate_nesting=1)


@bound
def _of_a_part_of_the_data() -> Elbo:
    def model() -> None:
        with an.plate("n", 4, subsample_size=2):
            z = an.sample("z", Bernoulli(P))
            an.sample("x", Normal(z * V[1], 1.0), obs=an.subsample(X[:, 0]))

    def guide() -> None:
        with an.plate("n", 4, subsample_size=2):
            an.sample("z", Bernoulli(logits=W[0] * an.subsample(X[:, 0])))

    return an.infer.elbo(model, guide)


@bound
def _of_given_indices() -> Elbo:
    def program(is_guide: bool) -> None:
        with an.plate("n", 4, subsample=torch.tensor([2, 0])):
            rows = an.subsample(X[:, 0])
            z = an.sample("z", Bernoulli(logits=W[0] * rows) if is_guide else Bernoulli(P))
            if not is_guide:
                an.sample("x", Normal(z * V[1], 1.0), obs=rows)

    return an.infer.elbo(program, lambda is_guide: program(True), False)


@bound
def _of_auxiliary_sites() -> Elbo:
    def model() -> None:
        a = an.sample("a", Normal(0.0, 1.0), infer={"is_auxiliary": True})
        z = an.sample("z", Bernoulli(P))
        an.sample("x", Normal(z * V[1] + a, 1.0), obs=X[:, 0])

    def guide() -> None:
        h = an.sample("h", Bernoulli(logits=W[0]), infer={"is_auxiliary": True})
        an.sample("z", Bernoulli(logits=W[1] * h))

    return an.infer.elbo(model, guide)


@bound
def _within_handlers_that_weigh() -> Elbo:
    def model() -> None:
        with an.handlers.scale(0.3):
            z = an.sample("z", Bernoulli(V.sigmoid()))
        with an.handlers.mask(SEEN), an.handlers.scale(factor=2.0):
            an.sample("x", Normal(z * V, 1.0), obs=MISSING)
            an.factor("f", z * V)

    def guide() -> None:
        with an.handlers.scale(0.3):
            an.sample("z", Bernoulli(logits=W))

    return an.infer.elbo(model, guide)


@bound
def _of_rows_within_a_mask() -> Elbo:
    def model() -> None:
        with an.plate("rows", 4):
            z = an.sample("z", Independent(Bernoulli(V.sigmoid().expand(4, 3)), 1))
            with an.handlers.mask(X[:, 0] > -0.5):
                an.sample("x", Independent(Normal(z * V, 1.0), 1), obs=X)

    def guide() -> None:
        with an.plate("rows", 4):
            an.sample("z", Independent(Bernoulli(logits=W * X), 1))

    return an.infer.elbo(model, guide)


@bound
def _of_data_that_are_missing() -> Elbo:
    def model() -> None:
        z = an.sample("z", Bernoulli(V.sigmoid()))
        an.sample("x", Normal(z * V, 1.0), obs=MISSING, obs_mask=SEEN)

    def guide() -> None:
        an.sample("z", Bernoulli(logits=W))
        an.sample("x_unobserved", Normal(W, 1.0))

    return an.infer.elbo(model, guide)


@bound
def _of_data_that_differ() -> Elbo:
    def model(x: Tensor, scale: float = 1.0) -> None:
        z = an.sample("z", Bernoulli(P))
        an.sample("x", Normal(z * V[1], scale), obs=x)

    def guide(x: Tensor, scale: float = 1.0) -> None:
        an.sample("z", Bernoulli(logits=W[0] * x.mean() * scale))

    return an.infer.elbo(model, guide, X[:, 1], scale=2.0)


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("baseline", [None, "auto"])
def test_the_surrogate_of_a_bound_is_compiled(name: str, baseline: Any) -> None:
    function = BOUNDS[name]
    step: Any = an.compile(lambda: function().surrogate, baseline=baseline, backend="eager")
    for seed in (0, 1):
        torch.manual_seed(seed)
        theirs: Any = _scored(name, baseline)
        theirs.surrogate.backward()
        expected = gradients([W, V])
        torch.manual_seed(seed)
        loss, found = compiled(step, [W, V])
        torch.testing.assert_close(loss, -theirs.value.as_subclass(Tensor))
        torch.testing.assert_close(found, expected)
    assert step.plan.is_compiled, step.plan


def _scored(name: str, baseline: Any) -> Elbo:
    """Return a bound by itself, whose surrogate has its scores."""
    ours = an.infer.elbo
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(an.infer, "elbo", lambda *a, **k: ours(*a, baseline=baseline, **k))
        return BOUNDS[name]()


STORE = an.ParamStore()


def _model_of_parameters() -> None:
    with an.plate("n", 3):
        z = an.sample("z", Normal(torch.zeros(3).double(), 1.0))
        b = an.sample("b", Bernoulli(P))
        an.sample("x", Normal(z + b * V, 1.0), obs=X[0])


def _guide_of_parameters() -> None:
    loc = an.param("loc", torch.zeros(3).double())
    scale = an.param("scale", torch.ones(3).double(), constraint=constraints.positive)
    with an.plate("n", 3):
        an.sample("z", Normal(loc, scale))
        an.sample("b", Bernoulli(logits=loc * 2))


def _bound_of_parameters() -> Any:
    return an.infer.elbo(_model_of_parameters, _guide_of_parameters).surrogate


def test_parameters_of_the_store_that_is_open_are_trained() -> None:
    first, second = an.ParamStore(), an.ParamStore()
    step: Any = an.compile(_bound_of_parameters, backend="eager")
    for store in (first, second):
        with store:
            _guide_of_parameters()
    with torch.no_grad():
        second.unconstrained("loc").fill_(0.7)
    for seed, store in enumerate((first, second, first)):
        with store:
            torch.manual_seed(seed)
            theirs = _bound_of_parameters()  # by itself, with its scores
            theirs.backward()
            expected = gradients([*store.parameters(), V])
            torch.manual_seed(seed)
            _, found = compiled(step, [*store.parameters(), V])
        torch.testing.assert_close(found, expected)
        assert all(each.abs().sum() > 0 for each in found)
    assert step.plan.is_compiled, step.plan


def test_a_bound_within_a_recording_of_its_step_has_its_scores_once() -> None:
    step: Any = an.compile(lambda: an.infer.elbo(_model, _guide).surrogate, backend="eager")
    torch.manual_seed(0)
    an.infer.elbo(_model, _guide).surrogate.backward()
    expected = gradients([W, V])
    torch.manual_seed(0)
    with an.record():
        value = step()
    an.backward(value)
    torch.testing.assert_close(gradients([W, V]), expected)


def test_what_a_bound_is_given_belongs_to_the_step() -> None:
    step: Any = an.compile(
        lambda: an.infer.elbo(_model, _guide, baseline=None).surrogate, backend="eager"
    )
    with pytest.raises(TypeError, match=r"give baseline=, estimator= and credit= to an\.compile"):
        step()
    for options in ({}, {"vectorized": True}):
        step = an.compile(
            lambda o=options: an.infer.elbo(_model, _guide, particles=2, **o).surrogate
        )
        with pytest.raises(ValueError, match="vectorized=True and max_plate_nesting="):
            step()


def _blocked() -> Any:
    with an.handlers.block():
        return (an.sample("z", Bernoulli(logits=W)) * V).sum()


def _with_a_part_in_turn() -> Any:
    total: Any = 0.0
    for i in an.plate("steps", 3, subsample_size=2):
        total = total + an.sample(f"z{i}", Bernoulli(logits=W[i])) * V[i]
    return total


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (_blocked, "cannot follow it"),
        (_with_a_part_in_turn, "turns of a plate that is subsampled"),
        (_in_a_plate_from_outside, "context manager"),
    ],
    ids=["handler", "turns", "plate from outside"],
)
def test_a_statement_that_is_not_compiled_says_so(function: Callable[[], Any], reason: str) -> None:
    step: Any = an.compile(function, backend="eager")
    torch.manual_seed(0)
    with an.record():
        theirs = an.compile(function)()  # within a recording: the loss
    an.backward(theirs)
    expected = gradients([W, V])
    torch.manual_seed(0)
    with pytest.warns(an.errors.NotCompiledWarning, match=reason):
        _, found = compiled(step, [W, V])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "around", [an.plate("around", 2), an.handlers.condition({"z": torch.ones(()).double()})]
)
def test_what_is_open_around_a_step_counts(around: Any) -> None:
    def loss() -> Any:
        z = an.sample("z", Bernoulli(logits=W[0]))
        return ((2 - z) * V.sum()).sum() + W[1]

    step = agreeing(loss, [W, V], seeds=(0,))
    for seed in (0, 1, 2):
        with around:
            agree(step, loss, [W, V], seed=seed)
        agree(step, loss, [W, V], seed=seed)
    assert step.plan.is_compiled, step.plan


def test_a_plate_that_contradicts_what_is_drawn_is_an_error() -> None:
    def loss() -> Any:
        with an.plate("n", 4):
            return (an.sample("z", Bernoulli(logits=W)) * V).sum()

    step: Any = an.compile(loss, backend="eager")
    with pytest.raises(an.errors.PlateError):
        step()
