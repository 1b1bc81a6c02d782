"""A snapshot of a pinned commit that is complete in the cache: found without anything heavy.

A commit cannot change, so nobody need be asked, and neither an event loop nor a client
nor huggingface_hub's utilities are loaded to return a path.
"""

from __future__ import annotations

import re
from pathlib import Path

from hftransfer._client.selection import Patterns, select_entries
from hftransfer._hub_compat.cache import RepoCache, is_commit, read_tree

__all__ = ("pinned_snapshot",)

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
    """Return the folder of a snapshot of which nothing is missing; None if that is not certain.

    Args:
        repo_id and all others: those of ``snapshot_download``, which checks them if need be.
    """
    if local_dir is not None or force_download or dry_run:
        return None
    if not isinstance(revision, str) or not is_commit(revision) or not isinstance(repo_id, str):
        return None
    if not _REPO_ID.fullmatch(repo_id):
        return None
    from huggingface_hub import constants

    root = Path(cache_dir or constants.HF_HUB_CACHE).expanduser().resolve()
    repo = RepoCache(root, repo_type or "model", repo_id)
    snapshot = repo.snapshot(revision)
    if not snapshot.is_dir():
        return None
    known = read_tree(repo.tree(revision))
    if known is None:
        return None
    wanted = select_entries(known, allow_patterns, ignore_patterns)
    complete = wanted and all((snapshot / entry.path).exists() for entry in wanted)
    return str(snapshot) if complete else None
