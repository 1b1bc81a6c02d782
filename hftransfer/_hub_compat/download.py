"""`snapshot_download` and `hf_hub_download` as huggingface_hub has them.

Signatures, results, layout on the disk and exceptions are huggingface_hub's. What differs:
the bytes come in parallel ranges, are verified, and an interrupted download is resumed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from anyio import to_thread

from hftransfer._client.selection import Patterns, select_entries
from hftransfer._hub_compat.dry_run import dry_run_info
from hftransfer._hub_compat.error_mapping import hub_error, raising_hub_errors
from hftransfer._hub_compat.offline import (
    Select,
    file_on_disk,
    has_file,
    has_snapshot,
    known_file,
    refuse_forced,
    snapshot_on_disk,
)
from hftransfer._hub_compat.pinned import pinned_snapshot
from hftransfer._hub_compat.progress import HubProgress
from hftransfer._hub_compat.request import HubRequest, dropping_removed_arguments, is_offline
from hftransfer._hub_compat.session import HubSession
from hftransfer.errors import TransferError
from hftransfer.locations import safe_path

__all__ = ("hf_hub_download", "snapshot_download")

logger = logging.getLogger(__name__)


@dropping_removed_arguments
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
    """Download all files of a repository; the arguments are huggingface_hub's.

    Args:
        max_workers: connections, where it is not huggingface_hub's default of 8.

    Returns:
        The folder of the snapshot in the cache, or `local_dir`, as a string; with `dry_run`
        a list of ``DryRunFileInfo``, one for each file.

    Raises:
        RepositoryNotFoundError, GatedRepoError, RevisionNotFoundError: as the Hub says.
        LocalEntryNotFoundError: if the Hub cannot be asked and nothing is on the disk.
        DryRunError: if it cannot be asked what a dry run would do.
        ValueError: if an argument is out of range, or contradicts another one.
        OSError: if the files cannot be written, or do not arrive as the Hub describes them.
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
            HubRequest.make,
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
    select = partial(select_entries, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
    if local_files_only or is_offline():
        refuse_forced(request)
        if dry_run:
            raise _dry_run_error(request) from None
        return await to_thread.run_sync(snapshot_on_disk, request, select)
    progress = HubProgress(
        tqdm_class,
        group="huggingface_hub.snapshot_download",
        description="Downloading bytes",
        counts_files=True,
    )
    return await _fetch_snapshot(request, select, progress, dry_run=dry_run)


@dropping_removed_arguments
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
    """Download one file of a repository; the arguments are huggingface_hub's.

    Returns:
        The path of the file as a string; with `dry_run` a ``DryRunFileInfo``.

    Raises:
        RepositoryNotFoundError, GatedRepoError, RevisionNotFoundError: as the Hub says.
        RemoteEntryNotFoundError: if there is no such file (0.x: ``EntryNotFoundError``).
        LocalEntryNotFoundError: if the Hub cannot be asked and the file is not on the disk.
        ValueError: if an argument is out of range, or the file's name would leave its folder.
        OSError: if the file cannot be written, or does not arrive as the Hub describes it.
    """
    path = safe_path(f"{subfolder}/{filename}" if subfolder else filename)
    request = await to_thread.run_sync(
        partial(
            HubRequest.make,
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
    known = await to_thread.run_sync(known_file, request, path)
    if known is not None and not force_download and not dry_run:
        return str(known)
    if local_files_only or is_offline():
        return await to_thread.run_sync(partial(file_on_disk, request, path, dry_run=dry_run))
    progress = HubProgress(
        tqdm_class,
        group="huggingface_hub.hf_hub_download",
        description=path.rpartition("/")[2],
    )
    return await _fetch_file(request, path, progress, dry_run=dry_run)


async def _fetch_snapshot(
    request: HubRequest, select: Select, progress: HubProgress, *, dry_run: bool
) -> Any:
    """Ask the Hub what the snapshot is, and bring what is missing of it."""
    has_copy = partial(has_snapshot, request, select)
    with progress, raising_hub_errors():
        async with HubSession(request, progress, has_copy) as session:
            try:
                commit, listed = await session.list(keep=not dry_run)
            except TransferError as error:
                cause = hub_error(error)
                if dry_run and isinstance(cause, ConnectionError | TimeoutError):
                    raise _dry_run_error(request) from cause
                return await to_thread.run_sync(snapshot_on_disk, request, select, cause)
            entries = select(listed)
            if listed and not entries:
                logger.warning("No files matched the given patterns.")
            if dry_run:
                return await to_thread.run_sync(
                    lambda: [dry_run_info(request, commit, entry) for entry in entries]
                )
            await session.fetch(commit, entries)
    if request.local_dir is not None:
        return str(request.local_dir.root)  # resolved, as huggingface_hub's
    return str(request.repo.snapshot(commit))


async def _fetch_file(
    request: HubRequest, path: str, progress: HubProgress, *, dry_run: bool
) -> Any:
    """Ask the Hub what the file is, and bring it if it is not there."""
    with progress, raising_hub_errors():
        async with HubSession(request, progress, partial(has_file, request, path)) as session:
            try:
                commit, entry = await session.find(path)
            except TransferError as error:
                await to_thread.run_sync(_remember_missing, request, path, error)
                on_disk = partial(file_on_disk, dry_run=dry_run, cause=hub_error(error))
                return await to_thread.run_sync(on_disk, request, path)
            if dry_run:
                return await to_thread.run_sync(dry_run_info, request, commit, entry)
            await session.fetch(commit, [entry])
    return str(request.file(commit, path))


def _remember_missing(request: HubRequest, path: str, error: TransferError) -> None:
    """Note in the cache that a commit has no such file, if that is what the Hub said."""
    response = error.response
    if response is None or response.headers.get("X-Error-Code") != "EntryNotFound":
        return
    commit = response.headers.get("X-Repo-Commit") or request.pinned
    if commit is not None and request.local_dir is None:
        try:
            request.repo.mark_missing(commit, path)
        except OSError as failure:
            logger.warning("cannot note that %s is missing: %s", path, failure)
        request.remember_ref(commit)


def _dry_run_error(request: HubRequest) -> Exception:
    from huggingface_hub import errors

    cls: type[Exception] = getattr(errors, "DryRunError", OSError)  # since 1.0
    return cls(f"{request.location()}: what would be downloaded only the Hub knows")
