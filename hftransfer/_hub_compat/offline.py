"""Results from the disk when the Hub may not be asked, or cannot answer.

Which errors lead to the cached copy follows huggingface_hub: for an unreachable Hub, a private
repository without its token and a gated one it is returned; for an unknown revision or file the
error is raised. Everything here blocks and belongs in worker threads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from hftransfer._client.selection import Selection, path_filter
from hftransfer._hub_compat.dry_run import make_info
from hftransfer._hub_compat.request import DownloadRequest
from hftransfer._hub_compat.tree import CachedTree

__all__ = (
    "check_not_forced",
    "has_file_on_disk",
    "has_snapshot_on_disk",
    "offline_file",
    "offline_snapshot",
)


def check_not_forced(request: DownloadRequest, cause: Exception | None = None) -> None:
    """Raise ValueError if `request` forces a download, which is impossible without the Hub.

    Args:
        request: of the download.
        cause: the error of the request to the Hub; None if the Hub may not be asked.
    """
    if not request.force:
        return
    if cause is None:
        raise ValueError("force_download cannot be combined with local_files_only or offline mode")
    raise ValueError("force_download failed, because the request to the Hub failed") from cause


def has_snapshot_on_disk(request: DownloadRequest, selection: Selection) -> bool:
    """Return True if every selected file of the last known commit is on the disk."""
    folder = _snapshot_folder(request)
    return folder is not None and _missing_files(request, folder, selection) == []


def has_file_on_disk(request: DownloadRequest, path: str) -> bool:
    """Return True if the file `path` of the last known commit is on the disk."""
    file = _file_of_known_commit(request, path)
    return file is not None and file.is_file()


def offline_snapshot(
    request: DownloadRequest, selection: Selection, cause: Exception | None = None
) -> str:
    """Return the folder of the snapshot that is on the disk.

    Args:
        request: of the download.
        selection: which files must be present.
        cause: the error of the request to the Hub; None if the Hub may not be asked.

    Raises:
        LocalEntryNotFoundError: if there is no snapshot.
        IncompleteSnapshotError: if selected files are missing (huggingface_hub >= 1.22).
        Exception: `cause`, if the cached copy must not replace that response.
    """
    from huggingface_hub import errors

    _raise_if_conclusive(cause)
    folder = _snapshot_folder(request)
    if folder is None:
        _raise_not_on_disk(request, str(request.location()), cause)
    missing = _missing_files(request, folder, selection)
    incomplete = getattr(errors, "IncompleteSnapshotError", None)
    if missing and incomplete is not None:
        raise incomplete(
            f"{request.location()}: {len(missing)} of the selected files missing in {folder}, the "
            f"first is {missing[0]!r}",
            snapshot_path=str(folder),
        ) from cause
    return str(folder)


def offline_file(
    request: DownloadRequest, path: str, *, dry_run: bool, cause: Exception | None = None
) -> Any:
    """Return the path of one file that is on the disk, or with `dry_run` its ``DryRunFileInfo``.

    Args:
        request: of the download.
        path: of the file in the repository.
        dry_run: as in `hf_hub_download`.
        cause: the error of the request to the Hub; None if the Hub may not be asked.

    Raises:
        LocalEntryNotFoundError: if the file is not on the disk.
        ValueError: if `request` forces a download.
        Exception: `cause`, if the cached copy must not replace that response.
    """
    _raise_if_conclusive(cause)
    if not dry_run:
        check_not_forced(request, cause)
    file = _file_of_known_commit(request, path)
    if file is None or not file.is_file():
        _raise_not_on_disk(request, f"{request.location()}/{path}", cause)
    if not dry_run:
        return str(file)
    recorded = None if request.local_dir is None else request.local_dir.read_metadata(path)
    commit = request.cached_commit if recorded is None else recorded.commit
    if commit is None:
        _raise_not_on_disk(request, f"the commit of {file}", cause)
    return make_info(request, commit, path, size=file.stat().st_size, is_cached=True)


def _snapshot_folder(request: DownloadRequest) -> Path | None:
    if request.local_dir is not None:
        return None if request.local_dir.is_empty() else request.local_dir.root
    commit = request.cached_commit
    folder = None if commit is None else request.repo.snapshot(commit)
    return folder if folder is not None and folder.is_dir() else None


def _missing_files(
    request: DownloadRequest, folder: Path, selection: Selection
) -> list[str] | None:
    """Return the selected files that are not in `folder`; None if no listing is cached."""
    commit = request.cached_commit
    listed = None if commit is None else CachedTree.open(request.tree_path(commit))
    if listed is None:
        return None
    selects = path_filter(selection.allow, selection.ignore)
    return [
        entry.path for entry in listed if selects(entry.path) and not (folder / entry.path).exists()
    ]


def _file_of_known_commit(request: DownloadRequest, path: str) -> Path | None:
    if request.local_dir is not None:
        return request.local_dir.file(path)
    commit = request.cached_commit
    return None if commit is None else request.repo.pointer(commit, path)


def _raise_if_conclusive(cause: Exception | None) -> None:
    """Raise `cause` unless it is a refusal or failure that the cached copy may replace.

    A missing revision or file is conclusive, and so is an error that is not about the request.
    """
    from huggingface_hub import errors

    if cause is None:
        return
    about_content = (errors.RevisionNotFoundError, errors.EntryNotFoundError)
    replaceable = (errors.HfHubHTTPError, ConnectionError, TimeoutError)
    if isinstance(cause, about_content) or not isinstance(cause, replaceable):
        raise cause


def _raise_not_on_disk(request: DownloadRequest, what: str, cause: Exception | None) -> NoReturn:
    """Raise LocalEntryNotFoundError, or `cause` if it says that access to `what` is denied."""
    from huggingface_hub import errors

    response = getattr(cause, "response", None)
    if isinstance(cause, errors.RepositoryNotFoundError) or (
        isinstance(cause, errors.HfHubHTTPError) and getattr(response, "status_code", 0) == 401
    ):
        raise cause
    folder = request.repo.root if request.local_dir is None else request.local_dir.root
    reason = "local_files_only or offline mode forbids requests to the Hub"
    if cause is not None:
        reason = f"the request to the Hub failed: {cause}"
    raise errors.LocalEntryNotFoundError(f"{what} is not in {folder}, and {reason}") from cause
