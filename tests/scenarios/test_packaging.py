"""Installations: the content of the wheel, and Metaflow's look-up of our decorator.

Metaflow reads the metadata of installed distributions, so these tests install hftransfer with
pip, in new virtual environments without a network. Metaflow and the other dependencies are
linked from the environment that runs the tests: the files that each RECORD lists.
"""

from __future__ import annotations

import email
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

_TREE = Path(__file__).parents[2]
_CHECKPOINT = "metaflow-checkpoint"
_NOT_SOURCE = ("__pycache__", "*.egg-info", ".*", "build", "dist", "node_modules")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.metaflow,
    pytest.mark.timeout(180),  # the first of these tests builds the wheel
]

# Prints which decorator Metaflow found, and all modules that importing it loaded.
_PROBE = """
import json, sys
import metaflow
found = getattr(metaflow, "huggingface_hub", None)
checkpoint = "metaflow_extensions.obcheckpoint"
print(json.dumps({
    "module": found and found.args[0].__module__,
    "name": found and found.args[0].name,
    "has_checkpoint": any(name.startswith(checkpoint) for name in sys.modules),
    "loaded": sorted(sys.modules),
}))
"""


# --- source tree, wheel and virtual environments


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout: a build writes files to its source tree."""
    copy = tmp_path_factory.mktemp("tree") / "hftransfer"
    shutil.copytree(_TREE, copy, ignore=shutil.ignore_patterns(*_NOT_SOURCE))
    return copy


@pytest.fixture(scope="session")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, tree)
    (built,) = folder.glob("*.whl")
    return built


def _run(*command: str | Path) -> str:
    """Run a command and return its output; without PYTHONPATH, which would take precedence."""
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environ.setdefault("METAFLOW_USER", "tester")
    result = subprocess.run(
        command, env=environ, cwd="/", capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@dataclass(frozen=True)
class Report:
    """What `_PROBE` prints."""

    module: str | None
    name: str | None
    has_checkpoint: bool
    loaded: frozenset[str]


class Environment:
    """A new virtual environment without pip."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self._python = folder / "bin" / "python"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self._packages = folder / "lib" / version / "site-packages"

    def link(self, distribution: str) -> None:
        """Link an installed distribution and its dependencies into this environment."""
        for each in _closure(distribution):
            for entry in _top_level(each):
                target = self._packages / entry
                if not target.exists():
                    target.symlink_to(Path(str(each.locate_file(entry))).resolve())

    def copy_checkpoint(self, *, named: str) -> None:
        """Copy metaflow-checkpoint into this environment under one of the spellings of its name.

        Built from its sdist by a current setuptools, its metadata have `metaflow_checkpoint`.
        Its files are copied, not linked: distributions share the folder `metaflow_extensions`.
        """
        distribution = importlib.metadata.distribution(_CHECKPOINT)
        for file in distribution.files or ():
            if ".." not in file.parts:
                target = self._packages / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(distribution.locate_file(file)), target)
        (metadata,) = self._packages.glob("metaflow_checkpoint-*.dist-info/METADATA")
        text, count = re.subn(
            r"^Name: .*$", f"Name: {named}", metadata.read_text(), count=1, flags=re.M
        )
        assert count == 1
        metadata.write_text(text)

    def install(self, *what: str | Path) -> None:
        """Install a wheel, or with `--editable` a source tree, with pip and without an index."""
        options = ("--no-deps", "--no-index", "--no-build-isolation", "--quiet")
        quiet = ("--disable-pip-version-check", "--no-input")
        _run(
            sys.executable,
            "-m",
            "pip",
            "--python",
            self._python,
            "install",
            *options,
            *quiet,
            *what,
        )

    def python(self, code: str) -> str:
        """Run a program in this environment and return its output."""
        return _run(self._python, "-c", code)

    def probe_metaflow(self) -> Report:
        """Import Metaflow in this environment and return what it found."""
        printed = json.loads(self.python(_PROBE).splitlines()[-1])
        return Report(**{**printed, "loaded": frozenset(printed["loaded"])})


def _closure(name: str) -> Iterator[importlib.metadata.Distribution]:
    pending, seen = [name], set()
    while pending:
        try:
            found = importlib.metadata.distribution(pending.pop())
        except importlib.metadata.PackageNotFoundError:
            continue  # a dependency on other Pythons or systems only
        key = found.metadata["Name"].lower().replace("_", "-")
        if key not in seen:
            seen.add(key)
            yield found
            required = [entry for entry in found.requires or () if "extra ==" not in entry]
            pending += [re.split(r"[^\w.-]", entry, maxsplit=1)[0] for entry in required]


def _top_level(distribution: importlib.metadata.Distribution) -> set[str]:
    return {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """A new environment with Metaflow and the dependencies of hftransfer, and with neither
    hftransfer nor metaflow-checkpoint.
    """
    fresh = Environment(tmp_path / "venv")
    for name in ("metaflow", "aiobotocore", "aiohttp", "anyio", "huggingface_hub", "xxhash"):
        fresh.link(name)
    return fresh


# --- the wheel


def test_the_wheel_has_the_two_packages_and_nothing_else(wheel: Path) -> None:
    """It has all modules of both packages and ``py.typed``, and no tests or scripts."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (top_level,) = (archive.read(name) for name in names if name.endswith("/top_level.txt"))
    expected = {
        str(path.relative_to(root))
        for root, package in (
            (_TREE, "hftransfer"),
            (_TREE / "metaflow_ext", "metaflow_extensions"),
        )
        for path in (root / package).rglob("*.py")
    }

    assert {name for name in names if ".dist-info/" not in name} == expected | {
        "hftransfer/py.typed"
    }
    assert top_level.split() == [b"hftransfer", b"metaflow_extensions"]


def test_the_metadata_name_both_spellings_of_metaflow_checkpoint(wheel: Path) -> None:
    """The requirements of the extra `metaflow` have one entry per spelling."""
    with zipfile.ZipFile(wheel) as archive:
        (text,) = (
            archive.read(name).decode()
            for name in archive.namelist()
            if name.endswith(".dist-info/METADATA")
        )
        (licence,) = (name for name in archive.namelist() if name.endswith("LICENSE"))
        (scripts,) = (
            archive.read(name).decode()
            for name in archive.namelist()
            if name.endswith("entry_points.txt")
        )
    metadata = email.message_from_string(text)
    extra = {
        re.split(r"[^\w.-]", value, maxsplit=1)[0]
        for value in metadata.get_all("Requires-Dist", [])
        if 'extra == "metaflow"' in value
    }

    assert extra == {"metaflow", "metaflow-checkpoint", "metaflow_checkpoint"}
    assert metadata["License-Expression"] == "Apache-2.0"
    assert licence
    assert "hftransfer = hftransfer.__main__:run" in scripts


def test_the_version_is_that_of_the_installed_distribution(
    environment: Environment, wheel: Path
) -> None:
    """`hftransfer.__version__` is the number in the wheel's name."""
    environment.install(wheel)

    version = environment.python("import hftransfer; print(hftransfer.__version__)").strip()

    assert wheel.name.startswith(f"hftransfer-{version}-")


# --- Metaflow


@pytest.mark.parametrize("beside", [None, "metaflow-checkpoint", "metaflow_checkpoint"])
@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_metaflow_finds_our_decorator(
    kind: str, beside: str | None, environment: Environment, tree: Path, wheel: Path
) -> None:
    """`metaflow.huggingface_hub` is ours, also if metaflow-checkpoint is installed."""
    if beside:
        environment.copy_checkpoint(named=beside)
    if kind == "wheel":
        environment.install(wheel)
    else:
        environment.link("setuptools")
        environment.install("--editable", tree)

    report = environment.probe_metaflow()

    assert report.module is not None
    assert report.module.startswith("metaflow_extensions.hftransfer.")
    assert report.name == "huggingface_hub"
    assert report.has_checkpoint == bool(beside)


def test_importing_metaflow_loads_no_dependency_of_ours(
    environment: Environment, wheel: Path
) -> None:
    """With hftransfer installed, `import metaflow` loads no more third-party packages."""
    environment.copy_checkpoint(named=_CHECKPOINT)
    without = environment.probe_metaflow()
    environment.install(wheel)
    added = environment.probe_metaflow().loaded - without.loaded

    ours = {name for name in added if name.partition(".")[0] == "hftransfer"}
    extension = {name for name in added if name.startswith("metaflow_extensions.hftransfer")}
    foreign = {name.partition(".")[0] for name in added - ours - extension}

    assert without.module is not None
    assert without.module.startswith("metaflow_extensions.obcheckpoint.")
    assert extension
    # Modules of Metaflow that it would otherwise import later may be loaded.
    assert foreign - sys.stdlib_module_names - {"metaflow", "metaflow_extensions"} == set()
    assert ours <= {
        "hftransfer",
        *(f"hftransfer.{name}" for name in ("errors", "locations", "options")),
    }
