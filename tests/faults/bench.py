"""The tiny runs that faults are tried on, and how their results are compared.

A *scenario* is a command and the state of the folder that it starts from. Its honest result comes
from an uninterrupted run. Comparisons read files as any other program would: json, csv, hashlib.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import FAST_METHOD, save_tiny_model, save_tiny_texts
from tests.faults.inject import Injection
from tests.faults.server import Ended, Server

TIMEOUT = 90.0
"""A command that takes longer hangs; it takes one or two seconds on a quiet machine."""
STOP_SECONDS = 5.0
SCENARIOS: dict[str, tuple[list[str], list[str] | None]] = {
    # name: what the command adds, and what the command before it adds (None: an empty folder)
    "plain": ([], None),
    "block": (["finetune=block", "finetune.samples=8", "finetune.block.epochs=2",
               "calibration.length=32"], None),
    "block_e2e": (["finetune=block_e2e", "finetune.samples=8", "finetune.block.samples=6",
                   "finetune.block.epochs=1", "finetune.end_to_end.length=16",
                   "finetune.end_to_end.steps=12", "finetune.end_to_end.validate_every=4",
                   "finetune.end_to_end.save_every=3", "finetune.end_to_end.learning_rate=0.003",
                   "calibration.length=32"], None),
    "model_scope": (["crvq.codebook_scope=model"], None),
    "forced": (["force=true"], []),
    "added": (["eval.agreement={}"], []),
}  # fmt: skip


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run_folder(case: Path) -> Path:
    """The one run in a case's results."""
    found = {
        path.parent.name
        for path in (case / "results").glob("default/**/record.json")
        if path.parent.parent.name == "default"
    }
    assert len(found) == 1, f"runs in {case}: {sorted(found)}"
    return case / "results" / "default" / found.pop()


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def _timeless(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _timeless(value) for key, value in values.items() if key != "seconds"}
    return values


def outcome(folder: Path) -> dict[str, Any]:
    """All of a run's result, without times and histories."""
    record = json.loads((folder / "record.json").read_text())
    kept = ("status", "result_digest", "perplexity", "agreement", "bits", "packed_bytes",
            "effective", "finetune", "error")  # fmt: skip
    return {
        **{key: _timeless(record[key]) for key in kept},
        "layers.csv": _rows(folder / "layers.csv"),
        "finetune.csv": _rows(folder / "finetune.csv"),
        "tensors": {
            str(path.relative_to(folder)): sha256(path)
            for path in sorted(folder.glob("checkpoint*/*.safetensors"))
        },
    }


def content(folder: Path) -> dict[str, str]:
    """Every file below a folder with its digest, but for the locks, which are no results."""
    return {
        str(path.relative_to(folder)): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".locks" not in path.parts and "cache" not in path.parts
    }


class Bench:
    """A model, texts and servers; makes starting states and honest results once each.

    Faults are tried in several threads at once, each with a server of its own.

    Args:
        root: an empty folder.
        forked: whether servers are forked from this process, which saves them their imports; not
            where faults are tried in several threads.
    """

    def __init__(self, root: Path, *, forked: bool = False) -> None:
        self.root = root
        self._forked = forked
        self._states: dict[str, Path] = {}
        self._honest: dict[str, dict[str, Any]] = {}
        self._cases = itertools.count(1)
        self._lock = threading.RLock()
        self._local = threading.local()
        self._servers: list[Server] = []
        model = root / "tiny"
        save_tiny_model(model)
        calibration, heldout = save_tiny_texts(root)
        self.base = [
            "model=folder", f"model.path={model}", "calibration=file",
            f"calibration.path={calibration}", "calibration.samples=4", "calibration.length=64",
            "eval=file", f"eval.perplexity.file.path={heldout}",
            "eval.perplexity.file.context=64", "eval.perplexity.file.max_windows=3",
            "tracking=disabled", "activation_dtype=float32", "results_dir=results",
            "cache_dir=cache", "compare_with=null", *FAST_METHOD,
        ]  # fmt: skip
        """Arguments of every command."""

    @property
    def server(self) -> Server:
        """The server of this thread."""
        if not hasattr(self._local, "server"):
            with self._lock:
                warm = self.root / "warm" / str(len(self._servers))
                places = [f"results_dir={warm / 'results'}", f"cache_dir={warm / 'cache'}"]
                self._local.server = Server(self.arguments(*places), warm, forked=self._forked)
                self._servers.append(self._local.server)
        return self._local.server

    def close(self) -> None:
        """End the servers."""
        for server in self._servers:
            server.close()

    def arguments(self, *extra: str) -> list[str]:
        """A whole command; what is given twice counts as it was given last."""
        merged = {one.partition("=")[0].lstrip("+"): one for one in [*self.base, *extra]}
        return list(merged.values())

    def command(self, scenario: str) -> list[str]:
        return self.arguments(*SCENARIOS[scenario][0])

    def new_case(self) -> Path:
        """An empty folder."""
        case = self.root / "cases" / f"{next(self._cases):04d}"
        case.mkdir(parents=True)
        return case

    def state(self, name: str, make: Callable[[Path], None]) -> Path:
        """A folder with a starting state, made once."""
        with self._lock:
            if name not in self._states:
                folder = self.root / "states" / name.replace(" ", "_")
                folder.mkdir(parents=True)
                make(folder)
                self._states[name] = folder
            return self._states[name]

    def case_from(self, state: Path | None) -> Path:
        case = self.new_case()
        if state is not None:
            shutil.copytree(state, case, dirs_exist_ok=True)
        return case

    def before(self, scenario: str) -> Path | None:
        """The state that a scenario's command starts from; None: an empty folder."""
        earlier = SCENARIOS[scenario][1]
        if earlier is None:
            return None
        return self.finished("plain")

    def finished(self, scenario: str) -> Path:
        """The state that an uninterrupted command leaves; what it wrote is in `boundaries`."""

        def make(folder: Path) -> None:
            start = self.before(scenario)
            if start is not None:
                shutil.copytree(start, folder, dirs_exist_ok=True)
            count = Injection(count_to=str(self.root / f"writes-{scenario}"))
            begun = time.monotonic()
            ended = self.run(folder, self.command(scenario), count)
            assert ended.code == 0, ended.said
            (self.root / f"seconds-{scenario}").write_text(str(time.monotonic() - begun))

        return self.state(f"finished {scenario}", make)

    def honest(self, scenario: str) -> dict[str, Any]:
        """The result of an uninterrupted command."""
        with self._lock:
            if scenario not in self._honest:
                self._honest[scenario] = outcome(run_folder(self.finished(scenario)))
            return self._honest[scenario]

    def boundaries(self, scenario: str) -> list[tuple[str, str]]:
        """File operations of an uninterrupted command: kind and path, in order."""
        self.finished(scenario)
        lines = (self.root / f"writes-{scenario}").read_text().splitlines()
        return [(line.partition("\t")[0], line.partition("\t")[2]) for line in lines]

    def seconds(self, scenario: str) -> float:
        self.finished(scenario)
        return float((self.root / f"seconds-{scenario}").read_text())

    def start(self, case: Path, arguments: list[str], fault: Injection | None = None) -> int:
        return self.server.start(arguments, case, case.with_suffix(".out"), fault)

    def run(
        self,
        case: Path,
        arguments: list[str],
        fault: Injection | None = None,
        *,
        after: float | None = None,
        signals: tuple[int, ...] = (),
        timeout: float = TIMEOUT,
    ) -> Ended:
        """Run a command to its end.

        Args:
            case: its folder.
            arguments: of ``run.py``.
            fault: what goes wrong inside the process.
            after: seconds after which signals are sent from outside.
            signals: the second comes 0.2 s after the first.
            timeout: seconds until it counts as hanging.
        """
        output = case.with_suffix(".out")
        said_before = output.stat().st_size if output.exists() else 0
        server = self.server  # started before the time is taken
        begun = time.monotonic()
        pid = self.start(case, arguments, fault)
        if after is not None:
            time.sleep(after)
            for index, number in enumerate(signals):
                time.sleep(0.2 if index else 0.0)
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    break
        code = server.wait(pid, timeout)
        said = output.read_bytes()[said_before:].decode(errors="replace")
        return Ended(code, time.monotonic() - begun, said)

    def finishes(self, case: Path, scenario: str, arguments: list[str] | None = None) -> Ended:
        """Run a scenario's command and require its honest result."""
        ended = self.run(case, arguments or self.command(scenario))
        assert ended.code == 0, f"exit {ended.code}: {ended.said[-2000:]}"
        assert_equal(outcome(run_folder(case)), self.honest(scenario))
        return ended


def assert_equal(found: dict[str, Any], honest: dict[str, Any]) -> None:
    """Compare results and name the first key that differs."""
    for key in honest:
        assert found[key] == honest[key], f"{key}: {found[key]!s:.300} for {honest[key]!s:.300}"


def assert_kept(case: Path, name: str, honest: dict[str, Any]) -> None:
    """A complete record that was there is still there, whole, where the next command finds it."""
    experiment = case / "results" / "default"
    if (experiment / name / "record.json").exists():
        found = outcome(experiment / name)
        # An interrupted addition may already have written a part of what it adds.
        wanted = {key: value for key, value in honest.items() if key != "agreement"}
        assert_equal(found, wanted)
        return
    new = experiment / ".attempts" / name / "record.json"
    old = list((experiment / ".superseded").glob(f"{name}-*/record.json"))
    assert new.exists(), "neither the finished run nor its successor is there"
    assert json.loads(new.read_text())["status"] == "complete"
    assert old, "the finished run was not kept"


def assert_one_line(ended: Ended, *words: str) -> None:
    """The command ended with one clear line, without a traceback."""
    assert ended.code not in (0, None), f"exit {ended.code}"
    assert "Traceback" not in ended.said, ended.said[-2500:]
    lines = [line for line in ended.said.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, ended.said[-1500:]
    assert not words or any(word in lines[0] for word in words), lines[0]


def assert_stopped(ended: Ended, number: int) -> None:
    """The command ended by a signal with one line on how to resume."""
    assert ended.code == 128 + number, f"exit {ended.code}: {ended.said[-1500:]}"
    assert "Traceback" not in ended.said, ended.said[-2500:]
    assert "the same command resumes" in ended.said, ended.said[-1500:]


SIGNALS = {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}
