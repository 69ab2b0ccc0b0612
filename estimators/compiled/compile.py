"""Compile: a loss function as one compiled step, whose gradient is the estimator's.

>>> import torch
>>> logits = torch.zeros(100, requires_grad=True)
>>> def loss_fn(target):
...     z = torch.distributions.Bernoulli(logits=logits).sample()
...     return (z - target).pow(2).sum()
>>> step = compile(loss_fn, backend="eager")
>>> step(torch.full((100,), 0.45)).backward()
>>> step.plan.is_compiled, logits.grad.shape
(True, torch.Size([100]))
"""

import copy
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, Literal, ParamSpec

import torch
from torch import Tensor, fx
from torch.compiler import is_dynamo_compiling

from ancestral.estimators.capture.checkpoints import write_out_checkpoints
from ancestral.estimators.capture.markers import (
    mark_no_more,
    mark_what_is_compiled,
    times_read,
    unmarked,
)
from ancestral.estimators.capture.parallel import alone, is_around, put_within, unsplit
from ancestral.estimators.capture.randomness import DRAWS, mark_plain_draws
from ancestral.estimators.capture.reductions import write_out
from ancestral.estimators.capture.refusal import Refusal, refusal_of
from ancestral.estimators.capture.replaced_methods import Watch, guarding_hooks
from ancestral.estimators.capture.symbols import (
    Symbols,
    concrete,
    is_symbolic,
    tensors_of,
)
from ancestral.estimators.compiled.analysis import analysed
from ancestral.estimators.compiled.asking import put_around
from ancestral.estimators.compiled.backends import BACKENDS, finished
from ancestral.estimators.compiled.emission import emit
from ancestral.estimators.compiled.entry import AsItIs, apart, entry, with_indices, with_more
from ancestral.estimators.compiled.memories import Memories, Unlearned
from ancestral.estimators.compiled.plan import Plan, plan_of
from ancestral.estimators.compiled.self_check import Outcome, compare, outcome, undone
from ancestral.estimators.credit.credit import Estimator, by_element
from ancestral.estimators.credit.site_choices import PerSite
from ancestral.estimators.gradient.estimator_choice import Choice
from ancestral.estimators.gradient.subtraction import Baselines, check_baseline
from ancestral.estimators.gradient.surrogate import settle, surrogate
from ancestral.estimators.inference.elbo import scored_later
from ancestral.provenance.tensor.tensor import untrack
from ancestral.provenance.tensor.torch_internals import (
    checks_kept,
    compiler,
    kept_code,
    own_copy,
)
from ancestral.trace.context.argument_checks import kind_of
from ancestral.trace.context.place import stacklevel
from ancestral.trace.context.stack import local
from ancestral.trace.nodes.plate_frame import open_plates
from ancestral.trace.params.store import open_store
from ancestral.trace.recording.message import is_handled
from ancestral.trace.recording.record import record
from ancestral.trace.recording.trace import Trace

P = ParamSpec("P")
Backend = Literal["inductor", "aot_eager", "eager"]


class NotCompiledWarning(UserWarning):
    """A loss function is not compiled: it runs eagerly, with the same gradient."""


@dataclass(frozen=True, eq=False)
class Options:
    """How a step is compiled, and its gradient estimated."""

    baseline: Baselines
    estimator: PerSite[Choice]
    credit: PerSite[Estimator]
    dynamic: bool
    backend: Backend
    mode: str | None

    def surrogate(self, loss: Any, baseline: Baselines) -> Tensor:
        """Return the surrogate of a recorded loss."""
        return surrogate(loss, baseline=baseline, estimator=self.estimator, credit=self.credit)


_first_plan = threading.RLock()
"""Held while a step is compiled first: all threads draw from one generator, and plans compare."""


class _Reading(threading.local):
    """The call that the compiler reads the loss function for, and why it could not, by thread."""

    call: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    failed: BaseException | None = None


class Compiled(Generic[P]):
    """A loss function as a compiled step: call it for the loss, whose backward is the estimator's.

    Attributes:
        plan: what was found in the loss, None before the first call; print it.
    """

    def __init__(self, function: Callable[P, Tensor], options: Options) -> None:
        self.plan: Plan | None = None
        self._is_refused = False
        self._function, self._options = function, options
        self._reading, self._watch = _Reading(), Watch()
        self._memories = Memories(options.baseline)
        with checks_kept():
            self._apart = apart()
            step = entry(function)
            self._kept = kept_code(step)
            self._compiled = torch.compile(
                step, backend=self._backend, fullgraph=True, dynamic=options.dynamic
            )

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy what the step is made of; each copy is compiled by itself."""
        return Compiled, (self._function, self._options)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        """Return the loss of one step, []; its backward accumulates the gradient's estimate."""
        if is_dynamo_compiling():
            return self._apart(self, args, kwargs)
        if local.traces:  # part of what sees every draw of it
            with scored_later():
                return self._function(*args, **kwargs)
        if not torch.is_grad_enabled():  # nothing is asked but the value
            with record():
                loss = self._function(*args, **kwargs)
            return untrack(loss)
        if self._is_refused or is_handled() or open_plates():  # which change what it does
            return self._eager(args, kwargs)
        try:
            return self._run(args, kwargs)
        except Refusal as error:
            refusal = error
        found = self._eager(args, kwargs)  # which may raise what the compiler ran into
        if isinstance(refusal, Unlearned):
            before, self._memories = self._memories, self._memories.renewed()
            if len(self._memories.tensors) > len(before.tensors):
                return found
        self.plan, self._is_refused = Plan(refusal=str(refusal)), True
        warnings.warn(_warning(refusal), stacklevel=stacklevel())
        return found

    def _eager(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        with record(), scored_later():
            loss = self._function(*args, **kwargs)
        return self._options.surrogate(loss, self._options.baseline)

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Run the compiled step, which the compiler makes where its guards find none that fits."""
        if self._watch.is_changed:
            raise Refusal("a method of a class that it uses was replaced since it was compiled")
        if self._memories.tensors:
            self._memories.keep()
        self._reading.call = args, kwargs
        try:
            if self.plan is not None:  # a step may be as short as what the compiler does for it
                try:
                    found: Tensor = self._kept(open_store(), args, kwargs)
                except AsItIs:  # no code fits
                    pass
                else:
                    return found
            return self._compile(args, kwargs)
        finally:
            self._reading.call = None

    def _compile(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Let the compiler look for code that fits, and make a plan where there is none."""
        reading, before = self._reading, times_read()
        reading.failed = None
        mark_what_is_compiled(self._memories.look_at_sites)
        try:
            is_first = self.plan is None or is_around()
            with guarding_hooks(), _first_plan if is_first else nullcontext(), unsplit():
                found: Tensor = self._compiled(open_store(), *args, **kwargs)
        except Exception as error:
            if isinstance(error, Refusal):
                raise
            if isinstance(reading.failed, Refusal):
                raise reading.failed from error
            if times_read() == before and not isinstance(error, compiler().limit_hit):
                raise  # by the step itself
            raise refusal_of(error) from error
        finally:
            mark_no_more()
        if self.plan is None:
            raise Refusal("the compiler found nothing that is computed with tensors")
        return found

    def _backend(self, module: fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        """Return the code of a captured loss, with its scores."""
        try:
            with unmarked():  # it is read by now
                return self._planned(module, inputs)
        except Exception as error:
            refusal = error if isinstance(error, Refusal) else refusal_of(error)
            if is_symbolic(inputs) and refusal is not error:
                refusal.reason = f"dynamic=True, one plan for all sizes, fails: {refusal.reason}"
            self._reading.failed = refusal
            raise

    def _planned(self, module: fx.GraphModule, given: list[Any]) -> Callable[..., Any]:
        options, memories, begin = self._options, self._memories, time.perf_counter()
        inputs = concrete(given)
        tensors = tensors_of(inputs)
        if not any(tensor.requires_grad for tensor in tensors):
            raise Refusal("nothing that the loss is computed from has requires_grad=True")
        module = own_copy(module)
        with alone() as modules:
            trace, eager = self._recorded(tensors)
        known = [node for node in trace.everything if node.is_drawn]
        write_out_checkpoints(module, DRAWS)
        write_out(module.graph)
        mark_plain_draws(module.graph)
        module.recompile()
        symbols = Symbols(module) if is_symbolic(given) else None
        with (
            undone(tensors),
            analysed(
                module, inputs, known, options.estimator, options.credit, eager.value
            ) as analysis,
        ):
            asking = emit(module, analysis, memories, symbols)
            plan = plan_of(analysis.problem, trace.graph)
        distance = partial(_distance, memories, analysis.output, analysis.rounding)
        planned = asking and replace(asking, baselines=memories.for_a_plan)
        apart = distance(put_around(module, planned), inputs, eager)
        seconds = time.perf_counter() - begin
        kept = module if symbols is None else own_copy(module)
        learned = memories.tensors
        code = finished(module, [*given, *learned], options.backend, options.mode)
        code = put_within(put_around(code, asking), [*modules], analysis.output)
        if learned:
            code = with_more(code, learned)
        if analysis.indices:
            code = with_indices(code, analysis.indices)
        self.plan = replace(plan, apart=apart, seconds=seconds)
        if symbols is None:
            return code
        return self._checked_at_each_size(code, partial(distance, kept), _sizes(inputs))

    def _checked_at_each_size(
        self,
        code: Callable[..., Any],
        distance: Callable[[Sequence[Any], Outcome], float],
        size: tuple[int, ...],
    ) -> Callable[..., Any]:
        """Return code that is compared with a recording at each size that it meets first."""
        seen = {size}

        def checked(*inputs: Any) -> Any:
            size = _sizes(inputs)
            if size not in seen:
                with unmarked(), alone():
                    _, eager = self._recorded(tensors_of(inputs))
                    distance(inputs, eager)
                seen.add(size)
            return code(*inputs)

        return checked

    def _recorded(self, tensors: list[Tensor]) -> tuple[Trace, Outcome]:
        """Run the loss function itself within a recording; what it changes stays as it was."""
        baseline = self._memories.for_a_plan()
        assert self._reading.call is not None
        args, kwargs = self._reading.call
        traces: list[Trace] = []
        memo = {id(tensor): tensor for tensor in tensors}
        try:
            function = copy.deepcopy(self._function, memo)
        except Exception:  # what cannot be copied runs as it is
            function = self._function

        def run() -> Tensor:
            with record() as trace, self._watch.meeting(), scored_later():
                traces.append(trace)
                loss = function(*args, **kwargs)
            self._memories.refuse_other(trace.everything)
            return self._options.surrogate(loss, baseline)

        try:
            found = outcome(run, tensors)
        except Refusal:
            raise
        except Exception as error:
            raise Refusal(f"it raises {type(error).__name__}: {error}") from error
        finally:
            for trace in traces:
                settle(trace)
        return traces[0], found


def _distance(
    memories: Memories,
    output: int,
    rounding: float,
    code: Callable[..., Any],
    inputs: Sequence[Any],
    eager: Outcome,
) -> float:
    """Return how far a graph with scores is from a recording of the same draws."""
    with undone(memories.tensors):
        given = (*inputs, *memories.tensors)
        found = outcome(lambda: code(*given)[output], tensors_of(inputs))
    return compare(found, eager, rounding)


def _sizes(inputs: Sequence[Any]) -> tuple[int, ...]:
    return tuple(each for each in inputs if isinstance(each, int))


def _warning(refusal: Refusal) -> NotCompiledWarning:
    return NotCompiledWarning(
        f"{refusal}; the step runs eagerly from now on, with the same gradient"
    )


def compile(  # noqa: A001 (as torch calls it)
    loss_fn: Callable[P, Tensor],
    *,
    baseline: Baselines = "auto",
    estimator: PerSite[Choice] = "auto",
    credit: PerSite[Estimator] = by_element,
    dynamic: bool = False,
    backend: Backend = "inductor",
    mode: str | None = None,
) -> Compiled[P]:
    """Return a loss function as a step that torch compiles, its draws' scores included.

        step(x).backward()   for   with record(): loss = loss_fn(x);  backward(loss)

        ∇ E[L] = E[ ∇L + Σ_i Σ_s ∇ log q(z_i[s]) · (Σ_{(j,t) downstream of (i,s)} c_j[t] - b_i[s]) ]

    The loss function is plain torch that draws, and returns a scalar. Torch's compiler captures it
    as a graph and guards what it has read; the graph is run once within a recording, which finds
    the sites, the terms and who depends on whom, and the scores with their credit become part of
    it. Whenever a guard fails, all of that is done again: there is no other plan than the
    compiler's own. Each plan is compared with a recording of the same draws before it is used, for
    which the loss function is called once more, on copies of the modules that it belongs to.

    What cannot be compiled (a read of a drawn value, a branch on one, a draw without a density)
    runs eagerly from then on, with the same gradient, after one `NotCompiledWarning` that names the
    line and the reason. Each turn of a Python loop is compiled by itself, half a second or more for
    each draw: compile the body of a long loop, and call it within a recording.

    Within a recording a step is its loss function. Schulman et al. (2015), "Gradient estimation
    using stochastic computation graphs", theorem 1.

    Args:
        loss_fn: returns the loss, [].
        baseline: as in `ancestral.backward`.
        estimator: as there.
        credit: as there.
        dynamic: whether one plan serves all sizes of the arguments, as far as torch can.
        backend: torch's "inductor"; "aot_eager" and "eager" compile nothing, and are for tests.
        mode: as in `torch.compile`, such as "reduce-overhead" or "max-autotune".

    Raises:
        TypeError: if `loss_fn` cannot be called, or `baseline` is none.
        ValueError: if `backend` is none of the three.
    """
    if not callable(loss_fn):
        raise TypeError(
            f"loss_fn must be a function that returns the loss, not {kind_of(loss_fn)}: "
            "an.compile(model.loss), then step(batch).backward()"
        )
    check_baseline(baseline)
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, not {backend!r}")
    return Compiled(loss_fn, Options(baseline, estimator, credit, dynamic, backend, mode))
