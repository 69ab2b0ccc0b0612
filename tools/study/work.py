"""Work: the tasks of a study, each a function of its subject and its seeds alone.

A task measures a block of draws of a method, or all sites, or trains by a method. Whatever process
runs it, and after whichever others, it gives the same numbers, but for times.
"""

import copy
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ancestral.estimators.diagnostics.monitor import MOST_SITES, folded
from ancestral.estimators.diagnostics.observer import Scores
from ancestral.estimators.gradient.score_function import product
from ancestral.estimators.gradient.surrogate import surrogate, surrogate_of_costs
from ancestral.estimators.rerun.estimate import Estimate, Plan
from ancestral.estimators.rerun.replay import First
from ancestral.estimators.rerun.streams import Streams
from ancestral.provenance.tensor.tensor import raw
from ancestral.tools.study.methods import learns
from ancestral.tools.study.seeds import DRAWS, REFERENCE, TRAINING, WARM_UP, apart, draws, plant
from ancestral.tools.study.subject import Packed, Setup, Subject, flat
from ancestral.trace.nodes.autograd_graph import nodes_of

Numbers = npt.NDArray[np.float64]
Kind = Literal["trial", "draws", "reference", "training", "sites"]
_PURPOSES: dict[Kind, int] = {"draws": DRAWS, "reference": REFERENCE, "training": TRAINING}
BLOCKS = 20
"""In how many blocks the draws of a method are made."""
MOST_DRAWS = 200
"""The draws that variances of sites are of: each needs a pass of autograd for every site."""
RATE = 0.01
"""Of what learns the control variate of a method, such as that of RELAX."""


@dataclass(frozen=True)
class Task:
    """Something to compute.

    Attributes:
        kind: a block of draws of a method, or of the reference run, or the training by a method, or
            the variances of all sites; the trial is none, and its result is the gradient that shows
            the program to be the same.
        method: its name; "" for the reference run, and for sites.
        block: its number.
        count: how many draws or steps it has.
    """

    kind: Kind
    method: str
    block: int
    count: int


@dataclass(frozen=True, eq=False)
class Result:
    """What a task has found.

    Attributes:
        evaluations: how often the program was run.
        seconds: of each estimate with its derivatives, [count].
        losses: of the first run of each, [count].
        mean: of the derivatives, [n]; of a training, [0].
        squares: the summed squared deviations from it, of each parameter, [leaves]; or [0].
    """

    evaluations: int
    seconds: Numbers
    losses: Numbers
    mean: Numbers
    squares: Numbers


@dataclass(frozen=True)
class Variances:
    """The variance of each site, the largest first."""

    by_site: dict[str, float]


@dataclass(frozen=True)
class Failure:
    """Why a task cannot be done."""

    text: str


def blocks(draws: int) -> Iterator[tuple[int, int]]:
    """Yield the number of each block with how many draws it has."""
    count = min(BLOCKS, draws)
    for block in range(count):
        yield block, draws // count + (block < draws % count)


def done(task: Task, packed: Packed) -> Result | Variances:
    """Do a task."""
    setup = packed.load()
    with apart(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the trial has shown them
        if task.kind == "training":
            return _trained(task, setup)
        if task.kind == "sites":
            parts = (draws(setup.seed, DRAWS, *each) for each in blocks(task.count))
            seeds = [seed for part in parts for seed in part]
            return Variances(site_variances(setup.subject, seeds[:MOST_DRAWS]))
        return _measured(task, setup)


def _measured(task: Task, setup: Setup) -> Result:
    subject, plan = setup.subject, _warmed(setup, task.method)
    sizes = [leaf.numel() for leaf in subject.leaves]
    mean = torch.zeros(sum(sizes), dtype=torch.float64)
    squares = torch.zeros_like(mean)
    evaluations, seconds, losses = 0, [], []
    seeds = draws(setup.seed, _PURPOSES[task.kind], task.block, task.count)
    for number, seed in enumerate(seeds, 1):
        plant(seed)
        begin = time.perf_counter()
        parts, runs, loss = _one(subject, plan)
        seconds.append(time.perf_counter() - begin)
        gradient = flat(parts)
        # Welford (1962): without the cancellation of E[g²] - E[g]².
        gradient -= mean
        mean.add_(gradient, alpha=1 / number)
        squares.addcmul_(gradient, gradient, value=1 - 1 / number)
        evaluations += runs
        losses.append(loss)
    by_leaf = torch.stack([part.sum() for part in squares.split(sizes)])
    return Result(evaluations, np.array(seconds), np.array(losses), mean.numpy(), by_leaf.numpy())


def _one(subject: Subject, plan: Plan) -> tuple[list[Tensor], int, float]:
    """Return an estimate of the derivatives, its evaluations and loss, and let its graph go."""
    found = subject.estimate(plan)
    return subject.gradient(found.surrogate), found.evaluations, float(found.value)


def _trained(task: Task, setup: Setup) -> Result:
    """Train from the parameters as they are; they have these values again afterwards."""
    subject, plan = setup.subject, copy.deepcopy(setup.plans[task.method])
    before = [leaf.detach().clone() for leaf in subject.leaves]
    optimizer = torch.optim.Adam(subject.leaves, lr=setup.rate)
    control = _Control()
    evaluations, seconds, losses = 0, [], []
    try:
        for seed in draws(setup.seed, TRAINING, task.block, task.count):
            plant(seed)
            begin = time.perf_counter()
            found = subject.estimate(plan)
            for leaf, part in zip(subject.leaves, subject.gradient(found.surrogate), strict=True):
                leaf.grad = part
            control.learn(found)
            optimizer.step()
            seconds.append(time.perf_counter() - begin)
            evaluations += found.evaluations
            losses.append(float(found.value))
    finally:
        with torch.no_grad():
            for leaf, value in zip(subject.leaves, before, strict=True):
                leaf.copy_(value)
                leaf.grad = None
    none = np.zeros(0)
    return Result(evaluations, np.array(seconds), np.array(losses), none, none)


class _Control:
    """Lets a control variate learn by the second moment of the estimates."""

    def __init__(self) -> None:
        self._optimizer: torch.optim.Optimizer | None = None

    def learn(self, found: Estimate) -> None:
        """Make a step, if there is something to learn."""
        if found.second_moment is None:
            return
        parameters = learned(found.second_moment)
        if not parameters:
            return
        if self._optimizer is None:
            self._optimizer = torch.optim.Adam(parameters, lr=RATE)
        gradients = torch.autograd.grad(
            found.second_moment, parameters, retain_graph=True, materialize_grads=True
        )
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()


def learned(second_moment: Tensor) -> list[Tensor]:
    """Return the parameters of the control variates that a second moment depends on."""
    variables = [getattr(node, "variable", None) for node in nodes_of([second_moment])]
    return [each for each in variables if isinstance(each, nn.Parameter)]


def _warmed(setup: Setup, method: str) -> Plan:
    """Return a copy of a plan that has learned, or as it is given if there is nothing to learn."""
    if method not in setup.learned:
        plan, control = copy.deepcopy(setup.plans[method]), _Control()
        for seed in draws(setup.seed, WARM_UP, 0, setup.warm_up if learns(plan) else 0):
            plant(seed)
            found = setup.subject.estimate(plan)
            setup.subject.gradient(found.surrogate)
            control.learn(found)
        setup.learned[method] = plan
    return copy.deepcopy(setup.learned[method])


def site_variances(subject: Subject, seeds: Sequence[int]) -> dict[str, float]:
    """Return by site the variance of its scores' part of the gradient, the largest first.

        V_i = Σ_θ Var[ ∂/∂θ Σ_s log q(z_i[s]) · (C_i[s] - b_i[s]) ]

    With the credit C and the baseline b of the default of `an.backward` held fixed, over draws at
    the parameters as they are. Covariances between sites, and what the loss's own derivative varies
    by, are in none of them. Of more than 32 sites, the draws of a loop count together, as for an
    `ancestral.Monitor`.

    Args:
        subject: the program with its parameters.
        seeds: of the draws, at least two.
    """
    tallies: dict[str, tuple[Tensor, Tensor]] = {}
    with apart(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the trial has shown them
        parts = _Parts(subject.leaves)
        for number, seed in enumerate(seeds, 1):
            plant(seed)
            for site in parts.of_draw(subject).keys() - tallies.keys():
                tallies[site] = (parts.zero.clone(), parts.zero.clone())
            for site, (mean, squares) in tallies.items():  # 0 of one that was not drawn
                off = parts.found.get(site, parts.zero) - mean
                mean.add_(off, alpha=1 / number)
                squares.addcmul_(off, off, value=1 - 1 / number)
    found = {
        name: float(squares.sum()) / (len(seeds) - 1) for name, (_, squares) in tallies.items()
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))


class _Parts:
    """Keeps the derivatives of the scores of each site of a draw, [n], float64."""

    def __init__(self, leaves: Sequence[Tensor]) -> None:
        self._leaves = leaves
        self._is_folded: bool | None = None
        self.zero = torch.zeros(sum(leaf.numel() for leaf in leaves), dtype=torch.float64)
        self.found: dict[str, Tensor] = {}

    def of_draw(self, subject: Subject) -> dict[str, Tensor]:
        """Run a program once, and return what is found of it."""
        self.found = {}
        first = First.of(lambda: subject.program(*subject.args), Streams("common"))
        if first.loss is None:
            surrogate_of_costs(first.trace, first.left_out, monitor=self)
        else:
            surrogate(first.loss, monitor=self)
        return self.found

    def measure(self, scores: Callable[[], Scores], /) -> None:
        """Look at the scores of a gradient."""
        raw(self._measure, scores())

    def _measure(self, scores: Scores) -> None:
        nodes = {score.node.name: score.node for score in scores.found}
        if self._is_folded is None:
            self._is_folded = len(nodes) > MOST_SITES
        labels = folded(nodes.values()) if self._is_folded else {name: name for name in nodes}
        sums: dict[str, list[Tensor]] = {}
        for score in scores.found:
            part = product(score.node, score.credit, score.less, score.density)
            sums.setdefault(labels[score.node.name], []).append(part)
        for site, members in sums.items():
            total = torch.stack([part.to(members[0]) for part in members]).sum()
            if not total.requires_grad:
                self.found[site] = self.zero
                continue
            found = torch.autograd.grad(
                total, self._leaves, retain_graph=True, materialize_grads=True
            )
            self.found[site] = flat(list(found))
