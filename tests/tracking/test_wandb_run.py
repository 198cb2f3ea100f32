"""What W&B itself makes of a run, read back from its files."""

import os
import subprocess
import sys

import pytest

from crvq.tracking.csv_files import write_layers
from tests.tracking.mirror_examples import CONFIG, RECORD, warned
from tests.tracking.offline_run import finished_offline_run, items


def test_an_offline_run_can_be_read_back(mirror, tmp_path, make_row, monkeypatch, caplog, capfd):
    monkeypatch.setenv("WANDB_MODE", "disabled")  # the configuration decides
    rows = [make_row(0, relative_loss=0.01), make_row(0, "mlp", relative_loss=0.03)]
    write_layers(tmp_path / "layers.csv", rows)
    whole = mirror(tags=("t",))
    whole.block_quantized(0, rows, 1.5)
    whole._calls.submit(lambda: sys.stdout.write("spoken\n"))  # once W&B is connected
    whole.finished(RECORD)
    assert warned(caplog) == []
    assert capfd.readouterr() == ("spoken\n", "")

    records = finished_offline_run(tmp_path)
    assert not any(record.HasField("output_raw") for record in records)  # no copy of the terminal
    (run,) = [record.run for record in records if record.HasField("run")]
    assert (run.run_id, run.run_group, run.job_type) == ("tiny-crvq-abc", "s1", "quantize")
    assert list(run.tags) == ["t"]
    assert items(run.config.update).items() >= CONFIG.items()
    history = [items(record.history.item) for record in records if record.HasField("history")]
    block = next(row for row in history if "block" in row)
    assert block["relative_loss/mean"] == pytest.approx(0.02)
    assert (block["relative_loss/max"], block["seconds/block"]) == (0.03, 1.5)
    assert block["_step"] == 0
    assert any("layers" in row or "layers/_type" in row for row in history)
    summary = {}
    for record in records:
        summary |= items(record.summary.update)
    assert summary["perplexity/wiki/full_precision"] == 21.5
    assert summary["perplexity/wiki/quantized"] == "Infinity"
    assert summary["bits/average_quantized_weights"] == 2.125
    assert summary["status"] == "complete"


def test_an_unreachable_server_costs_little_and_the_real_module_stays_silent(tmp_path):
    """A process of its own: W&B keeps its login and its service for a process's lifetime."""
    program = """
import sys
from pathlib import Path
from crvq.config import TrackingConfig
from crvq.tracking.mirror import Mirror
tracking = TrackingConfig(mode="online", timeout_seconds=30)
Mirror(tracking, Path(sys.argv[1]), "r1", {}).finished({"status": "complete"})
"""
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40}
    answer = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, **nowhere},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert answer.stdout == ""
    (warning,) = answer.stderr.splitlines()
    assert "mirrored offline" in warning
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 1
