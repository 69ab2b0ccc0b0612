"""Verification: what is known of the estimates of the derivatives by each parameter."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ancestral.trace.context.errors import listed
from ancestral.trace.display.text_table import Table, Tabular

_NOT_SHOWN = (
    "not shown: the means of the draws differ, by a bias or by rare values that the draws missed; "
    "take more draws (draws=), or allow more outcomes (outcomes=) to be certain"
)


@dataclass(frozen=True, eq=False)
class Verified:
    """What is known of the derivatives by one parameter; of order 2, by it and by all others.

    Attributes:
        exact: the derivative of the expected loss; of a z-test, the mean of the reference.
        mean: that of the estimate.
        variance: of the estimate, element by element.
        error: by how much `mean - exact` may be off although there is no bias.
        detectable: the bias that would be noticed with probability 0.95.
        is_proof: whether what is beyond the error is a bias for certain: not that of draws, which
            may all have missed values that are rare and large.
    """

    exact: Tensor
    mean: Tensor
    variance: Tensor
    error: Tensor
    detectable: Tensor
    is_proof: bool = True

    @property
    def bias(self) -> Tensor:
        """The mean of the estimate without what it is to be."""
        return self.mean - self.exact

    @property
    def is_unbiased(self) -> bool:
        """Whether no bias was found."""
        return bool((self.bias.abs() <= self.error).all())

    @property
    def is_biased(self) -> bool:
        """Whether a bias was found for certain."""
        return self.is_proof and not self.is_unbiased

    @property
    def verdict(self) -> str:
        """The answer to whether it is unbiased: "yes", "NO", or "not shown"."""
        if self.is_unbiased:
            return "yes"
        return "NO" if self.is_biased else "not shown"


class Verification(Mapping[str, Verified], Tabular):
    """What was verified, by the name of the parameter; ``print`` shows a table.

    Attributes:
        method: "enumeration" of all outcomes, or a "z-test" of draws.
        order: of which order the derivatives are.
        outcomes: over how many outcomes, or draws.
        evaluations: how often the program runs for an estimate, on average.
        reason: why the outcomes were not enumerated, or how exact a quadrature is that is not as
            exact as was asked for; empty otherwise.
    """

    def __init__(
        self,
        found: Mapping[str, Verified],
        method: Literal["enumeration", "z-test"],
        order: int,
        outcomes: int,
        evaluations: float,
        reason: str = "",
    ) -> None:
        self._found = dict(found)
        self.method, self.order = method, order
        self.outcomes, self.evaluations, self.reason = outcomes, evaluations, reason

    def __getitem__(self, name: str) -> Verified:
        """Return what is known of a parameter."""
        try:
            return self._found[name]
        except KeyError:
            raise KeyError(f"no parameter {name!r}; there are {listed(self._found)}") from None

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the parameters."""
        return iter(self._found)

    def __len__(self) -> int:
        """Return the number of parameters."""
        return len(self._found)

    @property
    def is_unbiased(self) -> bool:
        """Whether no bias was found."""
        return all(each.is_unbiased for each in self.values())

    @property
    def is_biased(self) -> bool:
        """Whether a bias was found for certain: never by a z-test."""
        return any(each.is_biased for each in self.values())

    @property
    def variance(self) -> float:
        """The sum of the variances of all derivatives."""
        return sum(float(each.variance.sum()) for each in self.values())

    def _shown(self, each: Verified) -> Tensor:
        """Return a bias, without what rounding and the last tail make of one that is exact."""
        if self.method != "enumeration":
            return each.bias
        return each.bias.where(each.bias.abs() > each.detectable, 0.0)

    def table(self) -> Table:
        """Return a row for each parameter: the largest derivative, bias and variance."""
        head = ["parameter", "shape", "exact", "bias", "variance", "detectable", "unbiased"]
        rows = [
            [
                name,
                str(list(each.exact.shape)),
                *(
                    f"{float(x.abs().max()):.6g}"
                    for x in (each.exact, self._shown(each), each.variance, each.detectable)
                ),
                each.verdict,
            ]
            for name, each in self.items()
        ]
        what = f"{self.outcomes} {'outcomes' if self.method == 'enumeration' else 'draws'}"
        title = (
            f"{self.method} of {what}; derivatives of order {self.order}; "
            f"{self.evaluations:.4g} evaluations each"
        )
        above = [title, self.reason] if self.reason else [title]
        if not (self.is_unbiased or self.is_biased):
            above.append(_NOT_SHOWN)
        return Table(head, rows, right={2, 3, 4, 5}, above=above)

    def __repr__(self) -> str:
        """Return the table."""
        return str(self)


def split(
    named: Mapping[str, Tensor], order: int, *flat: Tensor, is_proof: bool
) -> dict[str, Verified]:
    """Return the parts of each parameter of flat derivatives by all, [n ** order]."""
    count = sum(leaf.numel() for leaf in named.values())
    rest = (count,) * (order - 1)
    rows = [each.reshape(count, *rest) for each in flat]
    found: dict[str, Verified] = {}
    at = 0
    for name, leaf in named.items():
        exact, mean, variance, error, detectable = (
            each[at : at + leaf.numel()].reshape((*leaf.shape, *rest)) for each in rows
        )
        found[name] = Verified(exact, mean, variance, error, detectable, is_proof)
        at += leaf.numel()
    return found
