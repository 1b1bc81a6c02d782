"""The engine's transfers as the plugins use them, with the settings of one datastore.

Every method blocks the calling thread until the transfer is complete. The engine runs in an
event loop of its own thread (`hftransfer.sync.run_sync`). Locations are ``s3://…`` or paths.
Imported only when there are bytes to transfer, because it loads the engine.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread

import hftransfer
from hftransfer import IntegrityError, Manifest, NotFoundError, Report
from hftransfer._client.selection import select_entries
from hftransfer._core.events import Observer
from hftransfer._io.move_tree import move_tree
from hftransfer.errors import AccessError, ExpiredError
from hftransfer.locations import HubLocation, parse_location
from hftransfer.options import HubOptions, S3Options
from hftransfer.stores.base import Source
from hftransfer.stores.local.source import LocalSource
from hftransfer.stores.null import NullSink
from hftransfer.sync import run_sync
from metaflow_extensions.hftransfer.plugins.engine.load_spec import RepoRequest
from metaflow_extensions.hftransfer.plugins.engine.manifests import is_manifest, recorded_files
from metaflow_extensions.hftransfer.plugins.engine.reflink import clone, link, place_files
from metaflow_extensions.hftransfer.plugins.engine.session import Session, expected_entries
from metaflow_extensions.hftransfer.plugins.engine.tar import TarSink, TarSource

T = TypeVar("T")

# How often credentials are renewed in one transfer, each time after the old ones were refused.
_MAX_RENEWALS = 5


class TransferJobs:
    """Transfers between the Hub, a datastore and local folders.

    Parameters
    ----------
    s3 : dict
        Fields of the engine's ``S3Options``; they apply to ``s3://`` locations only.
    observer : callable, optional
        Called with the events of each transfer, in the event loop's thread.
    renew : callable, optional
        Returns current values of `s3`: the credentials of a role, or of a client provider,
        expire.
    """

    def __init__(
        self,
        s3: dict[str, Any],
        observer: Observer | None = None,
        renew: Callable[[], dict[str, Any]] | None = None,
    ) -> None:
        self._s3 = s3
        self._observer = observer
        self._renew = renew

    def download(
        self,
        request: RepoRequest,
        destinations: Sequence[str],
        *,
        commit: str | None = None,
        only: Collection[str] | None = None,
    ) -> Report:
        """Download a repository once, into all of `destinations`.

        Parameters
        ----------
        request : RepoRequest
        destinations : sequence of str
            Folders. Existing files of a local one stay if they are right.
        commit : str, optional
            Instead of the revision of `request`.
        only : collection of str, optional
            Paths of the files, instead of the patterns of `request`.

        Raises
        ------
        NotFoundError
            If the repository, or a file of `only`, does not exist.
        """

        async def download(session: Session) -> Report:
            source = await session.client.hub_source(_hub_location(request, commit))
            listed = await source.list()
            if only is None:
                entries = select_entries(listed, request.allow_patterns, request.ignore_patterns)
            else:
                entries = [entry for entry in listed if entry.path in only]
                if missing := sorted(set(only) - {entry.path for entry in entries}):
                    raise NotFoundError(f"{source.location} has no file {missing[0]!r}")
            sinks = [await session.folder(destination) for destination in destinations]
            if not entries:
                return _empty_report(source)
            report = await session.client.transfer(source, sinks, entries=entries)
            return await session.with_all_files(report, destinations[-1], entries)

        return self._run(download, hub=dict(request.hub))

    def has_all(self, request: RepoRequest, destination: str) -> bool:
        """Return True if every file of a repository exists at `destination` with its size."""

        async def compare(session: Session) -> bool:
            source = await session.client.hub_source(_hub_location(request, None))
            entries = select_entries(
                await source.list(), request.allow_patterns, request.ignore_patterns
            )
            stored = await session.source(destination.rstrip("/") + "/")
            sizes = {entry.path: entry.size for entry in await stored.list()}
            return all(sizes.get(entry.path) == entry.size for entry in entries)

        return self._run(compare, hub=dict(request.hub))

    def find_damage(
        self, location: str, document: object, request: RepoRequest, commit: str
    ) -> dict[str, str]:
        """Read all files of the stored folder `location`; return what is wrong with which.

        Parameters
        ----------
        location : str
        document : object
            The stored manifest. Without the digests of all chunks in it, the digests of the
            Hub are used.
        request : RepoRequest
            That the folder was made for.
        commit : str

        Returns
        -------
        dict
            From the path of a file to the difference.
        """
        source = str(_hub_location(request, commit))
        compared: dict[str, Any] = {
            "against": source,
            "allow_patterns": request.allow_patterns,
            "ignore_patterns": request.ignore_patterns,
        }
        if is_manifest(document):
            compared = {"manifest": Manifest.from_dict(document)}  # type: ignore[arg-type]

        async def verify(session: Session) -> dict[str, str]:
            found = await session.client.verify(location.rstrip("/") + "/", **compared)
            return {**dict.fromkeys(found.missing, "it is missing"), **found.wrong}

        async def list_all(session: Session) -> dict[str, str]:
            hub = await session.client.hub_source(_hub_location(request, commit))
            selected = select_entries(
                await hub.list(), request.allow_patterns, request.ignore_patterns
            )
            return {entry.path: "it is missing" for entry in selected}

        try:
            return self._run(verify, hub=dict(request.hub))
        except NotFoundError:
            if recorded := recorded_files(document):
                return dict.fromkeys(recorded, "it is missing")
            return self._run(list_all, hub=dict(request.hub))

    def swap(self, staging: str, destination: str) -> None:
        """Replace files of the folder `destination` by those of the same names in `staging`.

        Each is replaced by one rename, or by one copy within the store.

        Parameters
        ----------
        staging, destination : str
            Both are local folders of one file system, or both are on S3.
        """
        if not staging.startswith("s3://"):
            os.makedirs(destination, exist_ok=True)
            move_tree(Path(staging), Path(destination))
            return

        async def copy(session: Session) -> Report:
            return await session.client.copy(
                staging.rstrip("/") + "/", destination.rstrip("/") + "/"
            )

        self._run(copy)

    def manifest_of(self, location: str) -> Manifest:
        """Read all files of a stored folder; return their manifest."""

        async def read(session: Session) -> Manifest:
            origin = await session.source(location.rstrip("/") + "/")
            report = await session.client.transfer(
                origin, [NullSink()], entries=await origin.list()
            )
            return report.manifest

        return self._run(read)

    def load(
        self,
        source: str,
        path: str,
        *,
        document: object = None,
        size: int | None = None,
        also: Sequence[str] = (),
        selects: Callable[[str], bool] | None = None,
    ) -> Report:
        """Copy the files of the stored folder `source` to the folder `path`.

        Parameters
        ----------
        source : str
        path : str
            Usually a local folder.
        document : object
            The stored manifest. Every chunk must match it, or every file if it has no chunks.
        size : int, optional
            Bytes of all stored files, checked where there is no manifest.
        also : sequence of str
            Further folders that get the files in the same pass.
        selects : callable, optional
            Takes the path of a stored file. Returns True if it is wanted. Default: all are.

        Raises
        ------
        IntegrityError
            If files are missing, too short or wrong.
        NotFoundError
            If there are no files at all.
        """

        async def load(session: Session) -> Report:
            origin = await session.source(source.rstrip("/") + "/")
            listed = await origin.list()
            total = sum(entry.size for entry in listed)
            if isinstance(origin, LocalSource):
                total = await anyio.to_thread.run_sync(_size_below, source)
            _check_total(source, total, document, size)
            expected = expected_entries(listed, document, source)
            entries = [entry for entry in expected if selects is None or selects(entry.path)]
            sinks = [await session.folder(folder) for folder in (path, *also)]
            if not entries:
                return _empty_report(origin)
            return await session.client.transfer(origin, sinks, entries=entries)

        return self._run(load)

    def clone(self, source: str, path: str, manifest: Manifest, *, links: bool) -> bool:
        """Clone the files of a local folder to another one, or make links to them.

        Parameters
        ----------
        source, path : str
            Local folders.
        manifest : Manifest
            The expected content.
        links : bool
            Make symbolic links in place of clones.

        Returns
        -------
        bool
            False if the file system cannot clone; nothing was changed then.

        Raises
        ------
        IntegrityError
            If a file is missing or damaged.
        """

        async def place(session: Session) -> bool:
            make = link if links else clone
            return await place_files(
                Path(source), Path(path), manifest, make, session.client.buffers
            )

        return self._run(place)

    def save(self, path: str, destination: str) -> Report:
        """Store a file, or all files of a folder, below `destination`."""

        async def save(session: Session) -> Report:
            origin = LocalSource(Path(path))
            entries = await origin.list()
            sink = await session.folder(destination, reuse=False)
            report = await session.client.transfer(origin, [sink], entries=entries)
            return await session.with_all_files(report, destination, entries)

        return self._run(save)

    def save_tar(self, path: str, destination: str) -> tuple[Report, int]:
        """Store a file or folder as the tar archive `destination`.

        Returns
        -------
        tuple
            The report, and the bytes of the archive.
        """
        origin = TarSource(path, destination.rpartition("/")[2])

        async def save(session: Session) -> Report:
            sink = await session.file(destination)
            return await session.client.transfer(origin, [sink])

        return self._run(save), origin.size

    def load_tar(self, source: str, path: str, *, document: object = None) -> Report:
        """Unpack the stored tar archive `source` into the local folder `path`.

        Parameters
        ----------
        source, path : str
        document : object
            The stored manifest; every chunk must match it.

        Raises
        ------
        IntegrityError
            If the archive is damaged, or has members outside of the folder.
        NotFoundError
            If there is no such archive.
        """

        async def load(session: Session) -> Report:
            origin = await session.source(source)
            entries = [entry for entry in await origin.list() if source.endswith(entry.path)]
            if not entries or not origin.single:
                raise NotFoundError(f"{source}: no such archive")
            entries = expected_entries(entries, document, source)
            return await session.client.transfer(origin, [TarSink(Path(path))], entries=entries)

        return self._run(load)

    def _run(
        self,
        operation: Callable[[Session], Awaitable[T]],
        hub: dict[str, Any] | None = None,
    ) -> T:
        """Run `operation` with an open client, again with new credentials if they expire."""
        for remaining in reversed(range(_MAX_RENEWALS + 1)):
            options = dataclasses.replace(
                hftransfer.TransferOptions.from_env(),
                hub=HubOptions(**(hub or {})),
                s3=S3Options(**self._s3),
            )

            async def run(options: hftransfer.TransferOptions = options) -> T:
                async with hftransfer.AsyncClient(options, observer=self._observer) as client:
                    return await operation(Session(client))

            try:
                return run_sync(run)()
            except (AccessError, ExpiredError):
                # Received chunks are kept, and the next round resumes from them.
                current = self._s3 if self._renew is None else self._renew()
                if current == self._s3 or not remaining:
                    raise
                self._s3 = current
        raise AssertionError("unreachable")


def _size_below(folder: str) -> int:
    """Return the bytes of all files below `folder`, including those that the engine skips."""
    return sum(
        os.path.getsize(os.path.join(parent, name))
        for parent, _, names in os.walk(folder)
        for name in names
    )


def _check_total(source: str, total: int, document: object, size: int | None) -> None:
    if size is not None and total != size and recorded_files(document) is None:
        raise IntegrityError(f"{source}: expected {size} bytes in all files, found {total}")


def _hub_location(request: RepoRequest, commit: str | None) -> HubLocation:
    location = parse_location(request.source)
    assert isinstance(location, HubLocation)
    return location if commit is None else dataclasses.replace(location, revision=commit)


def _empty_report(source: Source) -> Report:
    return Report(
        source=source.location,
        destinations=(),
        manifest=Manifest(source=source.location, commit=source.commit, files={}),
    )
