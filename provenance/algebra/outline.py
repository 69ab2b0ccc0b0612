"""Outline: what is the same of all tensors whose sources all stand under one alignment.

A long program has as many sources as steps, and does with each what it does with the others. What
a step makes of a tensor whose sources stand under one alignment depends on its shape and on that
alignment, whatever the sources are, so that it is found out and kept once for all of them.

>>> outlines = Outlines()
>>> z = outlines.of((4, 3), Alignment((0, 1)))
>>> z.remap((4,), (0,)) is outlines.of((4,), Alignment((0,)))
True
"""

from collections.abc import Callable
from typing import Any

from ancestral.provenance.algebra.alignment import (
    Alignment,
    Regroup,
    Shape,
    Step,
    apply,
    as_alignment,
    fit,
    nothing_kept,
    whole,
)


class Outline:
    """The shape of a tensor, and the one alignment that it has with all of its sources.

    There is one for each pair: equality is identity. `known` has what steps make of it, and the
    answers of rules for calls with no other tracked operand.
    """

    __slots__ = ("alignment", "known", "outlines", "shape")

    def __init__(self, outlines: "Outlines", shape: Shape, alignment: Alignment) -> None:
        """Make an outline; only `Outlines.of` does."""
        self.outlines = outlines
        self.shape = shape
        self.alignment = alignment
        self.known: dict[tuple[Any, ...], Any] = {}

    def remap(self, shape: Shape, step: Step) -> "Outline | None":
        """Return the outline of the result of a step, None where no source reaches it.

        A dimension that changes its size is lost: it no longer indexes element by element.
        """
        key = (shape, step)
        if key in self.known:
            known: Outline | None = self.known[key]
            return known
        fitted = step if isinstance(step, Regroup) else fit(as_alignment(step), self.shape, shape)
        moved = apply(fitted, self.alignment)
        found = None if moved is None else self.outlines.of(shape, whole(moved, shape))
        self.keep(key, found)
        return found

    def lost(self, shape: Shape) -> "Outline":
        """Return the outline of a tensor that depends on the sources we know not how."""
        return self.outlines.of(shape, nothing_kept(len(shape)))

    def keep(self, key: tuple[Any, ...], found: object) -> None:
        """Keep what a step makes of it, or the answer for a call."""
        self.known[key] = found
        self.outlines.grow()


class Outlines:
    """The outlines that the recordings of a thread have met; `grow` is told what they keep."""

    def __init__(self, grow: Callable[[], object] = lambda: None) -> None:
        self.grow = grow
        self._found: dict[Shape, dict[Alignment, Outline]] = {}

    def of(self, shape: Shape, alignment: Alignment) -> Outline:
        """Return the one outline of this shape and alignment."""
        alike = self._found.get(shape)
        if alike is None:
            alike = self._found.setdefault(shape, {})
        found = alike.get(alignment)
        if found is None:
            found = alike.setdefault(alignment, Outline(self, shape, alignment))
            self.grow()
        return found
