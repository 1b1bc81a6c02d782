"""`snapshot_download` and `hf_hub_download`: huggingface_hub's functions on our engine.

Signatures, results, the layout on the disk and exceptions are huggingface_hub's. Different are
the transfers: files are downloaded in parallel ranges, verified, and resumed after an
interruption.

One call goes through these steps, each of which may end it:

1. A pinned commit whose files are on the disk is returned without a request (`pinned`).
2. The arguments are validated (`request`).
3. With ``local_files_only`` or ``HF_HUB_OFFLINE`` the result comes from the disk (`offline`).
4. The Hub is asked for commit and files (`session`). If that fails, the result comes from the
   disk after all, unless the response is conclusive, such as an unknown revision (`offline`).
5. With ``dry_run`` the files are described (`dry_run`).
6. What is missing is downloaded to the cache (`cache_sink`) or to a ``local_dir``
   (`local_dir_sink`), while the further pages of the listing are requested.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

from anyio import to_thread

from hftransfer._client.selection import Patterns, Selection
from hftransfer._hub_compat.dry_run import dry_run_info
from hftransfer._hub_compat.error_mapping import raising_huggingface_errors, to_huggingface_error
from hftransfer._hub_compat.offline import (
    check_not_forced,
    has_file_on_disk,
    has_snapshot_on_disk,
    offline_file,
    offline_snapshot,
)
from hftransfer._hub_compat.pinned import pinned_file, pinned_snapshot
from hftransfer._hub_compat.progress import HubProgress
from hftransfer._hub_compat.request import (
    DownloadRequest,
    ignoring_removed_arguments,
    is_offline,
)
from hftransfer._hub_compat.session import DownloadSession
from hftransfer.errors import TransferError
from hftransfer.locations import safe_path
from hftransfer.stores.base import Entry, ListingPage
from hftransfer.stores.names import LocalNameCheck, refuse_bad_names

__all__ = ("hf_hub_download", "snapshot_download")

_logger = logging.getLogger(__name__)


@ignoring_removed_arguments
async def snapshot_download(
    repo_id: str,
    *,
    repo_type: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    library_name: str | None = None,
    library_version: str | None = None,
    user_agent: Mapping[str, str] | str | None = None,
    etag_timeout: float = 10,
    force_download: bool = False,
    token: bool | str | None = None,
    local_files_only: bool = False,
    allow_patterns: Patterns = None,
    ignore_patterns: Patterns = None,
    max_workers: int = 8,
    tqdm_class: Any = None,
    headers: Mapping[str, str] | None = None,
    endpoint: str | None = None,
    dry_run: bool = False,
) -> Any:
    """Download the files of a repository; the arguments are those of huggingface_hub.

    Args:
        repo_id: ``name`` or ``namespace/name``.
        repo_type: ``model``, ``dataset``, ``space`` or ``kernel``. Default: model.
        revision: branch, tag or commit. Default: ``main``.
        cache_dir: the cache. Default: ``HF_HUB_CACHE``.
        local_dir: write plain files to this folder instead of the cache. Default None.
        library_name, library_version, user_agent: sent in the ``User-Agent`` header.
        etag_timeout: seconds to wait for a connection. Default 10. ``HF_HUB_ETAG_TIMEOUT`` has
            precedence.
        force_download: download files that are already present. Default False.
        token: text, True (the stored token is required), False (none). Default: the stored
            token, if there is one.
        local_files_only: make no request. Default False.
        allow_patterns, ignore_patterns: see `AsyncClient.copy`. Default: all files.
        max_workers: requests in flight, unless it is huggingface_hub's default of 8; then
            ``HFTRANSFER_CONNECTIONS``, else the number adapts to the measured throughput.
        tqdm_class: makes the progress bars. Default: huggingface_hub's bars.
        headers: further headers for the Hub; other hosts do not get them.
        endpoint: base URL of the Hub. Default: ``HF_ENDPOINT``.
        dry_run: return what would be downloaded, 1 KB of memory per file. Default False.

    Returns:
        The folder of the snapshot in the cache, or `local_dir`, as an absolute path (str);
        with `dry_run` a list of ``DryRunFileInfo``, one per file.

    Raises:
        RepositoryNotFoundError, GatedRepoError, RevisionNotFoundError: as in huggingface_hub.
        LocalEntryNotFoundError: if the Hub cannot be asked and nothing is on the disk.
        DryRunError: if `dry_run` is True and the Hub cannot be asked.
        ValueError: if an argument is out of range, or contradicts another one.
        OSError: if the files cannot be written, or differ from their digests on the Hub.
    """
    find = partial(
        pinned_snapshot,
        repo_id,
        repo_type=repo_type,
        revision=revision,
        cache_dir=cache_dir,
        local_dir=local_dir,
        force_download=force_download,
        allow_patterns=allow_patterns,
        ignore_patterns=ignore_patterns,
        dry_run=dry_run,
    )
    if (found := await to_thread.run_sync(find)) is not None:
        return found
    request = await to_thread.run_sync(
        partial(
            DownloadRequest.from_arguments,
            repo_id=repo_id,
            repo_type=repo_type,
            revision=revision,
            cache_dir=cache_dir,
            local_dir=local_dir,
            library_name=library_name,
            library_version=library_version,
            user_agent=user_agent,
            etag_timeout=etag_timeout,
            force_download=force_download,
            token=token,
            headers=headers,
            endpoint=endpoint,
            max_workers=max_workers,
        )
    )
    selection = Selection(allow_patterns, ignore_patterns)
    if local_files_only or is_offline():
        check_not_forced(request)
        if dry_run:
            raise _dry_run_error(request) from None
        return await to_thread.run_sync(offline_snapshot, request, selection)
    progress = HubProgress(
        tqdm_class,
        group="huggingface_hub.snapshot_download",
        description="Downloading bytes",
        counts_files=True,
    )
    return await _download_snapshot(request, selection, progress, dry_run=dry_run)


@ignoring_removed_arguments
async def hf_hub_download(
    repo_id: str,
    filename: str,
    *,
    subfolder: str | None = None,
    repo_type: str | None = None,
    revision: str | None = None,
    library_name: str | None = None,
    library_version: str | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    user_agent: Mapping[str, str] | str | None = None,
    force_download: bool = False,
    etag_timeout: float = 10,
    token: bool | str | None = None,
    local_files_only: bool = False,
    headers: Mapping[str, str] | None = None,
    endpoint: str | None = None,
    tqdm_class: Any = None,
    dry_run: bool = False,
) -> Any:
    """Download one file of a repository; the arguments are those of huggingface_hub.

    Args:
        repo_id: ``name`` or ``namespace/name``.
        filename: path of the file in the repository, or below `subfolder`.
        subfolder: folder of the file in the repository. Default None.

    The other arguments are those of `snapshot_download`.

    Returns:
        The path of the file (str); with `dry_run` a ``DryRunFileInfo``.

    Raises:
        RepositoryNotFoundError, GatedRepoError, RevisionNotFoundError: as in huggingface_hub.
        RemoteEntryNotFoundError: if there is no such file (0.x: ``EntryNotFoundError``).
        LocalEntryNotFoundError: if the Hub cannot be asked and the file is not on the disk.
        ValueError: if an argument is out of range, or the path would leave the repository.
        OSError: if the file cannot be written, or differs from its digest on the Hub.
    """
    path = safe_path(f"{subfolder}/{filename}" if subfolder else filename)
    request = await to_thread.run_sync(
        partial(
            DownloadRequest.from_arguments,
            repo_id=repo_id,
            repo_type=repo_type,
            revision=revision,
            cache_dir=cache_dir,
            local_dir=local_dir,
            library_name=library_name,
            library_version=library_version,
            user_agent=user_agent,
            etag_timeout=etag_timeout,
            force_download=force_download,
            token=token,
            headers=headers,
            endpoint=endpoint,
        )
    )
    found = await to_thread.run_sync(pinned_file, request, path)
    if found is not None and not force_download and not dry_run:
        return str(found)
    if local_files_only or is_offline():
        return await to_thread.run_sync(partial(offline_file, request, path, dry_run=dry_run))
    progress = HubProgress(
        tqdm_class,
        group="huggingface_hub.hf_hub_download",
        description=path.rpartition("/")[2],
    )
    return await _download_file(request, path, progress, dry_run=dry_run)


async def _download_snapshot(
    request: DownloadRequest, selection: Selection, progress: HubProgress, *, dry_run: bool
) -> Any:
    """Ask the Hub for commit and files, and download the selected ones that are missing."""
    has_copy_on_disk = partial(has_snapshot_on_disk, request, selection)
    with progress, raising_huggingface_errors():
        async with DownloadSession(request, progress, has_copy_on_disk) as session:
            try:
                commit, listed = await session.list_files(cache_listing=not dry_run)
                files = _selected(listed, selection, request.repo.repo_id)
                if dry_run:
                    entries = [entry async for page in files for entry in page.entries]
                    return await to_thread.run_sync(_dry_run_infos, request, commit, entries)
                await session.download(commit, files)
            except TransferError as error:
                if error is not session.listing_error:
                    raise
                cause = to_huggingface_error(error)
                if dry_run and isinstance(cause, ConnectionError | TimeoutError):
                    raise _dry_run_error(request) from cause
                return await to_thread.run_sync(offline_snapshot, request, selection, cause)
    if request.local_dir is not None:
        return str(request.local_dir.root)  # symlinks resolved, as by huggingface_hub
    return str(request.repo.snapshot(commit))


async def _selected(
    listed: AsyncGenerator[ListingPage, None], selection: Selection, repo_id: str
) -> AsyncGenerator[ListingPage, None]:
    """Yield the selected files of each page; warn if none of a repository's files is selected."""
    files = selected = 0
    check = LocalNameCheck()
    async with aclosing(listed):
        async for page in listed:
            entries = selection.entries(page.entries)
            refuse_bad_names(repo_id, (entry.path for entry in entries), check)
            files += len(page.entries)
            selected += len(entries)
            if page.is_last and files and not selected:
                _logger.warning("No files matched the given patterns.")
            yield ListingPage(entries, page.is_last)


async def _download_file(
    request: DownloadRequest, path: str, progress: HubProgress, *, dry_run: bool
) -> Any:
    """Ask the Hub for the file at the requested revision, and download it if it is missing."""
    has_copy_on_disk = partial(has_file_on_disk, request, path)
    with progress, raising_huggingface_errors():
        async with DownloadSession(request, progress, has_copy_on_disk) as session:
            try:
                commit, entry = await session.find_file(path)
            except TransferError as error:
                await to_thread.run_sync(_record_missing, request, path, error)
                cause = to_huggingface_error(error)
                from_disk = partial(offline_file, request, path, dry_run=dry_run, cause=cause)
                return await to_thread.run_sync(from_disk)
            if dry_run:
                return await to_thread.run_sync(dry_run_info, request, commit, entry)
            await session.download(commit, [entry])
    return str(request.file(commit, path))


def _dry_run_infos(request: DownloadRequest, commit: str, entries: Sequence[Entry]) -> list[Any]:
    return [dry_run_info(request, commit, entry) for entry in entries]


def _record_missing(request: DownloadRequest, path: str, error: TransferError) -> None:
    """Record in the cache that the commit has no file `path`, if the Hub's response says so."""
    response = error.response
    if response is None or response.headers.get("X-Error-Code") != "EntryNotFound":
        return
    commit = response.headers.get("X-Repo-Commit") or request.pinned_commit
    if commit is not None and request.local_dir is None:
        try:
            request.repo.record_missing(commit, path)
        except OSError as failure:
            _logger.warning("cannot record in the cache that %s is missing: %s", path, failure)
        request.record_ref(commit)


def _dry_run_error(request: DownloadRequest) -> Exception:
    from huggingface_hub import errors

    cls: type[Exception] = getattr(errors, "DryRunError", OSError)  # since 1.0
    return cls(f"{request.location()}: a dry run needs a successful request to the Hub")
