"""Verification: bias and variance of estimators on a program, exactly where that can be.

>>> import torch
>>> from torch.distributions import Bernoulli
>>> logits = torch.zeros(2, requires_grad=True)
>>> def program():
...     return (Bernoulli(logits=logits).sample() - 0.45).pow(2).sum()
>>> found = verify(program, estimators="score", baseline=None)
>>> found.is_unbiased, found.method, found.outcomes
(True, 'enumeration', 4)
>>> found["logits"].exact
tensor([0.0250, 0.0250])
>>> found["logits"].variance
tensor([0.0159, 0.0159])
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import Estimator, by_element, total_cost
from ancestral.estimators.credit.site_choices import PerSite
from ancestral.estimators.gradient.loss_pytree import Loss
from ancestral.estimators.gradient.subtraction import Baselines
from ancestral.estimators.rerun.estimate import Chosen, Plan, estimated
from ancestral.estimators.rerun.moments import derivatives, moments_of, truth_of
from ancestral.estimators.rerun.outcomes import (
    MOST,
    NODES,
    NotEnumerableError,
    TooManyOutcomesError,
)
from ancestral.estimators.rerun.program_leaves import Parameters, parameters_of
from ancestral.estimators.rerun.sampling import Sampling, couplings
from ancestral.estimators.rerun.streams import Streams
from ancestral.trace.context.argument_checks import check_function, short
from ancestral.trace.context.errors import listed
from ancestral.trace.display.text_table import Table, Tabular
from ancestral.trace.recording.record import current

DRAWS = 1000
_LEVEL, _POWER = 1e-3, 0.95


@dataclass(frozen=True, eq=False)
class Verified:
    """What is known of the derivatives by one parameter; of order 2, by it and by all others.

    Attributes:
        exact: the derivative of the expected loss; of a z-test, the mean of the reference.
        mean: that of the estimate.
        variance: of the estimate, element by element.
        error: by how much `mean - exact` may be off although there is no bias.
        detectable: the bias that would be noticed with probability 0.95.
    """

    exact: Tensor
    mean: Tensor
    variance: Tensor
    error: Tensor
    detectable: Tensor

    @property
    def bias(self) -> Tensor:
        """The mean of the estimate without what it is to be."""
        return self.mean - self.exact

    @property
    def is_unbiased(self) -> bool:
        """Whether no bias was found."""
        return bool((self.bias.abs() <= self.error).all())


class Verification(Mapping[str, Verified], Tabular):
    """What was verified, by the name of the parameter; ``print`` shows a table.

    Attributes:
        method: "enumeration" of all outcomes, or a "z-test" of draws.
        order: of which order the derivatives are.
        outcomes: over how many outcomes, or draws.
        evaluations: how often the program runs for an estimate, on average.
        reason: why the outcomes were not enumerated; empty if they were.
    """

    def __init__(
        self,
        found: Mapping[str, Verified],
        method: Literal["enumeration", "z-test"],
        order: int,
        outcomes: int,
        evaluations: float,
        reason: str = "",
    ) -> None:
        self._found = dict(found)
        self.method, self.order = method, order
        self.outcomes, self.evaluations, self.reason = outcomes, evaluations, reason

    def __getitem__(self, name: str) -> Verified:
        """Return what is known of a parameter."""
        try:
            return self._found[name]
        except KeyError:
            raise KeyError(f"no parameter {name!r}; there are {listed(self._found)}") from None

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the parameters."""
        return iter(self._found)

    def __len__(self) -> int:
        """Return the number of parameters."""
        return len(self._found)

    @property
    def is_unbiased(self) -> bool:
        """Whether no bias was found."""
        return all(each.is_unbiased for each in self.values())

    @property
    def variance(self) -> float:
        """The sum of the variances of all derivatives."""
        return sum(float(each.variance.sum()) for each in self.values())

    def _shown(self, each: Verified) -> Tensor:
        """Return a bias, without what rounding and the last tail make of one that is exact."""
        if self.method != "enumeration":
            return each.bias
        return each.bias.where(each.bias.abs() > each.detectable, 0.0)

    def table(self) -> Table:
        """Return a row for each parameter: the largest derivative, bias and variance."""
        head = ["parameter", "shape", "exact", "bias", "variance", "detectable", "unbiased"]
        rows = [
            [
                name,
                str(list(each.exact.shape)),
                *(
                    f"{float(x.abs().max()):.6g}"
                    for x in (each.exact, self._shown(each), each.variance, each.detectable)
                ),
                "yes" if each.is_unbiased else "NO",
            ]
            for name, each in self.items()
        ]
        what = f"{self.outcomes} {'outcomes' if self.method == 'enumeration' else 'draws'}"
        title = (
            f"{self.method} of {what}; derivatives of order {self.order}; "
            f"{self.evaluations:.4g} evaluations each"
        )
        above = [title, self.reason] if self.reason else [title]
        return Table(head, rows, right={2, 3, 4, 5}, above=above)

    def __repr__(self) -> str:
        """Return the table."""
        return str(self)


def verify(
    program: Callable[..., Loss | None],
    *args: Any,
    estimators: PerSite[Chosen] = "auto",
    baseline: Baselines = "auto",
    credit: PerSite[Estimator] = by_element,
    sampling: PerSite[Sampling] = None,
    order: int = 1,
    parameters: Parameters = None,
    outcomes: int = MOST,
    nodes: int = NODES,
    draws: int = DRAWS,
    tolerance: float | None = None,
) -> Verification:
    """Find the exact bias and variance of an estimate of the gradient of a program.

        E[g] = Σ p g,   Var[g] = Σ p (g - E[g])²,   truth = ∇ Σ_z q(z) L(z)

    The sums are over all outcomes of the draws of the program, of the noise of its estimators, and
    of the runs that they ask for, which share no noise. Finite sites take all their values, counts
    all but a tail of probability 1e-13, and continuous ones the nodes of a Gaussian quadrature,
    which is exact for polynomials. The truth is the derivative of the expectation as a sum, and
    shares nothing with the estimators.

    Where there are too many outcomes, or a draw has none that can be enumerated, estimates are
    drawn, and compared with the score function of the whole loss (REINFORCE) by a z-test at level
    0.001 over all elements together; `Verified.detectable` is the bias that it would notice with
    probability 0.95.

    Args:
        program: runs once and returns the loss, or None for the sum of the costs that it declares.
        args: what it is called with.
        estimators: what to verify, as in `an.estimate`.
        baseline: as there; one that learns is as it is now, for every outcome.
        credit: as there.
        sampling: as there.
        order: 1 for the gradient, 2 for the matrix of second derivatives.
        parameters: by which the derivatives are taken, by name or not; by default, all leaves that
            the expected loss is computed from.
        outcomes: how many there may be.
        nodes: of how many nodes a quadrature has.
        draws: how many estimates a z-test takes; 0 to raise the reason for one.
        tolerance: by how much a mean over all outcomes may be off, relative to the largest
            derivative or standard deviation; by default 1e-8 in float64, 1e-3 in float32, and for
            programs with continuous draws what a quadrature of half the nodes differs by besides.

    Raises:
        RuntimeError: within an open recording.
        TypeError: if the program is no function, or returns no loss.
        ValueError: if an argument is none of what is expected.
        EstimatorError: if an estimator cannot treat a site.
        NotAFunctionError: if the loss differs with the same values of all sites.
        DerivativeOrderError: if `order` is 2, and an estimator has a first derivative only.
        TooManyOutcomesError, NotEnumerableError: if they cannot be enumerated, and `draws` is 0.
    """
    check_function("verify", program)
    _check(order, outcomes, nodes, draws)
    if current() is not None:
        raise RuntimeError(
            "an.verify runs a program many times, each in its own recording, and was called within "
            "an open an.record(); call it outside"
        )
    plan, given = Plan(estimators, baseline, credit, sampling), parameters

    def run() -> Loss | None:
        return program(*args)

    try:
        truth = truth_of(run, nodes=nodes, most=outcomes)
        named = parameters_of(program, args, given, truth.expected)
        leaves = list(named.values())
        exact = derivatives(truth.expected, leaves, order)
        moments = moments_of(
            run, plan, leaves, order=order, nodes=nodes, most=outcomes, losses=truth.losses
        )
    except (TooManyOutcomesError, NotEnumerableError) as error:
        if not draws:
            raise
        return _by_draws(program, args, plan, given, order, draws, str(error))
    scale = max(float(exact.abs().max()), float(moments.variance.max()) ** 0.5)
    allowed = _allowed(exact.dtype) if tolerance is None else tolerance
    off = torch.full_like(exact, allowed * scale)
    if not truth.is_exact:
        coarse = truth_of(run, nodes=max(nodes // 2, 1), most=outcomes)
        off = off + (exact - derivatives(coarse.expected, leaves, order)).abs()
    found = _split(named, order, exact, moments.mean, moments.variance, off, off)
    return Verification(found, "enumeration", order, moments.outcomes, moments.evaluations)


def _by_draws(
    program: Callable[..., Loss | None],
    args: tuple[Any, ...],
    plan: Plan,
    given: Parameters,
    order: int,
    draws: int,
    reason: str,
) -> Verification:
    """Compare the means of estimates with those of the score function of the whole loss."""

    def run() -> Loss | None:
        return program(*args)

    reference = Plan("score", None, total_cost)
    first = estimated(run, reference, Streams("common"), check=True)
    named = parameters_of(program, args, given, first.surrogate)
    leaves, evaluations = list(named.values()), 0
    ours, theirs = [], []
    for number in range(draws):
        chance = Streams("common", couplings(plan.sampling).of)
        found = estimated(run, plan, chance, check=number == 0)
        evaluations += found.evaluations
        ours.append(derivatives(found.surrogate, leaves, order))
        other = estimated(run, reference, Streams("common"), check=False)
        theirs.append(derivatives(other.surrogate, leaves, order))
    mean, exact = torch.stack(ours).mean(0), torch.stack(theirs).mean(0)
    variance = torch.stack(ours).var(0)
    error = ((variance + torch.stack(theirs).var(0)) / draws).sqrt()
    level = NormalDist().inv_cdf(1 - _LEVEL / 2 / len(mean))
    detectable = error * (level + NormalDist().inv_cdf(_POWER))
    small = _allowed(mean.dtype) * float(mean.abs().max())
    verified = _split(named, order, exact, mean, variance, error * level + small, detectable)
    return Verification(verified, "z-test", order, draws, evaluations / draws, reason)


def _allowed(dtype: torch.dtype) -> float:
    return 1e-8 if dtype == torch.float64 else 1e-3


def _split(named: Mapping[str, Tensor], order: int, *flat: Tensor) -> dict[str, Verified]:
    """Return the parts of each parameter of flat derivatives by all, [n ** order]."""
    count = sum(leaf.numel() for leaf in named.values())
    rest = (count,) * (order - 1)
    rows = [each.reshape(count, *rest) for each in flat]
    found: dict[str, Verified] = {}
    at = 0
    for name, leaf in named.items():
        parts = (each[at : at + leaf.numel()].reshape((*leaf.shape, *rest)) for each in rows)
        found[name] = Verified(*parts)
        at += leaf.numel()
    return found


def _check(order: int, outcomes: int, nodes: int, draws: int) -> None:
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, not {short(order)}")
    for name, number, least in (
        ("outcomes", outcomes, 1),
        ("nodes", nodes, 1),
        ("draws", draws, 0),
    ):
        is_number = isinstance(number, int) and not isinstance(number, bool)
        if not is_number or number < least or (name == "draws" and number == 1):
            expected = "0, or greater than 1" if name == "draws" else "greater than 0"
            raise ValueError(f"{name} must be an int, {expected}, not {short(number)}")
