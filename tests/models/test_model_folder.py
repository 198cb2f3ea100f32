import json

import pytest

from crvq.errors import SourceError
from crvq.models.complete import check_model_folder


def refused(folder):
    with pytest.raises(SourceError) as error:
        check_model_folder(folder)
    return str(error.value)


def test_a_whole_folder_passes(model_folder):
    assert check_model_folder(model_folder) is None  # it raises what is wrong


def test_a_missing_folder(tmp_path):
    assert "there is no such folder" in refused(tmp_path / "gone")


def test_no_weights_lists_what_is_there(model_folder):
    (model_folder / "model.safetensors").unlink()
    message = refused(model_folder)
    assert "no safetensors weights, none at all" in message
    assert "tokenizer.json" in message


def test_pickled_weights_are_refused(model_folder):
    (model_folder / "model.safetensors").rename(model_folder / "pytorch_model.bin")
    assert "only pickled ones (pytorch_model.bin)" in refused(model_folder)


def test_no_config_points_to_a_gguf_that_is_there(tmp_path):
    assert "holds: nothing" in refused(tmp_path)
    (tmp_path / "model.gguf").touch()
    message = refused(tmp_path)
    assert "no config.json" in message
    assert f"model.path={tmp_path / 'model.gguf'}" in message


def test_missing_shards_are_named(model_folder):
    (model_folder / "model.safetensors").rename(model_folder / "model-1.safetensors")
    shards = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (model_folder / "model.safetensors.index.json").write_text(json.dumps(shards))
    assert "misses 1 of 2 shards: model-2.safetensors" in refused(model_folder)
    (model_folder / "model-2.safetensors").touch()
    check_model_folder(model_folder)


def test_a_damaged_index_is_told(model_folder):
    (model_folder / "model.safetensors").rename(model_folder / "model-1.safetensors")
    (model_folder / "model.safetensors.index.json").write_text("{")
    assert "cannot be read" in refused(model_folder)


def test_a_file_of_weights_is_not_a_folder(model_folder):
    message = refused(model_folder / "model.safetensors")
    assert "is a file, not a folder" in message
    assert f"set model.path={model_folder}" in message
