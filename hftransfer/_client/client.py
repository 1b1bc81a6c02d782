"""`AsyncClient`: the public async API, and what its concurrent transfers share."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import anyio

from hftransfer._client.bad_names import OnBadName, check_on_bad_name
from hftransfer._client.copy_files import check_destinations, copy_files
from hftransfer._client.registry import StoreRegistry
from hftransfer._client.selection import Patterns, Selection
from hftransfer._core.events import Observer
from hftransfer._core.manifest import Manifest
from hftransfer._engine.transfer import Context, Files, transfer
from hftransfer._io.buffers import BufferPool
from hftransfer._io.origins import Origins
from hftransfer._io.rate_limit import RateLimiter
from hftransfer.errors import TransferError
from hftransfer.locations import HubLocation, parse_location
from hftransfer.options import TransferOptions
from hftransfer.report import Report, Verification
from hftransfer.stores.base import Entry, ListingPage, Sink, Source, listing_pages
from hftransfer.stores.memory import MemoryStore

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from hftransfer.stores.hub.source import HubSource
    from hftransfer.stores.s3.client import S3Client

__all__ = ("AnyLocation", "AsyncClient", "copy")

T = TypeVar("T")

# Seconds that cancelled operations have to clean up when the client closes. The engine needs up
# to 1.5 s.
_CLOSE_TIMEOUT = 2.0
_CLOSE_INTERVAL = 0.01

AnyLocation: TypeAlias = str | os.PathLike[str]


class AsyncClient:
    """Moves files between the Hub, S3 and local disk. Use as an async context manager on asyncio.

    A client belongs to the event loop that entered it, and in a fork of the process its methods
    raise RuntimeError. Several transfers may run at once; they share connections, the memory
    budget and the bandwidth cap. Those that still run when the client is closed are cancelled:
    they clean up and raise `TransferError`.

    Args:
        options: chunk size, connections, credentials, …. Default: `TransferOptions.from_env()`.
        observer: called with every progress event (`hftransfer._core.events`), in the event
            loop's thread. It must return quickly; what it raises is logged. Default: none.
    """

    def __init__(
        self, options: TransferOptions | None = None, *, observer: Observer | None = None
    ) -> None:
        self.options = TransferOptions.from_env() if options is None else options
        self._observer = observer
        self._context: Context | None = None
        self._pid = os.getpid()
        self._running: set[anyio.CancelScope] = set()
        """Operations that have not ended."""
        self._rate_limiter = RateLimiter(self.options.bandwidth)
        self._stores = StoreRegistry(self.options, self._rate_limiter, Origins(observer))

    async def __aenter__(self) -> Self:
        self._pid = os.getpid()
        context = Context.make(self.options, self._observer, rate_limiter=self._rate_limiter)
        self._stores.buffers = context.buffer_pool
        await self._stores.__aenter__()
        self._context = context
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._context = None  # from now on nothing is started
        if self.is_of_other_process:
            return  # the event loop and the connections are those of the parent
        for scope in list(self._running):
            scope.cancel()
        with anyio.move_on_after(_CLOSE_TIMEOUT, shield=True):
            while self._running:  # noqa: ASYNC110 - rarely: most clients are idle when they close
                await anyio.sleep(_CLOSE_INTERVAL)
        await self._stores.__aexit__(kind, error, traceback)
        self._stores.buffers = None

    @property
    def bandwidth(self) -> float | None:
        """Bytes per second that all transfers together may use; None for no cap.

        A change takes effect at once, also for transfers that are running.

        Raises:
            OptionsError: if it is set to a number that is not positive.
        """
        return self._rate_limiter.rate

    @bandwidth.setter
    def bandwidth(self, rate: float | None) -> None:
        self._rate_limiter.rate = rate

    async def copy(
        self,
        source: AnyLocation,
        destination: AnyLocation | Sequence[AnyLocation],
        *,
        allow_patterns: Patterns = None,
        ignore_patterns: Patterns = None,
        manifest: Manifest | None = None,
        sidecar: bool = False,
        on_bad_name: OnBadName = "fail",
    ) -> Report:
        """Copy a file, or all files of a folder, prefix or repository.

        The files of a folder are copied into the destination, not the folder itself. A single
        file is copied to the destination's name, or into the destination if that ends in
        ``/`` or is an existing folder. Files of the same names are replaced, each by one
        atomic rename or upload; other files at the destination are not touched. If the destination
        lies in the source folder, what is below it is not copied.

        From S3 to S3 the store copies the objects itself if it can do so for all of them,
        all destinations are on S3, and neither `manifest` nor `sidecar` is given.

        Args:
            source: ``hf://[datasets/|spaces/]org/name[@revision][/path]``,
                ``s3://bucket[/key]``, a local path, or ``memory://name``.
            destination: an ``s3://`` or ``memory://`` location or a local path, or a list or
                tuple of them: the source is read once for all of them.
            allow_patterns: copy only paths that match one of these glob patterns (``*`` also
                matches ``/``). Default None: copy all.
            ignore_patterns: do not copy paths that match one of these. Default None.
            manifest: from an earlier transfer; the source must have exactly its files, and
                every chunk must have the recorded digest. The whole source is listed before the
                first byte moves: 1 KB of memory per file. Default None.
            sidecar: write the manifest of the copied files, with the XXH3 of every chunk, to
                each destination: to ``.hftransfer`` in a folder or under a prefix, to
                ``NAME.hftransfer`` beside a single file. `verify` finds it there.
                Default False.
            on_bad_name: what to do with names that a destination cannot write, such as the keys
                ``a//b``, ``../x`` or ``a/`` for a local folder: ``fail`` raises a
                `LocationError` that names them, before any byte is moved; ``skip`` copies the
                other files and counts them in `Report.skipped_names`. Default ``fail``.

        Returns:
            What was copied, in how many seconds, and the manifest.

        Raises:
            OptionsError: if `destination` is an empty list, or `on_bad_name` is neither value.
            LocationError: if a location cannot be parsed, cannot be a destination, or is both
                local source and destination; or if a name cannot be written there.
            UnsupportedError: if a device, a FIFO, a socket or a broken link is to be copied.
            NotFoundError: if the source, or the bucket of a destination, does not exist.
            AccessError: if credentials are missing or not sufficient.
            DestinationError: if a destination cannot be written.
            IntegrityError: if bytes do not match their digest, also after reading them again.
            TransientError: if the network or the server failed for longer than the retry
                policy allows (`RetryPolicy`).
        """
        several = isinstance(destination, list | tuple)
        given: Sequence[AnyLocation] = destination if several else [destination]  # type: ignore[list-item,assignment]
        destinations = [parse_location(each) for each in given]
        check_destinations(destinations)
        check_on_bad_name(on_bad_name)
        files = copy_files(
            self._stores,
            parse_location(source),
            destinations,
            Selection(allow_patterns, ignore_patterns),
            self._require_open(),
            manifest=manifest,
            sidecar=sidecar,
            on_bad_name=on_bad_name,
        )
        return await self._run(files)

    async def verify(
        self,
        location: AnyLocation,
        *,
        manifest: Manifest | None = None,
        against: AnyLocation | None = None,
        allow_patterns: Patterns = None,
        ignore_patterns: Patterns = None,
    ) -> Verification:
        """Read a file, folder, prefix or repository and compare it with recorded digests.

        The digests are those of the first of these that there is: `manifest`; `against`; the
        sidecar stored with the files (see `copy`); the digests of the store itself, which are
        the Hub's digests and the checksums of S3 objects.

        Args:
            location: what to verify, as `source` in `copy`.
            manifest: from an earlier transfer. Default None.
            against: a location whose listing has digests, such as ``hf://``: a local copy of a
                repository is compared with the repository without downloading it again.
                Default None.
            allow_patterns: verify only paths that match one of these; see `copy`.
            ignore_patterns: do not verify paths that match one of these; see `copy`.

        Returns:
            The number of correct files, and the paths of wrong, missing and unchecked ones: the
            first 10,000 of each. The observer gets all of them (`FileNotVerified`). A difference
            is a result, not an error.

        Raises:
            LocationError, NotFoundError, AccessError, TransientError: as `copy`.
            IntegrityError: if the sidecar is not a valid manifest.
            UnsupportedError: if there are no digests to compare with.
        """
        from hftransfer._client.verify_files import verify_files

        files = verify_files(
            self._stores,
            parse_location(location),
            Selection(allow_patterns, ignore_patterns),
            self._require_open(),
            manifest=manifest,
            against=None if against is None else parse_location(against),
        )
        return await self._run(files)

    async def list(self, location: AnyLocation) -> Sequence[Entry]:
        """Return all files at `location` with their sizes and the digests that the listing has.

        They take 0.5 to 1 KB of memory each; `pages` lists any number of files in little memory.

        Args:
            location: as `source` in `copy`.

        Raises:
            LocationError, NotFoundError, AccessError, TransientError: as `copy`.
        """
        self._require_open()
        origin = await self._stores.source(parse_location(location))
        return await self._run(origin.list())

    async def pages(self, location: AnyLocation) -> AsyncGenerator[Sequence[Entry], None]:
        """Yield what `list` returns, some thousand files at a time at most.

        The next page is requested when the caller asks for it.
        """
        self._require_open()
        origin = await self._stores.source(parse_location(location))
        async with aclosing(listing_pages(origin)) as pages:
            while (page := await self._run(_next_page(pages))) is not None:
                yield page.entries

    async def transfer(
        self,
        source: Source,
        sinks: Sequence[Sink],
        *,
        entries: Files | None = None,
        keep_manifest: bool = True,
    ) -> Report:
        """Move files between stores that the caller implements; see `hftransfer.stores.base`.

        Args:
            source: where to read.
            sinks: where to write; the source is read once for all of them.
            entries: the files to move, as `source` lists them, or an async generator of its
                pages. Default: all of its files.
            keep_manifest: False to return a manifest without files, which costs less.

        Raises:
            TransferError: as `copy`, and what the stores raise.
        """
        context = self._require_open()
        files = listing_pages(source) if entries is None else entries
        moved = transfer(source, sinks, files, context, keep_manifest=keep_manifest)
        return await self._run(moved)

    def memory(self, name: str) -> MemoryStore:
        """Return the store of ``memory://name``, which is created empty at its first use."""
        return self._stores.memory(name)

    async def hub_source(self, location: HubLocation) -> HubSource:
        """Return the source of a repository, with this client's endpoint and credentials."""
        self._require_open()
        return await self._stores.hub_source(location)

    async def s3_session(self) -> S3Client:
        """Return the client's S3 client, which follows its options and its bandwidth cap.

        It is created at the first call and closed with this client.
        """
        self._require_open()
        return await self._stores.s3_client()

    @property
    def buffers(self) -> BufferPool:
        """The memory under this client's budget, for stores of the caller's own."""
        return self._require_open().buffer_pool

    async def _run(self, operation: Coroutine[Any, Any, T]) -> T:
        """Run an operation that ends when the client is closed."""
        with anyio.CancelScope() as scope:
            self._running.add(scope)
            try:
                return await operation
            finally:
                self._running.discard(scope)
        raise TransferError("the client was closed before the operation had ended")

    @property
    def is_of_other_process(self) -> bool:
        """True in a fork of the process that opened the client."""
        return self._pid != os.getpid()

    def check_process(self) -> None:
        """Raise RuntimeError if the client was opened before the process was forked."""
        if self.is_of_other_process:
            raise RuntimeError(
                f"the client was opened by process {self._pid}, and this is its fork "
                f"{os.getpid()}: threads and connections are not copied; open a new client here"
            )

    def _require_open(self) -> Context:
        self.check_process()
        if self._context is None:
            raise RuntimeError("the client is not open: use it in an `async with` statement")
        return self._context


async def copy(
    source: AnyLocation,
    destination: AnyLocation | Sequence[AnyLocation],
    *,
    options: TransferOptions | None = None,
    allow_patterns: Patterns = None,
    ignore_patterns: Patterns = None,
    manifest: Manifest | None = None,
    sidecar: bool = False,
    on_bad_name: OnBadName = "fail",
) -> Report:
    """Copy with a new client that is closed afterwards; see `AsyncClient.copy`.

    Args:
        options: of the client. Default: `TransferOptions.from_env()`.

    The other arguments, the result and the errors are those of `AsyncClient.copy`.
    """
    async with AsyncClient(options) as client:
        return await client.copy(
            source,
            destination,
            allow_patterns=allow_patterns,
            ignore_patterns=ignore_patterns,
            manifest=manifest,
            sidecar=sidecar,
            on_bad_name=on_bad_name,
        )


async def _next_page(pages: AsyncGenerator[ListingPage, None]) -> ListingPage | None:
    return await anext(pages, None)
