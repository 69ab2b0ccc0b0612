"""Trial: what is found out before a study begins, and cheaply: whether it can.

The program is run twice with the same draws, its parameters are looked for, and each method makes
one estimate: by its estimator at all sites or, where it does not fit some, at those that it fits.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from glob import escape
from typing import Any

import torch
from torch import Tensor

from ancestral.estimators.gradient.loss_pytree import Loss
from ancestral.estimators.gradient.surrogate import settle
from ancestral.estimators.rerun.estimate import Plan, estimate, refuse_change
from ancestral.estimators.rerun.moments import derivatives, truth_of
from ancestral.estimators.rerun.outcomes import (
    NotEnumerableError,
    Outcomes,
    TooManyOutcomesError,
)
from ancestral.estimators.rerun.program_leaves import Parameters, parameters_of
from ancestral.estimators.rerun.replay import First, NotAFunctionError
from ancestral.estimators.rerun.streams import Streams
from ancestral.tools.study.errors import StudyError
from ancestral.tools.study.seeds import TRIAL, apart, draws, plant
from ancestral.tools.study.subject import Subject
from ancestral.trace.context.errors import SiteError

MOST = 512
"""Over how many outcomes the truth is found exactly: in about a second."""
_LOOKS = 8
"""How many runs are looked at for parameters that not every run reaches."""


@dataclass(frozen=True, eq=False)
class Trial:
    """What was found out.

    Attributes:
        subject: the program with its parameters.
        names: of the parameters.
        exact: the exact gradient, [n], float64; None if it is not to be had.
        outcomes: over how many outcomes; 0 if it is not.
        sites: the sites that can have an estimator.
    """

    subject: Subject
    names: tuple[str, ...]
    exact: Tensor | None
    outcomes: int
    sites: tuple[str, ...]


def trial_of(
    program: Callable[..., Loss | None], args: tuple[Any, ...], given: Parameters
) -> Trial:
    """Try a program.

    Raises:
        NotAFunctionError: if it is no function of its arguments and its draws.
        ValueError: if it has no parameters.
    """

    def run() -> Loss | None:
        return program(*args)

    with apart():
        plant(draws(0, TRIAL, 0, 1)[0])
        first = First.of(run, Streams("common"))
        refuse_change(first)
        sites = tuple(name for name, node in first.nodes.items() if node.is_learned)
        settle(first.trace)
        looks = []
        for seed in draws(0, TRIAL, 1, _LOOKS):
            plant(seed)
            looks.append(estimate(program, *args, check=False).surrogate.sum())
        named = parameters_of(program, args, given, torch.stack(looks).sum())
        leaves = list(named.values())
        subject = Subject(program, args, tuple(leaves))
        exact, outcomes = _exact(run, leaves)
    return Trial(subject, tuple(named), exact, outcomes, sites)


def _exact(run: Callable[[], Loss | None], leaves: list[Tensor]) -> tuple[Tensor | None, int]:
    """Return the exact gradient and the number of outcomes, if there are few and finite ones."""
    chance = Outcomes()
    try:
        settle(First.of(run, chance).trace)
        if (
            chance.numbers
            or math.prod(each for each in chance.choices if isinstance(each, int)) > MOST
        ):
            return None, 0  # without walking through thousands of them to see that
        truth = truth_of(run, most=MOST)
    except (NotEnumerableError, TooManyOutcomesError):
        return None, 0
    if max(truth.sizes):
        return None, 0
    return derivatives(truth.expected, leaves, 1).to("cpu", torch.float64), len(truth.losses)


def fitting(
    trial: Trial, methods: Mapping[str, Plan], *, is_chosen: bool
) -> tuple[dict[str, Plan], dict[str, int], dict[str, str]]:
    """Return the methods as they fit the program, their evaluations, and why others do not.

    Raises:
        StudyError: if one that was chosen does not fit, or none does.
    """
    fit, evaluations, left_out = {}, {}, {}
    for name, plan in methods.items():
        try:
            fit[name], evaluations[name] = _fitted(trial, plan)
        except NotAFunctionError:
            raise
        except Exception as error:  # the program's too, at values that no draw has
            if is_chosen:
                raise StudyError(
                    f"estimators: {name!r} does not fit the program: {brief(error)}"
                ) from error
            left_out[name] = brief(error).partition("; ")[0]  # advice is for whoever asked
    if not fit:
        raise StudyError("estimators: none fits the program: " + "; ".join(left_out.values()))
    return fit, evaluations, left_out


def brief(error: Exception) -> str:
    """Return the first and the last line of an error: between them, torch shows values."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0] if len(lines) == 1 else f"{lines[0]} [...] {lines[-1]}"


def _fitted(trial: Trial, plan: Plan) -> tuple[Plan, int]:
    """Return a plan that fits: as it is, or with its estimator at those sites that it fits.

    Beside it stand the evaluations that it needs.

    Raises:
        SiteError: if it fits none.
    """
    part = "estimators" if plan.sampling is None else "sampling"
    chosen, other = getattr(plan, part), "auto" if plan.sampling is None else None
    try:
        return plan, _estimate(trial, plan)
    except SiteError as error:
        if isinstance(chosen, (str, Mapping)) or isinstance(error, NotAFunctionError):
            raise
        refused = error
    fits: dict[str, Any] = {}
    for name in trial.sites:
        try:
            _estimate(trial, replace(plan, **{part: {escape(name): chosen, "*": other}}))
        except SiteError:
            continue
        fits[escape(name)] = chosen
    if not fits:
        raise refused
    found = replace(plan, **{part: {**fits, "*": other}})
    return found, _estimate(trial, found)


def _estimate(trial: Trial, plan: Plan) -> int:
    with apart():
        plant(draws(0, TRIAL, 2, 1)[0])
        found = trial.subject.estimate(copy.deepcopy(plan), check=True)
        trial.subject.gradient(found.surrogate)
    return found.evaluations
