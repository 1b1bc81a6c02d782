"""`dry_run`: what a download would do, without doing it.

Everything here blocks and belongs in worker threads: it may hash a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hftransfer._hub_compat.cache import content_etag
from hftransfer._hub_compat.content import has_content
from hftransfer._hub_compat.request import DownloadRequest
from hftransfer._io.file_range import HASH_WINDOW_SIZE
from hftransfer.stores.base import Entry

__all__ = ("DryRunFileInfo", "dry_run_info", "make_info")


@dataclass
class DryRunFileInfo:
    """Replaces huggingface_hub's class of this name, which 0.x does not have."""

    commit_hash: str
    file_size: int | None
    filename: str
    local_path: str
    is_cached: bool
    will_download: bool


def dry_run_info(request: DownloadRequest, commit: str, entry: Entry) -> Any:
    """Return the ``DryRunFileInfo`` of a download of `entry`, after looking for it on the disk."""
    file = request.file(commit, entry.path)
    if request.local_dir is None:
        blob = request.repo.blob(content_etag(entry))
        is_cached = file.exists() or blob.exists()
    else:
        is_cached = _is_current(request, commit, entry, file)
        is_cached = is_cached or request.repo.pointer(commit, entry.path).is_file()
    return make_info(request, commit, entry.path, size=entry.size, is_cached=is_cached)


def make_info(
    request: DownloadRequest, commit: str, path: str, *, size: int, is_cached: bool
) -> Any:
    """Return a ``DryRunFileInfo``: huggingface_hub's class, or ours where it has none."""
    import huggingface_hub

    cls = getattr(huggingface_hub, "DryRunFileInfo", DryRunFileInfo)
    return cls(
        commit_hash=commit,
        file_size=size,
        filename=path,
        local_path=str(request.file(commit, path)),
        is_cached=is_cached,
        will_download=request.force or not is_cached,
    )


def _is_current(request: DownloadRequest, commit: str, entry: Entry, file: Path) -> bool:
    """Return True if `file` in the ``local_dir`` has the content of `entry`."""
    assert request.local_dir is not None
    if not file.is_file():
        return False
    recorded = request.local_dir.read_metadata(entry.path)
    if recorded is None:
        return has_content(file, entry, memoryview(bytearray(HASH_WINDOW_SIZE)))
    return recorded.commit == commit or recorded.etag == content_etag(entry)
