"""Draws apart: those of threads and processes that take no part in the recordings that are open.

Such a draw has a universe to itself, whose owner says what it was. Whoever has the value may go on
with it; a recording that it reaches has no score for it, and refuses the gradient.
"""

from dataclasses import dataclass

from ancestral.provenance.algebra.provenance import Source, Universe
from ancestral.trace.context.place import Location

_CURE = (
    "let the recording's own thread draw, hand the work over by what it follows (threading.Thread, "
    "ThreadPoolExecutor, ThreadPool, asyncio, started or called within the block), or draw it "
    "without gradients if it is data: under torch.no_grad with parameters that require none, or "
    "an.untrack(value)"
)


class UnrecordedDrawError(RuntimeError):
    """A draw that has a score happened where the recording that needs it could not see it."""


def lost_away(name: str, location: Location) -> str:
    """Return what is wrong with a draw in a process that works for a recording of another."""
    return (
        f"{name!r} is drawn at {location} in a process that works for a recording of another, "
        "which does not see it, so that its score would be lost; let the process return the "
        "parameters of the distribution and draw in the recording, or, if nothing of this reaches "
        "a loss that is recorded, start the process and hand its work over outside of the block"
    )


@dataclass(frozen=True)
class Apart:
    """A draw that no recording took in."""

    name: str
    location: Location
    thread: str
    is_reparameterized: bool

    def refuse(self) -> None:
        """Raise an UnrecordedDrawError."""
        raise UnrecordedDrawError(
            f"{self.name!r} was drawn at {self.location} in thread {self.thread!r}, which takes no "
            "part in the recording that its value reached (it is older, or was not started by the "
            f"recording), so that its score is lost; {_CURE}"
        )


def refuse_apart(source: Source, *, is_kinked: bool = False) -> None:
    """Raise if a source that reached a recording is a draw apart that needs a score.

    One by ``rsample`` does where its value went through a step without a useful derivative.
    """
    draw = apart(source.universe)
    if draw is not None and (is_kinked or source.kink_of or not draw.is_reparameterized):
        draw.refuse()


def apart(universe: Universe | None) -> Apart | None:
    """Return the draw that a universe consists of, None for one of a recording."""
    owner = None if universe is None else universe.owner
    return owner if isinstance(owner, Apart) else None
