"""A results folder with a run of every kind, and runs as the dashboard reads them."""

import os
import shutil
import socket
from datetime import UTC, datetime

import pytest

from crvq.files.atomic import write_json
from crvq.finetune.curve import CurvePoint
from crvq.report.runs import load_runs
from crvq.tracking.csv_files import write_finetune, write_layers
from crvq.tracking.events import LayerRow
from crvq.tracking.json_values import to_json

from .browser import chromium

ATTACK = "</script><img src=x onerror=alert(1)>&<b>\u2028"
"""What a page must show and never obey."""


def layer(block, kind="attn.q_proj", relative_loss=0.25, **changes):
    values = {
        "name": f"layers.{block}.{kind}",
        "out_features": 4,
        "in_features": 8,
        "critical_channels": 2,
        "loss": 1.5,
        "rounds": 3,
        "seconds": 0.5,
        "bits": 2.0,
        "bit_parts": {"codes": 48.0, "scales": 16.0},
    }
    return LayerRow(block, kind=kind, relative_loss=relative_loss, **{**values, **changes})


def write_run(results, record, rows=(), curve=()):
    folder = results / record["experiment"] / record["run_id"]
    write_json(folder / "record.json", to_json(record))
    if rows:
        write_layers(folder / "layers.csv", rows)
    if curve:
        write_finetune(folder / "finetune.csv", curve)


@pytest.fixture(scope="module")
def browser():
    """One for all tests of a file; each opens a fresh page."""
    with chromium() as found:
        yield found


@pytest.fixture
def save_run(tmp_path, make_record):
    """Writes a run's folder below ``results``; returns the results folder."""

    def save(place, rows=(), curve=(), **changes):
        experiment, run_id = place.split("/")
        record = make_record(run_id, experiment=experiment, **changes)
        write_run(tmp_path / "results", record, rows, curve)
        return tmp_path / "results"

    return save


@pytest.fixture
def load(save_run):
    """Writes runs (place to changes) and loads them."""

    def loaded(**runs):
        results = None
        for place, changes in runs.items():
            results = save_run(place.replace("__", "/"), **changes)
        return load_runs(results)

    return loaded


def perplexity(quantized, **changes):
    entry = {"full_precision": 20.0, "quantized": quantized, "tokens": 4096, "context": 64}
    return {"wiki": {**entry, **changes}}


def agreement(kl_divergence, **changes):
    entry = {"top1_agreement": 0.7, "tokens": 63, "context": 64, "windows": 1}
    return {"kl_divergence": kl_divergence, **entry, **changes}


def zero_shot(score, chance=0.25, **changes):
    metric = {
        "full_precision": 0.6,
        "full_precision_stderr": 0.02,
        "quantized": score,
        "quantized_stderr": 0.02,
        "recovery": score / 0.6,
        "chance": chance,
    }
    return {"metrics": {"acc": metric}, "samples": 100, "available": 500, "shots": 0, **changes}


@pytest.fixture
def every_kind(all_kinds, tmp_path):
    """A copy of `all_kinds` to work on."""
    return shutil.copytree(all_kinds, tmp_path / "copy")


@pytest.fixture(scope="session")
def all_kinds(tmp_path_factory, make_record):
    """A sweep of six runs, a failed, a damaged, a running and a dead one, a hostile one."""
    results = tmp_path_factory.mktemp("all_kinds") / "results"

    def save_run(place, rows=(), curve=(), **changes):
        experiment, run_id = place.split("/")
        write_run(results, make_record(run_id, experiment=experiment, **changes), rows, curve)

    rows = [layer(block, kind) for block in range(3) for kind in ("attn.q_proj", "mlp.up_proj")]
    for number, (ratio, order) in enumerate(
        (ratio, order) for ratio in (0.0, 0.01, 0.02) for order in ("sorted", "none")
    ):
        curve = [
            CurvePoint("block", block, step, step, 0.5, 0.4 - 0.01 * step, 1e-4, 1.0)
            for block in range(3)
            for step in range(4)
        ]
        save_run(
            f"sweep/run{number}",
            rows=rows,
            curve=curve,
            params={"critical_ratio": ratio, "reorder": order},
            perplexity=perplexity(100.0 - 10 * number),
            effective={"critical_ratio": ratio * 0.75},
            zero_shot={"arc": zero_shot(0.27), "piqa": zero_shot(0.55, 0.5)},
            agreement={"wiki": agreement(0.5)},
        )
    error = {"type": "QuantizationError", "message": "k_proj is not finite"}
    trace = [f"line {number}" for number in range(40)]
    save_run("trouble/failed", rows[:2], status="failed", error={**error, "traceback": trace})
    attempts = [{"started": datetime.now(UTC).isoformat(), "host": socket.gethostname()}]
    for name, pid in (("running", os.getpid()), ("dead", 2**22 + 1)):
        save_run(
            f"trouble/{name}",
            rows[:4],
            status="running",
            attempts=[{**attempts[0], "pid": pid}],
            stage={"name": "quantize", "total": 3},
            seconds={},
            bits=None,
            perplexity={},
        )
    save_run(
        "trouble/hostile",
        [layer(0, notes=ATTACK, kind=ATTACK.replace("\u2028", ""))],
        model_note=ATTACK,
        notes=[ATTACK],
        config={"model": {"name": ATTACK}},
        params={"importance": ATTACK},
        perplexity={ATTACK: perplexity(float("inf"))["wiki"]},
        status="failed",
        error={"type": ATTACK, "message": ATTACK, "traceback": [ATTACK]},
    )
    (results / "trouble" / "damaged").mkdir()
    (results / "trouble" / "damaged" / "record.json").write_text("{")
    return results
