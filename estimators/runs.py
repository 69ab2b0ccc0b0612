"""Runs: many runs of a program, at once where it allows that, else one after the other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ancestral.estimators.vectorized import Layout, NotVectorizableError, Program, Run, at_once
from ancestral.trace.record import current

Key = tuple[str, str]
"""What is read of a run: a word for what it is, and the name of the site."""


class OpenRecordingError(RuntimeError):
    """Runs of a program are asked for within a recording."""

    def __init__(self, verb: str) -> None:
        """Say what to do."""
        super().__init__(
            f"{verb} runs a program many times, without gradients, and was called within an open "
            "an.record(), whose dependencies would end there; call it outside"
        )


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
    read: Callable[[Run], Mapping[Key, Tensor]],
    samples: int,
    vectorized: bool | None,
) -> Stacked:
    """Run a program many times, and return what is read of the runs.

    Args:
        verb: what asks for it, for messages.
        program: runs the program as a layout says.
        read: returns what there is to know of one run, or of all at once.
        samples: how many runs.
        vectorized: whether to make them at once; by default, where that can be shown to be right.

    Raises:
        ValueError: if `samples` is no positive number.
        OpenRecordingError: if a recording is open.
        NotVectorizableError: if they cannot be made at once, and must.
    """
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
        raise ValueError(f"{verb}: samples must be an int greater than 0, not {samples!r}")
    if current() is not None:
        raise OpenRecordingError(verb)
    with torch.no_grad():
        if samples == 1 or vectorized is False:
            return _in_turn(program, read, samples, "so it was asked for")
        try:
            run = at_once(program, samples)
        except Exception as error:
            # A program that is wrong, and not only unfit for this, raises again in turn.
            if vectorized:
                raise
            found = str(error) if isinstance(error, NotVectorizableError) else repr(error)
            return _in_turn(program, read, samples, found)
        return Stacked(dict(read(run)))


def _in_turn(
    program: Program, read: Callable[[Run], Mapping[Key, Tensor]], samples: int, reason: str
) -> Stacked:
    found: list[Mapping[Key, Tensor]] = []
    for turn in range(samples):
        layout = Layout(samples, turn=turn)
        traces = program(layout)
        found.append(read(Run(traces, traces, layout)))
    keys = list(dict.fromkeys(key for values in found for key in values))
    whole = [key for key in keys if len({v[key].shape if key in v else None for v in found}) == 1]
    values = {key: torch.stack([v[key] for v in found]) for key in whole}
    return Stacked(values, tuple(key for key in keys if key not in values), reason)
