"""Random linear Gaussian programs with plates, for any language that has the statements."""

import random
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

PLATES = {"rows": (3, -1), "columns": (2, -2)}
"""The size and the dimension of each plate."""


@dataclass(frozen=True)
class Statement:
    """One site: the plates that it is in, and what its mean is of its parents.

    A parent in plates that the site is not in counts by its sum or, with `is_picked`, by its first
    element; `keeps` are plates whose dimension the site has without being declared within them.
    """

    name: str
    plates: frozenset[str]
    parents: dict[str, float]
    is_observed: bool
    is_picked: bool = False
    keeps: frozenset[str] = frozenset()

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        whole = tuple(
            size if name in self.plates | self.keeps else 1
            for name, (size, _) in sorted(PLATES.items())
        )
        return whole if whole[0] > 1 else whole[1:] if whole[1] > 1 else ()


@dataclass(frozen=True)
class Program:
    """Some statements, one after the other."""

    sites: tuple[Statement, ...]

    def run(self, sample: Any, plate: Any, normal: Any = Normal) -> None:
        """Run with the statements of some language."""
        plates = {name: plate(name, size, dim=dim) for name, (size, dim) in PLATES.items()}
        by_name = {site.name: site for site in self.sites}
        values: dict[str, Tensor] = {}
        for site in self.sites:
            with ExitStack() as around:
                for name in sorted(site.plates):
                    around.enter_context(plates[name])
                mean = torch.zeros(site.shape, dtype=torch.float64)
                for name, weight in site.parents.items():
                    mean = mean + weight * _seen(values[name], by_name[name], site)
                data = torch.ones(site.shape, dtype=torch.float64) if site.is_observed else None
                values[site.name] = sample(site.name, normal(mean, 1.0), obs=data)


def _seen(value: Tensor, parent: Statement, site: Statement) -> Tensor:
    """Return what a site sees of a parent."""
    for plate in parent.plates | parent.keeps:
        if plate not in site.plates | site.keeps:
            dim = PLATES[plate][1]
            part = value.narrow(dim, 0, 1) if site.is_picked else value.sum(dim, keepdim=True)
            value = part
    return value if site.shape else value.reshape(())


def random_program(rng: random.Random, *, is_plain: bool = False) -> Program:
    """Return a program of up to seven sites; a plain one has sums, and vectors within plates only.

    What is in a plate does not depend on what mixes its repetitions.
    """
    sites: list[Statement] = []
    mixed: dict[str, frozenset[str]] = {}  # the plates that each site, or one above it, mixes
    for number in range(rng.randint(3, 7)):
        within = frozenset(name for name in sorted(PLATES) if rng.random() < 0.5)
        keeps = frozenset(name for name in sorted(within) if not is_plain and rng.random() < 0.3)
        free = [site for site in sites if not site.is_observed and not mixed[site.name] & within]
        parents = rng.sample(free, min(len(free), rng.randint(0, 3)))
        site = Statement(
            f"s{number}",
            within - keeps,
            {parent.name: rng.uniform(0.5, 1.5) for parent in parents},
            is_observed=number > 0 and rng.random() < 0.4,
            is_picked=not is_plain and rng.random() < 0.3,
            keeps=keeps,
        )
        sites.append(site)
        mixed[site.name] = frozenset[str]().union(
            *(mixed[parent.name] | (parent.plates | parent.keeps) - within for parent in parents)
        )
    return Program(tuple(sites))


def precision(program: Program) -> Callable[[str, str], Tensor]:
    """Return what gives the precision of two latent sites in the posterior, [*shape, *shape].

    It is the Hessian of the density, which for a Gaussian is exact, and zero for two elements just
    where they are independent given all others and the data.
    """
    latents = [site for site in program.sites if not site.is_observed]

    def log_joint(*values: Tensor) -> Tensor:
        given = {site.name: value for site, value in zip(latents, values, strict=True)}
        terms: list[Tensor] = []

        def sample(name: str, fn: Normal, obs: Tensor | None) -> Tensor:
            value = given[name] if obs is None else obs
            terms.append(fn.log_prob(value).sum())
            return value

        program.run(sample, lambda *_, **__: nullcontext())
        return torch.stack(terms).sum()

    zeros = tuple(torch.zeros(site.shape, dtype=torch.float64) for site in latents)
    hessian = torch.autograd.functional.hessian(log_joint, zeros)
    places = {site.name: place for place, site in enumerate(latents)}

    def block(one: str, other: str) -> Tensor:
        found = hessian[places[one]][places[other]]
        assert isinstance(found, Tensor)
        return found

    return block
