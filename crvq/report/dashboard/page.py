"""The page itself: template, styles, scripts and data in one file that fetches nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from crvq.errors import CrvqError
from crvq.files.atomic import write_text
from crvq.report.dashboard.payload import dashboard_payload
from crvq.report.dashboard.runs import Run, load_runs, no_runs

_FOLDER = "page"
_SCRIPTS = (
    "dom",
    "numbers",
    "state",
    "charts",
    "sweep",
    "published",
    "fronts",
    "pareto",
    "layers",
    "finetune",
    "scores",
    "table",
    "details",
    "compare",
    "cards",
    "main",
)
"""In the order in which they are loaded."""
_STYLES = ("theme", "parts", "style")
_UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


class PageError(CrvqError):
    """The page cannot be written where it was asked for."""


def write_dashboard(
    results_dir: Path,
    out: Path,
    experiment: str | None = None,
    reload_seconds: float | None = None,
    *,
    reference: bool = True,
) -> list[Run]:
    """Read all run records and write the page, whole or not at all.

    Args:
        results_dir: holds ``<experiment>/<run_id>/record.json``.
        out: the HTML file; its folder is made if need be.
        experiment: only this one.
        reload_seconds: make the open page load itself again every so often.
        reference: include shipped records.

    Returns:
        The runs that the page shows.

    Raises:
        NoRunsError: there are none.
        PageError: ``out`` is a folder, or cannot be written.
    """
    runs = load_runs(results_dir, experiment, reference=reference)
    if not runs:
        raise no_runs(results_dir, experiment)
    text = render(dashboard_payload(runs, results_dir), reload_seconds)
    if out.is_dir():
        raise PageError(
            f"{out} is a folder; name the file to write, such as {out / 'report.html'}."
        )
    try:
        write_text(out, text)
    except OSError as error:
        reason = error.strerror or str(error)
        raise PageError(
            f"{out} cannot be written: {reason}. Name another file with --out."
        ) from error
    return runs


def render(payload: dict[str, Any], reload_seconds: float | None = None) -> str:
    """Return the page as text.

    Strings of records are data of a JSON block, in which no character can end the block, and
    the scripts put them into the page as text only. A content security policy lets nothing run
    but the page's own scripts (by their hashes) and nothing be fetched from anywhere.

    Args:
        payload: as :func:`dashboard_payload` gives it.
        reload_seconds: as for :func:`write_dashboard`.
    """
    scripts = [get_plotlyjs(), _own_scripts()]
    environment = Environment(
        loader=PackageLoader("crvq.report.dashboard", _FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        title=f"CRVQ runs in {payload['results']}",
        style="\n".join(_asset(f"{name}.css") for name in _STYLES),
        scripts=scripts,
        policy=_policy(scripts),
        data=json_block(payload),
        reload_seconds=reload_seconds,
    )


def json_block(value: Any) -> str:  # noqa: ANN401 - whatever json can say
    """``value`` as JSON that may stand inside a script element.

    Raises:
        ValueError: it holds NaN or infinity.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escaped in _UNSAFE.items():
        text = text.replace(character, escaped)
    return text


def _own_scripts() -> str:
    parts = "\n".join(_asset(f"{name}.js") for name in _SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}\n}})();'


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(_FOLDER, name).read_text(encoding="utf-8")


def _policy(scripts: Sequence[str]) -> str:
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
