"""The estimators: credit for a draw, baselines subtracted from it, and estimators of more runs."""

from ancestral.estimators.baselines.across_ranks import AcrossRanks
from ancestral.estimators.baselines.leave_one_out import LeaveOneOut
from ancestral.estimators.baselines.neural import Neural
from ancestral.estimators.baselines.optimal import Optimal
from ancestral.estimators.baselines.running_mean import RunningMean
from ancestral.estimators.credit.credit import Baseline, Credit, by_element, by_site, total_cost
from ancestral.estimators.finite.rao_blackwell import RaoBlackwell
from ancestral.estimators.finite.smoothed_perturbation import SmoothedPerturbation
from ancestral.estimators.multi_run.arm import ARM
from ancestral.estimators.multi_run.arms import ARMS
from ancestral.estimators.multi_run.disarm import DisARM
from ancestral.estimators.multi_run.double_cv import DoubleCV
from ancestral.estimators.multi_run.exact_sum import ExactSum
from ancestral.estimators.multi_run.local_expectation import LocalExpectation
from ancestral.estimators.multi_run.measure_valued import MeasureValued
from ancestral.estimators.multi_run.muprop import MuProp
from ancestral.estimators.multi_run.rebar import REBAR
from ancestral.estimators.multi_run.relax import RELAX
from ancestral.estimators.multi_run.rloo import RLOO
from ancestral.estimators.multi_run.sum_and_sample import SumAndSample
from ancestral.estimators.multi_run.unordered_set import UnorderedSet
from ancestral.estimators.relaxation.gumbel_softmax import (
    GumbelRao,
    GumbelSoftmax,
    StraightThroughGumbel,
)
from ancestral.estimators.relaxation.reinmax import ReinMax
from ancestral.estimators.relaxation.straight_through import StraightThrough
from ancestral.estimators.rerun.estimate import Estimate, Plan
from ancestral.estimators.rerun.run_rloo import RunRLOO
from ancestral.estimators.rerun.sampling import Antithetic, QuasiRandom
from ancestral.estimators.rerun.site_draw import SiteDraw, SiteEstimator
from ancestral.estimators.verification.verification import Verification, Verified

__all__ = [
    "ARM",
    "ARMS",
    "REBAR",
    "RELAX",
    "RLOO",
    "AcrossRanks",
    "Antithetic",
    "Baseline",
    "Credit",
    "DisARM",
    "DoubleCV",
    "Estimate",
    "ExactSum",
    "GumbelRao",
    "GumbelSoftmax",
    "LeaveOneOut",
    "LocalExpectation",
    "MeasureValued",
    "MuProp",
    "Neural",
    "Optimal",
    "Plan",
    "QuasiRandom",
    "RaoBlackwell",
    "ReinMax",
    "RunRLOO",
    "RunningMean",
    "SiteDraw",
    "SiteEstimator",
    "SmoothedPerturbation",
    "StraightThrough",
    "StraightThroughGumbel",
    "SumAndSample",
    "UnorderedSet",
    "Verification",
    "Verified",
    "by_element",
    "by_site",
    "total_cost",
]
