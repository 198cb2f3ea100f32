"""The page as one file that fetches nothing: template, style, script, libraries and data.

plotly.js is the one that plotly's Python package draws notebooks with, and the table is
DataTables with its extensions, out of the itables wheel. Both, and the data, are stored
compressed and unpacked by the browser.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

_EXPORTS = re.compile(r"export\{([^}]*)\};\s*(?=/\*|$)")


def render(payload: dict[str, Any]) -> str:
    """Return the page as text.

    Strings of records are escaped where they are shown as HTML
    (:mod:`crvq.report.page.sections`), or put into the page as text. A content security policy
    lets nothing run but the page's own scripts, by their hashes, and nothing be fetched; a page
    that watches may ask its own server whether there is a newer one.

    Args:
        payload: of :func:`crvq.report.page.sections.page_payload`.
    """
    script = _asset("page.js")
    sources = [script, _table_script(), get_plotlyjs()]
    environment = Environment(
        loader=PackageLoader("crvq.report.page", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        title=f"CRVQ runs in {payload['results']}",
        policy=_policy(sources, watched=payload["stamp"] is not None),
        style=_table_style() + _asset("page.css"),
        script=script,
        table=_packed_library("table"),
        plotly=_packed_library("plotly"),
        data=_packed(json.dumps(payload, separators=(",", ":"), allow_nan=False)),
    )


@cache
def _packed_library(name: str) -> str:
    return _packed(_table_script() if name == "table" else get_plotlyjs())


@cache
def _table_script() -> str:
    """Return DataTables as a plain script, which leaves what the module exports in ``dataTables``.

    A module could only be imported from an address, which the page's policy forbids.
    """
    source = resources.files("itables").joinpath("html", "dt_bundle.js").read_text("utf-8").rstrip()
    found = _EXPORTS.search(source, source.rfind("export{"))
    if found is None:
        raise RuntimeError(
            "itables/html/dt_bundle.js does not end with its exports, as in itables 2.9; install "
            "the version of constraints.txt"
        )
    pairs = [part.split(" as ") for part in found[1].split(",")]
    named = ",".join(f"{json.dumps(pair[-1].strip())}:{pair[0].strip()}" for pair in pairs)
    return f"(()=>{{{source[: found.start()]}\nglobalThis.dataTables={{{named}}};}})();"


@cache
def _table_style() -> str:
    return resources.files("itables").joinpath("html", "dt_bundle.css").read_text("utf-8")


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _packed(text: str) -> str:
    """Return text as gzip in base64, the same for the same text."""
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def _policy(scripts: list[str], *, watched: bool) -> str:
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        f"img-src data: blob:; font-src data:; connect-src {_SELF if watched else _NONE}; "
        "base-uri 'none'; form-action 'none'"
    )


_SELF, _NONE = "'self'", "'none'"
