"""What a download would do, told without doing it.

Everything here blocks and belongs into worker threads: it may hash a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hftransfer._hub_compat.cache import content_etag
from hftransfer._hub_compat.content import has_content
from hftransfer._hub_compat.request import HubRequest

if TYPE_CHECKING:
    from hftransfer.stores.base import Entry

__all__ = ("DryRunFileInfo", "dry_run_info", "make_info")


@dataclass
class DryRunFileInfo:
    """Stands in for huggingface_hub's class of that name, which 0.x does not have."""

    commit_hash: str
    file_size: int | None
    filename: str
    local_path: str
    is_cached: bool
    will_download: bool


def dry_run_info(request: HubRequest, commit: str, entry: Entry) -> Any:
    """Return what a download of `entry` would find and do, in huggingface_hub's class."""
    file = request.file(commit, entry.path)
    if request.local_dir is None:
        blob = request.repo.blob(content_etag(entry))
        cached = file.exists() or blob.exists()
    else:
        cached = _is_current(request, commit, entry, file)
        cached = cached or request.repo.pointer(commit, entry.path).is_file()
    return make_info(request, commit, entry.path, size=entry.size, cached=cached)


def make_info(request: HubRequest, commit: str, path: str, *, size: int, cached: bool) -> Any:
    """Return huggingface_hub's ``DryRunFileInfo``, or ours where it has none."""
    import huggingface_hub

    cls = getattr(huggingface_hub, "DryRunFileInfo", DryRunFileInfo)
    return cls(
        commit_hash=commit,
        file_size=size,
        filename=path,
        local_path=str(request.file(commit, path)),
        is_cached=cached,
        will_download=request.force or not cached,
    )


def _is_current(request: HubRequest, commit: str, entry: Entry, file: Path) -> bool:
    assert request.local_dir is not None
    if not file.is_file():
        return False
    known = request.local_dir.read_metadata(entry.path)
    if known is None:
        return has_content(file, entry)
    return known.commit == commit or known.etag == content_etag(entry)
