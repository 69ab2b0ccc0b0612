"""Example: a program that Pyro's documentation is built on, written anew and small, with data."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro import infer
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # has no annotations
from torch import Tensor

from ancestral.infer import TraceEnum_ELBO, TraceGraph_ELBO

Program = Callable[..., Any]


@dataclass(frozen=True)
class Example:
    """A model, a guide and data.

    `nesting` is how many plates nest where sites are summed over, None where all are drawn.
    `is_right_there` is whether Pyro's gradient is unbiased.
    """

    model: Program
    guide: Program
    data: tuple[Any, ...]
    nesting: int | None = None
    is_right_there: bool = True

    def summed(self, nesting: int) -> "Example":
        """Return the example with all its finite sites summed over."""
        model, guide = (infer.config_enumerate(p, "parallel") for p in (self.model, self.guide))
        return replace(self, model=model, guide=guide, nesting=nesting)

    def losses(self, **ours: Any) -> tuple[Any, Any]:
        """Return this library's loss and Pyro's."""
        if self.nesting is None:
            return TraceGraph_ELBO(**ours), infer.TraceGraph_ELBO()
        options: Any = {"max_plate_nesting": self.nesting}
        return TraceEnum_ELBO(**options, **ours), infer.TraceEnum_ELBO(**options)


EXAMPLES: dict[str, Callable[[], Example]] = {}


def example(function: Callable[[], Example]) -> Callable[[], Example]:
    EXAMPLES[function.__name__] = function
    return function


def made(name: str) -> Example:
    """Return an example with the parameters that it begins with."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    return EXAMPLES[name]()


def digits(count: int) -> tuple[Tensor, Tensor]:
    """Return pictures of digits in black and white, [count, 64], and what they show, [count]."""
    found = load_digits()
    pictures = torch.tensor(found.data[:count] > 8).to(torch.get_default_dtype())
    return pictures, torch.tensor(found.target[:count])
