"""Short names for settings: a method's layout in the notation of its paper, then what differs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from crvq.report.finished_runs import CONFIG
from crvq.report.run_labels import show
from crvq.report.settings import setting_labels

_PARAMS = f"{CONFIG}method_params."
_RATIO = "critical_ratio"
_Params = dict[str, Any]


def name_settings(settings: pd.DataFrame) -> list[str]:
    """Return a name for every row: ``CRVQ-1bit``, ``CRVQ 1x8 g8 + 3x8, λ=0.02 · reorder=sorted``.

    The name of a preset where it is one, else the layout; after the dot what distinguishes
    rows of the same model and name.

    Args:
        settings: of :func:`crvq.report.settings.over_seeds`.
    """
    if settings.empty:
        return []
    rows = settings.to_dict("records")
    layouts = pd.Series(
        [preset_name(row) or layout_name(row) for row in rows], index=settings.index
    )
    names = layouts.copy()
    for (_, layout), group in settings.groupby([settings["model"], layouts], sort=False):
        if len(group) == 1:
            continue
        shown = setting_labels(group, but=_layout_columns(str(group["method"].iloc[0])))
        method = group["method"].iloc[0]  # what a label says where nothing differs
        long = [layout if label == method else f"{layout} · {label}" for label in shown]
        names.update(pd.Series(long, index=group.index))
    return names.tolist()


def preset_name(row: dict[Any, Any]) -> str | None:
    """Return the name of the preset in ``conf/method`` that a setting has the layout of, if any.

    Limits of the solver (``max_rounds``) are no part of it: names say them where rows differ.

    Args:
        row: of :func:`crvq.report.settings.over_seeds`.
    """
    if row["method"] != "crvq":
        return None
    seen = {key: _chosen(row, key) for key in PRESETS["CRVQ-paper"]}
    return next((name for name, layout in PRESETS.items() if layout == seen), None)


def layout_name(row: dict[Any, Any], *, ratio: bool = True) -> str:
    """Return the method and its layout; the method alone where its notation is not known.

    Args:
        row: of :func:`crvq.report.settings.over_seeds`.
        ratio: whether λ is named; without it all of a sweep of λ above zero share a name.
    """
    method = str(row["method"])
    known = _LAYOUTS.get(method)
    if known is None:
        return method
    keys, write = known
    values = {key: _chosen(row, key) for key in keys}
    if any(value is None for key, value in values.items() if key != "group_size"):
        return method
    plain = {key: _plain(value) for key, value in values.items()}
    if not ratio and plain.get(_RATIO, "0") != "0":
        plain[_RATIO] = ""
    shown = write(plain)
    return f"{method_name(method)} {shown}"


def method_name(method: str) -> str:
    """Return a method as its paper spells it."""
    return _SPELLED.get(method, method.upper())


def _crvq(p: _Params) -> str:
    base = f"1x{p['codebook_bits']} g{p['group_size']}"
    if p["extended_codebooks"] == "0" or p[_RATIO] == "0":
        return base
    extended = f"{base} + {p['extended_codebooks']}x{p['extended_bits']}"
    return f"{extended}, λ={p[_RATIO]}" if p[_RATIO] else extended


def _grid(p: _Params) -> str:
    return f"{p['bits']} bit" + (f" g{p['group_size']}" if p["group_size"] else " whole rows")


def _percent(part: str) -> str:
    return f"{100 * float(part):g} %"


_PAPER = {
    "group_size": 8,
    "codebook_bits": 8,
    "extended_codebooks": 3,
    "extended_bits": 8,
    "critical_ratio": 0.02,
    "importance": "error_activation",
    "reorder": "sorted",
    "codebook_scope": "linear",
    "codebook_dtype": "float16",
}
PRESETS: dict[str, _Params] = {
    "CRVQ-paper": _PAPER,
    "CRVQ-1bit": {
        **_PAPER,
        "reorder": "stratified",
        "codebook_scope": "block",
        "codebook_dtype": "int8",
    },
}
"""Layouts that have a name of their own: ``conf/method/crvq_paper.yaml`` and ``crvq_1bit.yaml``."""
_SPELLED = {
    "arb_llm": "ARB-LLM_RC",
    "billm": "BiLLM",
    "cerwu": "CERWU",
    "fairy2i": "Fairy2i",
    "gqsa": "GQSA",
    "qtip": "QTIP",
    "nanoquant": "NanoQuant",
    "obc": "OBC",
    "onebit": "OneBit",
    "omniquant": "OmniQuant LWC",
    "opq": "OPQ",
    "pb_llm": "PB-LLM",
    "ptq161": "PTQ1.61",
    "pt2_llm": "PT2-LLM",
    "ratio_opt": "Layer-wise ratio",
    "squeezellm": "SqueezeLLM",
}
_LAYOUTS: dict[str, tuple[tuple[str, ...], Callable[[_Params], str]]] = {
    "crvq": (
        ("codebook_bits", "group_size", "extended_codebooks", "extended_bits", _RATIO),
        _crvq,
    ),
    "aqlm": (
        ("codebooks", "codebook_bits", "group_size"),
        lambda p: f"{p['codebooks']}x{p['codebook_bits']} g{p['group_size']}",
    ),
    "gptvq": (
        ("vector_size", "codebook_bits"),
        lambda p: f"{p['vector_size']}D {p['codebook_bits']} bit",
    ),
    "gptq": (("bits", "group_size"), _grid),
    "rtn": (("bits", "group_size"), _grid),
    "obc": (("bits", "group_size"), _grid),
    "billm": (("most_salient",), lambda p: f"≤{_percent(p['most_salient'])} salient"),
    "pb_llm": (
        ("salient_ratio", "salient_bits", "salient_metric"),
        lambda p: (
            f"{_percent(p['salient_ratio'])} in {p['salient_bits']} bits by {p['salient_metric']}"
        ),
    ),
}


def _chosen(row: dict[Any, Any], key: str) -> object:
    """Return what a budget chose, where there is one; λ as asked: tables show what it comes to.

    A budget may choose null: a group size of null is whole rows.
    """
    asked, used = row["settings"].get(_PARAMS + key), row["effective_values"]
    return used[key] if key != _RATIO and key in used else asked


def _layout_columns(method: str) -> tuple[str, ...]:
    keys = _LAYOUTS.get(method, ((), None))[0]
    return tuple(_PARAMS + key for key in keys)


def _plain(value: object) -> str:
    if value is None:
        return ""
    return show(float(str(value))) if not isinstance(value, str) else value
