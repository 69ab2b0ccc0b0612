"""Errors and warnings: every one that can reach a user, in one place.

>>> from ancestral import errors
>>> issubclass(errors.PlateError, errors.SiteError)
True
"""

from ancestral.estimators.baselines.leave_one_out import BaselineWarning
from ancestral.estimators.elimination import IntractablePlatesError, ScaleError
from ancestral.estimators.factors import (
    DrawnSiteError,
    MixedDensityError,
    OutsideBlockError,
    UndeterminedSiteError,
    UnseenSiteError,
)
from ancestral.estimators.held_scores import HeldScoreWarning, StraightThroughWarning
from ancestral.estimators.importance import (
    GuideSiteError,
    NoWeightError,
    SubsampleWeightError,
    WeightError,
)
from ancestral.estimators.layouts import EnumeratedRunError
from ancestral.estimators.marginals import ImpossibleDataError, InferenceModeError
from ancestral.estimators.nested import LossError
from ancestral.estimators.non_finite import NonFiniteDensityError
from ancestral.estimators.outer import OuterEscapeError
from ancestral.estimators.pair_check import ShapeMismatchError, SupportMismatchError
from ancestral.estimators.pairs import (
    CostInPairError,
    GuideError,
    MissingInGuideError,
    MissingInModelError,
    ObservedInGuideError,
    OtherValueError,
    PlateMismatchError,
)
from ancestral.estimators.particles import PlateNestingError
from ancestral.estimators.pathwise import KinkWarning
from ancestral.estimators.predictive import StackedValuesError
from ancestral.estimators.problem import (
    CaughtError,
    ForgottenRecordingError,
    OtherRecordingError,
    ScoredLossError,
)
from ancestral.estimators.runs import InTurnWarning, OpenRecordingError
from ancestral.estimators.subtraction import BaselineError, DependentBaselineError
from ancestral.estimators.surrogate import MissingScoreWarning
from ancestral.estimators.terms import LossMismatchError, NonFiniteCostError
from ancestral.estimators.vectorized import NotVectorizableError
from ancestral.provenance.escapes import ConfinedError, EscapeError
from ancestral.provenance.failures import InferenceTensorError
from ancestral.provenance.linear import OverwrittenError
from ancestral.provenance.torch_internals import TorchInternalsError, TorchVersionWarning
from ancestral.provenance.writes import WriteIntoParameterError
from ancestral.tools.engines import LayoutError, LayoutTimeoutError, NoEngineError
from ancestral.tools.inference_data import MissingArvizError, SubsampledDataError
from ancestral.trace.apart import UnrecordedDrawError
from ancestral.trace.branches import HiddenLeafError
from ancestral.trace.by_name import DeterministicSiteError, UnknownSiteError
from ancestral.trace.checks import (
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
from ancestral.trace.claims import PlateDependenceError, PlateReuseError, PlateShapeError
from ancestral.trace.conditioning import DeterministicValueError, ObservedInterventionError
from ancestral.trace.configuring import ConfigError
from ancestral.trace.drawing import UnsupportedDrawError
from ancestral.trace.effects import NoEffectWarning
from ancestral.trace.endings import SettledError
from ancestral.trace.enumeration_errors import (
    CollisionError,
    EnumerateChoiceError,
    FoundDrawError,
    MixedRepetitionsError,
    MixedValuesError,
    NestedEnumerationError,
    NotEnumeratedWarning,
    OutOfSightError,
    PlateCollisionError,
    ReplayedDimensionError,
    TakenDimensionError,
    TooManyDimensionsError,
    UnboundedSupportError,
)
from ancestral.trace.errors import EnumerationError, SiteError, UnknownNodeError
from ancestral.trace.findings import AuditError
from ancestral.trace.kinds import UnsupportedTensorError
from ancestral.trace.lifting import PriorShapeError
from ancestral.trace.modules import ModuleError
from ancestral.trace.node import ModifiedParameterError, NoDensityError, NoScoreError
from ancestral.trace.noise import TransformedDrawError
from ancestral.trace.packing import PackError
from ancestral.trace.param_errors import (
    BoundCallError,
    LateParamWarning,
    NoStoreError,
    NotLoadedWarning,
    ParamError,
    ParamInitError,
    ParamMismatchError,
    ParamValueError,
    ParamWarning,
    UnboundParamError,
    UnknownParamError,
)
from ancestral.trace.plates import NestedPlateError, PlateArgumentError, PlateError, SubsampleError
from ancestral.trace.queries import CycleError, UnknownVertexError
from ancestral.trace.record import NotRecordedError
from ancestral.trace.reparam import ReparamError, ReparamValueError
from ancestral.trace.replaying import (
    ReplayedValuesError,
    ReplayKindError,
    ReplayPlateError,
    ReplayShapeError,
)
from ancestral.trace.saved import CheckpointedDrawError, FunctionDrawError
from ancestral.trace.spread import SpreadError
from ancestral.trace.stored import NotPlainError, StoredTraceError
from ancestral.trace.stored_distributions import UnloadedDistributionError
from ancestral.trace.stored_nodes import EnumeratedNodeError, UnstorableNodeError
from ancestral.trace.trace import DuplicateNameError
from ancestral.trace.transforms import TransformError

__all__ = [
    "AuditError",
    "BaselineError",
    "BaselineWarning",
    "BoundCallError",
    "CaughtError",
    "CheckpointedDrawError",
    "CollisionError",
    "ConfigError",
    "ConfinedError",
    "CostInPairError",
    "CycleError",
    "DependentBaselineError",
    "DeterministicSiteError",
    "DeterministicValueError",
    "DrawnSiteError",
    "DuplicateNameError",
    "EnumerateChoiceError",
    "EnumeratedNodeError",
    "EnumeratedRunError",
    "EnumerationError",
    "EscapeError",
    "FactorTypeError",
    "ForgottenRecordingError",
    "FoundDrawError",
    "FunctionDrawError",
    "GuideError",
    "GuideSiteError",
    "HeldScoreWarning",
    "HiddenLeafError",
    "ImpossibleDataError",
    "InTurnWarning",
    "InferKeyError",
    "InferenceModeError",
    "InferenceTensorError",
    "IntractablePlatesError",
    "KinkWarning",
    "LateParamWarning",
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
    "NoStoreError",
    "NoWeightError",
    "NonFiniteCostError",
    "NonFiniteDensityError",
    "NotEnumeratedWarning",
    "NotLoadedWarning",
    "NotPlainError",
    "NotRecordedError",
    "NotVectorizableError",
    "ObservedInGuideError",
    "ObservedInterventionError",
    "ObservedMaskError",
    "OpenRecordingError",
    "OtherRecordingError",
    "OtherValueError",
    "OutOfSightError",
    "OuterEscapeError",
    "OutsideBlockError",
    "OverwrittenError",
    "PackError",
    "ParamError",
    "ParamInitError",
    "ParamMismatchError",
    "ParamValueError",
    "ParamWarning",
    "PlateArgumentError",
    "PlateCollisionError",
    "PlateDependenceError",
    "PlateError",
    "PlateMismatchError",
    "PlateNestingError",
    "PlateReuseError",
    "PlateShapeError",
    "PriorShapeError",
    "ReparamError",
    "ReparamValueError",
    "ReplayKindError",
    "ReplayPlateError",
    "ReplayShapeError",
    "ReplayedDimensionError",
    "ReplayedValuesError",
    "ScaleError",
    "ScoredLossError",
    "SettledError",
    "ShapeMismatchError",
    "SiteDistributionError",
    "SiteError",
    "SiteNameError",
    "SpreadError",
    "StackedValuesError",
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
    "UnboundParamError",
    "UnboundedSupportError",
    "UndeterminedSiteError",
    "UnknownNodeError",
    "UnknownParamError",
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
