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

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ancestral.estimators.credit.credit import Estimator, by_element
from ancestral.estimators.credit.site_choices import PerSite
from ancestral.estimators.gradient.loss_pytree import Loss
from ancestral.estimators.gradient.subtraction import Baselines
from ancestral.estimators.rerun.estimate import Chosen, Plan
from ancestral.estimators.rerun.outcomes import (
    MOST,
    NODES,
    NotEnumerableError,
    TooManyOutcomesError,
)
from ancestral.estimators.rerun.program_leaves import Parameters, parameters_of
from ancestral.estimators.rerun.sampling import Sampling
from ancestral.estimators.verification.answer import Asked, refined
from ancestral.estimators.verification.verification import Verification, split
from ancestral.estimators.verification.z_test import by_draws
from ancestral.trace.context.argument_checks import check_function, short
from ancestral.trace.recording.record import current

DRAWS = 1000
_COARSE = 1e-2  # of the scale: an error of a quadrature by which a z-test is preferred


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
    which is exact for polynomials. What two rules of different nodes disagree about is part of the
    stated error. Where they do not agree to the tolerance, more nodes are taken, then panels of the
    range, which are halved where a rule and one within it differ (`integrated`): at kinks, steps
    and peaks. If that is not enough, `Verification.reason` tells the error that was reached. The
    truth is the derivative of the expectation as a sum, and shares nothing with the estimators.

    Where there are too many outcomes, a draw has none that can be enumerated, or a quadrature errs
    by more than a hundredth of the largest derivative or standard deviation, estimates are drawn,
    and compared with the score function of the whole loss (REINFORCE) by a z-test at level 0.001
    over all elements together; `Verified.detectable` is the bias that it would notice with
    probability 0.95. The test takes the means for normal, which they are not where values are rare
    and large, as of extreme logits and low temperatures: what fails it is "not shown" to be
    unbiased, and never `Verification.is_biased`.

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
        nodes: of how many nodes the first quadrature has; fewer if these are too many outcomes.
        draws: how many estimates a z-test takes; 0 to raise the reason for one.
        tolerance: by how much a mean over all outcomes may be off, relative to the largest
            derivative or standard deviation, and what a quadrature is to reach; by default 1e-8 in
            float64, 1e-3 where a parameter or a cost is not, such as 0.5 times a class.

    Raises:
        RuntimeError: within an open recording.
        TypeError: if the program is no function, or returns no loss.
        ValueError: if an argument is none of what is expected.
        EstimatorError: if an estimator cannot treat a site.
        NotAFunctionError: if a run with the same values of all sites is another: its loss, or the
            first site that differs.
        DerivativeOrderError: if `order` is 2, and an estimator has a first derivative only.
        TooManyOutcomesError, NotEnumerableError: if they cannot be enumerated, and `draws` is 0.
    """
    check_function("verify", program)
    _check(order, outcomes, nodes, draws)
    _check_tolerance(tolerance)
    if current() is not None:
        raise RuntimeError(
            "an.verify runs a program many times, each in its own recording, and was called within "
            "an open an.record(); call it outside"
        )
    plan = Plan(estimators, baseline, credit, sampling)

    def run() -> Loss | None:
        return program(*args)

    def naming(expected: Tensor) -> dict[str, Tensor]:
        return parameters_of(program, args, parameters, expected)

    asked = Asked(run, plan, order, nodes, outcomes, tolerance)
    try:
        answer = refined(asked, naming)
    except (TooManyOutcomesError, NotEnumerableError) as error:
        if not draws:
            raise
        return by_draws(asked, naming, draws, str(error))
    reason = answer.reason(asked)
    if draws and answer.reached > _COARSE * answer.scale:
        return by_draws(asked, naming, draws, reason)
    off = answer.error + answer.allowed * answer.scale
    flat = answer.exact, answer.mean, answer.variance, off, off
    found = split(answer.named, order, *flat, is_proof=True)
    return Verification(found, "enumeration", order, answer.outcomes, answer.evaluations, reason)


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


def _check_tolerance(tolerance: Any) -> None:
    is_number = isinstance(tolerance, (int, float)) and not isinstance(tolerance, bool)
    if tolerance is not None and not (is_number and 0 < tolerance < math.inf):
        raise ValueError(
            f"tolerance must be None, or a finite number greater than 0, not {short(tolerance)}"
        )
