"""Lazy parameters: what a distribution computes of its parameters at first use, and keeps.

Computed out of sight it would be kept without provenance, for whoever asks for it later.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager

from torch.distributions import Distribution


@contextmanager
def unfilled(fn: Distribution) -> Generator[None]:
    """Forget at the end of the block what a distribution, or one within it, has come to keep."""
    before = [(each, frozenset(vars(each))) for each in _parts(fn, set())]
    try:
        yield
    finally:
        for each, names in before:
            for name in vars(each).keys() - names:
                del vars(each)[name]


def _parts(fn: Distribution, seen: set[int]) -> Iterator[Distribution]:
    seen.add(id(fn))
    yield fn
    for item in vars(fn).values():
        if isinstance(item, Distribution) and id(item) not in seen:
            yield from _parts(item, seen)
