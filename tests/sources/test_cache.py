import errno
import os
from pathlib import Path

import pytest

from crvq.errors import SourceError
from crvq.files.digests import read_digested_json
from crvq.sources.cache import cache_folder, remember
from crvq.sources.folder import write_folder


def test_config_beats_environment_beats_default(monkeypatch):
    monkeypatch.delenv("CRVQ_CACHE", raising=False)
    default = cache_folder(None)
    assert default.is_absolute()
    assert default.name == "crvq"
    monkeypatch.setenv("CRVQ_CACHE", "/elsewhere/kept")
    assert cache_folder(None) == Path("/elsewhere/kept")
    assert cache_folder("/asked/for") == Path("/asked/for")


def test_home_and_relative_folders_become_absolute(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert cache_folder("~/kept") == tmp_path / "kept"
    assert cache_folder("kept") == tmp_path / "kept"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_full_or_read_only_disk_is_one_error_and_leaves_nothing(tmp_path, code):
    def fill(folder):
        (folder / "part").touch()
        raise OSError(code, os.strerror(code))

    with pytest.raises(SourceError, match=rf"cannot write .*{os.strerror(code)}.*cache_dir=FOLDER"):
        write_folder(tmp_path / "cache" / "model", fill)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_in_the_cache_folders_place(tmp_path):
    (tmp_path / "cache").touch()
    with pytest.raises(SourceError, match=r"cannot write .*cache_dir=FOLDER"):
        write_folder(tmp_path / "cache" / "model", lambda folder: None)


def test_other_errors_keep_their_kind(tmp_path):
    def fill(folder):
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        write_folder(tmp_path / "model", fill)


def test_what_cannot_be_remembered_is_only_warned_of(tmp_path, caplog):
    (tmp_path / "cache").touch()
    remember(tmp_path / "cache" / "value.json", {"x": 1})
    assert "the next run computes it again" in caplog.text
    remember(tmp_path / "value.json", {"x": 1})
    assert read_digested_json(tmp_path / "value.json") == {"x": 1}
