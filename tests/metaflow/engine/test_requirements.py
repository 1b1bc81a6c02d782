"""The documented packages for the environments of steps."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("metaflow.decorators")

if sys.version_info >= (3, 11):
    import tomllib
else:  # pip's own copy
    from pip._vendor import tomli as tomllib

from metaflow.plugins.pypi import micromamba

from metaflow_extensions.hftransfer.plugins.engine import requirements

pytestmark = pytest.mark.metaflow

ROOT = Path(__file__).resolve().parents[3]
# conda-forge's names, where they differ.
CONDA = {"python-isal": "isal", "python-xxhash": "xxhash"}
# Packages without which the engine works, more slowly.
QUICKER = {"isal"}


def recipe(decorator: str) -> dict[str, str]:
    """Return the packages that the documentation gives to `decorator`."""
    (found,) = re.findall(
        rf"^@{decorator}\(packages=(.*)\)$",
        (ROOT / "docs" / "metaflow.md").read_text(),
        re.MULTILINE,
    )
    packages: dict[str, str] = ast.literal_eval(found)
    return packages


@pytest.mark.parametrize("decorator", ["pypi", "conda"])
def test_a_recipe_names_all_packages_of_the_engine(decorator: str) -> None:
    """The packages of `pyproject.toml`, with the same lowest release."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {}
    for line in project["dependencies"]:
        name, lowest = re.findall(r"^([\w-]+)(>=[\d.]+)", line)[0]
        wanted[name] = lowest

    found = {CONDA.get(name, name): version for name, version in recipe(decorator).items()}

    assert found == wanted
    assert set(requirements._ALWAYS + requirements._FOR_S3) == set(found) - QUICKER


def test_metaflow_reads_the_versions_as_bounds() -> None:
    """`@conda` puts `==` before a version, and removes it again before `>=`."""
    for name, version in recipe("conda").items():
        written = micromamba._double_equal_match.sub("", f"{name}=={version}")
        assert written == f"{name}{version}"


def test_missing_packages_are_logged_with_the_command_that_installs_them() -> None:
    """Other reasons for the fallback have no such command."""
    missing = requirements.MissingPackagesError("missing packages: anyio")
    other = requirements.UnsupportedByEngine("unsupported datastore: gs")

    assert missing.log_line == (
        "Using the slower transfers of Metaflow's own code (missing packages: anyio); "
        'to use the engine: pip install "hftransfer[metaflow]"'
    )
    assert other.log_line == (
        "Using the slower transfers of Metaflow's own code (unsupported datastore: gs)"
    )
