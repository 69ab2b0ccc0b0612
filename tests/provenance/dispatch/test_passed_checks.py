"""Checks are no escapes: reads whose only other outcome is an exception, in the bytecode."""

import math
from contextlib import suppress
from typing import Any

import pytest
import torch
from programs.checks import THETA, call, drawn, made, silent
from programs.estimates import by
from torch import Tensor, nn
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.provenance.dispatch import bytecode
from oracles import estimates

# These pass for 0 and 1 and raise for 10 and 11.
CHECKS = """
assert z.item() < 4
---
assert z.item() < 4, "too many"
---
assert (z < 4).all(), f"{z.item()} of {y}"
---
assert z < 4, ("a" if y else "b")
---
assert z.item() < 4, "a" if z.item() > 2 else "b"
---
if z.item() > 3:
    raise ValueError
---
if not (z < 4).all():
    raise ValueError("too many")
---
assert not z > 4
---
assert z.item() < 4 and y
---
assert y and z.item() < 4
---
assert y and not no and z.item() < 4 and y
---
if z.item() > 3 or no:
    raise ValueError
---
if no or z.item() > 3:
    raise ValueError
---
if z.item() > 3 and y:
    raise ValueError
---
if y and z.item() > 3:
    raise ValueError
---
assert z.item() < 4 or no
---
assert 0 <= z.item() < 4
---
assert 0 <= z < 4
---
assert -1 < float(z) <= most
---
if not 0 <= z.item() <= 1:
    raise ValueError
---
assert z.item() in (0, 1)
---
assert z.item() not in [10, 11]
---
if bool(z > 3):
    raise ValueError
---
assert int(z) <= 1
---
assert torch.equal(z, z.clamp(max=4))
---
if torch.is_nonzero(z > 4):
    raise ValueError
---
assert torch.allclose(z, z.clamp(max=4))
---
assert (z < 4) is not None and z.item() + 1 < 4
---
if math.isinf(z.item() * 1e308):
    raise OverflowError
---
assert math.isfinite(z * 1e308)
---
if math.isinf(1 / (z - 10)) or math.isnan(z) or math.floor(z) > 1:
    raise OverflowError
---
assert math.sqrt(9 - z) > 0
---
assert abs(z.item() - 0.5) < 1
---
assert max(z.item(), 2) < 3
---
assert z.item() < box.most
---
assert z.item() < layer.most
---
assert box.most > z.item()
---
if box.is_checked and z.item() > 3:
    raise ValueError
---
most = 4
assert z.item() < most
---
ones = torch.ones(5)
assert z.item() < ones.shape[0]
---
ones = torch.ones(5)
assert z.item() < ones.size(0)
---
ones = [1, 2, 3]
assert z.item() < len(ones)
---
assert z.item() < -most * -1
---
for v in (z, z):
    if v > 3:
        raise ValueError
---
for v in (z, z):
    assert v.item() < 3
    y = 1
---
for v in (z, z):
    if v.item() < 3:
        continue
    raise ValueError
---
while z.item() > 4:
    raise ValueError
---
try:
    assert z.item() < 5
finally:
    y = 2
---
try:
    assert z.item() < 5
except ValueError:
    seen.append(y)
    raise
---
try:
    assert z.item() < 5
except AssertionError as error:
    raise ValueError("too many") from error
---
with torch.no_grad():
    assert z.item() < 5
---
try:
    with torch.no_grad(), torch.no_grad():
        assert z.item() < 5
except AssertionError as error:
    raise ValueError("too many") from error
---
if z.item() < 5:
    y = 1
else:
    raise ValueError
---
if z.item() > 5:
    raise ValueError
elif y:
    no = 2
---
if z.item() > 5:
    raise ValueError
elif z.item() < -2:
    raise TypeError
---
if z.item() > 5:
    seen.append("too many")
    y = 2
    raise ValueError(y)
---
if z.item() > 5:
    for v in range(3):
        seen.append(v)
    raise ValueError(y)
---
if z.item() > 5:
    if y:
        raise ValueError
    raise TypeError
---
if z.item() > 5:
    if y:
        raise ValueError
    else:
        raise TypeError
---
if z < 5:
    return 2
raise ValueError
---
def inner():
    assert z.item() < 5
inner()
---
def inner(v):
    if not v.item() < 5:
        raise ValueError
    return v
y = [inner(v) for v in (z, z)]
---
class Check:
    def __call__(self):
        assert z.item() < 5
Check()()
---
torch._assert(z < 4, "too many")
---
assert 1 / (z.item() - 10) < -0.01
---
if z.item() > 3 and y and not no:
    raise ValueError
""".split("---\n")


@pytest.mark.parametrize("source", CHECKS)
def test_a_check_that_passes_changes_nothing(source: str) -> None:
    body = made(source)
    for control in ("strict", "after", "error"):
        found = estimates(lambda theta: drawn(theta, body), [THETA], by(control=control))
        torch.testing.assert_close(found, estimates(silent, [THETA], by()), rtol=0, atol=0)
    with an.record() as trace:
        drawn(THETA, body)
    assert trace.escapes == ()


@pytest.mark.parametrize("source", CHECKS)
def test_a_check_that_fails_and_is_caught_refuses_the_gradient(source: str) -> None:
    body = made(source)
    with an.record():
        z = Bernoulli(logits=THETA[0]).sample()
        with suppress(Exception):
            call(body, z + 10)
            pytest.fail("it passes")
        loss = z * THETA[1]
    with pytest.raises(an.errors.CaughtError, match="a check did not pass"):
        an.backward(loss)


@pytest.mark.parametrize("source", CHECKS)
def test_a_check_that_fails_under_error_raises_what_names_the_line(source: str) -> None:
    body = made(source)
    with an.record(control="error"):
        z = Bernoulli(logits=THETA[0]).sample()
        with pytest.raises(Exception) as raised:  # noqa: PT011 (a finally may replace it)
            call(body, z + 10)
    errors = [raised.value, raised.value.__cause__, raised.value.__context__]
    assert any(isinstance(error, an.errors.EscapeError) for error in errors)


@pytest.mark.parametrize("error", [OverflowError, ValueError])
def test_a_number_that_a_check_cannot_make_of_a_value_fails_it(error: type[Exception]) -> None:
    """It is a check for every value, or for none: else those that pass would be credited less."""
    bad = math.inf if error is OverflowError else math.nan
    body = made(f"with suppress({error.__name__}):\n    assert int(z) < 5")
    for value, at_zero in ((1.0, 0.0), (bad, bad)):
        with an.record() as trace:
            z = Bernoulli(logits=THETA[0]).sample()
            call(body, torch.where(z == 1, value, at_zero))
            loss = z * THETA[1]
        assert trace.escapes == ()
        if value == 1:
            an.backward(loss)
        else:
            with pytest.raises(an.errors.CaughtError, match="a check did not pass"):
                an.backward(loss)


def test_a_check_is_an_escape_on_an_interpreter_that_was_not_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    body = made(CHECKS[1])
    monkeypatch.setattr(bytecode, "LAST", (3, 10))
    with an.record() as trace:
        drawn(THETA, body)
    assert len(trace.escapes) == 1


def test_a_check_after_the_block_is_no_escape_either() -> None:
    body = made("if not torch.isfinite(z).all():\n    raise ValueError")
    with an.record() as trace:
        loss = silent(THETA)
    call(body, loss)
    assert trace.escapes == ()


def test_a_check_within_a_recorded_function_and_a_wrapped_model_is_none_either() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.theta = nn.Parameter(THETA.detach().clone())

        def forward(self, source: str) -> Tensor:
            return drawn(self.theta, made(source))

    model: Any = an.wrap(Model())
    model.register_forward_hook(lambda *_: None)  # which torch calls in a `try`
    function = an.record()(lambda source: drawn(THETA, made(source)))
    for each in (model, function):
        each("assert z.item() < 4")
        assert each.trace.escapes == ()
        each("y = z.item() < 4")
        assert len(each.trace.escapes) == 1


def test_an_error_that_leaves_the_block_is_no_matter_of_its_loss() -> None:
    coin = torch.distributions.Bernoulli(torch.tensor(0.4, requires_grad=True))
    try:
        with torch.enable_grad(), an.record() as trace:
            if coin.sample().item() > 5:
                raise ValueError
    except ValueError:
        pass
    assert trace.escapes == ()


def test_an_error_that_is_caught_within_the_block_makes_a_read_of_it() -> None:
    coin = torch.distributions.Bernoulli(torch.tensor(0.4, requires_grad=True))
    with torch.enable_grad(), an.record() as trace:
        try:
            with torch.enable_grad():
                if coin.sample().item() > 5:
                    raise ValueError
        except ValueError:
            pass
    assert len(trace.escapes) == 1
