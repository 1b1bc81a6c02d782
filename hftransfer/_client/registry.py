"""The stores of one client: the source or sink of a location, on connections that are shared."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import anyio
import anyio.to_thread

from hftransfer._io.buffers import BufferPool
from hftransfer._io.origins import Origins
from hftransfer._io.rate_limit import RateLimiter
from hftransfer.locations import (
    HubLocation,
    LocalLocation,
    Location,
    MemoryLocation,
    S3Location,
)
from hftransfer.options import TransferOptions
from hftransfer.stores.base import Entry, Sink, Source
from hftransfer.stores.local.sink import LocalSink
from hftransfer.stores.local.source import LocalSource
from hftransfer.stores.memory import MemoryStore

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from hftransfer._http.client import HttpClient
    from hftransfer.stores.hub.source import HubSource
    from hftransfer.stores.s3.client import S3Client

__all__ = ("LocationSource", "StoreRegistry")


class LocationSource(Source, Protocol):
    """The source of a location: what every store of this package offers beyond `Source`."""

    @property
    def single(self) -> bool:
        """True once `list` has found a single file rather than a folder of files."""


class StoreRegistry:
    """Maps a location to its source or sink; opens what a store needs at its first use.

    All stores of one client share one HTTP client, one S3 client and the bandwidth cap. They
    are closed when the context manager exits. Modules of stores that are not used are not
    loaded: importing them takes longer than copying a small file.

    Args:
        options: the client's.
        rate_limiter: the client's bandwidth cap.
        origins: which servers are down, for all stores together.
    """

    def __init__(
        self, options: TransferOptions, rate_limiter: RateLimiter, origins: Origins
    ) -> None:
        self._options = options
        self._rate_limiter = rate_limiter
        self._origins = origins
        self.buffers: BufferPool | None = None
        """The client's data memory, while the client is open."""
        self._stack = AsyncExitStack()
        self._opening = anyio.Lock()
        """Held while a shared client is created, so that concurrent calls create only one."""
        self._http: HttpClient | None = None
        self._s3: S3Client | None = None
        self._hub: _HubAccess | None = None
        self._memory: dict[str, MemoryStore] = {}

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Shielded, because after a cancellation the connections still have to be closed. A peer
        # that does not take part in closing them delays the exit by at most one second.
        with anyio.move_on_after(1.0, shield=True):
            await self._stack.__aexit__(kind, error, traceback)

    async def source(self, location: Location) -> LocationSource:
        """Return the source that reads what is at `location`."""
        if isinstance(location, HubLocation):
            return await self.hub_source(location)
        if isinstance(location, S3Location):
            from hftransfer.stores.s3.store import S3Source

            return S3Source(await self.s3_client(), location)
        if isinstance(location, MemoryLocation):
            return self.memory(location.name)
        return LocalSource(location.path)

    async def sink(self, location: Location, single: bool) -> Sink:
        """Return the sink that writes to `location`.

        Args:
            location: a destination; `check_destinations` has refused the Hub.
            single: True if `location` is the name of a single file rather than a folder.
        """
        if isinstance(location, S3Location):
            from hftransfer._io.version_records import VersionRecords
            from hftransfer.stores.s3.store import S3Sink

            client = await self.s3_client()
            records = VersionRecords(client.describe(location.bucket))
            return S3Sink(client, location, single=single, records=records)
        if isinstance(location, MemoryLocation):
            return self.memory(location.name)
        assert isinstance(location, LocalLocation)
        return LocalSink(
            location.path,
            single=single,
            fsync=self._options.fsync,
            direct_io=self._options.direct_io,
        )

    def memory(self, name: str) -> MemoryStore:
        """Return the store of ``memory://name``, which is created empty at its first use."""
        return self._memory.setdefault(name, MemoryStore(location=f"memory://{name}/"))

    async def hub_source(self, location: HubLocation) -> HubSource:
        """Return the source of a repository, with the endpoint and credentials of the options."""
        from hftransfer.stores.hub.source import HubSource

        async with self._opening:
            if self._hub is None:
                self._hub = await anyio.to_thread.run_sync(_hub_access, self._options)
            if self._http is None:
                from hftransfer._http.client import HttpClient

                self._http = HttpClient(
                    self._options.timeouts,
                    rate_limiter=self._rate_limiter,
                    loops=self._options.loops,
                    origins=self._origins,
                )
                self._stack.push_async_callback(self._http.aclose)
        return HubSource(
            self._http,
            location,
            endpoint=self._hub.endpoint,
            headers=self._hub.headers,
            retry=self._options.retry,
        )

    async def s3_client(self) -> S3Client:
        """Return the S3 client that all buckets share."""
        from hftransfer.stores.s3.client import S3Client

        async with self._opening:
            if self._s3 is None:
                client = S3Client(
                    self._options.s3,
                    self._options,
                    rate_limiter=self._rate_limiter,
                    buffers=self.buffers,
                    origins=self._origins,
                )
                self._s3 = await self._stack.enter_async_context(client)
            return self._s3

    def completion(
        self,
        origin: Source,
        *,
        digests: Literal["none", "large", "all"] = "none",
        properties: bool = False,
    ) -> Callable[[Entry], Awaitable[Entry]] | None:
        """Return a function that adds to an entry what S3 does not list, by one request.

        Args:
            origin: the source of the entries.
            digests: which objects get their digest: those of several chunks, since a response to
                a range does not carry it while a smaller object brings it along; or all, also if
                the client compares no responses.
            properties: add the content type and the metadata of objects.

        Returns:
            None if nothing is to be added. The listings of other stores have all there is.
        """
        if self._s3 is None or (digests == "none" and not properties):
            return None  # without an S3 location the modules for S3 are not loaded

        from hftransfer.stores.s3.store import S3Source

        if not isinstance(origin, S3Source):
            return None
        smallest = 0 if digests == "all" else self._options.chunk_size + 1

        async def complete(entry: Entry) -> Entry:
            digest = digests != "none" and entry.size >= smallest
            if not digest and not properties:
                return entry
            return await origin.with_details(
                entry, digest=digest, always=digests == "all", properties=properties
            )

        return complete


@dataclass(frozen=True)
class _HubAccess:
    """Where the Hub is and what every request to it carries."""

    endpoint: str
    headers: Mapping[str, str] = field(repr=False)


def _hub_access(options: TransferOptions) -> _HubAccess:
    """Return the Hub's endpoint and the headers for it.

    Blocks: huggingface_hub may read the token from a file or refresh it over the network.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers

    from hftransfer._http.basic_auth import split_userinfo

    hub = options.hub
    agent = hub.user_agent
    headers = build_hf_headers(
        token=hub.token,
        library_name=hub.library_name or "hftransfer",
        library_version=hub.library_version,
        user_agent=dict(agent) if isinstance(agent, Mapping) else agent,
    )
    endpoint, basic = split_userinfo(str(hub.endpoint or constants.ENDPOINT))
    if basic is not None:
        # As huggingface_hub's HTTP libraries do: a user in the URL replaces the token.
        headers["authorization"] = basic
    return _HubAccess(endpoint, {**headers, **hub.headers})
