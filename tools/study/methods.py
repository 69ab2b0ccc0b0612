"""Methods: the ways to estimate a gradient that a study compares, by the names they are given.

>>> [(name, plan.estimators) for name, plan in methods_of("auto, disarm, arms(3)").items()]
[('auto', 'auto'), ('disarm', DisARM()), ('arms(3)', ARMS(samples=3))]
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ancestral.estimators.baselines.learned import Learned
from ancestral.estimators.baselines.optimal import Optimal
from ancestral.estimators.baselines.running_mean import RunningMean
from ancestral.estimators.credit.credit import total_cost
from ancestral.estimators.finite.rao_blackwell import RaoBlackwell
from ancestral.estimators.finite.smoothed_perturbation import SmoothedPerturbation
from ancestral.estimators.multi_run.arm import ARM
from ancestral.estimators.multi_run.arms import ARMS
from ancestral.estimators.multi_run.disarm import DisARM
from ancestral.estimators.multi_run.double_cv import DoubleCV
from ancestral.estimators.multi_run.exact_sum import ExactSum
from ancestral.estimators.multi_run.local_expectation import LocalExpectation
from ancestral.estimators.multi_run.measure_valued import MeasureValued
from ancestral.estimators.multi_run.muprop import MuProp
from ancestral.estimators.multi_run.rebar import REBAR
from ancestral.estimators.multi_run.relax import RELAX
from ancestral.estimators.multi_run.rloo import RLOO
from ancestral.estimators.multi_run.sum_and_sample import SumAndSample
from ancestral.estimators.multi_run.unordered_set import UnorderedSet
from ancestral.estimators.relaxation.gumbel_softmax import (
    GumbelRao,
    GumbelSoftmax,
    StraightThroughGumbel,
)
from ancestral.estimators.relaxation.reinmax import ReinMax
from ancestral.estimators.relaxation.straight_through import StraightThrough
from ancestral.estimators.rerun.estimate import Chosen, Plan
from ancestral.estimators.rerun.run_rloo import RunRLOO
from ancestral.estimators.rerun.sampling import Antithetic, QuasiRandom
from ancestral.tools.study.errors import StudyError
from ancestral.trace.context.argument_checks import short

Methods = str | Iterable[str] | Mapping[str, Any] | None
"""Names, or plans by names of one's choice; None for all that are common and fit."""


def _plan(**choices: Any) -> Callable[[], Plan]:
    return lambda: Plan(**choices)


class SumOfSteps(nn.Module):
    """A control variate that learns: a sum over elements of soft steps, whose heights begin at 0.

    c(y) = Σ_n Σ_k h_k tanh(y_n - s_k)
    """

    def __init__(self, steps: int = 8) -> None:
        """Take the number of steps."""
        super().__init__()
        self.places = nn.Parameter(torch.linspace(-4, 4, steps))
        self.heights = nn.Parameter(torch.zeros(steps))

    def forward(self, y: Tensor) -> Tensor:
        """Return c of the elements that have costs in common, []."""
        return ((y[..., None] - self.places.to(y)).tanh() @ self.heights.to(y)).sum()


def _relax(scale: float = 1.0, temperature: float = 0.5) -> RELAX:
    return RELAX(SumOfSteps(), scale, temperature)


KNOWN: dict[str, Callable[..., Chosen | Plan]] = {
    "auto": Plan,
    "score": _plan(estimators="score", baseline=None),
    "reinforce": _plan(estimators="score", baseline=None, credit=total_cost),
    "pathwise": _plan(estimators="pathwise"),
    "optimal": lambda: Plan(baseline=Optimal()),
    "running-mean": lambda: Plan(baseline=RunningMean()),
    "loo": RLOO,
    "rloo": RLOO,
    "arm": ARM,
    "disarm": DisARM,
    "arms": ARMS,
    "muprop": MuProp,
    "double-cv": DoubleCV,
    "rebar": REBAR,
    "relax": _relax,
    "run-rloo": RunRLOO,
    "rao-blackwell": lambda: RaoBlackwell(),
    "smoothed-perturbation": SmoothedPerturbation,
    "antithetic": lambda dim=0: Plan(sampling=Antithetic(dim)),
    "quasi-random": lambda dim=0: Plan(sampling=QuasiRandom(dim)),
    "measure-valued": MeasureValued,
    "sum-and-sample": SumAndSample,
    "unordered-set": UnorderedSet,
    "local-expectation": LocalExpectation,
    "exact-sum": ExactSum,
    "straight-through": StraightThrough,
    "gumbel-softmax": GumbelSoftmax,
    "straight-through-gumbel": StraightThroughGumbel,
    "gumbel-rao": GumbelRao,
    "reinmax": ReinMax,
}
"""The estimators by name; numbers in parentheses go to it, as in ``arms(8)``."""

COMMON = (
    *("auto", "score", "reinforce", "optimal", "loo", "arm", "disarm", "arms"),
    *("muprop", "double-cv", "rebar", "straight-through", "reinmax"),
)
"""The methods that are compared if none is chosen, as far as they fit: a few evaluations each."""


def methods_of(given: Methods) -> dict[str, Plan]:
    """Return the plans by name.

    Raises:
        StudyError: if a name is unknown, given twice, or nothing is given.
    """
    if isinstance(given, Mapping):
        found = {_checked(name): _as_plan(item) for name, item in given.items()}
    else:
        names = COMMON if given is None else _split(given)
        found = {}
        for name in names:
            key = re.sub(r"\s+", "", name).lower().replace("_", "-")
            if key in found:
                raise StudyError(f"estimators: {key!r} is named twice; name each once")
            found[key] = _as_plan(_named(key))
    if not found:
        raise StudyError(f"estimators: none is named; name some of {', '.join(KNOWN)}")
    return found


def learns(plan: Plan) -> bool:
    """Return whether a baseline or a control variate of a plan learns from estimate to estimate."""
    if any(isinstance(baseline, Learned) for baseline in _each(plan.baseline)):
        return True
    held = (getattr(chosen, "__dict__", {}) for chosen in _each(plan.estimators))
    return any(isinstance(item, nn.Module) for items in held for item in items.values())


def described(plan: Plan) -> str:
    """Return a plan as a text that is the same in another process."""
    credit = getattr(plan.credit, "__name__", plan.credit)
    text = f"estimators={plan.estimators!r}, baseline={plan.baseline!r}, credit={credit}"
    if plan.sampling is not None:
        text += f", sampling={plan.sampling!r}"
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _each(choices: Any) -> Iterable[Any]:
    return choices.values() if isinstance(choices, Mapping) else (choices,)


def _split(given: str | Iterable[str]) -> list[str]:
    if isinstance(given, str):
        # A comma within parentheses parts arguments.
        return [name for name in re.split(r",(?![^(]*\))", given) if name.strip()]
    names = list(given)
    for name in names:
        if not isinstance(name, str):
            raise StudyError(
                f"estimators: expected names, or a dict of estimators by names of your choice, "
                f"not {short(name)} among names"
            )
    return names


def _named(key: str) -> Chosen | Plan:
    """Return what a name stands for."""
    match = re.fullmatch(r"([a-z-]+)(?:\(([^()]*)\))?", key)
    name = match.group(1) if match else key
    make = KNOWN.get(name)
    if match is None or make is None:
        near = difflib.get_close_matches(name, KNOWN, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise StudyError(f"estimators: {key!r} is unknown{hint}; there are {', '.join(KNOWN)}")
    try:
        numbers = [_number(text) for text in (match.group(2) or "").split(",") if text]
        return make(*numbers)
    except (TypeError, ValueError) as error:
        raise StudyError(f"estimators: {key!r}: {error}") from error


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _as_plan(item: Any) -> Plan:
    return item if isinstance(item, Plan) else Plan(estimators=item)


def _checked(name: object) -> str:
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise StudyError(f"estimators: a name must be a text of one line, not {short(name)}")
    return name
