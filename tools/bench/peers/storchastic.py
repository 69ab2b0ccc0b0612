"""Estimators beside those of Storchastic, if it is installed, on toys with exact answers.

Ours are exact: the mean over all outcomes, with their noise integrated out, against the enumeration
of the toy. Those of Storchastic are drawn: the slope of their mean on the exact gradient, 1 for an
unbiased one, and by how many standard errors it is off. The enumeration and the quadratures lie
among the tests, which must be on the path. To print the table:
``python -m ancestral.tools.bench.peers.storchastic``.
"""

# Storchastic and torch.distributions are not annotated.
# mypy: disable-error-code="no-untyped-call, no-any-return"

import importlib
import importlib.util
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, OneHotCategorical

from ancestral.estimators.baselines.running_mean import RunningMean
from ancestral.estimators.multi_run.disarm import DisARM
from ancestral.estimators.multi_run.rebar import REBAR
from ancestral.estimators.multi_run.relax import RELAX
from ancestral.estimators.multi_run.unordered_set import UnorderedSet
from ancestral.estimators.rerun.run_rloo import RunRLOO
from ancestral.estimators.verification.verify import verify
from ancestral.trace.display.text_table import aligned
from ancestral.trace.program.primitives import sample

Draw = Callable[[Any], Any]
"""Returns a draw of a distribution, which Storchastic may have more of along a first dimension."""

_TARGET, _COSTS = (0.45, 0.2, 0.7), (1.0, -0.5, 2.0, 0.3)
_OFF = 3.0  # standard errors


@dataclass(frozen=True)
class Toy:
    """A program of one site: of a parameter and of what draws, the loss, for each draw."""

    name: str
    loss: Callable[[Tensor, Draw], Any]
    at: tuple[float, ...]

    def leaf(self, dtype: torch.dtype) -> Tensor:
        """Return a new parameter, [n]."""
        return torch.tensor(self.at, dtype=dtype, requires_grad=True)

    def program(self, theta: Tensor) -> Tensor:
        """Run it in plain torch."""
        return self.loss(theta, lambda fn: fn.sample())


def _bits(theta: Tensor, draw: Draw) -> Any:
    x = draw(Bernoulli(logits=theta))
    away = (x - torch.tensor(_TARGET[: theta.shape[-1]], dtype=theta.dtype)) ** 2
    first, second, last = x[..., 0], x[..., 1], x[..., -1]
    return away.sum(-1) + 1.3 * first * second - 0.7 * second * last


def _classes(theta: Tensor, draw: Draw) -> Any:
    x = draw(OneHotCategorical(logits=theta))
    return (x * torch.tensor(_COSTS[: theta.shape[-1]], dtype=theta.dtype)).sum(-1) ** 2


def _pair(theta: Tensor, draw: Draw) -> Any:
    x = draw(OneHotCategorical(logits=theta.reshape(2, 3)))
    weights = torch.tensor([[1.0, -0.5, 2.0], [0.3, 0.8, -1.0]], dtype=theta.dtype)
    return ((x * weights).sum(-1).sum(-1) - 0.4) ** 2


def _bit(theta: Tensor, draw: Draw) -> Any:
    return (draw(Bernoulli(logits=theta[0])) - 0.45) ** 2


ONE, BITS = Toy("one bit", _bit, (0.4,)), Toy("3 bits", _bits, (0.3, -0.8, 0.5))
TWO, THREE, FOUR = (Toy(f"one-hot of {n}", _classes, (0.3, -0.5, 0.1, 0.4)[:n]) for n in (2, 3, 4))
PAIR = Toy("one-hot, 2 x 3", _pair, (0.3, -0.8, 0.5, 0.1, 0.4, -0.2))


def _control(y: Tensor) -> Tensor:
    return 0.3 * y.sigmoid().sum()


def _without_replacement(methods: Any, is_biased: bool) -> Any:
    return methods.ScoreFunctionWOR("z", k=2, biased=is_biased)


@dataclass(frozen=True)
class Compared:
    """An estimator of both libraries on a toy.

    Attributes:
        name: what it is called.
        toy: the toy.
        ours: the estimator here.
        theirs: makes the method of Storchastic, given its module of methods.
        order: of which order the derivatives are.
        options: what else `verify` is given.
        nodes: of how many nodes its noise is integrated with; 0 if it has none.
    """

    name: str
    toy: Toy
    ours: Any
    theirs: Callable[[Any], Any]
    order: int = 1
    options: tuple[tuple[str, Any], ...] = ()
    nodes: int = 0

    def error(self) -> float:
        """Return how far our mean is from the exact derivative, relative to the largest."""
        if self.nodes:
            return self._error_of_noise()
        from oracles import exact_derivatives

        theta = self.toy.leaf(torch.float64)
        exact = exact_derivatives(self.toy.program, [theta], self.order)
        found = verify(
            self.toy.program,
            theta,
            estimators=self.ours,
            order=self.order,
            outcomes=100_000,
            draws=0,
            **dict(self.options),
        )["theta"]
        return float((found.mean - exact).abs().max() / exact.abs().max())

    def _error_of_noise(self) -> float:
        from grids import Rows, bits, exact, legendre, mean_of, tanh_sinh

        count = len(self.toy.at)
        is_bits = self.toy is BITS
        values = bits(count) if is_bits else torch.eye(count, dtype=torch.float64)
        rule = legendre if is_bits else tanh_sinh
        case = Rows(
            lambda theta: self.toy.loss(theta, lambda fn: sample("z", fn)).sum(),
            list(self.toy.at),
            {"z": values},
            count,
            rule,
        )
        expected = exact(case)
        found = mean_of(case, {"*": self.ours}, self.nodes)
        return float((found - expected).abs().max() / expected.abs().max())


ROWS: Sequence[Compared] = (
    Compared("DisARM", BITS, DisARM(), lambda m: m.DisARM("z")),
    Compared("REBAR", BITS, REBAR(1.0), lambda m: m.REBAR("z"), nodes=12),
    Compared("REBAR", THREE, REBAR(1.0), lambda m: m.REBAR("z"), nodes=36),
    Compared("RELAX", TWO, RELAX(_control), lambda m: m.RELAX("z", in_dim=[2]), nodes=44),
    *(
        Compared(
            f"without replacement{how}",
            toy,
            UnorderedSet(2),
            partial(_without_replacement, is_biased=is_biased),
        )
        for toy in (FOUR, PAIR)
        for how, is_biased in (("", False), (", normalized", True))
    ),
    Compared(
        "moving average",
        BITS,
        "score",
        lambda m: m.ScoreFunction("z", baseline_factory="moving_average"),
        options=(("baseline", RunningMean()),),
    ),
    *(
        Compared(
            "leave-one-out, second order",
            toy,
            RunRLOO(2),
            lambda m: m.ScoreFunction("z", n_samples=2, baseline_factory="batch_average"),
            order=2,
        )
        for toy in (ONE, BITS, FOUR, PAIR)
    ),
)


def theirs(row: Compared, draws: int) -> str:
    """Return what an estimator of Storchastic comes to: its slope, or the error that it raises."""
    storch: Any = importlib.import_module("storch")
    methods = importlib.import_module("storch.method")
    theta = row.toy.leaf(torch.float32)
    exact = _exact(row).float()
    slopes: list[float] = []
    try:
        method = row.theirs(methods)
        for _ in range(draws):
            storch.reset()
            theta.grad = None
            storch.add_cost(row.toy.loss(theta, method), "cost")
            storch.backward(create_graph=row.order > 1)
            assert theta.grad is not None
            found = theta.grad
            if row.order > 1:
                rows = [torch.autograd.grad(g, [theta], retain_graph=True)[0] for g in found]
                found = torch.stack(rows)
            slopes.append(float((found.detach() * exact).sum() / (exact * exact).sum()))
    except Exception as error:  # whatever it is, it is what the table is to tell
        return f"{type(error).__name__}: {str(error)[:40]}"
    mean = sum(slopes) / draws
    spread = math.sqrt(sum((slope - mean) ** 2 for slope in slopes) / (draws - 1) / draws)
    off = abs(mean - 1) / max(spread, 1e-6)
    return f"slope {mean:.3f}, {'WRONG' if off > _OFF else 'right'} by {min(off, 999):.1f} sd"


def _exact(row: Compared) -> Tensor:
    from oracles import exact_derivatives

    return exact_derivatives(row.toy.program, [row.toy.leaf(torch.float64)], row.order)


def table(draws: int = 1500, rows: Sequence[Compared] = ROWS) -> str:
    """Return the table; without Storchastic, of ours alone."""
    is_there = importlib.util.find_spec("storch") is not None
    lines = [["estimator", "toy", "order", "error of ours", "Storchastic"]]
    for row in rows:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other = theirs(row, draws) if is_there else "is not installed"
        lines.append([row.name, row.toy.name, str(row.order), f"{row.error():.1e}", other])
    return aligned(lines, right={2, 3})


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.stdout.write(table(int([*sys.argv, "1500"][1])) + "\n")
