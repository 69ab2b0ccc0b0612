"""Rao-Blackwellization over a subset of sites: their joint values are summed out of a score."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ancestral.estimators.finite.joint_runs import over_all
from ancestral.estimators.rerun.replay import Again, credit_of
from ancestral.estimators.rerun.site_draw import EstimatorError, SiteDraw
from ancestral.provenance.tensor.tensor import untrack


@dataclass(frozen=True)
class RaoBlackwell:
    """Sum the score function of a site over the joint values of the site and of others.

        g = Σ_{z_S} q(z_S) Σ_n f_n(z_S) ∇ log q(z[n]),   S the site and those of `over`

    What S does not reach has its value of the first run, and what else it reaches is drawn. The
    others may lie above the site, below it or beside it, and which of them there are may depend on
    values, if the site is always there. Each site of a subset that is to be summed over has its
    own: ``{"a": RaoBlackwell(("b",)), "b": RaoBlackwell(("a",))}``.

    Needs as many evaluations more as S has joint values, all elements together. Discrete sites.
    Unbiased: the mean of the score function given all that is not reached. With every site that a
    loss depends on in S, it has no variance left. Casella and Robert (1996), "Rao-Blackwellisation
    of sampling schemes"; Ranganath, Gerrish and Blei (2014), "Black box variational inference",
    section 3.1.

    Attributes:
        over: the names of the other sites.
        most: how many joint values there may be.
    """

    over: Sequence[str] = ()
    most: int = 4096

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            TypeError: if they are none.
        """
        if isinstance(self.over, str) or not all(isinstance(name, str) for name in self.over):
            raise TypeError(
                f"RaoBlackwell: over must be names of sites, such as ('h2',), not {self.over!r}"
            )

    def __call__(self, site: SiteDraw) -> Tensor:
        """Return the part of the surrogate.

        Raises:
            EstimatorError: if there are too many joint values, or a site that is not discrete.
        """
        name, count = site.node.name, 0

        def scored(again: Again) -> Tensor:
            nonlocal count
            count += 1
            credit = credit_of(again.problem, name, site.estimate)
            nodes = [node for node in again.trace.everything if node.name == name]
            if not nodes:
                others = ", ".join(map(repr, sorted({*self.over} - {name})))
                raise EstimatorError(
                    f"{site.where} is drawn, but not for all values of {others}, over which its "
                    "score is to be summed, so that in runs without it the sum would be left out; "
                    "sum the sites above it over it, and it over itself and what is below it"
                )
            if credit is None:
                return torch.zeros((), dtype=site.credit.dtype, device=site.value.device)
            log_prob = untrack(nodes[0].elementwise_log_prob)
            return (untrack(credit.total).detach() * log_prob).sum()

        ways = over_all(site.first, {name, *self.over}, scored, most=self.most)
        site.evaluations += count
        return torch.stack([weight * part for weight, part in ways]).sum()
