"""Enumerated sites: the dimensions of a batch that index values of sites, not repetitions.

They lie to the left of all plates: a site that takes its K values at once has the value
[K, 1 ..., *plates, *event], and what depends on it is as large along the same dimension.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ancestral.trace.context.place import Location


@dataclass(frozen=True, eq=False)
class Variable:
    """A site that takes all its values at once; two of one name are two.

    `dim` is the dimension that it does so along, counted from the right of the batch, and `size`
    the number of its values. Of one that `is_drawn` these are independent draws, of equal weight.
    """

    name: str
    location: Location
    dim: int
    size: int
    is_drawn: bool = False

    def __str__(self) -> str:
        """Name the site and its line."""
        return f"{self.name!r} ({self.location})"


@dataclass(frozen=True)
class Enumeration:
    """What the dimensions of a site's batch stand for.

    Attributes:
        first_dim: the rightmost that stands for values, counted from the right.
        variables: the sites in sight whose values they are.
        own: the site itself, if it is enumerated.
    """

    first_dim: int
    variables: Mapping[int, Variable] = field(default_factory=lambda: MappingProxyType({}))
    own: Variable | None = None

    @property
    def room(self) -> int:
        """How many dimensions, from the right, do not."""
        return -self.first_dim - 1


def trailing(shape: tuple[int, ...], count: int) -> tuple[int, ...]:
    """Return the last dimensions of a shape, as many as there are.

    >>> trailing((5, 4, 3), 2), trailing((3,), 2), trailing((3,), 0)
    ((4, 3), (3,), ())
    """
    return tuple(shape[max(len(shape) - count, 0) :])
