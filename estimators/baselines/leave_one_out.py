"""Leave-one-out: what the credits of the other elements foretell of that of one."""

import math
import warnings

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import Credit
from ancestral.trace.context.place import stacklevel


class BaselineWarning(UserWarning):
    """A baseline has no effect."""


class LeaveOneOut:
    """The credit of an element as the other elements foretell it.

        b[n] = 1/(N-1) Σ_{m≠n} C[m]                                         along one dimension
        b[n, k] = 1/(N-1) Σ_{m≠n} C[m, k] + β_n (r[n, k] - 1/(N-1) Σ_{m≠n} r[m, k])
        r[n, k] = 1/(K-1) Σ_{l≠k} C[n, l]                                    along more

    The longest dimension along which costs are apart has the examples; where they are apart along
    others too, r is the mean of the others of the same example, and its slope β_n, in [0, 1], the
    least-squares fit to the other examples: 1 where samples of one input are alike, 0 where they
    tell nothing of each other.

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
            found = foretold(credit)
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


class Auto:
    """Leave-one-out along every dimension that is apart, and nothing elsewhere: see LeaveOneOut."""

    is_proven = True

    def __call__(self, credit: Credit, /) -> Tensor | None:
        """Return the baseline, broadcastable to the site's shape, None for none."""
        return foretold(credit)


def foretold(credit: Credit) -> Tensor | None:
    """Return what the other elements foretell of the credit of each, None if there are none."""
    groups: dict[tuple[int, ...], Tensor] = {}
    for part in credit.parts:
        dims = tuple(sorted([d for d in part.apart if credit.shape[d] > 1]))
        if dims:
            known = groups.get(dims)
            groups[dims] = part.value if known is None else known + part.value
    found = [_foretold(total, dims) for dims, total in groups.items()]
    return sum(found[1:], found[0]) if found else None


def _foretold(total: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return the baseline of a sum of costs, [*shape], that is apart along some dimensions."""
    example = max(dims, key=total.shape.__getitem__)
    count = total.shape[example]
    siblings = [d for d in dims if d != example]
    if not siblings or count < 3:
        return (total.sum(example, keepdim=True) - total) / (count - 1)
    others = math.prod(total.shape[d] for d in siblings) - 1
    fit = (total.sum(siblings, keepdim=True) - total) / others
    # Away from the mean of all by x, an example is away from that of the others by N/(N-1) x, and
    # without it their sum of squares is less by N/(N-1) x².
    ratio = count / (count - 1)
    away = total - total.mean(example, keepdim=True, dtype=fit.dtype)
    fit = fit - fit.mean(example, keepdim=True)
    all_but = [d for d in range(total.ndim) if d != example]
    squares, products = (
        ((fit * x).sum(example, keepdim=True) - ratio * fit * x).sum(all_but, keepdim=True)
        for x in (fit, away)
    )
    # What rounding leaves of the squares of others that are alike is no slope.
    least = 64 * torch.finfo(fit.dtype).eps * (fit * fit).sum()
    slope = torch.where(squares > least, products / squares, 0).clamp(0, 1)
    return total - ratio * (away - slope * fit)
