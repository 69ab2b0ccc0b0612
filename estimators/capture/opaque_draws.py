"""Opaque draws: one op of a captured graph for a draw that loops until a proposal is accepted.

The compiler cannot follow a loop on values. The op runs torch's own method, with the generator of
the program: the draws are those of an eager run.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling
from torch.distributions import VonMises

_library: Any = torch.library.Library("ancestral", "FRAGMENT")
_library.define(
    "von_mises(Tensor loc, Tensor concentration, SymInt[] shape) -> Tensor",
    tags=torch.Tag.nondeterministic_seeded,
)
_own: Callable[..., Tensor] = VonMises.sample


def _von_mises(loc: Tensor, concentration: Tensor, shape: Sequence[int]) -> Tensor:
    fn = VonMises(loc.detach(), concentration.detach(), validate_args=False)
    return _own(fn, torch.Size(shape[: len(shape) - loc.dim()]))


def _like(loc: Tensor, concentration: Tensor, shape: Sequence[int]) -> Tensor:
    return loc.new_empty(shape)


_library.impl("von_mises", _von_mises, "CompositeExplicitAutograd")
torch.library.register_fake("ancestral::von_mises", _like, lib=_library)


def _sample(self: Any, sample_shape: Sequence[int] = ()) -> Tensor:
    if not is_dynamo_compiling():  # as for other threads
        return _own(self, torch.Size(sample_shape))
    shape = self._extended_shape(torch.Size(sample_shape))
    found: Tensor = torch.ops.ancestral.von_mises(
        self.loc.detach(), self.concentration.detach(), shape
    )
    return found


OPAQUE: dict[Any, Callable[..., Tensor]] = {_own: _sample}
"""By a method of torch, what the compiler is to read in its place."""
