"""Estimates by estimators that run a program more than once, one for each site.

>>> import torch
>>> from torch.distributions import Bernoulli
>>> from ancestral.estimators.multi_run.disarm import DisARM
>>> logits = torch.zeros(3, requires_grad=True)
>>> def program():
...     return (Bernoulli(logits=logits).sample() - 0.45).pow(2).sum()
>>> found = estimate(program, estimators=DisARM())
>>> found.surrogate.backward()
>>> logits.grad
tensor([0.0250, 0.0250, 0.0250])
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from glob import escape
from typing import Any

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import Credit, Estimator, by_element
from ancestral.estimators.credit.site_choices import Choices, PerSite
from ancestral.estimators.gradient.estimator_choice import Choice
from ancestral.estimators.gradient.loss_pytree import Loss
from ancestral.estimators.gradient.subtraction import Baselines
from ancestral.estimators.gradient.surrogate import surrogate, surrogate_of_costs
from ancestral.estimators.pathwise.first_order import first_order
from ancestral.estimators.rerun.replay import (
    First,
    NotAFunctionError,
    Program,
    credit_of,
    ended,
    is_close,
)
from ancestral.estimators.rerun.run_rloo import RunRLOO, WholeRuns
from ancestral.estimators.rerun.sampling import (
    Sampling,
    couplings,
    refuse_shared,
    without_others,
)
from ancestral.estimators.rerun.site_draw import (
    EstimatorError,
    SiteDraw,
    SiteEstimator,
)
from ancestral.estimators.rerun.streams import Chance, Noise, Streams
from ancestral.trace.context.argument_checks import check_function, short
from ancestral.trace.nodes.node import Node
from ancestral.trace.recording.record import current

Chosen = Choice | SiteEstimator | RunRLOO
"""How a site gets its gradient: in one run, by an estimator that runs the program again, or, of all
sites, in several runs."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """What was estimated.

    Attributes:
        value: the loss of the first run, [], a constant; the mean of the runs if they are compared.
        surrogate: a scalar of the same value, whose derivative is the estimate.
        evaluations: how often the program was run for it, once for each value where several are
            run at once; runs that check others are not counted.
        second_moment: what an estimator that learns, such as `RELAX`, wants to be small: the sum of
            the squares of what it estimates, a function of its parameters; None if none learns.
    """

    value: Tensor
    surrogate: Tensor
    evaluations: int
    second_moment: Tensor | None = None


def estimate(
    program: Callable[..., Loss | None],
    *args: Any,
    estimators: PerSite[Chosen] = "auto",
    baseline: Baselines = "auto",
    credit: PerSite[Estimator] = by_element,
    sampling: PerSite[Sampling] = None,
    noise: Noise = "common",
    vectorized: bool = True,
    check: bool = True,
) -> Estimate:
    """Estimate the gradient of the expected loss of a program, each site by its own estimator.

        ∇ E[L] = E[ ∇L + Σ_i g_i ],   g_i = ∂/∂φ_i E[ L | what is upstream of site i ] ∇φ_i

    The first run gives every site its value, the pathwise part and the scores of those that are
    left to `an.surrogate`. A site with an estimator gets g_i of runs in which it has other values:
    what is upstream of it, and what it does not reach, has the values of the first run, and what
    lies downstream is drawn again. Since each g_i is unbiased given what is upstream, so is the
    sum, whatever the others are. Schulman et al. (2015), "Gradient estimation using stochastic
    computation graphs", theorem 1.

    Args:
        program: runs once and returns the loss, a scalar or scalars in any nesting, or None for the
            sum of the costs that it declares (`an.cost`, `an.factor`, ``obs=``).
        args: what it is called with.
        estimators: how each site gets its gradient: one for all, or one for each pattern of names,
            as in ``{"h1": DisARM(), "*": "auto"}``, or ``infer={"estimator": ...}``. "auto",
            "pathwise" and "score" are those of `an.backward`, in one run; others are in
            `an.estimators`. Sites that no gradient reaches need none.
        baseline: what is subtracted from the downstream costs of sites that are scored in one run.
        credit: which costs count for a site, as in `an.backward`, in all of its runs.
        sampling: how the elements of continuous sites are drawn together: `Antithetic` or
            `QuasiRandom` along a dimension along which they have no costs in common, for one or
            for each pattern of names, or ``infer={"sampling": ...}``; None for independent draws.
        noise: "common": what is downstream is drawn again with the noise that it had; values that
            differ little then give losses that do. "independent": with its own. Both are unbiased.
        vectorized: whether several runs of a site may be made at once, as values along a new first
            dimension, where that is shown to be the same as in turn.
        check: whether to run the program once more with the same draws, and compare.

    Raises:
        RuntimeError: within an open recording.
        TypeError: if the program is no function, or returns no loss.
        ValueError: if an argument is none of what is expected.
        EstimatorError: if an estimator cannot treat a site.
        NotAFunctionError: if the program differs from run to run.
        DerivativeOrderError: if a second derivative is taken of a surrogate with such estimators.
    """
    check_function("estimate", program)
    if noise not in ("common", "independent"):
        raise ValueError(f"noise must be 'common' or 'independent', not {short(noise)}")
    if current() is not None:
        raise RuntimeError(
            "an.estimate runs a program many times, each in its own recording, and was called "
            "within an open an.record(); call it outside"
        )
    plan = Plan(estimators, baseline, credit, sampling)
    chance = Streams(noise, couplings(sampling).of)
    return estimated(lambda: program(*args), plan, chance, check=check, vectorized=vectorized)


def estimated(
    program: Program,
    plan: "Plan",
    chance: Chance,
    *,
    check: bool,
    vectorized: bool = False,
) -> Estimate:
    """Return the estimate of a program whose draws, and those of the estimators, chance decides."""
    if isinstance(plan.estimators, RunRLOO):
        runs = whole_runs(program, plan, chance)
        if check:
            refuse_change(runs.runs[0])
        return Estimate(runs.value, runs.surrogate, len(runs.runs))
    begun = Begun.by(program, plan, chance)
    if check and begun.sites:
        refuse_change(begun.first)
    total = begun.scalar
    for site, estimator in begun.sites:
        site.at_once = vectorized
        part = estimator(site)
        total = total + (part - part.detach()).to(total.dtype)
    if begun.sites and total.requires_grad:
        total = first_order(total, _ADVICE)
    evaluations = 1 + sum(site.evaluations for site, _ in begun.sites)
    squares = [s.second_moment for s, _ in begun.sites if s.second_moment is not None]
    learned = torch.stack(squares).sum() if squares else None
    return Estimate(begun.scalar.detach(), total, evaluations, learned)


@dataclass(frozen=True, eq=False)
class Plan:
    """What is chosen for each site: see `estimate`."""

    estimators: PerSite[Chosen] = "auto"
    baseline: Baselines = "auto"
    credit: PerSite[Estimator] = by_element
    sampling: PerSite[Sampling] = None

    def counting(self, first: First) -> dict[str, Estimator]:
        """Return which costs count for each site of a run."""
        counts = Choices[Estimator]("credit", self.credit, by_element)
        return {name: counts.of(node) for name, node in first.nodes.items()}

    def together(self, first: First) -> dict[str, int]:
        """Return along which dimension elements of sites are drawn together, if they may be."""
        return refuse_shared(first, couplings(self.sampling), self.counting(first))


def whole_runs(program: Program, plan: Plan, chance: Chance) -> WholeRuns:
    """Return the runs of a plan that compares whole runs.

    Raises:
        ValueError: if the plan has a baseline too.
    """
    assert isinstance(plan.estimators, RunRLOO)
    if not (plan.baseline is None or plan.baseline == "auto"):
        raise ValueError(
            "RunRLOO subtracts what the other runs predict, and another baseline was given too; "
            "leave baseline= out"
        )
    found = WholeRuns.of(program, plan.estimators.samples, plan.credit, chance)
    for run in found.runs:
        plan.together(run)
    return found


@dataclass(frozen=True, eq=False)
class Begun:
    """The first run of an estimate, its part of the surrogate, and what is left to others.

    Attributes:
        first: the run.
        scalar: the surrogate of all sites that are left to one run, [].
        sites: the others that a cost depends on, with the estimator of each.
    """

    first: First
    scalar: Tensor
    sites: tuple[tuple[SiteDraw, SiteEstimator], ...]

    @classmethod
    def by(cls, program: Program, plan: Plan, chance: Chance) -> "Begun":
        """Run a program once."""
        choices = Choices[Chosen]("estimators", plan.estimators, "auto", in_infer="estimator")
        for each in choices.values():
            _check(each, "")
        first = First.of(program, chance)
        choices.warn_of_unused(first.nodes)
        chosen = {node.name: _check(choices.of(node), node) for node in first.nodes.values()}
        again = {
            name: choice
            for name, choice in chosen.items()
            if first.nodes[name].is_learned and not isinstance(choice, str)
        }
        counting, together = plan.counting(first), plan.together(first)
        apart = {name: without_others(each, together) for name, each in counting.items()}
        of_one = apart if together else counting
        scalar = _of_one_run(first, chosen, of_one, again, plan.baseline)
        sites = (
            (SiteDraw(first, first.nodes[name], credit_of(first.problem, name, c), c), estimator)
            for name, estimator in again.items()
            for c in (counting[name],)
        )
        reaching = tuple(pair for pair in sites if pair[0].whole is not None)
        _refuse_partly_pathwise(first, chosen, again)
        for site, _ in reaching:
            if site.node.name not in first.met:
                raise EstimatorError(
                    f"{site.where} is hidden from handlers, so that no run can give it another "
                    f"value; take an.handlers.block off it, or choose estimators="
                    f"{{{site.node.name!r}: 'auto'}}"
                )
        for site, _ in reaching:
            _refuse_joint(site)
        return cls(first, scalar, reaching)


def refuse_change(first: First) -> None:
    """Raise unless a run with the same draws is the same.

    Raises:
        NotAFunctionError: if it is not, with the first site that differs.
    """
    with ended(first.again(None, None)) as again:
        ours, theirs = first.problem.loss.detach(), again.problem.loss.detach()
        if not is_close(ours, theirs):
            raise NotAFunctionError(
                "the program is not a function of its arguments and its draws: all sites are the "
                f"same in a second run, and the loss is {float(theirs)}, where it was "
                f"{float(ours)}; keep out of it what changes from call to call (a counter, a "
                "separate generator, data that it fetches), and pass it as an argument"
            )


def _of_one_run(
    first: First,
    chosen: Mapping[str, Any],
    counting: Mapping[str, Estimator],
    again: Mapping[str, Any],
    baseline: Baselines,
) -> Tensor:
    """Return the surrogate of the first run, without the scores of the sites that are run again."""
    of_one: dict[str, Choice] = {}
    credit: dict[str, Estimator] = {}
    for name, choice in chosen.items():
        is_again = name in again
        of_one[escape(name)] = "score" if is_again else _in_one_run(choice)
        credit[escape(name)] = _no_credit if is_again else counting[name]
    if first.loss is None:
        return surrogate_of_costs(
            first.trace, first.left_out, baseline=baseline, estimator=of_one, credit=credit
        )
    return surrogate(first.loss, baseline=baseline, estimator=of_one, credit=credit)


def _in_one_run(choice: Any) -> Choice:
    """Return the choice of a site that is not run again: one that learns nothing needs none."""
    found: Choice = choice if isinstance(choice, str) else "auto"  # type: ignore[assignment]
    return found


def _no_credit(*_: object) -> list[Credit]:
    """Give no site any: its gradient comes from other runs."""
    return []


def _refuse_partly_pathwise(
    first: First, chosen: Mapping[str, Any], again: Mapping[str, Any]
) -> None:
    """Raise if a draw is pathwise for some terms only, and a site that is run again depends on it.

    The credit of that site is one sum, whose terms would go both ways.
    """
    for name in first.problem.partly:
        below = first.downstream(name) & again.keys() - {name}
        if chosen[name] == "auto" and below:
            node, other = first.nodes[name], first.nodes[min(below)]
            raise EstimatorError(
                f"site {node.name!r} ({node.location}) is drawn with rsample, and reaches some "
                "costs through a step without a useful derivative, so that it is scored for "
                f"those; but site {other.name!r} ({other.location}), whose estimator runs the "
                f"program again, depends on it; choose one way for all costs, "
                f"estimators={{{node.name!r}: 'score'}}"
            )


def _refuse_joint(site: SiteDraw) -> None:
    if tuple(site.node.score.shape) != site.shape:
        raise EstimatorError(
            f"{site.where}: {type(site.fn).__name__} does not have a density for each element, "
            f"[{', '.join(map(str, site.shape))}], but one of shape "
            f"{list(site.node.score.shape)}; estimators that run the program again need that; "
            f"choose estimators={{{site.node.name!r}: 'auto'}}"
        )


def _check(choice: Any, node: Node | str) -> Any:
    """Return a choice, if it is one."""
    is_known = choice in ("auto", "pathwise", "score") if isinstance(choice, str) else False
    is_other = getattr(choice, "is_proven", False) or isinstance(choice, type)
    if is_known or (callable(choice) and not is_other):
        return choice
    if isinstance(choice, RunRLOO):
        raise ValueError(
            f"estimators: {choice} compares whole runs, and is for all sites: "
            f"estimators={choice}; for one site there is RLOO({choice.samples})"
        )
    where = f"site {node.name!r} ({node.location}): " if isinstance(node, Node) else ""
    hint = ""
    if getattr(choice, "is_proven", False):
        hint = "; a baseline is passed as baseline="
    elif isinstance(choice, type):
        hint = f"; make one: {choice.__name__}()"
    raise ValueError(
        f"{where}estimators must be 'auto', 'pathwise', 'score' or one of an.estimators, such as "
        f"an.estimators.DisARM(), not {short(choice)}{hint}"
    )


_ADVICE = (
    "a second derivative was taken of the surrogate of an estimate with estimators that run the "
    "program again, which have the first only; use estimators='score', whose surrogate has all"
)
