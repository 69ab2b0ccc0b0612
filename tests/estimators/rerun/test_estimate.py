"""Estimates that run a program again: what is replayed, what is drawn anew, what is refused."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from programs.reruns import BITS
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import ancestral as an
from ancestral.errors import (
    DerivativeOrderError,
    EstimatorError,
    NotAFunctionError,
    PatternWarning,
)
from ancestral.estimators import ARMS, RLOO, DisARM, LeaveOneOut, LocalExpectation


def leaf(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def gradient(found: an.estimators.Estimate, theta: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(found.surrogate, [theta], retain_graph=True)
    return grad


def test_the_value_is_the_loss_and_the_surrogate_has_it() -> None:
    theta = leaf(0.3, -0.8)
    found = an.estimate(BITS["bits_in_pairs"].program, theta, estimators=DisARM())
    assert found.value == found.surrogate
    assert not found.value.requires_grad


@pytest.mark.parametrize(
    ("estimators", "expected"),
    [("score", 1), ({"x": LocalExpectation(), "*": "auto"}, 3), ({"y": LocalExpectation()}, 2)],
)
def test_evaluations_are_counted(estimators: object, expected: int) -> None:
    case = BITS["layers"]
    found = an.estimate(case.program, case.parameter, estimators=estimators)  # type: ignore[arg-type]
    assert found.evaluations == expected


def test_one_run_is_that_of_backward() -> None:
    theta = leaf(0.3, -0.8)
    torch.manual_seed(3)
    found = an.estimate(BITS["layers"].program, theta)
    assert found.evaluations == 1
    torch.autograd.grad(gradient_graph(found, theta).sum(), [theta])  # of every order


def gradient_graph(found: an.estimators.Estimate, theta: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(found.surrogate, [theta], create_graph=True)
    return grad


def test_a_second_derivative_is_refused() -> None:
    theta = leaf(0.3, -0.8)
    found = an.estimate(BITS["bits_in_pairs"].program, theta, estimators=DisARM())
    grad = gradient_graph(found, theta)
    with pytest.raises(DerivativeOrderError, match="second derivative"):
        torch.autograd.grad(grad.sum(), [theta])


def runs(noise: str) -> list[dict[str, Tensor]]:
    """Return what each run of a program drew."""
    seen: list[dict[str, Tensor]] = []
    theta = leaf(*[0.0] * 8)

    def program() -> Tensor:
        above = Normal(theta, 1.0).sample()
        z = Bernoulli(logits=above + theta).sample()
        beside = Normal(theta, 1.0).sample()
        below = Normal(theta + z, 1.0).sample()
        mask = torch.rand(8, dtype=torch.float64)
        names = ("above", "z", "beside", "below", "mask")
        values = (above, z, beside, below, mask)
        seen.append({n: an.untrack(v) for n, v in zip(names, values, strict=True)})
        return ((z + below + beside) * mask).sum()  # type: ignore[no-any-return]

    an.estimate(program, estimators={"z": RLOO(2)}, noise=noise, check=False)  # type: ignore[arg-type]
    return seen


@pytest.mark.parametrize("noise", ["common", "independent"])
def test_what_a_site_does_not_reach_stays(noise: str) -> None:
    first, second = runs(noise)
    assert not torch.equal(first["z"], second["z"])
    for name in ("above", "beside", "mask"):
        assert torch.equal(first[name], second[name]), name
    moved = (second["below"] - first["below"]) - (second["z"] - first["z"])
    assert (noise == "common") == bool(moved.abs().max() < 1e-12)


def test_random_numbers_go_on_after_an_estimate() -> None:
    case, draws = BITS["layers"], []
    for _ in range(2):
        torch.manual_seed(5)
        an.estimate(case.program, case.parameter, estimators=DisARM())
        draws.append(torch.rand(4))
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], torch.rand(4))


@pytest.mark.parametrize("noise", ["common", "independent"])
@pytest.mark.parametrize("estimator", [DisARM(), ARMS(3), RLOO(2), LocalExpectation()], ids=repr)
def test_the_mean_of_many_draws_is_the_gradient(estimator: object, noise: str) -> None:
    theta = leaf(0.3, -0.8)

    def program() -> Tensor:
        x = torch.bernoulli(theta.sigmoid().expand(400, 2))
        y = Bernoulli(logits=theta.sum() - x[:, 0] + 0.5 * x[:, 1]).sample()
        return ((x[:, 0] - 0.3) ** 2 + (y - 0.6 * x[:, 1] + 0.1) ** 2).mean()  # type: ignore[no-any-return]

    torch.manual_seed(0)
    found = [
        gradient(
            an.estimate(
                program,
                estimators={"x": estimator, "y": "auto"},  # type: ignore[dict-item]
                noise=noise,  # type: ignore[arg-type]
                check=False,
            ),
            theta,
        )
        for _ in range(12)
    ]
    exact = an.verify(BITS["layers"].program, theta)["theta"].exact
    mean, error = torch.stack(found).mean(0), torch.stack(found).std(0) / 12**0.5
    assert bool(((mean - exact).abs() < 5 * error).all())


def test_the_choice_of_a_site_may_stand_in_its_infer() -> None:
    theta = leaf(0.3, -0.8)

    def program() -> Tensor:
        x = an.sample("x", Bernoulli(logits=theta), infer={"estimator": LocalExpectation()})
        return x.sum() ** 2

    assert an.estimate(program).evaluations == 3


COUNTER: Iterator[int] = itertools.count()


def counting(theta: Tensor) -> Tensor:
    x = Bernoulli(logits=theta).sample()
    y = Bernoulli(logits=theta + x + next(COUNTER)).sample()
    return x * y  # type: ignore[no-any-return]


def counting_in_the_loss(theta: Tensor) -> Tensor:
    return Bernoulli(logits=theta).sample() * next(COUNTER)  # type: ignore[no-any-return]


def counting_sites(theta: Tensor) -> Tensor:
    if next(COUNTER) % 2:
        return an.sample("odd", Bernoulli(logits=theta))
    return an.sample("even", Bernoulli(logits=theta))


def with_a_generator_of_its_own(theta: Tensor) -> Tensor:
    noise = torch.rand((), generator=GENERATOR)
    return Bernoulli(logits=theta + noise).sample() * 2  # type: ignore[no-any-return]


GENERATOR = torch.Generator()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (counting, r"site 'y' \(.*test_estimate.py:\d+\) has another distribution"),
        (counting_in_the_loss, "the loss is"),
        (counting_sites, r"the second run draws site '(odd|even)' .* first draws '(odd|even)'"),
        (with_a_generator_of_its_own, "site 'bernoulli' .*another distribution"),
    ],
)
def test_a_program_that_differs_from_run_to_run_is_refused(program: object, message: str) -> None:
    theta = torch.tensor(4.0, requires_grad=True)
    torch.manual_seed(1)
    with pytest.raises(NotAFunctionError, match=message):
        an.estimate(program, theta, estimators=DisARM())  # type: ignore[arg-type]


def test_wrong_arguments_are_refused() -> None:
    theta = leaf(0.3, -0.8)
    program = BITS["bits_in_pairs"].program
    wrong: list[tuple[dict[str, object], str]] = [
        ({"estimators": "disarm"}, "must be 'auto', 'pathwise', 'score' or one of"),
        ({"estimators": DisARM}, r"make one: DisARM\(\)"),
        ({"estimators": LeaveOneOut()}, "baseline="),
        ({"estimators": {"z": 3}}, "not 3"),
        ({"noise": "shared"}, "'common' or 'independent'"),
    ]
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            an.estimate(program, theta, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        an.estimate(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="returned None"):
        an.estimate(lambda: None)
    with pytest.raises(TypeError, match="a float"):
        an.estimate(lambda: 2.0)  # type: ignore[arg-type,return-value]
    with an.record(), pytest.raises(RuntimeError, match="outside"):
        an.estimate(program, theta)
    with pytest.warns(PatternWarning, match="'w'"):
        an.estimate(program, theta, estimators={"w": DisARM()})


def with_a_hidden_draw(theta: Tensor) -> Tensor:
    with an.handlers.block("w"):
        w = an.sample("w", Bernoulli(logits=theta))
    z = an.sample("z", Bernoulli(logits=theta + w))
    y = an.sample("y", Bernoulli(logits=theta - z))
    return ((z - 0.3 * w) * y).sum()


def test_a_hidden_draw_is_left_to_the_first_run() -> None:
    theta = leaf(0.3)
    found = an.estimate(with_a_hidden_draw, theta, estimators={"z": DisARM(), "*": "auto"})
    assert found.evaluations <= 2
    with pytest.raises(EstimatorError, match=r"'w.*is hidden from handlers"):
        an.estimate(with_a_hidden_draw, theta, estimators=DisARM())


@pytest.mark.parametrize("handler", [an.handlers.condition, an.handlers.substitute])
def test_a_value_that_a_handler_gives_is_kept(handler: type[an.handlers.condition]) -> None:
    theta = leaf(0.3, -0.8)
    value = torch.tensor([1.0, 0.0], dtype=torch.float64)

    def program() -> Tensor:
        x = an.sample("x", Bernoulli(logits=theta))
        y = an.sample("y", Bernoulli(logits=theta - x))
        return (x * y).sum()

    with handler({"x": value}):
        found = an.verify(program, estimators={"y": LocalExpectation()}, draws=0)
    assert found.is_unbiased
    p = torch.sigmoid(theta.detach() - value)
    torch.testing.assert_close(found["theta"].exact, p * (1 - p) * value)
