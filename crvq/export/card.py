"""The model card of an exported folder, and the facts that it states."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from crvq.config import CalibrationConfig
from crvq.config.finetune import FinetuneConfig
from crvq.config.presets import conf_folder
from crvq.config.run import BudgetConfig
from crvq.export.layout import Layout
from crvq.methods import method_params
from crvq.tracking.json_values import to_json
from crvq.tracking.record_schema import Record
from crvq.weights.bits import BitCount

_SECTIONS: dict[str, type[BaseModel]] = {
    "budget": BudgetConfig,
    "calibration": CalibrationConfig,
    "finetune": FinetuneConfig,
}

_HEAD = """---
library_name: transformers
tags: [crvq, quantized]
---

> **`import crvq` first.** Without it transformers only warns that it does not know the
> quantization method `crvq`, and returns a model with *random* linear layers.

```python
import crvq  # before from_pretrained: registers the quantizer
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
```

`crvq.load("FOLDER")` does the same in one call, and refuses a damaged folder. With
`from_pretrained("FOLDER", trust_remote_code=True)` the folder's `modeling_crvq.py` imports crvq.
From a shell: `crvq generate FOLDER "prompt"`, `crvq chat FOLDER`.
"""


def origin_of(record: Record) -> dict[str, Any]:
    """Return the facts of a run that a model card states, as JSON can hold them."""
    facts: dict[str, Any] = {
        "model": record.model,
        "model_note": record.model_note,
        "method": record.method,
        "run_id": record.run_id,
        "result_digest": record.result_digest,
        "command": command_of(record.config),
        "calibration": _calibration(record.config.get("calibration") or {}),
        "perplexity": {
            name: {"full_precision": one.full_precision, "quantized": one.quantized}
            for name, one in record.perplexity.items()
            if all(map(_is_number, (one.full_precision, one.quantized)))
        },
    }
    return {key: value for key, value in facts.items() if value not in (None, {}, "")}


def command_of(config: Mapping[str, Any]) -> str | None:
    """Return a command line that makes a run of this configuration; None for a model in memory."""
    method = str(config["method"])
    model = _model_words(config.get("model") or {})
    if model is None:
        return None
    defaults = {key: _defaults(kind) for key, kind in _SECTIONS.items()}
    defaults[method] = _defaults(method_params(method))
    words = ["python run.py", f"method={method}", *model]
    if config.get("seed"):
        words.append(f"seed={config['seed']}")
    values = {**config, method: config.get("method_params") or {}}
    for key, default in defaults.items():
        words += _overrides(_differences(values.get(key) or {}, default), f"{key}.")
    return " ".join(words)


def _model_words(model: Mapping[str, Any]) -> list[str] | None:
    """Return the overrides that choose a model: its preset, or where it comes from."""
    for path in sorted((conf_folder() / "model").glob("[!_]*.yaml")):
        preset: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        if preset.get("name") == model.get("name"):
            return [f"model={path.stem}"]
    chosen = {"path": ("folder", "path"), "hub": ("hub", "repo")}.get(str(model.get("source")))
    if chosen is None:
        return None
    group, key = chosen
    words = [f"model={group}", shlex.quote(f"model.{key}={model.get(key)}")]
    return words + [f"model.{k}={model[k]}" for k in ("revision",) if model.get(k)]


def model_card(layout: Layout, bits: BitCount, unquantized_bytes: int) -> str:
    """Return README.md.

    Args:
        layout: of the folder; its ``origin`` says where the model came from (`origin_of`).
        bits: of all quantized weights together.
        unquantized_bytes: of everything else in the weights' files.
    """
    weights = sum(math.prod(layout.shape(name)) for name in layout.linears)
    lines = [_HEAD, "## Size", "", "| part | bits | bits per weight |", "|---|---:|---:|"]
    lines += [
        f"| {part} | {count:,.0f} | {count / weights:.4f} |"
        for part, count in [*bits.as_dict().items(), ("all quantized weights", bits.total)]
        if count
    ]
    lines += [
        "",
        f"{len(layout.linears)} linear layers with {weights:,} weights are quantized. Everything "
        f"else is stored in {layout.unquantized_dtype}, the 16-bit type in which it loses least: "
        f"{unquantized_bytes:,} bytes.",
    ]
    return "\n".join([*lines, *_origin_lines(layout.origin), ""])


def _origin_lines(origin: Mapping[str, Any]) -> list[str]:
    if not origin:
        return []
    lines = ["", "## Origin", ""]
    named = {"model": "Model", "method": "Method", "calibration": "Calibration", "run_id": "Record"}
    lines += [f"- {title}: {origin[key]}" for key, title in named.items() if key in origin]
    if "model_note" in origin:
        lines.append(f"- Note: {origin['model_note']}")
    for name, one in origin.get("perplexity", {}).items():
        lines.append(
            f"- Perplexity on {name}: {one['full_precision']:.2f} in full precision, "
            f"{one['quantized']:.2f} quantized"
        )
    if "command" in origin:
        lines += ["", "```bash", str(origin["command"]), "```"]
    return lines


def _calibration(values: Mapping[str, Any]) -> str:
    named = next((values[key] for key in ("repo", "path", "source") if values.get(key)), "")
    return f"{values.get('samples')} windows of {values.get('length')} tokens of {named}"


def _differences(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key not in defaults:  # of an older version
            continue
        default = defaults[key]
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            inner = _differences(value, default)
            found |= {key: inner} if inner else {}
        elif value != default:
            found[key] = value
    return found


def _overrides(values: Mapping[str, Any], prefix: str) -> list[str]:
    words = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            words += _overrides(value, f"{prefix}{key}.")
        else:
            shown = value if isinstance(value, str) else json.dumps(value)
            words.append(shlex.quote(f"{prefix}{key}={shown}"))
    return words


def _defaults(kind: type[BaseModel]) -> dict[str, Any]:
    """Return the defaults of a section of the configuration, as JSON holds them."""
    found = {}
    for name, field in kind.model_fields.items():
        default = field.get_default(call_default_factory=True)
        found[name] = None if default is PydanticUndefined else to_json(default)
    return found


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
