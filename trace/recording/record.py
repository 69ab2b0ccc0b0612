"""Recording: the block during which draws are caught in a trace.

>>> import torch
>>> with record() as trace:
...     z = torch.bernoulli(torch.tensor([0.2, 0.7]))
>>> trace["z"].shape
(2,)
"""

import functools
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any, Generic, ParamSpec, TypeVar, cast

from torch import Tensor

import ancestral.provenance.dispatch.torch_function  # noqa: F401 (by it every op is followed)
from ancestral.provenance.algebra.provenance import Universe
from ancestral.provenance.tensor.control_flow import (
    SETTINGS,
    Began,
    Ruling,
    decisions_of,
    recording,
    setting,
)
from ancestral.provenance.tensor.frame_owner import module_of
from ancestral.provenance.tensor.tensor import track as track_in
from ancestral.trace.audit.auditor import Auditor
from ancestral.trace.context.argument_checks import check_function
from ancestral.trace.context.compile import leave_compiled_code, leaving_compiled_code
from ancestral.trace.context.stack import local, outermost_of
from ancestral.trace.context.switch import join, part, switch
from ancestral.trace.context.trust import Trust, trusted
from ancestral.trace.nodes.generator_noise import NoiseMode
from ancestral.trace.recording.leaf_writes import leaves_of_scores
from ancestral.trace.recording.message import Handler, Message, Raised
from ancestral.trace.recording.trace import Trace

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def current() -> Trace | None:
    """Return the innermost open recording of this thread."""
    found = local.traces[-1] if local.traces else None
    assert found is None or isinstance(found, Trace)
    return found


def not_called(name: str) -> RuntimeError:
    """Return the error that a model or a function is asked for its trace before a call."""
    return RuntimeError(f"this {name} has not been called yet: call it, then read its trace")


class Recorded(Generic[P, R]):
    """A function that is recorded whenever it is called; `trace` is that of the last call."""

    def __init__(
        self,
        function: Callable[P, R],
        begin: Callable[[], AbstractContextManager[Trace]],
    ) -> None:
        """Take the function, and what begins a recording.

        Raises:
            TypeError: if it is no function, or a generator or a coroutine, which would run outside.
        """
        check_function("record", function)
        functools.update_wrapper(self, function)
        self._function = function
        self._begin = begin
        self._trace: Trace | None = None

    def __repr__(self) -> str:
        """Show the function."""
        return f"Recorded({self._function!r})"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function in its own recording."""
        with self._begin() as trace:
            self._trace = trace  # at once: it is readable if the function raises
            return self._function(*args, **kwargs)

    def get_trace(self, *args: P.args, **kwargs: P.kwargs) -> Trace:
        """Call the function in a recording, and return that."""
        self(*args, **kwargs)
        return self.trace

    @property
    def trace(self) -> Trace:
        """The recording of the last call.

        Raises:
            RuntimeError: if there was none.
        """
        if self._trace is None:
            raise not_called(getattr(self._function, "__name__", "function"))
        return self._trace


class record:  # noqa: N801 (used as a verb: with record() as trace)
    """Catch every draw of the block in a trace.

    Inside another recording, draws go into both traces, which share their sources: a gradient
    always sees the outermost one, which is open until the last that was begun in it has ended.
    Threads and tasks that are started in the block take part.

    `control` says what an escape does, a value that leaves tensor land so that Python may branch on
    it:

    - "strict" (the default): all that is drawn or computed afterwards depends on the value, and all
      terms of a loss that were not declared with `cost` by then. Always unbiased.
    - "after": only what is drawn or computed afterwards. Unbiased if the terms that are finished by
      then count regardless of the value, each with its weight. A rollout whose episode may end has
      reward-to-go by itself.
    - "error": an escape raises `EscapeError`.
    - "ignore": an escape is listed in `Trace.escapes` only. Unbiased if no decision follows.

    Within another recording the default is that one's.

    The block is the program. A read after it has ended is that of the loop that trains it (a log, a
    print, a metric, a skipped step), and acts as under "after" whatever the setting: finished terms
    keep their sources, also divided or scaled, and what is computed after the read depends on it,
    such as the reward that a simulator returns for an action. So a choice between finished losses
    by a value belongs in the block, and what no draw has a part in (a weight penalty) is added to
    the loss there, or before the read.

    `trust` names modules, such as packages that are imported, whose code reads values for checks
    and logs only: their reads are no escapes.

    `audit` follows every op of the block a second time, below the tensors: through scripted code,
    backward passes, custom ops and shared memory. It is slow, and for finding out once whether a
    model does anything that the recording loses; where it does, `AuditError` names the op and the
    line. It sees what this thread does within the block; `Trace.audited` says how much that was.
    (`torch.jit.trace` does not run below a mode of the dispatcher: trace before the block.)

    `noise` notes the randomness without parameters of this thread too, as `Trace.noise`: dropout
    masks, `torch.rand`, shuffles, and the noise of reparameterized draws. It is in the graph then,
    with its edges; gradients are as without it, and what Python reads of it is data. Every op of
    the block looks at the generators for it: it has to be asked for here, and costs nothing else.

    ``record()(function)`` is the function, recorded anew at each call: ``.trace`` is the recording
    of the last one, and ``.get_trace(...)`` calls and returns it.
    """

    def __init__(
        self,
        *,
        control: str | None = None,
        trust: Trust = (),
        audit: bool = False,
        noise: bool = False,
    ) -> None:
        """Make a recording that has not begun.

        Raises:
            ValueError: if `control` is none of the four, or `trust` has the name of no module.
        """
        self._control = control
        self._trust = () if trust == () else trusted(trust)
        self._setting = None if control is None else setting(control)
        self._trace: Trace | None = None
        self._is_audited = audit
        self._with_noise = noise
        self._auditor: Auditor | None = None
        self._recorder = _Recorder()
        self._ruling: Ruling | None = None
        self._has_joined = False
        self._ending: list[Callable[..., object]] = []

    @leaving_compiled_code
    def __enter__(self) -> Trace:
        """Begin, and return the trace."""
        leave_compiled_code()
        if self._trace is not None:
            raise RuntimeError("this recording has already been used; make a new one: an.record()")
        outer = local.traces
        self._trace = trace = Trace(outer[-1].universe if outer else None)
        if outer:
            trace.around = cast(Trace, outer[0])
        frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
        try:
            self._begin(trace, None if outer else _opening(frame))
        except BaseException:
            self._end()
            raise
        return trace

    def _begin(self, trace: Trace, began: Began | None) -> None:
        """Switch all on; `began` is where the outermost recording is opened."""
        trace.is_open = True
        self._ending.append(partial(local.pop, trace))
        local.push(trace)
        switch.enter()
        self._ending.append(partial(self._leave, trace.universe))
        self._recorder.trace = trace
        self._recorder.__enter__()
        self._govern(trace.universe, began)
        self._has_joined = True
        join()
        if self._is_audited and local.audit is None:
            self._auditor = Auditor(trace.universe)
            self._ending.append(self._auditor.end)
            self._auditor.begin()
        if self._with_noise:
            trace.noise = []
            noise: Any = NoiseMode(trace, trace.noise)
            noise.__enter__()
            self._ending.append(partial(noise.__exit__, None, None, None))

    def _end(self) -> None:
        """Switch off, the last first, what was switched on."""
        try:
            while self._ending:
                self._ending.pop()()
        finally:
            if self._ending:
                self._end()

    def __exit__(self, *raised: *Raised) -> None:
        """End, and leave torch as it was; the trace stays readable."""
        trace = self._trace
        assert trace is not None
        universe = trace.universe
        outermost: Any = outermost_of(trace)
        try:
            if outermost.begun == 1 and universe.state != "settled":
                outermost.leaves = leaves_of_scores(outermost.everything)
            if self._auditor is not None and raised[1] is None:
                trace.audited = self._auditor.finish()
        finally:
            self._end()

    def __call__(self, function: Callable[P, R]) -> Recorded[P, R]:
        """Return the function, each call of it within its own recording."""
        return Recorded(
            function,
            lambda: record(
                control=self._control,
                trust=self._trust,
                audit=self._is_audited,
                noise=self._with_noise,
            ),
        )

    def _govern(self, universe: Universe, began: Began | None) -> None:
        """Decide what an escape does within the recording."""
        decisions = decisions_of(universe)
        around = self._ruling = decisions.ruling if began is None else decisions.outermost
        if began is None or self._setting is not None or self._trust:
            self._ruling = Ruling(self._setting or around.setting, around.trust + self._trust)
        if began is None:
            decisions.enter(self._ruling)
        else:
            decisions.outermost = self._ruling
            decisions.is_recording = True
            decisions.began = began
            recording.set(universe)

    def _leave(self, universe: Universe) -> None:
        """Undo what every recording does."""
        try:
            if self._has_joined:
                part()
            if self._ruling is not None:
                self._govern_no_more(universe, self._ruling)
            self._recorder.__exit__(None, None, None)
        finally:
            switch.leave()

    def _govern_no_more(self, universe: Universe, ruling: Ruling) -> None:
        """Let escapes do what they do in the recording around, or after the block."""
        decisions, trace = decisions_of(universe), self._trace
        assert trace is not None
        if ruling is not decisions.outermost:
            decisions.leave(ruling)
        is_last = outermost_of(trace).begun == 1
        if is_last:
            decisions.end(universe)
            last = decisions.outermost
            if last.setting.raises:  # what was recorded works as data from now on
                decisions.outermost = replace(last, setting=SETTINGS["strict"])
        is_last = is_last or all([each is trace or each.has_ended for each in local.traces])
        if is_last and recording.get() is universe:
            recording.set(None)


class _Recorder(Handler):
    """Lets a trace see the messages of its block."""

    is_recorder = True
    trace: Trace

    def process(self, message: Message) -> Message:
        """Add the trace to those that have seen the message."""
        if not self.trace.is_open:
            return message
        return replace(message, traces=(self.trace, *message.traces))


def _opening(frame: FrameType | None) -> Began:
    """Return where a recording is opened, by the user or by us for a program of the user's."""
    while frame is not None and module_of(frame) == "contextlib":
        frame = frame.f_back
    return Began(id(frame), -1 if frame is None else frame.f_lasti)


def track(tensor: Tensor, name: str) -> Tensor:
    """Return `tensor` as its own source, called `name`, within the open recording if any.

    The result shares the data and the autograd history; what is computed from it has `name` in its
    provenance, and dimensions that still index those of `tensor` are known to.

    Raises:
        TypeError: if `tensor` is no tensor.
    """
    outermost = local.traces[0] if local.traces else None
    return track_in(tensor, name, None if outermost is None else outermost.universe)
