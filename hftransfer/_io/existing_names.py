"""Which of many paths exist, with one call per folder for those that do not.

On a network file system each look at a path that does not exist costs a round trip. A download
into a new folder looks at every file that it will write.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ("ExistingNames",)


class ExistingNames:
    """The names in the folders that were asked for, as they were at the first question. Blocks."""

    def __init__(self) -> None:
        self._folders: dict[Path, frozenset[str] | None] = {}

    def exists(self, path: Path) -> bool:
        """Return True if `path` exists; False for a link without a target."""
        # A file system may normalise other names, so that the listing shows a different one.
        names = self._names(path.parent) if path.name.isascii() else None
        return (names is None or path.name in names) and path.exists()

    def _names(self, folder: Path) -> frozenset[str] | None:
        """Return the names in `folder`; None if they cannot be read."""
        if folder not in self._folders:
            try:
                self._folders[folder] = frozenset(os.listdir(folder))
            except (FileNotFoundError, NotADirectoryError):
                self._folders[folder] = frozenset()
            except OSError:
                self._folders[folder] = None
        return self._folders[folder]
