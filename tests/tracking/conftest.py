"""A small typed configuration and rows of linears."""

from collections.abc import Callable
from typing import Any

import pytest

from crvq.config import CalibrationConfig, ModelConfig, RunConfig, StrictModel, TrackingConfig
from crvq.tracking.events import LayerRow
from crvq.tracking.mirror import Mirror
from tests.tracking.mirror_examples import CONFIG

PARTS = ("codes", "codebooks", "scales", "permutation", "other")


class Params(StrictModel):
    critical_ratio: float = 0.02
    codebooks: int = 4


@pytest.fixture
def make_config() -> Callable[..., RunConfig]:
    def make(**changes: Any) -> RunConfig:
        values = {
            "model": ModelConfig(name="tiny", source="path", path="models/tiny"),
            "method": "crvq",
            "method_params": Params(),
            "calibration": CalibrationConfig(),
        }
        return RunConfig(**{**values, **changes})

    return make


@pytest.fixture
def make_params() -> Callable[..., Params]:
    return Params


@pytest.fixture
def make_row() -> Callable[..., LayerRow]:
    def make(block: int = 0, kind: str = "attn.q_proj", **changes: Any) -> LayerRow:
        values = {
            "out_features": 8,
            "in_features": 16,
            "critical_channels": 8,
            "loss": 0.1 + 0.2,  # not a short decimal
            "relative_loss": 0.025,
            "rounds": 3,
            "seconds": 0.5,
            "bits": 2.0,
            "bit_parts": dict.fromkeys(PARTS, 0.0) | {"codes": 192.0, "codebooks": 64.0},
        }
        name = f"model.layers.{block}.{kind}"
        return LayerRow(block=block, name=name, kind=kind, **{**values, **changes})

    return make


@pytest.fixture
def mirror(tmp_path) -> Callable[..., Mirror]:
    def make(mode="offline", timeout=10.0, sweep="s1", **tracking):
        config = TrackingConfig(mode=mode, timeout_seconds=timeout, **tracking)
        return Mirror(config, tmp_path, "tiny-crvq-abc", CONFIG, sweep=sweep)

    return make
