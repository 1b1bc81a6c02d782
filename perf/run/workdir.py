"""The directories that runs write to, and when they are deleted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ("MANY_FILES", "Workdirs")

MANY_FILES = 500
"""Number of files of a run from which deletion is postponed until all runs have finished.

ext4 without a journal checks each recently freed inode before it uses another one, which costs
0.5 ms per new file for some minutes. The next tool would pay for the deletion.
"""


class Workdirs:
    """Provides an empty working directory for each run.

    Args:
        root: directory of the testbed; must contain nothing else called ``run`` or ``done``.
        files: number of files that a run writes.
    """

    def __init__(self, root: Path, files: int) -> None:
        self._current = root / "run"
        self._finished = root / "done"
        self._postpones_deletion = files >= MANY_FILES
        self.clear()

    def clear(self) -> None:
        """Delete the directories of all runs."""
        shutil.rmtree(self._current, ignore_errors=True)
        shutil.rmtree(self._finished, ignore_errors=True)

    @contextmanager
    def create(self) -> Iterator[Path]:
        """Create an empty directory; on exit, delete it or, with many files, move it aside."""
        shutil.rmtree(self._current, ignore_errors=True)
        self._current.mkdir()
        try:
            yield self._current
        finally:
            if self._postpones_deletion:
                self._finished.mkdir(exist_ok=True)
                self._current.rename(self._finished / str(len(list(self._finished.iterdir()))))
            else:
                shutil.rmtree(self._current, ignore_errors=True)
