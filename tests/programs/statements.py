"""Random programs of named statements, for the laws that hold of all of them."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Normal

import ancestral as an

PLATE = 3


@dataclass(frozen=True)
class Statement:
    """One site: what it is drawn from, the numbers of its parents, whether it is in the plate."""

    kind: str
    parents: tuple[int, ...]
    is_plated: bool
    is_observed: bool


@dataclass(frozen=True)
class Statements:
    """A program: its sites are called s0, s1 ... in their order."""

    sites: tuple[Statement, ...]

    def __call__(self) -> Tensor:
        """Run the program, and return the sum of all values."""
        values: list[Tensor] = []
        for number, site in enumerate(self.sites):
            above = sum((_within(values[p], site) for p in site.parents), torch.zeros(()).double())
            if site.is_plated:
                with an.plate("plate", PLATE):
                    values.append(self._statement(number, site, above))
            else:
                values.append(self._statement(number, site, above))
        return sum((value.sum().double() for value in values), torch.zeros(()).double())

    def _statement(self, number: int, site: Statement, above: Tensor) -> Tensor:
        fn = _distribution(site.kind, above)
        size = (PLATE,) if site.is_plated else ()
        obs = value_of(site.kind, number).expand(size) if site.is_observed else None
        return an.sample(f"s{number}", fn, obs=obs)

    @property
    def names(self) -> list[str]:
        """The names of the sites."""
        return [f"s{number}" for number in range(len(self.sites))]

    @property
    def latent(self) -> list[str]:
        """The names of the sites that are not observed."""
        return [f"s{i}" for i, site in enumerate(self.sites) if not site.is_observed]

    def data(self, names: list[str]) -> dict[str, Tensor]:
        """Return a value for each of these sites."""
        numbers = [int(name[1:]) for name in names]
        return {
            f"s{i}": value_of(self.sites[i].kind, i).expand(
                (PLATE,) if self.sites[i].is_plated else ()
            )
            for i in numbers
        }


def _within(value: Tensor, site: Statement) -> Tensor:
    """Return a parent's value as a site of no plate may read it: summed over the plate."""
    return value.double() if site.is_plated or not value.dim() else value.double().sum()


def _distribution(kind: str, above: Tensor) -> Distribution:
    if kind == "normal":
        return Normal(above, torch.ones((), dtype=torch.float64))
    if kind == "bernoulli":
        return Bernoulli(logits=0.3 * above)
    logits = torch.stack([torch.zeros_like(above), 0.2 * above, -0.1 * above], dim=-1)
    return Categorical(logits=logits)


def value_of(kind: str, number: int) -> Tensor:
    """Return a value that a site of this kind can take."""
    if kind == "normal":
        return torch.tensor(0.25 * number - 0.5, dtype=torch.float64)
    value = torch.tensor(number % 2)
    return value if kind == "categorical" else value.double()


@st.composite
def statements(draw: st.DrawFn, most: int = 5) -> Statements:
    """Draw a program of up to `most` sites."""
    count = draw(st.integers(1, most))
    found: list[Statement] = []
    summing = set[int]()  # outside the plate, and depending on what is in it
    for number in range(count):
        parents = draw(st.sets(st.integers(0, number - 1))) if number else set[int]()
        is_plated = draw(st.booleans())
        if is_plated:  # the repetitions would depend on each other
            parents -= summing
        elif any(p in summing or found[p].is_plated for p in parents):
            summing.add(number)
        kind = draw(st.sampled_from(["normal", "bernoulli", "categorical"]))
        is_observed = draw(st.integers(0, 3)) == 0
        found.append(Statement(kind, tuple(sorted(parents)), is_plated, is_observed))
    return Statements(tuple(found))
