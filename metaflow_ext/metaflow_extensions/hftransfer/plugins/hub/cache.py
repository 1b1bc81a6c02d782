"""From a request to files: from the datastore if they are stored there, else from the Hub.

On a miss the Hub is read once, and an entry is published after its last byte. A stored copy
is verified while it is read, and repaired from the Hub if it is damaged::

    load, reference → _from_datastore: find, load, repair ───── hit ─┐
                          │ miss                                     │
                      _download_lock, and again _from_datastore ─────┤
                          │ miss                                     │
                      _from_hub: download into a new entry, publish ─┴→ reference

`RepoTransfers` moves the bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from metaflow_extensions.hftransfer.plugins.engine.cache_key import (
    choose_entry,
    entry_metadata,
    entry_name,
)
from metaflow_extensions.hftransfer.plugins.engine.load_spec import (
    HuggingfaceHubError,
    RepoRequest,
)
from metaflow_extensions.hftransfer.plugins.hub.access import (
    DATASTORE,
    HUB,
    Access,
    TransferSummary,
)
from metaflow_extensions.hftransfer.plugins.hub.download_lock import DownloadLock, download_lock
from metaflow_extensions.hftransfer.plugins.hub.messages import Messages
from metaflow_extensions.hftransfer.plugins.hub.transfer import (
    DamagedError,
    RepoTransfers,
)

if TYPE_CHECKING:
    from metaflow_extensions.hftransfer.plugins.hub.checkpoint_store import (
        CheckpointStore,
        NewEntry,
    )


class _Found(NamedTuple):
    """The result of a request; the fields are those of `Access`."""

    reference: dict[str, Any]
    cache_hit: bool
    summary: TransferSummary | None


class RepoCache:
    """The repositories of one task. Its methods may be called from several threads.

    Parameters
    ----------
    store : CheckpointStore
        The datastore's entries.
    transfers : RepoTransfers
    cache_scope : str
        ``checkpoint``, ``flow`` or ``global``.
    step : str
        ``flow/run/step``: the tasks of one step share what they download.
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
        step: str,
        log: Callable[[str], None],
        *,
        owner: str,
        may_retry: bool = False,
    ) -> None:
        self._store = store
        self._transfers = transfers
        self._cache_scope = cache_scope
        self._step = step
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
            found = self._from_datastore(request, path, messages)
            if found is None:
                with self._download_lock(request) as lock:
                    if lock.waited:  # the task that held it may have stored the files
                        found = self._from_datastore(request, path, messages)
                    if found is None:
                        found = self._from_hub(request, path, messages, lock)
        except BaseException as error:
            access.fail(error)
            raise
        summary = found.summary and replace(found.summary, seconds=messages.seconds)
        messages.done(found.reference, summary)
        access.finish(found.reference, found.cache_hit, summary)
        return found.reference, found.cache_hit

    def _from_datastore(
        self, request: RepoRequest, path: str | None, messages: Messages
    ) -> _Found | None:
        """Find the stored entry and load it; None if there is none that can be used."""
        reference = self._find(request)
        if reference is None:
            return None
        if path is None:
            return _Found(reference, cache_hit=True, summary=None)
        messages.begins(DATASTORE, stores=False)
        summary = self._load_or_repair(request, reference, path)
        return None if summary is None else _Found(reference, cache_hit=True, summary=summary)

    def _find(self, request: RepoRequest) -> dict[str, Any] | None:
        if request.force_download:
            return None
        with self._listing:
            found = choose_entry(self._store.find(self.name(request)), request)
        if found is None and request.local_files_only:
            raise HuggingfaceHubError(
                f"{request.repo_id} is not in the datastore, and local_files_only=True forbids "
                "the download."
            )
        return found

    def _load_or_repair(
        self, request: RepoRequest, reference: dict[str, Any], path: str
    ) -> TransferSummary | None:
        """Load a stored entry; None if it is damaged and cannot be repaired."""
        try:
            return self._transfers.load(request, reference, path)
        except DamagedError as error:
            if request.local_files_only:
                raise HuggingfaceHubError(
                    f"The stored copy of {request.repo_id} is damaged ({error}), and "
                    "local_files_only=True forbids another download."
                ) from error
            if not self._transfers.repair(request, reference, error):
                self._log(
                    f"The stored copy of {request.repo_id} is damaged ({error}). "
                    "Downloading it from huggingface again"
                )
                return None
        return self._transfers.load(request, reference, path)

    def _from_hub(
        self,
        request: RepoRequest,
        path: str | None,
        messages: Messages,
        lock: DownloadLock,
    ) -> _Found:
        """Download the files into a new entry and, if given, into the folder `path`."""
        with _rollback_on_sigterm(), self._new_entry(request) as entry:
            sibling = lock.sibling_entry()
            summary = self._transfers.download(
                request, entry, path, sibling, begins=partial(messages.begins, stores=True)
            )
            reference = self._publish(entry, request, summary, with_arguments=path is not None)
            lock.record(reference)
        return _Found(reference, cache_hit=summary.origin != HUB, summary=summary)

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

    def _new_entry(self, request: RepoRequest) -> AbstractContextManager[NewEntry]:
        return self._store.new_entry(self.name(request), keep_on_error=self._may_retry)

    def _download_lock(self, request: RepoRequest) -> AbstractContextManager[DownloadLock]:
        return download_lock(
            self._store,
            request,
            step=self._step,
            owner=self._owner,
            cache_scope=self._cache_scope,
            log=self._log,
        )


def _rollback_on_sigterm() -> AbstractContextManager[None]:
    """Let SIGTERM raise an exception in the block, so that the new entry is removed."""
    from hftransfer._io.signals import terminable

    return terminable()
