"""Parameters: what a store keeps, how programs ask for it, and what torch does with a store."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-untyped-call, no-any-return"

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal, constraints
from torch.distributions.constraints import Constraint

import ancestral as an
from ancestral.trace.handlers import block, infer_config, mask, replay, scale, seed, substitute
from ancestral.trace.params.constraints import transform_of
from oracles import derivatives, exact_gradient, moments

DATA = torch.tensor([0.5, -1.0, 2.5, 4.0], dtype=torch.float64)

INITS: dict[str, tuple[Constraint, list[object]]] = {
    "real": (constraints.real, [0.3, -2.0]),
    "positive": (constraints.positive, [0.3, 2.0]),
    "nonnegative": (constraints.nonnegative, [0.3, 2.0]),
    "greater_than": (constraints.greater_than(-1.0), [-0.5, 2.0]),
    "less_than": (constraints.less_than(1.0), [-0.5, 0.5]),
    "unit_interval": (constraints.unit_interval, [0.25, 0.5]),
    "interval": (constraints.interval(-2.0, 3.0), [-1.0, 2.0]),
    "simplex": (constraints.simplex, [[0.2, 0.3, 0.5]]),
    "lower_cholesky": (constraints.lower_cholesky, [[2.0, 0.0], [0.5, 1.0]]),
    "corr_cholesky": (constraints.corr_cholesky, [[1.0, 0.0], [0.6, 0.8]]),
    "positive_definite": (constraints.positive_definite, [[2.0, 0.5], [0.5, 1.0]]),
    "independent": (constraints.independent(constraints.positive, 1), [0.3, 2.0]),
    "real_vector": (constraints.real_vector, [0.3, -2.0]),
    "greater_than_eq": (constraints.greater_than_eq(-1.0), [-0.5, 2.0]),
    "half_open_interval": (constraints.half_open_interval(-2.0, 3.0), [-1.0, 2.0]),
    "positive_semidefinite": (constraints.positive_semidefinite, [[2.0, 0.5], [0.5, 1.0]]),
    "cat": (constraints.cat([constraints.positive, constraints.real], 0, [1, 2]), [0.3, -2.0, 0.0]),
    "stack": (constraints.stack([constraints.unit_interval, constraints.real], 0), [0.3, -2.0]),
}
HELD = constraints.interval(-2.0, 3.0)
BESIDE = constraints.cat([HELD, constraints.real], 0, [1, 1])
STACKED = constraints.stack([constraints.real, HELD], 0)
every_constraint = pytest.mark.parametrize("kind", INITS)


def gaussian() -> None:
    """Observe the data, with a mean and a scale that are learned."""
    mean = an.param("encoder.mean", torch.zeros((), dtype=torch.float64))
    spread = an.param("spread", lambda: torch.ones(()).double(), constraints.positive)
    with an.plate("data", len(DATA)):
        an.sample("x", Normal(mean, spread), obs=DATA)


def line_of(text: str, function: Callable[..., object]) -> str:
    """Return file and line of the first line of a function that has this text."""
    lines, first = inspect.getsourcelines(function)
    return f"{__file__}:{first + next(i for i, line in enumerate(lines) if text in line)}"


# Learning


def test_a_training_loop_of_four_lines_reaches_the_maximum_of_the_likelihood() -> None:
    store = an.ParamStore()
    store(gaussian)()
    optimizer = torch.optim.Adam(store.parameters(), lr=0.05)
    for _ in range(600):
        with store, an.record() as trace:
            gaussian()
        optimizer.zero_grad()
        trace.backward()
        optimizer.step()
    torch.testing.assert_close(store["encoder.mean"].detach(), DATA.mean(), rtol=0, atol=1e-6)
    expected = DATA.std(correction=0)
    torch.testing.assert_close(store["spread"].detach(), expected, rtol=0, atol=1e-6)


def test_the_gradient_of_the_leaf_is_that_of_the_closed_form() -> None:
    store = an.ParamStore()
    with store, an.record() as trace:
        gaussian()
    trace.backward()
    # -log p = sum (x - m)^2 / (2 s^2) + n log s, at m = 0 and s = exp(leaf) = 1
    for name, expected in {
        "encoder.mean": -DATA.sum(),
        "spread": len(DATA) - DATA.square().sum(),
    }.items():
        torch.testing.assert_close(store.unconstrained(name).grad, expected)


@every_constraint
def test_a_parameter_begins_with_its_init_and_is_differentiable_in_its_leaf(kind: str) -> None:
    constraint, init = INITS[kind][0], torch.tensor(INITS[kind][1], dtype=torch.float64)
    store = an.ParamStore()
    with store:
        value = an.param("w", init, constraint)
    torch.testing.assert_close(value.detach(), init)
    leaf = store.unconstrained("w")
    transform = transform_of(constraint)
    torch.testing.assert_close(transform(leaf), value)
    weights = torch.linspace(1.0, 2.0, init.numel(), dtype=init.dtype).reshape(init.shape)
    value.backward(weights)
    _, expected = torch.autograd.functional.vjp(transform, leaf.detach(), weights)
    torch.testing.assert_close(leaf.grad, expected)


CLOSED: dict[str, tuple[Constraint, float, Callable[[float], float]]] = {
    "exp": (constraints.positive, 2.5, lambda value: value),
    "exp about 1": (constraints.greater_than(1.0), 2.5, lambda value: value - 1),
    "minus exp about 1": (constraints.less_than(1.0), -2.5, lambda value: value - 1),
    "sigmoid": (constraints.unit_interval, 0.2, lambda value: value * (1 - value)),
    "wide sigmoid": (constraints.interval(-2.0, 2.0), 1.0, lambda value: (4 - value**2) / 4),
}


@pytest.mark.parametrize("kind", CLOSED)
def test_the_gradient_of_a_constrained_value_is_that_of_its_closed_form(kind: str) -> None:
    constraint, value, derivative = CLOSED[kind]
    store = an.ParamStore()
    with store:
        an.param("w", torch.tensor(value, dtype=torch.float64), constraint).backward()
    grad = store.unconstrained("w").grad
    torch.testing.assert_close(grad, torch.tensor(derivative(value), dtype=torch.float64))


@every_constraint
def test_a_step_of_any_size_keeps_a_parameter_within_its_constraint(kind: str) -> None:
    constraint, init = INITS[kind][0], torch.tensor(INITS[kind][1])
    store = an.ParamStore()
    with store:
        an.param("w", init, constraint)
    with torch.no_grad():
        store.unconstrained("w").sub_(2.0)
    assert bool(constraint.check(store["w"]).all())


def test_the_store_has_its_own_memory() -> None:
    init, store = torch.zeros(2), an.ParamStore()
    with store:
        an.param("w", init)
    init.add_(1)
    assert store["w"].tolist() == [0, 0]


def test_a_parameter_that_is_made_in_inference_mode_can_be_learned() -> None:
    store = an.ParamStore()
    with torch.inference_mode(), store:
        an.param("w", torch.ones(2), constraints.positive)
    with store:
        an.param("w").sum().backward()
    assert store.unconstrained("w").grad is not None


# What a program may ask


def test_an_init_is_called_once() -> None:
    calls: list[int] = []

    def init() -> Tensor:
        calls.append(1)
        return torch.randn(2)

    with an.ParamStore():
        assert an.param("w", init) is an.param("w", init)
    assert len(calls) == 1


def test_a_parameter_of_another_constraint_can_be_asked_for_by_its_name_alone() -> None:
    with an.ParamStore():
        first = an.param("w", torch.tensor(2.0), constraints.positive)
        assert torch.equal(first, an.param("w"))
        assert torch.equal(first, an.param("w", constraint=constraints.positive))


def test_a_parameter_is_a_node_of_the_open_recordings_once() -> None:
    with an.ParamStore(), an.record() as outer, an.record() as inner:
        for _ in range(2):
            value = an.param("w", torch.tensor(2.0), constraints.positive)
    for trace in (outer, inner):
        assert [node.name for node in trace.param_nodes] == ["w"]
        node = trace["w"]
        assert (node.type, node.fn, node.parents) == ("param", None, frozenset())
        torch.testing.assert_close(node.value, value)
        assert node.value.requires_grad
        assert node.location.filename == __file__
    assert an.provenance_of(value) == frozenset()


def test_what_an_init_draws_is_no_part_of_the_run() -> None:
    scale_ = torch.tensor(1.0, requires_grad=True)
    with an.ParamStore() as store, an.record() as trace:
        value = an.param("w", lambda: Normal(0.0, scale_).sample((2,)))
    assert list(trace) == ["w"]
    assert an.provenance_of(value) == frozenset()
    assert store.unconstrained("w").is_leaf


def test_the_innermost_store_keeps_what_is_asked_for() -> None:
    outer, inner = an.ParamStore(), an.ParamStore()
    with outer:
        an.param("a", torch.zeros(1))
        inner.bind(lambda: an.param("b", torch.zeros(1)))()
        an.param("c", torch.zeros(1))
    assert (list(outer), list(inner)) == (["a", "c"], ["b"])


def test_binding_keeps_the_function() -> None:
    def program(x: float) -> float:
        """Do nothing."""
        return x

    bound = an.ParamStore().bind(program)
    assert bound(2.0) == 2.0
    assert bound.__doc__ == "Do nothing."


def test_a_store_is_closed_when_its_block_raises() -> None:
    with pytest.raises(ZeroDivisionError), an.ParamStore():
        raise ZeroDivisionError
    missing = r"parameter 'w' \(.*test_store.py:\d+\): no store is open.*with store: model\(\)"
    with pytest.raises(an.errors.ParamError, match=missing):
        an.param("w", torch.zeros(1))


# Handlers


def test_a_parameter_that_is_hidden_is_kept_nevertheless() -> None:
    store = an.ParamStore()
    with store, an.record() as trace, block():
        an.param("w", torch.zeros(2))
    assert (list(store), list(trace)) == (["w"], [])


@pytest.mark.parametrize("is_outside", [False, True])
def test_a_value_that_is_substituted_takes_the_place_of_a_parameter(is_outside: bool) -> None:
    store, value = an.ParamStore(), torch.tensor([3.0, 4.0])
    handler = substitute({"w": value})

    def program() -> Tensor:
        return an.param("w", torch.ones(2), constraints.positive)

    with an.record() as trace:
        given = handler(store(program))() if is_outside else store(handler(program))()
    assert torch.equal(given, value)
    assert torch.equal(trace["w"].value, value)
    assert list(store) == []


def test_weights_of_samples_leave_parameters_alone() -> None:
    noted = infer_config(lambda message: {"kind": message.kind})
    with an.ParamStore(), an.record() as trace, scale(2.0), mask(False), seed(0), noted:
        an.param("w", torch.ones(2))
        an.sample("z", Normal(0.0, 1.0))
    assert trace["z"].scale == 2.0
    assert trace["w"].scale == 1.0
    assert trace["w"].mask is None
    assert trace["w"].infer == {"kind": "param"}


def test_replay_leaves_parameters_as_they_are() -> None:
    store = an.ParamStore()
    with store, an.record() as first:
        an.param("w", torch.ones(2))
    with torch.no_grad():
        store.unconstrained("w").add_(1)
    with store, an.record() as second, replay(first):
        assert an.param("w", torch.ones(2)).tolist() == [2, 2]
    assert second["w"].type == "param"


def test_a_parameter_within_plates_is_in_none_of_them() -> None:
    with an.ParamStore(), an.record() as trace, an.plate("data", 10, subsample_size=5):
        an.param("w", torch.ones(3))
    assert trace["w"].cond_indep_stack == ()
    assert trace["w"].scale == 1.0


@pytest.mark.parametrize("event_dim", [0, 1, 2])
def test_a_parameter_of_a_subsampled_plate_gives_its_rows_and_learns_them(event_dim: int) -> None:
    store, indices = an.ParamStore(), torch.tensor([4, 1])
    init = torch.arange(5 * 6.0).reshape(5, *[2, 3][:event_dim], -1)[..., 0]
    with store, an.record() as trace, an.plate("data", 5, subsample=indices):
        rows = an.param("w", init, event_dim=event_dim)
        whole = an.param("w", init)
    assert torch.equal(rows.detach(), init[indices])
    assert torch.equal(whole.detach(), init)
    assert trace["w"].value.shape == init.shape
    rows.sum().backward()
    learned = store.unconstrained("w").grad
    assert learned is not None
    assert [bool(row.any()) for row in learned] == [False, True, False, False, True]


def test_a_parameter_that_does_not_fit_a_subsampled_plate_is_refused() -> None:
    fitting = "dimension -{} of the data must have .* size 5"
    with an.ParamStore(), an.record(), an.plate("data", 5, subsample_size=2):
        for size, event_dim in ((5, 0), (4, 1)):
            with pytest.raises(an.errors.PlateError, match=fitting.format(event_dim + 1)):
                an.param(f"w{size}", torch.zeros(size, 3), event_dim=event_dim)
        for wrong in (3, -1):
            with pytest.raises(ValueError, match="event_dim must be one of 0 to 2"):
                an.param("c", torch.zeros(5, 3), event_dim=wrong)


def substituted(theta: Tensor) -> Tensor:
    z = Bernoulli(logits=theta).sample()
    with substitute({"w": z * 2.0}):
        w = an.param("w", torch.zeros(3, dtype=torch.float64))
    return (w - torch.tensor([0.5, 1.0, 3.0])).square().sum()


def estimated(theta: Tensor, **options: object) -> Tensor:
    with an.record():
        return an.surrogate(substituted(theta), **options)  # type: ignore[arg-type]


def test_a_parameter_that_is_a_drawn_value_keeps_its_dependency_element_by_element() -> None:
    theta = [torch.tensor([0.2, -0.4, 1.0], dtype=torch.float64, requires_grad=True)]
    found = moments(substituted, theta, lambda _, given: derivatives(estimated(*given), given))
    torch.testing.assert_close(found.mean, exact_gradient(substituted, theta))

    def whole(_: object, given: object) -> Tensor:
        return derivatives(estimated(*given, credit=an.estimators.total_cost), given)  # type: ignore

    assert (found.variance < moments(substituted, theta, whole).variance).all()


# What a program may not ask


def test_another_shape_or_constraint_names_both_lines() -> None:
    def twice(shape: int, constraint: Constraint | None) -> None:
        an.param("w", torch.ones(2), constraints.positive)  # first
        an.param("w", torch.ones(shape), constraint)  # again

    for shape, constraint, expected in (
        (3, constraints.positive, "its shape is [3]; expected [2]"),
        (2, constraints.simplex, "its constraint is Simplex(); expected GreaterThan(lower"),
        (2, None, "its constraint is Real(); expected GreaterThan(lower_bound=0.0)"),
    ):
        with pytest.raises(an.errors.ParamError) as caught, an.ParamStore():
            twice(shape, constraint)
        for part in ("'w'", line_of("# first", twice), line_of("# again", twice), expected):
            assert part in str(caught.value)


def test_a_constraint_of_other_bounds_is_another_constraint() -> None:
    def asked(constraint: Constraint) -> None:
        an.param("w", torch.full((2,), 0.5), constraint)

    with an.ParamStore():
        asked(constraints.interval(torch.zeros(2), torch.ones(2)))
        asked(constraints.interval(torch.zeros(2), torch.ones(2)))
        with pytest.raises(an.errors.ParamError, match="its constraint is"):
            asked(constraints.interval(torch.zeros(2), torch.full((2,), 2.0)))


@pytest.mark.parametrize(
    ("init", "constraint", "parts"),
    [
        (None, None, ["no init", "give a tensor"]),
        (1.0, None, ["its init is a float; expected a Tensor"]),
        (torch.ones(2, dtype=torch.int64), None, ["torch.int64", "floating dtype"]),
        (torch.tensor([1.0, -2.0]), constraints.positive, ["1 of 2 elements", "-2.0", "Greater"]),
        (torch.tensor([0.5, 0.6]), constraints.simplex, ["1 of 1 events", "Simplex"]),
        (torch.tensor(0.5), constraints.simplex, ["shape []", "1 dimensions"]),
        (torch.tensor(-1.0), constraints.positive, ["1 of 1 elements", "-1.0"]),
        (torch.tensor([0.0]), constraints.nonnegative, ["boundary", "expected a value inside"]),
        (torch.tensor([float("nan")]), None, ["nan", "Real()"]),
        (torch.tensor([1.0]), constraints.boolean, ["no transform", "Boolean()"]),
        (torch.tensor([1.0]), constraints.interval, ["expected an instance of a constraint"]),
        (torch.tensor([0.0]), constraints.unit_interval, ["boundary", "expected a value inside"]),
        (torch.tensor([1.0]), constraints.unit_interval, ["boundary", "expected a value inside"]),
        (torch.tensor(-2.0), constraints.half_open_interval(-2.0, 3.0), ["boundary", "HalfOpen"]),
        (torch.tensor([0.0, 1.0]), constraints.simplex, ["boundary", "Simplex"]),
        (torch.tensor([3.0, 1.0]), BESIDE, ["boundary", "Cat"]),
        (torch.tensor([0.5, 3.0]), STACKED, ["boundary", "Stack"]),
        (torch.tensor([3.0]), constraints.independent(HELD, 1), ["boundary", "Independent"]),
        (torch.ones(2, 2), constraints.positive_semidefinite, ["no unconstrained", "Semidefinite"]),
        (torch.eye(3, 2), constraints.lower_cholesky, ["shape [3, 2]", "LowerCholesky"]),
        (
            torch.ones(2, dtype=torch.complex64),
            constraints.positive,
            ["complex64 of shape [2]", "GreaterThan"],
        ),
        (torch.ones(2), constraints.greater_than(torch.zeros(3)), ["float32 of shape [2]"]),
        (torch.ones(()), constraints.greater_than(torch.zeros(3)), ["shape []", "more: [3]"]),
    ],
)
def test_an_init_that_no_parameter_can_have_is_refused(
    init: object, constraint: Constraint | None, parts: list[str]
) -> None:
    store = an.ParamStore()
    with pytest.raises(an.errors.ParamError) as caught, store:
        an.param("w", init, constraint)  # type: ignore[arg-type]
    for part in ["parameter 'w'", f"{__file__}:", *parts]:
        assert part in str(caught.value)
    assert list(store) == []


def test_an_init_that_depends_on_a_draw_is_refused() -> None:
    with an.ParamStore(), an.record():
        z = an.sample("z", Normal(0.0, 1.0))
        for init in (lambda: z * 2, z):
            with pytest.raises(an.errors.ParamError, match=r"depends on 'z'.*an.untrack"):
                an.param("w", init)
        assert an.param("w", an.untrack(z)).requires_grad


@pytest.mark.parametrize("name", ["", 3, None])
def test_a_name_is_a_text(name: str) -> None:
    with pytest.raises(an.errors.SiteError, match="expected a text"), an.ParamStore():
        an.param(name, torch.zeros(1))


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        (torch.ones(3), ["a value of shape [3]; expected shape [2]"]),
        (torch.tensor([1.0, -1.0]), ["1 of 2 elements", "-1.0", "GreaterThan"]),
        (2.0, ["a float; expected a torch.Tensor"]),
        (torch.full((2,), torch.nan), ["2 of 2 elements", "nan"]),
        (torch.tensor(-4.0), ["1 of 1 elements", "-4.0"]),
    ],
)
def test_a_substituted_value_must_be_one_that_the_parameter_can_have(
    value: Any, parts: list[str]
) -> None:
    init = torch.ones(() if "1 of 1 elements" in parts else 2)
    with pytest.raises(an.errors.ParamError) as caught, substitute({"w": value}):
        an.param("w", init, constraints.positive)
    for part in ["parameter 'w'", f"{__file__}:", *parts]:
        assert part in str(caught.value)


def test_events_of_a_parameter_are_those_of_the_sites_that_it_makes() -> None:
    with an.ParamStore() as store, an.record() as trace:
        scale_ = an.param("scale", torch.ones(2), constraints.positive)
        an.sample("x", Independent(Normal(torch.zeros(2), scale_), 1), obs=torch.ones(2))
    trace.backward()
    # -log p = sum x^2 / (2 s^2) + log s, at s = exp(leaf) = 1
    torch.testing.assert_close(store.unconstrained("scale").grad, torch.zeros(2))
