"""The paths of a snapshot that wait for a blob which is being downloaded."""

from __future__ import annotations

import threading
from pathlib import Path

__all__ = ("PendingLinks",)


class PendingLinks:
    """Files with equal content share a blob: one of them is downloaded, and then all are linked.

    Links that are made are forgotten, so that the memory does not depend on the number of files.
    Thread-safe: pages of the listing are prepared while links are made.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pointers: dict[str, list[Path]] = {}

    def add(self, etag: str, pointer: Path) -> bool:
        """Add a path; return True if it is the first one, whose file is to be downloaded."""
        with self._lock:
            waiting = self._pointers.get(etag)
            if waiting is not None:
                waiting.append(pointer)
                return False
            self._pointers[etag] = [pointer]
            return True

    def take(self, etag: str) -> list[Path]:
        """Return all paths that wait for a blob, which now exists, and forget them."""
        with self._lock:
            return self._pointers.pop(etag, [])
