"""A z-test of estimates that are drawn, where outcomes are too many to enumerate."""

from statistics import NormalDist

import torch

from ancestral.estimators.credit.credit import total_cost
from ancestral.estimators.rerun.estimate import Plan, estimated
from ancestral.estimators.rerun.moments import derivatives
from ancestral.estimators.rerun.sampling import couplings
from ancestral.estimators.rerun.streams import Streams
from ancestral.estimators.verification.answer import Asked, Naming
from ancestral.estimators.verification.verification import Verification, split

_LEVEL, _POWER = 1e-3, 0.95


def by_draws(asked: Asked, naming: Naming, draws: int, reason: str) -> Verification:
    """Compare the means of estimates with those of the score function of the whole loss."""
    run, plan, order = asked.run, asked.plan, asked.order
    reference = Plan("score", None, total_cost)
    first = estimated(run, reference, Streams("common"), check=True)
    named = naming(first.surrogate)
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
    small = asked.allowed([mean]) * float(mean.abs().max())
    error = error * level + small
    verified = split(named, order, exact, mean, variance, error, detectable, is_proof=False)
    return Verification(verified, "z-test", order, draws, evaluations / draws, reason)
