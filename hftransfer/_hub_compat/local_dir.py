"""Layout of a ``local_dir``: plain files, and what is known about them beside.

::

    <local_dir>/<path>
    <local_dir>/.cache/huggingface/CACHEDIR.TAG, .gitignore
    <local_dir>/.cache/huggingface/trees/<commit>.json
    <local_dir>/.cache/huggingface/download/<path>.metadata     commit, etag, time of writing
    <local_dir>/.cache/huggingface/download/<path>.lock
    <local_dir>/.cache/huggingface/download/<folder of path>/*.incomplete

Shared with huggingface_hub, like the cache. Everything here blocks and belongs into
worker threads.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hftransfer._hub_compat.cache import create_cachedir_tag
from hftransfer._io.atomic_write import write_atomically
from hftransfer.locations import safe_path

__all__ = ("DownloadMetadata", "LocalDir")

logger = logging.getLogger(__name__)

# Time stamps of files may be coarser than time.time().
_CLOCK_TOLERANCE = 1.0


@dataclass(frozen=True)
class DownloadMetadata:
    """What a file was when it was downloaded: of which commit, with which content."""

    commit: str
    etag: str


@dataclass(frozen=True)
class LocalDir:
    """One ``local_dir``.

    Args:
        root: absolute.
    """

    root: Path

    @property
    def _housekeeping(self) -> Path:
        return self.root / ".cache" / "huggingface"

    def file(self, path: str) -> Path:
        """The file `path` of the repository.

        Raises:
            LocationError: if `path` would leave the folder.
        """
        return self.root / safe_path(path)

    def metadata(self, path: str) -> Path:
        return self._housekeeping / "download" / f"{safe_path(path)}.metadata"

    def lock(self, path: str) -> Path:
        return self.metadata(path).with_suffix(".lock")

    def tree(self, commit: str) -> Path:
        return self._housekeeping / "trees" / f"{commit}.json"

    def create(self) -> None:
        """Make the folder and its housekeeping, which version control and backups ignore."""
        self._housekeeping.mkdir(parents=True, exist_ok=True)
        create_cachedir_tag(self._housekeeping)
        with suppress(OSError), open(self._housekeeping / ".gitignore", "x") as file:
            file.write("*")

    def read_metadata(self, path: str) -> DownloadMetadata | None:
        """Return what is known about `path`; None if nothing, or if it was changed since."""
        metadata = self.metadata(path)
        try:
            commit, etag, written = metadata.read_text().splitlines()[:3]
            timestamp = float(written)
        except OSError:
            return None
        except ValueError:
            logger.warning("removing the damaged metadata file %s", metadata)
            with suppress(OSError):
                metadata.unlink()
            return None
        try:
            changed = self.file(path).stat().st_mtime - _CLOCK_TOLERANCE > timestamp
        except OSError:
            return None
        return None if changed else DownloadMetadata(commit.strip(), etag.strip())

    def write_metadata(self, path: str, commit: str, etag: str) -> None:
        """Record that `path` has now the content `etag` of `commit`."""
        metadata = self.metadata(path)
        text = f"{commit}\n{etag}\n{time.time()}\n"
        try:
            # The file's lock is held, and a torn text is one that says nothing: for the first
            # one a name of its own would only cost time.
            with open(metadata, "x", encoding="utf-8") as file:
                file.write(text)
        except (FileExistsError, FileNotFoundError):
            write_atomically(metadata, text.encode())

    def is_empty(self) -> bool:
        """Return True if there is nothing in the folder, or no folder."""
        try:
            return next(self.root.iterdir(), None) is None
        except OSError:
            return True
