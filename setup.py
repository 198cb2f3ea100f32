"""Packages whose folders are elsewhere in a checkout; all else is in pyproject.toml.

conf/ and experiments/ stay at the top level, where people look for them, and are installed inside
the package, so that the command `crvq` works outside a checkout. hydra_plugins is the namespace
package in which Hydra looks for plugins.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["crvq*"]), "crvq.conf", "crvq.experiments", "hydra_plugins"],
    package_dir={"crvq.conf": "conf", "crvq.experiments": "experiments"},
)
