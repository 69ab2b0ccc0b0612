"""The overridables: every function that torch lets a tensor class override, called by its name.

What the database does not reach is called with generic arguments, the first of a few lists that it
takes: tensors of floats, of integers, of truth values, vectors and matrices, and numbers.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import get_overridable_functions, resolve_name

from sweep.calls import Call
from sweep.checks import Findings, Sources, check, quiet, spying
from sweep.reasons import REASONS

HAZARDS = frozenset(list(REASONS)[:4])
"""The reasons for which a function is not even tried."""
_ENOUGH = 2  # lists of arguments that a function took


def overridables() -> dict[str, Callable[..., Any]]:
    """Return the distinct functions by a name, each once."""
    found: dict[str, Callable[..., Any]] = {}
    for functions in get_overridable_functions().values():
        for function in functions:
            found.setdefault(resolve_name(function) or repr(function), function)
    return found


def arguments() -> Iterator[tuple[Any, ...]]:
    """Yield lists of arguments to try."""
    generator = torch.Generator().manual_seed(0)

    def floats(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1

    x, y, w = floats(3, 3), floats(3, 3), floats(3, 3)
    v, s = floats(3), floats()
    n, m = torch.tensor([[2, 0, 1]] * 3), torch.tensor([[1, 2, 3]] * 3)
    i = torch.tensor([2, 0, 1])
    b = x > 0.6
    image, kernel = floats(2, 3, 4), floats(3, 3, 2)
    yield from [(x,), (x, y), (b, b), (n, m), (x, y, w), (x, 2), (x, 0), (n, 2), (x, 0, 1)]
    yield from [
        (x, v),
        (v, v),
        (x, v, v),
        (v, x),
        (b,),
        (n,),
        (v,),
        (s,),
        (x, i),
        (x, b),
        (x, b, s),
    ]
    yield from [(b, x, y), (x, 0, n), (x, 0, n, y), (x, 0, i), (x, 0, i, y), (x, 0, i, s)]
    yield from [(x, b, 1.0), (x, b, y), (x, (i,), y), (x, [3, 3]), (x, [2]), (x, [0]), (x, [9])]
    yield from [([x, y],), ([x, y], 2.0), ([x, y], [y, w]), ([x, y], s), ([x, y], [y, w], [w, x])]
    yield from [(x, 1, 0), (x, 0, 0, 1), (x, 2, 0), (x, 0, 0), (x, torch.float32), (x, "fro")]
    yield from [(x, 0.5), (x, 0.2, 0.8), (x, 0.5, True), (x, 0.5, False), (b, 0, 1), (n, 0, 1)]
    floats4, window = floats(1, 2, 4, 4), floats(2, 2, 4, 4, 4)
    yield from [(image,), (image, kernel), (image, 2), (floats4,), (floats4, 2), (window, 2)]
    yield from [(image, v), (x.to_sparse(),), (x.to_sparse(), y), (x.to_sparse_csr(),)]
    yield from [
        (torch.complex(x, y),),
        (torch.complex(x, y), 0),
        (image, image),
        (image, image, image),
    ]
    yield from [("ij,jk->ik", x, y), (x, y, i), (x, y, w, v), (x, y, v, v), (x, slice(0, 2))]
    yield from [(x, y, 0.5, 1e-5), (x, v, v, v, v, True, 0.1, 1e-5, False), (x, [3], v, v)]
    yield from [(x, (slice(None), 0)), (x, 0, v), (x, [1, 1]), (2, x), (x, s, s), (n, i)]


@cache
def called(name: str) -> Findings:
    """Return what the generic calls of an overridable showed; it is found once in a session."""
    function, findings, sources = overridables()[name], Findings(), Sources()
    ran = 0
    if reason(name) in HAZARDS:
        return findings
    with quiet(), spying(findings):
        for args in arguments():
            before = findings.follows
            if check(Call(name, function, args, {}, is_finite=True), sources, findings):
                ran += findings.follows or before
            if ran == _ENOUGH:
                break
    return findings


def reason(name: str) -> str | None:
    """Return why an overridable is not called here, None where no reason is given."""
    short = name.replace("torch.nn.functional.", "F.")
    return next((why for why, names in REASONS.items() if short in names.split()), None)
