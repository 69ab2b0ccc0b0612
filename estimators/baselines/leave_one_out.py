"""Leave-one-out: the mean of the credits of the other examples."""

import warnings

from torch import Tensor

from ancestral.estimators.credit.credit import Credit
from ancestral.trace.context.place import stacklevel


class BaselineWarning(UserWarning):
    """A baseline has no effect."""

    def __init__(self, credit: Credit) -> None:
        """Name the site."""
        super().__init__(
            f"LeaveOneOut subtracts nothing from the credit of site {credit.name!r}, of shape "
            f"{list(credit.shape)}: no cost is kept apart along its first dimension, so that no "
            "element has others to learn from; trace.explain() names what mixes them; use "
            "an.estimators.RunningMean(), or draw several examples at once"
        )


class LeaveOneOut:
    """The mean of the credits of the other examples along the first dimension.

        b[n] = 1/(N-1) Σ_{m≠n} C[m]

    Unbiased, because only parts of the credit that are kept apart along that dimension count: C[m]
    holds no cost downstream of draw n. Parts that all examples share get no baseline; where all are
    shared, a BaselineWarning says so. Kool, van Hoof and Welling (2019), "Buy 4 REINFORCE samples,
    get a baseline for free!", equation 8.
    """

    is_proven = True

    def __call__(self, credit: Credit, /) -> Tensor:
        """Return the mean over the other examples, broadcastable to the site's shape."""
        if not credit.is_apart(0):
            warnings.warn(BaselineWarning(credit), stacklevel=stacklevel())
        return credit.of_others(0)
