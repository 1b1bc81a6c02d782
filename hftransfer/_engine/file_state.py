"""The state of one file's transfer, shared by the three strategies that can move it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

import anyio

from hftransfer._core.digests import Digest, is_supported
from hftransfer._core.events import BytesMoved, Retrying, emit
from hftransfer._core.manifest import FileManifest
from hftransfer._core.plan import Chunk, plan_chunks
from hftransfer._engine.context import Context, TransferStats
from hftransfer._engine.file_digest import FileDigest, OrderedHasher, new_file_digest
from hftransfer._io.retry import retrying
from hftransfer.errors import IntegrityError, TransientError, UnsupportedError
from hftransfer.stores.base import Entry, FileSink, KeepingSink, RemoteSource, Source

__all__ = ("CHUNK_ATTEMPTS", "FileState", "Operation")

Operation: TypeAlias = Callable[[], Awaitable[None]]
"""An asynchronous call without arguments, which can be made again."""

# Reads of a chunk whose XXH3 differs from the recorded manifest: the bytes may have been damaged
# on their way, so they are read a second time; if they differ again, the source is wrong.
CHUNK_ATTEMPTS = 2


class FileState:
    """What is to be moved, and how far it has come. Used on the event loop only.

    Args:
        entry: the file.
        chunk_size: bytes per chunk.
        source: where to read.
        sinks: the file, opened in every sink that needs it.
        context: the client's shared limits.
        stats: counters of the whole transfer.

    Raises:
        UnsupportedError: if the source's digest cannot be computed here, and no manifest
            records the chunks.
    """

    def __init__(
        self,
        entry: Entry,
        chunk_size: int,
        source: Source,
        sinks: Sequence[FileSink],
        context: Context,
        stats: TransferStats,
    ) -> None:
        self.entry = entry
        self.source = source
        self.sinks = sinks
        self.context = context
        self.stats = stats
        self.chunks = plan_chunks(entry.size, chunk_size)
        self.started = 0
        """Chunks, from the first one on, whose bytes have been requested."""
        self.chunk_digests: list[str | None] = [None] * len(self.chunks)
        """XXH3-128 of each chunk that is verified and stored in every sink."""
        self.file_digest: FileDigest | None = None
        """Checks the digest of the whole file; None if there is none to check."""
        self._is_received_checked = False
        """True if the file's only chunk had the digest that came with its bytes."""
        self._chunk_size = chunk_size
        self._moved = 0
        """Bytes announced by `BytesMoved` events."""
        expected = _computable_digest(entry) if context.options.verify else None
        if expected is not None:
            sizes = [chunk.size for chunk in self.chunks]
            self.file_digest = new_file_digest(expected, sizes, context.file_hash_threads)

    def matches_manifest(self, chunk: Chunk, digest: str) -> bool:
        """Return True if `digest` is the recorded one, or none is recorded."""
        recorded = self.entry.manifest
        return recorded is None or recorded.chunks[chunk.index] == digest

    def is_sent(self, chunk: Chunk) -> bool:
        """Return True if a sink lacks `chunk`, as far as it is known before the bytes are."""
        return not all(
            isinstance(sink, KeepingSink) and chunk.index in sink.kept_chunks for sink in self.sinks
        )

    def chunk_mismatch(self, chunk: Chunk, digest: str) -> IntegrityError:
        """Return the error for a chunk whose XXH3 is not the recorded one."""
        recorded = self.entry.manifest
        expected = "none" if recorded is None else recorded.chunks[chunk.index]
        return IntegrityError(
            f"{self.entry.path}: XXH3 mismatch at bytes {chunk.start}-{chunk.stop - 1} of "
            f"{self.source.location}: expected {expected}, got {digest}"
        )

    @property
    def is_checked_on_arrival(self) -> bool | None:
        """As `FileTransfer.is_checked_on_arrival`."""
        is_checked = (
            self.file_digest is not None
            or self.entry.manifest is not None
            or self._is_received_checked
        )
        if is_checked:
            return True
        return False if self.chunks and isinstance(self.source, RemoteSource) else None

    async def check_received_digest(self, data: memoryview) -> None:
        """Compare the file's only chunk with the digest that came with its bytes, if one did.

        Raises:
            IntegrityError: if they differ.
            TransferError: as `RemoteSource.received_digest`.
        """
        source = self.source
        is_known = self.file_digest is not None or self.entry.manifest is not None
        if is_known or len(self.chunks) != 1 or not self.context.options.verify:
            return
        if not isinstance(source, RemoteSource):
            return
        expected = await source.received_digest(self.entry)
        if expected is None or not is_supported(expected.algorithm):
            return
        digest = OrderedHasher(expected, [len(data)], self.context.file_hash_threads)
        await digest.update(0, data)
        digest.check(self.entry.path)
        self._is_received_checked = True

    def check_file_digest(self) -> None:
        """Compare the file's digest with the source's, if that states one.

        Raises:
            IntegrityError: if they differ.
        """
        if self.file_digest is not None:
            self.file_digest.check(self.entry.path)

    def record(self, chunk: Chunk, digest: str, *, reused: int = 0) -> None:
        """Record that a chunk is verified and stored in every sink.

        Args:
            chunk: which one.
            digest: its XXH3-128.
            reused: bytes of it that an interrupted transfer had stored.
        """
        self.chunk_digests[chunk.index] = digest
        self._moved += chunk.size
        self.stats.reused += reused
        for count, is_reused in ((reused, True), (chunk.size - reused, False)):
            if count:
                emit(self.context.observer, BytesMoved(self.entry.path, count, reused=is_reused))

    def rollback_progress(self) -> None:
        """Subtract the progress that was announced, since the whole file is moved again."""
        self.started = 0
        if self._moved:
            emit(self.context.observer, BytesMoved(self.entry.path, -self._moved))
            self._moved = 0

    async def write_all(
        self, writes: Sequence[Operation], update_digest: Operation | None = None
    ) -> None:
        """Run `writes`, each with retries, and `update_digest` concurrently.

        Raises:
            BaseExceptionGroup: if there is more than one operation and one fails.
        """
        if len(writes) == 1 and update_digest is None:
            await self._write(writes[0])  # the usual case: a task group would cost more
            return
        async with anyio.create_task_group() as tasks:
            for write in writes:
                tasks.start_soon(self._write, write)
            if update_digest is not None:
                await update_digest()

    async def _write(self, write: Operation) -> None:
        with self.stats.timed("store"):
            await retrying(
                write,
                self.context.options.retry,
                subject=self.entry.path,
                on_retry=self.on_retry,
            )

    def on_retry(self, error: TransientError, delay: float) -> None:
        """Count a retry, and announce it."""
        self.stats.retries += 1
        emit(self.context.observer, Retrying(self.entry.path, error, delay))

    def manifest(self) -> FileManifest:
        """Return the record of a file whose chunks are all stored."""
        return FileManifest(
            size=self.entry.size,
            chunk_size=self._chunk_size,
            chunks=tuple(digest for digest in self.chunk_digests if digest is not None),
            digest=self.entry.digest,
        )

    def close(self) -> None:
        """End the threads of this file; nothing of it may be in progress."""
        if self.file_digest is not None:
            self.file_digest.close()


def _computable_digest(entry: Entry) -> Digest | None:
    """Return the source's digest of the whole file, if it has one that can be computed here.

    Raises:
        UnsupportedError: if it cannot be computed, and no manifest records the chunks.
    """
    digest = entry.digest
    if digest is None or is_supported(digest.algorithm):
        return digest
    if entry.manifest is None:
        raise UnsupportedError(
            f"{entry.path}: its {digest.algorithm} cannot be checked without the package awscrt"
        )
    return None
