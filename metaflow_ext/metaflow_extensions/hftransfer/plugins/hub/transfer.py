"""Transfers of whole repositories between the Hub, the datastore and local folders.

The engine does the work. Where it cannot be used, `requests_fallback` downloads and
Metaflow's own code reads the datastore, more slowly.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from metaflow_extensions.hftransfer.plugins.engine.load_spec import is_selected
from metaflow_extensions.hftransfer.plugins.engine.manifests import (
    is_manifest,
    manifest_path,
    recorded_files,
)
from metaflow_extensions.hftransfer.plugins.engine.progress import TransferProgress
from metaflow_extensions.hftransfer.plugins.engine.requirements import UnsupportedByEngine
from metaflow_extensions.hftransfer.plugins.engine.task_log import log_once
from metaflow_extensions.hftransfer.plugins.hub.access import HUB, TransferSummary
from metaflow_extensions.hftransfer.plugins.hub.repair import (
    DamagedError,
    UnknownOriginError,
    with_repair,
)

if TYPE_CHECKING:
    from metaflow_extensions.hftransfer.plugins.engine.load_spec import RepoRequest
    from metaflow_extensions.hftransfer.plugins.hub.checkpoint_store import (
        CheckpointStore,
        NewEntry,
    )


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
        """Load the files of `request` from the stored entry `reference` to the folder `path`.

        A damaged entry is repaired first, unless the request forbids to read the Hub.

        Raises
        ------
        DamagedError
            If the entry is incomplete or wrong, and it is not known of which commit.
        UnrepairedError
            If the entry is damaged, and the Hub does not provide what is needed.
        """

        def load() -> TransferSummary:
            return self._load(request, reference, path)

        if request.local_files_only:
            return load()
        try:
            return with_repair(
                self._access,
                reference["key"],
                load,
                self._log,
                hub=dict(request.hub),
                progress=partial(self._progress, request.label),
            )
        except UnknownOriginError as error:
            raise DamagedError(str(error)) from error

    def _load(self, request: RepoRequest, reference: dict[str, Any], path: str) -> TransferSummary:
        if not self._store.is_folder(reference):
            return self._load_archive(reference, path)
        document = self._read_manifest(reference["key"])
        try:
            return self._load_with_engine(request, reference, path, document)
        except UnsupportedByEngine as reason:
            log_once(reason.log_line)
            return self._load_with_metaflow(request, reference, path, document)

    def download(self, request: RepoRequest, entry: NewEntry, path: str | None) -> TransferSummary:
        """Download a repository into the new `entry`, and into the folder `path` if possible.

        Parameters
        ----------
        request : RepoRequest
        entry : NewEntry
        path : str, optional
            Ignored if the entry is in a local datastore, from which the folder gets clones.
        """
        is_local = self._access.is_local and not entry.staged
        folders = [*([] if is_local else _absolute(path)), entry.location]
        try:
            with self._progress(request.label) as progress:
                jobs = self._access.jobs(progress, local_only=entry.staged)
                report = jobs.download(request, folders)
        except UnsupportedByEngine as reason:
            log_once(reason.log_line)
            return self._download_with_requests(request, entry, path)
        document = report.manifest.to_dict()
        return TransferSummary.of(
            document, report.bytes, report.seconds, "every file verified", origin=HUB
        )

    def complete(self, request: RepoRequest, entry: NewEntry) -> TransferSummary | None:
        """Return the summary of an entry that has all files of the Hub; None if it has not."""
        jobs = self._access.jobs(local_only=entry.staged)
        if entry.staged or not jobs.has_all(request, entry.location):
            return None
        return self.download(request, entry, None)

    def copy(self, request: RepoRequest, entry: NewEntry, whole: dict[str, Any]) -> TransferSummary:
        """Copy the files of `request` from the entry `whole`, of the whole repository.

        Raises
        ------
        DamagedError
            If that entry is incomplete or wrong, or has no manifest.
        """
        document = self._read_manifest(whole["key"])
        if not is_manifest(document):
            raise DamagedError("it has no manifest")
        document = _selected_files(request, document)
        if not document["files"]:
            return TransferSummary.of(document, 0, 0.0, "")
        source, started = self._access.location(whole["key"]), time.monotonic()
        try:
            with self._progress(request.label) as progress, _as_damage():
                jobs = self._access.jobs(progress)
                fetched = None
                cloned = self._clone(source, entry.location, document, links=False)
                if not cloned:
                    fetched = jobs.load(
                        source,
                        entry.location,
                        document=self._read_manifest(whole["key"]),
                        selects=partial(is_selected, request),
                    ).bytes
        except UnsupportedByEngine as error:
            raise DamagedError(str(error)) from error
        seconds = time.monotonic() - started
        return TransferSummary.of(document, fetched, seconds, "every chunk verified", cloned=cloned)

    def _load_with_engine(
        self, request: RepoRequest, reference: dict[str, Any], path: str, document: Any
    ) -> TransferSummary:
        from hftransfer import LocationError

        source, target = self._access.location(reference["key"]), os.path.abspath(path)
        verified = _how_verified(document)
        started = time.monotonic()
        selected = _selected_files(request, document)
        try:
            with self._progress(request.label) as progress, _as_damage():
                jobs = self._access.jobs(progress)
                fetched = None
                cloned = self._clone(source, target, selected, links=self._links)
                if not cloned:
                    report = jobs.load(
                        source,
                        target,
                        document=document,
                        size=reference.get("size"),
                        selects=partial(is_selected, request),
                    )
                    fetched = report.bytes
                    selected = selected or report.manifest.to_dict()
        except LocationError as error:
            raise UnsupportedByEngine(str(error)) from error
        seconds = time.monotonic() - started
        return TransferSummary.of(selected, fetched, seconds, verified, cloned=cloned)

    def _load_with_metaflow(
        self, request: RepoRequest, reference: dict[str, Any], path: str, document: Any
    ) -> TransferSummary:
        from metaflow_extensions.hftransfer.plugins.engine.file_digests import WrongFileError

        started = time.monotonic()
        try:
            # Which verifies the recorded files.
            self._store.load(reference, path, partial(is_selected, request))
        except WrongFileError as error:
            raise DamagedError(str(error)) from error
        seconds = time.monotonic() - started
        if recorded_files(document):
            selected = _selected_files(request, document)
            return TransferSummary.of(selected, None, seconds, "every file verified")
        return _unverified(reference, seconds, document or {"files": {}, "commit": None})

    def _load_archive(self, reference: dict[str, Any], path: str) -> TransferSummary:
        """Load an entry that metaflow-checkpoint stored as an archive."""
        started = time.monotonic()
        self._store.load(reference, path)
        return _unverified(reference, time.monotonic() - started, {})

    def _download_with_requests(
        self, request: RepoRequest, entry: NewEntry, path: str | None
    ) -> TransferSummary:
        from metaflow_extensions.hftransfer.plugins.hub.requests_fallback import download

        document, seconds = download(request, [entry.location, *_absolute(path)])
        return TransferSummary.of(document, None, seconds, "every file verified", origin=HUB)

    def _clone(self, source: str, target: str, document: Any, *, links: bool) -> bool:
        """Clone or link the files of a local datastore; False if they must be copied."""
        if not self._access.is_local or not is_manifest(document):
            return False
        from hftransfer import Manifest

        manifest = Manifest.from_dict(document)
        return self._access.jobs().clone(source, target, manifest, links=links)

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


def _selected_files(request: RepoRequest, document: Any) -> Any:
    """Return a manifest, of either form, with the files of `request` only."""
    if recorded_files(document) is None:
        return document
    files = {path: file for path, file in document["files"].items() if is_selected(request, path)}
    return {**document, "files": files}


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
