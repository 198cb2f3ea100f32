from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from crvq.sources.folder import write_folder


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
    assert [p.name for p in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_an_older_folder_is_replaced(tmp_path):
    target = tmp_path / "target"
    write_folder(target, lambda folder: (folder / "old").touch())
    write_folder(target, lambda folder: (folder / "new").touch())
    assert [p.name for p in target.iterdir()] == ["new"]


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
