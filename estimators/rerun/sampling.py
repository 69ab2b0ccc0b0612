"""Sampling of a continuous site whose elements are drawn together, each with its own distribution.

        z[n] = F⁻¹(u[n]),   u[n] uniform for every n, and not independent along one dimension

What is estimated by a sum over elements keeps its mean, and may have less variance, if no cost
depends on two of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import Credit, Estimator, by_element
from ancestral.estimators.credit.site_choices import Choices, PerSite
from ancestral.estimators.rerun.replay import First, credit_of
from ancestral.estimators.rerun.site_draw import EstimatorError
from ancestral.estimators.rerun.streams import Coupling
from ancestral.trace.graph.structure import Structure

_MOST = 21201  # dimensions of the sequence that torch has


@dataclass(frozen=True)
class Antithetic:
    """Draw one half of the elements along a dimension, and mirror it for the other.

        u[n + N/2] = 1 - u[n]

    Of an odd number the last of the first half has no partner. No more evaluations. Continuous
    sites with an inverse distribution function (icdf), such as Normal, Uniform, Laplace and
    Exponential, whose elements along the dimension have no costs in common. Unbiased, for pathwise
    and score alike; exact for costs that are linear in a symmetric draw. Owen (2013), "Monte Carlo
    theory, methods and examples", section 8.2.

    Attributes:
        dim: the dimension of the site.
    """

    dim: int = 0

    def uniform(self, shape: torch.Size) -> Tensor:
        """Return the uniform numbers, [*shape], in double."""
        count = shape[self.dim]
        first = list(shape)
        first[self.dim] = -(-count // 2)
        u = torch.rand(first, dtype=torch.double)
        return torch.cat([u, 1 - u.narrow(self.dim, 0, count // 2)], self.dim)

    def partner(self, index: int, count: int) -> int | None:
        """Return of which element along the dimension another is the mirror image."""
        half = -(-count // 2)
        return index - half if index >= half else None


@dataclass(frozen=True)
class QuasiRandom:
    """Draw the elements along a dimension as points of a scrambled sequence, evenly spread.

        u[1], ..., u[N] the points of Sobol's sequence, scrambled anew for every draw

    The other dimensions of the site are the coordinates of a point. No more evaluations. Sites as
    for `Antithetic`. Unbiased: each scrambled point is uniform. Owen (1998), "Scrambling Sobol' and
    Niederreiter-Xing points"; Buchholz, Wenzel and Mandt (2018), "Quasi-Monte Carlo variational
    inference".

    Attributes:
        dim: the dimension of the site.
    """

    dim: int = 0

    def uniform(self, shape: torch.Size) -> Tensor:
        """Return the uniform numbers, [*shape], in double."""
        rest = [size for at, size in enumerate(shape) if at != self.dim % len(shape)]
        coordinates = torch.Size(rest).numel()
        if coordinates > _MOST:
            raise ValueError(
                f"QuasiRandom: {coordinates} elements for each point; Sobol's sequence has at most "
                f"{_MOST} coordinates"
            )
        seed = int(torch.randint(2**31, ()))
        engine = torch.quasirandom.SobolEngine(coordinates, scramble=True, seed=seed)
        points = engine.draw(shape[self.dim], dtype=torch.double) + 2.0**-31  # of cells the middle
        return points.reshape(-1, *rest).movedim(0, self.dim)

    def partner(self, index: int, count: int) -> int | None:
        """Raise: there are too many ways to scramble.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError


Sampling = Antithetic | QuasiRandom | None
"""How the elements of a site are drawn together; None for independent ones."""


def couplings(given: PerSite[Sampling]) -> Choices[Coupling | None]:
    """Return how each site is drawn.

    Raises:
        ValueError: if one is no way to sample.
    """
    choices = Choices[Coupling | None]("sampling", given, None)
    for each in choices.values():
        if not (each is None or isinstance(each, (Antithetic, QuasiRandom))):
            raise ValueError(
                "sampling must be Antithetic(dim), QuasiRandom(dim) or None, or one for each "
                f"pattern of names, not {each!r}"
            )
    return choices


def refuse_shared(
    first: First, choices: Choices[Coupling | None], counting: Mapping[str, Estimator]
) -> dict[str, int]:
    """Return the dimension along which elements of sites are drawn together, by name.

    Raises:
        EstimatorError: if they have costs in common, or are given each other's.
    """
    choices.warn_of_unused(first.nodes)
    found: dict[str, int] = {}
    for name, node in first.nodes.items():
        how = choices.of(node)
        if how is None:
            continue
        at = found[name] = how.dim % len(node.shape)
        if node.shape[at] < 2:
            continue
        for count, why in (
            (by_element, "have costs in common"),
            (counting[name], "count each other's costs"),
        ):
            credit = credit_of(first.problem, name, count)
            if credit is not None and any(at not in part.apart for part in credit.parts):
                raise EstimatorError(
                    f"site {name!r} ({node.location}): along dimension {how.dim} its elements are "
                    f"drawn together by {how}, and {why}, so that they have to be independent; "
                    "take sampling= off it, use credit=by_element, or keep what each element costs "
                    "apart (trace.explain() tells what mixes them)"
                )
    return found


def without_others(estimate: Estimator, dims: Mapping[str, int]) -> Estimator:
    """Return an estimator whose credits are not apart where elements are drawn together.

    No baseline then takes one of them to predict another.
    """

    def counting(structure: Structure, values: Any) -> list[Credit]:
        return [
            replace(
                credit,
                parts=tuple(
                    replace(part, apart=part.apart - {dims[credit.name]}) for part in credit.parts
                ),
            )
            if credit.name in dims
            else credit
            for credit in estimate(structure, values)
        ]

    return counting
