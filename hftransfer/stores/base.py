"""The two small protocols between the engine and every store.

A `Source` lists files and fills buffers; a `Sink` opens a `FileSink` per file, which
takes chunks in any order from buffers that it must not keep. The engine decides which
chunk moves when, hashes, retries and verifies; a store only moves bytes, and raises
errors of `hftransfer.errors` (a `TransientError` is tried again by the engine, per
chunk, and by nobody else).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.digests import Digest
from hftransfer._core.manifest import FileManifest, Manifest
from hftransfer._core.plan import Chunk, PartLimits
from hftransfer._core.streams import ByteStream
from hftransfer._io.file_range import FileRange

__all__ = (
    "Entry",
    "FileBackedSource",
    "FileSink",
    "FillStream",
    "SendfileSink",
    "Sink",
    "Source",
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of a source."""

    path: str
    """Relative to the source's root, with ``/`` between segments; checked by `safe_path`."""
    size: int
    """Bytes."""
    digest: Digest | None = None
    """What the source vouches for; checked while the bytes arrive."""
    etag: str | None = None
    """Version of the content, as the source names it; part of what a resume must match."""
    manifest: FileManifest | None = None
    """Chunk digests recorded by an earlier transfer; each chunk must match its own."""
    part_size: int | None = None
    """Bytes after which the store keeps the content in another piece, if it is known: ranges
    within one piece are the cheaper ones."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """What a sink may keep with the content (``content-type``, ``blob-id``, …)."""

    @property
    def identity(self) -> str:
        """Names the exact content: equal identities mean equal bytes. Empty if unknown."""
        if self.digest is not None and self.digest.is_strong:
            return str(self.digest)
        return "" if self.etag is None else f"etag:{self.etag}"


class FillStream:
    """The `ByteStream` of a source that can be read at any place: one `fill` after another."""

    def __init__(self, source: Source, entry: Entry) -> None:
        self._source = source
        self._entry = entry
        self._position = 0

    async def readinto(self, buffer: memoryview) -> None:
        await self._source.fill(self._entry, ByteRangeBuffer(self._position, buffer))
        self._position += len(buffer)


class Source(Protocol):
    """Where files come from."""

    @property
    def location(self) -> str:
        """For people: the location string, without credentials."""

    @property
    def commit(self) -> str | None:
        """The immutable version that `list` resolved to, if the store has such a thing."""

    async def list(self) -> Sequence[Entry]:
        """Return all files, in a stable order.

        Raises:
            NotFoundError: if there is nothing at the location.
            AccessError: if it may not be read.
        """

    async def fill(self, entry: Entry, span: ByteRangeBuffer) -> None:
        """Fill what is missing of `span` with the bytes of `entry`: all of it, or raise.

        What has arrived before an error stays in the span, and the next call goes on there.

        Raises:
            RangeNotSupportedError: if only the whole file can be read; see `stream`.
            SourceChangedError: if the content is no longer the one that was listed.
            TransientError: if trying again may help.
        """

    def stream(self, entry: Entry) -> AbstractAsyncContextManager[ByteStream]:
        """Open `entry` as one body, for stores or servers that cannot read ranges."""


@runtime_checkable
class FileBackedSource(Protocol):
    """A source whose files need not be read into memory, since they lie on this machine."""

    def open_file(self, entry: Entry) -> AbstractAsyncContextManager[FileRange]:
        """Open `entry`, for its bytes to be read and sent from there.

        Raises:
            SourceChangedError: also at the end, in place of what a store may have said, if
                the file is no longer the one that was listed.
            AccessError: if it may not be read.
        """


class FileSink(Protocol):
    """One file on its way into a sink."""

    @property
    def resumable_chunks(self) -> Mapping[int, str]:
        """Chunks kept from an interrupted transfer: index to XXH3-128. Not yet verified."""

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        """Fill `buffer` with a held chunk, for it to be verified and passed on."""

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        """Store `data`, whose XXH3-128 is `digest`; return when `data` may be reused.

        Chunks come in any order, several at a time, and again after a failed try.
        """

    async def commit(self, manifest: FileManifest) -> None:
        """Publish the file under its name. All chunks are written and verified."""

    async def abort(self, *, discard: bool) -> None:
        """Give up. What the next transfer can resume may stay unless `discard` is set."""


@runtime_checkable
class SendfileSink(Protocol):
    """A file sink that can take chunks from where they lie in a file.

    The bytes that it reads may be others than those that were hashed, if somebody writes
    into the file meanwhile. So it names a checksum, which it is given, too, and by which
    the other end finds that out; and the lender looks at the file again at the end.
    """

    @property
    def sendfile_checksum(self) -> str | None:
        """Name of that checksum (see `_core.checksums`), or None if chunks must come in memory."""

    async def write_file_range(
        self, chunk: Chunk, region: FileRange, digest: str, checksum: bytes
    ) -> None:
        """Store `region`, whose XXH3-128 is `digest`, as `FileSink.write` does."""


class Sink(Protocol):
    """Where files go to."""

    @property
    def location(self) -> str:
        """For people: the location string, without credentials."""

    @property
    def limits(self) -> PartLimits:
        """What one chunk may be."""

    async def prepare(self, entries: Sequence[Entry]) -> None:
        """Check that everything can be written, before any byte moves.

        Raises:
            DestinationError: if it is in the way, not writable, or too small.
            NotFoundError: if the bucket does not exist.
            AccessError: if it may not be written.
        """

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        """Open one file, or return None if exactly this content is there already."""

    async def finish(self, manifest: Manifest) -> None:
        """All files are committed: write what refers to the whole."""
