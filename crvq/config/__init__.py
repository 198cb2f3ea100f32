"""The typed configuration: every other room sees these objects, never Hydra's."""

from crvq.config.calibration import CalibrationConfig
from crvq.config.evaluation import EvalConfig, PerplexityConfig
from crvq.config.model import ModelConfig
from crvq.config.run import BudgetConfig, RunConfig
from crvq.config.strict import StrictModel
from crvq.config.text import TextConfig
from crvq.config.tracking import TrackingConfig

__all__ = [
    "BudgetConfig",
    "CalibrationConfig",
    "EvalConfig",
    "ModelConfig",
    "PerplexityConfig",
    "RunConfig",
    "StrictModel",
    "TextConfig",
    "TrackingConfig",
]
