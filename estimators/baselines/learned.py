"""Learned baselines: what they know is of earlier recordings."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor

from ancestral.estimators.baselines.leave_one_out import BaselineWarning
from ancestral.estimators.credit.credit import Credit
from ancestral.provenance.tensor.tensor import raw
from ancestral.trace.context.place import stacklevel
from ancestral.trace.nodes.distribution_params import parameters
from ancestral.trace.nodes.node import Node

Memory = dict[str, Tensor]
"""The moments of one site, each with the weight of the recordings that it is a mean of."""


_NEAR = 64


class StateError(ValueError):
    """A state is none of this baseline."""


class Learned(ABC):
    """A baseline that learns from each recording for those after it.

    Unbiased, because what is subtracted holds draws of earlier recordings only, and what a subclass
    adds of this one; whatever the recording is used for, it has the baseline of before. What is
    known of a site is found by its name, and lies where its credit does.
    """

    KEYS: ClassVar[frozenset[str]]
    """What is known of each site."""

    def __init__(self) -> None:
        """Begin with nothing known."""
        self.memories: dict[str, Memory] = {}
        # Of a recording whose gradient is asked for again, whatever was learned since.
        self._given: WeakKeyDictionary[Any, dict[str, Tensor]] = WeakKeyDictionary()
        self._leaves: dict[str, tuple[ref[Tensor] | None, ref[Tensor]]] = {}  # the last two

    def __call__(self, credit: Credit, /) -> Tensor:
        """Return the baseline of a site, broadcastable to its shape, and learn from its credit.

        Warn if it is given the sites of two models by turns.
        """
        self._warn_of_two_models(credit)
        given: dict[str, Tensor] = {}
        if credit.recording is not None:
            given = self._given.setdefault(credit.recording, given)
        if credit.name in given:
            return given[credit.name]  # its own draws are in the memory by now
        memory = {
            k: v.to(credit.total.device) for k, v in self.memories.get(credit.name, {}).items()
        }
        with torch.no_grad():  # else a memory would hold the graphs of all recordings before
            found: Tensor = raw(self._predict, credit, memory)
            self.memories[credit.name] = raw(self._learn, credit, memory)
        given[credit.name] = found
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what only recordings of this process have, for copies and pickles."""
        return {k: v for k, v in vars(self).items() if k not in ("_given", "_leaves")}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Begin without what was left out."""
        vars(self).update(state)
        self._given, self._leaves = WeakKeyDictionary(), {}

    def _warn_of_two_models(self, credit: Credit) -> None:
        """Warn if a site of this name has the parameters of the model before the last again."""
        leaf = None if credit.site is None else first_leaf(credit.site)
        if leaf is None:
            return
        before, last = self._leaves.get(credit.name, (None, ref(leaf)))
        if last() is leaf:
            self._leaves[credit.name] = before, last
            return
        self._leaves[credit.name] = last, ref(leaf)
        if before is not None and before() is leaf:
            warnings.warn(
                BaselineWarning(
                    f"site {credit.name!r} ({credit.site and credit.site.location}): one "
                    f"{type(self).__name__} learns by turns from two models, whose sites of this "
                    "name are one to it; expected one object for each model: give each its own"
                ),
                stacklevel=stacklevel(),
            )

    @abstractmethod
    def _predict(self, credit: Credit, memory: Memory) -> Tensor:
        """Return the baseline of a site by what is known of it."""

    @abstractmethod
    def _learn(self, credit: Credit, memory: Memory) -> Memory:
        """Return what is known of a site after this recording."""

    def state_dict(self) -> dict[str, Any]:
        """Return what is known of all sites, as plain tensors."""
        return {
            name: {key: value.clone() for key, value in memory.items()}
            for name, memory in self.memories.items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what is known of all sites, in place of what was.

        Raises:
            StateError: if it is no such state.
        """
        self.memories = {
            str(name): _checked(name, memory, self.KEYS) for name, memory in state.items()
        }

    def merge_state(self, others: Iterable[Self]) -> Self:
        """Take in what others have learned, as on other ranks, and return this one.

        Each moment is weighed with what it was averaged over.
        """
        merged = [self, *others]
        names = dict.fromkeys(name for each in merged for name in each.memories)
        self.memories = {
            name: _mean([m.memories[name] for m in merged if name in m.memories]) for name in names
        }
        return self


def first_leaf(node: Node) -> Tensor | None:
    """Return a leaf of autograd that the parameters of a site come from, None if none is near."""
    held = [] if node.fn is None else parameters(node.fn)
    tensor = next((each.tensor for each in held if each.tensor.requires_grad), None)
    if tensor is None or tensor.is_leaf:
        return tensor
    step: Any = tensor.grad_fn
    for _ in range(_NEAR):
        if hasattr(step, "variable"):
            found: Tensor = step.variable
            return found
        step = next((each for each, _ in step.next_functions if each is not None), None)
        if step is None:
            break
    return None


def _checked(name: object, memory: object, keys: frozenset[str]) -> Memory:
    is_memory = isinstance(memory, Mapping) and keys <= memory.keys()
    if not isinstance(memory, Mapping) or not is_memory or not _are_tensors(memory.values()):
        raise StateError(
            f"the state of site {name!r} is no dictionary of tensors with "
            f"{', '.join(sorted(keys))}; expected what state_dict() of the same class returned"
        )
    return {str(key): value.detach().clone() for key, value in memory.items()}


def _are_tensors(values: Iterable[object]) -> bool:
    return all(isinstance(value, Tensor) for value in values)


def _mean(memories: list[Memory]) -> Memory:
    """Return the mean of what several know of a site: sums that are weighed as they are."""
    same = [
        m
        for m in memories
        if {k: v.shape for k, v in m.items()} == {k: v.shape for k, v in memories[0].items()}
    ]
    device = {key: value.device for key, value in memories[0].items()}
    return {key: torch.stack([m[key].to(device[key]) for m in same]).mean(0) for key in memories[0]}


def decayed(before: Tensor | None, now: Tensor, rate: Tensor | float) -> Tensor:
    """Return a mean in which what was before loses the part that this comes in with."""
    return now if before is None else (1 - rate) * before + rate * now
