"""The engine's transfers as the plugins use them, with the settings of one datastore.

Every method blocks the calling thread until the transfer is complete. The engine runs in an
event loop of its own thread (`hftransfer.sync.run_sync`). Locations are ``s3://…`` or paths.
Imported only when there are bytes to transfer, because it loads the engine.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread

import hftransfer
from hftransfer import IntegrityError, Manifest, NotFoundError, Report
from hftransfer._client.selection import select_entries
from hftransfer._core.digests import Digest
from hftransfer._core.events import Observer
from hftransfer.errors import AccessError, ExpiredError
from hftransfer.locations import HubLocation, S3Location, parse_location
from hftransfer.options import HubOptions, S3Options
from hftransfer.stores.base import Entry, Sink, Source
from hftransfer.stores.local.sink import LocalSink
from hftransfer.stores.local.source import LocalSource
from hftransfer.stores.null import NullSink
from hftransfer.sync import run_sync
from metaflow_extensions.hftransfer.plugins.engine.load_spec import RepoRequest
from metaflow_extensions.hftransfer.plugins.engine.manifests import (
    is_hub_metadata,
    is_manifest,
    recorded_files,
)
from metaflow_extensions.hftransfer.plugins.engine.reflink import clone, link, place_files
from metaflow_extensions.hftransfer.plugins.engine.reuse_sink import ReuseSink
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
        self, request: RepoRequest, destinations: Sequence[str], *, commit: str | None = None
    ) -> Report:
        """Download a repository once, into all of `destinations`.

        Parameters
        ----------
        request : RepoRequest
        destinations : sequence of str
            Folders. Existing files of a local one stay if they are right.
        commit : str, optional
            Instead of the revision of `request`.
        """

        async def download(session: _Session) -> Report:
            location = parse_location(request.source)
            assert isinstance(location, HubLocation)
            if commit is not None:
                location = dataclasses.replace(location, revision=commit)
            source = await session.client.hub_source(location)
            entries = select_entries(
                await source.list(), request.allow_patterns, request.ignore_patterns
            )
            sinks = [await session.folder(destination) for destination in destinations]
            if not entries:
                return _empty_report(source)
            report = await session.client.transfer(source, sinks, entries=entries)
            return await session.with_all_files(report, destinations[-1], entries)

        return self._run(download, hub=dict(request.hub))

    def load(
        self,
        source: str,
        path: str,
        *,
        document: object = None,
        size: int | None = None,
        also: Sequence[str] = (),
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

        Raises
        ------
        IntegrityError
            If files are missing, too short or wrong.
        NotFoundError
            If there are no files at all.
        """

        async def load(session: _Session) -> Report:
            origin = await session.source(source.rstrip("/") + "/")
            listed = await origin.list()
            total = sum(entry.size for entry in listed)
            if isinstance(origin, LocalSource):
                total = await anyio.to_thread.run_sync(_size_below, source)
            _check_total(source, total, document, size)
            entries = expected_entries(listed, document, source)
            sinks = [await session.folder(folder) for folder in (path, *also)]
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

        async def place(session: _Session) -> bool:
            make = link if links else clone
            return await place_files(
                Path(source), Path(path), manifest, make, session.client.buffers
            )

        return self._run(place)

    def save(self, path: str, destination: str) -> Report:
        """Store a file, or all files of a folder, below `destination`."""

        async def save(session: _Session) -> Report:
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

        async def save(session: _Session) -> Report:
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

        async def load(session: _Session) -> Report:
            origin = await session.source(source)
            entries = [entry for entry in await origin.list() if source.endswith(entry.path)]
            if not entries or not origin.single:
                raise NotFoundError(f"{source}: no such archive")
            entries = expected_entries(entries, document, source)
            return await session.client.transfer(origin, [TarSink(Path(path))], entries=entries)

        return self._run(load)

    def _run(
        self,
        operation: Callable[[_Session], Awaitable[T]],
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
                    return await operation(_Session(client))

            try:
                return run_sync(run)()
            except (AccessError, ExpiredError):
                # Received chunks are kept, and the next round resumes from them.
                current = self._s3 if self._renew is None else self._renew()
                if current == self._s3 or not remaining:
                    raise
                self._s3 = current
        raise AssertionError("unreachable")


@dataclasses.dataclass
class _Session:
    """An open client, and the stores that it reaches."""

    client: hftransfer.AsyncClient

    async def with_all_files(
        self, report: Report, destination: str, entries: Sequence[Entry]
    ) -> Report:
        """Return `report` with the manifest of every one of `entries`.

        The engine does not read a file that the destination already has, so the report
        lacks its digests. Such files are read from the destination, and verified.
        """
        missing = {entry.path: entry for entry in entries}
        for path in report.manifest.files:
            missing.pop(path, None)
        if not missing:
            return report
        origin = await self.source(destination.rstrip("/") + "/")
        present = [
            dataclasses.replace(entry, digest=missing[entry.path].digest)
            for entry in await origin.list()
            if entry.path in missing
        ]
        read = await self.client.transfer(origin, [NullSink()], entries=present)
        files = {**report.manifest.files, **read.manifest.files}
        return dataclasses.replace(
            report, manifest=dataclasses.replace(report.manifest, files=files)
        )

    async def source(self, location: str) -> Any:
        """Return the store at a location, to read from."""
        parsed = parse_location(location)
        if isinstance(parsed, S3Location):
            from hftransfer.stores.s3.store import S3Source

            return S3Source(await self.client.s3_session(), parsed)
        return LocalSource(Path(location))

    async def folder(self, location: str, *, reuse: bool = True) -> Sink:
        """Return the folder or prefix at a location, to write to.

        With `reuse`, existing files of a local folder stay if they are right.
        """
        parsed = parse_location(location)
        if isinstance(parsed, S3Location):
            from hftransfer.stores.s3.store import S3Sink

            return S3Sink(await self.client.s3_session(), parsed)
        options = self.client.options
        how: dict[str, Any] = {"fsync": options.fsync, "direct_io": options.direct_io}
        if reuse:
            return ReuseSink(Path(location), self.client.buffers, **how)
        return LocalSink(Path(location), **how)

    async def file(self, location: str) -> Sink:
        """Return the single file or object at a location, to write to."""
        parsed = parse_location(location)
        if isinstance(parsed, S3Location):
            from hftransfer.stores.s3.store import S3Sink

            return S3Sink(await self.client.s3_session(), parsed, single=True)
        options = self.client.options
        return LocalSink(
            Path(location), single=True, fsync=options.fsync, direct_io=options.direct_io
        )


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


def expected_entries(listed: Sequence[Entry], document: object, source: str) -> list[Entry]:
    """Return the repository's files among `listed`, each with its expected digests.

    Parameters
    ----------
    listed : sequence of Entry
        All files of the stored folder.
    document : object
        The stored manifest, if there is one.
    source : str
        For messages.

    Raises
    ------
    IntegrityError
        If the listing shows that files are missing or have another size.
    """
    recorded = recorded_files(document)
    found = {entry.path: entry for entry in listed}
    if recorded is None:
        entries = [entry for entry in listed if not is_hub_metadata(entry.path)]
        if not entries:
            raise IntegrityError(f"{source} has no files")
        return entries
    missing = sorted(set(recorded) - set(found))
    if missing:
        raise IntegrityError(
            f"{source}: {len(missing)} of {len(recorded)} files are missing, the first is "
            f"{missing[0]!r}"
        )
    for path, (size, _) in recorded.items():
        if found[path].size != size:
            raise IntegrityError(
                f"{source}: {path!r}: expected {size} bytes, found {found[path].size}"
            )
    manifests = _file_manifests(document)
    return [
        dataclasses.replace(
            found[path],
            manifest=manifests.get(path),
            # A chunk's digest detects damage much sooner than the digest of the whole file.
            digest=None if digest is None or path in manifests else Digest.parse(digest),
        )
        for path, (_, digest) in recorded.items()
    ]


def _file_manifests(document: Any) -> dict[str, Any]:
    return dict(Manifest.from_dict(document).files) if is_manifest(document) else {}


def _empty_report(source: Source) -> Report:
    return Report(
        source=source.location,
        destinations=(),
        manifest=Manifest(source=source.location, commit=source.commit, files={}),
    )
