"""Moves the files of repositories between Hub, datastore and local folders.

`RepoMover` uses the engine. Where its packages are missing, `plain_transfer` does the same
more slowly with ``requests`` and Metaflow's own storage code.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaflow_extensions.hftransfer.plugins.engine.datastore import DatastoreAccess, require_engine
from metaflow_extensions.hftransfer.plugins.engine.manifests import (
    MANIFEST,
    known_files,
    manifest_path,
)
from metaflow_extensions.hftransfer.plugins.engine.progress import TransferProgress, shown_size
from metaflow_extensions.hftransfer.plugins.engine.s3_settings import NotForEngine

if TYPE_CHECKING:
    from metaflow_extensions.hftransfer.plugins.engine.jobs import Moves
    from metaflow_extensions.hftransfer.plugins.engine.load_spec import RepoRequest
    from metaflow_extensions.hftransfer.plugins.hub.checkpoint_store import EntryStore, NewEntry

Log = Callable[[str], None]


class DamagedError(Exception):
    """A stored copy is incomplete or wrong; the message says how it showed."""


@dataclass(frozen=True)
class Moved:
    """What one load or download did."""

    files: int
    bytes: int
    """Of all files."""
    fetched: int
    """Bytes that were read from the Hub or the datastore."""
    seconds: float
    commit: str | None
    verified: str
    """How the bytes were checked, for people."""
    manifest: dict[str, Any]
    """JSON, for the entry."""

    @property
    def summary(self) -> str:
        kept = self.bytes - self.fetched
        there = f", {shown_size(kept)} of it there already" if kept > 0 else ""
        return f"{self.files} files, {shown_size(self.bytes)}{there}, {self.verified}"


class RepoMover:
    """Moves files for one task.

    Parameters
    ----------
    store : EntryStore
        Whose entries they are.
    log : callable
        Takes one line for the task's log.
    watch : callable, optional
        Told of each `TransferProgress` before it starts.
    links : bool
        Loads from a local datastore make links.
    interval : float
        Seconds between progress lines.
    """

    def __init__(
        self,
        store: EntryStore,
        log: Log,
        *,
        watch: Callable[[TransferProgress], None] | None = None,
        links: bool = False,
        interval: float = 10.0,
    ) -> None:
        self._store = store
        self._access: DatastoreAccess = store.access
        self._log = log
        self._watch = watch
        self._links = links
        self._interval = interval
        self._told: set[str] = set()

    def load(self, request: RepoRequest, reference: dict[str, Any], path: str) -> Moved:
        """Load the stored entry `reference` to the folder `path`.

        Raises
        ------
        DamagedError
            If the entry is incomplete or wrong.
        """
        document = self._document(reference["key"])
        try:
            return self._load(request.repo_id, reference, path, document)
        except NotForEngine as reason:
            self._slower(reason)
            return self._load_plainly(request, reference, path, document)

    def load_otherwise(self, request: RepoRequest, reference: dict[str, Any], path: str) -> Moved:
        """Load an entry that metaflow-checkpoint stored in another form."""
        started = time.monotonic()
        self._store.load(reference, path)
        size = int(reference.get("size") or 0)
        return Moved(0, size, size, time.monotonic() - started, None, "not verified", {})

    def fill(
        self,
        request: RepoRequest,
        entry: NewEntry,
        path: str | None,
        sibling: dict[str, Any] | None = None,
    ) -> Moved:
        """Bring the repository into the new `entry` and, if given, to the folder `path`.

        Parameters
        ----------
        request : RepoRequest
        entry : NewEntry
        path : str, optional
        sibling : dict, optional
            Reference of an entry with the same content, read in place of the Hub.
        """
        try:
            self._moves(entry, None)
        except NotForEngine as reason:
            self._slower(reason)
            from metaflow_extensions.hftransfer.plugins.hub.requests_fallback import download

            return _from_document(*download(request, [entry.location, *_paths(path)]))
        if sibling is not None:
            try:
                return self._copy_sibling(request, entry, path, sibling)
            except DamagedError as error:
                self._log(f"Another task's copy of {request.repo_id} is of no use: {error}")
        return self._download(request, entry, path)

    def repair(self, request: RepoRequest, reference: dict[str, Any], error: Exception) -> bool:
        """Fetch what is wrong with `reference` from the Hub again; False if that is not known."""
        from metaflow_extensions.hftransfer.plugins.hub.repair import repair

        progress = self._progress(request.repo_id)
        try:
            return repair(
                self._access,
                reference["key"],
                error,
                self._log,
                hub=dict(request.hub),
                observer=progress,
            )
        except NotForEngine:
            return False
        finally:
            progress.finish()

    def _load(self, what: str, reference: dict[str, Any], path: str, document: Any) -> Moved:
        from hftransfer import IntegrityError, LocationError, NotFoundError, SourceChangedError

        progress = self._progress(what)
        moves = self._access.moves(progress)
        source, target = self._access.location(reference["key"]), os.path.abspath(path)
        started = time.monotonic()
        try:
            fetched = self._place_locally(source, target, document)
            verified = _how_verified(document)
            if fetched is None:
                size = reference.get("size")
                report = moves.load(source, target, document=document, size=size)
                fetched = report.bytes
                document = document or report.manifest.to_dict()
        except (IntegrityError, NotFoundError, SourceChangedError) as error:
            raise DamagedError(str(error)) from error
        except LocationError as error:
            raise NotForEngine(str(error)) from error
        finally:
            progress.finish()
        return _moved(document, fetched, time.monotonic() - started, verified)

    def _place_locally(self, source: str, target: str, document: Any) -> int | None:
        """Clone or link the files of a local datastore; None if they must be copied."""
        if not self._access.is_local or not _has_manifest(document):
            return None
        from hftransfer import Manifest
        from metaflow_extensions.hftransfer.plugins.engine.reflink import clone, link, place_files

        manifest = Manifest.from_dict(document)
        make = link if self._links else clone
        if not place_files(Path(source), Path(target), manifest, make):
            return None
        return sum(file.size for file in manifest.files.values())

    def _load_plainly(
        self, request: RepoRequest, reference: dict[str, Any], path: str, document: Any
    ) -> Moved:
        from metaflow_extensions.hftransfer.plugins.engine.file_digests import WrongFileError

        started = time.monotonic()
        try:
            self._store.load(reference, path)  # checked there
        except WrongFileError as error:
            raise DamagedError(str(error)) from error
        known = known_files(document) or {}
        verified = "every file verified" if known else "not verified"
        document = document or {"files": {}, "commit": None}
        size = int(reference.get("size") or 0)
        moved = _moved(document, size, time.monotonic() - started, verified)
        return moved if known else dataclasses.replace(moved, bytes=size)

    def _copy_sibling(
        self, request: RepoRequest, entry: NewEntry, path: str | None, sibling: dict[str, Any]
    ) -> Moved:
        from hftransfer import IntegrityError, NotFoundError, SourceChangedError

        document = self._document(sibling["key"])
        if not _has_manifest(document):
            raise DamagedError("it has no manifest")
        progress = self._progress(request.repo_id)
        try:
            report = self._access.moves(progress).load(
                self._access.location(sibling["key"]),
                entry.location,
                document=document,
                also=_paths(path),
            )
        except (IntegrityError, NotFoundError, SourceChangedError) as error:
            raise DamagedError(str(error)) from error
        finally:
            progress.finish()
        return _moved(document, report.bytes, report.seconds, "every chunk verified")

    def _download(self, request: RepoRequest, entry: NewEntry, path: str | None) -> Moved:
        direct = self._access.is_local and not entry.staged
        # Into a local datastore once; the folder then gets clones, or copies.
        places = [entry.location] if direct else [*_paths(path), entry.location]
        progress = self._progress(request.repo_id)
        try:
            report = self._moves(entry, progress).download(request, places)
        finally:
            progress.finish()
        document = report.manifest.to_dict()
        moved = _moved(document, report.bytes, report.seconds, "every file verified")
        if direct and path is not None and document["files"]:
            self._place_or_copy(entry.location, os.path.abspath(path), document)
        return moved

    def _place_or_copy(self, source: str, target: str, document: Any) -> None:
        if self._place_locally(source, target, document) is None:
            self._access.moves().load(source, target, document=document)

    def _document(self, key: str) -> Any:
        where = manifest_path(key)
        return None if where is None else self._access.read_document(where)

    def _moves(self, entry: NewEntry, progress: TransferProgress | None) -> Moves:
        if not entry.staged:
            return self._access.moves(progress)
        # The Hub's files go to folders; Metaflow's code stores them from there.
        require_engine(s3=False)
        from metaflow_extensions.hftransfer.plugins.engine.jobs import Moves

        return Moves({}, progress)

    def _progress(self, what: str) -> TransferProgress:
        progress = TransferProgress(what, self._log, interval=self._interval)
        if self._watch is not None:
            self._watch(progress)
        return progress

    def _slower(self, reason: NotForEngine) -> None:
        text = str(reason)
        if text not in self._told:
            self._told.add(text)
            cure = ""
            if text.startswith("missing packages"):
                cure = '; get the fast way with: pip install "hftransfer[metaflow]"'
            self._log(f"Slower transfers by Metaflow's own code ({text}){cure}")


def _paths(path: str | None) -> list[str]:
    return [] if path is None else [os.path.abspath(path)]


def _has_manifest(document: Any) -> bool:
    return isinstance(document, dict) and document.get("format") == MANIFEST


def _how_verified(document: Any) -> str:
    if _has_manifest(document):
        return "every chunk verified"
    return "every file verified" if known_files(document) else "sizes checked"


def _moved(document: Any, fetched: int, seconds: float, verified: str) -> Moved:
    files = document["files"]
    return Moved(
        files=len(files),
        bytes=sum(file["size"] for file in files.values()),
        fetched=fetched,
        seconds=seconds,
        commit=document.get("commit"),
        verified=verified,
        manifest=document,
    )


def _from_document(document: dict[str, Any], seconds: float) -> Moved:
    size = sum(file["size"] for file in document["files"].values())
    return _moved(document, size, seconds, "every file verified")
