"""Layout of a ``local_dir``: plain files, and metadata about them below ``.cache``.

::

    <local_dir>/<path>
    <local_dir>/.cache/huggingface/CACHEDIR.TAG, .gitignore
    <local_dir>/.cache/huggingface/trees/<commit>.json
    <local_dir>/.cache/huggingface/download/<path>.metadata     commit, etag, time of writing
    <local_dir>/.cache/huggingface/download/<path>.lock
    <local_dir>/.cache/huggingface/download/<folder of path>/*.incomplete

The layout is huggingface_hub's, and processes with either library may use one folder at the same
time. Everything here blocks and belongs in worker threads.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hftransfer._hub_compat.cache import create_cachedir_tag
from hftransfer._io.atomic_write import create_if_missing, write_atomically
from hftransfer.locations import safe_path

__all__ = ("DownloadMetadata", "LocalDir")

_logger = logging.getLogger(__name__)

# Seconds. A file system's time stamps may be coarser than `time.time`.
_MTIME_TOLERANCE = 1.0


@dataclass(frozen=True)
class DownloadMetadata:
    """Commit and etag of a file at the time of its download."""

    commit: str
    etag: str


@dataclass(frozen=True)
class LocalDir:
    """The paths of one ``local_dir``, and its metadata.

    Args:
        root: the folder, absolute.
    """

    root: Path

    @property
    def download_root(self) -> Path:
        """The folder of metadata, locks and partial files; its folders are those of the files."""
        return self._metadata_root / "download"

    @property
    def _metadata_root(self) -> Path:
        return self.root / ".cache" / "huggingface"

    def file(self, path: str) -> Path:
        """Return the path of the file `path` of the repository.

        Raises:
            LocationError: if `path` would leave the folder.
        """
        return self.root / safe_path(path)

    def metadata(self, path: str) -> Path:
        return self.download_root / f"{safe_path(path)}.metadata"

    def lock(self, path: str) -> Path:
        return self.metadata(path).with_suffix(".lock")

    def tree(self, commit: str) -> Path:
        return self._metadata_root / "trees" / f"{commit}.json"

    def create(self) -> None:
        """Create the folder and its metadata folder, which git and backup tools ignore."""
        self._metadata_root.mkdir(parents=True, exist_ok=True)
        create_cachedir_tag(self._metadata_root)
        with suppress(OSError):
            create_if_missing(self._metadata_root / ".gitignore", b"*")

    def read_metadata(self, path: str) -> DownloadMetadata | None:
        """Return the metadata of `path`; None if there is none, or the file was changed later.

        Damaged metadata is removed.
        """
        metadata = self.metadata(path)
        try:
            commit, etag, written = metadata.read_text().splitlines()[:3]
            timestamp = float(written)
        except OSError:
            return None
        except ValueError:
            _logger.warning("removing the damaged metadata file %s", metadata)
            with suppress(OSError):
                metadata.unlink()
            return None
        try:
            changed = self.file(path).stat().st_mtime - _MTIME_TOLERANCE > timestamp
        except OSError:
            return None
        return None if changed else DownloadMetadata(commit.strip(), etag.strip())

    def write_metadata(self, path: str, commit: str, etag: str) -> None:
        """Record that `path` has the content `etag` of `commit`. Call it with the lock held."""
        metadata = self.metadata(path)
        text = f"{commit}\n{etag}\n{time.time()}\n".encode()
        # The lock excludes other writers, and readers ignore incomplete metadata.
        if not create_if_missing(metadata, text):
            write_atomically(metadata, text)

    def is_empty(self) -> bool:
        """Return True if the folder is empty or does not exist."""
        try:
            return next(self.root.iterdir(), None) is None
        except OSError:
            return True
