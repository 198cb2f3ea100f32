import runpy
import sys
from dataclasses import dataclass

import pytest
from hydra.core.global_hydra import GlobalHydra

from tests.conftest import ROOT, combined


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def run_py(monkeypatch, capfd):
    """``python run.py ARGUMENTS`` in this process."""

    def program(*arguments):
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", [str(ROOT / "run.py"), *arguments])
        GlobalHydra.instance().clear()
        code = 0
        try:
            runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        finally:
            GlobalHydra.instance().clear()
        printed = capfd.readouterr()
        return Outcome(code or 0, printed.out, printed.err)

    return program


@pytest.fixture
def run_tiny(run_py, tiny_overrides):
    """``python run.py`` on the tiny model, with more arguments."""
    return lambda *arguments: run_py(*combined(tiny_overrides, arguments))
