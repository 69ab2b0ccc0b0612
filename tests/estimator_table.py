"""Every estimator on every kind of program: its exact bias, or the refusal, by `an.verify`.

    python tests/estimator_table.py --only "REBAR"

A cell is "exact" where the mean is the derivative of the expectation to 1e-8 (of the largest
derivative or standard deviation), "to 3e-7" where a quadrature tells no more, "z-test, 0.02" where
draws find no bias and would have found one of that part of the scale with probability 0.95,
"BIASED" where there is one, and "refused" where the estimator names the site that it cannot treat.
An unbiased estimator that is biased, and an error that is no refusal, end the script with 1.
"""

# torch.distributions has no annotations.
# mypy: disable-error-code="no-any-return"

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from programs.reruns import BITS, CLASSES
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Gamma,
    Independent,
    Normal,
    OneHotCategorical,
    Poisson,
)

import ancestral as an
from ancestral.errors import DerivativeOrderError, SiteError
from ancestral.estimators import (
    ARM,
    ARMS,
    REBAR,
    RELAX,
    RLOO,
    Antithetic,
    DisARM,
    DoubleCV,
    ExactSum,
    GumbelRao,
    GumbelSoftmax,
    LocalExpectation,
    MeasureValued,
    MuProp,
    Plan,
    RaoBlackwell,
    ReinMax,
    RunRLOO,
    SmoothedPerturbation,
    StraightThrough,
    StraightThroughGumbel,
    SumAndSample,
    UnorderedSet,
)


class Program(NamedTuple):
    """A program with where it is differentiated, and how exactly it is to be verified."""

    run: Callable[[Tensor], Any]
    at: tuple[float, ...]
    order: int = 1
    nodes: int = 16
    outcomes: int = 3000


def lookup(z: Tensor, theta: Tensor) -> Tensor:
    """Return a cost that no line or parabola goes through, smooth in z."""
    z = z.to(theta.dtype)
    return (1.7 * z).sin() + 0.3 * z * theta.sum()


def classes(count: int, *, are_vectors: bool = False) -> Callable[[Tensor], Tensor]:
    """Return a program of one class of `count`, or of two that have costs in common."""

    def program(theta: Tensor) -> Tensor:
        logits = theta[0] * torch.arange(count) - theta[1] * torch.arange(count) ** 2 / count
        if not are_vectors:
            return lookup(Categorical(logits=logits).sample(), theta)
        z = Categorical(logits=torch.stack([logits, 0.5 * logits])).sample()
        return lookup(z, theta).sum() + z[0] * z[1] * theta[1]

    return program


def one_hot(count: int, *, are_vectors: bool = False) -> Callable[[Tensor], Tensor]:
    """Return the same, one-hot, with a density of the draw in the loss."""

    def program(theta: Tensor) -> Tensor:
        logits = theta[0] * torch.arange(count) - theta[1] * torch.arange(count) ** 2 / count
        logits = torch.stack([logits, 0.5 * logits]) if are_vectors else logits
        z = OneHotCategorical(logits=logits, validate_args=False).sample()
        value = (z * torch.tensor([1.0, 2.0, -1.0, 0.5, 0.2, 1.5], dtype=theta.dtype)[:count]).sum(
            -1
        )
        private = (z * logits.log_softmax(-1)).sum()
        return lookup(value.sum(), theta) + private

    return program


def bits_with_own_costs(theta: Tensor) -> Tensor:
    z = Bernoulli(logits=theta, validate_args=False).sample()
    return (z.sum() - 0.4) ** 2 + (z * theta).sum()


def three_layers(theta: Tensor) -> Tensor:
    x = Bernoulli(logits=theta).sample()
    k = Categorical(logits=torch.stack([theta[0] + x[0], x[1], theta[1]])).sample().to(theta.dtype)
    y = Bernoulli(logits=theta[0] * k - x[0]).sample()
    return (y - 0.3 * k) ** 2 + 0.2 * x.sum() * k


def mixed(theta: Tensor) -> Tensor:
    a = Normal(theta[0], 0.5).rsample()
    k = Categorical(logits=torch.stack([theta[1] + a, -a, theta[0]])).sample().to(theta.dtype)
    z = Bernoulli(logits=theta[1] - 0.5 * k).sample()
    return (z - 0.3 * k + 0.2 * a) ** 2


def counts(theta: Tensor) -> Tensor:
    z = Poisson(theta[0].exp()).sample()
    return (0.3 * z).cos() * theta[1] + 0.05 * z**2


def normal(theta: Tensor) -> Tensor:
    z = Normal(theta[0], theta[1].exp()).sample()
    return z**2 + 0.2 * z**3


def reparameterized(theta: Tensor) -> Tensor:
    z = Normal(theta[0], theta[1].exp()).rsample()
    return z**2 + 0.2 * z**3


def two_normals(theta: Tensor) -> Tensor:
    z = Normal(theta, 0.6).rsample()
    return z[0] ** 2 * z[1] + z[1] ** 2


def three_numbers(theta: Tensor) -> Tensor:
    """Three continuous numbers, none of them reparameterized."""
    z = Normal(theta[0] + 0.1 * torch.arange(3), theta[1].exp()).sample()
    return (z.sum() - 0.2) ** 2 + z.prod()


def four_numbers(theta: Tensor) -> Tensor:
    """Four continuous numbers with a cost that no polynomial is."""
    z = Normal(theta[0] + 0.1 * torch.arange(4), theta[1].exp()).rsample()
    return (1 + z.abs().sum()).log()


def gamma(theta: Tensor) -> Tensor:
    return Gamma(torch.tensor(2.0, dtype=theta.dtype), theta[0].exp()).sample() ** 2


def events(theta: Tensor) -> Tensor:
    z = Independent(OneHotCategorical(logits=torch.stack([theta, -theta])), 1).sample()
    return (z[0, 0] - 0.3 + z[1, 1]) ** 2


PROGRAMS: dict[str, Program] = {
    **{f"classes of {n}": Program(classes(n), (0.3, -0.5)) for n in range(2, 7)},
    "pair of classes of 3": Program(classes(3, are_vectors=True), (0.3, -0.5)),
    **{f"one-hot of {n}": Program(one_hot(n), (0.3, -0.5)) for n in range(2, 7)},
    "pair of one-hot of 3": Program(one_hot(3, are_vectors=True), (0.3, -0.5)),
    "events of one-hot": Program(events, (0.3, -0.5)),
    **{
        name: Program(BITS[name].program, (*BITS[name].at,))
        for name in BITS
        if name not in ("elbo", "mixed")  # densities of no support, and slow
    },
    "bits with own costs": Program(bits_with_own_costs, (0.3, -0.8, 0.5)),
    "classes below": Program(CLASSES["classes_below"].program, (0.3, -0.8, 0.1)),
    "three layers": Program(three_layers, (0.3, -0.8), outcomes=1000),
    "normal, bit and class": Program(mixed, (0.3, -0.8), nodes=6, outcomes=1000),
    "counts": Program(counts, (0.1, -0.4)),
    "normal": Program(normal, (0.3, -0.2)),
    "reparameterized": Program(reparameterized, (0.3, -0.2)),
    "gamma": Program(gamma, (0.3,)),
    "three numbers": Program(three_numbers, (0.3, -0.2), nodes=5, outcomes=400),
    "four numbers": Program(four_numbers, (0.3, -0.2), nodes=3, outcomes=300),
    "normal, order 2": Program(normal, (0.3, -0.2), 2),
    "reparameterized, order 2": Program(reparameterized, (0.3, -0.2), 2),
    "two normals, order 2": Program(two_normals, (0.3, -0.2), 2, nodes=8),
    "normal, bit and class, order 2": Program(mixed, (0.3, -0.8), 2, nodes=6, outcomes=1000),
    "three layers, order 2": Program(three_layers, (0.3, -0.8), 2),
}


def control(y: Tensor) -> Tensor:
    """A control variate of RELAX."""
    return 0.3 * y.tanh().sum() + 0.1 * y.prod()


UNBIASED: dict[str, Any] = {
    **{name: name for name in ("auto", "score", "pathwise")},
    **{
        repr(each).replace("samples=", "").replace("temperature=", ""): each
        for each in (
            *(RLOO(2), RunRLOO(2), DisARM(), ARM(), ARMS(3), LocalExpectation(), ExactSum()),
            *(SmoothedPerturbation(), RaoBlackwell(), SumAndSample(1), SumAndSample(2)),
            *(UnorderedSet(2), UnorderedSet(3), MeasureValued(), MuProp(), DoubleCV(2)),
            *(REBAR(1.0), RELAX(control), RELAX(control, 1.0, 1.0)),
        )
    },
    "antithetic": Plan(sampling=Antithetic()),
}
BIASED: dict[str, Any] = {
    repr(each): each
    for each in (
        *(StraightThrough(), GumbelSoftmax(), StraightThroughGumbel(), GumbelRao(2), ReinMax()),
    )
}


class Cell(NamedTuple):
    """What a cell says, and whether it is as it should be."""

    text: str
    is_right: bool


def verified(program: Program, chosen: Any, *, draws: int, may_be_biased: bool = False) -> Cell:
    """Verify an estimator at all sites of a program."""
    theta = torch.tensor(program.at, dtype=torch.float64, requires_grad=True)
    plan = chosen if isinstance(chosen, Plan) else Plan(chosen)
    torch.manual_seed(0)
    try:
        found = an.verify(
            program.run,
            theta,
            estimators=plan.estimators,
            baseline=plan.baseline,
            sampling=plan.sampling,
            order=program.order,
            nodes=program.nodes,
            outcomes=program.outcomes,
            draws=draws,
        )
    except (SiteError, DerivativeOrderError) as error:
        return Cell("refused", is_a_refusal(error))
    except Exception as error:
        return Cell(f"{type(error).__name__}: {error}", is_right=False)
    (known,) = found.values()
    scale = max(float(known.exact.abs().max()), float(known.variance.max()) ** 0.5, 1e-300)
    if found.is_biased:
        return Cell("BIASED", may_be_biased)
    if found.method == "z-test":
        power = float(known.detectable.max()) / scale
        text = f"z-test, {power:.1g}" if found.is_unbiased else "z-test: not shown"
        return Cell(text, found.is_unbiased)
    off = max(float(known.error.max()) / scale, float(known.bias.abs().max()) / scale)
    return Cell("exact" if off <= 3e-8 else f"to {off:.0e}", is_right=True)


def is_a_refusal(error: Exception) -> bool:
    """Return whether an error names the site, what is expected and found, and what to do."""
    text = str(error)
    if isinstance(error, DerivativeOrderError):
        return "first derivative only" in text
    return "site '" in text and ".py:" in text and ("choose" in text or "use " in text)


def table(
    programs: Mapping[str, Program], estimators: Mapping[str, Any], draws: int, *, is_biased: bool
) -> list[str]:
    """Print the cells of some estimators, and return those that are wrong."""
    wrong = []
    for name, chosen in estimators.items():
        for title, program in programs.items():
            begin = time.perf_counter()
            cell = verified(program, chosen, draws=draws, may_be_biased=is_biased)
            line = f"{name:48} {title:32} {cell.text}"
            print(f"{line:110} {time.perf_counter() - begin:6.1f} s", flush=True)
            if not cell.is_right:
                wrong.append(line)
    return wrong


def main() -> int:
    """Print the table, and return 1 if a cell is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="", help="a part of the names of estimators")
    parser.add_argument("--program", default="", help="a part of the names of programs")
    parser.add_argument("--draws", type=int, default=300, help="of a z-test")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    programs = {name: each for name, each in PROGRAMS.items() if given.program in name}
    wrong = []
    for estimators, is_biased in ((UNBIASED, False), (BIASED, True)):
        chosen = {name: each for name, each in estimators.items() if given.only in name}
        wrong += table(programs, chosen, given.draws, is_biased=is_biased)
    print(f"{len(wrong)} wrong", *wrong, sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
