"""The estimators: choices of credit for a draw, and baselines subtracted from it."""

from ancestral.estimators.baselines.leave_one_out import LeaveOneOut
from ancestral.estimators.baselines.neural import Neural
from ancestral.estimators.baselines.optimal import Optimal
from ancestral.estimators.baselines.running_mean import RunningMean
from ancestral.estimators.credit.credit import Baseline, Credit, by_element, by_site, total_cost

__all__ = [
    "Baseline",
    "Credit",
    "LeaveOneOut",
    "Neural",
    "Optimal",
    "RunningMean",
    "by_element",
    "by_site",
    "total_cost",
]
