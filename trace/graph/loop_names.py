"""Loop names: what the draws of one loop are called, ``z``, ``z_1``, ``z_2`` ..."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from ancestral.trace.context.argument_checks import kind_of

_COUNTER = re.compile(r"(?<![\W\d_])[\W\d_]*\d[\W_]*$")
"""The suffix of a repeat of a loop: the end of ``z_1``, ``z[3]``, ``z_2_0`` or ``z7``."""

V = TypeVar("V", bound=Any)


def stem(name: str) -> str:
    """Return a name without its counter.

    >>> stem("z"), stem("z_12"), stem("z[3]"), stem("layer1.z_0_1"), stem("7")
    ('z', 'z', 'z', 'layer1.z', '7')
    """
    return _COUNTER.sub("", name) or name


def with_shares(vertices: Sequence[V], shares: Mapping[str, float]) -> Iterator[V]:
    """Yield the vertices of a graph with their shares; see `Graph.colored`."""
    if not isinstance(shares, Mapping):
        raise TypeError(
            f"shares must be a dictionary, as of monitor.shares(), not {kind_of(shares)}"
        )
    for name, share in shares.items():
        if not isinstance(share, int | float) or not -1e-9 <= share <= 1 + 1e-9:
            raise ValueError(f"the share of {name!r} is {share!r}; expected a number in [0, 1]")
    repeats: dict[Any, list[str]] = {}
    for vertex in vertices:
        if vertex.kind in _DRAWN:
            repeats.setdefault((stem(vertex.name), vertex.location), []).append(vertex.name)
    found = {name: shares[name] for names in repeats.values() for name in names if name in shares}
    for (name, _), names in repeats.items():
        own = [each for each in names if each in shares and each != name]
        if name in shares and not own and (name in names or name not in found):
            found |= dict.fromkeys(names, shares[name] / len(names))
    for vertex in vertices:
        yield replace(vertex, share=found.get(vertex.name))


_DRAWN = frozenset({"score", "pathwise"})
