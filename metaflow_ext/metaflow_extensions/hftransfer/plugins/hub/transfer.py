"""Transfers of whole repositories between the Hub, the datastore and local folders.

The engine does the work. Where it cannot be used, `requests_fallback` downloads and
Metaflow's own code reads the datastore, more slowly.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from metaflow_extensions.hftransfer.plugins.engine.manifests import (
    is_manifest,
    manifest_path,
    recorded_files,
)
from metaflow_extensions.hftransfer.plugins.engine.progress import TransferProgress
from metaflow_extensions.hftransfer.plugins.engine.requirements import UnsupportedByEngine
from metaflow_extensions.hftransfer.plugins.engine.task_log import log_once
from metaflow_extensions.hftransfer.plugins.hub.access import HUB, SIBLING, TransferSummary

if TYPE_CHECKING:
    from metaflow_extensions.hftransfer.plugins.engine.load_spec import RepoRequest
    from metaflow_extensions.hftransfer.plugins.hub.checkpoint_store import (
        CheckpointStore,
        NewEntry,
    )


class DamagedError(Exception):
    """A stored copy is incomplete or wrong; the message says how."""


class RepoTransfers:
    """The transfers of one task.

    Parameters
    ----------
    store : CheckpointStore
        The entries that are read and written.
    log : callable
        Takes one line for the task's log.
    watch : callable, optional
        Called with the `TransferProgress` of each transfer before it starts.
    links : bool, default False
        Loads from a local datastore make symbolic links.
    interval : float, default 10.0
        Seconds between progress lines.
    """

    def __init__(
        self,
        store: CheckpointStore,
        log: Callable[[str], None],
        *,
        watch: Callable[[TransferProgress], None] | None = None,
        links: bool = False,
        interval: float = 10.0,
    ) -> None:
        self._store = store
        self._access = store.access
        self._log = log
        self._watch = watch
        self._links = links
        self._interval = interval

    def load(self, request: RepoRequest, reference: dict[str, Any], path: str) -> TransferSummary:
        """Load the stored entry `reference` to the folder `path`.

        Raises
        ------
        DamagedError
            If the entry is incomplete or wrong.
        """
        if not self._store.is_folder(reference):
            return self._load_archive(reference, path)
        document = self._read_manifest(reference["key"])
        try:
            return self._load_with_engine(request.label, reference, path, document)
        except UnsupportedByEngine as reason:
            log_once(reason.log_line)
            return self._load_with_metaflow(reference, path, document)

    def download(
        self,
        request: RepoRequest,
        entry: NewEntry,
        path: str | None,
        sibling: dict[str, Any] | None = None,
        begins: Callable[[str], None] = lambda origin: None,
    ) -> TransferSummary:
        """Download a repository into the new `entry` and, if given, into the folder `path`.

        Parameters
        ----------
        request : RepoRequest
        entry : NewEntry
        path : str, optional
        sibling : dict, optional
            Reference of an entry with the same files, which is read in place of the Hub.
        begins : callable, optional
            Called with the origin of the files before they are transferred.
        """
        try:
            self._access.jobs(local_only=entry.staged)
        except UnsupportedByEngine as reason:
            log_once(reason.log_line)
            begins(HUB)
            return self._download_with_requests(request, entry, path)
        if sibling is not None:
            try:
                begins(SIBLING)
                return self._copy_sibling(request, entry, path, sibling)
            except DamagedError as error:
                self._log(f"Cannot use another task's copy of {request.repo_id}: {error}")
        begins(HUB)
        return self._download_with_engine(request, entry, path)

    def repair(self, request: RepoRequest, reference: dict[str, Any], error: Exception) -> bool:
        """Download what is wrong with `reference` from the Hub again; False if impossible."""
        from metaflow_extensions.hftransfer.plugins.hub.repair import repair

        try:
            with self._progress(request.label) as progress:
                return repair(
                    self._access,
                    reference["key"],
                    error,
                    self._log,
                    hub=dict(request.hub),
                    observer=progress,
                )
        except UnsupportedByEngine:
            return False

    def _load_with_engine(
        self, what: str, reference: dict[str, Any], path: str, document: Any
    ) -> TransferSummary:
        from hftransfer import LocationError

        source, target = self._access.location(reference["key"]), os.path.abspath(path)
        verified = _how_verified(document)
        started = time.monotonic()
        try:
            with self._progress(what) as progress, _as_damage():
                jobs = self._access.jobs(progress)
                fetched = None
                cloned = self._clone(source, target, document)
                if not cloned:
                    report = jobs.load(
                        source, target, document=document, size=reference.get("size")
                    )
                    fetched = report.bytes
                    document = document or report.manifest.to_dict()
        except LocationError as error:
            raise UnsupportedByEngine(str(error)) from error
        seconds = time.monotonic() - started
        return TransferSummary.of(document, fetched, seconds, verified, cloned=cloned)

    def _load_with_metaflow(
        self, reference: dict[str, Any], path: str, document: Any
    ) -> TransferSummary:
        from metaflow_extensions.hftransfer.plugins.engine.file_digests import WrongFileError

        started = time.monotonic()
        try:
            self._store.load(reference, path)  # which verifies the recorded files
        except WrongFileError as error:
            raise DamagedError(str(error)) from error
        seconds = time.monotonic() - started
        if recorded_files(document):
            return TransferSummary.of(
                document, int(reference.get("size") or 0), seconds, "every file verified"
            )
        return _unverified(reference, seconds, document or {"files": {}, "commit": None})

    def _load_archive(self, reference: dict[str, Any], path: str) -> TransferSummary:
        """Load an entry that metaflow-checkpoint stored as an archive."""
        started = time.monotonic()
        self._store.load(reference, path)
        return _unverified(reference, time.monotonic() - started, {})

    def _download_with_engine(
        self, request: RepoRequest, entry: NewEntry, path: str | None
    ) -> TransferSummary:
        # On a local datastore the repository is written once, and the folder gets clones.
        is_local = self._access.is_local and not entry.staged
        folders = [entry.location] if is_local else [*_absolute(path), entry.location]
        with self._progress(request.label) as progress:
            jobs = self._access.jobs(progress, local_only=entry.staged)
            report = jobs.download(request, folders)
        document = report.manifest.to_dict()
        if is_local and path is not None and document["files"]:
            target = os.path.abspath(path)
            if not self._clone(entry.location, target, document):
                self._access.jobs().load(entry.location, target, document=document)
        return TransferSummary.of(
            document, report.bytes, report.seconds, "every file verified", origin=HUB
        )

    def _download_with_requests(
        self, request: RepoRequest, entry: NewEntry, path: str | None
    ) -> TransferSummary:
        from metaflow_extensions.hftransfer.plugins.hub.requests_fallback import download

        document, seconds = download(request, [entry.location, *_absolute(path)])
        return TransferSummary.of(document, None, seconds, "every file verified", origin=HUB)

    def _copy_sibling(
        self, request: RepoRequest, entry: NewEntry, path: str | None, sibling: dict[str, Any]
    ) -> TransferSummary:
        """Copy the entry of another task.

        Raises
        ------
        DamagedError
            If that entry is incomplete or wrong, or has no manifest.
        """
        document = self._read_manifest(sibling["key"])
        if not is_manifest(document):
            raise DamagedError("it has no manifest")
        with self._progress(request.label) as progress, _as_damage():
            report = self._access.jobs(progress).load(
                self._access.location(sibling["key"]),
                entry.location,
                document=document,
                also=_absolute(path),
            )
        return TransferSummary.of(
            document, report.bytes, report.seconds, "every chunk verified", origin=SIBLING
        )

    def _clone(self, source: str, target: str, document: Any) -> bool:
        """Clone or link the files of a local datastore; False if they must be copied."""
        if not self._access.is_local or not is_manifest(document):
            return False
        from hftransfer import Manifest

        manifest = Manifest.from_dict(document)
        return self._access.jobs().clone(source, target, manifest, links=self._links)

    def _read_manifest(self, key: str) -> Any:
        path = manifest_path(key)
        return None if path is None else self._access.read_document(path)

    @contextmanager
    def _progress(self, what: str) -> Iterator[TransferProgress]:
        progress = TransferProgress(what, self._log, interval=self._interval)
        if self._watch is not None:
            self._watch(progress)
        try:
            yield progress
        finally:
            progress.finish()


@contextmanager
def _as_damage() -> Iterator[None]:
    """Raise `DamagedError` for the errors of the engine that mean a damaged entry."""
    from hftransfer import IntegrityError, NotFoundError, SourceChangedError

    try:
        yield
    except (IntegrityError, NotFoundError, SourceChangedError) as error:
        raise DamagedError(str(error)) from error


def _absolute(path: str | None) -> list[str]:
    return [] if path is None else [os.path.abspath(path)]


def _how_verified(document: Any) -> str:
    if is_manifest(document):
        return "every chunk verified"
    return "every file verified" if recorded_files(document) else "sizes checked"


def _unverified(
    reference: dict[str, Any], seconds: float, manifest: dict[str, Any]
) -> TransferSummary:
    """Return the summary of a load of files that have no recorded digests."""
    size = int(reference.get("size") or 0)
    return TransferSummary(
        files=len(manifest.get("files", ())),
        bytes=size,
        fetched=size,
        seconds=seconds,
        commit=None,
        verified="not verified",
        manifest=manifest,
    )
