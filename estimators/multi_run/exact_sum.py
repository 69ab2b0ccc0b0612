"""Exact sum: the expectation over one site, all of its values summed out."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from ancestral.estimators.rerun.site_draw import SiteDraw


@dataclass(frozen=True)
class ExactSum:
    """Sum over all joint values of the elements of a site.

        g = Σ_z q(z) Σ_n f_n(z) ∇ log q(z[n]),   f_n the costs downstream of element n

    Needs C^D - 1 evaluations more, for C values and D elements that have costs in common; elements
    that have none, such as examples of a batch, change together. Finite sites: Bernoulli,
    Categorical, OneHotCategorical, Binomial. Unbiased: Rao-Blackwellized over the site, so that
    only what is upstream and downstream of it has variance left. Casella and Robert (1996),
    "Rao-Blackwellisation of sampling schemes".

    Attributes:
        most: how many joint values there may be.
    """

    most: int = 4096

    def __call__(self, site: SiteDraw) -> Tensor:
        """Return the part of the surrogate.

        Raises:
            EstimatorError: if there are too many joint values.
        """
        support = torch.stack([site.value, *site.other_values(self)])  # [C, *shape, *event]
        sizes = [site.shape[dim] for dim in site.shared_dims]
        shared = torch.Size(sizes).numel()
        if len(support) ** shared > self.most:
            raise site.refused(
                self,
                f"sites of at most {self.most} joint values (most=)",
                f"{len(support)} values for each of {shared} elements that have costs in common",
            )
        event = support.dim() - 1 - len(site.shape)
        values = []
        for choice in itertools.product(range(len(support)), repeat=shared):
            index = torch.tensor(choice, device=site.value.device).reshape(sizes)
            for dim in range(len(site.shape)):
                if dim not in site.shared_dims:
                    index = index.unsqueeze(dim)
            index = index.expand(site.shape)[(None, ..., *(None,) * event)]
            values.append(support.gather(0, index.expand(1, *support.shape[1:]))[0])
        total = torch.zeros((), dtype=site.credit.dtype, device=site.value.device)
        for value, credit in zip(values, site.evaluate_all(values), strict=True):
            log_prob = site.log_prob(value)
            joint = log_prob.detach()
            for dim in site.shared_dims:
                joint = joint.sum(dim, keepdim=True)
            possible = torch.where(joint > -torch.inf, log_prob, 0)
            total = total + (joint.exp() * credit * possible).sum()
        return total
