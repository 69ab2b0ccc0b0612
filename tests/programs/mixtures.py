"""Random mixtures and hidden Markov models with events, whose classes are enumerated.

What the library sums out is computed once more in loops over cases and classes, in plain torch.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Independent, Normal

from ancestral import handlers
from ancestral.estimators.elimination.marginals import log_marginal
from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.program.plate import plate
from ancestral.trace.program.primitives import sample
from ancestral.trace.recording.record import record
from oracles import derivatives
from programs.choose import Choose
from programs.verdict import Verdict

CASES = 4
PAIRS = tuple(itertools.product((0.0, 1.0), repeat=2))


@dataclass(frozen=True)
class Mixture:
    """A model: K classes whose centers are events, and CASES observations, [CASES, *event].

    `centers` says whether these are parameters, observed, or drawn and not enumerated. `is_paired`
    adds a site of two independent coins to each case, enumerated too; in a chain, each case's class
    depends on that of the one before.
    """

    classes: int
    event: tuple[int, ...]
    centers: str
    is_binary: bool
    is_indexed: bool
    is_paired: bool
    is_chain: bool
    first_dim: int | None
    seed: int

    features = frozenset(("mixture",))

    @property
    def source(self) -> str:
        """What to find it by."""
        return repr(self)

    @property
    def options(self) -> dict[str, Any]:
        """The options of the handler: the default where there is no first dimension."""
        return {} if self.first_dim is None else {"first_dim": self.first_dim}

    @property
    def parameters(self) -> tuple[Tensor, Tensor]:
        """The logits of the classes, [K, K], and the centers, [K, *event]."""
        torch.manual_seed(self.seed)
        double = torch.float64
        return (
            torch.randn(self.classes, self.classes, dtype=double).requires_grad_(),
            torch.randn(self.classes, *self.event, dtype=double).requires_grad_(),
        )

    @property
    def data(self) -> Tensor:
        """The observations."""
        torch.manual_seed(self.seed + 1)
        data = torch.randn(CASES, *self.event, dtype=torch.float64)
        return (data > 0).double() if self.is_binary else data

    def found(self, logits: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
        """Run the model within the library; return its log-density and the centers it used."""
        rank = len(self.event)
        with record() as trace, handlers.enumerate(**self.options):
            used = centers
            if self.centers != "parameters":
                prior = Independent(Normal(torch.zeros_like(centers), 1.0), rank + 1)
                given = centers if self.centers == "observed" else None
                used = sample("centers", prior, obs=given)
            if self.is_chain:
                state = torch.tensor(0)
                for t in handlers.markov(range(CASES)):
                    state = sample(f"z_{t}", Categorical(logits=logits[state]))
                    sample(f"x_{t}", self._emission(self._picked(used, state)), obs=self.data[t])
            else:
                with plate("cases", CASES):
                    z = sample("z", Categorical(logits=logits[0]))
                    picked = self._picked(used, z)
                    if self.is_paired:
                        pair = sample("pair", Independent(Bernoulli(logits=logits[1, :2]), 1))
                        picked = picked + pair.sum(-1)[(..., *[None] * rank)]
                    sample("x", self._emission(picked), obs=self.data)
        return untrack(log_marginal(trace)), untrack(used)

    def expected(self, logits: Tensor, centers: Tensor) -> Tensor:
        """Return the same log-density by loops."""
        log_p = torch.zeros((), dtype=torch.float64)
        if self.centers != "parameters":
            log_p = log_p + Normal(torch.zeros_like(centers), 1.0).log_prob(centers).sum()
        seen = torch.stack([self._emission(centers).log_prob(x) for x in self.data])  # [CASES, K]
        if self.is_chain:
            forward = logits[0].log_softmax(0) + seen[0]
            for each in seen[1:]:
                forward = (forward[:, None] + logits.log_softmax(1)).logsumexp(0) + each
            return log_p + forward.logsumexp(0)
        weights = logits[0].log_softmax(0)
        if not self.is_paired:
            return log_p + (weights + seen).logsumexp(1).sum()
        coins = Bernoulli(logits=logits[1, :2])
        parts = [
            weights
            + coins.log_prob(torch.tensor(pair, dtype=torch.float64)).sum()
            + torch.stack([self._emission(centers + sum(pair)).log_prob(x) for x in self.data])
            for pair in PAIRS
        ]
        return log_p + torch.cat(parts, 1).logsumexp(1).sum()

    def _picked(self, centers: Tensor, z: Tensor) -> Tensor:
        if self.is_indexed:
            return centers[z]
        chosen = torch.nn.functional.one_hot(z, self.classes).double()
        return (chosen @ centers.flatten(1)).unflatten(-1, self.event)  # type: ignore[no-any-return]

    def _emission(self, picked: Tensor) -> Distribution:
        each = Bernoulli(logits=picked) if self.is_binary else Normal(picked, 0.5)
        return Independent(each, len(self.event))


def random_mixture(choose: Choose, seed: int) -> Mixture:
    """Return a random model."""
    is_chain = choose.below(3) == 0
    return Mixture(
        classes=2 + choose.below(2),
        event=choose.among(((2,), (3,), (CASES,), (2, 3), (1,), (2, 1, 2))),
        centers=choose.among(("parameters", "observed", "drawn")),
        is_binary=choose.below(2) == 0,
        is_indexed=choose.below(3) > 0,
        is_paired=not is_chain and choose.below(3) == 0,
        is_chain=is_chain,
        first_dim=choose.among((None, -2, -3, -4)),
        seed=seed % 2**31,
    )


def verdict_on_mixture(model: Mixture) -> Verdict:
    """Return whether the log-density and its derivatives are exact."""
    logits, centers = model.parameters
    try:
        found, used = model.found(logits, centers)
    except Exception as error:
        return Verdict("refused", text=f"{type(error).__name__}: {error}")
    expected = model.expected(logits, used)
    got, right = derivatives(found, [logits, centers]), derivatives(expected, [logits, centers])
    is_exact = torch.allclose(found, expected) and torch.allclose(got, right, atol=1e-9)
    text = "" if is_exact else f"{found.item()} for {expected.item()}, {got} for {right}"
    return Verdict("exact" if is_exact else "biased", 1, text=text)
