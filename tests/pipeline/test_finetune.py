"""Fine-tuning in whole runs of the tiny model."""

import csv
import hashlib

import pytest
import torch

from crvq.checkpoint import BlockStore
from crvq.errors import ConfigError
from crvq.finetune import end_to_end
from crvq.models.load import load_model
from crvq.pipeline.run import run, run_folder
from crvq.pipeline.run_folder import BEFORE_END_TO_END
from crvq.pipeline.stored_model import restore_model
from crvq.tracking.record_schema import read_record
from tests.pipeline.test_resume import PowerCutError, cut_power_after

FAST = ("calibration.length=32", "crvq.kmeans_iterations=1", "eval=none")
BLOCK = ("finetune=block", "finetune.samples=8", "finetune.block.epochs=2", *FAST)
CODES = ("max_change=0.02", "period=2", "damping=20")
PV_BLOCK = (
    "finetune=pv_block",
    *BLOCK[1:],
    *(f"finetune.block.codes.{one}" for one in CODES),
)
END_TO_END = (
    "finetune=block_e2e",
    "finetune.samples=8",
    "finetune.block.samples=6",
    "finetune.block.epochs=1",
    "finetune.end_to_end.length=16",
    "finetune.end_to_end.steps=12",
    "finetune.end_to_end.validate_every=4",
    "finetune.end_to_end.save_every=5",
    "finetune.end_to_end.learning_rate=0.003",
    *FAST,
)


def curve(folder):
    """Rows of finetune.csv without their times."""
    with (folder / "finetune.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def section(record, stage):
    return {k: v for k, v in record["finetune"][stage].items() if k != "seconds"}


def files(folder):
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.glob("checkpoint*/*.safetensors"))
    }


def assert_same(folder, whole):
    assert files(folder) == files(whole)
    assert curve(folder) == curve(whole)
    ours, theirs = read_record(folder), read_record(whole)
    for key in ("bits", "perplexity", "result_digest", "packed_bytes", "effective"):
        assert ours[key] == theirs[key], key
    for stage in ours["finetune"]:
        assert section(ours, stage) == section(theirs, stage)


def test_blocks_are_trained_and_stored(finished):
    folder = finished(*BLOCK)
    record = read_record(folder)
    summary = record["finetune"]["block"]
    assert summary["blocks"] == 3
    assert summary["unchanged_blocks"] < 3
    assert summary["best_loss"] < summary["first_loss"]
    assert summary["steps"] == 3 * 2 * 7
    assert record["seconds"]["finetune_block"] > 0
    rows = curve(folder)
    assert [(row["block"], row["step"]) for row in rows] == [
        (str(block), step) for block in range(3) for step in ("0", "7", "14")
    ]
    # Norms count as unquantized weights: bits are those of the quantized tensors alone.
    total = record["bits"]["average_quantized_weights"] * record["bits"]["quantized_weights"]
    assert total == pytest.approx(8 * record["packed_bytes"], rel=1e-6)
    store = BlockStore.read(folder / "checkpoint")
    trained = [store.load_block(block).others for block in range(3)]
    sizes = [tensor.numel() for others in trained for tensor in others.values()]
    assert store.unquantized_bytes == 2 * sum(sizes) > 0


def test_a_stored_model_is_the_one_that_was_measured(compose_run, monkeypatch):
    """Restored into a fresh model: quantized weights, norms of blocks, and the last norm."""
    config = compose_run(*END_TO_END)
    loaded = []
    real = load_model

    def kept(*arguments):
        loaded.append(real(*arguments))
        return loaded[0]

    monkeypatch.setattr("crvq.pipeline.context.load_model", kept)
    folder = run(config)
    seen = loaded[0].model.state_dict()
    fresh = real(config.model, folder, "cpu").model
    restore_model(fresh, BlockStore.read(folder / "checkpoint"))
    changed = []
    start = real(config.model, folder, "cpu").model.state_dict()
    for name, value in fresh.state_dict().items():
        assert torch.equal(value, seen[name]), name
        if not torch.equal(value, start[name]):
            changed.append(name)
    assert "model.norm.weight" in changed
    assert "model.layers.1.input_layernorm.weight" in changed
    assert "model.embed_tokens.weight" not in changed
    perplexities = {row["stage"]: row["validation_perplexity"] for row in curve(folder)}
    assert perplexities["block"] == ""  # a block predicts nothing
    assert float(perplexities["end_to_end"]) > 1


PV = (
    "finetune=pv_e2e",
    *END_TO_END[1:],
    *(f"finetune.{stage}.codes.{one}" for stage in ("block", "end_to_end") for one in CODES),
)


def test_codes_change_and_are_stored(finished):
    """The share of changed codes in the record and the curve is that of the checkpoints."""
    plain = finished(*END_TO_END)
    folder = finished(*PV)
    summary = read_record(folder)["finetune"]
    stores = [
        BlockStore.read(plain / BEFORE_END_TO_END),
        BlockStore.read(folder / BEFORE_END_TO_END),
        BlockStore.read(folder / "checkpoint"),
    ]
    first, tuned, last = (
        [store.load_block(block).weights for block in range(3)] for store in stores
    )
    # The first block is quantized before anything is trained, so both runs start it alike.
    assert changed_share(first[:1], tuned[:1]) == pytest.approx(best_of_block(folder, 0))
    assert changed_share(tuned, last) == pytest.approx(summary["end_to_end"]["changed_codes"])
    tried = [float(row["changed_codes"]) for row in curve(folder)]
    assert max(tried) > 0


def best_of_block(folder, block):
    """The column ``changed_codes`` where the block validated best."""
    rows = [row for row in curve(folder) if row["block"] == str(block)]
    return float(min(rows, key=lambda row: float(row["validation_loss"]))["changed_codes"])


def changed_share(before, after):
    """Part of groups of which any code differs."""
    changed = groups = 0
    for ours, theirs in zip(before, after, strict=True):
        for kind, weight in ours.items():
            differs = torch.zeros_like(weight.code.codes[0], dtype=torch.bool)
            for one, other in zip(weight.code.codes, theirs[kind].code.codes, strict=True):
                differs[:, : one.shape[1]] |= one != other
            changed, groups = changed + int(differs.sum()), groups + differs.numel()
    return changed / groups


VARIANTS = {
    "plain": BLOCK,
    "targets of the model": (*BLOCK, "finetune.block.targets=model"),
    "full-precision stream": (*BLOCK, "calibration.stream=full_precision"),
    "shared by blocks": (*BLOCK, "crvq.codebook_scope=block", "crvq.codebook_dtype=int8"),
    "shared by the model": (*BLOCK, "crvq.codebook_scope=model"),
    "bfloat16, batches": (
        *BLOCK, "activation_dtype=bfloat16", "calibration.batch_size=2",
        "finetune.block.batch_size=4", "finetune.block.loss=mse",
    ),
    "norms": (*BLOCK, "finetune.train=[norms]"),
    "warm codebooks": (*BLOCK, "crvq.warm_start=true"),
    "codes": PV_BLOCK,
    "codes, shared by blocks": (
        *PV_BLOCK, "crvq.codebook_scope=block", "crvq.codebook_dtype=int8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_cut_between_blocks_ends_as_the_uninterrupted_one(
    finished, variant, compose_run, tmp_path, monkeypatch
):
    whole = finished(*VARIANTS[variant])
    summary = read_record(whole)["finetune"]["block"]
    assert summary["best_loss"] <= summary["first_loss"]
    # On so little text new codes may help no held-out window: then codes and values stay.
    assert summary["unchanged_blocks"] < 3 or "codes" in variant
    config = compose_run(*VARIANTS[variant], f"results_dir={tmp_path / 'cut'}")
    with monkeypatch.context() as patch:
        cut_power_after(patch, 1)
        with pytest.raises(PowerCutError):
            run(config)
    folder = run(config)
    assert read_record(folder)["resumes"] == 1
    assert_same(folder, whole)


def test_codebooks_of_the_model_stay_as_they_are_block_by_block(finished, compose_run):
    shared = "crvq.codebook_scope=model"
    plain, tuned = run(compose_run(*FAST, shared)), finished(*BLOCK, shared)
    assert (
        BlockStore.read(plain / "checkpoint").load_shared().keys()
        == BlockStore.read(tuned / "checkpoint").load_shared().keys()
    )
    both = run(compose_run(*END_TO_END, shared))
    before = BlockStore.read(both / BEFORE_END_TO_END).load_shared()
    after = BlockStore.read(both / "checkpoint").load_shared()
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("stages", "teacher"), [(END_TO_END, None), (END_TO_END, "top_k"), (PV, "top_k")]
)
@pytest.mark.parametrize("cut", ["steps", "blocks", "manifest"])
def test_a_run_cut_end_to_end_ends_as_the_uninterrupted_one(
    stages, teacher, cut, finished, compose_run, tmp_path, monkeypatch
):
    asked = stages if teacher is None else (*stages, f"finetune.end_to_end.teacher={teacher}")
    whole = finished(*asked)
    summary = read_record(whole)["finetune"]["end_to_end"]
    assert summary["steps"] == 12
    assert stages is PV or summary["best_step"] > 0
    assert stages is PV or summary["best_loss"] < summary["first_loss"]
    elsewhere = (f"results_dir={tmp_path / 'cut'}", f"cache_dir={tmp_path / 'other'}")
    config = compose_run(*asked, *elsewhere)
    with monkeypatch.context() as patch:
        if cut == "steps":
            power_cut_at_step(patch, 7)
        elif cut == "blocks":
            cut_power_after(
                patch, 3 + 1
            )  # the three before that training, and one of the trained model
        else:
            patch.setattr(BlockStore, "finish_training", power_cut)
        with pytest.raises(PowerCutError):
            run(config)
    folder = run(config)
    notes = " ".join(read_record(folder)["notes"])
    steps = {"steps": 5, "blocks": 12, "manifest": 12}[cut]
    assert f"resuming end-to-end fine-tuning after {steps} steps" in notes
    assert_same(folder, whole)


def test_a_training_of_other_blocks_is_moved_aside(compose_run, tiny_texts, tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text(tiny_texts[0].read_text())
    asked = (*END_TO_END, f"calibration.path={text}")
    with monkeypatch.context() as patch:
        power_cut_at_step(patch, 7)
        with pytest.raises(PowerCutError):
            run(compose_run(*asked))
    folder = run_folder(compose_run(*asked))
    state = (folder / "finetune_state.safetensors").read_bytes()
    text.write_text(" ".join(reversed(text.read_text().split())))
    run(compose_run(*asked))
    kept = [path for path in (folder / "superseded").iterdir() if "finetune_state" in path.name]
    assert [path.read_bytes() for path in kept] == [state]
    assert any("starting over" in note for note in read_record(folder)["notes"])


def power_cut(*_):
    raise PowerCutError


def power_cut_at_step(patch, step):
    original = end_to_end.Distillation.loss
    calls = []

    def loss(self, indices):
        calls.append(torch.is_grad_enabled())
        if sum(calls) > step:
            raise PowerCutError
        return original(self, indices)

    patch.setattr(end_to_end.Distillation, "loss", loss)


def test_gradient_checkpointing_gives_the_same_model(finished, compose_run, tmp_path):
    whole = finished(*END_TO_END)
    asked = (*END_TO_END, "finetune.end_to_end.gradient_checkpointing=true")
    again = run(compose_run(*asked, f"results_dir={tmp_path / 'other'}"))
    assert again.name == whole.name
    ours, theirs = read_record(again), read_record(whole)
    assert section(ours, "end_to_end") == section(theirs, "end_to_end")
    assert ours["result_digest"] == theirs["result_digest"]


@pytest.mark.parametrize(
    "method",
    ["aqlm", "gptvq", "gptq", "rtn", "billm", "pb_llm", "vptq", "arb_llm", "pt2_llm", "ptqtp",
     "squeezellm", "omniquant"],
)  # fmt: skip
def test_any_method_can_be_trained(method, compose_config, tiny_overrides):
    from crvq.cli.typed_config import typed_config

    small = {
        "aqlm": ["aqlm.codebook_bits=3", "aqlm.group_size=4"],
        "gptvq": ["gptvq.columns=16", "gptvq.weights_per_codebook=128"],
        "gptq": ["gptq.bits=2", "gptq.group_size=16"],
        "rtn": ["rtn.bits=2", "rtn.group_size=16"],
        "billm": [],
        "pb_llm": [],
        "vptq": ["vptq.codebook_bits=3"],
        "arb_llm": [],
        "pt2_llm": [],
        "ptqtp": ["ptqtp.group_size=16"],
        "squeezellm": [],
        "omniquant": ["omniquant.steps=5", "omniquant.bits=2"],
    }[method]
    dropped = ("crvq.", "eval")
    base = [one for one in tiny_overrides if not one.startswith(dropped)]
    asked = [one for one in END_TO_END if not one.startswith("crvq.")]
    config = typed_config(compose_config(*base, f"method={method}", *small, *asked))
    record = read_record(run(config))
    assert record["finetune"]["block"]["best_loss"] < record["finetune"]["block"]["first_loss"]
    assert (
        record["finetune"]["end_to_end"]["best_loss"]
        <= record["finetune"]["end_to_end"]["first_loss"]
    )


@pytest.mark.parametrize("stages", [PV_BLOCK, PV])
def test_codes_of_other_formats_are_refused(stages, compose_config, tiny_overrides):
    from crvq.cli.typed_config import typed_config

    base = [one for one in (*tiny_overrides, *stages) if not one.startswith(("crvq.", "eval"))]
    config = typed_config(compose_config(*base, "method=rtn", "rtn.group_size=16", "eval=none"))
    with pytest.raises(ConfigError, match=r"codes .* cannot be trained .*finetune=block"):
        run(config)


def test_the_teacher_is_asked_once_for_all_runs(finished, compose_run, monkeypatch):
    finished(*END_TO_END)
    monkeypatch.setattr("crvq.finetune.teacher.Teacher.learn", power_cut)
    run(compose_run(*END_TO_END, "seed=1"))
    with pytest.raises(PowerCutError):
        run(compose_run(*END_TO_END, "calibration.seed=1"))


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["method=full_precision", "finetune=block"], ["method=full_precision", "finetune=none"]),
        (["finetune=paper"], [r"block\.batch_size=128", "windows train"]),
        (["finetune=block", "finetune.block.learning_rate=0"], ["=0", "greater than 0"]),
        (["finetune=block", "finetune.train=[]"], [r"finetune\.train"]),
        (["finetune=block", "finetune.train=[codes]"], ["codes", "norms"]),
        (["finetune=pv_block", "finetune.block.codes.max_change=2"], ["max_change", "=2"]),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_work(overrides, parts, compose_run):
    with pytest.raises(ConfigError) as caught:
        compose_run(*overrides)
    for part in parts:
        caught.match(part)


def test_more_windows_than_text_names_the_key(compose_run):
    with pytest.raises(ConfigError, match=r"finetune: .*finetune\.samples=15 or less"):
        run(compose_run("finetune=block", "finetune.samples=100"))


def test_without_fine_tuning_runs_keep_their_name(compose_run):
    """Records from before there was a finetune group are found again."""
    plain = compose_run()
    assert run_folder(plain) == run_folder(compose_run("finetune.samples=50"))
    assert run_folder(plain) != run_folder(compose_run(*BLOCK))


def test_a_method_without_what_is_to_be_trained_is_refused_at_the_first_block(compose_run):
    asked = ("finetune.train=[codebooks]", "crvq.codebook_scope=model")
    with pytest.raises(ConfigError, match=r"finetune\.train=\['codebooks'\].*add scales or norms"):
        run(compose_run(*BLOCK, *asked))
