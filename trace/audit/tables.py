"""Tables of an audit: its findings, the ops that it looks for, and the reasons that it accepts."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ancestral.provenance.algebra.provenance import Source
from ancestral.provenance.dispatch.shadow_memory import Memory, Sources, Step, base_name, tensors_of
from ancestral.trace.context.place import Location


class AuditError(RuntimeError):
    """An audit found a dependency that the recording lost, or one that it made up."""

    op: str
    location: Location
    names: frozenset[str]


def audit_error(
    op: str, location: Location, sources: Iterable[Source], fact: str, loss: str
) -> AuditError:
    """Return the error of an op, with its line, the sources and what happened to them."""
    names = frozenset(source.name for source in sources)
    listed = ", ".join(repr(name) for name in sorted(names)) or "no source"
    error = AuditError(
        f"{op} at {location} {fact} {listed}, {loss}: a gradient would be biased; use an op "
        "that is followed there, or an.untrack its operands if no gradient needs the dependency"
    )
    error.op, error.location, error.names = op, location, names
    return error


LEAVES: Mapping[str, str] = dict.fromkeys(
    "numpy __array__ tolist __dlpack__ untyped_storage".split(),
    "the bytes are handed to others without an op",
)
"""Functions that let a value out and run no op of the dispatcher."""

FLOWS_UNSEEN: Mapping[str, str] = dict.fromkeys(
    "tensor as_tensor asarray new_tensor scalar_tensor".split(),
    "the numbers are read off their operands in C, behind the dispatcher",
)
"""Functions that let a value into their result and run no op of the dispatcher for it."""

SHAPED_BY_NUMBERS: Mapping[str, str] = dict.fromkeys(
    "repeat tile expand view reshape zeros ones empty rand randn eye arange linspace logspace "
    "split chunk topk unfold one_hot tensor_split repeat_interleave".split(),
    "a number that they read off a tensor becomes a size",
)
"""Functions whose result carries what they read, though its shape cannot."""


def is_shaped(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a number that a call reads off a tensor may become a size of its result."""
    if name == "one_hot":  # else it reads its operand only to refuse what is out of range
        classes: object = kwargs.get("num_classes", -1) if len(args) < 2 else args[1]
        return classes == -1
    return name in SHAPED_BY_NUMBERS


DRAWS = frozenset(
    "aten.bernoulli.default aten.bernoulli.out aten.bernoulli_.Tensor aten.binomial.default "
    "aten.multinomial.default aten.normal.Tensor_float aten.normal.float_Tensor "
    "aten.normal.Tensor_Tensor aten.poisson.default".split()
)
"""The ops that draw from tensors of parameters with no pathwise derivative."""


def _masks(args: tuple[Any, ...]) -> Any:
    return [t for t in tensors_of(args[1:], {}) if t.dtype in (torch.bool, torch.uint8)]


_SHAPING: Mapping[str, Callable[[tuple[Any, ...]], Any]] = {
    # An index of integers has its own shape; only a mask is counted.
    "index": _masks,
    "masked_select": lambda args: args[1:2],
    "repeat_interleave": lambda args: args[:1],
}
"""The operands that decide on a shape, of ops where not all of them do."""

_READS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


def read_of(step: Step, memory: Memory) -> Sources:
    """Return the sources of what a step gives to Python, or into the shape of its result."""
    if not step.sources or not any(tag in _READS for tag in step.op.tags):
        return {}
    chosen = _SHAPING.get(base_name(step.op))
    if chosen is None:
        return step.sources
    found = tensors_of(chosen(step.args), {})
    return {source: at for t in found for source, at in memory.of(t).items()}


EXPLAINED: Mapping[str, str] = {
    "operand": "an op without a rule depends on all that it is given, also where only a shape or "
    "one of several results does",
    "control": "after an escape, Python may have chosen whatever is computed",
    "gradient": "what a pass through autograd leaves behind depends on all that it began from",
    "draw": "a custom backward pass may draw within the call",
    "around": "a draw within a function that is not followed may depend on all that went in there",
}
"""Why a tensor may carry more sources than its bytes depend on; all of it costs variance only."""


@dataclass(frozen=True)
class Audited:
    """What an audit without a finding has compared."""

    ops: int
    sources: int

    def __str__(self) -> str:
        """Say it in one line."""
        noun = "source" if self.sources == 1 else "sources"
        return f"nothing was lost: {self.ops} ops compared, with {self.sources} {noun} in all"


GRADIENTS = ("grad", "torch.Tensor.grad.__get__", "torch.Tensor._grad.__get__")


@dataclass(frozen=True)
class Origin:
    """An op, and the line that it was called at."""

    op: str
    location: Location


@dataclass(frozen=True)
class Finding:
    """Something that must have been noted by the time the call that it happened in is over."""

    op: str
    location: Location
    sources: Sources
    address: int | None = None
    is_number: bool = False


@dataclass(frozen=True)
class Made:
    """A call whose results are not marked yet: operators mark them when the call is over."""

    op: str
    location: Location
    results: tuple[Any, ...]  # weak references
    claims: frozenset[Source]  # of its operands
    drawn: int  # how many draws there were before
    elsewhere: frozenset[Source] = frozenset()  # in other parts of what a part is taken of
