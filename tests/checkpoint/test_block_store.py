import json
import os
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open

from crvq.checkpoint import BlockStore, ModelShapes
from crvq.checkpoint.manifest import MANIFEST_FILE
from crvq.errors import CheckpointError
from crvq.tracking.events import LayerRow
from crvq.vq.additive_code import AdditiveCode
from crvq.vq.storage import store_codebook
from crvq.weights import AdditiveWeight

FINGERPRINT = {"seed": 0, "weights_sha256": "abc", "ratios": [0.02]}


def weight(seed, codebook_set=None):
    generator = torch.Generator().manual_seed(seed)
    books = torch.Generator().manual_seed(99 if codebook_set else seed)
    return AdditiveWeight(
        out_features=4,
        in_features=6,
        code=AdditiveCode(
            [torch.randint(0, 8, (4, 3), generator=generator)],
            torch.randn(4, generator=generator).half().float(),
        ),
        codebooks=[store_codebook(torch.randn(8, 2, generator=books), "float16")],
        order=torch.randperm(6, generator=generator),
        reordered=6,
        codebook_set=codebook_set,
    )


def row(block, kind):
    return LayerRow(
        block=block, name=f"layers.{block}.{kind}", kind=kind, out_features=4, in_features=6,
        critical_channels=2, loss=0.1 + block, relative_loss=1 / 3, rounds=2, seconds=0.5,
        bits=2.5, bit_parts={"codes": 36.0}, notes="why not",
    )  # fmt: skip


def fill(folder, blocks=3, codebook_set=None, shared=False):
    store, reason = BlockStore.open(folder, FINGERPRINT)
    assert reason is None
    if shared:
        tensors = weight(0, codebook_set).shared()[1]
        store.save_shared({f"{codebook_set}.{name}": part for name, part in tensors.items()})
    for block in range(blocks):
        weights = {
            "attn.q": weight(block, codebook_set),
            "attn.q_norm": weight(50 + block, codebook_set),
        }
        store.save_block(block, weights, [row(block, kind) for kind in weights])
    return store


@pytest.mark.parametrize(
    ("codebook_set", "shared"), [(None, False), ("block", False), ("attn.q", True)]
)
def test_blocks_come_back_bit_for_bit(tmp_path, codebook_set, shared):
    folder = tmp_path / "checkpoint"
    fill(folder, codebook_set=codebook_set, shared=shared)
    again, reason = BlockStore.open(folder, json.loads(json.dumps(FINGERPRINT)))
    assert reason is None
    assert again.whole_blocks() == 3
    for block in range(3):
        stored = again.load_block(block)
        for kind, seed in (("attn.q", block), ("attn.q_norm", 50 + block)):
            expected = weight(seed, codebook_set)
            assert torch.equal(stored.weights[kind].dequantize(), expected.dequantize())
        assert stored.rows == [row(block, "attn.q"), row(block, "attn.q_norm")]


@pytest.mark.parametrize(("shared", "copies"), [(False, 3), (True, 1)])
def test_bytes_are_those_of_all_tensors_and_sets_are_stored_once(tmp_path, shared, copies):
    store = fill(tmp_path, codebook_set="set", shared=shared)
    found = 0
    sets = 0
    for file in tmp_path.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                tensor = tensors.get_tensor(name)
                found += tensor.numel() * tensor.element_size()
                sets += "codebooks" in name
    assert store.tensor_bytes == found
    assert sets == copies


def test_nothing_is_pickled(tmp_path):
    fill(tmp_path, codebook_set="set", shared=True)
    assert {file.suffix for file in tmp_path.iterdir()} == {".safetensors", ".json"}
    json.loads((tmp_path / MANIFEST_FILE).read_text())


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
def test_whole_blocks_end_at_a_damaged_file(tmp_path, damage):
    store = fill(tmp_path)
    file = tmp_path / "block-001.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    else:
        content[-1] ^= 1
        file.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    assert store.whole_blocks() == 1
    store.load_block(0)
    with pytest.raises(CheckpointError, match=r"block 1 .* missing or damaged"):
        store.load_block(1)


def test_a_block_file_that_the_manifest_does_not_name_does_not_count(tmp_path):
    """What a kill between the two writes leaves."""
    fill(tmp_path, blocks=2)
    manifest = (tmp_path / MANIFEST_FILE).read_bytes()
    fill(tmp_path, blocks=3)
    (tmp_path / MANIFEST_FILE).write_bytes(manifest)
    store, reason = BlockStore.open(tmp_path, FINGERPRINT)
    assert reason is None
    assert store.whole_blocks() == 2
    with pytest.raises(CheckpointError, match="block 2"):
        store.load_block(2)


def test_blocks_of_something_else_are_moved_aside_with_a_reason(tmp_path):
    folder = tmp_path / "checkpoint"
    fill(folder)
    other = {**FINGERPRINT, "weights_sha256": "xyz", "more": 1}
    store, reason = BlockStore.open(folder, other)
    assert "3 packed blocks were made from something else" in reason
    assert "more: None then, 1 now; weights_sha256: abc then, xyz now" in reason
    assert store.whole_blocks() == 0
    assert not folder.exists()
    (kept,) = (tmp_path / "superseded").iterdir()
    assert str(kept) in reason
    assert BlockStore.read(kept).whole_blocks() == 3


def test_a_damaged_manifest_starts_over_with_a_reason(tmp_path):
    folder = tmp_path / "checkpoint"
    fill(folder)
    (folder / MANIFEST_FILE).write_text("{")
    store, reason = BlockStore.open(folder, FINGERPRINT)
    assert "is damaged" in reason
    assert "starting over" in reason
    assert store.whole_blocks() == 0


def test_a_newer_checkpoint_is_left_alone(tmp_path):
    fill(tmp_path)
    values = json.loads((tmp_path / MANIFEST_FILE).read_text())
    (tmp_path / MANIFEST_FILE).write_text(json.dumps({**values, "format_version": 3}))
    with pytest.raises(CheckpointError, match="upgrade crvq"):
        BlockStore.open(tmp_path, FINGERPRINT)
    assert (tmp_path / "block-000.safetensors").exists()


def test_what_only_rounds_differently_is_resumed_with_a_message(tmp_path):
    fill(tmp_path)
    changed = {**FINGERPRINT, "weights_sha256": "xyz"}
    store, message = BlockStore.open(tmp_path, changed, tolerated={"weights_sha256"})
    assert "weights_sha256: abc then, xyz now" in message
    assert store.whole_blocks() == 3


def test_a_missing_block_in_the_middle_leaves_the_others(tmp_path):
    store = fill(tmp_path)
    (tmp_path / "block-001.safetensors").unlink()
    assert [store.holds(block) for block in range(4)] == [True, False, True, False]
    assert store.intact_blocks() == [0, 2]
    (message,) = store.drop_after(1)
    assert "block 2 was made from another block 1" in message
    assert store.recorded_digest(2) is None
    assert len(list((tmp_path.parent / "superseded").iterdir())) == 1


def test_damaged_shared_tensors_are_not_used(tmp_path):
    fill(tmp_path, codebook_set="set", shared=True)
    (tmp_path / "shared.safetensors").write_bytes(b"no")
    store, _ = BlockStore.open(tmp_path, FINGERPRINT)
    assert store.load_shared() is None
    with pytest.raises(CheckpointError, match=r"block-000\.safetensors: attn\.q: codebook_set"):
        store.load_block(0)


def test_a_folder_without_manifest_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        BlockStore.read(tmp_path)
    fill(tmp_path)
    assert BlockStore.read(tmp_path).whole_blocks() == 3


def test_the_digest_tells_quantized_models_apart(tmp_path):
    digests = {}
    for name in ("one", "same", "changed", "shorter"):
        store = fill(tmp_path / name, blocks=2 if name == "shorter" else 3)
        if name == "changed":
            changed = weight(0)
            changed.code.codes[0][0, 0] = (changed.code.codes[0][0, 0] + 1) % 8
            rows = [replace(row(0, "attn.q"), seconds=9.0)]
            store.save_block(0, {"attn.q": changed, "attn.q_norm": weight(50)}, rows)
        digests[name] = store.digest()
    assert digests["one"] == digests["same"]
    assert len(set(digests.values())) == 3


def test_times_do_not_count_in_the_digest(tmp_path):
    store = fill(tmp_path)
    before = store.digest()
    weights = {"attn.q": weight(0), "attn.q_norm": weight(50)}
    store.save_block(0, weights, [replace(row(0, "attn.q"), seconds=123.0)])
    assert store.digest() == before


def test_tensors_in_any_memory_layout_are_stored(tmp_path):
    store, _ = BlockStore.open(tmp_path, FINGERPRINT)
    values = torch.arange(6.0).view(2, 3)
    store.save_shared({"transposed": values.T, "view": values[0]})
    again, _ = BlockStore.open(tmp_path, FINGERPRINT)
    assert torch.equal(again.load_shared()["transposed"], values.T)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    inside, outside = tmp_path / "checkpoint", tmp_path / "elsewhere.safetensors"
    store = fill(inside)
    (inside / "block-001.safetensors").rename(outside)
    (inside / "block-001.safetensors").symlink_to(outside)
    assert [store.holds(block) for block in range(4)] == [True, False, True, False]
    (inside / "block-001.safetensors").unlink()
    (inside / "block-001.safetensors").symlink_to("block-001.safetensors")
    assert not store.holds(1)
    (inside / "block-001.safetensors").unlink()
    os.mkfifo(inside / "block-001.safetensors")
    assert not store.holds(1)


def test_shapes_of_the_model_are_checked_before_anything_is_unpacked(tmp_path):
    store = fill(tmp_path, blocks=1)
    fits = ModelShapes({"attn.q": (4, 6), "attn.q_norm": (4, 6)}, {})
    store.load_block(0, fits)
    with pytest.raises(CheckpointError, match=r"block-000\.safetensors: attn\.q: out_features: .*"):
        store.load_block(0, ModelShapes({**fits.linears, "attn.q": (6, 4)}, {}))
    with pytest.raises(CheckpointError, match=r"the model has no linear 'attn\.q_norm'"):
        store.load_block(0, ModelShapes({"attn.q": (4, 6)}, {}))


def test_norms_must_be_those_of_the_model(tmp_path):
    store = fill(tmp_path, blocks=0)
    store.save_block(0, {}, [], {"norm.weight": torch.ones(3).half()})
    store.save_outer({"last.weight": torch.ones(2)})
    assert set(store.load_block(0, ModelShapes({}, {"norm.weight": (3,)})).others) == {
        "norm.weight"
    }
    for shapes in ({"norm.weight": (4,)}, {}):
        with pytest.raises(CheckpointError, match=r"'norm\.weight': \(3,\)"):
            store.load_block(0, ModelShapes({}, shapes))
        with pytest.raises(CheckpointError, match=r"outer\.safetensors: 'last\.weight'"):
            store.load_outer(ModelShapes({}, shapes))
    store.save_outer({"last.weight": torch.tensor([1.0, float("nan")])})
    with pytest.raises(CheckpointError, match="not finite"):
        store.load_outer()
