"""Checks: one call, tracked, against what the same call does to perturbed copies of its tensors.

The sources of each call stand in one universe for a whole op, one for each position and shape, so
that what is remembered of one call meets the next of its kind.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from ancestral.provenance.algebra.alignment import Alignment, Shape, keeps
from ancestral.provenance.algebra.provenance import Provenance, Source, Universe
from ancestral.provenance.dispatch import implicit_reads
from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.control_flow import SETTINGS, Decisions
from ancestral.provenance.tensor.tensor import (
    ProvenanceTensor,
    alias,
    attach,
    provenance,
    site_of,
    untrack,
)
from perturbation import dense, reachable
from sweep.calls import Call, Outcome, copied
from sweep.elements import (
    SEEDS,
    changed,
    is_changed,
    perturbations,
    regions,
    single_elements,
    within,
)

ROUNDING = {torch.float64: 1e-9, torch.complex128: 1e-9}
"""What a sum may change by when it is taken in another order, or elsewhere in memory."""

MOST = {"sources": 8, "structure": 4, "alignment": 3, "single elements": 2, "repeated": 4}
"""How often one way to call an op is checked for one thing, on its first samples. That a result
carries its sources is seen without perturbing anything, and checked for every sample."""

_LARGE = 2000  # elements: of large samples, a quarter


@dataclass
class Findings:
    """What the calls of one op showed."""

    problems: list[str] = field(default_factory=list)
    calls: int = 0  # that ran
    undefined: int = 0  # of which two equal ones differ
    follows: bool = False  # some result carried a source
    aligns: bool = False  # some result kept an alignment
    takes_tensors: bool = False
    gives_tensors: bool = False
    refusals: set[str] = field(default_factory=set)  # why calls did not run
    functions: set[Callable[..., Any]] = field(default_factory=set)  # that were followed
    readers: set[str] = field(default_factory=set)  # names of those that took a tensor as a number
    asked: Counter[object] = field(default_factory=Counter)

    def is_due(self, kind: str, *question: object, weight: int = 1) -> bool:
        """Return whether a question was not asked too often yet, and count it."""
        key = (kind, *question)
        self.asked[key] += weight
        return self.asked[key] <= MOST[kind]

    def note(self, call: Call, problem: str) -> None:
        """Add a problem, once for each way to call the op."""
        line = f"{call.name}: {problem}"
        if not any(line == known.split(" | ")[0] for known in self.problems):
            self.problems.append(f"{line} | {described(call)}")


def described(call: Call) -> str:
    """Return a call as text, with shapes for tensors."""

    def shown(item: Any) -> str:
        if isinstance(item, Tensor):
            return f"{str(item.dtype)[6:]}{list(item.shape)}"
        if isinstance(item, (list, tuple)):
            return "[" + ", ".join(map(shown, item)) + "]"
        return repr(item)

    named = [f"{name}={shown(item)}" for name, item in call.kwargs.items()]
    return f"({', '.join([*map(shown, call.args), *named])})"


class Sources:
    """The sources of one op: one for each position and shape."""

    def __init__(self) -> None:
        self.universe = Universe()
        self._known: dict[tuple[int, Shape], Source] = {}

    def __getitem__(self, key: tuple[int, Shape]) -> Source:
        if key not in self._known:
            self._known[key] = Source(f"s{key[0]}", key[1])
        return self._known[key]

    def tracked(self, index: int, tensor: Tensor) -> Tensor:
        """Return a tensor as the source of its position."""
        shape = tuple(tensor.shape)
        return attach(alias(tensor), self.universe.of(self[index, shape], shape))

    def forget_escapes(self) -> None:
        """Note the escapes from now on alone, and let them decide on nothing."""
        self.universe.decisions = Decisions(SETTINGS["ignore"])

    @property
    def escaped(self) -> set[Source]:
        """Return the sources that escaped."""
        return {source for noted in self.universe.decisions.noted for source in noted.sources}

    def carried_by(self, tensor: Tensor, given: dict[str, Source]) -> Provenance | None:
        """Return what a tensor carries; what a draw depends on, the parents of its site carry.

        `given` are the sources that were tracked, by name.
        """
        site = site_of(tensor)
        if site is None:
            return provenance(tensor)
        shape = tuple(untrack(tensor).shape)
        parents = [source for name, source in given.items() if name in site.parents]
        return self.universe.depending(parents, shape) if parents else None

    def of(self, index: int, tensor: Tensor) -> Source:
        """Return the source of a position."""
        return self[index, tuple(tensor.shape)]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the warnings of torch about its own ops out of the way, and nothing watched after."""
    # The database seeds for every sample, and torch.manual_seed goes through all devices.
    seed = mock.patch.object(torch, "manual_seed", torch.default_generator.manual_seed)
    with warnings.catch_warnings(), seed:
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            storage.table.clear()
            storage.unwatch()


@contextmanager
def spying(findings: Findings) -> Iterator[None]:
    """Note every function that is asked to follow a tracked tensor, and which read a number."""
    known = vars(ProvenanceTensor)["__torch_function__"]

    def spy(cls: type, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        findings.functions.add(func)
        return known.__func__(cls, func, types, args, kwargs)

    take = implicit_reads.take

    def taken(func: Any) -> list[Provenance]:
        if implicit_reads.local.found:
            findings.readers.add(func.__name__.split(".")[0])
        return take(func)

    ProvenanceTensor.__torch_function__ = classmethod(spy)  # type: ignore[assignment, method-assign]
    try:
        with mock.patch.object(implicit_reads, "take", taken):
            yield
    finally:
        ProvenanceTensor.__torch_function__ = known  # type: ignore[method-assign]


def check(call: Call, sources: Sources, findings: Findings) -> bool:
    """Check one call: values, sources, alignments; note what is wrong, return whether it ran."""
    tensors = call.tensors
    try:
        plain = call.run([copied(t) for t in tensors])
        again = plain
        if findings.is_due("repeated", call.name) or not is_finite(plain):
            again = call.run([copied(t) for t in tensors])
    except Exception as error:
        findings.refusals.add(type(error).__name__)
        return False
    findings.calls += 1
    findings.takes_tensors |= bool(tensors)
    findings.gives_tensors |= bool(plain.tensors)
    if not is_same(plain.result, again.result):
        findings.undefined += 1
    else:
        Check(call, sources, findings, tensors, plain).every_way()
    if tensors:
        findings.functions.add(call.function)
    return True


def is_finite(outcome: Outcome) -> bool:
    return all(bool(dense(t).isfinite().all()) for t in outcome.tensors)


@dataclass
class Check:
    """One call, what it gives untracked, and where problems go."""

    call: Call
    sources: Sources
    findings: Findings
    tensors: tuple[Tensor, ...]
    plain: Outcome

    def __post_init__(self) -> None:
        size = sum(t.numel() for t in (*self.tensors, *self.plain.tensors))
        is_usual = self.call.name == "function" and size <= _LARGE
        self.weight = 1 if is_usual or self.call.is_number else 3
        pairs = enumerate(zip(self.tensors, self.plain.given, strict=True))
        self.written = [n for n, (old, new) in pairs if is_changed(dense(old), dense(new))]
        self.before = [dense(t) for t in self.plain.visible(self.written)]

    def every_way(self) -> None:
        """Track all tensors together, and each one alone."""
        count = len(self.tensors)
        ways = [tuple(range(count)), *((n,) for n in range(count) if count > 1)]
        claims: set[tuple[int, int, tuple[Alignment, ...]]] = set()
        missing: dict[int, set[int]] = {}
        unnoted: set[int] = set()
        for way in ways if count else []:
            found = self._tracked(way)
            if found is None:
                return
            for index in way:
                source = self.sources.of(index, self.tensors[index])
                if source not in self.sources.escaped:
                    unnoted.add(index)
                elif self.call.is_number:
                    continue  # all that is computed from then on depends on it
                for leaf, carried in enumerate(found):
                    if carried is None or source not in carried.members:
                        missing.setdefault(index, set()).add(leaf)
                    else:
                        found_claims = tuple(a for a, s in carried.entries if source in s)
                        is_sparse = self.tensors[index].layout != torch.strided
                        if all(map(keeps, found_claims)) and not is_sparse:
                            claims.add((leaf, index, found_claims))
            self.findings.follows |= any(found)
        self.findings.aligns |= bool(claims)
        for index in range(count):
            leaves = missing.get(index, set())
            leaves = {n for n in leaves if self._is_due("sources", index, n)}
            is_unnoted = index in unnoted and self._is_due("structure", index)
            if leaves or is_unnoted:
                self._check_sources(index, leaves, is_unnoted)
        for claim in sorted(claims, key=repr):
            if self._is_due("alignment", *claim):
                self._check_alignment(*claim)

    def _is_due(self, kind: str, *question: object) -> bool:
        return self.findings.is_due(kind, self.call.name, *question, weight=self.weight)

    def _tracked(self, way: tuple[int, ...]) -> list[Provenance | None] | None:
        """Run the call with some tensors tracked; return what its results carry."""
        given = [copied(t) for t in self.tensors]
        for index in way:
            given[index] = self.sources.tracked(index, given[index])
        self.sources.forget_escapes()
        try:
            outcome = self.call.run(given)
        except Exception as error:
            self._note(f"raises {error!r:.200} where {way} is tracked")
            return None
        if not is_same(self.plain.result, outcome.result):
            self._note("gives other values, or of another type, where it is tracked")
        visible = outcome.visible(self.written)
        given_sources = {f"s{n}": self.sources.of(n, self.tensors[n]) for n in way}
        found = [self.sources.carried_by(t, given_sources) for t in visible]
        for tensor, carried in zip(visible, found, strict=True):
            if carried is not None and carried.shape != tuple(untrack(tensor).shape):
                self._note(f"carries the provenance of shape {carried.shape}")
                return None
        storage.table.clear()
        storage.unwatch()
        return found

    def _moved(self, index: int, new: Tensor) -> Outcome | None:
        """Run the call with one tensor replaced; None where it does not take it."""
        if self.call.function in _ENDS_THE_PROCESS and _ENDS_THE_PROCESS[self.call.function](new):
            return None
        given = [copied(new if n == index else t) for n, t in enumerate(self.tensors)]
        try:
            return self.call.run(given)
        except Exception:  # a value that the op refuses says nothing
            return None

    def _check_sources(self, index: int, missing: set[int], is_unnoted: bool) -> None:
        """Note a source that a result depends on and does not carry."""
        x = self.tensors[index]
        regions = [None, *(r for _, r in single_elements(tuple(x.shape), 1))]
        for region in regions if x.layout == torch.strided else [None]:
            seeds = SEEDS if region is None else SEEDS[:1]
            for new in perturbations(x, seeds, is_finite=self.call.is_finite):
                moved = self._moved(index, within(region, new, x))
                if moved is None:
                    continue
                if is_unnoted and not is_same_structure(self.plain.result, moved.result):
                    self._note(f"lets the value of tensor {index} out without a word")
                    return
                after = [dense(t) for t in moved.visible(self.written)]
                for leaf in sorted(missing):
                    if leaf >= len(after) or is_changed(self.before[leaf], after[leaf]):
                        self._note(f"result {leaf} loses tensor {index}")
                        return

    def _check_alignment(self, leaf: int, index: int, claims: tuple[Alignment, ...]) -> None:
        """Note an element of a result that changes though none changed that it claims to read."""
        x = self.tensors[index]
        shape = tuple(x.shape)
        others = [*perturbations(x, SEEDS[:1], is_finite=self.call.is_finite)]
        for d in range(len(shape)):
            for _, region in regions(shape, d):
                if not self._holds(leaf, index, region, claims, others):
                    self._note(f"result {leaf} claims {claims} of tensor {index}")
                    return
        singles = 2 if self._is_due("single elements", leaf, index) else 0
        for _, region in single_elements(shape, singles) if singles else ():
            if not self._holds(leaf, index, region, claims, others):
                self._note(f"result {leaf} claims {claims} of tensor {index}, elements")
                return

    def _holds(
        self,
        leaf: int,
        index: int,
        region: Tensor,
        claims: tuple[Alignment, ...],
        others: list[Tensor],
    ) -> bool:
        """Return whether a change in a region stays where it is claimed to stay."""
        before = self.before[leaf]
        beyond = ~reachable(claims, region, tuple(before.shape))
        for new in others:
            moved = self._moved(index, within(region, new, self.tensors[index]))
            if moved is None:
                continue
            visible = moved.visible(self.written)
            if leaf >= len(visible) or visible[leaf].shape != before.shape:
                continue  # a shape that a value decides: that it was read is checked above
            after = dense(visible[leaf])
            if not ((before != after) & beyond).any():
                continue  # nor by rounding, as hardly ever
            if (changed(before, after, rounding(before)) & beyond).any():
                return False
        return True

    def _note(self, problem: str) -> None:
        self.findings.note(self.call, problem)


def is_same(plain: Any, other: Any) -> bool:
    """Return whether two results have the same containers, types, shapes and values."""
    if isinstance(plain, Tensor):
        if not isinstance(other, Tensor):
            return False
        a, b = dense(plain), dense(untrack(other))
        is_alike = (plain.dtype, plain.layout, a.shape) == (other.dtype, other.layout, b.shape)
        return is_alike and not changed(a, b, rounding(a)).any()
    if isinstance(plain, (list, tuple)):
        return (
            type(plain) is type(other)
            and len(plain) == len(other)
            and all(is_same(a, b) for a, b in zip(plain, other, strict=True))
        )
    if isinstance(plain, dict):
        return list(plain) == list(other) and is_same(list(plain.values()), list(other.values()))
    return type(plain) is type(other) and repr(plain) == repr(other)  # of numpy's arrays too


def rounding(tensor: Tensor) -> float:
    """Return the tolerance for numbers of this type."""
    return ROUNDING.get(tensor.dtype, 1e-5)


def is_same_structure(plain: Any, other: Any) -> bool:
    """Return whether two results agree in all that Python sees: shapes, and what is no tensor."""
    if isinstance(plain, Tensor):
        return isinstance(other, Tensor) and plain.shape == other.shape
    if isinstance(plain, (list, tuple)):
        return len(plain) == len(other) and all(map(is_same_structure, plain, other))
    if isinstance(plain, dict):
        return is_same_structure(list(plain.items()), list(other.items()))
    return is_same(plain, other)


# Of some versions of torch: LAPACK reads where such numbers send it.
_ENDS_THE_PROCESS: dict[Any, Callable[[Tensor], bool]] = {
    torch.linalg.eigvals: lambda new: not bool(new.isfinite().all()),
    torch.linalg.ldl_solve: lambda pivots: pivots.dtype in (torch.int32, torch.int64),
}
