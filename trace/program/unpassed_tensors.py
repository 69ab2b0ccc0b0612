"""Beside the arguments: the tracked tensors that an external function meets which were not given.

What it does with them is not seen, as is all that it does, but what goes in is.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ancestral.provenance.algebra.provenance import Provenance
from ancestral.provenance.tensor.control_flow import concerned
from ancestral.provenance.tensor.tensor import provenance
from ancestral.provenance.tensor.torch_internals import tree_leaves
from ancestral.trace.context.place import place


class ExternalError(ValueError):
    """What goes into an external function, or comes back from it, is not as was promised."""


def external_error(name: str, what: str) -> ExternalError:
    """Return the error, with the function, the line, what was expected, what came, what to do."""
    return ExternalError(f"an.external({name}) at {place().location}: {what}")


class Beside(TorchFunctionMode):
    """Notes the tracked tensors that a function meets which are not among its arguments.

    They are within an object among them, in its closure, or drawn in it.
    """

    def __init__(self, name: str) -> None:
        """Begin with none; `name` is that of the function."""
        super().__init__()
        self._name = name
        self.found: list[Provenance] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a function of torch, and note what goes in."""
        self.meet([*args, *(kwargs or {}).values()])
        return func(*args, **(kwargs or {}))

    def meet(self, values: Any) -> None:
        """Note what tensors depend on.

        Raises:
            ExternalError: if a gradient would be lost.
        """
        for leaf in tree_leaves(values):
            found = provenance(leaf) if isinstance(leaf, Tensor) else None
            if found is None:
                continue
            if leaf.requires_grad and torch.is_grad_enabled():
                raise external_error(
                    self._name,
                    f"it uses a tensor of shape {list(leaf.shape)} that is none of its arguments, "
                    "depends on a draw and requires a gradient, which would be lost; pass it as "
                    "an argument, or compute what it does with it in torch",
                )
            self.found += [each for each in concerned(found) if each not in self.found]
