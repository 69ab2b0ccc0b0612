"""Reparameterized sites: the same distribution, by common noise, by densities and by gradients."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-untyped-call, no-any-return"

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Cauchy,
    Distribution,
    GeneralizedPareto,
    Gumbel,
    HalfCauchy,
    Independent,
    Laplace,
    LogisticNormal,
    LogNormal,
    Normal,
    Poisson,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
    SigmoidTransform,
    StickBreakingTransform,
    StudentT,
    TransformedDistribution,
)

import ancestral as an
from ancestral.errors import HandlerError
from ancestral.trace.handlers import (
    GumbelSoftmax,
    LocScale,
    Message,
    ReparamError,
    Strategy,
    Transform,
    block,
    condition,
    do,
    lift,
    mask,
    reparam,
    replay,
    scale,
    seed,
    substitute,
)
from oracles import derivatives, exact_gradient, moments

LOC = torch.tensor([[0.5, -1.0, 2.0], [0.0, 3.0, 1.0]], dtype=torch.float64)
SCALE = torch.tensor([0.5, 2.0, 1.5], dtype=torch.float64)
FAMILIES: dict[str, Callable[[Tensor, Tensor], Distribution]] = {
    "Normal": Normal,
    "StudentT": lambda loc, spread: StudentT(torch.tensor(3.0).double(), loc, spread),
    "Laplace": Laplace,
    "Cauchy": Cauchy,
    "Gumbel": Gumbel,
    "GeneralizedPareto": lambda loc, spread: GeneralizedPareto(loc, spread, spread * 0 + 0.2),
    "Independent": lambda loc, spread: Independent(Normal(loc, spread), 1),
    "Independent of two": lambda loc, spread: Independent(Gumbel(loc, spread), 2),
}
CENTERINGS: list[float | Tensor | None] = [0.0, 0.3, 1.0, torch.tensor(0.6), None]
every_family = pytest.mark.parametrize("family", FAMILIES)
every_centering = pytest.mark.parametrize("centered", CENTERINGS)
TRANSFORMED: dict[str, Callable[[Tensor, Tensor], Distribution]] = {
    "LogNormal": LogNormal,
    "LogisticNormal": LogisticNormal,
    "Gumbel": Gumbel,
    "HalfCauchy": lambda loc, spread: HalfCauchy(loc.exp() * spread),
    "Sigmoid": lambda m, s: TransformedDistribution(Normal(m, s), [SigmoidTransform()]),
    "StickBreaking": lambda m, s: TransformedDistribution(Normal(m, s), StickBreakingTransform()),
    "Independent": lambda loc, spread: Independent(LogNormal(loc, spread), 1),
}
TEMPERATURE = torch.tensor(0.7, dtype=torch.float64)
RELAXED: dict[str, Callable[[Tensor, Tensor], Distribution]] = {
    "coins": lambda loc, spread: RelaxedBernoulli(TEMPERATURE, logits=loc * spread),
    "probs": lambda loc, spread: RelaxedBernoulli(TEMPERATURE, probs=(loc * spread).sigmoid()),
    "categorical": lambda m, s: RelaxedOneHotCategorical(TEMPERATURE, logits=m * s),
    "grouped": lambda m, s: Independent(RelaxedOneHotCategorical(TEMPERATURE, logits=m * s), 1),
}


STRATEGIES: list[tuple[str, Callable[[Tensor, Tensor], Distribution], Strategy]] = [
    *((name, make, LocScale(c)) for name, make in FAMILIES.items() for c in CENTERINGS),
    *((name, make, Transform()) for name, make in TRANSFORMED.items()),
    *((name, make, GumbelSoftmax()) for name, make in RELAXED.items()),
]


def drawn(
    make: Callable[[Tensor, Tensor], Distribution], strategy: Strategy | None
) -> tuple[an.Trace, Tensor, Tensor]:
    """Return the run of a site with fixed noise, its value, and the gradient of a function."""
    parameters = [LOC.clone().requires_grad_(), SCALE.clone().requires_grad_()]
    store, handler = an.ParamStore(), reparam({} if strategy is None else {"x": strategy})
    with store, an.record() as trace, seed(0), handler:
        value = an.untrack(an.sample("x", make(*parameters)))
    weights = torch.linspace(1.0, 2.0, value.numel(), dtype=value.dtype).reshape(value.shape)
    return trace, value, derivatives((weights * value).sum(), parameters)


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    """Compute in double precision, also the constants within the distributions of torch."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# The law


@pytest.mark.parametrize(("family", "make", "strategy"), STRATEGIES)
def test_the_same_noise_gives_the_same_value_and_the_same_gradient(
    family: str, make: Callable[[Tensor, Tensor], Distribution], strategy: Strategy
) -> None:
    _, value, gradient = drawn(make, None)
    trace, found, gradient_found = drawn(make, strategy)
    torch.testing.assert_close(found, value)
    torch.testing.assert_close(gradient_found, gradient)
    assert trace["x"].type == "deterministic"


@every_family
@every_centering
def test_the_density_changes_by_the_scale(family: str, centered: float | Tensor | None) -> None:
    trace, value, _ = drawn(FAMILIES[family], LocScale(centered))
    fn = FAMILIES[family](LOC, SCALE)
    c = 0.5 if centered is None else centered
    volume = ((1 - c) * SCALE.log()).expand(LOC.shape)
    event = len(fn.event_shape)
    volume = volume.sum(tuple(range(-event, 0))) if event else volume
    node = trace["x_decentered"]
    torch.testing.assert_close(node.log_prob, fn.log_prob(value) + volume)
    assert node.log_prob.shape == fn.batch_shape


# The absolute value of a HalfCauchy is taken of both signs: that is no bijection.
@pytest.mark.parametrize("family", [each for each in TRANSFORMED if each != "HalfCauchy"])
def test_the_density_changes_by_the_transforms(family: str) -> None:
    trace, value, _ = drawn(TRANSFORMED[family], Transform())
    fn: Any = TRANSFORMED[family](LOC, SCALE)
    inner = fn.base_dist if isinstance(fn, Independent) else fn
    at, volume = trace["x_base"].value, torch.zeros(())
    for transform in inner.transforms:
        after = transform(at)
        part = transform.log_abs_det_jacobian(at, after)
        while part.dim() > len(fn.batch_shape):
            part = part.sum(-1)
        at, volume = after, volume + part
    torch.testing.assert_close(trace["x_base"].log_prob, fn.log_prob(value) + volume)
    if family == "LogNormal":  # dx / dy = x
        torch.testing.assert_close(volume, value.log())


def test_the_density_of_a_relaxed_coin_changes_by_its_slope() -> None:
    trace, value, _ = drawn(RELAXED["coins"], GumbelSoftmax())
    u = trace["x_uniform"].value.clone().requires_grad_()
    x = torch.sigmoid((LOC * SCALE + u.logit()) / TEMPERATURE)
    torch.testing.assert_close(x, value)
    slope = torch.autograd.grad(x.sum(), u)[0]
    fn = RELAXED["coins"](LOC, SCALE)
    torch.testing.assert_close(trace["x_uniform"].log_prob, fn.log_prob(value) + slope.log())


@every_centering
def test_a_linear_gaussian_model_keeps_its_evidence_and_its_gradient(
    centered: float | Tensor | None,
) -> None:
    data, step = torch.tensor(1.7, dtype=torch.float64), 0.02
    grid = torch.arange(-30.0, 30.0, step, dtype=torch.float64)
    loc, spread = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.5, 1.3))

    def model() -> None:
        x = an.sample("x", Normal(loc.expand(grid.shape), spread))
        an.sample("y", Normal(x, 0.8), obs=data.expand(grid.shape))

    with an.ParamStore(), an.record() as trace, reparam({"x": LocScale(centered)}):
        substitute({"x_decentered": grid})(model)()
    joint = trace["x_decentered"].log_prob + trace["y"].log_prob
    evidence = joint.logsumexp(0) + torch.tensor(step).double().log()
    expected = Normal(loc, (spread**2 + 0.8**2).sqrt()).log_prob(data)
    torch.testing.assert_close(evidence, expected)
    given = [loc, spread]
    torch.testing.assert_close(derivatives(evidence, given), derivatives(expected, given))


def test_the_gradient_behind_a_coin_is_exact() -> None:
    def program(theta: Tensor) -> Tensor:
        z = an.sample("z", Bernoulli(logits=theta))
        with reparam({"x": LocScale()}):
            x = an.sample("x", Normal(z * theta, 1.0 + z))
        return (x - 0.5).square().sum() + z.sum()

    def plain(theta: Tensor) -> Tensor:
        z = Bernoulli(logits=theta).sample()
        x = Normal(z * theta, 1.0 + z).rsample()
        return (x - 0.5).square().sum() + z.sum()

    def estimate(_: object, given: Any) -> Tensor:
        with an.record():
            loss = program(*given)
        return derivatives(an.surrogate(loss), given)

    theta = [torch.tensor([0.3, -0.7], dtype=torch.float64, requires_grad=True)]
    expected = exact_gradient(plain, theta)
    torch.testing.assert_close(exact_gradient(program, theta), expected)
    torch.testing.assert_close(moments(program, theta, estimate).mean, expected)


# What is recorded


def test_the_noise_has_no_parents_and_the_site_has_them() -> None:
    with an.record() as trace, reparam({"x": LocScale()}):
        m = an.sample("m", Normal(0.0, 1.0))
        an.sample("x", StudentT(4.0, m, m.exp()))
    assert list(trace) == ["m", "x_decentered", "x"]
    assert trace["x_decentered"].parents == frozenset()
    assert trace["x"].parents == {"m", "x_decentered"}
    with an.record() as trace, reparam({"x": LocScale(0.5)}):
        m = an.sample("m", Normal(0.0, 1.0))
        an.sample("x", Normal(m, 1.0))
    assert trace["x_decentered"].parents == {"m"}


def test_a_learned_centering_is_a_parameter_of_the_event() -> None:
    store = an.ParamStore()
    with store, an.record() as trace, reparam({"x": LocScale(None)}):
        an.sample("x", Independent(Normal(LOC, SCALE), 1))
    assert store["x_centered"].tolist() == [0.5, 0.5, 0.5]
    trace["x_decentered"].log_prob_sum.backward()
    assert store.unconstrained("x_centered").grad is not None


def test_auxiliary_sites_are_in_the_plates_of_the_site() -> None:
    config: dict[str, Strategy] = {"x": LocScale(), "l": Transform(), "g": GumbelSoftmax()}

    @scale(2.0)
    @mask(torch.tensor([True, False]))
    @reparam(config)
    def run() -> None:
        with an.plate("data", 6, subsample_size=2):
            an.sample("x", Normal(0.0, 1.0), infer={"is": "kept"})
            an.sample("l", LogNormal(0.0, 1.0))
            an.sample("g", RelaxedOneHotCategorical(torch.tensor(1.0), torch.ones(4)))

    with an.record() as trace:
        run()
    for name in ("x_decentered", "l_base", "g_uniform"):
        node = trace[name]
        assert [plate.name for plate in node.cond_indep_stack] == ["data"]
        assert (node.shape[:1], node.scale) == ((2,), 6.0)
        assert node.mask is not None
        assert node.log_prob.shape == (2,)
        assert node.log_prob[1] == 0
    assert trace["x_decentered"].infer == {"is": "kept"}
    assert trace["g"].value.shape == (2, 4)


def test_a_function_chooses_by_the_distribution_and_strategies_follow_each_other() -> None:
    def config(message: Message) -> Strategy | None:
        if isinstance(message.fn, LogNormal):
            return Transform()
        return LocScale() if message.name == "x_base" else None

    with an.record() as trace, seed(0), reparam(config):
        an.sample("x", LogNormal(3.0, 0.5))
    assert list(trace) == ["x_base_decentered", "x_base", "x"]
    with an.record() as plain, seed(0):
        an.sample("x", LogNormal(3.0, 0.5))
    torch.testing.assert_close(trace["x"].value, plain["x"].value)


def test_draws_of_plain_torch_are_reparameterized_too() -> None:
    loc = torch.tensor([3.0, 1.0], requires_grad=True)
    with an.record() as trace, reparam({"x": LocScale()}), seed(0):
        x = Normal(loc, 0.5).rsample()
    assert {name: node.type for name, node in trace.items()} == {
        "x_decentered": "sample",
        "x": "deterministic",
    }
    with seed(0):
        torch.testing.assert_close(an.untrack(x), Normal(loc, 0.5).rsample())


def test_a_function_may_choose_for_all_sites() -> None:
    with an.record() as trace, reparam(lambda message: LocScale()):
        for name in ("x", "y"):
            an.sample(name, Normal(3.0, 0.5))
    assert list(trace) == ["x_decentered", "x", "y_decentered", "y"]


def test_a_strategy_of_the_user_is_a_function() -> None:
    def halved(message: Message) -> Tensor:
        fn: Any = message.fn
        return 2 * an.sample(f"{message.name}_half", Normal(fn.loc / 2, fn.scale / 2))

    with an.record() as trace, reparam(lambda message: halved):
        value = an.sample("x", Normal(3.0, 0.5))
    assert list(trace) == ["x_half", "x"]
    torch.testing.assert_close(an.untrack(value), 2 * trace["x_half"].value)


# Among other handlers


def program() -> Tensor:
    return an.sample("x", Normal(3.0, 0.5))


HALVES = reparam({"x": LocScale()})
VALUE = torch.tensor(2.5, dtype=torch.float64)


def test_a_site_that_is_data_is_left_as_it_is() -> None:
    def observed() -> None:
        an.sample("x", Normal(3.0, 0.5), obs=VALUE)

    for run in (HALVES(observed), HALVES(condition({"x": VALUE})(program))):
        with an.record() as trace:
            run()
        assert list(trace) == ["x"]
        assert trace["x"].is_observed
        torch.testing.assert_close(trace["x"].log_prob, Normal(3.0, 0.5).log_prob(VALUE))


def test_a_value_that_is_given_within_it_stays() -> None:
    for handler, kind in (
        (substitute({"x": VALUE}), "sample"),
        (do({"x": VALUE}), "deterministic"),
    ):
        with an.record() as trace:
            assert HALVES(handler(program))() == VALUE
        assert {name: node.type for name, node in trace.items()} == {"x": kind}


def test_handlers_around_it_see_the_auxiliary_site() -> None:
    with an.record() as trace, condition({"x_decentered": torch.tensor(-1.0)}), HALVES:
        assert program() == 2.5
    assert trace["x_decentered"].is_observed
    with pytest.raises(HandlerError, match=r"'x'.*reparam made so"):
        condition({"x": VALUE})(HALVES(program))()


@pytest.mark.parametrize("is_outside", [False, True])
def test_a_reparameterized_run_is_replayed(is_outside: bool) -> None:
    with an.record() as first, HALVES:
        program()
    run = replay(first)
    again = run(HALVES(program)) if is_outside else HALVES(run(program))
    with an.record() as second:
        again()
    assert torch.equal(second["x"].value, first["x"].value)
    torch.testing.assert_close(second.log_prob_sum(), first.log_prob_sum())


def test_a_site_that_is_hidden_within_it_is_left_as_it_is() -> None:
    with an.record() as trace, reparam(lambda message: LocScale()), block("x"):
        program()
    assert list(trace) == []
    with an.record() as trace, block("x_decentered"), HALVES:
        program()
    assert list(trace) == ["x"]


def test_a_lifted_parameter_is_reparameterized() -> None:
    with an.record() as trace, HALVES, lift({"x": Normal(3.0, 0.5)}), seed(0):
        values = [an.param("x", torch.zeros(2)) for _ in range(2)]
    assert list(trace) == ["x_decentered", "x"]
    assert torch.equal(*values)
    assert trace["x"].value.shape == (2,)


@pytest.mark.parametrize("is_outside", [False, True])
def test_a_seed_gives_the_same_draw(is_outside: bool) -> None:
    def run() -> Tensor:
        return (seed(0)(HALVES(program)) if is_outside else HALVES(seed(0)(program)))()

    assert torch.equal(run(), run())


def test_an_audit_finds_nothing_lost() -> None:
    with an.record(audit=True) as trace, reparam({"x": LocScale(0.5), "l": Transform()}):
        x = an.sample("x", Normal(torch.zeros(2, requires_grad=True), 1.0))
        an.sample("l", LogNormal(x, 1.0))
    assert trace["l"].parents == {"l_base"}


# Bad input


class Shifted(Normal):
    """Draws what no location and scale explain."""


@pytest.mark.parametrize(
    ("strategy", "fn", "expected"),
    [
        (LocScale(), Poisson(1.0), "one of Cauchy, GeneralizedPareto, Gumbel, Laplace, Normal"),
        (LocScale(), LogNormal(0.0, 1.0), "one of Cauchy"),  # has loc and scale of its logarithm
        (LocScale(), Shifted(0.0, 1.0), "one of Cauchy"),
        (LocScale(), Independent(Poisson(torch.ones(2)), 1), "or an Independent of one"),
        (Transform(), Normal(0.0, 1.0), "a TransformedDistribution"),
        (GumbelSoftmax(), Bernoulli(0.5), "a RelaxedOneHotCategorical, a RelaxedBernoulli"),
    ],
)
def test_a_strategy_says_what_it_can_draw(
    strategy: Strategy, fn: Distribution, expected: str
) -> None:
    with pytest.raises(ReparamError) as caught, reparam({"x": strategy}):
        an.sample("x", fn)
    inner = fn.base_dist if isinstance(fn, Independent) else fn
    kind = type(strategy).__name__
    for part in ("site 'x'", f"{__file__}:", f"{kind} cannot", type(inner).__name__, expected):
        assert part in str(caught.value)


@pytest.mark.parametrize("size", [(5,), (4, 1)])
def test_a_centering_does_not_make_a_site_larger(size: tuple[int, ...]) -> None:
    handler = reparam({"x": LocScale(torch.full(size, 0.5))})
    message = r"'x' \(.*LocScale\(centered=tensor\[.*expected a centered that broadcasts to \[\]"
    with pytest.raises(an.errors.SiteError, match=message):
        handler(lambda: an.sample("x", Normal(0.0, 1.0)))()


@pytest.mark.parametrize(
    ("value", "came"), [(torch.zeros(7), r"one of shape \[7\]"), (3.0, "a float")]
)
def test_a_strategy_makes_a_value_of_its_site(value: Any, came: str) -> None:
    def strategy(message: Message) -> Any:
        return value

    handler = reparam({"x": strategy})
    with pytest.raises(an.errors.SiteError, match=rf"'x' \(.*made {came}; expected .*shape \[2\]"):
        handler(lambda: an.sample("x", Normal(torch.zeros(2), 1.0)))()


def test_a_handler_that_draws_in_one_thread_chooses_in_another() -> None:
    inside, outside = threading.Event(), threading.Event()
    kinds: list[str] = []

    def config(message: Message) -> Strategy:
        return waiting

    def waiting(message: Message) -> Tensor:
        inside.set()
        assert outside.wait(10)
        return torch.zeros(())

    def other() -> None:
        assert inside.wait(10)
        outside.set()  # the strategy is drawing in the other thread
        with an.record() as trace, handler:
            an.sample("x", Normal(0.0, 1.0))
        kinds.append(trace["x"].type)

    handler = reparam(config)
    thread = threading.Thread(target=other)
    thread.start()
    with handler:
        an.sample("x", Normal(0.0, 1.0))
    thread.join()
    assert kinds == ["deterministic"]
