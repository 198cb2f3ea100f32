import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from crvq.errors import CheckpointError, ConfigError
from crvq.evaluation.perplexity import perplexity
from crvq.models.load import load_model
from crvq.pipeline.blockwise import BlockwiseQuantizer
from crvq.pipeline.run import run
from crvq.pipeline.run_folder import finished_folder, recorded_config
from crvq.sources.cache import cache_folder
from crvq.tracking.record_schema import load_record, read_record, write_record

ASKED = ("eval.agreement={}", "eval.generation={prompts: [w1 w2, w5], max_new_tokens: 4}")


@pytest.fixture
def no_quantizing(monkeypatch):
    """From now on, quantizing anything is an error."""

    def stop():
        def quantize(*_):
            raise AssertionError("quantized again")

        monkeypatch.setattr(BlockwiseQuantizer, "_quantize", quantize)

    return stop


def more(tiny_texts, *further):
    """Overrides: one more dataset."""
    return (
        "+eval/dataset@eval.perplexity.more=file",
        f"eval.perplexity.more.path={tiny_texts[1]}",
        "eval.perplexity.more.context=32",
        "eval.perplexity.more.max_windows=4",
        *further,
    )


def measured(record):
    return {key: record[key] for key in ("perplexity", "agreement", "generations")}


def test_the_same_command_with_one_more_dataset_adds_to_its_record(
    finished, compose_run, tiny_texts, no_quantizing
):
    folder = finished()
    before = read_record(folder)
    no_quantizing()
    wider = compose_run(*more(tiny_texts, *ASKED))
    assert run(wider) == folder
    after = read_record(folder)
    # What was there stays, to the last digit.
    for key in ("seconds", "bits", "started", "finished", "packages", "attempts", "git"):
        assert after[key] == before[key], key
    assert after["perplexity"]["file"] == before["perplexity"]["file"]
    assert after["status"] == "complete"
    assert list(after["perplexity"]) == ["file", "more"]
    assert [entry["prompt"] for entry in after["generations"]] == ["w1 w2", "w5"]
    assert list(after["agreement"]) == ["file"]
    (added,) = after["added_evaluations"]
    assert added["added"] == ["perplexity.more", "agreement.file", "generations"]
    assert added["packages"]["torch"] == torch.__version__
    assert added["at"] > before["finished"]
    recorded = recorded_config(load_record(folder)).eval
    assert recorded.perplexity == wider.eval.perplexity
    assert recorded.generation == wider.eval.generation
    assert recorded.agreement_dataset == wider.eval.agreement_dataset


def test_it_gives_what_measuring_at_once_gives(finished, compose_run, tiny_texts, tmp_path):
    at_once = run(compose_run(*more(tiny_texts, *ASKED), f"results_dir={tmp_path / 'other'}"))
    finished("eval=none")
    later = run(compose_run(*more(tiny_texts, *ASKED)))
    assert measured(read_record(later)) == measured(read_record(at_once))


def test_quantized_perplexity_is_that_of_the_stored_weights(finished, compose_run, tiny_texts):
    # By hand: each stored weight dequantized into a freshly loaded model.
    from crvq.checkpoint import BlockStore

    config = compose_run(*more(tiny_texts))
    folder = run(config)
    model = load_model(config.model, cache_folder(config.cache_dir)).model
    store = BlockStore.read(folder / "checkpoint")
    for number, block in enumerate(model.model.layers):
        for kind, weight in store.load_block(number).weights.items():
            block.get_submodule(kind).weight.data = weight.dequantize()
    words = [int(word[1:]) for word in tiny_texts[1].read_text().split()]
    windows = torch.tensor(words[: 4 * 32]).view(4, 32)
    expected = perplexity(model, windows, torch.device("cpu")).perplexity
    assert read_record(folder)["perplexity"]["more"]["quantized"] == pytest.approx(expected)
    finished("eval=none")
    folder = run(compose_run(*more(tiny_texts)))
    assert read_record(folder)["perplexity"]["more"]["quantized"] == pytest.approx(expected)


def test_a_fine_tuned_model_is_restored_with_its_trained_norms(compose_run, no_quantizing):
    folder = run(
        compose_run(
            "finetune=block_e2e",
            "calibration.length=32",
            "finetune.samples=8",
            "finetune.block.samples=6",
            "finetune.block.epochs=1",
            "finetune.end_to_end.length=16",
            "finetune.end_to_end.steps=4",
            "finetune.end_to_end.validate_every=2",
            "finetune.end_to_end.save_every=2",
            "eval.agreement={}",
        )
    )
    before = read_record(folder)
    no_quantizing()
    run(compose_run(f"eval_only={folder}", "eval.agreement={}", "force=true"))
    after = read_record(folder)
    assert after["added_evaluations"]
    # Trained weights are float32 in memory and rounded on disk: the run measures what is on disk.
    assert measured(after) == measured(before)


def test_a_quantized_cache_is_added_for_texts_that_are_known(finished, compose_run, no_quantizing):
    finished()
    no_quantizing()
    asked = compose_run("eval.kv_cache=rotatekv2")
    record = read_record(run(asked))
    assert record["added_evaluations"][0]["added"] == ["kv_cache"]
    (name,) = record["perplexity"]
    plain, cached = record["perplexity"][name], record["kv_cache"][name]
    assert cached["recovery"] == plain["quantized"] / cached["quantized"]
    assert record["config"]["eval"]["kv_cache"] == "rotatekv2"


def test_nothing_missing_loads_nothing(finished, compose_run, monkeypatch):
    folder = finished()
    before = (folder / "record.json").read_bytes()
    monkeypatch.setattr("crvq.pipeline.context.load_model", None)
    assert run(compose_run()) == folder
    assert (folder / "record.json").read_bytes() == before


def test_a_finished_run_is_named_by_its_folder(finished, compose_run, tiny_texts, no_quantizing):
    folder = finished()
    no_quantizing()
    # The model and method of the command do not count: the run's own do.
    asked = compose_run("crvq.critical_ratio=0.3", "seed=9", *more(tiny_texts))
    for named in (folder, folder / "checkpoint", folder / "record.json"):
        assert run(asked.model_copy(update={"eval_only": str(named)})) == folder
    assert list(read_record(folder)["perplexity"]) == ["file", "more"]
    assert len(read_record(folder)["added_evaluations"]) == 1


def test_another_protocol_of_a_name_is_added_beside_it(finished, compose_run):
    folder = finished()
    first = read_record(folder)["perplexity"]["file"]
    run(compose_run("eval.perplexity.file.context=16"))
    found = read_record(folder)["perplexity"]
    assert found["file"] == first
    assert found["file_16"]["context"] == 16


def test_force_measures_again(finished, compose_run, no_quantizing):
    folder = finished()
    no_quantizing()
    path = folder / "record.json"
    values = json.loads(path.read_text())
    honest = values["perplexity"]["file"]["quantized"]
    values["perplexity"]["file"]["quantized"] = 1.0
    write_record(path, values)
    asked = compose_run(f"eval_only={folder}")
    run(asked)
    assert read_record(folder)["perplexity"]["file"]["quantized"] == 1.0
    run(asked.model_copy(update={"force": True}))
    assert read_record(folder)["perplexity"]["file"]["quantized"] == honest


def test_full_precision_takes_more_too(compose_run, tiny_texts):
    folder = run(compose_run("method=full_precision"))
    assert run(compose_run("method=full_precision", *more(tiny_texts, *ASKED))) == folder
    record = read_record(folder)
    assert record["perplexity"]["more"]["full_precision"] > 1
    assert record["agreement"] == {}
    assert record["generations"][0]["full_precision"]
    assert record["generations"][0]["quantized"] is None


def test_a_model_that_changed_is_refused_and_the_record_stays(
    compose_run, tiny_texts, tiny_folder, tmp_path
):
    moved = tmp_path / "model"
    shutil.copytree(tiny_folder, moved)
    folder = run(compose_run(f"model.path={moved}"))
    before = (folder / "record.json").read_bytes()
    tensors = load_file(moved / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 1.1
    save_file(tensors, moved / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"model.path=.* has changed since the run"):
        run(compose_run(f"model.path={moved}", *more(tiny_texts)))
    # The digest of the loaded model has the last word, wherever it came from.
    with pytest.raises(CheckpointError, match="no longer has the weights that were quantized"):
        run(compose_run(f"eval_only={folder}", *more(tiny_texts)))
    assert (folder / "record.json").read_bytes() == before


def test_blocks_of_another_run_are_refused(finished, compose_run, tiny_texts):
    folder = finished()
    other = finished("seed=5")
    shutil.rmtree(folder / "checkpoint")
    shutil.copytree(other / "checkpoint", folder / "checkpoint")
    with pytest.raises(CheckpointError, match="result_digest"):
        run(compose_run(f"eval_only={folder}", *more(tiny_texts)))


def test_without_its_blocks_a_run_is_made_again_with_all_that_it_had(
    finished, compose_run, tiny_texts
):
    folder = finished()
    before = read_record(folder)
    shutil.rmtree(folder / "checkpoint")
    assert run(compose_run("eval=none", *more(tiny_texts))) == folder
    after = read_record(folder)
    assert list(after["perplexity"]) == ["file", "more"]
    assert after["perplexity"]["file"] == before["perplexity"]["file"]
    assert after["result_digest"] == before["result_digest"]


def test_an_unfinished_run_is_refused(finished, compose_run):
    folder = finished()
    path = folder / "record.json"
    write_record(path, {**json.loads(path.read_text()), "status": "failed"})
    with pytest.raises(ConfigError, match="this run is failed"):
        run(compose_run(f"eval_only={folder}"))


def test_folders_without_a_record_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no record\.json in .*EXPERIMENT"):
        finished_folder(str(tmp_path / "gone"))
