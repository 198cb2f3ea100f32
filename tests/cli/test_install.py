"""The command `crvq` of an installed package is `python run.py`, outside a checkout too."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec

import pytest

from tests.conftest import ROOT

MAIN = "import sys; sys.argv[0] = 'crvq'; from crvq.cli.main import main; main()"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which a wheel of this checkout was unpacked."""
    # Found, not imported: in a process that has distutils already setuptools refuses to load.
    if find_spec("setuptools") is None:
        pytest.skip("no setuptools")
    source, wheels, folder = (tmp_path_factory.mktemp(name) for name in ("src", "dist", "site"))
    for name in ("crvq", "conf", "experiments", "hydra_plugins"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta; import sys; build_meta.build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, str(wheels)], cwd=source, check=True, capture_output=True
    )
    (wheel,) = wheels.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def answer(installed, folder, *arguments):
    return subprocess.run(
        [sys.executable, "-c", MAIN, *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_all_configurations_are_in_the_package(installed):
    for name in ("conf", "experiments"):
        shipped = {p.relative_to(ROOT / name) for p in (ROOT / name).rglob("*.yaml")}
        found = {
            p.relative_to(installed / "crvq" / name)
            for p in (installed / "crvq" / name).rglob("*.yaml")
        }
        assert found == shipped


def test_a_sweep_composes_from_the_package_in_any_folder(installed, tmp_path):
    reply = answer(installed, tmp_path, "--cfg", "job", "+experiments=importance", "seed=3")
    assert reply.returncode == 0, reply.stderr
    assert "experiment: smollm2-importance" in reply.stdout
    assert "seed: 3" in reply.stdout


def test_mistakes_are_refused_there_as_well(installed, tmp_path):
    reply = answer(installed, tmp_path, "method=crqv")
    assert reply.returncode == 2
    assert "did you mean crvq?" in reply.stderr


def test_the_command_is_declared(installed):
    (points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "crvq = crvq.cli.main:main" in points.read_text()
