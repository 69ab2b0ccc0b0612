"""Reads that are no escapes: of external calls, checks, and code that is trusted."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from programs.estimates import by
from torch import Tensor
from torch.distributions import Bernoulli
from two_coins import Terms, assert_exact, drawn, leaves

import ancestral as an
from ancestral.provenance.dispatch import bytecode
from oracles import moments


def walks(theta: Tensor, step: Callable[[Tensor], Tensor]) -> Tensor:
    place, total = torch.zeros(2, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for _ in range(2):
        place = step(drawn(theta + place))
        total = total + (place - 0.3).pow(2).sum()
    return total


class Line:
    """Two walkers that torch cannot see."""

    def __init__(self) -> None:
        self.places = np.zeros(2)

    def step(self, action: Tensor) -> np.ndarray:
        self.places += 2 * action.numpy() - 1
        return self.places


def test_external_calls() -> None:
    """`f = an.external(function, dim=0)` is one op of code that torch cannot see: what comes back
    depends on all that went into this call and, with `stateful=True`, into earlier ones, along
    `dim` element n on elements n only, and nothing escapes, unless no tensor comes back, or
    something else too. With `check=True` every call tries that by changing one element.
    """
    bare = by(lambda loss: an.backward(loss, baseline=None))
    found = moments(
        lambda theta: walks(theta, an.external(Line().step, check=True)), leaves(), bare
    )

    def seen(theta: Tensor) -> Tensor:
        line = Line()
        return walks(theta, lambda action: torch.tensor(line.step(action)))

    looked = moments(seen, leaves(), bare)
    torch.testing.assert_close(found.mean, looked.mean)
    assert found.variance.sum() < looked.variance.sum()
    for function, count in ((lambda a: a, 0), (lambda a: None, 1), (lambda a: (a, "text"), 1)):
        with an.record() as trace:
            an.external(function)(drawn(leaves()[0]))
        assert len(trace.escapes) == count


def checked(theta: Tensor) -> Tensor:
    z, w = drawn(theta[0]), drawn(theta[1])
    if z.item() > 1:
        raise ValueError
    return (z - 0.3) ** 2 + (w - 0.4) ** 2


def caught(theta: Tensor) -> Tensor:
    z, w = drawn(theta[0]), drawn(theta[1])
    try:
        if z.item() > 0:
            raise ValueError
    except ValueError:
        return (w - 0.3) ** 2
    return 2 * w


def test_checks() -> None:
    """Checks of your own and of libraries are none either: reads whose only other outcome is an
    exception (`assert ok`, `if bad: raise`), found in the bytecode of Python 3.11 and 3.12. Where
    an `except` of the program would catch the error, or it cannot be told, the read stays an
    escape, and so does every read on another version of Python. An error that a `with` keeps
    (`suppress`) refuses the gradient.
    """
    for program, escapes in ((checked, 0), (caught, 1)):
        assert_exact(program, "strict")
        with an.record() as trace:
            program(*leaves())
        assert len(trace.escapes) == escapes
    with mock.patch.object(bytecode, "LAST", (3, 10)), an.record() as trace:
        checked(*leaves())
    assert trace.escapes
    with an.record():
        z = Bernoulli(logits=leaves()[0]).sample()
        with suppress(ValueError):
            if z.sum() >= 0:
                raise ValueError
    with pytest.raises(an.errors.CaughtError):
        an.backward(z.sum())


def test_trust() -> None:
    """`an.record(trust=("package",))` and `an.wrap(model, trust=...)`: reads that code of these
    modules makes are checks or logging, on your word.
    """
    for trust in (__name__, (__name__,), ["torch", __name__]):
        with an.record(control="error", trust=trust) as trace:
            z = drawn(leaves()[0])
            z.tolist()
        assert trace.escapes == ()
    model: Any = an.wrap(Terms(leaves()[0]), trust=("pytest", __name__))
    model.register_forward_hook(lambda *_: model.theta.grad is None and print(_[-1]))
    model()
    assert model.trace.escapes == ()
    with pytest.raises(ValueError, match="did you mean 'pytest'"):
        an.wrap(Terms(leaves()[0]), trust=("pytst",))


def test_no_escapes() -> None:
    """`an.untrack(z).item()` is no escape, and neither are the checks that torch.distributions
    makes of its arguments, as long as they pass.
    """
    (theta,) = leaves()
    with an.record(control="error") as trace:
        z = drawn(theta[0])
        an.untrack(z).item()
        Bernoulli(probs=0.2 + 0.5 * z, validate_args=True).sample()
    assert trace.escapes == ()
