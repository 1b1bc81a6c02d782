"""What `pip install` gives: the wheel's content, and Metaflow finding our decorator.

Metaflow looks at installed metadata, so only real installations prove anything. Each
environment here is a fresh one without a network: Metaflow and the libraries come from
the environment that runs the tests, linked distribution by distribution as their
RECORDs say, and hftransfer is installed by pip from the tree.
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
_SCRATCH = ("__pycache__", "*.egg-info", ".*", "build", "dist", "node_modules")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.metaflow,
    pytest.mark.timeout(180),  # the first test of the session builds the wheel
]

# Prints what Metaflow made of its extensions, and all that importing it loaded.
_PROBE = """
import json, sys
import metaflow
found = getattr(metaflow, "huggingface_hub", None)
print(json.dumps({
    "module": found and found.args[0].__module__,
    "name": found and found.args[0].name,
    "incumbent": any(name.startswith("metaflow_extensions.obcheckpoint") for name in sys.modules),
    "loaded": sorted(sys.modules),
}))
"""


# --- a tree, a wheel, environments


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, because builds leave files behind."""
    copy = tmp_path_factory.mktemp("tree") / "hftransfer"
    shutil.copytree(_TREE, copy, ignore=shutil.ignore_patterns(*_SCRATCH))
    return copy


@pytest.fixture(scope="session")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, tree)
    (built,) = folder.glob("*.whl")
    return built


def _run(*command: str | Path) -> str:
    """Run a command without PYTHONPATH, which would hide what is installed."""
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environ.setdefault("METAFLOW_USER", "tester")
    result = subprocess.run(
        command, env=environ, cwd="/", capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@dataclass(frozen=True)
class Report:
    """What `_PROBE` printed."""

    module: str | None
    name: str | None
    incumbent: bool
    loaded: frozenset[str]


class Environment:
    """A fresh virtual environment without pip."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False, symlinks=True)
        self._python = folder / "bin" / "python"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self._packages = folder / "lib" / version / "site-packages"

    def link(self, distribution: str) -> None:
        """Make an installed distribution and all that it needs part of this environment."""
        for each in _closure(distribution):
            for entry in _top_level(each):
                target = self._packages / entry
                if not target.exists():
                    target.symlink_to(Path(str(each.locate_file(entry))).resolve())

    def copy_checkpoint(self, *, named: str) -> None:
        """Add metaflow-checkpoint under one of the spellings of its name.

        Built from its sdist by a current setuptools, its metadata say `metaflow_checkpoint`.
        Its folder is copied, because distributions share the namespace `metaflow_extensions`.
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
        """Let pip install a wheel, or `-e` a tree; nothing comes from an index."""
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
        """Return what a program prints here."""
        return _run(self._python, "-c", code)

    def ask_metaflow(self) -> Report:
        """Import Metaflow and look."""
        answer = json.loads(self.python(_PROBE).splitlines()[-1])
        return Report(**{**answer, "loaded": frozenset(answer["loaded"])})


def _closure(name: str) -> Iterator[importlib.metadata.Distribution]:
    waiting, seen = [name], set()
    while waiting:
        try:
            found = importlib.metadata.distribution(waiting.pop())
        except importlib.metadata.PackageNotFoundError:
            continue  # wanted on other Pythons or systems only
        key = found.metadata["Name"].lower().replace("_", "-")
        if key not in seen:
            seen.add(key)
            yield found
            wanted = [entry for entry in found.requires or () if "extra ==" not in entry]
            waiting += [re.split(r"[^\w.-]", entry, maxsplit=1)[0] for entry in wanted]


def _top_level(distribution: importlib.metadata.Distribution) -> set[str]:
    return {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """A fresh environment with Metaflow and what hftransfer depends on, but without either ours
    or metaflow-checkpoint.
    """
    fresh = Environment(tmp_path / "venv")
    for name in ("metaflow", "aiobotocore", "aiohttp", "anyio", "huggingface_hub", "xxhash"):
        fresh.link(name)
    return fresh


# --- the wheel


def test_the_wheel_holds_the_two_packages_and_nothing_else(wheel: Path) -> None:
    """Neither tests nor scripts, and every module of ours with the marker for type checkers."""
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
    """The extra's requirements reach the metadata as they are written, one per spelling."""
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
def test_metaflow_takes_our_decorator(
    kind: str, beside: str | None, environment: Environment, tree: Path, wheel: Path
) -> None:
    """`metaflow.huggingface_hub` is ours, however we and metaflow-checkpoint are installed."""
    if beside:
        environment.copy_checkpoint(named=beside)
    if kind == "wheel":
        environment.install(wheel)
    else:
        environment.link("setuptools")
        environment.install("--editable", tree)

    report = environment.ask_metaflow()

    assert report.module is not None
    assert report.module.startswith("metaflow_extensions.hftransfer.")
    assert report.name == "huggingface_hub"
    assert report.incumbent == bool(beside)


def test_importing_metaflow_loads_nothing_heavy_because_of_us(
    environment: Environment, wheel: Path
) -> None:
    """With us installed `import metaflow` loads no third party's package and no engine more."""
    environment.copy_checkpoint(named=_CHECKPOINT)
    without = environment.ask_metaflow()
    environment.install(wheel)
    added = environment.ask_metaflow().loaded - without.loaded

    ours = {name for name in added if name.partition(".")[0] == "hftransfer"}
    extension = {name for name in added if name.startswith("metaflow_extensions.hftransfer")}
    foreign = {name.partition(".")[0] for name in added - ours - extension}

    assert without.module is not None
    assert without.module.startswith("metaflow_extensions.obcheckpoint.")
    assert extension
    # Metaflow's own modules may be loaded earlier than they would have been.
    assert foreign - sys.stdlib_module_names - {"metaflow", "metaflow_extensions"} == set()
    assert ours <= {
        "hftransfer",
        *(f"hftransfer.{name}" for name in ("errors", "locations", "options")),
    }
