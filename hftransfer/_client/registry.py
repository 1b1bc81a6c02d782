"""The stores of one client: which one a location means, and what it needs to be open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.to_thread

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
    from hftransfer.stores.s3.store import S3Client

__all__ = ("ListedSource", "OpenStores")


class ListedSource(Source, Protocol):
    """What every store of this package offers beyond `Source`."""

    @property
    def single(self) -> bool:
        """True once `list` found one file rather than a folder of them."""


class OpenStores:
    """Opens what a location needs when it is first asked for; closes it all in the end.

    Use as an async context manager. Modules of stores that nobody asks for are not loaded.

    Args:
        options: the client's.
        throttle: the client's bandwidth cap.
    """

    def __init__(self, options: TransferOptions, throttle: RateLimiter) -> None:
        self._options = options
        self._throttle = throttle
        self._stack = AsyncExitStack()
        self._opening = anyio.Lock()
        self._wire: HttpClient | None = None
        self._s3: S3Client | None = None
        self._hub: tuple[str, dict[str, str]] | None = None
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
        # Closing connections must not be cut off by the cancellation that led here.
        with anyio.move_on_after(1.0, shield=True):
            await self._stack.__aexit__(kind, error, traceback)

    async def source(self, location: Location) -> ListedSource:
        """Return where to read what is at `location`."""
        if isinstance(location, HubLocation):
            return await self.hub_source(location)
        if isinstance(location, S3Location):
            from hftransfer.stores.s3.store import S3Source

            return S3Source(await self.s3_session(), location)
        if isinstance(location, MemoryLocation):
            return self.memory(location.name)
        return LocalSource(location.path)

    async def sink(self, location: Location, single: bool) -> Sink:
        """Return where to write to `location`, which with `single` is the only file's own."""
        if isinstance(location, S3Location):
            from hftransfer.stores.s3.store import S3Sink

            return S3Sink(await self.s3_session(), location, single=single)
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
        """Return the store behind ``memory://name``, made empty on first use."""
        return self._memory.setdefault(name, MemoryStore(location=f"memory://{name}/"))

    async def hub_source(self, location: HubLocation) -> HubSource:
        """Return a repository as a source, with the options' endpoint and credentials."""
        from hftransfer.stores.hub.source import HubSource

        async with self._opening:
            if self._hub is None:
                self._hub = await anyio.to_thread.run_sync(partial(_hub_access, self._options))
            if self._wire is None:
                from hftransfer._http.client import HttpClient

                self._wire = HttpClient(
                    self._options.timeouts, rate_limiter=self._throttle, loops=self._options.loops
                )
                self._stack.push_async_callback(self._wire.aclose)
        endpoint, headers = self._hub
        return HubSource(
            self._wire, location, endpoint=endpoint, headers=headers, retry=self._options.retry
        )

    async def s3_session(self) -> S3Client:
        """Return the connection to S3 that all buckets share."""
        from hftransfer.stores.s3.store import S3Client

        async with self._opening:
            if self._s3 is None:
                session = S3Client(self._options.s3, self._options, throttle=self._throttle)
                self._s3 = await self._stack.enter_async_context(session)
            return self._s3

    async def with_digests(
        self, origin: Source, entries: Sequence[Entry], *, all_sizes: bool = False
    ) -> Sequence[Entry]:
        """Return `entries` with the checksums that S3 tells of objects only one by one.

        Args:
            origin: whose entries these are; of another store they have what it knows.
            entries: as listed.
            all_sizes: ask for small objects, too, where that costs more than it is worth
                unless checksums are all there is.
        """
        if self._s3 is None:
            return entries  # and nothing of S3 is loaded

        from hftransfer.stores.s3.store import S3Source

        if not isinstance(origin, S3Source):
            return entries
        return await origin.with_digests(entries, all_sizes=all_sizes)

    async def with_properties(self, origin: Source, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Return `entries` with what else S3 keeps of an object: its type, its metadata."""
        if self._s3 is None:
            return entries

        from hftransfer.stores.s3.store import S3Source

        return await origin.with_properties(entries) if isinstance(origin, S3Source) else entries


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
