from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from crvq.sources.folder import DIGESTS, folder_damage, write_folder


def test_a_folder_appears_whole_and_leaves_nothing_beside_it(tmp_path):
    target = tmp_path / "deep" / "target"

    def fill(folder):
        (folder / "one").write_text("1")
        assert not target.exists()

    write_folder(target, fill)
    assert (target / "one").read_text() == "1"
    assert list(target.parent.iterdir()) == [target]


def test_a_failure_leaves_no_trace_and_keeps_the_old_folder(tmp_path):
    target = tmp_path / "target"
    write_folder(target, lambda folder: (folder / "old").touch())

    def fail(folder):
        (folder / "half").touch()
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_folder(target, fail)
    assert sorted(p.name for p in target.iterdir()) == [DIGESTS, "old"]
    assert list(tmp_path.iterdir()) == [target]


def test_an_older_folder_is_replaced(tmp_path):
    target = tmp_path / "target"
    write_folder(target, lambda folder: (folder / "old").touch())
    write_folder(target, lambda folder: (folder / "new").touch())
    assert sorted(p.name for p in target.iterdir()) == [DIGESTS, "new"]


def test_writers_at_the_same_moment_both_succeed(tmp_path):
    target = tmp_path / "target"
    together = Barrier(4)

    def write(number):
        def fill(folder):
            (folder / "content").write_text("same")
            together.wait()

        write_folder(target, fill)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert (target / "content").read_text() == "same"
    assert list(tmp_path.iterdir()) == [target]


def test_any_change_of_a_folder_is_seen(tmp_path):
    target = tmp_path / "target"

    def fill(folder):
        (folder / "deep").mkdir()
        (folder / "deep" / "one").write_text("content")
        (folder / "two").write_text("2")

    def changed(change):
        write_folder(target, fill)
        assert folder_damage(target) is None
        change()
        return folder_damage(target)

    assert folder_damage(target) == "there is no such folder"
    assert "two was changed" in changed(lambda: (target / "two").write_text("3"))
    assert "deep/one was changed" in changed(lambda: (target / "deep/one").write_text("contend"))
    assert "two is missing" in changed((target / "two").unlink)
    assert "three does not belong" in changed((target / "three").touch)
    assert "it has no digests.json" in changed((target / DIGESTS).unlink)
    assert "digests.json is damaged" in changed(lambda: (target / DIGESTS).write_text("{}"))
