"""Leave-one-out: what the credits of the other elements predict for that of one."""

import math
import warnings

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import Credit
from ancestral.trace.context.place import stacklevel

_FEW = 8


class BaselineWarning(UserWarning):
    """A baseline has no effect, or less than it could have."""


class LeaveOneOut:
    """The credit of an element as the other elements predict it.

        b[n] = 1/(N-1) Σ_{m≠n} C[m]                                         along one dimension
        b[n, k] = 1/(N-1) Σ_{m≠n} C[m, k] + β_n (r[n, k] - 1/(N-1) Σ_{m≠n} r[m, k])
        r[n, k] = 1/(K-1) Σ_{l≠k} c[n, l]                                    along more

    The longest dimension along which all costs that are apart are so has the examples. Where some
    of them, c, are apart along others too, r is their mean over the rest of the same example, and
    its slope β_n the least-squares fit to the other examples, shrunk: near 1 where samples of one
    input are alike, 0 where they tell nothing, and negative where they cancel, as the densities of
    the other units of a layer do in a bound that is nearly reached.

    Unbiased, because each part of the credit counts along the dimensions only that it is kept apart
    along: there, no other element's C holds a cost downstream of this one. Parts that all elements
    share get no baseline. Kool, van Hoof and Welling (2019), "Buy 4 REINFORCE samples, get a
    baseline for free!", equation 8.
    """

    is_proven = True

    def __init__(self, dim: int | None = None) -> None:
        """Take the dimension of the site that the others are along; None for all that are apart."""
        if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int)):
            raise TypeError(f"dim must be a dimension of the site or None, not {dim!r}")
        self.dim = dim

    def __call__(self, credit: Credit, /) -> Tensor:
        """Return the baseline, broadcastable to the site's shape; warn if there is none.

        Raises:
            IndexError: if the site has no dimension `dim`.
        """
        if self.dim is None:
            found = predicted(credit)
        else:
            found = credit.of_others(self.dim) if credit.is_apart(self.dim) else None
        if found is None:
            along = "any dimension" if self.dim is None else f"dimension {self.dim}"
            warnings.warn(
                BaselineWarning(
                    f"LeaveOneOut subtracts nothing from the credit of site {credit.name!r}, of "
                    f"shape {list(credit.shape)}: no cost is kept apart along {along}, so that no "
                    "element has others to learn from; trace.explain() names what mixes them; use "
                    "an.estimators.RunningMean(), or draw several examples at once"
                ),
                stacklevel=stacklevel(),
            )
            return torch.zeros_like(credit.total.reshape(-1)[0])
        return found


def predicted(credit: Credit) -> Tensor | None:
    """Return what the other elements predict for the credit of each, None if there are none."""
    groups: dict[frozenset[int], Tensor] = {}
    for part in credit.parts:
        dims = frozenset(d for d in part.apart if credit.shape[d] > 1)
        if dims:
            known = groups.get(dims)
            groups[dims] = part.value if known is None else known + part.value
    if not groups:
        return None
    shared = frozenset.intersection(*groups)
    if not shared:  # apart along different dimensions
        means = [_of_others(total, min(dims)) for dims, total in groups.items()]
        return sum(means[1:], means[0])
    example = max(sorted(shared), key=lambda d: credit.shape[d])
    first, *rest = groups.values()
    total = sum(rest, first)
    deepest = max(groups, key=len)
    siblings = [*(deepest - {example})]
    if not siblings or credit.shape[example] < 4:
        return _of_others(total, example)
    others = math.prod(credit.shape[d] for d in siblings) - 1
    own = groups[deepest]
    fit = (own.sum(siblings, keepdim=True) - own) / others
    return _fitted(total, fit, example).to(total.dtype)


def exact(value: Tensor) -> Tensor:
    """Return numbers in double, or in single on a device that has no double."""
    return value.float() if value.device.type == "mps" else value.double()


def _of_others(total: Tensor, dim: int) -> Tensor:
    """Return the mean of the other elements along a dimension."""
    return (total.sum(dim, keepdim=True) - total) / (total.shape[dim] - 1)


def _fitted(total: Tensor, siblings: Tensor, example: int) -> Tensor:
    """Return the mean of the other examples, and what siblings predict by a fit to them."""
    count = total.shape[example]
    # Away from the mean of all by x, an example is away from that of the others by N/(N-1) x, and
    # without it their sum of squares is less by N/(N-1) x².
    ratio = count / (count - 1)
    # In double: what is left of a sum without the largest is to be none of its rounding.
    total, siblings = exact(total), exact(siblings)
    away = total - total.mean(example, keepdim=True)
    fit = siblings - siblings.mean(example, keepdim=True)
    all_but = [d for d in range(total.ndim) if d != example]

    def without_own(x: Tensor, y: Tensor) -> Tensor:
        both = (x * y).sum(all_but, keepdim=True)
        return both.sum(example, keepdim=True) - ratio * both

    squares, products, all_squares = (
        without_own(fit, fit),
        without_own(fit, away),
        without_own(away, away) * (fit.numel() / away.numel()),
    )
    # What rounding leaves of the squares of others that are alike is no slope.
    least = 64 * torch.finfo(fit.dtype).eps
    is_sloped = (squares > least * (fit * fit).sum()) & (all_squares > least * (away * away).sum())
    known = (products.square() / (squares * all_squares)).where(is_sloped, 0)
    # Shrunk by what as many numbers without a slope would have: James and Stein.
    kept = (1 - (1 - known) / ((count - 3) * known)).clamp(min=0)
    slope = torch.where(is_sloped & (known > 0), kept * products / squares, 0)
    if count < _FEW:  # too few to tell more than that siblings are alike
        slope = slope.clamp(0, 1)
    return total - ratio * (away - slope * fit)
