"""Many runs of a program: at once where it allows that, else one after the other."""

import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ancestral.estimators.batched.outer_plate import OUTER, Traces, along
from ancestral.estimators.batched.run import Given, NotVectorizableError, Run
from ancestral.estimators.batched.verify import Recorder, at_once
from ancestral.estimators.gradient.surrogate import settle
from ancestral.trace.context.argument_checks import check_count
from ancestral.trace.context.errors import EnumerationError
from ancestral.trace.recording.record import current, record

Program = Callable[[], Traces]
"""Runs a program, and returns its traces, parts of one recording."""

Key = tuple[str, str]
"""A value read of a run: a word for its kind, and the name of the site."""

Read = Callable[[Run], Mapping[Key, Tensor]]
"""Returns what there is to know of one run, or of all at once: tensors [samples, ...]."""


class InTurnWarning(UserWarning):
    """A program is run one time after the other, which nobody has asked for."""


@dataclass(frozen=True, eq=False)
class Stacked:
    """What was read of many runs.

    Attributes:
        values: the values, [samples, ...], of what all runs have in one shape.
        ragged: what only some runs have, or in different shapes.
        in_turn: why the runs were made one after the other; empty if they were not.
    """

    values: Mapping[Key, Tensor]
    ragged: tuple[Key, ...] = ()
    in_turn: str = ""


def many(
    verb: str,
    program: Program,
    read: Read,
    samples: int,
    vectorized: bool | None,
    given: Mapping[str, Tensor] | None = None,
) -> Stacked:
    """Run a program many times, and return what is read of the runs.

    An error of the program in its first run, which is by itself, is raised. One that comes only
    when all run at once is a reason to run them in turn, which the warning shows.

    Args:
        verb: what asks for it, for messages.
        program: runs the program once.
        read: reads the runs.
        samples: how many runs.
        vectorized: whether to make them at once; by default, where that can be shown to be right.
        given: values of its sites, each [samples, *shape].

    Raises:
        SiteError: if a value is given to no site, or to one of another shape.
        NotVectorizableError: if they cannot be made at once, and must.
    """
    check_count(f"{verb}: samples", samples)
    if current() is not None:
        raise RuntimeError(
            f"{verb} runs a program many times, without gradients, and was called within an open "
            "an.record(), whose dependencies would end there; call it outside"
        )
    found: list[Mapping[Key, Tensor]] = []
    reason = "vectorized=False" if vectorized is False else "there is only one"
    with torch.no_grad():
        if vectorized is not False and samples > 1:
            try:
                with _recordings(program, given or {}, samples) as recorded:
                    first = recorded(0, 0)
                    return Stacked(dict(read(at_once(recorded, samples, first))))
            except NotVectorizableError as error:
                if vectorized:
                    raise
                reason = error.problem
        for turn in range(samples):
            with _recordings(program, given or {}, samples) as recorded:
                traces = recorded(turn, 0)
                found.append(read(Run(traces, traces)))
            # What is wrong with the program at all comes before the warning.
            if vectorized is None and samples > 1 and turn == 0:
                warnings.warn(
                    InTurnWarning(
                        f"{verb} runs the program {samples} times, one after the other, because "
                        f"not all runs can be made at once: {reason}; if this is meant, say "
                        "vectorized=False"
                    ),
                    stacklevel=3,
                )
    return _stacked(found, reason)


@contextmanager
def _recordings(program: Program, given: Mapping[str, Tensor], samples: int) -> Generator[Recorder]:
    """Give what records runs, and let go of the recordings at the end of the block.

    What autograd saves knows its recording, in a circle that Python cannot see through.
    """
    with ExitStack() as ending:

        def recorded(turn: int | None, nesting: int) -> Traces:
            values = Given(given, turn)
            with record() as around, values:
                ending.callback(settle, around)
                traces = program() if turn is not None else along(OUTER, samples, nesting, program)
            values.refuse_unmet(traces)
            for node in (node for trace in traces for node in trace.values()):
                if node.enumeration is not None:
                    raise EnumerationError(
                        f"site {node.name!r} ({node.location}) is enumerated, or depends on one "
                        "that is; runs of a program need draws of it: take the enumeration away"
                    )
            return traces

        yield recorded


def _stacked(found: Sequence[Mapping[Key, Tensor]], reason: str) -> Stacked:
    keys = list(dict.fromkeys(key for values in found for key in values))
    whole = [key for key in keys if len({v[key].shape if key in v else None for v in found}) == 1]
    values = {key: torch.cat([v[key] for v in found]) for key in whole}
    return Stacked(values, tuple(key for key in keys if key not in values), reason)
