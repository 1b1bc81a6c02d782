"""`AsyncClient`: owns connections, memory and limits, and chooses stores by location."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeAlias

import anyio
import anyio.to_thread

from hftransfer._engine import Context, transfer
from hftransfer._manifest import Manifest
from hftransfer._patterns import Patterns, select_entries
from hftransfer._progress import Observer
from hftransfer._selection import select_manifest, with_manifest
from hftransfer._throttle import Throttle
from hftransfer._verify import (
    SIDECAR,
    by_digests,
    by_manifest,
    read_manifest,
    renamed,
    sidecar_of,
    verify_source,
)
from hftransfer.errors import (
    LocationError,
    NotFoundError,
    OptionsError,
    UnsupportedError,
)
from hftransfer.locations import (
    HubLocation,
    LocalLocation,
    Location,
    MemoryLocation,
    S3Location,
    parse_location,
)
from hftransfer.options import TransferOptions
from hftransfer.report import Report, Verification
from hftransfer.stores.base import Entry, Sink, Source
from hftransfer.stores.local import LocalSink, LocalSource
from hftransfer.stores.memory import MemoryStore

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from hftransfer._wire import Wire
    from hftransfer.stores.hub import HubSource
    from hftransfer.stores.s3 import S3Session

__all__ = ("AnyLocation", "AsyncClient")

AnyLocation: TypeAlias = str | os.PathLike[str]


class _ListedSource(Source, Protocol):
    """What every store of this package offers beyond `Source`."""

    @property
    def single(self) -> bool: ...


class AsyncClient:
    """Moves files between locations. Use as an async context manager, in one event loop.

    Args:
        options: how. Default: `TransferOptions.from_env()`.
        observer: told what happens, on the event loop.

    Several transfers may run at once; they share connections, memory and limits.
    """

    def __init__(
        self, options: TransferOptions | None = None, *, observer: Observer | None = None
    ) -> None:
        self.options = TransferOptions.from_env() if options is None else options
        self._observer = observer
        self._stack = AsyncExitStack()
        self._context: Context | None = None
        self._throttle = Throttle(self.options.bandwidth)
        self._opening = anyio.Lock()
        self._wire: Wire | None = None
        self._s3: S3Session | None = None
        self._hub: tuple[str, dict[str, str]] | None = None
        self._memory: dict[str, MemoryStore] = {}

    async def __aenter__(self) -> Self:
        self._context = Context.make(self.options, self._observer, throttle=self._throttle)
        await self._stack.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Closing connections must not be cut off by the cancellation that led here.
        with anyio.move_on_after(1.0, shield=True):
            await self._stack.__aexit__(kind, error, traceback)
        self._context = None

    @property
    def bandwidth(self) -> float | None:
        """Bytes per second that all transfers may take together; None for no cap.

        May be set at any time, and counts at once.

        Raises:
            OptionsError: if it is set to a number that is not positive.
        """
        return self._throttle.rate

    @bandwidth.setter
    def bandwidth(self, rate: float | None) -> None:
        self._throttle.rate = rate

    async def copy(
        self,
        source: AnyLocation,
        destination: AnyLocation | Sequence[AnyLocation],
        *,
        allow_patterns: Patterns = None,
        ignore_patterns: Patterns = None,
        manifest: Manifest | None = None,
        sidecar: bool = False,
    ) -> Report:
        """Copy a file, or all files of a folder, prefix or repository.

        A folder's content goes into the destination, not the folder itself. A single
        file gets the destination's name, unless that ends in ``/`` or is an existing
        folder, into which it then goes. Existing files of the same name are replaced,
        each at once; others are left alone. From S3 to S3 the store copies by itself, where
        it can, no manifest is to be checked, and nothing goes elsewhere, too.

        Args:
            source: ``hf://[datasets/|spaces/]org/name[@revision][/path]``,
                ``s3://bucket[/key]``, a local path, or ``memory://name``.
            destination: an ``s3://`` location or a local path, or several of them: one
                pass over the source feeds them all.
            allow_patterns: only paths that match one of these; see `select_entries`.
            ignore_patterns: not the paths that match one of these.
            manifest: recorded by an earlier transfer; every chunk must match it, and
                every file of it must be there.
            sidecar: write what was moved, with the XXH3 of every chunk, into each
                destination: as ``.hftransfer`` in a folder or under a prefix, as
                ``NAME.hftransfer`` beside a single file. `verify` finds it there.

        Raises:
            LocationError: if a location cannot be understood, or cannot be a destination.
            NotFoundError: if the source, or the bucket of a destination, does not exist.
            AccessError: if credentials are missing or not sufficient.
            DestinationError: if a destination cannot be written.
            IntegrityError: if bytes do not match their digest, also when read again.
            TransientError: if the network or the server failed more often than the
                retry policy allows.
        """
        several = isinstance(destination, list | tuple)
        targets: Sequence[AnyLocation] = destination if several else [destination]  # type: ignore[list-item,assignment]
        if not targets:
            raise OptionsError("copy needs at least one destination")
        goals = [parse_location(target) for target in targets]
        for goal in goals:
            if isinstance(goal, HubLocation):
                raise LocationError(f"{goal}: files cannot be uploaded to the Hub")
        origin = await self._source(parse_location(source))
        listed = await origin.list()
        entries = select_entries(listed, allow_patterns, ignore_patterns)
        if manifest is not None:
            entries = with_manifest(entries, manifest, origin.location)
        entries = await self._described(origin, entries, goals)
        alone = [origin.single and await _takes_a_name(goal) for goal in goals]
        sinks = [await self._sink(*each) for each in zip(goals, alone, strict=True)]
        if manifest is None and not sidecar and all(isinstance(g, S3Location) for g in goals):
            from hftransfer._within_s3 import copy_within_s3

            if (within := await copy_within_s3(origin, sinks, entries, self._ready())) is not None:
                return within
        report = await transfer(origin, sinks, entries, self._ready())
        if sidecar:
            await self._write_sidecars(report.manifest, zip(goals, alone, strict=True))
        return report

    async def _write_sidecars(
        self, manifest: Manifest, goals: Iterable[tuple[Location, bool]]
    ) -> None:
        for goal, single in goals:
            written = renamed(manifest, goal) if single else manifest
            text = json.dumps(written.to_dict(), indent=1).encode()
            store = MemoryStore({SIDECAR: text})
            sink = await self._sink(sidecar_of(goal) if single else goal, single)
            quiet = replace(self._ready(), observer=None)
            await transfer(store, [sink], await store.list(), quiet)

    async def verify(
        self,
        location: AnyLocation,
        *,
        manifest: Manifest | None = None,
        against: AnyLocation | None = None,
        allow_patterns: Patterns = None,
        ignore_patterns: Patterns = None,
    ) -> Verification:
        """Read a file, folder, prefix or repository and compare it with what it should be.

        What that is says `manifest`, else `against`, else the manifest that lies there
        (see `copy`, `sidecar`), else the store itself: the Hub's digests, the checksums of
        S3 objects.

        Args:
            location: what to check, as in `copy`.
            manifest: recorded by an earlier transfer.
            against: a location whose listing has digests, as ``hf://`` has: a local copy
                of a repository is checked against it without downloading it again.
            allow_patterns: only paths that match one of these; see `select_entries`.
            ignore_patterns: not the paths that match one of these.

        Raises:
            LocationError, NotFoundError, AccessError, TransientError: as `copy`.
            IntegrityError: if the manifest that lies there is damaged.
            UnsupportedError: if nobody says what the bytes should be.
        """
        place = parse_location(location)
        origin = await self._source(place)
        everything = await origin.list()
        lying = [entry for entry in everything if entry.path == SIDECAR]
        listed = select_entries(
            [entry for entry in everything if entry.path != SIDECAR],
            allow_patterns,
            ignore_patterns,
        )
        chosen = partial(
            select_manifest, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        if manifest is not None:
            expected = by_manifest(listed, chosen(manifest), "the given manifest")
        elif against is not None:
            other = await self._source(parse_location(against))
            known = select_entries(await other.list(), allow_patterns, ignore_patterns)
            expected = by_digests(listed, known, other.location)
        elif found := await self._sidecar(origin, place, lying):
            expected = by_manifest(listed, chosen(found), "the manifest beside it")
        else:
            known = await self._own_digests(origin, listed)
            expected = by_digests(known, known, origin.location)
        if not expected.entries and not expected.missing and not expected.wrong:
            raise UnsupportedError(
                f"{origin.location}: nobody says what these bytes should be: give a manifest, "
                "or a location to compare with"
            )
        return await verify_source(origin, expected, self._ready())

    async def _sidecar(
        self, origin: _ListedSource, place: Location, lying: Sequence[Entry]
    ) -> Manifest | None:
        if lying:
            return await read_manifest(origin, lying[0])
        if not origin.single or isinstance(place, HubLocation | MemoryLocation):
            return None
        beside = await self._source(sidecar_of(place))
        try:
            (entry,) = await beside.list()
        except (NotFoundError, ValueError):
            return None
        return await read_manifest(beside, entry)

    async def _own_digests(self, origin: Source, entries: Sequence[Entry]) -> Sequence[Entry]:
        if self._s3 is None:
            return entries

        from hftransfer.stores.s3 import S3Source

        return (
            await origin.with_digests(entries, all_sizes=True)
            if isinstance(origin, S3Source)
            else entries
        )

    async def list(self, location: AnyLocation) -> Sequence[Entry]:
        """Return all files at `location`, with sizes and, where the store knows them, digests.

        Raises:
            LocationError, NotFoundError, AccessError, TransientError: as `copy`.
        """
        origin = await self._source(parse_location(location))
        return await origin.list()

    async def transfer(
        self,
        source: Source,
        sinks: Sequence[Sink],
        *,
        entries: Sequence[Entry] | None = None,
    ) -> Report:
        """Move files between stores of one's own making; see `hftransfer.stores.base`.

        Args:
            source: where to read.
            sinks: where to write.
            entries: what to move, as `source` lists it. Default: everything.
        """
        wanted = await source.list() if entries is None else entries
        return await transfer(source, sinks, wanted, self._ready())

    def memory(self, name: str) -> MemoryStore:
        """Return the store behind ``memory://name``, made empty on first use."""
        return self._memory.setdefault(name, MemoryStore(location=f"memory://{name}/"))

    async def hub_source(self, location: HubLocation) -> HubSource:
        """Return a repository as a source, with this client's endpoint and credentials."""
        from hftransfer.stores.hub import HubSource

        async with self._opening:
            if self._hub is None:
                self._hub = await anyio.to_thread.run_sync(partial(_hub_access, self.options))
            if self._wire is None:
                from hftransfer._wire import Wire

                self._wire = Wire(
                    self.options.timeouts, throttle=self._throttle, loops=self.options.loops
                )
                self._stack.push_async_callback(self._wire.aclose)
        endpoint, headers = self._hub
        return HubSource(
            self._wire, location, endpoint=endpoint, headers=headers, retry=self.options.retry
        )

    async def _source(self, location: Location) -> _ListedSource:
        self._ready()
        if isinstance(location, HubLocation):
            return await self.hub_source(location)
        if isinstance(location, S3Location):
            from hftransfer.stores.s3 import S3Source

            return S3Source(await self.s3_session(), location)
        if isinstance(location, MemoryLocation):
            return self.memory(location.name)
        return LocalSource(location.path)

    async def _sink(self, location: Location, single: bool) -> Sink:
        if isinstance(location, S3Location):
            from hftransfer.stores.s3 import S3Sink

            return S3Sink(await self.s3_session(), location, single=single)
        if isinstance(location, MemoryLocation):
            return self.memory(location.name)
        assert isinstance(location, LocalLocation)
        return LocalSink(
            location.path,
            single=single,
            fsync=self.options.fsync,
            direct_io=self.options.direct_io,
        )

    async def _described(
        self, origin: Source, entries: Sequence[Entry], goals: Sequence[Location]
    ) -> Sequence[Entry]:
        """Return `entries` with what S3 tells about objects only one by one, where it is of use."""
        if self._s3 is None:
            return entries  # and nothing of S3 is loaded

        from hftransfer.stores.s3 import S3Source

        if isinstance(origin, S3Source):
            if self.options.verify:
                entries = await origin.with_digests(entries)
            if any(isinstance(goal, S3Location) for goal in goals):
                entries = await origin.with_properties(entries)
        return entries

    async def s3_session(self) -> S3Session:
        """Return the connection to S3, as this client's options say, under its bandwidth cap.

        It is opened when it is first asked for, and closed with the client.
        """
        from hftransfer.stores.s3 import S3Session

        async with self._opening:
            if self._s3 is None:
                self._ready()
                session = S3Session(self.options.s3, self.options, throttle=self._throttle)
                self._s3 = await self._stack.enter_async_context(session)
            return self._s3

    def _ready(self) -> Context:
        if self._context is None:
            raise RuntimeError("the client is not open: use it in a (async) with statement")
        return self._context


async def _takes_a_name(location: Location) -> bool:
    """Return True if a single file gets the name of `location`, rather than a place below it."""
    if isinstance(location, S3Location):
        return location.key != "" and not location.key.endswith("/")
    if isinstance(location, LocalLocation):
        return not location.as_folder and not await anyio.to_thread.run_sync(location.path.is_dir)
    return False


def _hub_access(options: TransferOptions) -> tuple[str, dict[str, str]]:
    """Return the Hub's endpoint and the headers for it.

    Blocks: a token may be read from a file or refreshed over the network.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers

    hub = options.hub
    agent = hub.user_agent
    headers = build_hf_headers(
        token=hub.token,
        library_name=hub.library_name or "hftransfer",
        library_version=hub.library_version,
        user_agent=dict(agent) if isinstance(agent, Mapping) else agent,
    )
    return hub.endpoint or constants.ENDPOINT, {**headers, **hub.headers}
