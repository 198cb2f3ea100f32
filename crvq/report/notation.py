"""How papers write methods and their layouts: ``CRVQ-1bit``, ``AQLM 2x8``, ``GPTQ 3 bit g128``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any

from crvq.config.presets import method_preset

RATIO = "critical_ratio"
Params = Mapping[str, Any]
_PRESETS = {"crvq_paper": "CRVQ-paper", "crvq_1bit": "CRVQ-1bit", "crvq": "CRVQ-2bit"}
"""Files of ``conf/method`` whose layout has a name of its own."""
_PRESET_KEYS = (
    "group_size",
    "codebook_bits",
    "extended_codebooks",
    "extended_bits",
    RATIO,
    "importance",
    "reorder",
    "codebook_scope",
    "codebook_dtype",
)
"""What a CRVQ layout is; limits of the solver (``max_rounds``) are no part of it."""
_IN_LAYOUT = frozenset(_PRESET_KEYS[:4])
"""Keys that the notation of a layout says better than ``key=value`` does."""
_MOST_CHANGES = 2
_SPELLED = {
    "arb_llm": "ARB-LLM_RC",
    "billm": "BiLLM",
    "cerwu": "CERWU",
    "fairy2i": "Fairy2i",
    "full_precision": "full precision",
    "gqsa": "GQSA",
    "nanoquant": "NanoQuant",
    "obc": "OBC",
    "omniquant": "OmniQuant LWC",
    "onebit": "OneBit",
    "opq": "OPQ",
    "pb_llm": "PB-LLM",
    "pt2_llm": "PT2-LLM",
    "ptq161": "PTQ1.61",
    "qtip": "QTIP",
    "ratio_opt": "Layer-wise ratio",
    "squeezellm": "SqueezeLLM",
}


def method_name(method: str) -> str:
    """Return a method as its paper spells it."""
    return _SPELLED.get(method, method.upper())


def base_name(method: str, params: Params, varied: Collection[str]) -> str:
    """Return the name of a run's preset, else of its layout.

    Args:
        method: the registered name.
        params: its parameters, as they were really used.
        varied: parameters in which runs of this method differ where the name is shown. A preset
            with other values of these keeps its name, since the values stand next to it.
    """
    near = {
        name: {key for key, value in layout.items() if key in params and params[key] != value}
        for name, layout in preset_layouts(method).items()
        if len(layout.keys() & params.keys()) > len(layout) // 2
    }
    fits = {
        name: changes
        for name, changes in near.items()
        if not changes & _IN_LAYOUT and changes <= set(varied) and len(changes) <= _MOST_CHANGES
    }
    if fits:
        return min(fits, key=lambda name: len(fits[name]))
    return layout_notation(method, params, ratio=False)


def layout_notation(method: str, params: Params, *, ratio: bool = True) -> str:
    """Return the method and its layout; the method alone where its notation is not known.

    Args:
        method: the registered name.
        params: its parameters, as they were really used.
        ratio: whether λ is named; without it all of a sweep of λ above zero share a name.
    """
    keys, write = _LAYOUTS.get(method, ((), None))
    known = all(params.get(key) is not None for key in keys if key != "group_size")
    if write is None or not known:
        return method_name(method)
    plain = {key: _plain(params.get(key)) for key in keys}
    if not ratio and plain.get(RATIO, "0") != "0":
        plain[RATIO] = ""
    return f"{method_name(method)} {write(plain)}"


@cache
def preset_layouts(method: str) -> dict[str, dict[str, Any]]:
    """Return the layouts of a method that have a name, by that name; of ``conf/method``."""
    if method != "crvq":
        return {}
    presets = {name: method_preset(file)[1] for file, name in _PRESETS.items()}
    return {
        name: {key: getattr(params, key) for key in _PRESET_KEYS}
        for name, params in presets.items()
    }


def show(value: object, digits: int = 6) -> str:
    """Return a configuration value as one would type it."""
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "+".join(show(one, digits) for one in value)
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def _crvq(p: dict[str, str]) -> str:
    base = f"1x{p['codebook_bits']} g{p['group_size']}"
    if p["extended_codebooks"] == "0" or p[RATIO] == "0":
        return base
    extended = f"{base} + {p['extended_codebooks']}x{p['extended_bits']}"
    return f"{extended}, λ={p[RATIO]}" if p[RATIO] else extended


def _aqlm(p: dict[str, str]) -> str:
    # The paper's groups of 8 go without saying.
    group = "" if p["group_size"] == "8" else f" g{p['group_size']}"
    return f"{p['codebooks']}x{p['codebook_bits']}{group}"


def _grid(p: dict[str, str]) -> str:
    return f"{p['bits']} bit" + (f" g{p['group_size']}" if p["group_size"] else "")


def _percent(part: str) -> str:
    return f"{100 * float(part):g} %"


_LAYOUTS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, str]], str]]] = {
    "crvq": (_PRESET_KEYS[:5], _crvq),
    "aqlm": (("codebooks", "codebook_bits", "group_size"), _aqlm),
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
        lambda p: f"{_percent(p['salient_ratio'])} {p['salient_bits']} bit {p['salient_metric']}",
    ),
}


def _plain(value: object) -> str:
    """Return a value as a layout writes it; a group size of null (whole rows) is nothing."""
    if value is None:
        return ""
    return value if isinstance(value, str) else show(float(str(value)))
