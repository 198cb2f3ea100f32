import hashlib

import pytest
import torch
from safetensors.torch import load_file, save_file

from crvq.files.digests import (
    DamagedFileError,
    check_digested_tensors,
    load_digested_tensors,
    read_digested_json,
    save_digested_tensors,
    write_digested_json,
)

VALUE = {"perplexity": 66.44, "texts": ["a\u00e9", ""], "none": None, "sha256": "0" * 64}


def test_json_comes_back_and_its_digest_covers_the_file(tmp_path):
    path = tmp_path / "value.json"
    write_digested_json(path, VALUE)
    assert read_digested_json(path) == VALUE
    content = path.read_bytes()
    digest = content[12:76]
    blanked = content.replace(digest, b"0" * 64, 1)
    assert hashlib.sha256(blanked).hexdigest() == digest.decode()


def test_tensors_and_metadata_come_back(tmp_path):
    path = tmp_path / "tensors.safetensors"
    shared = torch.arange(6.0).reshape(2, 3)
    tensors = {"a": shared, "b": shared.T, "half": torch.ones(2, dtype=torch.bfloat16)}
    metadata = {"note": '"sha256":"' + "f" * 64 + '"'}
    save_digested_tensors(path, tensors, metadata)
    found, noted = load_digested_tensors(path)
    assert noted == metadata
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)
    assert load_file(path).keys() == tensors.keys()  # any other reader can read it as well


def test_no_changed_byte_is_read(tmp_path):
    path = tmp_path / "value.json"
    write_digested_json(path, VALUE)
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DamagedFileError, match="is damaged"):
            read_digested_json(path)


def test_no_changed_byte_of_tensors_is_read(tmp_path):
    path = tmp_path / "tensors.safetensors"
    save_digested_tensors(path, {"a": torch.randn(3, 5), "b": torch.arange(3)}, {"step": "7"})
    content = path.read_bytes()
    for place in range(len(content)):
        for bit in (1, 128):
            changed = bytes([content[place] ^ bit])
            path.write_bytes(content[:place] + changed + content[place + 1 :])
            with pytest.raises(DamagedFileError, match="is damaged"):
                load_digested_tensors(path)


@pytest.mark.parametrize("left", [0, 5, 8, 60, -1])
def test_cut_files_are_damaged(tmp_path, left):
    path = tmp_path / "tensors.safetensors"
    save_digested_tensors(path, {"a": torch.randn(3, 5)})
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(DamagedFileError):
        check_digested_tensors(path)
    other = tmp_path / "value.json"
    write_digested_json(other, VALUE)
    other.write_bytes(other.read_bytes()[:left])
    with pytest.raises(DamagedFileError):
        read_digested_json(other)


def test_files_of_another_origin_are_damaged_and_missing_ones_are_missing(tmp_path):
    path = tmp_path / "tensors.safetensors"
    with pytest.raises(FileNotFoundError):
        load_digested_tensors(path)
    with pytest.raises(FileNotFoundError):
        read_digested_json(path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(DamagedFileError):
        load_digested_tensors(path)
    path.write_text('{"perplexity": 3}')
    with pytest.raises(DamagedFileError):
        read_digested_json(path)


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_digested_json(tmp_path / "value.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []
