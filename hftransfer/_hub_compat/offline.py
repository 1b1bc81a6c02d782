"""What a download returns when the Hub cannot be asked, or may not be.

Which refusals end in the cached copy and which are raised follows huggingface_hub: an
unreachable Hub, a private repository whose token is gone and a gated one are answered
from the disk; an unknown revision or file is not. Everything here blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from hftransfer._hub_compat.cache import read_tree
from hftransfer._hub_compat.dry_run import make_info
from hftransfer._hub_compat.request import HubRequest
from hftransfer.stores.base import Entry

__all__ = (
    "file_on_disk",
    "has_file",
    "has_snapshot",
    "known_file",
    "refuse_forced",
    "snapshot_on_disk",
)

Select: TypeAlias = Callable[[Sequence[Entry]], Sequence[Entry]]


def refuse_forced(request: HubRequest) -> None:
    """Raise ValueError if a download is forced that nothing can be downloaded for."""
    if request.force:
        raise ValueError("force_download needs the Hub: neither local_files_only nor offline mode")


def has_snapshot(request: HubRequest, select: Select) -> bool:
    """Return True if all selected files are known to be on this disk, of some version."""
    folder = _snapshot_folder(request)
    return folder is not None and _missing(request, folder, select) == []


def has_file(request: HubRequest, path: str) -> bool:
    """Return True if the file `path` is on this disk, of some version."""
    file = _cached_file(request, path)
    return file is not None and file.is_file()


def _snapshot_folder(request: HubRequest) -> Path | None:
    if request.local_dir is not None:
        return None if request.local_dir.is_empty() else request.local_dir.root
    commit = request.cached_commit
    folder = None if commit is None else request.repo.snapshot(commit)
    return folder if folder is not None and folder.is_dir() else None


def _missing(request: HubRequest, folder: Path, select: Select) -> list[str] | None:
    """Return which selected files are not in `folder`; None if no listing says what should be."""
    commit = request.cached_commit
    known = None if commit is None else read_tree(request.tree_path(commit))
    if known is None:
        return None
    return [entry.path for entry in select(known) if not (folder / entry.path).exists()]


def _cached_file(request: HubRequest, path: str) -> Path | None:
    if request.local_dir is not None:
        return request.local_dir.file(path)
    commit = request.cached_commit
    return None if commit is None else request.repo.pointer(commit, path)


def snapshot_on_disk(
    request: HubRequest,
    select: Select,
    cause: Exception | None = None,
) -> str:
    """Return the folder of the snapshot as far as it is on this disk.

    Args:
        request: what is wanted.
        select: which of its files.
        cause: why the Hub could not be asked; None if it may not be.

    Raises:
        LocalEntryNotFoundError: if there is nothing.
        IncompleteSnapshotError: if files are known to be missing (huggingface_hub >= 1.22).
        Exception: `cause`, if it is an answer that a cached copy cannot stand for.
    """
    from huggingface_hub import errors

    _raise_final(cause)
    folder = _snapshot_folder(request)
    if folder is None:
        _raise_absent(request, str(request.location()), cause)
    missing = _missing(request, folder, select)
    incomplete = getattr(errors, "IncompleteSnapshotError", None)
    if missing and incomplete is not None:
        raise incomplete(
            f"{request.location()}: {len(missing)} files are missing in {folder}, the first is "
            f"{missing[0]!r}",
            snapshot_path=str(folder),
        ) from cause
    return str(folder)


def known_file(request: HubRequest, path: str) -> Path | None:
    """Return the file `path` of a pinned commit if it is there: it cannot have changed."""
    if request.pinned is None:
        return None
    file = request.file(request.pinned, path)
    if request.local_dir is None:
        return file if file.exists() else None
    known = request.local_dir.read_metadata(path) if file.is_file() else None
    return file if known is not None and known.commit == request.pinned else None


def file_on_disk(
    request: HubRequest, path: str, *, dry_run: bool, cause: Exception | None = None
) -> Any:
    """Return the path of one file if it is on this disk, or what a dry run says of it.

    Raises:
        LocalEntryNotFoundError: if it is not.
        ValueError: if its download is forced.
        Exception: `cause`, if it is an answer that a cached copy cannot stand for.
    """
    _raise_final(cause)
    if request.force and not dry_run:
        raise ValueError("the forced download failed: the Hub cannot be asked") from cause
    file = _cached_file(request, path)
    if file is None or not file.is_file():
        _raise_absent(request, f"{request.location()}/{path}", cause)
    if not dry_run:
        return str(file)
    known = None if request.local_dir is None else request.local_dir.read_metadata(path)
    commit = request.cached_commit if known is None else known.commit
    if commit is None:
        _raise_absent(request, f"the commit of {file}", cause)
    return make_info(request, commit, path, size=file.stat().st_size, cached=True)


def _raise_final(cause: Exception | None) -> None:
    """Raise `cause` if the disk is no substitute for what the Hub said."""
    from huggingface_hub import errors

    if cause is None:
        return
    about_content = (errors.RevisionNotFoundError, errors.EntryNotFoundError)
    kept = (errors.HfHubHTTPError, ConnectionError, TimeoutError)
    if isinstance(cause, about_content) or not isinstance(cause, kept):
        raise cause


def _raise_absent(request: HubRequest, what: str, cause: Exception | None) -> NoReturn:
    from huggingface_hub import errors

    response = getattr(cause, "response", None)
    if isinstance(cause, errors.RepositoryNotFoundError) or (
        isinstance(cause, errors.HfHubHTTPError) and getattr(response, "status_code", 0) == 401
    ):
        raise cause
    where = request.repo.root if request.local_dir is None else request.local_dir.root
    why = "may not be asked (local_files_only or offline mode)"
    if cause is not None:
        why = f"cannot be asked: {cause}"
    raise errors.LocalEntryNotFoundError(f"{what} is not in {where}, and the Hub {why}") from cause
