"""Dotted names: parameters of a store by the path that torch looks up as a module.

A store keeps leaves and modules by their whole names. `torch.func.functional_call` takes a name
with dots for a path of modules, at whose end it puts other tensors into the place of leaves: a
branch is a view of the store, and what is put there is in the store.

>>> import torch
>>> store = Branching()
>>> store._parameters["encoder.weight"] = nn.Parameter(torch.ones(2))
>>> store.encoder.weight is store._parameters["encoder.weight"]
True
"""

import sys
from collections.abc import Iterator, MutableMapping
from typing import Any, TypeVar

from torch import nn

from ancestral.provenance.tensor.torch_internals import NamedMemberAccessor
from ancestral.trace.params.errors import StoreError

V = TypeVar("V")


class Branching(nn.Module):
    """A module in which names with dots are paths too, or what of one begins with a path."""

    def __getattr__(self, name: str) -> Any:
        """Return a leaf or a module by its name, or the branch of those whose names it begins.

        Raises:
            AttributeError: if there is none.
            StoreError: if torch would look in a module for what is beside it.
        """
        leaves = _Within(vars(self).get("_parameters", {}), f"{name}.")
        modules = _Within(vars(self).get("_modules", {}), f"{name}.")
        try:
            found = super().__getattr__(name)
        except AttributeError:
            if not leaves and not modules:
                raise
            branch = Branching()
            vars(branch).update(_parameters=leaves, _modules=modules)
            return branch
        # What torch does not find in a module it would set there, and no program would see it.
        is_called = sys._getframe(1).f_code is NamedMemberAccessor.get_submodule.__code__
        if is_called and leaves and isinstance(found, nn.Module):
            listed = ", ".join(repr(f"{name}.{leaf}") for leaf in leaves)
            raise StoreError(
                f"functional_call cannot reach {listed} in the module {name!r}, which has none; "
                "give an.param a name that does not begin with that of a module, with _ for the dot"
            )
        return found


class _Within(MutableMapping[str, V]):
    """Those items whose names have a prefix, by the rest of their names."""

    def __init__(self, items: MutableMapping[str, V], prefix: str) -> None:
        self._items = items
        self._prefix = prefix

    def __getitem__(self, name: str) -> V:
        return self._items[self._prefix + name]

    def __setitem__(self, name: str, item: V) -> None:
        self._items[self._prefix + name] = item

    def __delitem__(self, name: str) -> None:
        del self._items[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        size = len(self._prefix)
        return iter([name[size:] for name in self._items if name.startswith(self._prefix)])

    def __len__(self) -> int:
        return sum(1 for _ in self)
