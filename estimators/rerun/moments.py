"""Exact moments: the mean and the variance of an estimate over all outcomes, and the truth.

The draws of a program are enumerated, and for each outcome of these the noise of each estimator and
of the runs that it asks for. Given the draws of the first run, estimators of different sites are
independent:

        E[g] = E[ g_1 + Σ_i E[g_i | first run] ],
        Var[g] = Var[ g_1 + Σ_i E[g_i | first run] ] + E[ Σ_i Var[g_i | first run] ]

The truth takes no part of them: it is the derivative of Σ q(z) L(z) over the outcomes.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ancestral.estimators.gradient.surrogate import settle
from ancestral.estimators.pathwise.routes import DerivativeOrderError
from ancestral.estimators.rerun.estimate import Begun, Plan, whole_runs
from ancestral.estimators.rerun.evaluation import Evaluation, SlopeOf
from ancestral.estimators.rerun.integration import Integral, integrated
from ancestral.estimators.rerun.outcomes import MOST, NODES, Outcomes, TooManyOutcomesError, walked
from ancestral.estimators.rerun.replay import (
    FirstRun,
    NotAFunctionError,
    Program,
    is_close,
    refuse_kept,
    whole_loss,
)
from ancestral.estimators.rerun.run_rloo import RunRLOO
from ancestral.estimators.rerun.sampling import couplings
from ancestral.estimators.rerun.site_draw import (
    SiteDraw,
    SiteEstimator,
)
from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.nodes.moving_boundary import has_moving_boundary
from ancestral.trace.recording.message import Message
from ancestral.trace.recording.record import record
from ancestral.trace.recording.trace import Trace


@dataclass(frozen=True, eq=False)
class Truth:
    """The expected loss as a function of the parameters, [], and the loss of each outcome.

    `sizes` are how many continuous numbers each has, which are nodes of a quadrature.
    """

    expected: Tensor
    losses: list[Tensor]
    sizes: list[int]


@dataclass(frozen=True, eq=False)
class Moments:
    """Of an estimate of n numbers: mean and variance, [n], and over how many outcomes.

    Attributes:
        evaluations: how often the program runs, on average.
        error: by how much panels may miss the mean, [n]; 0 of a quadrature of given nodes.
        sizes: how many continuous numbers each outcome has, which are nodes of a quadrature.
        integrals: over how much noise, of how many sites and outcomes, the mean is an integral.
    """

    mean: Tensor
    variance: Tensor
    evaluations: float
    outcomes: int
    error: Tensor
    sizes: list[int]
    integrals: int


@dataclass(frozen=True)
class Panels:
    """What a quadrature by panels is to reach: an error, or that of as many integrals."""

    wanted: float
    integrals: int = 1


class _Fixed(Outcomes):
    """Outcomes whose values are constants, so that their densities alone have a gradient.

    But for those whose support moves with what is learned, of which no density has it.
    """

    def process(self, message: Message, *, is_first: bool) -> Message:
        """Let the outcome be what is drawn."""
        is_moving = message.is_reparameterized and has_moving_boundary(_fn_of(message))
        return super().process(replace(message, is_reparameterized=is_moving), is_first=is_first)


def _fn_of(message: Message) -> Distribution:
    assert message.fn is not None
    return message.fn


def truth_of(program: Program, *, nodes: int = NODES, most: int = MOST) -> Truth:
    """Return the expected loss of a program, whose derivatives of every order are exact.

        E[L] = Σ_z w(z) exp(log q(z) - ⊥ log q(z)) L(z),   w the probability of the outcome z

    A draw of ``rsample`` whose support moves, such as a uniform one between learned bounds, has its
    pathwise derivative.

    Raises:
        TooManyOutcomesError: if there are more than `most`.
        NotEnumerableError: if a draw has no outcomes that can be enumerated.
        NotAFunctionError: if the loss of one run depends on the draws of the one before.
    """
    run = _RunOfTruth(program)
    ways = walked(run, nodes=nodes, most=most, kind=_Fixed)
    settle(run.earlier)
    expected = torch.stack([weight * live for weight, (_, live) in ways]).sum()
    return Truth(expected, [loss for _, (loss, _) in ways], run.sizes)


def truth_by_panels(
    program: Program, parameters: Sequence[Tensor], order: int, panels: Panels, most: int = MOST
) -> Integral[Tensor]:
    """Return the derivatives of the expected loss, [n], over panels of what is continuous.

    Raises:
        TooManyOutcomesError: if the first panels are of more than `most` outcomes.
        NotEnumerableError, NotAFunctionError: as `truth_of`.
    """
    run = _RunOfTruth(program)
    found = integrated(
        lambda outcomes: derivatives(run(outcomes)[1], parameters, order),
        lambda each: (each, 0.0),
        wanted=panels.wanted,
        most=most,
        kind=_Fixed,
    )
    settle(run.earlier)
    return found


class _RunOfTruth:
    """Runs a program, and returns its loss, and the loss with the score of its draws, [] each."""

    def __init__(self, program: Program) -> None:
        self._program, self.earlier = program, Trace()
        self.sizes: list[int] = []

    def __call__(self, outcomes: Outcomes) -> tuple[Tensor, Tensor]:
        with record() as trace:
            with FirstRun(outcomes):
                loss = whole_loss(self._program(), trace)
            refuse_kept(loss, self.earlier)
            drawn = [node for node in trace.everything if node.is_drawn and node.is_learned]
            fixed = [node for node in drawn if not node.is_reparameterized]  # as all are but these
            log_probs = [untrack(node.elementwise_log_prob).sum() for node in fixed]
        self.sizes.append(outcomes.numbers)
        plain = untrack(loss).sum()
        log_prob = sum(log_probs, plain.new_zeros(()))
        settle(self.earlier)
        self.earlier = trace
        return plain.detach(), torch.exp(log_prob - log_prob.detach()) * plain


def derivatives(scalar: Tensor, parameters: Sequence[Tensor], order: int) -> Tensor:
    """Return all derivatives of an order by all n parameters together, flat: [n ** order]."""
    count = sum(parameter.numel() for parameter in parameters)
    if not scalar.requires_grad:
        return torch.zeros(count**order, dtype=scalar.dtype)
    found = torch.autograd.grad(
        scalar, parameters, retain_graph=True, create_graph=order > 1, materialize_grads=True
    )
    flat = torch.cat([each.reshape(-1).to(scalar.dtype) for each in found])
    if order == 1:
        return flat.detach()
    return torch.cat([derivatives(each, parameters, order - 1) for each in flat])


def moments_of(
    program: Program,
    plan: Plan,
    parameters: Sequence[Tensor],
    *,
    order: int = 1,
    nodes: int = NODES,
    most: int = MOST,
    losses: Sequence[Tensor] | None = None,
    panels: Panels | None = None,
) -> Moments:
    """Return the exact mean and variance of an estimate; later runs share no noise.

    Args:
        program: runs the program once.
        plan: what is chosen for each site.
        parameters: by which the derivatives are taken.
        order: of which order these are.
        nodes: of how many nodes a quadrature has.
        most: how many outcomes there may be.
        losses: the losses that the outcomes of the first run are to have.
        panels: what to reach by panels instead.

    Raises:
        TooManyOutcomesError: if there are more.
        NotAFunctionError: if a loss is another: the program draws random numbers outside its sites.
    """
    runs = _RunsOfEstimate(program, plan, parameters, order, nodes, most, panels)
    kind = partial(Outcomes, couplings=couplings(plan.sampling).of)
    if panels is None:
        ways = walked(runs, nodes=nodes, most=most, kind=kind)
        error = torch.zeros_like(ways[0][1].mean)
    else:
        found = integrated(
            runs,
            lambda each: (each.mean, each.error),
            wanted=panels.wanted,
            most=most,
            kind=kind,
        )
        ways, error = found.ways, found.error
    if losses is not None and not isinstance(plan.estimators, RunRLOO) and not runs.is_together:
        _refuse_noise(losses, [each.loss for _, each in ways])
    mean, between = _over([(weight, each.mean) for weight, each in ways])
    inside, _ = _over([(weight, each.variance) for weight, each in ways])
    evaluations = sum(weight * each.evaluations for weight, each in ways)
    outcomes = max(runs.count, len(ways))
    return Moments(mean, between + inside, evaluations, outcomes, error, runs.sizes, runs.integrals)


@dataclass(frozen=True, eq=False)
class _OfFirst:
    """Given the draws of a first run, the mean and variance of the estimate, [n], and its loss."""

    mean: Tensor
    variance: Tensor
    error: Tensor
    evaluations: float
    loss: Tensor


@dataclass(eq=False)
class _RunsOfEstimate:
    """Makes an estimate for each way in which the draws of its first run come out.

    Attributes:
        count: over how many outcomes of noise.
        integrals: over how much noise, of how many sites and first runs.
        sizes: how many continuous numbers each outcome has.
        is_together: whether elements are drawn together.
    """

    program: Program
    plan: Plan
    parameters: Sequence[Tensor]
    order: int
    nodes: int
    most: int
    panels: Panels | None
    count: int = 0
    integrals: int = 0
    sizes: list[int] = field(default_factory=list[int])
    is_together: bool = False

    def __call__(self, outcomes: Outcomes) -> _OfFirst:
        is_whole = isinstance(self.plan.estimators, RunRLOO)
        return self._whole(outcomes) if is_whole else self._by_site(outcomes)

    def _whole(self, outcomes: Outcomes) -> _OfFirst:
        found = whole_runs(self.program, self.plan, outcomes)
        mean = derivatives(found.surrogate, self.parameters, self.order)
        for run in found.runs:
            settle(run.trace)
        self.sizes.append(outcomes.numbers)
        none = torch.zeros_like(mean)
        return _OfFirst(mean, none, none, len(found.runs), found.value)

    def _by_site(self, outcomes: Outcomes) -> _OfFirst:
        fresh = replace(self.plan, baseline=copy.deepcopy(self.plan.baseline))
        begun = Begun.by(self.program, fresh, outcomes)
        self.is_together = self.is_together or bool(self.plan.together(begun.first))
        mean = derivatives(begun.scalar, self.parameters, self.order)
        variance, error, evaluations = torch.zeros_like(mean), torch.zeros_like(mean), 1.0
        if not begun.sites:
            self.sizes.append(outcomes.numbers)
        for site, estimator in begun.sites:
            run = _RunOfSite(site, estimator, self.parameters, self.order)
            ways, off = self._within(run)
            self.sizes += [outcomes.numbers + size for size in run.sizes]
            of_site = _over([(weight, found) for weight, (found, _) in ways])
            mean, variance, error = mean + of_site[0], variance + of_site[1], error + off
            evaluations += sum(weight * runs for weight, (_, runs) in ways)
        loss = begun.first.problem.loss.detach()
        settle(begun.first.trace)
        return _OfFirst(mean, variance, error, evaluations, loss)

    def _within(self, run: "_RunOfSite") -> tuple[list[tuple[float, tuple[Tensor, int]]], Any]:
        """Return the ways in which the noise of a site comes out, and the error of their sum."""
        self.integrals += 1
        error: Tensor | float = 0.0
        if self.panels is None:
            ways = walked(run, nodes=self.nodes, most=self.most)
        else:
            found = integrated(
                run,
                lambda each: (each[0], 0.0),
                wanted=self.panels.wanted,
                most=self.most // self.panels.integrals,
            )
            ways, error = found.ways, found.error
        self.count += len(ways)
        if self.count > self.most:
            raise TooManyOutcomesError.of(self.most)
        return ways, error


class _RunOfSite:
    """Makes the estimate of a site, [n], for each way in which its noise comes out."""

    def __init__(
        self, site: SiteDraw, estimator: SiteEstimator, parameters: Sequence[Tensor], order: int
    ) -> None:
        if order > 1:
            raise DerivativeOrderError(
                f"{site.where}: {type(estimator).__name__} runs the program again, and has a first "
                "derivative only; verify order=2 with estimators='score', 'pathwise' or 'auto'"
            )
        self._site, self._estimator, self._parameters = site, estimator, parameters
        self._known: dict[bytes, Evaluation] = {}
        self.sizes: list[int] = []

    def __call__(self, outcomes: Outcomes) -> tuple[Tensor, int]:
        site = self._site
        first = replace(site.first, chance=outcomes)
        fresh = _Remembering(first, site.node, site.whole, site.estimate)
        fresh.known = self._known
        found = derivatives(self._estimator(fresh), self._parameters, 1)
        self.sizes.append(outcomes.numbers)
        return found, fresh.evaluations


class _Remembering(SiteDraw):
    """A draw of a site that remembers runs in which nothing was left to chance."""

    known: dict[bytes, Evaluation]

    def _run(
        self, value: Tensor, slope_of: SlopeOf = None, *, is_smooth: bool = False
    ) -> Evaluation:
        key = repr(slope_of).encode() + _bytes(value)
        found = self.known.get(key)
        if found is not None:
            self.evaluations += 1
            return found
        chance = self.first.chance
        assert isinstance(chance, Outcomes)
        before = len(chance.taken)
        found = super()._run(value, slope_of, is_smooth=is_smooth)
        if len(chance.taken) == before:
            self.known[key] = found
        return found


def _bytes(value: Tensor) -> bytes:
    """Return what a tensor of any type is, bit by bit."""
    return bytes(value.detach().contiguous().reshape(-1).view(torch.uint8).tolist())


def _over(ways: Sequence[tuple[float, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return the mean and the variance of numbers, [n], given the probability of each way."""
    values = torch.stack([value for _, value in ways])
    weights = torch.tensor([weight for weight, _ in ways], dtype=values.dtype)
    mean = weights @ values
    return mean, weights @ (values - mean) ** 2


def _refuse_noise(losses: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    is_same = len(losses) == len(others)
    if not is_same or not all(is_close(a, b) for a, b in zip(losses, others, strict=True)):
        raise NotAFunctionError(
            "the program is not a function of its arguments and its draws: with the same values of "
            "all sites, its loss differs from run to run; dropout and other noise outside of sites "
            "cannot be enumerated: switch it off (module.eval()), or draw it from a distribution"
        )
