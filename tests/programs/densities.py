"""Densities in random programs: what may be read off a distribution whose parameters were drawn.

What a distribution computes at its first use, and keeps, depends on its parameters; and an element
of data that is masked does not count, whatever it is.
"""

import torch
from torch import Tensor, distributions
from torch.distributions import Distribution, Exponential, Normal, constraints

from ancestral import handlers
from ancestral.trace.program.primitives import sample
from ancestral.trace.recording.record import current
from programs.choose import Choose

_EVERY = (".mean", ".variance", ".stddev")
_DISCRETE = (*_EVERY, ".probs", ".logits")
FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "OneHotCategorical(probs=two({p}){v})",
        (*_EVERY, ".logits", ".log_prob(EYE[0])", ".entropy()"),
    ),
    (
        "OneHotCategorical(logits=two({x}){v})",
        (*_EVERY, ".probs", ".log_prob(EYE[1])", ".entropy()"),
    ),
    ("Categorical(probs=two({p}){v})", (".logits", ".log_prob(EYE[0].long())", ".entropy()")),
    ("Categorical(logits=two({x}){v})", (".probs", ".log_prob(EYE[1].long())", ".entropy()")),
    ("Bernoulli(logits=two({x}){v})", (*_DISCRETE, ".log_prob(EYE[0])", ".entropy()")),
    ("Bernoulli(probs=two({p}){v})", (*_DISCRETE, ".log_prob(EYE[0])", ".entropy()")),
    ("Binomial(3, logits=two({x}){v})", (*_DISCRETE, ".log_prob(EYE[0])")),
    ("Binomial(3, probs=two({p}){v})", (*_DISCRETE, ".log_prob(EYE[0])")),
    ("Geometric(logits=two({x}){v})", (*_DISCRETE, ".log_prob(EYE[0])", ".entropy()")),
    ("NegativeBinomial(2.0, logits=two({x}){v})", (*_DISCRETE, ".log_prob(EYE[0])")),
    ("NegativeBinomial(2.0, probs=two({p}){v})", (*_DISCRETE, ".log_prob(EYE[0])")),
    ("Multinomial(1, probs=two({p}){v})", (*_DISCRETE, ".log_prob(EYE[0])")),
    (
        "ContinuousBernoulli(logits=two({x}){v})",
        (".mean", ".probs", ".log_prob(HALF)", ".entropy()"),
    ),
    ("RelaxedBernoulli(HALF, logits=two({x}){v})", (".probs", ".logits", ".log_prob(HALF)")),
    ("RelaxedOneHotCategorical(HALF[0], probs=two({p}){v})", (".logits", ".log_prob(HALF)")),
    (
        "Normal(two({x}), 0.8{v})",
        (*_EVERY, ".log_prob(HALF)", ".entropy()", ".cdf(HALF)", ".icdf(HALF)"),
    ),
    ("LogNormal(two({x}), 0.8{v})", (*_EVERY, ".log_prob(HALF)", ".entropy()")),
    ("Gamma(two({p}), two({p}){v})", (*_EVERY, ".log_prob(HALF)", ".entropy()")),
    ("Beta(two({p}), two({p}){v})", (*_EVERY, ".concentration1", ".log_prob(HALF)", ".entropy()")),
    ("Dirichlet(two({p}){v})", (*_EVERY, ".log_prob(HALF / 0.9)", ".entropy()")),
    ("StudentT(5.0, two({x}){v})", (*_EVERY, ".log_prob(HALF)", ".entropy()")),
    ("Laplace(two({x}), two({p}){v})", (*_EVERY, ".log_prob(HALF)", ".entropy()", ".cdf(HALF)")),
    ("Gumbel(two({x}), 0.8{v})", (*_EVERY, ".log_prob(HALF)", ".entropy()")),
    ("VonMises(two({x}), 0.8{v})", (".mean", ".log_prob(HALF)")),
    ("Uniform(-two({p}), two({p}) + 1{v})", (*_EVERY, ".entropy()", ".support.upper_bound")),
    (
        "MultivariateNormal(two({x}), EYE + {p} * ONES{v})",
        (*_EVERY, ".precision_matrix", ".scale_tril"),
    ),
    (
        "MultivariateNormal(two({x}), precision_matrix=EYE + {p} * ONES{v})",
        (*_EVERY, ".covariance_matrix", ".log_prob(HALF)", ".entropy()"),
    ),
    (
        "MultivariateNormal(HALF, scale_tril=EYE * ({p} + 1){v})",
        (*_EVERY, ".covariance_matrix", ".precision_matrix", ".log_prob(HALF)", ".entropy()"),
    ),
    (
        "LowRankMultivariateNormal(HALF, {p} * EYE, two({p}){v})",
        (*_EVERY, ".covariance_matrix", ".precision_matrix", ".scale_tril", ".log_prob(HALF)"),
    ),
    (
        "Wishart(3.0, EYE + {p} * ONES{v})",
        (".mean", ".precision_matrix", ".scale_tril", ".entropy()"),
    ),
    (
        "Independent(Bernoulli(logits=two({x}){v}), 1)",
        (*_EVERY, ".log_prob(HALF.round())", ".entropy()"),
    ),
    (
        "MixtureSameFamily(Categorical(probs=two({p}){v}), Normal(two({x}), 0.8{v}))",
        (*_EVERY, ".log_prob(HALF[0])", ".cdf(HALF[0])"),
    ),
    (
        "MixtureSameFamily(Categorical(logits=two({x}){v}), Poisson(two({p}){v}))",
        (*_EVERY, ".log_prob(HALF[0].round())"),
    ),
    (
        "TransformedDistribution(Normal(two({x}), 0.8{v}), [transforms.SigmoidTransform()])",
        (".log_prob(HALF)", ".cdf(HALF)", ".icdf(HALF)", ".base_dist.mean"),
    ),
    ("Bernoulli(logits={x}{v}).expand([2])", (*_DISCRETE, ".log_prob(EYE[0])")),
    ("Kept(two({p}))", (".mean", ".log_prob(HALF)")),
)
"""How a distribution is made of a scalar x and p in (0, 1), and what is read of it."""

EYE = torch.eye(2, dtype=torch.float64)
HALF = torch.tensor([0.3, 0.6], dtype=torch.float64)
ONES = torch.full((2, 2), 0.2, dtype=torch.float64)


def two(x: Tensor) -> Tensor:
    """Return x and what is left of one: [2]."""
    return torch.stack([x, 1 - x])


def total(x: Tensor) -> Tensor:
    """Return a sum in which each element has another weight: []."""
    return (x * torch.linspace(0.4, 1.3, x.numel()).double().reshape(x.shape)).sum()


class Kept(Distribution):
    """A distribution that keeps its rate by itself, when it is asked for first."""

    arg_constraints = {"rate": constraints.positive}  # noqa: RUF012
    support = constraints.positive

    def __init__(self, rate: Tensor) -> None:
        """Take a rate."""
        self._inner = Exponential(rate)
        self._kept: Tensor | None = None
        super().__init__(rate.shape, validate_args=True)

    @property
    def rate(self) -> Tensor:
        """The rate."""
        if self._kept is None:
            self._kept = self._inner.rate + 1
        return self._kept

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return 1 / self.rate

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density."""
        return self.rate.log() - self.rate * value


def seen(x: Tensor, data: Tensor) -> Tensor:
    """Return the density of data around x, whose elements that are not finite are masked: []."""
    is_seen = data.isfinite()
    trace = current()
    if trace is None:
        return Normal(x, 0.8).log_prob(data[is_seen]).sum()  # type: ignore[no-any-return]
    name = trace.fresh_name("seen")
    with handlers.mask(is_seen):
        sample(name, Normal(x, 0.8), obs=data)
    return trace[name].tracked_log_prob.sum()


def density(choose: Choose, x: str) -> str:
    """Return a scalar that is read off one distribution, or as the sum of two readings of it."""
    made, reads = choose.among(FAMILIES)
    validate = choose.among(("", ", validate_args=True", ", validate_args=False"))
    made = made.format(p=f"({x}).sigmoid()", x=f"({x}).tanh()", v=validate)
    first, second = choose.among(reads), choose.among(reads)
    if choose.below(2):
        return f"torch.tanh(total({made}{first}))"
    return f"torch.tanh((lambda d: total(d{first}) - 0.5 * total(d{second}))({made}))"


def masked(choose: Choose, x: str) -> str:
    """Return the density of data of which an element is masked, and is no number."""
    data = choose.among(("nan", "inf", "-inf", "0.4"))
    return f"torch.tanh(seen({x}, torch.tensor([0.4, float('{data}')]).double()))"


NAMES = {name: each for name, each in vars(distributions).items() if not name.startswith("__")}
NAMES |= {"two": two, "seen": seen, "Kept": Kept, "EYE": EYE}
NAMES |= {"HALF": HALF, "ONES": ONES, "total": total}
"""What the texts of this file name."""
