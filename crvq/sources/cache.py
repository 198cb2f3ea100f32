"""Where downloads are kept."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder(configured: str | None = None) -> Path:
    """The folder for downloads and converted models; it need not exist yet.

    Args:
        configured: the run's ``cache_dir``. Without it $CRVQ_CACHE decides, and without that the
            user's cache folder of the operating system.
    """
    chosen = configured or os.environ.get("CRVQ_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(platformdirs.user_cache_dir("crvq"))
