"""Where downloads and remembered results are kept, and what to do if nothing can be kept there."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs

from crvq.errors import SourceError
from crvq.files.digests import write_digested_json

_NOT_WRITABLE = frozenset(
    getattr(errno, name)
    for name in ("EACCES", "EDQUOT", "EEXIST", "ENOSPC", "ENOTDIR", "EPERM", "EROFS")
    if hasattr(errno, name)
)


def cache_folder(configured: str | None = None) -> Path:
    """Return the folder for downloads and converted models; it need not exist yet.

    Args:
        configured: the run's ``cache_dir``. Without it $CRVQ_CACHE decides, and without that the
            user's cache folder of the operating system.
    """
    chosen = configured or os.environ.get("CRVQ_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(platformdirs.user_cache_dir("crvq"))


@contextmanager
def writing_cache(path: Path) -> Iterator[None]:
    """Turn a full disk or a folder without write permission into an error that says what to do.

    Args:
        path: what is written inside.

    Raises:
        SourceError: the disk is full, the folder read-only, or a file is in the folder's place.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        raise SourceError(
            f"cannot write {path}: {error.strerror}. Make room or change its permissions, or set "
            "cache_dir=FOLDER (or $CRVQ_CACHE) to another place; nothing incomplete was left there"
        ) from error


def remember(path: Path, value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write JSON that spares a later run some work; where that fails, only a warning is logged."""
    try:
        write_digested_json(path, value)
    except OSError as error:
        logging.getLogger("crvq").warning(
            "%s cannot be kept (%s); the next run computes it again", path, error.strerror or error
        )
