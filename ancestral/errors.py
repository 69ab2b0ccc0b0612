"""Errors and warnings: every one that can reach a user, in one place.

>>> from ancestral import errors
>>> issubclass(errors.PlateError, errors.SiteError)
True
"""

from ancestral.estimators.baselines.across_ranks import RanksError
from ancestral.estimators.baselines.learned import StateError
from ancestral.estimators.baselines.leave_one_out import BaselineWarning
from ancestral.estimators.batched.run import NotVectorizableError
from ancestral.estimators.batched.run_many import InTurnWarning
from ancestral.estimators.compiled.compile import NotCompiledWarning
from ancestral.estimators.credit.blur import BlurredCreditWarning
from ancestral.estimators.credit.declared_costs import NonFiniteDensityError
from ancestral.estimators.credit.site_choices import PatternWarning
from ancestral.estimators.diagnostics.monitor import MonitorWarning
from ancestral.estimators.gradient.estimator_choice import KinkWarning
from ancestral.estimators.gradient.log_probs_in_loss import HeldScoreWarning
from ancestral.estimators.gradient.loss_pytree import LossError, ScoredLossError
from ancestral.estimators.gradient.loss_terms import LossMismatchError, NonFiniteCostError
from ancestral.estimators.gradient.missing_scores import (
    ForgottenRecordingError,
    MissingScoreWarning,
    OtherRecordingError,
)
from ancestral.estimators.gradient.problem import CaughtError
from ancestral.estimators.gradient.subtraction import BaselineError, DependentBaselineError
from ancestral.estimators.inference.importance import WeightError
from ancestral.estimators.inference.model_guide import GuideError
from ancestral.estimators.objectives.paths import BiasedGradientWarning
from ancestral.estimators.pathwise.routes import DerivativeOrderError
from ancestral.estimators.rerun.outcomes import NotEnumerableError, TooManyOutcomesError
from ancestral.estimators.rerun.replay import NotAFunctionError
from ancestral.estimators.rerun.site_draw import EstimatorError
from ancestral.estimators.sequences.particle_filter import ParticleError
from ancestral.provenance.dispatch.error_leaks import InferenceTensorError
from ancestral.provenance.dispatch.escape import ConfinedError, EscapeError
from ancestral.provenance.dispatch.inplace import WriteIntoParameterError
from ancestral.provenance.dispatch.subclasses import UnsupportedTensorError
from ancestral.provenance.tensor.linear_form import OverwrittenError
from ancestral.provenance.tensor.torch_internals import TorchVersionWarning
from ancestral.tools.render.engines import LayoutError, LayoutTimeoutError, NoEngineError
from ancestral.tools.study.errors import StudyError, WorkerError
from ancestral.trace.audit.tables import AuditError
from ancestral.trace.context.errors import (
    EnumerationError,
    SiteError,
    TransformError,
    UnknownNodeError,
)
from ancestral.trace.context.other_threads import UnrecordedDrawError
from ancestral.trace.enumeration.enumerate import NotEnumeratedWarning
from ancestral.trace.handlers.by_name import HandlerError, UnknownSiteError
from ancestral.trace.handlers.reparam import ReparamError
from ancestral.trace.handlers.rescore import RescoreError
from ancestral.trace.intercept.straight_through import StraightThroughWarning
from ancestral.trace.nodes.node import ModifiedParameterError, NoDensityError, NoScoreError
from ancestral.trace.nodes.plate_frame import PlateError
from ancestral.trace.params.errors import ParamError, ParamWarning, StoreError
from ancestral.trace.program.checks import SupportError
from ancestral.trace.program.unpassed_tensors import ExternalError
from ancestral.trace.recording.leaf_writes import SettledError
from ancestral.trace.recording.unused_handlers import NoEffectWarning
from ancestral.trace.serialize.checkpoint import CheckpointError
from ancestral.trace.serialize.distributions import UnloadedDistributionError
from ancestral.trace.serialize.plain import NotPlainError, StoredTraceError

__all__ = [
    "AuditError",
    "BaselineError",
    "BaselineWarning",
    "BiasedGradientWarning",
    "BlurredCreditWarning",
    "CaughtError",
    "CheckpointError",
    "ConfinedError",
    "DependentBaselineError",
    "DerivativeOrderError",
    "EnumerationError",
    "EscapeError",
    "EstimatorError",
    "ExternalError",
    "ForgottenRecordingError",
    "GuideError",
    "HandlerError",
    "HeldScoreWarning",
    "InTurnWarning",
    "InferenceTensorError",
    "KinkWarning",
    "LayoutError",
    "LayoutTimeoutError",
    "LossError",
    "LossMismatchError",
    "MissingScoreWarning",
    "ModifiedParameterError",
    "MonitorWarning",
    "NoDensityError",
    "NoEffectWarning",
    "NoEngineError",
    "NoScoreError",
    "NonFiniteCostError",
    "NonFiniteDensityError",
    "NotAFunctionError",
    "NotCompiledWarning",
    "NotEnumerableError",
    "NotEnumeratedWarning",
    "NotPlainError",
    "NotVectorizableError",
    "OtherRecordingError",
    "OverwrittenError",
    "ParamError",
    "ParamWarning",
    "ParticleError",
    "PatternWarning",
    "PlateError",
    "RanksError",
    "ReparamError",
    "RescoreError",
    "ScoredLossError",
    "SettledError",
    "SiteError",
    "StateError",
    "StoreError",
    "StoredTraceError",
    "StraightThroughWarning",
    "StudyError",
    "SupportError",
    "TooManyOutcomesError",
    "TorchVersionWarning",
    "TransformError",
    "UnknownNodeError",
    "UnknownSiteError",
    "UnloadedDistributionError",
    "UnrecordedDrawError",
    "UnsupportedTensorError",
    "WeightError",
    "WorkerError",
    "WriteIntoParameterError",
]
