"""Folders below a destination, none of them outside of it.

The names of files and folders come from a server; the destination is the user's choice. A
symbolic link in the place of a folder is followed only if it leads to a folder of the same
destination, as the ``data`` filter of `tarfile` does (PEP 706). The destination itself may be a
link or below one.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from hftransfer._io.os_errors import map_write_errors
from hftransfer.errors import DestinationError

__all__ = ("DestinationFolders",)


class DestinationFolders:
    """Creates the folders of one destination, and remembers those that exist.

    Thread-safe: two threads may do the same work, with the same result. Blocks.

    Args:
        root: the destination, which need not exist.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._real_root = ""
        """`root` without symbolic links, once it exists."""
        self._created: set[Path] = set()

    def create(self, folder: Path, *, look_again: bool = False) -> None:
        """Create `folder` and those above it.

        Args:
            folder: the root, or a path that begins with it.
            look_again: see whether a folder that was created before is still there. Default
                False, which saves a call for each small file.

        Raises:
            DestinationError: if it is a file, leads outside the destination, or cannot be
                created for another reason.
            DiskFullError: if the disk is full.
        """
        if folder in self._created:
            if not look_again or os.path.isdir(folder):
                return
            self._created.clear()
        with map_write_errors(folder):
            if folder == self._root:
                os.makedirs(folder, exist_ok=True)
            else:
                self.create(folder.parent)
                self._create_one(folder)
        self._created.add(folder)

    def _create_one(self, folder: Path) -> None:
        try:
            os.mkdir(folder)
        except FileExistsError:
            mode = os.lstat(folder).st_mode
            if stat.S_ISLNK(mode):
                self._check_link(folder)
            elif not stat.S_ISDIR(mode):
                raise NotADirectoryError(
                    errno.ENOTDIR, f"{folder} is a file; a folder of that name is needed"
                ) from None

    def _check_link(self, link: Path) -> None:
        self._real_root = self._real_root or os.path.realpath(self._root)
        real = os.path.realpath(link)
        if os.path.commonpath([real, self._real_root]) != self._real_root:
            raise DestinationError(
                f"{link} is a symbolic link to {real}, outside of {self._root}: remove the link, "
                "or copy to its target as a destination of its own"
            )
        if not os.path.isdir(real):
            raise NotADirectoryError(errno.ENOTDIR, f"{link} is a link to {real}, no folder")
