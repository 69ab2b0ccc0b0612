"""Factor: a distribution over nothing, whose one value has a given log-probability."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ancestral.provenance.algebra.alignment import Shape


class Factor(Distribution):
    """The unnormalized distribution whose only value is the empty tensor, [*batch, 0].

    >>> Factor(torch.tensor(-1.5)).log_prob(torch.zeros(0))
    tensor(-1.5000)
    """

    arg_constraints: Any = {"log_factor": constraints.real}  # noqa: RUF012
    support: Any = constraints.real

    def __init__(self, log_factor: Tensor) -> None:
        """Take the logarithms of the factors, [*batch]."""
        self.log_factor = log_factor
        super().__init__(log_factor.shape, torch.Size((0,)), validate_args=False)

    @property
    def nothing(self) -> Tensor:
        """The value, [*batch, 0]."""
        return self.log_factor.new_empty((*self.batch_shape, 0)).detach()

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Factor":
        """Return the factor over a larger batch."""
        return Factor(self.log_factor.expand(torch.Size(batch_shape)))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Return the value, [*sample, *batch, 0]."""
        return self.log_factor.new_empty((*sample_shape, *self.batch_shape, 0)).detach()

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the logarithms of the factors, [*batch]."""
        return self.log_factor.expand(value.shape[:-1])


class PointMass(Distribution):
    """The distribution of a value that is computed, with a log-density that is given: [*batch].

    It has no draw: its sites have their value from elsewhere.
    """

    arg_constraints: Any = {"log_density": constraints.real}  # noqa: RUF012
    support: Any = constraints.real

    def __init__(self, log_density: Tensor, event_shape: Any = ()) -> None:
        """Take the logarithms of the densities, [*batch], and the shape of one value."""
        self.log_density = log_density
        super().__init__(log_density.shape, torch.Size(event_shape), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "PointMass":
        """Return it over a larger batch."""
        return PointMass(self.log_density.expand(torch.Size(batch_shape)), self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the logarithms of the densities, [*batch]."""
        return self.log_density.expand(value.shape[: value.dim() - len(self.event_shape)])


def shown_shape(fn: Distribution | None, value: Tensor) -> Shape:
    """Return the shape of a value as a user knows it: a factor has that of its logarithms."""
    return tuple(value.shape[:-1] if isinstance(fn, Factor) else value.shape)
