"""Errors of enumeration: unbounded supports, and dependencies on enumerated sites."""

from ancestral.provenance.algebra.alignment import Shape
from ancestral.trace.context.argument_checks import short
from ancestral.trace.context.errors import EnumerationError
from ancestral.trace.nodes.enum_dims import Variable
from ancestral.trace.recording.message import Message


class NestedEnumerationError(EnumerationError):
    """A block is to be enumerated twice."""

    def __init__(self) -> None:
        """Say what to do."""
        super().__init__(
            "enumerate is open already, and its sites have their dimensions; open it once around "
            "the whole program"
        )


class UnboundedSupportError(EnumerationError):
    """A site is to be enumerated whose distribution cannot list its values."""

    def __init__(self, message: Message, reason: str) -> None:
        """Name the site, its line and its distribution."""
        super().__init__(
            f"{_named(message)} cannot be enumerated: {type(message.fn).__name__} {reason}; draw "
            'it: infer={"enumerate": False}'
        )


_TO_DRAW = (
    "say that such draws are to be drawn: an.handlers.infer_config(lambda message: "
    '{"enumerate": False} if message.is_found else {})'
)


class FoundDrawError(EnumerationError):
    """A draw of plain torch is to be enumerated."""

    def __init__(self, message: Message) -> None:
        """Name the draw, its line and its distribution."""
        super().__init__(
            f"{_named(message)} cannot be enumerated: it is a draw of plain torch, which has one "
            f"value; write an.sample({message.name!r}, fn), or {_TO_DRAW}"
        )


class NotEnumeratedWarning(UserWarning):
    """A draw of plain torch is drawn where all finite sites are enumerated."""

    def __init__(self, message: Message) -> None:
        """Name the draw, its line, and the ways to mend it."""
        super().__init__(
            f"{_named(message)} is drawn, though it is within an.handlers.enumerate and has "
            "finitely many values: a draw of plain torch is never enumerated; write "
            f"an.sample({message.name!r}, fn), or {_TO_DRAW}"
        )


class EnumerateChoiceError(EnumerationError):
    """A site says of its enumeration what means nothing."""

    def __init__(self, message: Message, choice: object) -> None:
        """Name the site, its line and what came."""
        super().__init__(
            f'{_named(message)}: infer["enumerate"] must be True ("parallel") or False, not '
            f"{short(choice)}"
        )


class TooManyDimensionsError(EnumerationError):
    """There are no dimensions left."""

    def __init__(self, message: Message, held: int) -> None:
        """Name the site, its line and how many have one."""
        super().__init__(
            f"{_named(message)} finds no dimension free: {held} enumerated sites have one, and a "
            "tensor has 64 at most; run the steps of a chain in `for t in "
            "an.handlers.markov(range(n)):`, and repetitions in an.plate, which give dimensions "
            "back"
        )


class TakenDimensionError(EnumerationError):
    """A site is replayed whose dimension is another's."""

    def __init__(self, message: Message, variable: Variable, holder: Variable) -> None:
        """Name the sites, their lines and the dimension."""
        super().__init__(
            f"{_named(message)} is replayed from site {variable}, which was enumerated along "
            f"dimension {variable.dim}; but that stands for the values of site {holder} here; "
            "replay into a program that enumerates its own sites within the same block"
        )


class ReplayedDimensionError(EnumerationError):
    """A site is replayed whose dimension stands for repetitions here."""

    def __init__(self, message: Message, variable: Variable, first_dim: int) -> None:
        """Name the site, both lines and both dimensions."""
        super().__init__(
            f"{_named(message)} is replayed from site {variable}, which was enumerated along "
            f"dimension {variable.dim}; but this block enumerates from dimension {first_dim} to "
            "the left, so that its values would look like repetitions; give both blocks the same "
            f"enumerate(first_dim=...), such as {min(variable.dim, first_dim)}"
        )


class CollisionError(EnumerationError):
    """A dimension stands for values, but something else uses it."""

    def __init__(
        self, message: Message, what: str, batch: Shape, dim: int, variable: Variable | None
    ) -> None:
        """Name the site, its line, the dimension, and what it stands for."""
        owner = "no site" if variable is None else f"site {variable} ({variable.size} of them)"
        super().__init__(
            f"{_named(message)}: dimension {dim} of {what} {list(batch)} has size {batch[dim]}; "
            "but enumerate has given the dimensions from there to the left to the values of sites, "
            f"this one to those of {owner}, on which {what} does not depend there; give "
            f"enumerate(first_dim=...) a dimension left of all plates and batches, such as "
            f"{-len(batch) - 1}"
        )


class PlateCollisionError(EnumerationError):
    """A plate has a dimension that stands for values."""

    def __init__(self, message: Message, dim: int, first_dim: int) -> None:
        """Name the plate, its line and its dimension."""
        super().__init__(
            f"plate {message.name!r} ({message.where.location}) has dimension {dim}; but enumerate "
            f"gives dimensions {first_dim}, {first_dim - 1} ... to the values of sites; give "
            f"enumerate(first_dim=...) a dimension left of all plates, such as {dim - 1}"
        )


class OutOfScopeError(EnumerationError):
    """A site depends on one whose dimension may stand for another by now."""

    def __init__(self, message: Message, variable: Variable) -> None:
        """Name both sites and their lines."""
        super().__init__(
            f"{_named(message)} depends on the enumerated site {variable}, which is out of scope: "
            "its step is too far back, or its loop, plate or block has ended, and its dimension "
            "was given back; give markov(steps, history=...) more history, or move the dependence "
            "into the loop"
        )


class MixedValuesError(EnumerationError):
    """What happens for one value of a site depends on its other values."""

    def __init__(
        self,
        message: Message,
        what: str,
        source: str,
        dim: int,
        mixed: str,
        behind: Variable | None = None,
        further: int = 0,
    ) -> None:
        """Name the sites, the line, the dimension and what mixed it, and the ways to mend it.

        `behind` is the enumerated site for each of whose values the source has one; `further` is
        how many dimensions too far to the left they stand.
        """
        enumerated = source if behind is None else behind.name
        each = "" if enumerated == source else f", one for each of the enumerated site {behind}"
        event = (
            f"if what stands along the last {further} of its dimensions is of one value, make it "
            f"an event (Independent(fn, {further})); else "
            if further
            else ""
        )
        super().__init__(
            f"{_named(message)} depends on site {source!r}, whose values stand along dimension "
            f"{dim}{each}; but {what} mixes them, or moves them to another dimension"
            f"{f' (mixed by {mixed})' if mixed else ''}; {event}compute each from its own value, "
            f'with ops that broadcast, or draw site {enumerated!r}: infer={{"enumerate": False}}'
        )


class MixedRepetitionsError(EnumerationError):
    """A site depends on several repetitions of an enumerated one."""

    def __init__(self, message: Message, what: str, source: str, dim: int, mixed: str) -> None:
        """Name both sites, the line, the dimension and what mixed it."""
        super().__init__(
            f"{_named(message)} depends on several repetitions of the enumerated site {source!r}, "
            f"those along dimension {dim}, each of which takes its values on its own; but {what} "
            f"mixes or selects them{f' (mixed by {mixed})' if mixed else ''}; keep the "
            "repetitions apart, at the same dimension, or give each its own site"
        )


def _named(message: Message) -> str:
    return f"site {message.name!r} ({message.where.location})"
