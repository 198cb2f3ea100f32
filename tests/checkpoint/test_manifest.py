import json
import math
from dataclasses import asdict

import pytest

from crvq.checkpoint.manifest import (
    MANIFEST_FILE,
    BlockEntry,
    DamagedManifestError,
    Manifest,
    StoredFile,
    read_manifest,
)
from crvq.errors import CheckpointError
from crvq.finetune.curve import CurvePoint, TrainingSummary
from crvq.tracking.events import training_from_dict
from crvq.tracking.record_values import blocks_section

ENTRY = BlockEntry(
    file="block-000.safetensors", sha256="ab", tensor_bytes=5, linears={"q": {"format": "additive"}}
)


def test_a_manifest_comes_back(tmp_path):
    shared = StoredFile(file="shared.safetensors", sha256="cd", tensor_bytes=7)
    written = Manifest(fingerprint={"seed": 3, "list": [1.5, None]}, shared=shared)
    written.blocks[0] = ENTRY
    written.write(tmp_path)
    assert read_manifest(tmp_path) == written


def test_a_training_whose_losses_are_not_finite_comes_back_as_it_was_stored(tmp_path):
    """A resumed run takes means of these: None in place of NaN would end it."""
    point = CurvePoint("block", 0, 0.0, 0, None, math.nan, 0.0, 0.1)
    summary = TrainingSummary(3, 0, math.nan, math.inf, 1, "not finite", 9, 0.5)
    training = {"summary": asdict(summary), "points": [asdict(point)]}
    written = Manifest(fingerprint={}, training=training)
    written.blocks[0] = ENTRY.model_copy(
        update={"training": training, "rows": [{"loss": -math.inf}]}
    )
    written.write(tmp_path)
    read = read_manifest(tmp_path)
    assert read.blocks[0].rows == [{"loss": -math.inf}]
    for stored in (read.training, read.blocks[0].training):
        known, points = training_from_dict(stored)
        assert math.isnan(known.first_loss)
        assert known.best_loss == math.inf
        assert known.stopped == "not finite"
        assert points[0].train_loss is None
        assert math.isnan(points[0].validation_loss)
        assert str(known) == str(summary)
        assert math.isnan(blocks_section([known])["first_loss"])


def test_no_manifest_is_none(tmp_path):
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "3",
        '{"format_version": 1}',
        '{"format_version": 1, "fingerprint": {}, "x": 1}',
        '{"format_version": 2, "fingerprint": {}}',
    ],
)
def test_a_damaged_manifest_is_reported(tmp_path, text):
    (tmp_path / MANIFEST_FILE).write_text(text)
    with pytest.raises(DamagedManifestError, match=r"manifest\.json is damaged"):
        read_manifest(tmp_path)


def test_a_newer_manifest_is_not_called_damaged_whatever_else_it_holds(tmp_path):
    values = {"format_version": 3, "something": "new"}
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"version 3.*up to 2.*force=true") as error:
        read_manifest(tmp_path)
    assert not isinstance(error.value, DamagedManifestError)


def written(folder):
    manifest = Manifest(fingerprint={"seed": 3})
    manifest.blocks[0] = ENTRY
    manifest.write(folder)
    return json.loads((folder / MANIFEST_FILE).read_text())


def test_every_changed_value_breaks_the_digest(tmp_path):
    values = written(tmp_path)
    for key, changed in (
        ("fingerprint", {"seed": 4}),
        ("training", {"summary": {}}),
        ("blocks", {}),
        ("manifest_sha256", "0" * 64),
    ):
        (tmp_path / MANIFEST_FILE).write_text(json.dumps({**values, key: changed}))
        with pytest.raises(DamagedManifestError, match="manifest_sha256: not the digest"):
            read_manifest(tmp_path)
    # Order and spaces are no content.
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(dict(reversed(values.items()))))
    assert read_manifest(tmp_path) is not None


def test_version_1_has_no_digest_and_is_read(tmp_path):
    values = written(tmp_path)
    del values["manifest_sha256"]
    (tmp_path / MANIFEST_FILE).write_text(json.dumps({**values, "format_version": 1}))
    assert read_manifest(tmp_path).blocks == {0: ENTRY}


@pytest.mark.parametrize(
    "name",
    ["/dev/urandom", "../block-000.safetensors", "a/b.safetensors", "..", "", "manifest.json",
     ".safetensors", "x\u0000.safetensors", "block-000.safetensors\n", "\ud800.safetensors"],
)  # fmt: skip
def test_files_have_plain_names(tmp_path, name):
    values = written(tmp_path)
    del values["manifest_sha256"]
    values["blocks"]["0"]["file"] = name
    (tmp_path / MANIFEST_FILE).write_text(json.dumps({**values, "format_version": 1}))
    with pytest.raises(DamagedManifestError, match=r"manifest\.json is damaged: 'blocks\.0\.file'"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format_version": 1, "fingerprint": ' + "[" * 100_000, "RecursionError"),
        ('{"format_version": 1, "fingerprint": {"a": ' + "[" * 60 + "]" * 60 + "}}", "nested"),
        ('{"format_version": 1, "format_version": 1, "fingerprint": {}}', "occurs twice"),
        ('{"format_version": 1, "fingerprint": {"a": NaN}}', "NaN is no JSON number"),
        ('{"format_version": ' + "9" * 5000 + "}", "ValueError"),
        ('{"format_version": true, "fingerprint": {}}', "format_version: True"),
        ('{"format_version": -1, "fingerprint": {}}', "format_version: -1"),
    ],
)
def test_hostile_json_is_one_short_error(tmp_path, text, message):
    (tmp_path / MANIFEST_FILE).write_text(text)
    with pytest.raises(DamagedManifestError, match=message) as error:
        read_manifest(tmp_path)
    assert len(str(error.value)) < 500


def test_two_blocks_cannot_share_a_file_or_a_number(tmp_path):
    values = written(tmp_path)
    del values["manifest_sha256"]
    for other, message in (("1", "named twice"), ("00", "occurs twice")):
        blocks = {**values["blocks"], other: values["blocks"]["0"]}
        changed = {**values, "format_version": 1, "blocks": blocks}
        (tmp_path / MANIFEST_FILE).write_text(json.dumps(changed))
        with pytest.raises(DamagedManifestError, match=message):
            read_manifest(tmp_path)
