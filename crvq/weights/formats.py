"""All weight formats of this package, and reading a weight of any of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

# Imported for what they register: a new format is one file and its name here.
from crvq.weights import (  # noqa: F401
    additive,
    column_vq,
    complex_phases,
    partial_binary,
    patch_vq,
    rotated,
    row_column_binary,
    row_lookup,
    sparse_groups,
    split_binary,
    ternary,
    trellis,
    two_sided_signs,
    uniform,
)
from crvq.weights.fields import FormatError
from crvq.weights.quantized import FORMATS, QuantizedWeight


def unpack_weight(
    header: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    shared: Mapping[str, Tensor],
    shape: tuple[int, int] | None = None,
) -> QuantizedWeight:
    """Read a weight of any known format; see `QuantizedWeight.unpack`.

    Raises:
        FormatError: the format is not known, or header and tensors do not describe such a weight.
    """
    name = header.get("format")
    if not isinstance(name, str) or name not in FORMATS:
        raise FormatError(
            "format", f"{name!r:.60} is not known; this version reads {', '.join(FORMATS)}"
        )
    return FORMATS.get(name).unpack(header, tensors, shared, shape)
