import os
from pathlib import Path

import pytest

from crvq.config import TextConfig
from crvq.data.documents import Documents, require_text
from crvq.data.text_sources.path import load
from crvq.errors import ConfigError, SourceError


def texts(path, tmp_path, **settings):
    return load(TextConfig(path=str(path), **settings), tmp_path).texts


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    folder = tmp_path / "books"
    (folder / "deep").mkdir(parents=True)
    (folder / "b.txt").write_text("second")
    (folder / "a.jsonl").write_text('{"text": "first"}\n')
    (folder / "deep" / "c.raw").write_text("third")
    (folder / "notes.md").write_text("left alone")
    for number in reversed(range(10, 30)):
        (folder / f"a{number}.txt").write_text(str(number))
    numbers = [str(number) for number in range(10, 30)]
    assert texts(folder, tmp_path) == ["first", *numbers, "second", "third\n"]


def test_max_documents_takes_the_first_or_a_seeded_draw(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("".join(f'{{"text": "{i}"}}\n' for i in range(50)))
    assert texts(file, tmp_path, max_documents=3) == ["0", "1", "2"]
    drawn = texts(file, tmp_path, max_documents=3, shuffle_seed=1)
    assert len(set(drawn)) == 3
    assert drawn == texts(file, tmp_path, max_documents=3, shuffle_seed=1)
    assert drawn != texts(file, tmp_path, max_documents=3, shuffle_seed=2)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(ConfigError, match="path is not set"):
        load(TextConfig(source="path"), tmp_path)
    with pytest.raises(SourceError, match=r"gone\.txt: there is no such file"):
        texts(tmp_path / "gone.txt", tmp_path)
    (tmp_path / "a.pdf").touch()
    with pytest.raises(ConfigError, match=r"'\.pdf'; allowed: \.txt, \.raw, \.jsonl, \.parquet"):
        texts(tmp_path / "a.pdf", tmp_path)
    with pytest.raises(SourceError, match=r"without .*holds: a\.pdf"):
        texts(tmp_path, tmp_path)


def test_text_that_is_not_utf8_is_told(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(SourceError, match="not UTF-8"):
        texts(tmp_path / "a.txt", tmp_path)


def test_what_cannot_be_read_is_one_error(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(SourceError, match=r"pipe\.txt is neither a regular file nor a folder"):
        texts(tmp_path / "pipe.txt", tmp_path)
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(SourceError, match=r"folder\.jsonl is a folder without"):
        texts(tmp_path / "folder.jsonl", tmp_path)
    (tmp_path / "locked.txt").write_text("text")

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(SourceError, match=r"locked\.txt cannot be read: Permission denied; check"):
        texts(tmp_path / "locked.txt", tmp_path)


def test_documents_with_half_a_character_are_refused():
    with pytest.raises(SourceError, match=r"made: document 1 has the lone surrogate '.ud83d' at"):
        require_text(Documents(["fine", "half \ud83d"], "made"))
