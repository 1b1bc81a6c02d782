"""Partial files of other contents, which a transfer removes once it has moved their files.

Which of the files to be moved have some is found page by page, by listing each folder once, so that
nothing has to be kept for the others. Everything here blocks and belongs in worker threads.
"""

from __future__ import annotations

from pathlib import Path

from hftransfer._io.partial_file import partial_file_prefixes, remove_stale_partials

__all__ = ("StalePartials",)

# Folders whose partial files are remembered. A folder that is forgotten is listed again; files
# arrive sorted, or nearly.
_MAX_FOLDERS = 1000


class StalePartials:
    """The partial files that were there before the files of one transfer were moved."""

    def __init__(self) -> None:
        self._prefixes: dict[Path, frozenset[str]] = {}
        """By folder, the prefixes of its partial files."""
        self._found: dict[Path, set[str]] = {}

    def find(self, folder: Path, prefix: str) -> None:
        """Remember the partial files of a file that will be moved.

        Args:
            folder: where its partial files are.
            prefix: of their names, without the last dot and the 16 hex digits.
        """
        prefixes = self._prefixes.get(folder)
        if prefixes is None:
            if len(self._prefixes) >= _MAX_FOLDERS:
                del self._prefixes[next(iter(self._prefixes))]
            prefixes = self._prefixes[folder] = partial_file_prefixes(folder)
        if prefix in prefixes:
            self._found.setdefault(folder, set()).add(prefix)

    def remove(self) -> None:
        """Delete what was found, except partial files that a running process has locked."""
        for folder, prefixes in self._found.items():
            remove_stale_partials(folder, prefixes)
        self._found.clear()
        self._prefixes.clear()
