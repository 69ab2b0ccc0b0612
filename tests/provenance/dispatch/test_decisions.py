"""Decisions: what reads a value and is not surely a check is an escape."""

from contextlib import suppress

import pytest
import torch
from programs.checks import THETA, drawn, made, silent
from programs.estimates import by

import ancestral as an
from oracles import exact_gradient, moments

# These decide on something, keep what was read, or may do so for all that can be told.
NO_CHECKS = """
y = z.item()
---
z.item()
---
bool(z > 3)
---
if (y := z.item() > 3):
    raise ValueError
---
if z.item() > 3:
    y = 2
---
if z.item() > 0:
    seen.append("more")
---
if z.item() > 3:
    if no:
        raise ValueError
    y = 1
---
try:
    assert z.item() < 5
except AssertionError:
    y = 1
---
try:
    if z.item() > 3:
        raise ValueError
except (ValueError, KeyError):
    pass
---
try:
    try:
        if z.item() > 3:
            raise ValueError
    finally:
        y = 2
except ValueError:
    pass
---
try:
    assert z.item() < 5
finally:
    return 3
---
for v in (z, z):
    try:
        assert v.item() < 5
    except AssertionError:
        continue
---
def inner():
    assert z.item() < 5
try:
    inner()
except AssertionError:
    y = 1
---
try:
    torch._assert(z < 5, "too many")
except AssertionError:
    y = 1
---
try:
    with torch.no_grad():
        assert z.item() < 5
except AssertionError:
    y = 1
---
def inner():
    assert z.item() < 5
try:
    with torch.no_grad(), torch.no_grad():
        inner()
except AssertionError:
    y = 1
---
for v in (z, z):
    try:
        with suppress(KeyError):
            if v.item() > 5:
                raise ValueError
    except ValueError:
        continue
---
if z.item() > 3:
    try:
        with torch.no_grad():
            raise ValueError
    except ValueError:
        y = 1
---
try:
    assert z.item() < 5
except* AssertionError:
    y = 1
---
class Lazy:
    @property
    def flag(self):
        if z.item() > 3:
            raise AttributeError
y = hasattr(Lazy(), "flag")
---
class Steps:
    def __length_hint__(self):
        if z.item() > 3:
            raise TypeError
        return 1
    def __iter__(self):
        return iter([1])
y = list(Steps())
---
class Closing:
    def __del__(self):
        assert z.item() < 5
y = Closing()
y = None
---
def check():
    if z.item() > 3:
        raise IndexError
class Rows:
    def __getitem__(self, n):
        check()
        return [1][n]
y = list(Rows())
---
return z.item() > 3
---
def bad():
    return z.item() > 3
if bad():
    raise ValueError
---
bad = lambda: z.item() > 3
assert not bad()
---
y = z.item() or no
---
y = z.item() > 3 and no
---
if z.item() > 3:
    return 0
---
if z.item() > 3 and seen.append(1):
    raise ValueError
---
assert z.item() < 5 or seen.append(1)
---
if z.item() > 0 and y:
    seen.append(1)
---
if z.item() > 9:
    raise StopIteration
---
class Steps:
    def __iter__(self):
        return self
    def __next__(self):
        if z.item() < 5:
            raise KeyError
        return 1
with suppress(KeyError):
    list(Steps())
---
for v in (z, z):
    if v > 3:
        break
---
while z.item() > 3:
    y = 1
---
if z.item() > 4:
    for v in range(3):
        if v:
            return 3
    raise ValueError
---
assert [y := z.item() > -1]
---
assert (lambda q: q)(z.item() < 4)
---
seen.append(z.item())
assert seen[-1] < 4
---
assert seen.append(z.item()) is None
---
if z.item() > 3 and layer.computed:
    raise ValueError
---
if z.item() < 3 and z:
    pass
---
if z.item() > 0 and box:
    y = 1
---
assert z.item() > 0 or box
---
y = math.isnan(z)
---
assert math.isclose(z, 0.5, abs_tol=1)
---
isnan = lambda v: math.isnan(v) or seen.append(1)
assert not isnan(z)
---
assert max(z, z - 1) < 5
---
assert z.item() < layer.computed
---
assert any(v < 4 for v in (z, z))
---
y = f"{z.item()}"
---
if f"{z.item():.0f}" == "7":
    raise ValueError
---
y = 1 if z > 3 else 2
---
match z.item():
    case 1.0:
        y = 2
---
global most
most = z.item()
assert most < 4
---
z[...] = z.item()
""".split("---\n")


@pytest.mark.parametrize("source", NO_CHECKS)
def test_what_is_not_surely_a_check_is_an_escape(source: str) -> None:
    body = made(source)
    with an.record() as trace:
        drawn(THETA, body)
    assert trace.escapes
    found = moments(lambda theta: drawn(theta, body), [THETA], by())
    torch.testing.assert_close(found.mean, exact_gradient(silent, [THETA]))


def test_a_wrong_way_through_a_plate_is_no_check() -> None:
    """A loop that stops by what was read is none, though an error may end it as well."""
    body = made(
        "for v in range(3):\n    if z.item() > 0:\n        break\nelse:\n    raise ValueError"
    )
    with an.record() as trace, suppress(ValueError):
        drawn(THETA, body)
    assert trace.escapes
