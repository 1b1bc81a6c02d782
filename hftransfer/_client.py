"""`AsyncClient`: owns connections, memory and limits, and chooses stores by location."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
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
from hftransfer._throttle import Throttle
from hftransfer.errors import IntegrityError, LocationError, OptionsError
from hftransfer.locations import (
    HubLocation,
    LocalLocation,
    Location,
    MemoryLocation,
    S3Location,
    parse_location,
)
from hftransfer.options import TransferOptions
from hftransfer.report import Report
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
    ) -> Report:
        """Copy a file, or all files of a folder, prefix or repository.

        A folder's content goes into the destination, not the folder itself. A single
        file gets the destination's name, unless that ends in ``/`` or is an existing
        folder, into which it then goes. Existing files of the same name are replaced,
        each at once; others are left alone.

        Args:
            source: ``hf://[datasets/|spaces/]org/name[@revision][/path]``,
                ``s3://bucket[/key]``, a local path, or ``memory://name``.
            destination: an ``s3://`` location or a local path, or several of them: one
                pass over the source feeds them all.
            allow_patterns: only paths that match one of these; see `select_entries`.
            ignore_patterns: not the paths that match one of these.
            manifest: recorded by an earlier transfer; every chunk must match it, and
                every file of it must be there.

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
            entries = _with_manifest(entries, manifest, origin.location)
        entries = await self._described(origin, entries, goals)
        sinks = [await self._sink(goal, entries, single=origin.single) for goal in goals]
        return await transfer(origin, sinks, entries, self._ready())

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

            return S3Source(await self._s3_session(), location)
        if isinstance(location, MemoryLocation):
            return self.memory(location.name)
        return LocalSource(location.path)

    async def _sink(self, location: Location, entries: Sequence[Entry], *, single: bool) -> Sink:
        if isinstance(location, S3Location):
            from hftransfer.stores.s3 import S3Sink

            as_object = single and location.key != "" and not location.key.endswith("/")
            return S3Sink(await self._s3_session(), location, single=as_object)
        if isinstance(location, MemoryLocation):
            return self.memory(location.name)
        assert isinstance(location, LocalLocation)
        as_file = single and not location.as_folder
        as_file = as_file and not await anyio.to_thread.run_sync(location.path.is_dir)
        return LocalSink(
            location.path,
            single=as_file,
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

    async def _s3_session(self) -> S3Session:
        from hftransfer.stores.s3 import S3Session

        async with self._opening:
            if self._s3 is None:
                session = S3Session(self.options.s3, self.options, throttle=self._throttle)
                self._s3 = await self._stack.enter_async_context(session)
            return self._s3

    def _ready(self) -> Context:
        if self._context is None:
            raise RuntimeError("the client is not open: use it in a (async) with statement")
        return self._context


def _with_manifest(entries: Sequence[Entry], manifest: Manifest, location: str) -> Sequence[Entry]:
    """Return `entries` with what each chunk of them must be."""
    listed = {entry.path for entry in entries}
    if missing := sorted(set(manifest.files) - listed):
        raise IntegrityError(
            f"{location}: {len(missing)} recorded files are missing, the first is {missing[0]!r}"
        )
    if unknown := sorted(listed - set(manifest.files)):
        raise IntegrityError(
            f"{location}: {len(unknown)} files are not in the manifest, the first is {unknown[0]!r}"
        )
    return [replace(entry, manifest=manifest.files[entry.path]) for entry in entries]


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
