"""Each handler of escapes and writes is needed: without it, some program has a biased gradient.

The handlers are those in the tables of the code, so that a new one asks for a program of its own.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import programs.control  # noqa: F401 (registers the programs)
import pytest
import torch
from programs.control.register import CONTROL
from programs.estimates import is_refusal
from torch import Tensor

from ancestral.estimators import problem
from ancestral.estimators.surrogate import backward
from ancestral.provenance import escapes, propagation, side_writes, watching, writes
from ancestral.trace import opaque, scalars, transforms
from ancestral.trace import record as recording
from ancestral.trace.record import record
from oracles import (
    Parameters,
    Path,
    Program,
    derivatives,
    estimates_on,
    expectation,
    flat,
    moments_of,
    paths,
    replaying,
)

Events = dict[str, list[str]]
"""For each handler, the programs that it is asked by."""


@functools.cache
def outcomes(name: str) -> tuple[list[Path], Tensor]:
    """Return every path of a program, and the exact gradient."""
    control, parameters = CONTROL[name], CONTROL[name].parameters
    runs = paths(control.program, parameters)
    return runs, derivatives(expectation(runs), parameters)


def estimate(setting: str) -> Callable[[Program, Parameters], Tensor]:
    def run(program: Program, parameters: Parameters) -> Tensor:
        leaves = [p.detach().clone().requires_grad_() for p in parameters]
        with record(control=setting):
            loss = program(*leaves)
        backward(loss)
        return flat([torch.zeros_like(p) if p.grad is None else p.grad for p in leaves])

    return run


def is_exact(name: str, setting: str) -> bool:
    """Return whether the mean is the exact gradient; what raises is not."""
    control = CONTROL[name]
    runs, gradient = outcomes(name)
    try:
        found = estimates_on(runs, control.program, control.parameters, estimate(setting))
    except (RuntimeError, ValueError, TypeError):
        return False
    return torch.allclose(moments_of(*found).mean, gradient, rtol=1e-6, atol=1e-6)


def is_refused(name: str) -> bool:
    """Return whether an escape on the first path is refused where escapes are."""
    control = CONTROL[name]
    runs, _ = outcomes(name)
    try:
        with replaying(runs[0], is_whole=False), record(control="error"):
            control.program(*control.parameters)
    except Exception as error:
        if not is_refusal(error):
            raise
        return True
    return False


@functools.cache
def is_healthy(name: str, setting: str) -> bool:
    return is_exact(name, setting)


@functools.cache
def refused_by_default(name: str) -> bool:
    return is_refused(name)


@functools.cache
def events() -> Events:
    """Run every program on two of its paths, and note which handlers it asks."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    seen: set[str] = set()
    real_is_escape, real_dispatch = escapes.is_escape, propagation.dispatch
    real_opaque = opaque.opaque

    def is_escape(name: str, args: Any, kwargs: Any) -> bool:
        result = real_is_escape(name, args, kwargs)
        if result:
            seen.add(f"escape {name.split('.')[0]}")
        return result

    def dispatch(func: Any, types: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        name = func.__name__
        seen.update({f"write {name}", f"besides {name}"})
        seen.update(f"keyword {k}" for k in ("out", "inplace") if kwargs.get(k) is not None)
        if name.endswith("_") and not name.endswith("__"):
            seen.add("write _")
        return real_dispatch(func, types, args, kwargs)

    def asked(original: Any) -> Any:
        followed = real_opaque(original)
        event = f"opaque {getattr(original, '__name__', '')}"

        @functools.wraps(original)
        def ask(*args: Any, **kwargs: Any) -> Any:
            seen.add(event)
            return followed(*args, **kwargs)

        return ask

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(propagation, "is_escape", is_escape)
        patch.setattr(propagation, "dispatch", dispatch)
        patch.setattr(transforms, "opaque", asked)
        for name, control in CONTROL.items():
            seen.clear()
            runs, _ = outcomes(name)
            for path in (runs[0], runs[-1]):
                with replaying(path), record():
                    control.program(*control.parameters)
            for event in seen:
                found[event].append(name)
    return found


@dataclass(frozen=True)
class Handler:
    """Something that can be switched off, and the programs that ask for it."""

    event: str
    disable: Callable[[pytest.MonkeyPatch], None]
    setting: str = "strict"
    programs: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.event

    def candidates(self) -> Iterator[str]:
        """Yield the programs that ask for it, and that are right with it."""
        # A program that lets values out besides needs more than the factory.
        is_factory = self.event.startswith("opaque")
        for name in self.programs or events()[self.event]:
            if is_factory and CONTROL[name].escapes:
                continue
            if is_healthy(name, self.setting):
                yield name


def blind_to_numbers(patch: pytest.MonkeyPatch) -> None:
    """Let torch take numbers out of tensors unseen, which else is a second line of defence."""
    patch.setattr(scalars, "escape", lambda found: None)


def without_escape(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    real = escapes.is_escape

    def disable(patch: pytest.MonkeyPatch) -> None:
        blind_to_numbers(patch)
        patch.setattr(
            propagation,
            "is_escape",
            lambda n, args, kwargs: n.split(".")[0] != name and real(n, args, kwargs),
        )

    return disable


def without_write(is_gone: Callable[[str], bool]) -> Callable[[pytest.MonkeyPatch], None]:
    real = writes.is_write

    def disable(patch: pytest.MonkeyPatch) -> None:
        for module in (writes, propagation):
            patch.setattr(module, "is_write", lambda n: not is_gone(n) and real(n))
        forget_traits(patch)

    return disable


def forget_traits(patch: pytest.MonkeyPatch) -> None:
    """Let what is known of functions be asked anew, now and after the test."""
    patch.setattr(propagation, "_traits", {})
    patch.setattr(propagation, "_plain_results", set())


def without_keyword(keyword: str) -> Callable[[pytest.MonkeyPatch], None]:
    real = writes.targets

    def targets(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
        return real(name, args, {k: v for k, v in kwargs.items() if k != keyword})

    def disable(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(propagation, "targets", targets)

    return disable


def without_row(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    def disable(patch: pytest.MonkeyPatch) -> None:
        patch.delitem(side_writes._IN_FUNCTIONAL, name)  # pyright: ignore[reportPrivateUsage]
        patch.delitem(side_writes._IN_TORCH, name, raising=False)  # pyright: ignore[reportPrivateUsage]
        forget_traits(patch)

    return disable


def without_factory(name: str) -> Callable[[pytest.MonkeyPatch], None]:
    left = [n for n in transforms._FACTORIES.split() if n != name]  # pyright: ignore[reportPrivateUsage]

    def disable(patch: pytest.MonkeyPatch) -> None:
        blind_to_numbers(patch)
        patch.setattr(propagation, "escape", lambda *_, **__: None)
        patch.setattr(transforms, "_FACTORIES", " ".join(left))

    return disable


def replaced(owner: Any, name: str, value: Any) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(owner, name, value)


def without_control(*others: tuple[Any, str, Any]) -> Callable[[pytest.MonkeyPatch], None]:
    """Let an escape taint no tensor that is computed later, and change these attributes."""

    def disable(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(propagation, "_control", lambda *_: None)
        for other in others:
            patch.setattr(*other)

    return disable


def of(module: str) -> tuple[str, ...]:
    """Return the programs of a module."""
    return tuple(n for n, c in CONTROL.items() if c.alone.__module__.endswith(f".{module}"))


MOST = 5
"""How many programs are asked whether they are refused."""

# Torch calls these by the name of the op, or follows them without: to leave them out changes
# nothing. What is made sparse by rows or columns, or quantized, no program makes of a draw.
SUPERFLUOUS = frozenset(
    "_typed_storage __iadd__ __isub__ __imul__ __idiv__ __itruediv__ __ifloordiv__ __imod__ "
    "__ipow__ linspace logspace sparse_csr_tensor sparse_csc_tensor sparse_bsr_tensor "
    "sparse_bsc_tensor sparse_compressed_tensor q_scale q_zero_point".split()
)

ESCAPING = sorted(
    (escapes.ESCAPES | escapes._BY_SECOND | {"__getitem__", "where"}) - SUPERFLUOUS  # pyright: ignore[reportPrivateUsage]
)
FACTORIES = [n for n in transforms._FACTORIES.split() if n not in SUPERFLUOUS]  # pyright: ignore[reportPrivateUsage]

HANDLERS = [
    *(Handler(f"escape {name}", without_escape(name)) for name in ESCAPING),
    *(
        Handler(f"write {name}", without_write(name.__eq__))
        for name in sorted(writes.WRITES - SUPERFLUOUS)
    ),
    Handler("write _", without_write(lambda n: n.endswith("_") and not n.endswith("__"))),
    *(Handler(f"keyword {name}", without_keyword(name)) for name in ("out", "inplace")),
    *(
        Handler(f"besides {name}", without_row(name))
        for name in side_writes._IN_FUNCTIONAL  # pyright: ignore[reportPrivateUsage]
    ),
    *(Handler(f"opaque {name}", without_factory(name)) for name in FACTORIES),
    Handler("numbers", blind_to_numbers, programs=of("numbers")),
    Handler("shared", replaced(writes, "mark_shared", lambda *_: None), programs=of("writes")),
    Handler("taint", replaced(watching, "taint", lambda *_, **__: None), programs=of("writes")),
    Handler("later tensors", without_control(), programs=("tensors_in_a_scope",)),
    # A value that was drawn is a tensor that was computed: one of the two is enough.
    Handler(
        "later draws",
        without_control((recording, "_controlled", lambda found, shape: found)),
        programs=("draws_in_a_scope",),
    ),
    Handler(
        "finished terms",
        replaced(problem, "tainted", lambda term, decision: term),
        programs=of("choices"),
    ),
]


@pytest.mark.parametrize("handler", HANDLERS, ids=str)
def test_without_a_handler_some_program_is_wrong(handler: Handler) -> None:
    candidates = list(handler.candidates())
    assert candidates, "no program that is right asks for this handler: write one"
    # It may be superfluous for the gradient, but not for the refusal.
    escaping = [n for n in candidates if CONTROL[n].escapes is not False]
    by_default = {name: refused_by_default(name) for name in escaping[:MOST]}
    with pytest.MonkeyPatch.context() as patch:
        handler.disable(patch)
        wrong = next((name for name in candidates if not is_exact(name, handler.setting)), None)
        if wrong is None:
            wrong = next((n for n, known in by_default.items() if is_refused(n) != known), None)
    assert wrong is not None, f"none of {candidates} notices"
