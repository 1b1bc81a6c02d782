"""The engine, as the front end uses it: what is moved where, with the datastore's settings.

Everything here blocks until it is done, in the calling thread; the engine runs in an event
loop of its own (`hftransfer.sync.run_sync`). Locations are ``s3://…`` or paths.
Imported only when there are bytes to move.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import anyio.to_thread

import hftransfer
from hftransfer import IntegrityError, Manifest, NotFoundError, Report
from hftransfer._client.selection import select_entries
from hftransfer._core.digests import Digest
from hftransfer.errors import AccessError, ExpiredError
from hftransfer.locations import HubLocation, S3Location, parse_location
from hftransfer.options import HubOptions, S3Options
from hftransfer.stores.base import Entry, Sink, Source
from hftransfer.stores.local.sink import LocalSink
from hftransfer.stores.local.source import LocalSource
from hftransfer.stores.null import NullSink
from hftransfer.sync import run_sync
from metaflow_extensions.hftransfer.plugins.engine.manifests import (
    MANIFEST,
    is_bookkeeping,
    known_files,
)
from metaflow_extensions.hftransfer.plugins.engine.reuse_sink import KeepingSink
from metaflow_extensions.hftransfer.plugins.engine.tar import TarSink, TarSource

if TYPE_CHECKING:
    from hftransfer._core.events import Observer
    from metaflow_extensions.hftransfer.plugins.engine.load_spec import RepoRequest

T = TypeVar("T")

# New credentials in one transfer, each after the ones before were refused.
_RENEWALS = 5


class Moves:
    """Moves the files of one datastore.

    Parameters
    ----------
    s3 : dict
        Fields of the engine's ``S3Options``; they matter for ``s3://`` locations only.
    observer : callable, optional
        Told of progress, in the event loop's thread.
    renew : callable, optional
        Returns such fields anew: credentials of a role, or of a provider, run out.
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
        """Read a repository once, into all of `destinations`.

        Parameters
        ----------
        request : RepoRequest
        destinations : sequence of str
            Folders. Files that a local one has already are kept if they are right.
        commit : str, optional
            Instead of the revision of `request`.
        """

        async def download(connection: _Connection) -> Report:
            location = parse_location(request.source)
            assert isinstance(location, HubLocation)
            if commit is not None:
                location = dataclasses.replace(location, revision=commit)
            source = await connection.client.hub_source(location)
            entries = select_entries(
                await source.list(), request.allow_patterns, request.ignore_patterns
            )
            sinks = [await connection.folder(place) for place in destinations]
            if not entries:
                return _nothing(source)
            report = await connection.client.transfer(source, sinks, entries=entries)
            return await connection.completed(report, destinations[-1], entries)

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
        """Bring the stored folder `source` to the folder `path`, usually a local one.

        Parameters
        ----------
        source : str
        path : str
        document : object
            The stored manifest: every chunk, or at least every file, must match it.
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

        async def load(connection: _Connection) -> Report:
            origin = await connection.source(source.rstrip("/") + "/")
            listed = await origin.list()
            total = sum(entry.size for entry in listed)
            if isinstance(origin, LocalSource):
                total = await anyio.to_thread.run_sync(_size_below, source)
            _check_total(source, total, document, size)
            entries = expected_entries(listed, document, source)
            sinks = [await connection.folder(place) for place in (path, *also)]
            return await connection.client.transfer(origin, sinks, entries=entries)

        return self._run(load)

    def save(self, path: str, destination: str) -> Report:
        """Store a file, or all files of a folder, below `destination`."""

        async def save(connection: _Connection) -> Report:
            origin = LocalSource(Path(path))
            entries = await origin.list()
            sink = await connection.folder(destination, keep=False)
            report = await connection.client.transfer(origin, [sink], entries=entries)
            return await connection.completed(report, destination, entries)

        return self._run(save)

    def save_tar(self, path: str, destination: str) -> tuple[Report, int]:
        """Store a file or folder as the archive `destination`; return its size, too."""
        origin = TarSource(path, destination.rpartition("/")[2])

        async def save(connection: _Connection) -> Report:
            sink = await connection.file(destination)
            return await connection.client.transfer(origin, [sink])

        return self._run(save), origin.size

    def load_tar(self, source: str, path: str, *, document: object = None) -> Report:
        """Unpack the stored archive `source` into the local folder `path`.

        Raises
        ------
        IntegrityError
            If it is damaged, or would leave the folder.
        NotFoundError
            If there is none.
        """

        async def load(connection: _Connection) -> Report:
            origin = await connection.source(source)
            entries = [entry for entry in await origin.list() if source.endswith(entry.path)]
            if not entries or not origin.single:
                raise NotFoundError(f"{source}: there is no such archive")
            entries = expected_entries(entries, document, source)
            return await connection.client.transfer(origin, [TarSink(Path(path))], entries=entries)

        return self._run(load)

    def _run(
        self,
        operation: Callable[[_Connection], Awaitable[T]],
        hub: dict[str, Any] | None = None,
    ) -> T:
        for remaining in reversed(range(_RENEWALS + 1)):
            options = dataclasses.replace(
                hftransfer.TransferOptions.from_env(),
                hub=HubOptions(**(hub or {})),
                s3=S3Options(**self._s3),
            )

            async def run(options: hftransfer.TransferOptions = options) -> T:
                async with hftransfer.AsyncClient(options, observer=self._observer) as client:
                    return await operation(_Connection(client))

            try:
                return run_sync(run)()
            except (AccessError, ExpiredError):
                # What has arrived is kept, so the next round goes on from there.
                fresh = self._s3 if self._renew is None else self._renew()
                if fresh == self._s3 or not remaining:
                    raise
                self._s3 = fresh
        raise AssertionError("unreachable")


@dataclasses.dataclass
class _Connection:
    """An open client, and the stores that it reaches."""

    client: hftransfer.AsyncClient

    async def completed(self, report: Report, place: str, entries: Sequence[Entry]) -> Report:
        """Return `report` with the manifest of every one of `entries`.

        A destination that had some of them already did not let them pass by here; those
        are read back from it, and checked.
        """
        lacking = {entry.path: entry for entry in entries}
        for path in report.manifest.files:
            lacking.pop(path, None)
        if not lacking:
            return report
        origin = await self.source(place.rstrip("/") + "/")
        there = [
            dataclasses.replace(entry, digest=lacking[entry.path].digest)
            for entry in await origin.list()
            if entry.path in lacking
        ]
        read = await self.client.transfer(origin, [NullSink()], entries=there)
        files = {**report.manifest.files, **read.manifest.files}
        return dataclasses.replace(
            report, manifest=dataclasses.replace(report.manifest, files=files)
        )

    async def source(self, place: str) -> Any:
        location = parse_location(place)
        if isinstance(location, S3Location):
            from hftransfer.stores.s3.store import S3Source

            return S3Source(await self.client.s3_session(), location)
        return LocalSource(Path(place))

    async def folder(self, place: str, *, keep: bool = True) -> Sink:
        location = parse_location(place)
        if isinstance(location, S3Location):
            from hftransfer.stores.s3.store import S3Sink

            return S3Sink(await self.client.s3_session(), location)
        kind = KeepingSink if keep else LocalSink
        options = self.client.options
        return kind(Path(place), fsync=options.fsync, direct_io=options.direct_io)

    async def file(self, place: str) -> Sink:
        location = parse_location(place)
        if isinstance(location, S3Location):
            from hftransfer.stores.s3.store import S3Sink

            return S3Sink(await self.client.s3_session(), location, single=True)
        options = self.client.options
        return LocalSink(Path(place), single=True, fsync=options.fsync, direct_io=options.direct_io)


def _size_below(folder: str) -> int:
    """Return the bytes of all files below `folder`, those that the engine leaves out, too."""
    return sum(
        os.path.getsize(os.path.join(place, name))
        for place, _, names in os.walk(folder)
        for name in names
    )


def _check_total(source: str, total: int, document: object, size: int | None) -> None:
    if size is not None and total != size and known_files(document) is None:
        raise IntegrityError(f"{source}: {total} bytes are there, {size} were stored")


def expected_entries(listed: Sequence[Entry], document: object, source: str) -> list[Entry]:
    """Return the repository's files among `listed`, each with what its bytes must be.

    Raises
    ------
    IntegrityError
        If the listing shows that files are missing or have another size.
    """
    known = known_files(document)
    found = {entry.path: entry for entry in listed}
    if known is None:
        entries = [entry for entry in listed if not is_bookkeeping(entry.path)]
        if not entries:
            raise IntegrityError(f"{source} holds no file")
        return entries
    missing = sorted(set(known) - set(found))
    if missing:
        raise IntegrityError(
            f"{source}: {len(missing)} of {len(known)} files are missing, the first is "
            f"{missing[0]!r}"
        )
    for path, (recorded, _) in known.items():
        if found[path].size != recorded:
            raise IntegrityError(
                f"{source}: {path!r} has {found[path].size} bytes, {recorded} were stored"
            )
    manifests = _manifests(document)
    return [
        dataclasses.replace(
            found[path],
            manifest=manifests.get(path),
            # The chunks' own digests are checked much sooner than a whole file's.
            digest=None if digest is None or path in manifests else Digest.parse(digest),
        )
        for path, (_, digest) in known.items()
    ]


def _manifests(document: Any) -> dict[str, Any]:
    if document["format"] != MANIFEST:
        return {}
    return dict(Manifest.from_dict(document).files)


def _nothing(source: Source) -> Report:
    return Report(
        source=source.location,
        destinations=(),
        manifest=Manifest(source=source.location, commit=source.commit, files={}),
    )
