"""Comparison of two traces, site by site.

>>> import torch
>>> from torch.distributions import Normal
>>> from ancestral.trace.program.primitives import sample
>>> from ancestral.trace.recording.record import record
>>> def run(size):
...     with record() as trace:
...         sample("x", Normal(torch.zeros(size), 1.0), obs=torch.ones(size))
...     return trace
>>> run(2).compare(run(2)).is_equal
True
>>> print(run(2).compare(run(3)))
site  what      here  there
x     shape     [2]   [3]
x     log_prob  [2]   [3]
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.display.shapes import density_of
from ancestral.trace.display.text_table import Table, Tabular
from ancestral.trace.graph.argument_types import check_trace
from ancestral.trace.nodes.node import Node
from ancestral.trace.nodes.plate_frame import Plate


@dataclass(frozen=True)
class Difference:
    """One thing in which a site of two traces differs, as it is here and there.

    `what` is "type", "distribution", "observed", "plates", "shape", "dtype", "value" or "log_prob".
    Of the last two, `largest` is the largest difference of two elements.
    """

    site: str
    what: str
    here: str
    there: str
    largest: float | None = None


@dataclass(frozen=True)
class Comparison(Tabular):
    """In what two traces differ.

    `only_here` and `only_there` are the sites that only one of them has, `differences` what is
    different in those that both have.
    """

    only_here: tuple[str, ...]
    only_there: tuple[str, ...]
    differences: tuple[Difference, ...]

    @property
    def is_equal(self) -> bool:
        """Whether they have the same sites, and these are equal."""
        return not (self.only_here or self.only_there or self.differences)

    def table(self) -> Table:
        """Return a row for each difference."""
        if self.is_equal:
            return Table((), (), above=["no difference"])
        rows = [
            *((name, "site", "yes", "-") for name in self.only_here),
            *((name, "site", "-", "yes") for name in self.only_there),
            *((d.site, d.what, d.here, d.there) for d in self.differences),
        ]
        return Table(("site", "what", "here", "there"), rows)


def compare(here: Mapping[str, Node], there: Mapping[str, Node]) -> Comparison:
    """Return in what two traces differ; values are compared exactly.

    Raises:
        TypeError: if `there` is no trace.
    """
    check_trace("compare", there)
    both = [name for name in here if name in there]
    return Comparison(
        tuple(name for name in here if name not in there),
        tuple(name for name in there if name not in here),
        tuple(d for name in both for d in _differences(here[name], there[name])),
    )


def _differences(a: Node, b: Node) -> Iterator[Difference]:
    for what, of in _FACTS.items():
        if of(a) != of(b):
            yield Difference(a.name, what, of(a), of(b))
    for what, x, y in (("value", a.value, b.value), ("log_prob", density_of(a), density_of(b))):
        if x is not None and y is not None and x.shape == y.shape:
            yield from _of_elements(a.name, what, x, y)


_FACTS: Mapping[str, Callable[[Node], str]] = {
    "type": lambda node: node.type,
    "distribution": lambda node: family_of(node.fn),
    "observed": lambda node: str(node.is_observed),
    "plates": lambda node: ", ".join(map(_plate, node.cond_indep_stack)) or "-",
    "shape": lambda node: str(list(node.value.shape)),
    "dtype": lambda node: str(node.value.dtype),
    "log_prob": lambda node: _shape(density_of(node)),
}


def family_of(fn: Distribution | None) -> str:
    """Return what a distribution is called, with what it groups, "-" for none."""
    if isinstance(fn, Independent):
        return f"Independent({family_of(fn.base_dist)}, {fn.reinterpreted_batch_ndims})"
    return "-" if fn is None else type(fn).__name__


def _plate(plate: Plate) -> str:
    place = f"dim {plate.dim}" if plate.turn is None else f"turn {plate.turn}"
    part = "" if plate.subsample_size == plate.size else f"{plate.subsample_size} of "
    return f"{plate.name} ({part}{plate.size}, {place})"


def _shape(tensor: Tensor | None) -> str:
    return "none" if tensor is None else str(list(tensor.shape))


def _of_elements(site: str, what: str, x: Tensor, y: Tensor) -> Iterator[Difference]:
    """Yield the largest difference of two tensors of one shape, unless they are equal."""
    a, b = (untrack(tensor).detach().cpu().reshape(-1) for tensor in (x, y))
    is_equal = _are_equal(a, b)
    if bool(is_equal.all()):
        return
    apart = (_wide(a) - _wide(b)).abs().nan_to_num(torch.inf, torch.inf)
    first = int(apart.masked_fill(is_equal, -1).argmax())  # what is not equal comes before
    at = [int(i) for i in torch.unravel_index(torch.tensor(first), x.shape)]
    place = f" at {at}" if at else ""
    one, other = a[first].item(), b[first].item()
    here, there = f"{one:.6g}", f"{other:.6g}"
    if here == there:
        here, there = repr(one), repr(other)
    largest = float(abs(one - other))  # of integers exactly
    largest = math.inf if math.isnan(largest) else largest
    yield Difference(site, what, here + place, there + place, largest)


def _are_equal(a: Tensor, b: Tensor) -> Tensor:
    """Return which elements of two tensors are equal, also where both are NaN."""
    if a.dtype == b.dtype and not (a.is_floating_point() or a.is_complex()):
        return a.to(torch.int64) == b.to(torch.int64)  # floats do not hold all of them
    a, b = _wide(a), _wide(b)
    return (a == b) | (a.isnan() & b.isnan())


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
