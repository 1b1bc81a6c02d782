"""`AsyncClient`: what an embedder calls, and what all its transfers share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from hftransfer._client.copy_files import check_goals, copy_to
from hftransfer._client.registry import OpenStores
from hftransfer._client.selection import Patterns, Selection
from hftransfer._core.events import Observer
from hftransfer._core.manifest import Manifest
from hftransfer._engine.transfer import Context, transfer
from hftransfer._io.rate_limit import RateLimiter
from hftransfer.locations import HubLocation, parse_location
from hftransfer.options import TransferOptions
from hftransfer.report import Report, Verification
from hftransfer.stores.base import Entry, Sink, Source
from hftransfer.stores.memory import MemoryStore

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from hftransfer.stores.hub.source import HubSource
    from hftransfer.stores.s3.store import S3Client

__all__ = ("AnyLocation", "AsyncClient", "copy")

AnyLocation: TypeAlias = str | os.PathLike[str]


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
        self._context: Context | None = None
        self._throttle = RateLimiter(self.options.bandwidth)
        self._stores = OpenStores(self.options, self._throttle)

    async def __aenter__(self) -> Self:
        self._context = Context.make(self.options, self._observer, throttle=self._throttle)
        await self._stores.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stores.__aexit__(kind, error, traceback)
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
        goals = [parse_location(target) for target in targets]
        check_goals(goals)
        return await copy_to(
            self._stores,
            parse_location(source),
            goals,
            Selection(allow_patterns, ignore_patterns),
            self._ready(),
            manifest=manifest,
            sidecar=sidecar,
        )

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
        from hftransfer._client.verify_files import verify

        place = parse_location(location)
        return await verify(
            self._stores,
            place,
            Selection(allow_patterns, ignore_patterns),
            self._ready(),
            manifest=manifest,
            against=None if against is None else parse_location(against),
        )

    async def list(self, location: AnyLocation) -> Sequence[Entry]:
        """Return all files at `location`, with sizes and, where the store knows them, digests.

        Raises:
            LocationError, NotFoundError, AccessError, TransientError: as `copy`.
        """
        self._ready()
        origin = await self._stores.source(parse_location(location))
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
        return self._stores.memory(name)

    async def hub_source(self, location: HubLocation) -> HubSource:
        """Return a repository as a source, with this client's endpoint and credentials."""
        self._ready()
        return await self._stores.hub_source(location)

    async def s3_session(self) -> S3Client:
        """Return the connection to S3, as this client's options say, under its bandwidth cap.

        It is opened when it is first asked for, and closed with the client.
        """
        self._ready()
        return await self._stores.s3_session()

    def _ready(self) -> Context:
        if self._context is None:
            raise RuntimeError("the client is not open: use it in a (async) with statement")
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
) -> Report:
    """Copy with a client of its own; see `AsyncClient.copy`.

    Args:
        options: of that client. Default: `TransferOptions.from_env()`.
    """
    async with AsyncClient(options) as client:
        return await client.copy(
            source,
            destination,
            allow_patterns=allow_patterns,
            ignore_patterns=ignore_patterns,
            manifest=manifest,
            sidecar=sidecar,
        )
