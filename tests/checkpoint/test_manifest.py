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
from crvq.tracking.finetune_section import blocks_section

ENTRY = BlockEntry(
    file="block-000.safetensors", sha256="ab", tensor_bytes=5, linears={"q": {"format": "additive"}}
)


def test_a_manifest_comes_back(tmp_path):
    shared = StoredFile(file="shared.safetensors", sha256="cd", tensor_bytes=7)
    written = Manifest(fingerprint={"seed": 3, "list": [1.5, None]}, shared=shared)
    written.blocks[0] = ENTRY
    written.write(tmp_path)
    assert read_manifest(tmp_path) == written


def test_a_training_whose_losses_are_not_finite_comes_back_as_it_was_told(tmp_path):
    """A resumed run takes means of these: None in place of NaN would end it."""
    point = CurvePoint("block", 0, 0.0, 0, None, math.nan, 0.0, 0.1)
    summary = TrainingSummary(3, 0, math.nan, math.inf, 1, "not finite", 9, 0.5)
    told = {"summary": asdict(summary), "points": [asdict(point)]}
    written = Manifest(fingerprint={}, training=told)
    written.blocks[0] = ENTRY.model_copy(update={"training": told, "rows": [{"loss": -math.inf}]})
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
    ["{", "[]", "3", '{"format_version": 1}', '{"format_version": 1, "fingerprint": {}, "x": 1}'],
)
def test_a_damaged_manifest_is_told(tmp_path, text):
    (tmp_path / MANIFEST_FILE).write_text(text)
    with pytest.raises(DamagedManifestError, match=r"manifest\.json is damaged"):
        read_manifest(tmp_path)


def test_a_newer_manifest_is_not_called_damaged_whatever_else_it_holds(tmp_path):
    values = {"format_version": 2, "something": "new"}
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"version 2.*up to 1.*force=true") as error:
        read_manifest(tmp_path)
    assert not isinstance(error.value, DamagedManifestError)
