"""trackio's own dashboard shows what a run sent it."""

import os
import re
import socket
import subprocess
import sysconfig
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from crvq.tracking.record_schema import read_record
from tests.conftest import ROOT
from tests.report.page.browser import chromium

pytestmark = pytest.mark.browser
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/\S*?(?=\x1b|\s|$)")


@pytest.fixture
def record(tiny_overrides, tmp_path, fresh):
    """The record of a tiny run that was mirrored, in a process of its own."""
    pytest.importorskip("trackio", reason="trackio is not installed")
    arguments = [one for one in tiny_overrides if one != "tracking=disabled"]
    ended = fresh.run(
        f"import runpy; runpy.run_path({str(ROOT / 'run.py')!r}, run_name='__main__')",
        *arguments, "tracking=trackio", "compare_with=null",
        environment=_environment(),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    (path,) = tmp_path.glob("results/*/*/record.json")
    return read_record(path)


@contextmanager
def dashboard(folder, project):
    """The address of ``trackio show``, as :func:`where_next` says it; ended however a test goes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [Path(sysconfig.get_path("scripts")) / "trackio", "show", "--project", project],
        env=_environment(
            TRACKIO_DIR=folder,
            GRADIO_SERVER_PORT=port,
            BROWSER="true",  # the command that opens nothing
            PYTHONUNBUFFERED=1,
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    too_long = threading.Timer(45, server.kill)
    too_long.start()
    try:
        reply = []
        for line in server.stdout:
            reply.append(line)
            found = _ADDRESS.search(line)
            if found:
                break
        else:
            pytest.fail("trackio show ended without an address: " + "".join(reply))
        yield found[0]
    finally:
        too_long.cancel()
        server.kill()
        server.wait()


def _environment(**more):
    kept = {name: value for name, value in os.environ.items() if name != "TRACKIO_DIR"}
    offline = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return {**kept, **offline, **{name: str(value) for name, value in more.items()}}


def test_project_run_and_metrics_are_seen_and_nothing_is_asked_of_others(record, tmp_path):
    with (
        dashboard(tmp_path / "results" / ".trackio", "crvq") as address,
        chromium() as browser,
        browser.new_context() as session,
    ):
        page = session.new_page()
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.get_by_text(record["run_id"]).first.wait_for()
        for section in ("relative_loss", "perplexity", "bits"):
            page.get_by_text(f"{section} (").first.wait_for()
        page.get_by_text("crvq", exact=True).first.wait_for()  # the project
        here = address.partition("?")[0]
        assert [url for url in asked if not url.startswith(here)] == []
