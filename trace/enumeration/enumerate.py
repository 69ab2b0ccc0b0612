"""Enumeration: the finite sites of a block take all their values at once.

Where a draw takes one of K values, an enumerated site takes all of them, along a dimension of its
own to the left of all others, and what depends on it follows by broadcasting. The log-probabilities
of one such run are those of all joint values; `ancestral.infer.log_marginal` sums over them.

>>> import torch
>>> from torch.distributions import Bernoulli, Normal
>>> from ancestral.trace.program.primitives import sample
>>> from ancestral.trace.recording.record import record
>>> with record() as trace, enumerate(first_dim=-2):
...     z = sample("z", Bernoulli(torch.tensor(0.3)))
...     x = sample("x", Normal(z, torch.ones(5)), obs=torch.zeros(5))
>>> z.shape, trace["x"].log_prob.shape
(torch.Size([2, 1]), torch.Size([2, 5]))
"""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Self

from torch import Tensor

from ancestral.provenance.tensor import storage
from ancestral.trace.context.argument_checks import short
from ancestral.trace.context.errors import EnumerationError, listed
from ancestral.trace.enumeration.dims import Dimensions, named
from ancestral.trace.enumeration.plain_ops import refuse
from ancestral.trace.enumeration.plain_shapes import shapes
from ancestral.trace.enumeration.values import has_values, values_of
from ancestral.trace.nodes.enum_dims import Enumeration, Variable, trailing
from ancestral.trace.recording.message import Handler, Message, Raised, handlers
from ancestral.trace.recording.unused_handlers import warn_of

_TO_DRAW = (
    "say that such draws are to be drawn: an.handlers.infer_config(lambda message: "
    '{"enumerate": False} if message.is_found else {})'
)


class NotEnumeratedWarning(UserWarning):
    """A draw of plain torch is drawn where all finite sites are enumerated."""


class enumerate(Handler):  # noqa: A001, N801 (the name that users of Pyro know)
    """Let the latent sites of a block whose distribution has finitely many values take them all.

    A site that is given a value, by `condition`, `replay` or another handler, inside or outside,
    has that one. ``infer={"enumerate": False}``, or `infer_config`, leaves a site to be drawn. So
    is a site of infinitely many values, and, with a warning, a draw of plain torch: name it by
    `an.sample`. An event of independent elements (`Independent`, `Multinomial`) takes all that they
    can be together, up to 4,096 values.

    The value of a site is [K, 1 ..., *plates, *event]; what depends on it has to keep the values,
    and the repetitions of plates, apart: it is checked, and that no value escapes into Python. The
    densities of such a run are summed out by `ancestral.infer.log_marginal` and
    `ancestral.infer.elbo`.

    Args:
        first_dim: the dimension of the batch for the first site, to the left of all plates and
            batch dimensions; further sites follow to its left. The default leaves room for four.

        sites: the names of those that are enumerated, of plain torch too; by default all that a
            program names. What is computed of them may only use ops that are known to mean the same
            with further dimensions on the left; others are refused with their line. Their mean is
            taken by `ancestral.infer.expectation`.

    Raises:
        ValueError: if `first_dim` is no negative int.
        TypeError: if `sites` are no names.
        EnumerationError: within the block, if a site cannot be enumerated, if something else has
            its dimension, or if what depends on it mixes its values.
    """

    def __init__(self, first_dim: int = -5, *, sites: Iterable[str] | None = None) -> None:
        if not isinstance(first_dim, int) or isinstance(first_dim, bool) or first_dim >= 0:
            raise ValueError(
                "enumerate: first_dim must be a negative int, counted from the right, left of "
                f"all plates and batches, not {short(first_dim)}"
            )
        if isinstance(sites, str) or not all(isinstance(name, str) for name in sites or ()):
            raise TypeError(f"enumerate: sites must be names, such as ['k'], not {short(sites)}")
        self.first_dim = first_dim
        self.sites = None if sites is None else frozenset(sites)
        self._dimensions = Dimensions(first_dim)
        self._met: set[str] = set()
        self._guard = ExitStack()

    def __enter__(self) -> Self:
        """Open the block, with all dimensions free.

        Raises:
            EnumerationError: if another is open.
        """
        if any(isinstance(handler, enumerate) for handler in handlers()):
            raise EnumerationError(
                "enumerate is open already, and its sites have their dimensions; open it once "
                "around the whole program"
            )
        self._dimensions = Dimensions(self.first_dim)
        self._met = set()
        if self.sites is not None:  # which plain torch may draw, and compute with as it likes
            self._guard.enter_context(storage.guard(partial(refuse, first_dim=self.first_dim)))
            self._guard.enter_context(shapes.met())
        return super().__enter__()

    def __exit__(self, *raised: *Raised) -> None:
        """Close the block.

        Raises:
            EnumerationError: if a site that was to be enumerated was not met.
        """
        self._guard.close()
        super().__exit__(*raised)
        missing = sorted((self.sites or frozenset()) - self._met)
        if missing and raised[1] is None:
            raise EnumerationError(
                f"enumerate: no finite site {listed(missing)} was drawn in the block; expected the "
                "names that the trace shows, of draws within an.record()"
            )

    def holds(self, variable: Variable) -> bool:
        """Return whether a dimension stands for the values of a site now."""
        return self._dimensions.in_sight().get(variable.dim) is variable

    def process(self, message: Message) -> Message:
        """Decide on a sample once all handlers have said what they know of it."""
        if message.kind == "plate":
            dim = message.infer["dim"]
            if dim is not None and dim <= self.first_dim:
                first = self.first_dim
                raise EnumerationError(
                    f"plate {message.name!r} ({message.where.location}) has dimension {dim}; but "
                    f"enumerate gives dimensions {first}, {first - 1} ... to the values of sites; "
                    "give enumerate(first_dim=...) a dimension left of all plates, such as "
                    f"{dim - 1}"
                )
        return message.defer(self._closed) if message.kind == "sample" else message

    def postprocess(self, message: Message) -> None:
        """Remember what the value of a sample is."""
        if message.enumeration is not None:
            self._dimensions.note(message)

    def _closed(self, message: Message) -> Message:
        """Give a sample all its values, if it has none and can list them."""
        if message.is_intervened or message.fn is None:
            return message
        variables = self._dimensions.in_sight()
        message = replace(message, enumeration=Enumeration(self.first_dim, variables))
        replayed = None if message.origin is None else message.origin.enumeration
        if replayed is not None and replayed.own is not None:
            message = owned(message, self._dimensions.take(message, replayed.own))
        self._dimensions.check(message, variables)
        if message.value is None and message.infer.get("num_samples") is not None:
            return self._drawn_often(message)
        values = _values(message) if self._is_to_be_enumerated(message) else None
        if values is None:
            if self.sites is not None and message.value is None:
                _refuse_spread(message, self.first_dim)
            return message
        own = self._dimensions.allocate(message, values.shape[0], reserved())
        return owned(replace(message, value=_spread(message, values, own.dim)), own)

    def _drawn_often(self, message: Message) -> Message:
        """Say that a sample is drawn several times.

        Raises:
            EnumerationError: always, as this handler sums over all values of a site.
        """
        raise EnumerationError(
            f"{named(message)}: num_samples in its infer asks for several draws of it, which "
            "ancestral.infer.TraceEnum_ELBO makes of a Pyro guide; take it away: here each value "
            "counts by its probability, and more draws of a whole program are its particles="
        )

    def _is_to_be_enumerated(self, message: Message) -> bool:
        if message.value is not None:
            return False
        is_asked = self.sites is not None and message.name in self.sites
        choice = message.infer.get("enumerate", None if self.sites is None else is_asked)
        is_known = isinstance(choice, bool | str | None)
        if not is_known or choice not in (None, True, False, "parallel"):
            raise EnumerationError(
                f'{named(message)}: infer["enumerate"] must be True ("parallel") or False, not '
                f"{short(choice)}"
            )
        assert message.fn is not None
        is_finite = choice is not False and has_values(message.fn)
        if choice and not is_finite:
            problem = "has infinitely many values, or does not tell that they are finitely many"
            raise EnumerationError(_unlisted(message, problem))
        if is_asked:
            self._met.add(message.name)
        if is_finite and message.is_found and not is_asked:
            if choice:
                raise EnumerationError(
                    f"{named(message)} cannot be enumerated: it is a draw of plain torch, which "
                    f"has one value; write an.sample({message.name!r}, fn), or {_TO_DRAW}"
                )
            warn_of(
                message.where.location,
                NotEnumeratedWarning(
                    f"{named(message)} is drawn, though it is within an.handlers.enumerate and has "
                    "finitely many values: a draw of plain torch is never enumerated; write "
                    f"an.sample({message.name!r}, fn), or {_TO_DRAW}"
                ),
            )
        return is_finite and (is_asked or not message.is_found)


def open_room() -> int | None:
    """Return how many dimensions of a batch, from the right, are no values, None for all."""
    for handler in handlers():
        if isinstance(handler, enumerate):
            return -handler.first_dim - 1
    return None


def owned(message: Message, variable: Variable) -> Message:
    """Return a sample with its own dimension."""
    assert message.enumeration is not None
    known = {**message.enumeration.variables, variable.dim: variable}
    return replace(message, enumeration=replace(message.enumeration, variables=known, own=variable))


def _values(message: Message) -> Tensor | None:
    """Return the values of a site, [K, *event], None where a draw is the only one."""
    assert message.fn is not None
    try:
        return values_of(message.fn)
    except NotImplementedError as error:
        raise EnumerationError(_unlisted(message, str(error))) from error


def _refuse_spread(message: Message, first_dim: int) -> None:
    """Raise if plain torch is to draw once for each value: who computes with it could not tell."""
    assert message.fn is not None
    batch = tuple(message.fn.batch_shape)
    if any(size != 1 for size in batch[: max(len(batch) + first_dim + 1, 0)]):
        raise EnumerationError(
            f"{named(message)} depends on an enumerated site, so that it would be drawn once for "
            "each of its values, which plain torch cannot tell from repetitions; enumerate it too, "
            "if it is finite (sites=), or draw it before"
        )


def _unlisted(message: Message, problem: str) -> str:
    return (
        f"{named(message)} cannot be enumerated: {type(message.fn).__name__} {problem}; draw "
        'it: infer={"enumerate": False}'
    )


def _spread(message: Message, values: Tensor, dim: int) -> Tensor:
    """Return the values along their own dimension, and over the plates: [K, 1 ..., *batch]."""
    fn, enumeration = message.fn, message.enumeration
    assert fn is not None
    assert enumeration is not None
    batch = trailing(fn.batch_shape, enumeration.room)
    between = -dim - 1 - len(batch)
    shape = (values.shape[0], *(1,) * between)
    event = tuple(fn.event_shape)
    whole = values.reshape(*shape, *(1,) * len(batch), *event).expand(*shape, *batch, *event)
    return whole


def reserved() -> frozenset[int]:
    """Return the dimensions of the sites that open handlers may replay."""
    return frozenset(
        node.enumeration.own.dim
        for handler in handlers()
        for node in handler.origins.values()
        if node.enumeration is not None and node.enumeration.own is not None
    )
