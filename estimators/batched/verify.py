"""Verification of batched runs: a proof that each is a run by itself, independent of the others.

They lie along an outer plate, see `ancestral.estimators.batched.outer_plate`. Whether the runs are
independent, and each of them a run of the program, is not taken on trust. The recording proves that
none depends on another: the plate checks alignments, no value may escape, and none may be taken out
of sight with `untrack`. Nothing random may be shared: no random numbers are drawn outside the
sites, and no plate is subsampled. And some runs by themselves, at the values that they have among
the others, must give the same sites, log-probabilities and computed values. What fails any of these
is refused.

What is left is state of the program itself that changes from call to call, such as a counter or a
separate generator of numpy: it is found where it shows in any of the runs that are compared.

>>> import torch
>>> from torch.distributions import Normal
>>> from ancestral.trace.program.primitives import sample
>>> from ancestral.trace.recording.record import record
>>> def program(layout):
...     with record() as trace:
...         z = sample("z", Normal(torch.zeros(2), 1.0))
...         sample("x", Normal(z, 1.0), obs=torch.tensor(0.5))
...     return (trace,)
>>> def recorded(run):
...     with record():
...         return run()
>>> run = at_once(program, 5, recorded(lambda: program(Layout(5, turn=0))), recorded)
>>> run.traces[0]["z"].value.shape, run.value(run.traces[0]["z"]).shape
(torch.Size([5, 2]), torch.Size([5, 2]))
>>> run.total(run.traces[0]["x"]).shape
torch.Size([5])
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ancestral.estimators.batched.layout import OUTER, Layout, Program, Run, is_of_runs
from ancestral.estimators.batched.outer_plate import Traces, along, ledger_of, nesting_of
from ancestral.estimators.batched.rng_guard import Watch
from ancestral.provenance.tensor.tensor import provenance, untrack
from ancestral.trace.context.errors import SiteError
from ancestral.trace.context.place import line_of
from ancestral.trace.nodes.node import Node
from ancestral.trace.nodes.plate import PlateError
from ancestral.trace.recording.message import Handler, Message
from ancestral.trace.recording.trace import Trace
from ancestral.trace.recording.untrack import Vouched, listening


class NotVectorizableError(SiteError):
    """A program cannot be run many times at once along the dimension of an outer plate."""

    def __init__(self, problem: str) -> None:
        """Say what is in the way."""
        self.problem = problem
        super().__init__(
            f"the program cannot be run many times at once: {problem}; write it so that it "
            "broadcasts over dimensions to the left (negative dims, no positions counted from the "
            "left), or run it one time after the other with vectorized=False"
        )


Recorder = Callable[[Callable[[], Traces]], Traces]
"""Makes a run within a recording around it, and keeps that."""


def at_once(program: Program, samples: int, first: Traces, recorded: Recorder) -> Run:
    """Run a program many times at once, at least twice.

    Args:
        program: the program.
        samples: how many runs.
        first: a run by itself, which tells how many dimensions it has.
        recorded: makes each run.

    Raises:
        NotVectorizableError: if the runs were not those that runs in turn would have been.
    """
    layout = Layout(samples, nesting_of(first))
    many = _many(program, layout, recorded)
    _refuse_shared(many, first)
    for turn in sorted({0, samples // 2, samples - 1}):
        torch.rand(())  # what the program draws outside its sites shall not be the same again
        with _Given(many, first, turn):
            single = _tried(recorded, partial(program, replace(layout, turn=turn)))
        for trace, other, one in zip(many, first, single, strict=True):
            _Comparison(layout, turn).check(trace, other, one)
    return Run(many, single, layout)


def _many(program: Program, layout: Layout, recorded: Recorder) -> Traces:
    """Run a program at once, and refuse what the plate cannot see."""
    watch = Watch()
    vouched: list[Vouched] = []
    with listening(vouched.append), watch:
        whole = partial(along, OUTER, layout.samples, layout.nesting)
        many = _tried(recorded, partial(whole, partial(program, layout)))
    if watch.has_drawn:
        raise NotVectorizableError("it draws random numbers outside its sites")
    for each in vouched:
        if ledger_of(each.provenance.universe).apart(each.provenance, OUTER) is not None:
            raise NotVectorizableError(
                f"at {each.location} untrack hides what differs from run to run"
            )
    return many


def _tried(recorded: Recorder, run: Callable[[], Traces]) -> Traces:
    """Run a program of which one run went well; whatever goes wrong now is for how it runs."""
    try:
        return recorded(run)
    except PlateError as error:
        told = str(error).rsplit("; ", 1)[0]  # its advice is for a plate that one knows of
        raise NotVectorizableError(told) from error
    except SiteError as error:
        raise NotVectorizableError(str(error)) from error
    except Exception as error:
        problem = f"at {line_of(error)} it raises {type(error).__name__}: {error}"
        raise NotVectorizableError(problem) from error


class _Given(Handler):
    """Gives a single run the values that it has among the others."""

    def __init__(self, many: Traces, first: Traces, turn: int) -> None:
        self._many, self._first, self._turn = many, first, turn

    def process(self, message: Message) -> Message:
        """Give a site its value."""
        if message.value is not None or message.is_intervened or message.kind != "sample":
            return message
        for trace, first in zip(self._many, self._first, strict=True):
            node, shown = trace.get(message.name), first.get(message.name)
            if node is None or shown is None or node.type != "sample" or not node.value.dim():
                continue
            value = untrack(node.value).detach()[self._turn]
            if value.numel() == shown.value.numel():
                return replace(message, value=value.reshape(shown.value.shape))
        return message


def _refuse_shared(many: Traces, first: Traces) -> None:
    """Raise where runs share what each of them would have drawn for itself."""
    for trace, other in zip(many, first, strict=True):
        for node in trace.values():
            if node.type == "plate" and node.infer["subsample_size"] < node.infer["size"]:
                raise NotVectorizableError(
                    f"plate {node.name!r} ({node.location}) is subsampled, and each run has "
                    "another part"
                )
            if node.is_drawn and node.name in other and _is_shared(node, other[node.name]):
                raise NotVectorizableError(
                    f"{type(node.fn).__name__} of site {node.name!r} ({node.location}) draws one "
                    "value for all of its batch"
                )


def _is_shared(node: Node, other: Node) -> bool:
    """Return whether all runs have one value of a continuous site, and another run another."""
    assert node.fn is not None
    try:
        is_discrete = node.fn.support.is_discrete  # type: ignore[union-attr] # declared optional
    except (NotImplementedError, AttributeError):  # a user's class that declares no support
        is_discrete = False
    value, shown = untrack(node.value), untrack(other.value)
    if is_discrete or not value.dim() or value[0].numel() != shown.numel() or not shown.numel():
        return False
    one = value[0]
    return bool((value == one).all()) and not torch.equal(one.reshape(shown.shape), shown)


@dataclass(frozen=True)
class _Comparison:
    """Compares a run among others with the same run by itself."""

    layout: Layout
    turn: int

    def check(self, many: Trace, first: Trace, single: Trace) -> None:
        """Raise unless many runs at once are what single runs are."""
        if not (list(many) == list(first) == list(single)):
            odd = next(iter({*many} ^ {*single} or {*many} ^ {*first}), "in another order")
            raise NotVectorizableError(f"its runs differ in their sites: {odd!r}")
        for name, node in many.items():
            if node.type != single[name].type:
                raise NotVectorizableError(f"its runs differ in what {name!r} is")
            if node.type == "sample":
                self._check_site(node, single[name], first[name])
            elif node.type == "deterministic":
                self._check_value(node, single[name])

    def _check_site(self, node: Node, one: Node, first: Node) -> None:
        assert node.fn is not None
        assert one.fn is not None
        assert first.fn is not None
        batch, event = one.fn.batch_shape, one.fn.event_shape
        expected = self._wide(batch)
        if (
            tuple(node.fn.batch_shape) != expected
            or node.fn.event_shape != event
            or (first.fn.batch_shape, first.fn.event_shape) != (batch, event)
            or type(node.fn) is not type(one.fn)
        ):
            raise NotVectorizableError(
                f"site {node.name!r} ({node.location}) is a {_shown(node)}; expected a "
                f"{type(one.fn).__name__} with batch {list(expected)} and event {list(event)}"
            )
        densities = [(_tried_density(node, form), _tried_density(one, form)) for form in _FORMS]
        for among, alone in densities:
            if tuple(among.shape) != self._wide(alone.shape):
                raise NotVectorizableError(_mixed(node, f", of shape {list(among.shape)},"))
        if not _is_apart(node, node.tracked_log_prob):
            raise NotVectorizableError(_mixed(node, ""))
        cases = len(one.value.shape) - len(event)
        wide = (*self._wide(one.value.shape[:cases]), *event)
        if tuple(node.value.shape) != wide:
            raise NotVectorizableError(
                f"the value of site {node.name!r} ({node.location}) has shape "
                f"{list(node.value.shape)}; expected {list(wide)}"
            )
        for among, alone in densities:
            _same(node, among[self.turn], alone)
        _same(node, untrack(node.value).detach()[self.turn], untrack(one.value).detach())

    def _check_value(self, node: Node, one: Node) -> None:
        among, alone = untrack(node.value).detach(), untrack(one.value).detach()
        is_stacked = among.shape[:1] == (self.layout.samples,) and (
            math.prod(among.shape) == self.layout.samples * alone.numel()
        )
        if not is_of_runs(node):  # one value for all: it must be that of each of them
            if among.shape != alone.shape and not is_stacked:
                raise NotVectorizableError(f"{node.name!r} ({node.location}) gets another shape")
            copies = 1 if among.shape == alone.shape else self.layout.samples
            return _same(node, among, alone.expand(copies, *alone.shape))
        if not is_stacked or not _is_apart(node, node.tracked_value):
            raise NotVectorizableError(f"{node.name!r} ({node.location}) mixes the runs")
        return _same(node, among[self.turn], alone)

    def _wide(self, batch: tuple[int, ...]) -> tuple[int, ...]:
        """Return the batch of many runs, of which each has this one."""
        ones = (1,) * (self.layout.nesting - len(batch))
        return (self.layout.samples, *ones, *batch)


_FORMS = ("log_prob", "unscaled_log_prob")  # as it counts, and without its mask


def _tried_density(node: Node, form: str) -> Tensor:
    try:
        return untrack(getattr(node, form)).detach()
    except Exception as error:
        raise NotVectorizableError(
            f"nothing can be said of site {node.name!r} ({node.location}), whose log-probability "
            f"raises {type(error).__name__}: {error}"
        ) from error


def _mixed(node: Node, shape: str) -> str:
    where = f"site {node.name!r} ({node.location})"
    return f"the log-probability of {where}{shape} mixes the runs"


def _shown(node: Node) -> str:
    fn = node.fn
    assert fn is not None
    name, batch, event = type(fn).__name__, list(fn.batch_shape), list(fn.event_shape)
    return f"{name} with batch {batch} and event {event}"


def _is_apart(node: Node, tensor: Tensor) -> bool:
    """Return whether elements n of a tensor, [samples, ...], depend on run n alone."""
    assert node.source.universe is not None
    found = ledger_of(node.source.universe).apart(provenance(tensor), OUTER)
    return found is None or 0 in found


def _same(node: Node, among: Tensor, alone: Tensor) -> None:
    """Raise unless what a run has among others is what it has alone, but for rounding."""
    among = among.reshape(alone.shape)
    if not among.dtype.is_floating_point:
        is_same = torch.equal(among, alone)
    else:
        finite = alone[alone.isfinite()].abs()
        tolerance = math.sqrt(torch.finfo(among.dtype).eps)
        largest = 1 + (float(finite.max()) if finite.numel() else 0.0)
        is_same = torch.allclose(
            among, alone.to(among.dtype), rtol=0, atol=tolerance * largest, equal_nan=True
        )
    if not is_same:
        raise NotVectorizableError(
            f"at {node.name!r} ({node.location}) a run among others is not what it is alone"
        )
