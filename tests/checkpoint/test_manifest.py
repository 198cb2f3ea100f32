import json

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

ENTRY = BlockEntry(
    file="block-000.safetensors", sha256="ab", tensor_bytes=5, linears={"q": {"format": "additive"}}
)


def test_a_manifest_comes_back(tmp_path):
    shared = StoredFile(file="shared.safetensors", sha256="cd", tensor_bytes=7)
    written = Manifest(fingerprint={"seed": 3, "list": [1.5, None]}, shared=shared)
    written.blocks[0] = ENTRY
    written.write(tmp_path)
    assert read_manifest(tmp_path) == written


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
