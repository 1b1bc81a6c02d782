"""The folders that runs write into, and when they are deleted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ("MANY_FILES", "Scratch")

# So many files of a run are deleted only at the end: for minutes ext4, where it has no journal,
# looks at each inode that was freed before it takes another one, at half a millisecond for each
# new file. The next tool would pay for that.
MANY_FILES = 500


class Scratch:
    """A fresh folder for one run after another.

    Args:
        root: of the world; nothing else in it is called ``run`` or ``done``.
        files: how many a run writes.
    """

    def __init__(self, root: Path, files: int) -> None:
        self._folder = root / "run"
        self._done = root / "done"
        self._is_kept = files >= MANY_FILES
        self.clear()

    def clear(self) -> None:
        """Delete what runs have left."""
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.rmtree(self._done, ignore_errors=True)

    @contextmanager
    def fresh(self) -> Iterator[Path]:
        """Give an empty folder; behind the block it is deleted, or put aside."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        try:
            yield self._folder
        finally:
            if self._is_kept:
                self._done.mkdir(exist_ok=True)
                self._folder.rename(self._done / str(len(list(self._done.iterdir()))))
            else:
                shutil.rmtree(self._folder, ignore_errors=True)
