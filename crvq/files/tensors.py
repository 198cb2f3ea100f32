"""Errors of the file system that safetensors wraps in its own, given back as what they are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


@contextmanager
def writing_tensors(path: Path) -> Iterator[None]:
    """Raise an `OSError` where safetensors fails to write, so that a full disk is handled as such.

    Args:
        path: of the file, for the error.

    Raises:
        OSError: with the system's number and the path.
    """
    try:
        yield
    except SafetensorError as error:
        found = _SYSTEM_ERROR.search(str(error))
        if found is None:
            raise
        number = int(found.group(1))
        raise OSError(number, os.strerror(number), str(path)) from error
