"""Random streams: one for each site, so that runs of a program share noise site by site.

Whatever a run draws besides its sites, it draws in each run from one stream, of torch's generators,
numpy's and Python's. A site has its own stream, by name: two runs that share it draw with the same
noise, however their ways part before. What an estimator draws has a stream of its own each time, so
that no number is used twice, and what runs take is no matter of what is drawn after the estimate.
"""

import random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from ancestral.provenance.tensor.tensor import Unseen, raw, untrack
from ancestral.trace.context.errors import SiteError
from ancestral.trace.intercept.random_ops import FAMILIES
from ancestral.trace.nodes.distribution_params import factorized, parameters
from ancestral.trace.nodes.support import is_discrete
from ancestral.trace.program.site import unseen
from ancestral.trace.recording.message import Message

_LEAST = 2.0**-53
Noise = Literal["common", "independent"]
"""Whether what is downstream of a site is drawn with the noise of the first run, or anew."""


class Coupling(Protocol):
    """How the elements of a continuous site are drawn together, along one dimension."""

    @property
    def dim(self) -> int:
        """The dimension."""
        ...

    def uniform(self, shape: torch.Size) -> Tensor:
        """Return numbers of which each is uniform, [*shape], in double."""
        ...

    def partner(self, index: int, count: int) -> int | None:
        """Return of which element along the dimension another is the mirror image, if it is."""
        ...


def coupled(fn: Any, how: Coupling, where: str) -> Tensor:
    """Return a draw of a distribution whose elements are drawn together, [*batch].

    Raises:
        SiteError: if it has no elements along the dimension, or no inverse distribution function.
    """
    inner = factorized(fn)
    refuse_uncoupled(inner, how, where)
    u = how.uniform(inner.batch_shape).clamp(_LEAST, 1 - _LEAST)
    held = next(held.tensor for held in parameters(inner))
    try:
        return untrack(raw(inner.icdf, u.to(held.device))).to(held.dtype)
    except NotImplementedError as error:
        expected = "a distribution with an inverse distribution function (icdf)"
        raise _uncoupled(inner, how, where, expected) from error


def refuse_uncoupled(inner: Any, how: Coupling, where: str) -> None:
    """Raise unless a distribution of independent elements has some to be drawn together.

    Raises:
        SiteError: if it is discrete, or has no elements along the dimension.
    """
    batch = inner.batch_shape
    if inner.event_shape or is_discrete(inner):
        raise _uncoupled(inner, how, where, "a continuous distribution of single numbers")
    if not -len(batch) <= how.dim < len(batch):
        expected = f"a site with a dimension {how.dim}; its elements are {list(batch)}"
        raise _uncoupled(inner, how, where, expected)


def _uncoupled(inner: Any, how: Coupling, where: str, expected: str) -> SiteError:
    return SiteError(
        f"{where}: {how} draws {expected}; this is one of {type(inner).__name__}; "
        "use sampling={name: ...} for the sites that it is meant for"
    )


class Chance(Protocol):
    """What decides the draws of a program, and of the estimators that run it."""

    def run(self) -> Any:
        """Return a block for one run of the program."""
        ...

    def fresh(self) -> "Chance":
        """Return what decides an independent run of the whole program."""
        ...

    def process(self, message: Message, *, is_first: bool) -> Message:
        """Return a message for a sample that is about to be drawn."""
        ...

    def postprocess(self, message: Message) -> None:
        """Go on after that draw."""
        ...

    def draw(self, fn: Distribution) -> Tensor:
        """Return a draw that is an estimator's, of no site."""
        ...

    is_aligned: bool
    """Whether the last run drew as much noise outside of sites as the first."""


class Streams:
    """Draws with torch's generators.

    Args:
        noise: whether later runs draw sites with the noise of the first.
        couplings: returns for a message how the elements of its site are drawn together, or None.
    """

    def __init__(
        self, noise: Noise, couplings: Callable[[Any], Coupling | None] | None = None
    ) -> None:
        self._noise, self._couplings = noise, couplings
        self._random = random.Random(int(torch.randint(2**62, ())))
        self._seeds: dict[str, int] = {}
        self._of_runs = self._random.getrandbits(63)
        self._end: list[Tensor] | None = None
        self.is_aligned = True
        self._between: tuple[str, list[Tensor]] | None = None

    def fresh(self) -> "Streams":
        """Return streams of other numbers."""
        return Streams(self._noise, self._couplings)

    @contextmanager
    def run(self) -> Generator[None]:
        """Let every run begin with the same numbers, and what follows go on as if it had not been.

        A run that takes more numbers than the first takes none that anything else is drawn with.
        """
        before = _states()
        _seed(self._of_runs)
        np.random.seed(self._of_runs % 2**32)
        random.seed(self._of_runs)
        try:
            yield
            ends = [each.get_state() for each in _generators()]
            self._end = ends if self._end is None else self._end
            self.is_aligned = all(map(torch.equal, ends, self._end))
        finally:
            _set(before)

    def process(self, message: Message, *, is_first: bool) -> Message:
        """Go over to the stream of a site."""
        seed = self._seeds.get(message.name) if self._noise == "common" else None
        if seed is None:
            seed = self._random.getrandbits(63)
            if is_first:
                self._seeds[message.name] = seed
        self._between = (message.name, [each.get_state() for each in _generators()])
        _seed(seed)
        fn = message.fn
        how = None if self._couplings is None else self._couplings(message)
        if how is not None:
            where = f"site {message.name!r} ({message.where.location})"
            return replace(message, sampler=lambda: _coupled(message, how, where))
        if message.is_found and fn is not None and type(fn) in FAMILIES:
            # A function of torch has drawn already when its message comes, from the stream of the
            # run, of which it may have taken more numbers than in another run.
            return replace(message, sampler=lambda: unseen(fn, message.is_reparameterized))
        return message

    def postprocess(self, message: Message) -> None:
        """Go back to the stream of the run."""
        if self._between is not None and self._between[0] == message.name:
            for each, state in zip(_generators(), self._between[1], strict=True):
                each.set_state(state)
            self._between = None

    def draw(self, fn: Distribution) -> Tensor:
        """Return a draw of no site."""
        before = [each.get_state() for each in _generators()]
        _seed(self._random.getrandbits(63))
        try:
            with torch.no_grad(), Unseen():
                return fn.sample()
        finally:
            for each, state in zip(_generators(), before, strict=True):
                each.set_state(state)


def _coupled(message: Message, how: Coupling, where: str) -> Tensor:
    value = coupled(message.fn, how, where)
    return value if message.is_reparameterized else value.detach()


def _generators() -> list[torch.Generator]:
    """Return the generators that torch draws from by itself."""
    on_gpus = torch.cuda.default_generators if torch.cuda.is_initialized() else ()
    return [torch.default_generator, *on_gpus]


def _seed(seed: int) -> None:
    for each in _generators():
        each.manual_seed(seed)


def _states() -> list[Any]:
    found = [(each, each.get_state()) for each in _generators()]
    return [found, np.random.get_state(), random.getstate()]


def _set(states: list[Any]) -> None:
    of_torch, of_numpy, of_python = states
    for each, state in of_torch:
        each.set_state(state)
    np.random.set_state(of_numpy)
    random.setstate(of_python)
