"""Errors and warnings: every one that can reach a user, in one place.

>>> from ancestral import errors
>>> issubclass(errors.PlateError, errors.SiteError)
True
"""

from ancestral.estimators.baselines.leave_one_out import BaselineWarning
from ancestral.estimators.batched.outer_plate import OuterEscapeError
from ancestral.estimators.batched.run import (
    EnumeratedRunError,
    NotVectorizableError,
    StackedValuesError,
)
from ancestral.estimators.batched.run_many import InTurnWarning, OpenRecordingError
from ancestral.estimators.credit.blur import BlurredCreditWarning
from ancestral.estimators.elimination.eliminate import IntractablePlatesError, ScaleError
from ancestral.estimators.elimination.factors import (
    DrawnSiteError,
    MixedDensityError,
    OutsideBlockError,
    UndeterminedSiteError,
    UnseenSiteError,
)
from ancestral.estimators.elimination.marginals import ImpossibleDataError, InferenceModeError
from ancestral.estimators.gradient.estimator_choice import KinkWarning
from ancestral.estimators.gradient.log_probs_in_loss import HeldScoreWarning, StraightThroughWarning
from ancestral.estimators.gradient.loss_pytree import LossError
from ancestral.estimators.gradient.loss_terms import (
    LossMismatchError,
    NonFiniteCostError,
    NonFiniteDensityError,
)
from ancestral.estimators.gradient.missing_scores import (
    ForgottenRecordingError,
    OtherRecordingError,
)
from ancestral.estimators.gradient.problem import CaughtError, ScoredLossError
from ancestral.estimators.gradient.subtraction import BaselineError, DependentBaselineError
from ancestral.estimators.gradient.surrogate import MissingScoreWarning
from ancestral.estimators.inference.check_guide import ShapeMismatchError, SupportMismatchError
from ancestral.estimators.inference.importance import (
    GuideSiteError,
    NoWeightError,
    SubsampleWeightError,
    WeightError,
)
from ancestral.estimators.inference.model_guide import (
    CostInPairError,
    GuideError,
    MissingInGuideError,
    MissingInModelError,
    ObservedInGuideError,
    OtherValueError,
    PlateMismatchError,
)
from ancestral.estimators.inference.particles import PlateNestingError
from ancestral.provenance.dispatch.error_leaks import InferenceTensorError
from ancestral.provenance.dispatch.escape import ConfinedError, EscapeError
from ancestral.provenance.dispatch.inplace import WriteIntoParameterError
from ancestral.provenance.tensor.linear_form import OverwrittenError
from ancestral.provenance.tensor.torch_internals import TorchInternalsError, TorchVersionWarning
from ancestral.tools.arviz import MissingArvizError, SubsampledDataError
from ancestral.tools.render.engines import LayoutError, LayoutTimeoutError, NoEngineError
from ancestral.trace.audit.tables import AuditError
from ancestral.trace.context.errors import EnumerationError, SiteError, UnknownNodeError
from ancestral.trace.context.other_threads import UnrecordedDrawError
from ancestral.trace.context.trust import TrustError
from ancestral.trace.display.flat_vector import PackError
from ancestral.trace.enumeration.errors import (
    CollisionError,
    EnumerateChoiceError,
    FoundDrawError,
    MixedRepetitionsError,
    MixedValuesError,
    NestedEnumerationError,
    NotEnumeratedWarning,
    OutOfScopeError,
    PlateCollisionError,
    ReplayedDimensionError,
    TakenDimensionError,
    TooManyDimensionsError,
    UnboundedSupportError,
)
from ancestral.trace.graph.d_separation import CycleError, UnknownVertexError
from ancestral.trace.handlers.by_name import (
    DeterministicSiteError,
    HandlerError,
    UnknownSiteError,
)
from ancestral.trace.handlers.reparam import ReparamError
from ancestral.trace.handlers.replay import ReplayShapeError
from ancestral.trace.intercept.checkpoint import CheckpointedDrawError, FunctionDrawError
from ancestral.trace.intercept.functorch import TransformError
from ancestral.trace.intercept.wrapper_subclasses import UnsupportedTensorError
from ancestral.trace.nodes.node import ModifiedParameterError, NoDensityError, NoScoreError
from ancestral.trace.nodes.plate_frame import (
    NestedPlateError,
    PlateArgumentError,
    PlateError,
    SubsampleError,
)
from ancestral.trace.params.errors import ParamError, ParamWarning, StoreError
from ancestral.trace.program.checks import (
    FactorTypeError,
    InferKeyError,
    ObservedMaskError,
    SiteDistributionError,
    SiteNameError,
    SupportError,
    ValueShapeError,
    ValueTypeError,
    WeightDeviceError,
    WeightShapeError,
)
from ancestral.trace.program.external import ExternalError
from ancestral.trace.program.module_statement import ModuleError
from ancestral.trace.recording.constant_draws import TransformedDrawError
from ancestral.trace.recording.enumerated_log_prob import SpreadError
from ancestral.trace.recording.leaf_writes import SettledError
from ancestral.trace.recording.plate_checks import (
    PlateDependenceError,
    PlateReuseError,
    PlateShapeError,
)
from ancestral.trace.recording.record import NotRecordedError
from ancestral.trace.recording.record_site import UnsupportedDrawError
from ancestral.trace.recording.trace import DuplicateNameError
from ancestral.trace.recording.unused_handlers import NoEffectWarning
from ancestral.trace.serialize.distributions import UnloadedDistributionError
from ancestral.trace.serialize.nodes import EnumeratedNodeError, UnstorableNodeError
from ancestral.trace.serialize.plain import NotPlainError, StoredTraceError

__all__ = [
    "AuditError",
    "BaselineError",
    "BaselineWarning",
    "BlurredCreditWarning",
    "CaughtError",
    "CheckpointedDrawError",
    "CollisionError",
    "ConfinedError",
    "CostInPairError",
    "CycleError",
    "DependentBaselineError",
    "DeterministicSiteError",
    "DrawnSiteError",
    "DuplicateNameError",
    "EnumerateChoiceError",
    "EnumeratedNodeError",
    "EnumeratedRunError",
    "EnumerationError",
    "EscapeError",
    "ExternalError",
    "FactorTypeError",
    "ForgottenRecordingError",
    "FoundDrawError",
    "FunctionDrawError",
    "GuideError",
    "GuideSiteError",
    "HandlerError",
    "HeldScoreWarning",
    "ImpossibleDataError",
    "InTurnWarning",
    "InferKeyError",
    "InferenceModeError",
    "InferenceTensorError",
    "IntractablePlatesError",
    "KinkWarning",
    "LayoutError",
    "LayoutTimeoutError",
    "LossError",
    "LossMismatchError",
    "MissingArvizError",
    "MissingInGuideError",
    "MissingInModelError",
    "MissingScoreWarning",
    "MixedDensityError",
    "MixedRepetitionsError",
    "MixedValuesError",
    "ModifiedParameterError",
    "ModuleError",
    "NestedEnumerationError",
    "NestedPlateError",
    "NoDensityError",
    "NoEffectWarning",
    "NoEngineError",
    "NoScoreError",
    "NoWeightError",
    "NonFiniteCostError",
    "NonFiniteDensityError",
    "NotEnumeratedWarning",
    "NotPlainError",
    "NotRecordedError",
    "NotVectorizableError",
    "ObservedInGuideError",
    "ObservedMaskError",
    "OpenRecordingError",
    "OtherRecordingError",
    "OtherValueError",
    "OutOfScopeError",
    "OuterEscapeError",
    "OutsideBlockError",
    "OverwrittenError",
    "PackError",
    "ParamError",
    "ParamWarning",
    "PlateArgumentError",
    "PlateCollisionError",
    "PlateDependenceError",
    "PlateError",
    "PlateMismatchError",
    "PlateNestingError",
    "PlateReuseError",
    "PlateShapeError",
    "ReparamError",
    "ReplayShapeError",
    "ReplayedDimensionError",
    "ScaleError",
    "ScoredLossError",
    "SettledError",
    "ShapeMismatchError",
    "SiteDistributionError",
    "SiteError",
    "SiteNameError",
    "SpreadError",
    "StackedValuesError",
    "StoreError",
    "StoredTraceError",
    "StraightThroughWarning",
    "SubsampleError",
    "SubsampleWeightError",
    "SubsampledDataError",
    "SupportError",
    "SupportMismatchError",
    "TakenDimensionError",
    "TooManyDimensionsError",
    "TorchInternalsError",
    "TorchVersionWarning",
    "TransformError",
    "TransformedDrawError",
    "TrustError",
    "UnboundedSupportError",
    "UndeterminedSiteError",
    "UnknownNodeError",
    "UnknownSiteError",
    "UnknownVertexError",
    "UnloadedDistributionError",
    "UnrecordedDrawError",
    "UnseenSiteError",
    "UnstorableNodeError",
    "UnsupportedDrawError",
    "UnsupportedTensorError",
    "ValueShapeError",
    "ValueTypeError",
    "WeightDeviceError",
    "WeightError",
    "WeightShapeError",
    "WriteIntoParameterError",
]
