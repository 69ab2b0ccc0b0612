"""Branches: leaves of a store whose names begin with a path, as the module that torch looks for.

A store keeps its leaves by their whole names. `torch.func.functional_call` takes a name with dots
for a path of modules, at whose end it puts other tensors into the place of leaves: a branch is a
view of the leaves of the store, and what is put there is in the store.

>>> import torch
>>> leaves = {"encoder.weight": nn.Parameter(torch.ones(2)), "gain": None}
>>> branch = branch_of(leaves, "encoder")
>>> branch.weight is leaves["encoder.weight"], branch_of(leaves, "decoder")
(True, None)
"""

from collections.abc import Iterator, MutableMapping
from typing import Any

from torch import nn

Leaves = MutableMapping[str, nn.Parameter | None]


class Branch(nn.Module):
    """Those of some leaves whose names begin with a path, by the rest of their names."""

    def __init__(self, leaves: Leaves) -> None:
        """Take the leaves by the rest of their names."""
        super().__init__()
        vars(self)["_parameters"] = leaves

    def __getattr__(self, name: str) -> Any:
        """Return a leaf, or the branch of those whose names go on from here.

        Raises:
            AttributeError: if there is none.
        """
        try:
            return super().__getattr__(name)
        except AttributeError:
            found = branch_of(vars(self).get("_parameters", {}), name)
            if found is None:
                raise
            return found


class _Within(Leaves):
    """Those of some leaves whose names have a prefix, by the rest of their names."""

    def __init__(self, leaves: Leaves, prefix: str) -> None:
        self._leaves = leaves
        self._prefix = prefix

    def __getitem__(self, name: str) -> nn.Parameter | None:
        return self._leaves[self._prefix + name]

    def __setitem__(self, name: str, leaf: nn.Parameter | None) -> None:
        self._leaves[self._prefix + name] = leaf

    def __delitem__(self, name: str) -> None:
        del self._leaves[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        size = len(self._prefix)
        return iter([name[size:] for name in self._leaves if name.startswith(self._prefix)])

    def __len__(self) -> int:
        return sum(1 for _ in self)


def branch_of(leaves: Leaves, name: str) -> Branch | None:
    """Return the branch of the leaves whose names begin with a path, None if there are none."""
    within = _Within(leaves, f"{name}.")
    return Branch(within) if len(within) else None
