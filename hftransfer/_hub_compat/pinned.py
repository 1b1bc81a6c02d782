"""Files of a pinned commit that are on the disk: returned without a request.

The content of a commit never changes, so the Hub need not be asked. `pinned_snapshot` is called
before anything else: this module must not import an event loop, an HTTP client or
huggingface_hub's utilities, which take longer to import than the look-up.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from hftransfer._client.selection import Patterns, path_filter
from hftransfer._hub_compat.cache import CachedRepo, is_commit
from hftransfer._hub_compat.tree import CachedTree

if TYPE_CHECKING:
    from hftransfer._hub_compat.request import DownloadRequest

__all__ = ("pinned_file", "pinned_snapshot")

_REPO_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?", re.ASCII)


def pinned_snapshot(
    repo_id: str,
    *,
    repo_type: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    force_download: bool = False,
    allow_patterns: Patterns = None,
    ignore_patterns: Patterns = None,
    dry_run: bool = False,
    **others: object,
) -> str | None:
    """Return the folder of a snapshot in the cache that certainly has all selected files.

    Args:
        repo_id, others: the arguments of ``snapshot_download``, not validated yet.

    Returns:
        The folder, or None if `revision` is not a commit, a selected file is missing, the cache
        has no listing of the commit, or the arguments are invalid or ask for a download.
    """
    if local_dir is not None or force_download or dry_run:
        return None
    if not isinstance(revision, str) or not is_commit(revision) or not isinstance(repo_id, str):
        return None
    if not _REPO_ID.fullmatch(repo_id):
        return None
    from huggingface_hub import constants

    root = Path(cache_dir or constants.HF_HUB_CACHE).expanduser().resolve()
    repo = CachedRepo(root, repo_type or "model", repo_id)
    snapshot = repo.snapshot(revision)
    if not snapshot.is_dir():
        return None
    listed = CachedTree.open(repo.tree(revision))
    if listed is None:
        return None
    selects = path_filter(allow_patterns, ignore_patterns)
    is_empty = True
    for entry in listed:
        if selects(entry.path):
            is_empty = False
            if not (snapshot / entry.path).exists():
                return None
    return None if is_empty else str(snapshot)


def pinned_file(request: DownloadRequest, path: str) -> Path | None:
    """Return the file `path` of the pinned commit of `request` if it is on the disk, else None.

    In a ``local_dir`` the file counts only if its metadata records the same commit.
    """
    if request.pinned_commit is None:
        return None
    file = request.file(request.pinned_commit, path)
    if request.local_dir is None:
        return file if file.exists() else None
    recorded = request.local_dir.read_metadata(path) if file.is_file() else None
    is_current = recorded is not None and recorded.commit == request.pinned_commit
    return file if is_current else None
