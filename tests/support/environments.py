"""Virtual environments with some of the packages of this one."""

from __future__ import annotations

import site
from collections.abc import Callable
from pathlib import Path

__all__ = ("linked_environment",)


def linked_environment(folder: Path, is_included: Callable[[str], bool]) -> Path:
    """Make an environment with links to packages of this one; return its bin folder.

    Args:
        folder: where to make it.
        is_included: called with the path of each file or folder in site-packages, relative to it.
            Those of the namespace package `metaflow_extensions` are included one by one.
    """
    import venv

    venv.create(folder / "venv", symlinks=True)
    packages = folder / "packages"
    packages.mkdir()
    for installed in map(Path, site.getsitepackages()):
        extensions = installed / "metaflow_extensions"
        for item in (*installed.iterdir(), *extensions.glob("*")):
            name = item.relative_to(installed).as_posix()
            if item != extensions and is_included(name):
                (packages / name).parent.mkdir(exist_ok=True)
                (packages / name).symlink_to(item)
    (own,) = (folder / "venv").glob("lib/python*/site-packages")
    (own / "packages.pth").write_text(f"{packages}\n")
    return folder / "venv" / "bin"
