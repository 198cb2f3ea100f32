"""safetensors hides errors of the file system in its own."""

import errno

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from crvq.files.digests import save_digested_tensors
from crvq.files.tensors import writing_tensors


def test_an_error_of_the_file_system_keeps_its_number(tmp_path):
    with pytest.raises(OSError) as caught, writing_tensors(tmp_path / "a"):
        raise SafetensorError("Error while serializing: I/O error: No space left (os error 28)")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a"))


def test_what_safetensors_says_of_a_missing_folder_is_understood(tmp_path):
    with pytest.raises(FileNotFoundError), writing_tensors(tmp_path / "x"):
        save_file({"a": torch.ones(3)}, tmp_path / "nowhere" / "x")


def test_other_errors_of_safetensors_stay(tmp_path):
    with pytest.raises(SafetensorError), writing_tensors(tmp_path / "a"):
        raise SafetensorError("HeaderTooLarge")


def test_a_full_disk_leaves_the_file_before_it(tmp_path, monkeypatch):
    path = tmp_path / "state.safetensors"
    save_digested_tensors(path, {"a": torch.ones(3)})
    before = path.read_bytes()

    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("crvq.files.digests.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_digested_tensors(path, {"a": torch.zeros(3)})
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before
