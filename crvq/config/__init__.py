"""The typed configuration: every other package sees these objects, never Hydra's."""

from crvq.config.calibration import CalibrationConfig
from crvq.config.evaluation import (
    AgreementConfig,
    EvalConfig,
    GenerationConfig,
    PerplexityConfig,
    SpeedConfig,
)
from crvq.config.model import ModelConfig
from crvq.config.rotation import RotationConfig
from crvq.config.run import BudgetConfig, RunConfig
from crvq.config.strict import StrictModel
from crvq.config.text import TextConfig
from crvq.config.tracking import TrackingConfig
from crvq.config.zero_shot import ZeroShotConfig

__all__ = [
    "AgreementConfig",
    "BudgetConfig",
    "CalibrationConfig",
    "EvalConfig",
    "GenerationConfig",
    "ModelConfig",
    "PerplexityConfig",
    "RotationConfig",
    "RunConfig",
    "SpeedConfig",
    "StrictModel",
    "TextConfig",
    "TrackingConfig",
    "ZeroShotConfig",
]
