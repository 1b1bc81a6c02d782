"""Partial files that earlier transfers left, which a transfer resumes, or removes once it is done.

Which of the files to be moved have some is found page by page, by listing each folder once, so that
nothing has to be kept for the others. Everything here blocks and belongs in worker threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hftransfer._io.partial_file import allocated_size, partial_file_names, remove_stale_partials

__all__ = ("StalePartials",)

# Folders whose partial files are remembered. A folder that is forgotten is listed again; files
# arrive sorted, or nearly.
_MAX_FOLDERS = 1000


class StalePartials:
    """The partial files that were there before the files of one transfer were moved."""

    def __init__(self) -> None:
        self._names: dict[Path, Mapping[str, Sequence[str]]] = {}
        """By folder, the names of its partial files, by `partial_file_names`."""
        self._found: dict[Path, set[str]] = {}

    def find(self, folder: Path, prefix: str) -> None:
        """Remember the partial files of a file that will be moved.

        Args:
            folder: where its partial files are.
            prefix: of their names, without the last dot and the 16 hex digits.
        """
        if prefix in self._in(folder):
            self._found.setdefault(folder, set()).add(prefix)

    def allocated(self, folder: Path, prefix: str) -> int:
        """Return the disk space that a file which will be moved occupies already, in bytes.

        Args:
            folder: where its partial files are.
            prefix: of the one that can be resumed, with the 16 hex digits.
        """
        names = self._in(folder).get(prefix.rpartition(".")[0])
        return 0 if names is None else allocated_size(folder, prefix, names)

    def remove(self) -> None:
        """Delete what was found, except partial files that a running process has locked."""
        for folder, prefixes in self._found.items():
            remove_stale_partials(folder, prefixes)
        self._found.clear()
        self._names.clear()

    def _in(self, folder: Path) -> Mapping[str, Sequence[str]]:
        names = self._names.get(folder)
        if names is None:
            if len(self._names) >= _MAX_FOLDERS:
                del self._names[next(iter(self._names))]
            names = self._names[folder] = partial_file_names(folder)
        return names
