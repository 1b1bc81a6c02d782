"""The protocols between the engine and the stores: what a new store has to implement.

A `Source` lists files and fills buffers. A `Sink` opens one `FileSink` per file, which takes
the file's chunks in any order. The engine plans chunks, schedules, hashes, verifies and
retries; a store only moves bytes. `hftransfer.stores.memory` is the shortest complete example.

Order of calls::

    source.list(), or .pages()          once
    sink.prepare(entries)               per page of the listing, before any file of that page
      sink.begin(entry, chunk_size)     per file; files run concurrently
        file_sink.read_into / .write    per chunk; chunks run concurrently
        file_sink.commit                once, or .abort
    sink.finish(manifest)               once, if the transfer succeeded

Memory of listings: a source that implements `PagedSource`, too, is listed page by page while its
files are moved, so that a listing of any length takes little memory. A sink must keep nothing per
file beyond its `FileSink`, or only a few bytes.

Threads: every method is called in the client's event loop, which runs in one thread. A method
must not block; blocking calls belong in worker threads. Every ``await`` may be cancelled.

Memory: a buffer that a method receives belongs to the engine's memory budget. A store may use it
until the method returns or raises, and must keep no reference to it afterwards.

Errors: a store raises errors of `hftransfer.errors`. The engine retries an operation that
raises a `TransientError`, per chunk and within the `RetryPolicy`; a store must not retry
reads or writes of chunks itself. Any other error ends the transfer of the file.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Container,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.capability import CapabilityMeta
from hftransfer._core.content_digest import ContentDigest
from hftransfer._core.digests import Digest
from hftransfer._core.manifest import FileManifest, Manifest
from hftransfer._core.pieces import Piece
from hftransfer._core.plan import Chunk, PartLimits
from hftransfer._core.streams import ByteStream
from hftransfer._io.file_range import FileRange
from hftransfer._io.file_version import FileVersion

__all__ = (
    "ComparingSink",
    "ConfirmingSink",
    "Entry",
    "ExclusiveSink",
    "FileBackedSource",
    "FileSink",
    "FileTreeSink",
    "FillStream",
    "KeepingSink",
    "ListingPage",
    "NameCheckingSink",
    "PagedSource",
    "PieceSink",
    "PieceWrite",
    "ReadableSink",
    "RemoteSource",
    "SendfileSink",
    "ServerCopySink",
    "Sink",
    "Source",
    "listing_pages",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One file of a source."""

    path: str
    """Relative to the source's root, with ``/`` between segments, as the source names it. It may
    lead anywhere: what makes a name of it checks it (`NameCheckingSink`)."""
    size: int
    """Bytes."""
    digest: Digest | None = None
    """Digest of the whole content as the source declares it. The engine computes it while the
    bytes arrive; a mismatch is an `IntegrityError`."""
    etag: str | None = None
    """Version of the content in the source's own terms. A transfer is resumed only if it is
    unchanged."""
    manifest: FileManifest | None = None
    """Chunk digests recorded by an earlier transfer; each chunk must match its own."""
    part_size: int | None = None
    """Bytes per part in which the store keeps the content, if known. A range within one part
    is cheaper to read than a range across a boundary."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """What a sink may store beside the content (``content-type``, ``blob-id``, …)."""
    file_version: FileVersion | None = None
    """Set for a file of this machine, which can be read again to compare it with what a sink has
    (`ComparingSink`). `etag` is its text, and means nothing elsewhere."""
    unreadable: str = ""
    """What this is, if it cannot be copied: ``a FIFO``, ``a socket``. It is listed, so that
    patterns can exclude it and an error can name it; a transfer refuses it. Empty for a file."""

    @property
    def identity(self) -> str:
        """Names the exact content: equal identities mean equal bytes. Empty if unknown."""
        if self.digest is not None and self.digest.is_strong:
            return str(self.digest)
        return "" if self.etag is None else f"etag:{self.etag}"


class ListingPage(NamedTuple):
    """A part of a listing."""

    entries: Sequence[Entry]
    is_last: bool
    """True if no page follows."""


class FillStream:
    """The `ByteStream` of a source that can read ranges: consecutive calls of `Source.fill`."""

    def __init__(self, source: Source, entry: Entry) -> None:
        self._source = source
        self._entry = entry
        self._position = 0

    async def readinto(self, buffer: memoryview) -> None:
        await self._source.fill(self._entry, ByteRangeBuffer(self._position, buffer))
        self._position += len(buffer)


class Source(Protocol):
    """Reads files."""

    @property
    def location(self) -> str:
        """The location string for messages and manifests, without credentials."""

    @property
    def commit(self) -> str | None:
        """The immutable version that `list` resolved, or None if the store has no versions."""

    async def list(self) -> Sequence[Entry]:
        """Return all files, in a stable order.

        Raises:
            NotFoundError: if there is nothing at the location.
            AccessError: if it may not be read.
        """

    async def fill(self, entry: Entry, buffer: ByteRangeBuffer) -> None:
        """Fill `buffer` with its range of `entry`, from `buffer.position` to `buffer.stop`.

        Returns when nothing is missing. On an error or a cancellation the bytes that have
        arrived stay in `buffer`, and the next call with it continues there. The engine may
        lower `buffer.limit` while this runs, when it assigns the end of the range to another
        call: bytes beyond the new limit are then not needed.

        Called concurrently, for several ranges of one file and for several files.

        Args:
            entry: as returned by `list`.
            buffer: at most one chunk.

        Raises:
            RangeNotSupportedError: if only the whole file can be read. The engine then reads
                the file with `stream`.
            SourceChangedError: if the content is not the one that was listed.
            TransientError: if a retry may succeed.
        """

    def stream(self, entry: Entry) -> AbstractAsyncContextManager[ByteStream]:
        """Open `entry` as one sequential body, for servers that cannot read ranges.

        Raises, on entry, the errors of `fill` except `RangeNotSupportedError`.
        """


@runtime_checkable
class RemoteSource(Protocol, metaclass=CapabilityMeta):
    """A source whose bytes cross a network, on which they can be damaged.

    Implemented in addition to `Source`.
    """

    async def received_digest(self, entry: Entry) -> Digest | None:
        """Return the digest of the whole content that came with its bytes, or None.

        Called once for a file of one chunk after `Source.fill`, if the entry has neither digest
        nor manifest. A digest that can be told before should be that of the entry.

        Args:
            entry: as returned by `Source.list`.

        Raises:
            TransferError: if the store has to be asked, and that fails.
        """


@runtime_checkable
class PagedSource(Protocol, metaclass=CapabilityMeta):
    """A source that can list its files page by page. Implemented in addition to `Source`."""

    def pages(self) -> AsyncIterator[ListingPage]:
        """Yield the files that `Source.list` returns, at most some thousand at a time.

        The next page is requested when the consumer asks for it. What `Source.list` sets, such as
        `commit`, is set before the first page. Raises the errors of `Source.list`.
        """


async def listing_pages(source: Source) -> AsyncGenerator[ListingPage, None]:
    """Yield the files of `source` page by page, or in one page if it is no `PagedSource`."""
    if isinstance(source, PagedSource):
        pages = source.pages()
        try:
            async for page in pages:
                yield page
        finally:
            if isinstance(pages, AsyncGenerator):
                await pages.aclose()
    else:
        yield ListingPage(await source.list(), is_last=True)


@runtime_checkable
class FileBackedSource(Protocol, metaclass=CapabilityMeta):
    """A source whose entries are files of this machine, so that the kernel can send them.

    Implemented in addition to `Source`. With a `SendfileSink`, the bytes then go from the page
    cache to the socket without passing through this process's memory.
    """

    def open_file(self, entry: Entry) -> AbstractAsyncContextManager[FileRange]:
        """Open `entry`; the range is all of it, and is valid inside the context.

        Raises:
            SourceChangedError: on entry or on exit, if the file is no longer the one that was
                listed. On exit it replaces a `TransferError` of the body: a changed file is the
                likely cause of what the store rejected.
            AccessError: if the file may not be read.
        """


class FileSink(Protocol):
    """Writes one file; returned by `Sink.begin`.

    The last call is `commit`, when every chunk is written or reused, or `abort`, after an error
    or a cancellation; if `commit` raises, `abort` follows. An empty file has no chunks, so that
    `commit` is the first call.
    """

    @property
    def resumable_chunks(self) -> Mapping[int, str]:
        """Chunks kept from an interrupted transfer: index to recorded XXH3-128, in hex.

        The engine reads each with `read_into` and hashes it; a chunk that does not match its
        record is fetched and written again.
        """

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        """Fill `buffer`, of `chunk.size` bytes, with a chunk of `resumable_chunks`."""

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        """Store `data`, of `chunk.size` bytes; return when the memory may be reused.

        Called for several chunks concurrently, in any order, and again for the same chunk
        after a `TransientError`. For a file of one chunk the engine compares the digest of the
        whole file with the source's before this call, so that an implementation may publish
        the file here.

        Args:
            chunk: the range of the file.
            data: valid during the call.
            digest: XXH3-128 of `data`, in hex.
        """

    async def commit(self, manifest: FileManifest) -> None:
        """Publish the file under its name. All chunks are written and verified."""

    async def abort(self, *, discard: bool) -> None:
        """Release everything; the file does not appear under its name.

        The engine shields this call from cancellation and gives all calls together 1.5 seconds.

        Args:
            discard: delete what was written, because its content is wrong. Otherwise chunks may
                be kept for the next transfer to resume.
        """


class PieceWrite(NamedTuple):
    """The end of a piece, whose beginning is stored already."""

    chunk: Chunk
    piece: Piece
    """All of it: from its beginning to the end of `data`."""
    start: int
    """Offset in the file of `data`."""
    data: memoryview
    """Valid during the call."""


@runtime_checkable
class PieceSink(Protocol, metaclass=CapabilityMeta):
    """A file sink that can store parts of a chunk before the rest has arrived.

    Implemented in addition to `FileSink`, so that an interrupted transfer loses little on a slow
    network. The engine calls `write_pieces` for a chunk at any time before `write_ranges`, which
    takes the place of `FileSink.write` then.
    """

    @property
    def resumable_pieces(self) -> Mapping[int, Sequence[Piece]]:
        """Pieces kept from an interrupted transfer, by the index of their chunk.

        They may overlap, and none is verified: the engine reads each with `FileSink.read_into`
        (as a `Chunk` of its range) and hashes it.
        """

    async def write_pieces(self, writes: Sequence[PieceWrite]) -> None:
        """Store pieces and record them, to be resumed."""

    async def write_ranges(
        self, chunk: Chunk, ranges: Sequence[tuple[int, memoryview]], digest: str
    ) -> None:
        """Store what `write_pieces` has not stored of a chunk, and record the chunk.

        Args:
            chunk: the range of the file; all of its bytes are stored after this call.
            ranges: offsets in the file, and the bytes there; valid during the call.
            digest: XXH3-128 of the chunk, in hex.
        """


@runtime_checkable
class KeepingSink(Protocol, metaclass=CapabilityMeta):
    """A file sink that may have chunks already, which it compares with those that it is given.

    Implemented in addition to `FileSink`, by sinks that cannot read the chunks back.
    """

    @property
    def kept_chunks(self) -> Container[int]:
        """Indices of chunks for which a write only compares."""


@runtime_checkable
class SendfileSink(Protocol, metaclass=CapabilityMeta):
    """A file sink that can also send chunks directly from an open file (sendfile(2)).

    Implemented in addition to `FileSink`. The file is read twice: once to hash it, once to send
    it. If another process writes to it in between, the bytes sent differ from the bytes hashed.
    Two checks detect that: the receiver verifies `sendfile_checksum`, which was computed
    together with the hash, and `FileBackedSource.open_file` compares the file's version
    (`FileVersion`) at the end.
    """

    @property
    def sendfile_checksum(self) -> str | None:
        """Algorithm that the receiver verifies (a name of `_core.checksums`).

        None if there is no such check: the engine then uses `FileSink.write`.
        """

    async def write_file_range(
        self, chunk: Chunk, file_range: FileRange, digest: str, checksum: bytes
    ) -> None:
        """Store `file_range`, of `chunk.size` bytes, under the same rules as `FileSink.write`.

        Args:
            chunk: the range of the file.
            file_range: where the bytes are; valid during the call.
            digest: XXH3-128 of the bytes, in hex.
            checksum: the `sendfile_checksum` of the bytes.
        """


@runtime_checkable
class ConfirmingSink(Protocol, metaclass=CapabilityMeta):
    """A file sink that sends the bytes over a network, and is told by the receiver what arrived.

    Implemented in addition to `FileSink`.
    """

    @property
    def is_confirmed(self) -> bool:
        """True if the receiver verified or returned a digest of all bytes. Read after `commit`."""


@runtime_checkable
class ExclusiveSink(Protocol, metaclass=CapabilityMeta):
    """A sink that can be told not to replace what exists. Implemented in addition to `Sink`."""

    @property
    def non_atomic(self) -> int:
        """Files whose absence was only looked up before they were written. Read at the end."""


@runtime_checkable
class FileTreeSink(Protocol, metaclass=CapabilityMeta):
    """A sink that writes into folders of a file system. In addition to `Sink`.

    The engine refuses a listing in which a file would have to be a folder, too: ``a`` and ``a/b``.
    """

    is_file_tree: Literal[True]


@runtime_checkable
class ServerCopySink(Protocol, metaclass=CapabilityMeta):
    """A sink whose store can copy files of the same store itself. In addition to `Sink`."""

    def copies_from(self, source: Source) -> bool:
        """Return True if the store may be able to copy the files of `source`."""

    async def copy_from(self, source: Source, entry: Entry) -> bool:
        """Make the store copy `entry`, as `begin`, `FileSink.write` and `.commit` would write it.

        Returns:
            False if the sink already has exactly this content.

        Raises:
            UnsupportedError: if the store does not copy files of this size: the engine then reads
                and writes the bytes.
            SourceChangedError: if the content is not the one that was listed.
        """


class Sink(Protocol):
    """Writes files."""

    @property
    def location(self) -> str:
        """The location string for messages and reports, without credentials."""

    @property
    def limits(self) -> PartLimits:
        """Smallest and largest chunk in bytes, and most chunks per file, that it accepts."""

    async def prepare(self, entries: Sequence[Entry]) -> None:
        """Check that all of `entries` can be written, before any byte of them is moved.

        Called once for every page of the listing, in order, while files of earlier pages are
        moved; for a single page, which may be empty, at least once.

        Args:
            entries: the files of the page. Each is passed to `begin` later.

        Raises:
            DestinationError: if something is in the way, or the destination is not writable
                or too small.
            NotFoundError: if the bucket does not exist.
            AccessError: if it may not be written.
        """

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        """Open one file for writing, or return None if it already has exactly this content.

        Called again for the same entry after `FileSink.abort`, if its bytes were wrong.

        Args:
            entry: what will be written.
            chunk_size: bytes per chunk, within `limits`; the last chunk may be shorter.
        """

    async def finish(self, manifest: Manifest) -> None:
        """Write what refers to the transfer as a whole, for example a manifest.

        Args:
            manifest: the files that were moved. Files that `begin` skipped, and failed files
                that the caller tolerates, are not in it.
        """


@runtime_checkable
class ComparingSink(Protocol, metaclass=CapabilityMeta):
    """A sink that can say what it has under a name, so that equal files are not sent again.

    Implemented in addition to `Sink`. The engine asks for each file of a `FileBackedSource`,
    before `Sink.begin`, and reads the file to compare it: that costs less than to send it.
    """

    async def stored_content(self, entry: Entry, chunk_size: int) -> ContentDigest | None:
        """Return the digest of what is stored under the name of `entry`.

        Args:
            entry: what would be written; its `Entry.file_version` is set.
            chunk_size: as of `Sink.begin`.

        Returns:
            None if nothing of this size is there, if its digest is not known, or if it is known
            to be the same, so that `Sink.begin` will return None.
        """

    def confirm_stored(self, entry: Entry) -> None:
        """Record that the file has the content of the last `stored_content` of `entry`."""


@runtime_checkable
class ReadableSink(Protocol, metaclass=CapabilityMeta):
    """A sink whose files can be read, so that equal ones are not fetched again.

    Implemented in addition to `Sink`. The engine asks for files of several chunks whose digest the
    source knows, before `Sink.begin`: to read a file costs less than to fetch it.
    """

    def open_existing(self, entry: Entry) -> AbstractAsyncContextManager[FileRange | None]:
        """Open the file under the name of `entry`; None if none of this size is there.

        The range is all of it, and is valid inside the context.
        """


@runtime_checkable
class NameCheckingSink(Protocol, metaclass=CapabilityMeta):
    """A sink that cannot write every `Entry.path`. Implemented in addition to `Sink`.

    Whatever this reports, `Sink.prepare` refuses.
    """

    def name_check(self) -> Callable[[str], str | None]:
        """Return a function for one listing: call it with each path, in the listing's order.

        It returns what keeps the path from being written (``has an empty segment``), or None.
        """
