"""The jobs that a command would run, as preflight checks them."""

from collections.abc import Callable

import pytest

from crvq.cli.arguments import tidy_arguments
from crvq.cli.preflight import check_command
from crvq.config import RunConfig
from tests.conftest import ROOT

FOLDER = ROOT / "experiments"


@pytest.fixture(scope="session")
def planned() -> Callable[..., list[RunConfig]]:
    """Check a command line as ``python run.py`` does, once, and give its jobs, typed."""
    known: dict[tuple[str, ...], list[RunConfig]] = {}

    def jobs(*arguments: str) -> list[RunConfig]:
        if arguments not in known:
            checked = check_command(tidy_arguments([*arguments]), ROOT / "conf", "config")
            assert checked is not None
            known[arguments] = checked[1]
        return known[arguments]

    return jobs
