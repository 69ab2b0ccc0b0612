"""Importance sampling: draws from a guide, weighted by the ratio of model to guide.

>>> import torch
>>> from torch.distributions import Bernoulli, Beta
>>> from ancestral.trace.program.primitives import sample
>>> from ancestral.trace.program.plate import plate
>>> def coin(data):
...     p = sample("p", Beta(2.0, 2.0))
...     with plate("flips", len(data)):
...         sample("x", Bernoulli(p), obs=data)
>>> found = importance(coin, None, torch.ones(3), samples=50)
>>> found.log_weights.shape, found.values["p"].shape
(torch.Size([50]), torch.Size([50]))
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ancestral.estimators.batched.run import Run
from ancestral.estimators.batched.run_many import Key, many
from ancestral.estimators.inference.model_guide import GuideError, run
from ancestral.estimators.inference.pyro_hints import SAMPLES, refuse
from ancestral.trace.context.argument_checks import first_of
from ancestral.trace.context.errors import SiteError
from ancestral.trace.graph.argument_types import check_program
from ancestral.trace.nodes.node import Node
from ancestral.trace.recording.trace import Trace


class WeightError(SiteError):
    """A run cannot be weighed, or no run has a weight."""


@dataclass(frozen=True, eq=False, repr=False)
class Importance:
    """Weighted draws from the posterior of a model.

    Attributes:
        log_weights: log p(x, z) - log q(z) of each draw, [samples]; -inf is a weight of zero.
        values: the free sites of the model, each [samples, *shape].
        ragged: the free sites that only some runs have, or in different shapes.
        in_turn: why the runs were made one after the other; empty if they were made at once.
    """

    log_weights: Tensor
    values: Mapping[str, Tensor]
    ragged: tuple[str, ...] = ()
    in_turn: str = ""

    def __repr__(self) -> str:
        """Show what was drawn, what it is worth, and why the runs were made in turn."""
        ragged = f", in some only {', '.join(map(repr, self.ragged))}" if self.ragged else ""
        turns = f", run in turn: {self.in_turn}" if self.in_turn else ""
        return (
            f"Importance({len(self.log_weights)} samples of "
            f"{', '.join(map(repr, self.values)) or 'no site'}{ragged}, "
            f"effective_sample_size={float(self.effective_sample_size):.1f}{turns})"
        )

    @property
    def log_evidence(self) -> Tensor:
        """The logarithm of the mean weight, [], whose expectation is p(x)."""
        return torch.logsumexp(self.log_weights, 0) - math.log(len(self.log_weights))

    @property
    def weights(self) -> Tensor:
        """The weights, normalized to sum to one, [samples].

        Raises:
            WeightError: if all are zero.
        """
        _refuse_zeros(self.log_weights)
        return torch.softmax(self.log_weights, 0)

    @property
    def effective_sample_size(self) -> Tensor:
        """How many draws from the posterior the weighted ones are worth: (Σw)² / Σw², [].

        Kish (1965), "Survey sampling", section 11.7.
        """
        if bool((self.log_weights == -math.inf).all()):
            return torch.zeros_like(self.log_weights[0])
        return 1 / self.weights.pow(2).sum()

    @property
    def pareto_k(self) -> float:
        """The shape of the tail of the weights: beyond 0.7, do not trust their means.

        Of fewer than 2200 samples, not even beyond 1 - 1 / log10(samples): Vehtari, Simpson,
        Gelman, Yao & Gabry (2024), "Pareto smoothed importance sampling", section 3.2.4. It is
        infinite where fewer than five weights stand out, see
        `ancestral.estimators.inference.importance`.

        Raises:
            WeightError: if all weights are zero.
        """
        return self._smoothed[1]

    @property
    def smoothed_log_weights(self) -> Tensor:
        """The logarithms of the normalized weights with a smoothed tail, [samples].

        Raises:
            WeightError: if all weights are zero.
        """
        return self._smoothed[0].to(self.log_weights.dtype)

    @cached_property
    def _smoothed(self) -> tuple[Tensor, float]:
        _refuse_zeros(self.log_weights)
        return pareto_smoothed(self.log_weights)

    def expectation(self, function: Callable[[Mapping[str, Tensor]], Tensor]) -> Tensor:
        """Return the posterior mean of a function: Σ wₙ f(zₙ), [*shape].

        Args:
            function: takes the values by name, each [samples, ...], and returns [samples, *shape].

        Raises:
            ValueError: if what it returns has another number of rows.
            WeightError: if all weights are zero.
        """
        found = function(self.values)
        if found.shape[:1] != self.log_weights.shape:
            raise ValueError(
                f"the function of expectation returned shape {list(found.shape)}; expected one row "
                f"for each of the {len(self.log_weights)} draws, the first dimension"
            )
        kept = self.weights.reshape(-1, *(1,) * (found.dim() - 1))
        # A draw of weight zero counts nothing, be the function infinite there.
        terms = torch.where(kept == 0, torch.zeros_like(found, dtype=kept.dtype), kept * found)
        return terms.sum(0)

    def resample(self, samples: int) -> dict[str, Tensor]:
        """Return draws from the posterior without weights, each [samples, *shape].

        They are drawn in proportion to the weights, with replacement.

        Raises:
            WeightError: if all weights are zero.
        """
        chosen = torch.multinomial(self.weights, samples, replacement=True)
        return {name: value[chosen] for name, value in self.values.items()}


def _refuse_zeros(log_weights: Tensor) -> None:
    if bool((log_weights == -math.inf).all()):
        raise WeightError(
            "all weights are zero: no draw has a positive density under the model; draw more, or "
            "from a guide that is nearer to the posterior"
        )


def importance(
    model: Callable[..., Any],
    guide: Callable[..., Any] | None = None,
    *args: Any,
    samples: int = 1000,
    vectorized: bool | None = None,
    **kwargs: Any,
) -> Importance:
    """Draw from a guide, and weigh each draw by the model.

        wₙ = p(x, zₙ) / q(zₙ),   zₙ ~ q,   p(x) ≈ Σ wₙ / samples

    A free site that the guide does not draw is drawn by the model, and cancels; without a guide,
    all are: the weights are likelihoods. No gradient is taken.

    Args:
        model: the program.
        guide: a program that draws free sites of the model; it takes the same arguments.
        *args: what both are called with.
        samples: how many draws.
        vectorized: whether to run the programs once for all draws, along the dimension of an outer
            plate; False runs them for one after the other. By default, the former where it can be
            shown to give what the latter would; else the latter, with a warning that says why.
        **kwargs: what both are called with.

    Raises:
        TypeError: if a program is no function; for a keyword that is Pyro's name of one of these,
            and no parameter of a program.
        WeightError: if a log-probability is NaN, or infinite where that is no weight of zero; if a
            plate is subsampled.
        GuideError: if the guide draws what the model does not.
        NotVectorizableError: if the programs must run at once and cannot.
        RuntimeError: within a recording.
    """
    check_program("importance", "model", model)
    if guide is not None:
        check_program("importance", "guide (None for the prior)", guide)
    refuse("importance", (model, guide), kwargs, SAMPLES)

    def program() -> tuple[Trace, Trace]:
        drawing = (lambda *_, **__: None) if guide is None else guide
        pair = run(model, drawing, *args, **kwargs)
        return pair.guide, pair.model

    found = many("importance", program, _read, samples, vectorized)
    weights = found.values[_WEIGHT]
    values = {name: value for (word, name), value in found.values.items() if word == "value"}
    ragged = tuple(name for _, name in found.ragged)
    return Importance(weights, values, ragged, found.in_turn)


_WEIGHT: Key = ("log weight", "")


def _read(run: Run) -> dict[Key, Tensor]:
    """Return the weight and the values of a run."""
    guided, modelled = run.traces
    # What the model draws itself is drawn from what would weigh it.
    weighed = [n for n in modelled.values() if n.type == "sample" and not n.is_drawn]
    parts = [_weight(run, node, "model") for node in weighed]
    parts += [-_weight(run, n, "guide") for n in guided.values() if _is_weighed(n, modelled)]
    total = sum(parts[1:], parts[0]) if parts else torch.zeros(run.samples)
    free = {node.name: node for node in modelled.stochastic_nodes if node.is_declared}
    return {_WEIGHT: total} | {("value", name): run.rows(node) for name, node in free.items()}


def _weight(run: Run, node: Node, role: str) -> Tensor:
    for plate in node.cond_indep_stack:
        if plate.subsample_size < plate.size:
            raise WeightError(
                f"site {node.name!r} ({node.location}) is in plate {plate.name!r}, which is "
                "subsampled: weights of a part of the data are no weights of the whole, not even "
                "on average; give the plate no subsample_size here"
            )
    found = run.total(node)
    is_bad = found.isnan() | (found.isinf() if role == "guide" else found == math.inf)
    if bool(is_bad.any()):
        bad = found[is_bad]
        raise WeightError(
            f"site {node.name!r} ({node.location}): in {bad.numel()} of {found.numel()} runs "
            f"its log-probability under the {role} is {first_of(bad)}, so that they have no "
            "weight; keep the parameters of its distribution finite, and its value in the support"
        )
    return found


def _is_weighed(node: Node, modelled: Trace) -> bool:
    """Return whether a step of a guide is a draw that its density counts for."""
    if node.type != "sample":
        return False
    if node.is_observed:
        raise _no_free_site(node, "is observed")
    own = modelled.get(node.name)
    if own is not None and own.is_given and own.source is node.source and not own.is_observed:
        return True
    if not node.is_declared:  # drawn by plain torch: an auxiliary that the model draws alike
        return False
    if node.infer.get("is_auxiliary"):
        return True
    raise _no_free_site(node, "is no free site of the model")


def _no_free_site(node: Node, problem: str) -> GuideError:
    return GuideError(
        f"site {node.name!r} ({node.location}) of the guide {problem}; a guide draws free "
        "sites of the model, under their names, or says infer={'is_auxiliary': True}"
    )


_PRIOR_WEIGHT = 10  # of k = 1/2, in draws: Vehtari et al. (2024), appendix G
_LEAST_TAIL = 5


def generalized_pareto(excesses: Tensor) -> tuple[float, float]:
    """Return the shape k and the scale s of a generalized Pareto distribution fitted to a tail.

        b = k / s (with the sign that makes 1 - b x > 0),   k(b) = mean log(1 - b x)
        E[b | x] by quadrature over the profile likelihood   n (log(-b / k(b)) - k(b) - 1)

    Zhang & Stephens (2009), "A new and efficient estimation method for the generalized Pareto
    distribution", Technometrics 51, section 3; the k is drawn to 1/2 as by ten more draws.

    Args:
        excesses: by how much the draws exceed the cutoff, [n], positive, in ascending order.
    """
    x = excesses.double()
    n = len(x)
    points = 30 + int(math.sqrt(n))
    quartile = x[int(n / 4 + 0.5) - 1]
    steps = torch.arange(1, points + 1, dtype=torch.float64)
    b = 1 / x[-1] + (1 - torch.sqrt(points / (steps - 0.5))) / (3 * quartile)
    k = torch.log1p(-b[:, None] * x).mean(1)
    profile = n * (torch.log(-b / k) - k - 1)
    # Where the excesses lie too far apart for numbers, the profile has none.
    is_known = profile.isfinite()
    b, profile = b[is_known], profile[is_known]
    b_mean = (b * torch.softmax(profile, 0)).sum()
    shape = torch.log1p(-b_mean * x).mean()
    scale = -shape / b_mean
    return float((n * shape + _PRIOR_WEIGHT * 0.5) / (n + _PRIOR_WEIGHT)), float(scale)


def pareto_smoothed(log_weights: Tensor) -> tuple[Tensor, float]:
    """Return log weights [n], normalized, with their tail smoothed, and the shape k of that tail.

    The tail are the largest min(n/5, 3√n) weights; its order statistics take the place of them,
    none above the largest. Where fewer than five stand out, or no distribution fits, nothing is
    smoothed and k is infinite: nothing can be said of the tail.
    """
    weights = log_weights.double() - log_weights.double().max()
    n = len(weights)
    size = math.ceil(min(n / 5, 3 * math.sqrt(n)))
    order = torch.argsort(weights)
    least = math.log(torch.finfo(torch.float64).tiny)
    cutoff = max(float(weights[order[-min(size + 1, n)]]), least)
    tail = order[weights[order] > cutoff]
    if len(tail) < _LEAST_TAIL:
        return torch.log_softmax(weights, 0), math.inf
    # The difference of two exponentials that are nearly equal would be zero.
    k, scale = generalized_pareto(math.exp(cutoff) * torch.expm1(weights[tail] - cutoff))
    if not math.isfinite(k):
        k = math.inf
    else:
        ranks = (torch.arange(len(tail), dtype=torch.float64) + 0.5) / len(tail)
        tails = -torch.log1p(-ranks)
        quantiles = scale * (tails if abs(k) < 1e-15 else torch.expm1(k * tails) / k)
        weights[tail] = (quantiles + math.exp(cutoff)).log().clamp(max=0)
    return torch.log_softmax(weights, 0), k
