"""The jobs that a command would run, as preflight checks them."""

from collections.abc import Callable

import pytest

from crvq.cli import preflight
from crvq.cli.arguments import tidy_arguments
from crvq.config import RunConfig
from tests.conftest import ROOT

FOLDER = ROOT / "experiments"


@pytest.fixture(scope="session")
def planned() -> Callable[..., list[RunConfig]]:
    """Check a command line as ``python run.py`` does, once, and give its jobs, typed."""
    known: dict[tuple[str, ...], list[RunConfig]] = {}
    check = preflight._check_job

    def jobs(*arguments: str) -> list[RunConfig]:
        if arguments not in known:
            found: list[RunConfig] = []

            def checked(config):
                found.append(check(config))
                return found[-1]

            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(ROOT)
                patch.setattr(preflight, "_check_job", checked)
                preflight.check_command(tidy_arguments([*arguments]), ROOT / "conf", "config")
            known[arguments] = found
        return known[arguments]

    return jobs
