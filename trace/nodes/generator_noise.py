"""Noise: randomness without parameters, such as dropout masks, `torch.rand` and shuffles.

It has no score and no gradient, and is a source of what is computed from it only where a recording
is asked for it. Noise is whatever moves a random generator of torch on and is no draw of a site, so
that no list of functions has to name it.

>>> import torch
>>> import ancestral as an
>>> with an.record(noise=True) as trace:
...     eps = torch.randn(3)
...     cost = (eps * torch.nn.functional.dropout(torch.ones(3))).sum()
>>> [noise.name for noise in trace.noise]
['eps', 'dropout']
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.algebra.provenance import Source
from ancestral.provenance.dispatch.inplace import mark_shared
from ancestral.provenance.tensor.arguments import tensors_in
from ancestral.provenance.tensor.tensor import ProvenanceTensor, attach, provenance, raw
from ancestral.provenance.tensor.torch_internals import DisableTorchFunction
from ancestral.trace.context.place import Location, place
from ancestral.trace.context.stack import Recording, local


@dataclass(frozen=True)
class Noise:
    """One call that made noise.

    `made_by` is the function, `shape` that of the result, `position` how many nodes of the trace
    came before. The shape of the source is [] where the elements are not independent, or unknown.
    """

    name: str
    made_by: str
    shape: Shape
    source: Source
    position: int
    location: Location
    module_path: str = ""


_APART = frozenset(
    "rand rand_like randn randn_like randint randint_like bernoulli_ cauchy_ exponential_ "
    "geometric_ log_normal_ normal_ random_ uniform_ dropout dropout_ alpha_dropout "
    "alpha_dropout_ rrelu rrelu_".split()
)
"""The functions whose noise has an element for each of the result's, independent of the others."""
_KINDS = (Tensor, ProvenanceTensor)


class NoiseMode(TorchFunctionMode):
    """Notes the noise of this thread in a trace, and makes it a source of what comes of it."""

    def __init__(self, trace: Recording, found: list[Noise]) -> None:
        super().__init__()
        self._trace, self._found = trace, found

    def __torch_function__(
        self,
        func: Any,
        types: tuple[type, ...],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function, and look whether it drew what is no site."""
        kwargs = kwargs or {}
        if local.is_inside or not self._trace.is_open:  # the draw of a distribution
            return func(*args, **kwargs)
        before, sites = _states(kwargs), len(self._trace.everything)
        result = func(*args, **kwargs)
        if len(self._trace.everything) == sites and _states(kwargs) != before:
            self._note(func.__name__.partition(".")[0], (args, kwargs), result, sites)
        return result

    def _note(self, made_by: str, given: object, result: Any, position: int) -> None:
        made = [tensor for tensor in tensors_in(result) if type(tensor) in _KINDS]
        if not made:
            return  # a seed, or a parameter at its first values, which carries no provenance
        universe, where, label = self._trace.universe, place(), made_by.strip("_")
        shape = tuple(raw(Tensor.size, made[0]))
        is_apart = made_by in _APART and len(made) == 1
        is_all = made_by.endswith("_like") or not any(True for _ in tensors_in(given))
        own = where.variable if is_all else None  # else it is called by the result
        name = self._trace.fresh_name(".".join(filter(None, (where.module_path, own or label))))
        # Known as data is: what Python decides by it is no escape of a draw.
        source = Source(name, shape if is_apart else (), universe, is_known=True)
        self._found.append(
            Noise(name, label, shape, source, position, where.location, where.module_path)
        )
        written = [id(tensor) for tensor in tensors_in(given)]
        for tensor in made:
            size, known = tuple(raw(Tensor.size, tensor)), provenance(tensor)
            found = universe.of(source, size) if is_apart else universe.depending([source], size)
            attach(tensor, found if known is None else known.union(found))
            if id(tensor) in written:
                mark_shared(tensor, found, known)


def _states(kwargs: Mapping[str, Any]) -> list[bytes]:
    """Return the states of the generators that a call may draw from."""
    generators = [torch.default_generator]
    generators += torch.cuda.default_generators if torch.cuda.is_initialized() else ()
    if isinstance(given := kwargs.get("generator"), torch.Generator):
        generators.append(given)
    with DisableTorchFunction():
        return [generator.get_state().numpy().tobytes() for generator in generators]
