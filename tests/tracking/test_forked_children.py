"""Children of a process of tests leave what is the parent's alone."""

import tempfile
import weakref
from pathlib import Path

from tests.forked import forked


def test_a_child_leaves_wandbs_folder_for_media_and_removes_its_own(tmp_path):
    import wandb.sdk.data_types._private as private

    folder = Path(private.MEDIA_TMP.name)
    folder.mkdir(exist_ok=True)
    kept = []

    def work():
        kept.append(tempfile.TemporaryDirectory(dir=tmp_path))
        weakref.finalize(kept[0], print, "finalized")

    child = forked(work, tmp_path / "output.txt")
    assert child.wait(60) == 0
    assert folder.is_dir()
    assert child.said() == "finalized\n"
    assert [path.name for path in tmp_path.iterdir()] == ["output.txt"]
