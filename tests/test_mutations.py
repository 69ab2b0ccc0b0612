"""Each handler of escapes and writes is needed: without it, some program comes out otherwise.

The handlers are those in the tables of the code, so that a new one asks for a separate program.
"""

import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from mutations import (
    PROGRAMS,
    Disable,
    blind_to_numbers,
    forget_traits,
    healthy,
    naming,
    outcome,
    outcomes,
    replaced,
)
from programs.control.register import CONTROL
from programs.estimates import is_refusal
from torch import Tensor

from ancestral.estimators.gradient import decompose, loss_terms, problem
from ancestral.provenance.dispatch import (
    error_leaks,
    escape,
    implicit_reads,
    inplace,
    linear_forms,
    torch_function,
)
from ancestral.provenance.rules import registry
from ancestral.provenance.tensor import control_flow, storage, tensor
from ancestral.trace.intercept import functorch, tensor_reads
from ancestral.trace.recording import record_site
from ancestral.trace.recording.record import record
from oracles import replaying

Events = dict[str, list[str]]
"""For each handler, the programs that it is asked by."""


def is_refused(name: str) -> bool:
    """Return whether an escape on the first path is refused where escapes are."""
    runs, _ = outcomes(name)
    try:
        with replaying(runs[0], is_whole=False), record(control="error"):
            PROGRAMS[name](*CONTROL[name].parameters)
    except Exception as error:
        if not is_refusal(error):
            raise
        return True
    return False


@functools.cache
def refused_by_default(name: str) -> bool:
    return is_refused(name)


@functools.cache
def events() -> Events:
    """Run every program on two of its paths, and note which handlers it asks."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    seen: set[str] = set()
    real_is_escape, real_dispatch = escape.is_escape, torch_function.dispatch

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

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_function, "is_escape", is_escape)
        patch.setattr(torch_function, "dispatch", dispatch)
        for name, control_flow in CONTROL.items():
            seen.clear()
            runs, _ = outcomes(name)
            for path in (runs[0], runs[-1]):
                with replaying(path), record():
                    control_flow.program(*control_flow.parameters)
            for event in seen:
                found[event].append(name)
    return found


@dataclass(frozen=True)
class Handler:
    """Something that can be switched off, and the programs that ask for it."""

    event: str
    disable: Disable
    setting: str = "strict"
    programs: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.event

    def candidates(self) -> Iterator[str]:
        """Yield the programs that ask for it, and that are right with it."""
        for name in self.programs or events()[self.event]:
            if healthy(name, self.setting) != "biased":
                yield name


MOST = 25


def without_escape(name: str) -> Disable:
    real = escape.is_escape

    def disable(patch: pytest.MonkeyPatch) -> None:
        blind_to_numbers(patch)
        patch.setattr(
            torch_function,
            "is_escape",
            lambda n, args, kwargs: n.split(".")[0] != name and real(n, args, kwargs),
        )

    return disable


def without_write(is_gone: Callable[[str], bool]) -> Disable:
    real = inplace.is_write

    def disable(patch: pytest.MonkeyPatch) -> None:
        for module in (inplace, torch_function):
            patch.setattr(module, "is_write", lambda n: not is_gone(n) and real(n))
        forget_traits(patch)

    return disable


def without_keyword(keyword: str) -> Disable:
    real = inplace.targets

    def targets(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
        return real(name, args, {k: v for k, v in kwargs.items() if k != keyword})

    def disable(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(torch_function, "targets", targets)

    return disable


def without_row(name: str) -> Disable:
    def disable(patch: pytest.MonkeyPatch) -> None:
        patch.delitem(registry.WRITTEN, f"functional.{name}")
        patch.delitem(registry.WRITTEN, name, raising=False)
        forget_traits(patch)

    return disable


def without_control(*others: tuple[Any, str, Any]) -> Disable:
    """Let an escape taint no tensor that is computed later, and change these attributes."""

    def disable(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(torch_function, "mark_decided", lambda *_: None)
        for other in others:
            patch.setattr(*other)

    return disable


def without_sizes(name: str) -> Disable:
    real = functorch._SIZES  # pyright: ignore[reportPrivateUsage]

    def disable(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(functorch, "_SIZES", {n: pick for n, pick in real.items() if n != name})

    return disable


def said(name: str) -> tuple[str, ...]:
    """Return the programs that call a factory of torch or of a tensor."""
    return tuple(naming(rf"(?:torch|theta)\.{name}"))


_constants = problem._constants  # pyright: ignore[reportPrivateUsage]


def as_one_constant(
    constants: Sequence[decompose.Constant], decisions: control_flow.Decisions
) -> list[loss_terms.Term]:
    """Return all that depends on no source as if the newest decision had been in force."""
    newest = max((constant.serial for constant in constants), default=-1)
    return _constants([each._replace(serial=newest) for each in constants], decisions)


def without_written_since(patch: pytest.MonkeyPatch) -> None:
    """Trust the linear form of what was written through another tensor since."""
    patch.setattr(decompose, "written_since", lambda tensor, serial: False)
    patch.setattr(linear_forms, "_written_elsewhere", lambda tensor, serial: False)


def of(module: str) -> tuple[str, ...]:
    """Return the programs of a module."""
    return tuple(n for n, c in CONTROL.items() if c.alone.__module__.endswith(f".{module}"))


# Along a dimension that was drawn, torch takes a number out of it as well. What only asserts has no
# other outcome than an error, and blurs nothing.
ESCAPING = sorted(registry.ESCAPES.keys() - {"select", "_assert_async"})

# Within the block an attribute is written by its patch: see `test_storage` for after it.
WRITING = sorted(registry.WRITES - {"__set__"})

HANDLERS = [
    *(Handler(f"escape {name}", without_escape(name)) for name in ESCAPING),
    *(Handler(f"write {name}", without_write(name.__eq__)) for name in WRITING),
    Handler("write _", without_write(lambda n: n.endswith("_") and not n.endswith("__"))),
    *(Handler(f"keyword {name}", without_keyword(name)) for name in ("out", "inplace")),
    *(
        Handler(f"besides {name}", without_row(name))
        for space, _, name in (each.partition(".") for each in registry.WRITTEN)
        if space == "functional"
    ),
    *(
        Handler(f"sizes {name}", without_sizes(name), programs=said(name))
        for name in functorch._SIZES  # pyright: ignore[reportPrivateUsage]
    ),
    Handler("numbers", blind_to_numbers, programs=of("numbers")),
    Handler(
        "readings", replaced(implicit_reads, "note", lambda found: None), programs=of("shapes")
    ),
    Handler("text", replaced(tensor, "before_reading", []), programs=("a_text", "a_print")),
    Handler("formats", replaced(tensor, "before_reading", []), programs=("a_format_parsed_back",)),
    Handler(
        "memory of others",
        replaced(inplace, "escape", lambda found: None),
        programs=("numpy_that_was_there_before", "a_tensor_on_an_array"),
    ),
    Handler(
        "errors of ops",
        replaced(error_leaks, "fail", lambda found, text: None),
        programs=("an_index_that_is_too_large",),
    ),
    Handler(
        "errors of checks",
        replaced(escape, "fail", lambda found, text: None),
        programs=("a_parameter_that_is_too_large",),
    ),
    Handler(
        "constants of a decision",
        replaced(problem, "_constants", as_one_constant),
        setting="after",
        programs=("a_while_loop", "a_generator"),
    ),
    Handler("written since", without_written_since, programs=("a_module_in_place",)),
    Handler(
        "constructors",
        replaced(tensor_reads, "attach", lambda made, found: made),
        programs=("a_constructor_that_shares",),
    ),
    Handler("shared", replaced(inplace, "mark_shared", lambda *_: None), programs=of("writes")),
    Handler(
        "chosen",
        replaced(torch_function, "note_chosen", lambda *_: None),
        programs=("a_place_that_was_drawn",),
    ),
    Handler("taint", replaced(storage, "taint", lambda *_, **__: None), programs=of("writes")),
    Handler("later tensors", without_control(), programs=("tensors_in_a_scope",)),
    # A value that was drawn is a tensor that was computed: one of the two is enough.
    Handler(
        "later draws",
        without_control((record_site, "controlled", lambda found, shape: found)),
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
    candidates = list(itertools.islice(handler.candidates(), MOST))
    assert candidates, "no program that is right asks for this handler: write one"
    # It may be superfluous for the gradient, but not for the refusal.
    escaping = [n for n in candidates if n in CONTROL and CONTROL[n].escapes is not False]
    by_default = {name: refused_by_default(name) for name in escaping[:5]}
    with pytest.MonkeyPatch.context() as patch:
        handler.disable(patch)
        setting = handler.setting
        changed = (n for n in candidates if outcome(n, setting) != healthy(n, setting))
        wrong = next(changed, None)
        if wrong is None:
            wrong = next((n for n, known in by_default.items() if is_refused(n) != known), None)
    assert wrong is not None, f"none of {candidates} notices"
