import csv
import json
import math

import pytest
import torch
from safetensors import safe_open

from crvq.config import StrictModel
from crvq.errors import ConfigError, CrvqError, QuantizationError, SourceError
from crvq.methods.registry import METHODS
from crvq.pipeline.blockwise import BlockwiseQuantizer
from crvq.pipeline.run import run, run_folder
from crvq.tracking.csv_files import read_layers
from crvq.tracking.record_schema import read_record
from crvq.tracking.run_id import run_id


@pytest.fixture
def done(finished, compose_run):
    return compose_run(), finished()


def tensor_bytes(folder):
    total = 0
    for file in (folder / "checkpoint").glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                tensor = tensors.get_tensor(name)
                total += tensor.numel() * tensor.element_size()
    return total


def layer_rows(folder):
    with (folder / "layers.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_record_says_all_of_it(done):
    config, folder = done
    record = json.loads((folder / "record.json").read_text())
    assert folder == run_folder(config)
    assert folder.name == record["run_id"]
    assert record["status"] == "complete"
    assert record["error"] is None
    assert record["schema_version"] >= 1
    assert (record["model"], record["method"]) == ("local", "crvq")
    assert record["config"]["method_params"]["critical_ratio"] == 0.02
    assert record["seeds"] == {"seed": 0, "calibration": 0}
    for name in ("torch", "transformers", "crvq"):
        assert record["packages"][name], name
    for key in ("host", "platform", "started", "finished"):
        assert record[key], key
    assert "git" in record
    assert record["device"] == "cpu"
    assert record["threads"] == torch.get_num_threads()
    parts = ("codes", "codebooks", "scales", "permutation", "other")
    assert all(part in record["bits"] for part in parts)
    result = record["perplexity"]["file"]
    assert math.isfinite(result["full_precision"])
    assert math.isfinite(result["quantized"])
    assert (result["tokens"], result["context"], result["windows"]) == (3 * 64, 64, 3)
    assert result["windows_available"] == 1000 // 64
    for stage in ("load", "calibrate", "quantize", "evaluate"):
        assert record["seconds"][stage] > 0, stage
    assert record["peak_memory_bytes"] > 10_000_000
    assert (folder / "run.log").exists()


def test_bits_are_what_lies_on_disk(done):
    _, folder = done
    bits = (record := read_record(folder))["bits"]
    total = sum(bits[part] for part in ("codes", "codebooks", "scales", "permutation", "other"))
    on_disk = tensor_bytes(folder)
    assert record["packed_bytes"] == on_disk
    assert total == pytest.approx(8 * on_disk, rel=1e-3)
    assert bits["average_quantized_weights"] == pytest.approx(total / bits["quantized_weights"])
    rest = bits["all_weights"] - bits["quantized_weights"]
    assert bits["average_all_weights"] == pytest.approx((total + 16 * rest) / bits["all_weights"])
    # Three blocks: q and o 32x32, k and v 16x32, gate and up 44x32, down 32x44.
    assert bits["quantized_weights"] == 3 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 44 * 32)
    # Embeddings (tied) and norms are the rest.
    assert rest == 96 * 32 + 7 * 32


@pytest.mark.parametrize("scope", ["block", "model"])
@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_shared_codebooks_are_stored_and_counted_once(compose_run, scope, dtype):
    record = read_record(
        folder := run(
            compose_run(f"crvq.codebook_scope={scope}", f"crvq.codebook_dtype={dtype}", "eval=none")
        )
    )
    total = record["bits"]["average_quantized_weights"] * record["bits"]["quantized_weights"]
    assert total == pytest.approx(8 * tensor_bytes(folder), rel=1e-3)


def test_a_row_for_every_linear(done):
    _, folder = done
    rows = layer_rows(folder)
    assert [int(row["block"]) for row in rows] == [b for b in range(3) for _ in range(7)]
    assert len({row["name"] for row in rows}) == 21
    for row in rows:
        assert 0 < float(row["relative_loss"]) < 1
        assert float(row["loss"]) > 0
        assert float(row["seconds"]) > 0
        assert int(row["rounds"]) >= 1
        weights = int(row["out_features"]) * int(row["in_features"])
        total = sum(float(value) for key, value in row.items() if key.startswith("bits_"))
        assert float(row["bits"]) == pytest.approx(total / weights)
    down = next(row for row in rows if row["kind"] == "mlp.down_proj")
    assert (down["name"], down["in_features"]) == ("model.layers.0.mlp.down_proj", "44")
    assert int(down["critical_channels"]) == 4
    assert len({int(channel) for channel in down["critical_in_features"].split()}) == 4


def test_a_complete_run_is_not_done_again_unless_forced(compose_run, done):
    config, folder = done

    def times():
        return {
            path.name: path.stat().st_mtime_ns
            for path in [*folder.glob("*.*"), *(folder / "checkpoint").iterdir()]
        }

    before, digest = times(), read_record(folder)["result_digest"]
    assert run(config) == folder
    assert times() == before
    assert run(compose_run("force=true")) == folder
    after = times()
    assert all(after[name] > before[name] for name in before)
    assert read_record(folder)["result_digest"] == digest
    assert read_record(folder)["resumes"] == 0


def test_full_precision_is_measured_once_and_looked_up_after(compose_run, done):
    _, folder = done
    other = read_record(run(compose_run("method=full_precision")))
    first = read_record(folder)["perplexity"]["file"]["full_precision"]
    assert other["perplexity"]["file"]["full_precision"] == first
    assert other["perplexity"]["file"]["quantized"] is None
    assert other["bits"] is None
    assert any("known from an earlier run" in note for note in other["notes"])


def test_an_error_in_the_work_is_in_the_record(compose_run, monkeypatch):
    def fail(*_):
        raise QuantizationError("block 0 cannot be quantized")

    monkeypatch.setattr(BlockwiseQuantizer, "_quantize", fail)
    config = compose_run()
    with pytest.raises(QuantizationError):
        run(config)
    record = read_record(run_folder(config))
    assert record["status"] == "failed"
    assert record["error"]["type"] == "QuantizationError"
    assert record["error"]["message"] == "block 0 cannot be quantized"
    assert record["error"]["traceback"]


REFUSED = {
    "model": ["model.path=/nowhere"],
    "calibration text": ["calibration.path=/nowhere.txt"],
    "evaluation text": ["eval.perplexity.file.path=/nowhere.txt"],
    "context": ["eval.perplexity.file.context=65"],
    "calibration length": ["calibration.length=65"],
    "skipped": ["model.skip_linears=[proj]"],
    "budget": ["budget.bits=0.01"],
    "prompt": ["eval.generation={prompts: [w1], max_new_tokens: 64}"],
    "same text": ["same"],
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_refused_command_leaves_no_trace(what, compose_run, tiny_texts, tmp_path):
    same = [
        f"calibration.path={tiny_texts[1]}",
        "eval.perplexity.file.context=16",
        "eval.perplexity.file.max_windows=null",
    ]
    changes = same if what == "same text" else REFUSED[what]
    with pytest.raises(CrvqError):
        run(compose_run(*changes))
    assert not (tmp_path / "results").exists()


def test_full_precision_does_not_mind_a_calibration_length_that_it_does_not_use(compose_run):
    # The model has 64 positions.
    folder = run(compose_run("method=full_precision", "calibration.length=512"))
    assert read_record(folder)["status"] == "complete"


def test_a_failed_run_is_done_when_it_is_asked_for_again(compose_run, tiny_texts, tmp_path):
    text = tmp_path / "later.txt"
    config = compose_run(f"calibration.path={text}")
    with pytest.raises(SourceError, match="no such file"):
        run(config)
    text.write_text(tiny_texts[0].read_text())
    record = read_record(run(config))
    assert record["status"] == "complete"
    assert record["error"] is None


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_wandb_mirrors_into_the_runs_folder(compose_run, mode, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = run(compose_run(f"tracking={mode}", "eval=none"))
    assert read_record(folder)["status"] == "complete"
    mirrored = list((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    assert bool(mirrored) == (mode == "offline")


def test_a_model_in_bfloat16(compose_run):
    record = read_record(run(compose_run("model.dtype=bfloat16", "activation_dtype=auto")))
    assert record["status"] == "complete"
    assert math.isfinite(record["perplexity"]["file"]["quantized"])


def test_skipping_everything_is_refused(compose_run):
    with pytest.raises(ConfigError, match=r"skip_linears=\['proj'\] leaves no linear"):
        run(compose_run("model.skip_linears=[proj]"))


def test_what_is_skipped_stays_and_is_not_counted(compose_run):
    folder = run(compose_run("model.skip_linears=[down_proj]", "eval=none"))
    kinds = {row["kind"] for row in layer_rows(folder)}
    assert "mlp.up_proj" in kinds
    assert "mlp.down_proj" not in kinds


def test_a_budget_that_no_method_heeds_is_refused(compose_run):
    with pytest.raises(ConfigError, match=r"budget\.bits=2"):
        compose_run("method=full_precision", "budget.bits=2")


def test_registered_classes_are_all_typed():
    for name in METHODS:
        assert issubclass(METHODS.get(name).Params, StrictModel)


def test_overrides_reach_the_layers_they_name_and_the_identity(finished, compose_run):
    plain = compose_run()
    config = compose_run(
        "overrides={*.down_proj:{codebook_bits:5},model.layers.0.*:{max_rounds:2}}"
    )
    assert run_id(config) != run_id(plain)
    folder = run(config)
    rows = read_layers(folder / "layers.csv")
    bits = {(row.block, row.kind): row.bits for row in rows}
    before = {(r.block, r.kind): r.bits for r in read_layers(finished() / "layers.csv")}
    for (block, kind), value in bits.items():
        assert (value > before[block, kind]) == (kind == "mlp.down_proj")
    assert run(config) == folder  # found again: the same run


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["overrides={*.down_proj:{codebok_bits:5}}"], "did you mean codebook_bits"),
        (
            ["overrides={*.down_proj:{codebook_bits:99}}"],
            r"overrides\.\*\.down_proj\.codebook_bits",
        ),
        (["overrides={*.q:{codebook_bits:5}}", "budget.bits=2"], "set one of them"),
    ],
)
def test_wrong_overrides_are_refused(compose_run, overrides, message):
    with pytest.raises(ConfigError, match=message):
        compose_run(*overrides)
