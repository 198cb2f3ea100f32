"""Writing the page once, or serving it on loopback while runs go on."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from crvq.errors import CrvqError
from crvq.files.atomic import write_text
from crvq.files.digests import values_digest
from crvq.report.page.details import Command
from crvq.report.page.document import render
from crvq.report.page.sections import page_payload
from crvq.report.records import run_folders
from crvq.report.runs import WATCHED_FILES, NoRunsError, Run, load_runs, no_runs, wrong_folder

LOOPBACK = "127.0.0.1"
_WAITING = (
    "<!doctype html><meta charset=utf-8><meta http-equiv=refresh content=2><title>CRVQ runs</title>"
    "<p>No run yet: waiting for the first record."
)


class PageError(CrvqError):
    """The page cannot be written where it was asked for, or not be served."""


class Page:
    """The page of a results folder; rendered again when a record or table has changed.

    Args:
        results_dir: holds ``<experiment>/<run_id>/record.json``.
        experiment: only this one.
        reference: include shipped records.
        command: gives the command that reproduces a record.
    """

    def __init__(
        self,
        results_dir: Path,
        experiment: str | None = None,
        *,
        reference: bool = True,
        command: Command = lambda record: None,
    ) -> None:
        self._place = (results_dir, experiment)
        self._reference, self._command = reference, command
        self._lock = threading.Lock()
        self._stamp, self._text = "", _WAITING

    def write(self, out: Path) -> list[Run]:
        """Write the page, whole or not at all; returns the runs that it shows.

        Raises:
            NoRunsError: there are none.
            PageError: ``out`` is a folder, or cannot be written.
        """
        if out.is_dir():
            raise PageError(
                f"{out} is a folder; name the file to write, such as {out / 'report.html'}."
            )
        runs = self._runs()
        if not runs:
            raise no_runs(*self._place)
        text = render(page_payload(runs, self._place[0], self._command))
        try:
            write_text(out, text)
        except OSError as error:
            reason = error.strerror or str(error)
            raise PageError(
                f"{out} cannot be written: {reason}. Name another file with --out."
            ) from error
        return runs

    def stamp(self) -> str:
        """Return a digest of time of change and size of every file that the page is made from."""
        found: dict[str, list[int]] = {}
        for folder in run_folders(*self._place, reference=self._reference):
            for name in WATCHED_FILES:
                try:
                    seen = (folder / name).stat()
                except FileNotFoundError:
                    continue
                found[f"{folder}/{name}"] = [seen.st_mtime_ns, seen.st_size]
        return values_digest(found)

    def current(self) -> str:
        """Return the page as the files are now; one that says it waits where there are no runs."""
        with self._lock:  # one of several requests renders, the others take what it made
            stamp = self.stamp()
            if stamp != self._stamp:
                runs = self._runs()
                payload = page_payload(runs, self._place[0], self._command, stamp) if runs else None
                self._stamp, self._text = stamp, render(payload) if payload else _WAITING
            return self._text

    def _runs(self) -> list[Run]:
        return load_runs(*self._place, reference=self._reference)


class _Handler(BaseHTTPRequestHandler):
    """Answers two addresses: the page, and the stamp of its files."""

    page: ClassVar[Page]

    def do_GET(self) -> None:
        """Answer a request; one for another host name (DNS rebinding) is refused."""
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host not in {LOOPBACK, "localhost"}:
            self.send_error(403)
        elif self.path == "/stamp":
            self._send(self.page.stamp(), "text/plain")
        elif self.path == "/":
            self._send(self.page.current(), "text/html")
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        """Print no line per request."""

    def _send(self, text: str, kind: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)


def page_server(page: Page, results_dir: Path, port: int) -> ThreadingHTTPServer:
    """Return a server of the page on loopback, not started; port 0 takes a free one.

    Raises:
        NoRunsError: the folder is that of one experiment or run, and would be waited for in vain.
        PageError: the port is taken.
    """
    wrong: NoRunsError | None = wrong_folder(results_dir)
    if wrong is not None and not any(run_folders(results_dir)):
        raise wrong
    handler = type("Handler", (_Handler,), {"page": page})
    try:
        return ThreadingHTTPServer((LOOPBACK, port), handler)
    except OSError as error:
        raise PageError(
            f"port {port} cannot be used: {error.strerror}. Choose another one with --port, or "
            "--port 0 for any that is free."
        ) from error
