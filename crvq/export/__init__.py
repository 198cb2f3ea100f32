"""A quantized model as a Hugging Face folder: written, loaded, used.

Names are imported when they are first used: `crvq.export.registration` needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crvq.export.folder import save_quantized
    from crvq.export.loading import load
    from crvq.export.runs import export_run, save_result

_HOMES = {
    "export_run": "runs",
    "load": "loading",
    "save_quantized": "folder",
    "save_result": "runs",
}

__all__ = ["export_run", "load", "save_quantized", "save_result"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever has that name
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
