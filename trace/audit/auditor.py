"""Auditor: the same run followed twice, once by tensors and once below them, and compared.

A tensor that remembers its sources sees torch functions and nothing beneath. While an audit is on,
`ancestral.provenance.dispatch.shadow_memory` follows the bytes as well, through every op of torch's
dispatcher. What a user's code is given and hands on must carry all that its bytes depend on; every
draw and declared cost must have all of it for parents; and what leaves for Python, or is drawn from
a parameter, must have been noted. What a tensor claims beyond its bytes must have one of the
reasons in `EXPLAINED`. Operands are compared before each torch function, results after it: at once,
or where an operator marks them later, before the next one.
"""

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from ancestral.provenance.algebra.provenance import Provenance, Source, Universe
from ancestral.provenance.dispatch.shadow_memory import (
    Calling,
    Following,
    Memory,
    Sources,
    Step,
    tensors_of,
    written,
)
from ancestral.provenance.tensor.control_flow import controlling, decisions_of
from ancestral.provenance.tensor.storage import storage_of
from ancestral.provenance.tensor.tensor import provenance
from ancestral.provenance.tensor.torch_internals import (
    DisableTorchFunction,
    current_graph_task_id,
    is_torch_function_enabled,
)
from ancestral.trace.audit.call_sites import call, is_metadata, spelled
from ancestral.trace.audit.tables import (
    DRAWS,
    FLOWS_UNSEEN,
    GRADIENTS,
    LEAVES,
    Audited,
    Finding,
    Made,
    Origin,
    audit_error,
    is_shaped,
    read_of,
)
from ancestral.trace.context.other_threads import refuse_apart
from ancestral.trace.context.stack import local
from ancestral.trace.context.switch import pop_dispatch_mode, pop_function_mode
from ancestral.trace.nodes.distribution_params import Held
from ancestral.trace.nodes.node import Node


class Auditor:
    """Follows a recording a second time, and raises where the two accounts differ."""

    def __init__(self, universe: Universe) -> None:
        """Make an auditor of the recording that owns `universe`."""
        self._universe = universe
        self._memory = Memory()
        self._following: Any = Following(self._memory, self._origin, self._look, self._is_due)
        self._functions: Any = Calling(self._before, self._refused)
        self._made: list[Made] = []
        self._escapes: list[Finding] = []
        self._draws: list[Finding] = []
        self._results: list[Any] = []  # weak references to what user code was given
        self._sites: list[Source] = []
        self._compared: set[Source] = set()
        self._ops = 0

    def begin(self) -> None:
        """Start to follow the ops of this thread."""
        local.audit = self
        self._following.__enter__()
        self._functions.__enter__()

    def end(self) -> None:
        """Stop, and leave torch's modes as they were."""
        pop_function_mode(self._functions)
        pop_dispatch_mode(self._following)
        local.audit = None

    def finish(self) -> Audited:
        """Compare what is still there, and say how much was compared.

        Raises:
            AuditError: if the accounts differ.
        """
        with DisableTorchFunction():
            self._settle()
            for reference in self._results:
                tensor = reference()
                if tensor is not None:
                    self._compare(tensor)
        return Audited(self._ops, len(self._compared))

    # What the recording tells.

    def drawn(self, node: Node, held: Iterable[Held], value: Tensor, shown: Tensor) -> None:
        """Compare the parents of a draw, and let its value depend on its own site alone."""
        with DisableTorchFunction():
            self._sites.append(node.source)
            address = _address(value)
            direct = [draw for draw in self._draws if draw.address == address]
            self._draws = [draw for draw in self._draws if draw.address != address]
            drawn = [draw.sources for draw in direct] or [self._memory.of(value)]
            self._inflow(node, [t for t, _ in held], drawn)
            own: Sources = {node.source: Origin(f"the draw of {node.name!r}", node.location)}
            storage = storage_of(value)
            is_shared = any(_address(t) == address for t, _ in held)
            is_whole = storage is None or storage.nbytes() == value.numel() * value.itemsize
            if not is_shared and is_whole:
                self._memory.renew(shown, own)
                return
            if not is_shared:
                self._memory.add(shown, own)
            self._memory.trust(shown, own)

    def observed(self, node: Node, held: Iterable[Held]) -> None:
        """Compare the parents of an observation."""
        with DisableTorchFunction():
            self._inflow(node, [t for t, _ in held], [])

    def declared(self, node: Node) -> None:
        """Compare the parents of a cost."""
        with DisableTorchFunction():
            self._inflow(node, [node.value], [])

    def _inflow(self, node: Node, held: list[Tensor], more: list[Sources]) -> None:
        if not self._is_open():
            return
        known = _origins(node.param_provenance)
        needed = {s for found in [*map(self._memory.of, held), *more] for s in found}
        self._compared |= needed
        lost = self._unexplained(needed - known - {node.source})
        if lost:
            raise audit_error(
                f"the {'cost' if node.type == 'cost' else 'site'} {node.name!r}",
                node.location,
                lost,
                "has parameters or a value that depend on",
                "which is not among its parents",
            )

    # What torch does.

    def _is_open(self) -> bool:
        return self._universe.state != "settled"

    def _is_due(self) -> bool:
        # A gradient that was taken without keeping the recording is a constant.
        is_backward = current_graph_task_id() != -1
        return self._is_open() and not (is_backward and self._universe.state == "used")

    def _origin(self, op: Any) -> Origin:
        return Origin(str(op), call().location)

    def _look(self, step: Step) -> None:
        """Note reads and draws, which the recording must know of soon."""
        if not self._is_due():
            return
        if step.sources and call().is_alias:  # the same data, another provenance on purpose
            for result in step.results:
                self._memory.trust(result)
            return
        read = read_of(step, self._memory)
        if read:
            where = call()
            if not (where.is_internal or where.is_check):
                is_number = "_local_scalar_dense" in step.name
                found = Finding(step.name, where.location, read, is_number=is_number)
                self._escapes.append(found)
        if step.name in DRAWS and not local.is_inside:
            filled = list(written(step.op, step.args, step.kwargs))
            given = tensors_of(step.args, step.kwargs)
            parameters = [t for t in given if not any(t is other for other in filled)]
            sources = {s: at for t in parameters for s, at in self._memory.of(t).items()}
            if sources or any(t.requires_grad for t in parameters):
                address = _address(step.results[0])
                self._draws.append(Finding(step.name, call().location, sources, address))

    def _before(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Callable[[Any], None]:
        """Compare what a torch function is given; return what compares its result."""
        if is_metadata(func):
            return _nothing
        where = call()
        is_hidden = where.is_internal or current_graph_task_id() != -1
        if is_hidden or not self._is_open():
            return _nothing
        is_marked = is_torch_function_enabled()  # else by an operator, after this call
        with DisableTorchFunction():
            self._settle()
            given = list(tensors_of(args, kwargs))
            for tensor in given:
                self._compare(tensor)
            claims = frozenset(s for tensor in given for s in _claims(tensor))
            for source in claims:
                refuse_apart(source)
            read = _union(self._memory.of(t) for t in given) if _name(func) in LEAVES else {}
        elsewhere = _confined(given[0]) if given and _name(func) in PARTS else frozenset()
        made = Made(spelled(func), where.location, (), claims, len(self._sites), elsewhere)
        is_carried = is_marked and not is_shaped(_name(func), args, kwargs)
        return partial(self._after, func, made, given, read, is_marked, is_carried)

    def _after(
        self,
        func: Any,
        made: Made,
        given: list[Tensor],
        read: Sources,
        is_marked: bool,
        is_carried: bool,
        result: Any,
    ) -> None:
        """Compare the result of a torch function, at once if it has its provenance already."""
        self._ops += 1
        with DisableTorchFunction():
            fresh = [t for t in tensors_of((result,), {}) if not any(t is x for x in given)]
            if _name(func) in FLOWS_UNSEEN:
                unseen = _union(self._memory.of(t) for t in given)
                for tensor in fresh:
                    self._memory.claim(tensor, unseen)
            self._escapes = [replace(escape, op=made.op) for escape in self._escapes]
            if read:
                self._escapes.append(Finding(made.op, made.location, read))
            if not local.is_inside:  # what a draw is made of is nobody's afterwards
                self._results.extend(map(weakref.ref, fresh))
            self._made.append(replace(made, results=tuple(map(weakref.ref, [*fresh, *given]))))
            if fresh and is_carried:
                self._forgive(fresh)
            if is_marked:
                self._settle()

    def _refused(self) -> None:
        """Take nothing for lost that a function has raised at instead."""
        self._escapes.clear()
        self._draws.clear()

    def _forgive(self, results: list[Tensor]) -> None:
        """Take it for no escape if an op reads a number off a tensor for all of its results."""
        carried = frozenset.intersection(*map(_claims, results))
        self._escapes = [
            e for e in self._escapes if not (e.is_number and e.sources.keys() <= carried)
        ]

    def _settle(self) -> None:
        """Compare what was made, and look whether what happened meanwhile was noted."""
        pending, self._made = self._made, []
        for made in pending:
            for reference in made.results:
                tensor = reference()
                if tensor is not None:
                    self._compare(tensor, made)
        escapes, self._escapes = self._escapes, []
        for escape in escapes:
            self._require_noted(escape)
        draws, self._draws = self._draws, []
        for draw in draws:
            raise audit_error(
                draw.op,
                draw.location,
                draw.sources,
                "drew, where no recording sees it, from parameters that are learned or depend on",
                "and its score is missing; draw outside of autograd.Function and scripted code",
            )

    def _require_noted(self, escape: Finding) -> None:
        here = escape.location
        noted = {
            name
            for known in decisions_of(self._universe).noted
            if (known.escape.filename, known.escape.line) == (here.filename, here.line)
            for name in known.escape.sources
        }
        sources = {s for s in escape.sources if s.universe is self._universe}
        lost = {s for s in sources if s.name not in noted}
        if lost and self._is_open():
            raise audit_error(
                escape.op,
                here,
                lost,
                "gave Python, or a shape, a value that depends on",
                "and the recording did not note the escape",
            )

    def _compare(self, tensor: Tensor, made: Made | None = None) -> None:
        """Compare what a tensor claims with what its bytes depend on."""
        if not self._is_open():
            return
        claims, below = _claims(tensor), self._memory.of(tensor)
        self._compared |= below.keys()
        lost = self._unexplained(below.keys() - claims)
        if made is not None and lost and lost <= made.elsewhere:
            # One account for all bytes of a storage cannot tell its parts: another part has these.
            self._memory.trust(tensor, {s: at for s, at in below.items() if s not in lost})
        elif lost:
            origin = next(below[s] for s in lost) if made is None else made
            met = "" if made is not None else f" when it comes to {call().location}"
            raise audit_error(
                origin.op,
                origin.location,
                lost,
                "left a value in memory that depends on",
                f"and the tensor does not carry it{met}",
            )
        extra = claims - below.keys()
        if extra and made is not None and made.op not in GRADIENTS:
            invented = self._unexplained(extra - made.claims - set(self._sites[made.drawn :]))
            if invented:
                raise audit_error(
                    made.op,
                    made.location,
                    invented,
                    "gave a tensor that carries",
                    "though no operand does",
                )
        if extra:
            place = made or Origin("a tensor", call().location)
            self._memory.claim(tensor, dict.fromkeys(extra, Origin(place.op, place.location)))

    def _unexplained(self, sources: Iterable[Source]) -> frozenset[Source]:
        explained = _origins(controlling()).union(*map(_origins, local.around))
        return frozenset(s for s in sources if s not in explained and self._is_random(s))

    def _is_random(self, source: Source) -> bool:
        """Return whether a source is none of another recording that is over, and so a constant."""
        other = source.universe
        return other is None or other is self._universe or other.state == "open"


PARTS = frozenset(
    "__getitem__ select narrow unbind split split_with_sizes chunk tensor_split".split()
)
"""The functions that take a part of a tensor by numbers and slices."""


def _confined(tensor: Tensor) -> frozenset[Source]:
    """Return the sources that only some elements of a tensor depend on, as it claims."""
    found = provenance(tensor)
    entries = () if found is None else found.entries
    everywhere = {s for alignment, members in entries if not alignment.here for s in members}
    return frozenset(s for _, members in entries for s in members) - everywhere


def _claims(tensor: Tensor) -> frozenset[Source]:
    return _origins(provenance(tensor))


def _origins(found: Provenance | None) -> frozenset[Source]:
    """Return the sources that somebody drew: for decisions, those that they rest on."""
    return frozenset(() if found is None else found.universe.origins(found.members))


def _name(func: Any) -> str:
    return getattr(func, "__name__", "")


def _nothing(result: Any) -> None:
    """Compare nothing."""


def _union(parts: Iterable[Sources]) -> Sources:
    return {source: at for part in parts for source, at in part.items()}


def _address(tensor: Tensor) -> int | None:
    storage = storage_of(tensor)
    return None if storage is None else int(storage._cdata)
