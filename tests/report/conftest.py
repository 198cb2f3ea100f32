"""Run records as a finished run leaves them."""

from collections.abc import Callable
from itertools import count
from typing import Any

import pandas as pd
import pytest

from crvq.report.finished_runs import finished_runs
from crvq.report.records import flat_record
from crvq.tracking.record_schema import Record

NOW = "2025-01-02T03:04:05+00:00"


@pytest.fixture(scope="session")
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


@pytest.fixture
def runs_of() -> Callable[..., pd.DataFrame]:
    """Finished runs of records, as they would come out of a results folder."""

    def runs(*records: dict[str, Any]) -> pd.DataFrame:
        flat = [flat_record(record, record["run_id"]) for record in records]
        return finished_runs(pd.DataFrame(flat))

    return runs


@pytest.fixture
def make_run(make_record: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Builds a complete record by what tables are about; a new run id for each."""
    numbers = count()
    layout = {
        "group_size": 8,
        "codebook_bits": 8,
        "extended_codebooks": 3,
        "extended_bits": 8,
        "critical_ratio": 0.02,
        "importance": "error_activation",
        "reorder": "sorted",
        "codebook_scope": "linear",
        "codebook_dtype": "float16",
    }

    def make(
        perplexity: float | dict[str, float] = 50.0,
        bits: float = 1.25,
        method: str = "crvq",
        model: str = "tiny",
        config: dict[str, Any] | None = None,
        parts: dict[str, float] | None = None,
        record: dict[str, Any] | None = None,
        **params: Any,
    ) -> dict[str, Any]:
        by_dataset = perplexity if isinstance(perplexity, dict) else {"wiki": perplexity}
        return make_record(
            f"run{next(numbers)}",
            params={**(layout if method == "crvq" else {}), **params},
            config={"method": method, "model": {"name": model}, **(config or {})},
            full_precision_bits=16.0,
            bits={
                "average_quantized_weights": bits,
                "average_all_weights": bits + 1,
                "quantized_weights": 100,
                "all_weights": 200,
                **(parts or {}),
            },
            perplexity={
                name: {"full_precision": 10.0, "quantized": value, "tokens": 640, "context": 64}
                for name, value in by_dataset.items()
            },
            **(record or {}),
        )

    return make
