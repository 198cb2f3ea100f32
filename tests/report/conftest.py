"""Run records as a finished run leaves them."""

from collections.abc import Callable
from typing import Any

import pytest

from crvq.tracking.record_schema import Record

NOW = "2025-01-02T03:04:05+00:00"


@pytest.fixture
def make_record() -> Callable[..., dict[str, Any]]:
    """Builds a complete record; ``params`` and ``config`` change its configuration."""

    def make(
        run_id: str = "r1",
        params: dict[str, Any] | None = None,
        config: dict[str, Any] | None = None,
        **changes: Any,
    ) -> dict[str, Any]:
        method_params = {"critical_ratio": 0.02, "codebooks": 4, **(params or {})}
        base = {
            "results_dir": "results",
            "seed": 0,
            "model": {"name": "tiny", "path": "models/tiny"},
            "method": "crvq",
            "method_params": method_params,
            "tracking": {"mode": "offline"},
            **(config or {}),
        }
        values: dict[str, Any] = {
            "run_id": run_id,
            "experiment": "default",
            "status": "complete",
            "model": base["model"]["name"],
            "method": base["method"],
            "config": base,
            "started": NOW,
            "updated": NOW,
            "bits": {
                "average_quantized_weights": 2.125,
                "average_all_weights": 3.5,
                "quantized_weights": 10,
                "all_weights": 20,
            },
            "perplexity": {
                "wiki": {"full_precision": 21.5, "quantized": 94.25, "tokens": 4096, "context": 64}
            },
            "seconds": {"load": 2.0, "quantize": 40.0},
            **changes,
        }
        Record.model_validate(values)  # what is not a record would test nothing
        return values

    return make
