"""Exact moments: the mean and the variance of an estimate over all outcomes, and the truth.

The draws of a program are enumerated, and for each outcome of these the noise of each estimator and
of the runs that it asks for. Given the draws of the first run, estimators of different sites are
independent:

        E[g] = E[ g_1 + Σ_i E[g_i | first run] ],
        Var[g] = Var[ g_1 + Σ_i E[g_i | first run] ] + E[ Σ_i Var[g_i | first run] ]

The truth takes no part of them: it is the derivative of Σ q(z) L(z) over the outcomes.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.distributions import Distribution

from ancestral.estimators.gradient.surrogate import settle
from ancestral.estimators.pathwise.routes import DerivativeOrderError
from ancestral.estimators.rerun.estimate import Begun, Plan, whole_runs
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
    Evaluation,
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

    `is_exact` says that no continuous draw was met, whose outcomes are nodes of a quadrature.
    """

    expected: Tensor
    losses: list[Tensor]
    is_exact: bool


@dataclass(frozen=True, eq=False)
class Moments:
    """Of an estimate of n numbers: mean and variance, [n], and over how many outcomes.

    `evaluations` is how often the program runs, on average.
    """

    mean: Tensor
    variance: Tensor
    evaluations: float
    outcomes: int


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
    is_exact, earlier = True, Trace()

    def run(outcomes: Outcomes) -> tuple[Tensor, Tensor]:
        nonlocal is_exact, earlier
        with record() as trace:
            with FirstRun(outcomes):
                loss = whole_loss(program(), trace)
            refuse_kept(loss, earlier)
            drawn = [node for node in trace.everything if node.is_drawn and node.is_learned]
            fixed = [node for node in drawn if not node.is_reparameterized]  # as all are but these
            log_probs = [untrack(node.elementwise_log_prob).sum() for node in fixed]
        is_exact = is_exact and outcomes.is_exact
        plain = untrack(loss).sum()
        log_prob = sum(log_probs, plain.new_zeros(()))
        settle(earlier)
        earlier = trace
        return plain, torch.exp(log_prob - log_prob.detach()) * plain

    ways = walked(run, nodes=nodes, most=most, kind=_Fixed)
    settle(earlier)
    expected = torch.stack([weight * live for weight, (_, live) in ways]).sum()
    return Truth(expected, [loss.detach() for _, (loss, _) in ways], is_exact)


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

    Raises:
        TooManyOutcomesError: if there are more.
        NotAFunctionError: if a loss is another: the program draws random numbers outside its sites.
    """
    count, is_together = 0, False

    def within(
        run: Callable[[Outcomes], tuple[Tensor, int]],
    ) -> list[tuple[float, tuple[Tensor, int]]]:
        nonlocal count
        found = walked(run, nodes=nodes, most=most)
        count += len(found)
        if count > most:
            raise TooManyOutcomesError.of(most)
        return found

    def whole(outcomes: Outcomes) -> tuple[Tensor, Tensor, float, Tensor]:
        found = whole_runs(program, plan, outcomes)
        mean = derivatives(found.surrogate, parameters, order)
        for run in found.runs:
            settle(run.trace)
        return mean, torch.zeros_like(mean), len(found.runs), found.value

    def first(outcomes: Outcomes) -> tuple[Tensor, Tensor, float, Tensor]:
        fresh = replace(plan, baseline=copy.deepcopy(plan.baseline))
        nonlocal is_together
        begun = Begun.by(program, fresh, outcomes)
        is_together = is_together or bool(plan.together(begun.first))
        mean = derivatives(begun.scalar, parameters, order)
        variance, evaluations = torch.zeros_like(mean), 1.0
        for site, estimator in begun.sites:
            ways = within(_of_site(site, estimator, parameters, order))
            of_site = _over([(weight, found) for weight, (found, _) in ways])
            mean, variance = mean + of_site[0], variance + of_site[1]
            evaluations += sum(weight * runs for weight, (_, runs) in ways)
        loss = begun.first.problem.loss.detach()
        settle(begun.first.trace)
        return mean, variance, evaluations, loss

    is_whole = isinstance(plan.estimators, RunRLOO)
    kind = partial(Outcomes, couplings=couplings(plan.sampling).of)
    ways = walked(whole if is_whole else first, nodes=nodes, most=most, kind=kind)
    if losses is not None and not is_whole and not is_together:
        _refuse_noise(losses, [loss for _, (_, _, _, loss) in ways])
    mean, between = _over([(weight, found[0]) for weight, found in ways])
    inside, _ = _over([(weight, found[1]) for weight, found in ways])
    evaluations = sum(weight * found[2] for weight, found in ways)
    return Moments(mean, between + inside, evaluations, max(count, len(ways)))


def _of_site(
    site: SiteDraw, estimator: SiteEstimator, parameters: Sequence[Tensor], order: int
) -> Callable[[Outcomes], tuple[Tensor, int]]:
    """Return what makes the estimate of a site, for one way in which its noise comes out."""
    if order > 1:
        raise DerivativeOrderError(
            f"{site.where}: {type(estimator).__name__} runs the program again, and has a first "
            "derivative only; verify order=2 with estimators='score', 'pathwise' or 'auto'"
        )
    known: dict[bytes, Evaluation] = {}

    def run(outcomes: Outcomes) -> tuple[Tensor, int]:
        first = replace(site.first, chance=outcomes)
        fresh = _Remembering(first, site.node, site.whole, site.estimate)
        fresh.known = known
        return derivatives(estimator(fresh), parameters, 1), fresh.evaluations

    return run


class _Remembering(SiteDraw):
    """A draw of a site that remembers runs in which nothing was left to chance."""

    known: dict[bytes, Evaluation]

    def _run(self, value: Tensor, *, slope: bool = False, is_smooth: bool = False) -> Evaluation:
        key = bytes([slope]) + _bytes(value)
        found = self.known.get(key)
        if found is not None:
            self.evaluations += 1
            return found
        chance = self.first.chance
        assert isinstance(chance, Outcomes)
        before = len(chance.taken)
        found = super()._run(value, slope=slope, is_smooth=is_smooth)
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
