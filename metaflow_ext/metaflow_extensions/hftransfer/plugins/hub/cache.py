"""From a request to files: from the datastore if they are stored there, else from the Hub.

On a miss the Hub is read once, and an entry is published after its last byte. A stored copy
is verified while it is read, and repaired from the Hub if it is damaged::

    load, reference → find ──────────────────────────── hit ─┐
                        │ miss                               ├→ load, outside of the lock
                    download_lock, and what others stored ───┘
                        │ miss
                    store: download into a new entry, publish → reference

`RepoTransfers` moves the bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from metaflow_extensions.hftransfer.plugins.engine.cache_key import (
    choose_entry,
    entry_metadata,
    entry_name,
    has_record,
)
from metaflow_extensions.hftransfer.plugins.engine.load_spec import (
    HuggingfaceHubError,
    RepoRequest,
)
from metaflow_extensions.hftransfer.plugins.engine.requirements import UnsupportedByEngine
from metaflow_extensions.hftransfer.plugins.hub.access import (
    DATASTORE,
    HUB,
    SIBLING,
    Access,
    TransferSummary,
)
from metaflow_extensions.hftransfer.plugins.hub.download_lock import DownloadLock, download_lock
from metaflow_extensions.hftransfer.plugins.hub.messages import Messages
from metaflow_extensions.hftransfer.plugins.hub.repair import DamagedError
from metaflow_extensions.hftransfer.plugins.hub.transfer import RepoTransfers

if TYPE_CHECKING:
    from metaflow_extensions.hftransfer.plugins.hub.checkpoint_store import (
        CheckpointStore,
        NewEntry,
    )


class _Found(NamedTuple):
    """The result of a request; the first fields are those of `Access`."""

    reference: dict[str, Any]
    cache_hit: bool
    summary: TransferSummary | None
    is_at_path: bool = True
    """False if the files are in the datastore only."""


class RepoCache:
    """The repositories of one task. Its methods may be called from several threads.

    Parameters
    ----------
    store : CheckpointStore
        The datastore's entries.
    transfers : RepoTransfers
    cache_scope : str
        ``checkpoint``, ``flow`` or ``global``.
    log : callable
        Takes one line for the task's log.
    owner : str
        ``flow/run/step/task``, equal for all attempts of the task.
    may_retry : bool, default False
        True if the task has another attempt, which resumes what a failed one leaves.
    """

    def __init__(
        self,
        store: CheckpointStore,
        transfers: RepoTransfers,
        cache_scope: str,
        log: Callable[[str], None],
        *,
        owner: str,
        may_retry: bool = False,
    ) -> None:
        self._store = store
        self._transfers = transfers
        self._cache_scope = cache_scope
        self._owner = owner
        self._log = log
        self._may_retry = may_retry
        self._listing = threading.Lock()
        """Held while entries are listed: metaflow-checkpoint's code is not thread-safe."""
        self.accesses: list[Access] = []
        """The requests so far, in the order in which they began."""

    def name(self, request: RepoRequest) -> str:
        """Return the name of the entry for `request`."""
        return entry_name(request, self._cache_scope)

    def reference(self, request: RepoRequest) -> tuple[dict[str, Any], bool]:
        """Make sure that the datastore has the files of `request`.

        Returns
        -------
        tuple
            The reference, and whether the datastore already had the files.
        """
        return self._get(request, None, "snapshot_download")

    def load(
        self, request: RepoRequest, path: str, mechanism: str = "decorator load"
    ) -> tuple[dict[str, Any], bool]:
        """Load the files of `request` to the folder `path`; store them if they are not stored.

        Other files in `path` are neither changed nor stored.

        Returns
        -------
        tuple
            The reference, and whether the files came from the datastore.
        """
        return self._get(request, path, mechanism)

    def _get(
        self, request: RepoRequest, path: str | None, mechanism: str
    ) -> tuple[dict[str, Any], bool]:
        access = Access(request, mechanism, path)
        self.accesses.append(access)
        messages = Messages(self._log, access)
        try:
            found = self._find_and_load(request, path, messages)
        except BaseException as error:
            access.fail(error)
            raise
        summary = found.summary and replace(found.summary, seconds=messages.seconds)
        messages.done(found.reference, summary)
        stored_at = self._origin(found.reference)
        access.finish(found.reference, found.cache_hit, summary, stored_at)
        return found.reference, found.cache_hit

    def _find_and_load(self, request: RepoRequest, path: str | None, messages: Messages) -> _Found:
        unusable: set[str] = set()
        found: _Found | None = None
        while found is None:
            reference = self._find(request, unusable, may_be_larger=path is not None)
            if reference is None:
                reference, found = self._find_or_store(request, path, messages, unusable)
            if reference is not None and found is None:
                found = self._load(request, reference, path, messages)
                if found is None:
                    unusable.add(reference["key"])
        if found.summary is not None and not found.is_at_path and path is not None:
            # From the datastore, where the files are now, with no lock held.
            self._transfers.load(request, found.reference, path)
        return found

    def _origin(self, reference: dict[str, Any]) -> str:
        """Return where a stored entry is: in the folder of this task, or in a sibling's."""
        return DATASTORE if self._store.is_own(reference["key"]) else SIBLING

    def _find(
        self, request: RepoRequest, unusable: set[str], *, may_be_larger: bool
    ) -> dict[str, Any] | None:
        """Return the reference of a stored entry.

        Parameters
        ----------
        request : RepoRequest
        unusable : set of str
            Keys of entries that are damaged beyond repair.
        may_be_larger : bool
            An entry of the whole repository is accepted for a part of it.
        """
        if request.force_download:
            return None
        found = choose_entry(self._list(request, unusable), request)
        if found is None and may_be_larger:
            found = self._find_whole(request, unusable)
        if found is None and request.local_files_only:
            what = "is damaged there" if unusable else "is not in the datastore"
            raise HuggingfaceHubError(
                f"{request.repo_id} {what}, and local_files_only=True forbids the download."
            )
        return found

    def _find_whole(self, request: RepoRequest, unusable: set[str]) -> dict[str, Any] | None:
        """Return the reference of an entry with all files of the repository, for a part of it."""
        whole = request.whole
        if whole == request or request.force_download:
            return None
        entries = self._list(whole, unusable)
        return choose_entry([entry for entry in entries if has_record(entry)], whole)

    def _list(self, request: RepoRequest, unusable: set[str]) -> list[dict[str, Any]]:
        with self._listing:
            entries = self._store.find(self.name(request))
        return [entry for entry in entries if entry["key"] not in unusable]

    def _load(
        self, request: RepoRequest, reference: dict[str, Any], path: str | None, messages: Messages
    ) -> _Found | None:
        """Load a stored entry; None if it is damaged and cannot be repaired."""
        if path is None:
            return _Found(reference, cache_hit=True, summary=None)
        origin = self._origin(reference)
        messages.begins(origin, stores=False)
        try:
            summary = self._transfers.load(request, reference, path)
        except DamagedError as error:
            if request.local_files_only:
                raise HuggingfaceHubError(
                    f"The stored copy of {request.repo_id} is damaged ({error}), and "
                    "local_files_only=True forbids another download."
                ) from error
            self._log(
                f"The stored copy of {request.repo_id} is damaged ({error}). "
                "Downloading it from huggingface again"
            )
            return None
        return _Found(reference, cache_hit=True, summary=replace(summary, origin=origin))

    def _find_or_store(
        self, request: RepoRequest, path: str | None, messages: Messages, unusable: set[str]
    ) -> tuple[dict[str, Any] | None, _Found | None]:
        """Return the reference of what another task has stored meanwhile, or store it.

        The lock is held for the second only: the tasks that waited load at the same time.
        """

        def is_usable(reference: dict[str, Any]) -> bool:
            return reference["key"] not in unusable and self._store.exists(reference)

        with download_lock(
            self._store, request, owner=self._owner, is_usable=is_usable, log=self._log
        ) as lock:
            stored = lock.stored
            if stored is not None and is_usable(stored):
                if not self._store.is_own(stored["key"]):
                    # The entry of a sibling, such as another task of a foreach.
                    self._store.refer(self.name(request), stored)
                return stored, None
            if lock.waited and not request.force_download:
                reference = choose_entry(self._list(request, unusable), request)
                if reference is not None:
                    return reference, None
            return None, self._store_new(request, path, messages, unusable, lock)

    def _store_new(
        self,
        request: RepoRequest,
        path: str | None,
        messages: Messages,
        unusable: set[str],
        lock: DownloadLock,
    ) -> _Found:
        """Store the files in a new entry, and in the folder `path` where one pass can do both."""
        whole = self._find_whole(request, unusable)
        with (
            _rollback_on_sigterm(),
            self._store.new_entry(
                self.name(request), lock.flight, may_retry=self._may_retry
            ) as entry,
        ):
            summary = None if whole is None else self._copy(request, entry, whole, messages)
            cache_hit = summary is not None
            if summary is None:
                messages.begins(HUB, stores=True)
                summary = self._download(request, path, entry, lock)
            reference = self._publish(entry, request, summary, with_arguments=path is not None)
            lock.keep(reference)
        is_at_path = not cache_hit and (entry.staged or not self._store.access.is_local)
        return _Found(reference, cache_hit, summary, is_at_path)

    def _copy(
        self, request: RepoRequest, entry: NewEntry, whole: dict[str, Any], messages: Messages
    ) -> TransferSummary | None:
        """Copy a part of the entry `whole` of this datastore; None if that is damaged."""
        origin = self._origin(whole)
        messages.begins(origin, stores=True)
        try:
            return replace(self._transfers.copy(request, entry, whole), origin=origin)
        except DamagedError as error:
            self._log(f"Cannot use the stored copy {whole['key']}: {error}")
            return None

    def _download(
        self, request: RepoRequest, path: str | None, entry: NewEntry, lock: DownloadLock
    ) -> TransferSummary:
        from hftransfer.errors import DiskFullError, TransferError

        try:
            return self._transfers.download(request, entry, path)
        except DiskFullError:
            # Of the local disk. What the datastore has is used by the next task that needs it.
            entry.kept = True
            with suppress(TransferError, UnsupportedByEngine):
                summary = self._transfers.complete(request, entry)
                if summary is not None:
                    lock.keep(self._publish(entry, request, summary, with_arguments=True))
            raise

    def _publish(
        self,
        entry: NewEntry,
        request: RepoRequest,
        summary: TransferSummary,
        *,
        with_arguments: bool,
    ) -> dict[str, Any]:
        manifest = summary.manifest
        if not manifest["files"]:
            raise HuggingfaceHubError(
                f"No file of {request.repo_id} is selected by allow_patterns="
                f"{request.allow_patterns!r}, ignore_patterns={request.ignore_patterns!r}."
            )
        metadata = entry_metadata(request, manifest["commit"], with_arguments=with_arguments)
        return self._store.publish(entry, manifest, metadata)


def _rollback_on_sigterm() -> AbstractContextManager[None]:
    """Let SIGTERM raise an exception in the block, so that the new entry is removed."""
    from hftransfer._io.signals import terminable

    return terminable()
