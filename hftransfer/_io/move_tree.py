"""Moves a folder that is complete into one that may have files already. Blocks."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

__all__ = ("move_tree",)


def move_tree(source: Path, target: Path) -> None:
    """Move everything below `source` to the same path below `target`, replacing what is there.

    Both are folders of one file system. Links in `target` are replaced and not followed.

    Raises:
        OSError: if something cannot be moved; what was moved before stays.
    """
    for item in sorted(source.iterdir()):
        destination = target / item.name
        if stat.S_ISDIR(item.lstat().st_mode):
            if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
                destination.unlink()
            destination.mkdir(exist_ok=True)
            move_tree(item, destination)
        else:
            if destination.is_dir() and not destination.is_symlink():
                shutil.rmtree(destination)
            os.replace(item, destination)
