"""Brute-force answers that share no code with the library.

A small program is run once for every outcome of its draws, in float64, so that expectations,
gradients and the moments of any estimator are exact: no seeds, no tolerance for chance. A program
may branch in Python on what it draws: what comes after the chosen draws is explored by running it.

>>> theta = torch.tensor(0.0, dtype=torch.float64, requires_grad=True)
>>> def coin(theta: Tensor) -> Tensor:
...     return (Bernoulli(logits=theta).sample() - 0.45) ** 2
>>> round(exact_gradient(coin, [theta]).item(), 6)
0.025
>>> print(moments(coin, [theta], score_function).variance.numpy().round(5))
[0.01594]
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Binomial, Categorical, Distribution, Normal

Program = Callable[..., Tensor]
"""Takes the parameters, draws inside, and returns the loss, a scalar."""

Parameters = Sequence[Tensor]

Estimate = Callable[[Program, Parameters], Tensor]
"""Runs a program once and returns its estimate of the gradient: see `flat`."""

Rule = Callable[[Distribution, torch.Size], Tensor]

NOISE = (-1.0, 1.0)
"""The standard-normal noise of a reparameterized draw: two equally likely values. Its distribution
has no parameter, so that what is exact for a normal is exact for it."""


@dataclass
class Walk:
    """One run in the making: the first draws are chosen, the rest take their first outcome."""

    chosen: tuple[int, ...]
    taken: list[int] = field(default_factory=list[int])
    counts: list[int] = field(default_factory=list[int])
    draws: list[Tensor] = field(default_factory=list[Tensor])
    log_probs: list[Tensor] = field(default_factory=list[Tensor])

    def choose(self, shape: Sequence[int], values: Sequence[float]) -> Tensor:
        """Return the next outcome, each element one of `values`: [*shape]."""
        outcomes = list(itertools.product(values, repeat=torch.Size(shape).numel()))
        at = len(self.taken)
        index = self.chosen[at] if at < len(self.chosen) else 0
        self.taken.append(index)
        self.counts.append(len(outcomes))
        return torch.tensor(outcomes[index], dtype=torch.float64).reshape(tuple(shape))

    def discrete(self, fn: Distribution, shape: torch.Size, values: Sequence[float]) -> Tensor:
        """Draw from `fn`, whose elements take these values."""
        value = self.choose(shape, values).to(_dtype(fn))
        self.draws.append(value)
        self.log_probs.append(fn.log_prob(value).sum().double())
        return value.clone()

    def draw(self, fn: Distribution, shape: torch.Size) -> Tensor:
        """Draw from `fn`: the chosen outcome."""
        match fn:
            case Bernoulli():
                return self.discrete(fn, shape, (0, 1))
            case Categorical():
                return self.discrete(fn, shape, range(fn.param_shape[-1]))
            case Binomial():
                return self.discrete(fn, shape, range(int(fn.total_count.max()) + 1))
            case Normal():
                noise = self.choose(shape, NOISE)
                self.draws.append(noise)
                half = torch.tensor(0.5, dtype=torch.float64)
                self.log_probs.append(half.log() * noise.numel())
                return fn.loc + noise * fn.scale
            case _:
                raise NotImplementedError(type(fn).__name__)

    @property
    def branches(self) -> list[tuple[int, ...]]:
        """The choices of the runs that part from this one after the chosen draws."""
        return [
            (*self.taken[:at], other)
            for at in range(len(self.chosen), len(self.taken))
            for other in range(1, self.counts[at])
        ]


@dataclass(frozen=True)
class Path:
    """One possible run: its draws (or their noise), log-probability and loss, differentiable."""

    draws: tuple[Tensor, ...]
    log_prob: Tensor
    loss: Tensor


@dataclass(frozen=True)
class Moments:
    """The exact mean and the exact variance of every coordinate of an estimate."""

    mean: Tensor
    variance: Tensor


def _dtype(fn: Any) -> torch.dtype:
    """Return the type of the values, which for all but classes is that of the parameter."""
    return torch.int64 if isinstance(fn, Categorical) else fn._param.dtype


class TooManyPathsError(ValueError):
    """A program has more outcomes than can be enumerated."""


MOST_PATHS = 4096

_rules: list[Rule] = []


def is_forced() -> bool:
    """Return whether a rule decides the draws."""
    return bool(_rules)


def forced(fn: Distribution, shape: torch.Size) -> Tensor:
    """Return what the rule in force draws from `fn`: [*shape]."""
    return _rules[-1](fn, shape)


def _sample(self: Distribution, sample_shape: Sequence[int] = ()) -> Tensor:
    return forced(self, self._extended_shape(torch.Size(sample_shape)))


@contextmanager
def forcing(rule: Rule) -> Iterator[None]:
    """Let `rule` decide every draw. `Independent` and one-hot draws are made of these.

    Within another such block only the rule changes.
    """
    patched = ((Bernoulli, "sample"), (Categorical, "sample"), (Binomial, "sample"))
    with ExitStack() as stack:
        for kind, method in () if _rules else (*patched, (Normal, "rsample")):
            stack.enter_context(mock.patch.object(kind, method, _sample))
        _rules.append(rule)
        try:
            yield
        finally:
            _rules.pop()


@contextmanager
def replaying(path: Path, *, is_whole: bool = True) -> Iterator[None]:
    """Let the draws be those of `path`; every one of them must be asked for, and no other.

    Of a path that is not to be run as a whole, some may be left.
    """
    left = list(path.draws)

    def replay(fn: Distribution, shape: torch.Size) -> Tensor:
        assert left, f"{fn} is drawn though the path has no more draws"
        value = left.pop(0)
        assert value.shape == shape, f"{fn} draws {tuple(shape)}, the path {tuple(value.shape)}"
        return fn.loc + value * fn.scale if isinstance(fn, Normal) else value.clone()

    with forcing(replay):
        yield
    assert not (left and is_whole), f"{len(left)} draws of the path were not asked for"


def paths(program: Program, parameters: Parameters, most: int = MOST_PATHS) -> list[Path]:
    """Return every possible run; the probabilities add up to one.

    Raises:
        TooManyPathsError: if there are more than `most`.
    """
    found: list[Path] = []
    pending: list[tuple[int, ...]] = [()]
    while pending:
        if len(found) + len(pending) > most:
            raise TooManyPathsError(most)
        walk = Walk(pending.pop())
        with forcing(walk.draw):
            loss = program(*parameters)
        log_prob = torch.stack(walk.log_probs).sum() if walk.log_probs else loss.new_zeros(())
        found.append(Path(tuple(walk.draws), log_prob, loss))
        pending += walk.branches
    torch.testing.assert_close(probabilities(found).sum().item(), 1.0)
    return found


def probabilities(runs: Sequence[Path]) -> Tensor:
    """Return the probability of every path: [paths]."""
    return torch.stack([path.log_prob for path in runs]).detach().exp()


def flat(gradients: Sequence[Tensor]) -> Tensor:
    """Return the gradients of all parameters as one vector."""
    return torch.cat([gradient.detach().reshape(-1) for gradient in gradients])


def derivatives(scalar: Tensor, parameters: Parameters, order: int = 1) -> Tensor:
    """Return all derivatives of this order by all n parameters together: [n, ...]."""
    inputs = tuple(parameters)
    if not scalar.requires_grad:
        return torch.zeros([sum(p.numel() for p in inputs)] * order, dtype=torch.float64)
    found = torch.autograd.grad(
        scalar, inputs, retain_graph=True, create_graph=order > 1, materialize_grads=True
    )
    if order == 1:
        return flat(found)
    first = torch.cat([gradient.reshape(-1) for gradient in found])
    return torch.stack([derivatives(each, parameters, order - 1) for each in first])


def expected_loss(program: Program, parameters: Parameters) -> Tensor:
    """Return the exact expectation of the loss, differentiable with the draws held fixed."""
    return expectation(paths(program, parameters))


def expectation(runs: Sequence[Path]) -> Tensor:
    """Return the expectation of the loss over all paths."""
    return torch.stack([path.log_prob.exp() * path.loss.double() for path in runs]).sum()


def enumerated(program: Program, parameters: Parameters) -> tuple[list[Path], Tensor]:
    """Return every possible run, and the derivative of the expected loss."""
    runs = paths(program, parameters)
    return runs, derivatives(expectation(runs), parameters)


def mean_and_truth(
    program: Program, parameters: Parameters, estimate: Estimate
) -> tuple[Tensor, Tensor]:
    """Return the exact mean of an estimate, and the derivative of the expected loss."""
    runs, exact = enumerated(program, parameters)
    return moments_of(*estimates_on(runs, program, parameters, estimate)).mean, exact


def exact_gradient(program: Program, parameters: Parameters) -> Tensor:
    """Return the derivative of the expected loss."""
    return enumerated(program, parameters)[1]


def exact_derivatives(program: Program, parameters: Parameters, order: int) -> Tensor:
    """Return the derivatives of this order of the expected loss."""
    return derivatives(expected_loss(program, parameters), parameters, order)


def estimates(
    program: Program, parameters: Parameters, estimate: Estimate
) -> tuple[Tensor, Tensor]:
    """Return the probability of every path, and what `estimate` returns on it."""
    return estimates_on(paths(program, parameters), program, parameters, estimate)


def estimates_on(
    runs: Sequence[Path], program: Program, parameters: Parameters, estimate: Estimate
) -> tuple[Tensor, Tensor]:
    """Return the same of paths that were enumerated before."""
    found: list[Tensor] = []
    for path in runs:
        with replaying(path):
            found.append(estimate(program, parameters))
    return probabilities(runs), torch.stack(found)


def moments(program: Program, parameters: Parameters, estimate: Estimate) -> Moments:
    """Return the exact mean and variance of an estimate of the gradient."""
    return moments_of(*estimates(program, parameters, estimate))


def moments_of(weights: Tensor, values: Tensor) -> Moments:
    """Return the mean and the variance of values [paths, ...] with these probabilities."""
    mean = torch.tensordot(weights, values, 1)
    return Moments(mean, torch.tensordot(weights, (values - mean) ** 2, 1))


def autograd(program: Program, parameters: Parameters) -> Tensor:
    """Estimate by the derivative of the program's own result: of a surrogate, the estimator."""
    return derivatives(program(*parameters), parameters)


def score_function(program: Program, parameters: Parameters) -> Tensor:
    """Estimate by the score of all draws times the whole loss, plus the loss's own derivative.

    Williams (1992), "Simple statistical gradient-following algorithms".
    """
    log_probs: list[Tensor] = []
    replay = _rules[-1]

    def scored(fn: Distribution, shape: torch.Size) -> Tensor:
        value = replay(fn, shape)
        if not isinstance(fn, Normal):
            log_probs.append(fn.log_prob(value).sum())
        return value

    with forcing(scored):
        loss = program(*parameters)
    score = torch.stack(log_probs).sum() if log_probs else loss.new_zeros(())
    return derivatives(loss + score * loss.detach(), parameters)
