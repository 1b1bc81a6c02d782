"""Checkpoints: what has arrived of unfinished chunks is stored, so that a kill loses little.

A chunk is written and recorded when it is complete. With many connections on a slow network that
is late: 16 chunks of 8 MiB arrive at 2 MB/s within a minute, and a process that is killed before
has stored nothing. So a `Checkpointer` looks at the chunks in flight, and when `is_due` says so it
writes what has arrived of them as pieces (`_core.pieces`). What a kill can lose is then

- `FLUSH_SIZE`, and what arrives between two looks and while pieces are written: at any rate for
  which the disk is fast enough a few MiB, since `next_look` follows the rate;
- less than `GRANULE` for each range in flight.

A piece is written once, and the end of a chunk writes only what is missing, so that checkpoints
cost no additional bytes on the disk. They do not begin or end where a request does: a piece is the
beginning of a `ByteRangeBuffer`, and grows with it.

`is_due`, `next_look` and `storable` are the decisions, as pure functions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import anyio
import anyio.to_thread

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.digests import Hasher, new_hasher
from hftransfer._core.pieces import Piece, missing_ranges
from hftransfer._core.plan import Chunk
from hftransfer.errors import TransferError
from hftransfer.stores.base import FileSink, PieceSink, PieceWrite

__all__ = (
    "FLUSH_SIZE",
    "GRANULE",
    "Checkpointer",
    "ChunkProgress",
    "is_due",
    "next_look",
    "piece_sinks",
    "storable",
)

FLUSH_SIZE = 4 << 20
"""Bytes that have arrived and are not stored, of all chunks together, at which they are written.
Large enough to spread the cost of two calls of worker threads, about 0.1 ms."""
GRANULE = 64 * 1024
"""Pieces grow by multiples of this many bytes, so that few and aligned writes are made."""
# Seconds after which less is written, too. On a network this slow the write costs nothing.
_FLUSH_SECONDS = 5.0
# Bounds of the seconds between two looks, and the first interval. A look takes some microseconds.
_MIN_INTERVAL = 0.002
_MAX_INTERVAL = 0.25
_FIRST_INTERVAL = 0.01


def is_due(unstored: int, seconds: float) -> bool:
    """Return True if pieces should be written now.

    Args:
        unstored: bytes that have arrived and are not stored.
        seconds: since pieces were written.
    """
    return unstored >= FLUSH_SIZE or (unstored >= GRANULE and seconds >= _FLUSH_SECONDS)


def next_look(unstored: int, seconds: float, previous: float) -> float:
    """Return the seconds until the next look at the chunks in flight.

    Args:
        unstored: bytes that have arrived and are not stored.
        seconds: in which they arrived.
        previous: seconds between the last two looks. The result is at most twice as long.
    """
    longest = min(_MAX_INTERVAL, 2 * previous)
    if unstored <= 0:
        return longest
    until_due = max(0, FLUSH_SIZE - unstored) * seconds / unstored
    return max(_MIN_INTERVAL, min(longest, until_due))


def storable(arrived: int, stored: int, limit: int) -> int:
    """Return how many bytes of a range should be stored: a multiple of `GRANULE`, or all.

    Args:
        arrived: bytes of the range that have arrived.
        stored: bytes of it that are stored.
        limit: bytes of the range.
    """
    if arrived >= limit:
        return limit
    return max(stored, arrived - arrived % GRANULE)


@dataclass(eq=False)
class _GrowingPiece:
    """The stored beginning of one `ByteRangeBuffer`."""

    resets: int
    """`ByteRangeBuffer.resets` when the piece began: later its bytes are others."""
    size: int = 0
    """Bytes that are stored."""
    digest: str = ""
    hasher: Hasher = field(default_factory=partial(new_hasher, "xxhash128", 0))


class ChunkProgress:
    """One chunk in flight: the ranges that are being filled, and what is stored of them.

    Args:
        chunk: which one.
        data: its memory.
        sinks: that can store pieces, of the file.
        restored: by sink, pieces that an interrupted transfer stored, verified. They are in
            `data` already.
    """

    def __init__(
        self,
        chunk: Chunk,
        data: memoryview,
        sinks: Sequence[PieceSink],
        restored: Mapping[PieceSink, Sequence[Piece]] | None = None,
    ) -> None:
        self.chunk = chunk
        self.sinks = sinks
        self._restored = restored or {}
        known = next(iter(self._restored.values()), ())
        self.restored_size = sum(piece.size for piece in known)
        """Bytes that need not be fetched."""
        self.gaps = [
            ByteRangeBuffer(start, data[start - chunk.start : stop - chunk.start])
            for start, stop in missing_ranges(known, chunk.start, chunk.stop)
        ]
        """The ranges to be filled."""
        self._pieces: dict[ByteRangeBuffer, _GrowingPiece] = {}

    def _growing(self) -> Iterable[tuple[ByteRangeBuffer, _GrowingPiece]]:
        for gap in self.gaps:
            for buffer in gap.ranges():
                piece = self._pieces.get(buffer)
                if piece is None or piece.resets != buffer.resets:
                    piece = self._pieces[buffer] = _GrowingPiece(buffer.resets)
                yield buffer, piece

    def unstored(self) -> int:
        """Return the bytes that have arrived and are not stored."""
        return sum(max(0, buffer.arrived - piece.size) for buffer, piece in self._growing())

    def collect(self) -> list[_Growth]:
        """Return what should be stored now."""
        return [
            _Growth(self.chunk, buffer, piece, size)
            for buffer, piece in self._growing()
            if (size := storable(buffer.arrived, piece.size, buffer.limit)) > piece.size
        ]

    def stored(self) -> Mapping[PieceSink, Sequence[Piece]]:
        """Return the pieces that each sink has, in file order. All bytes must have arrived.

        Bytes may have been written to the memory of a piece after it was stored: twice the same
        ones by two requests, or others after a reset. The caller compares the digests.
        """
        if not self._pieces:
            return self._restored  # the usual case on a fast network, and for every small file
        grown = [
            Piece(buffer.start, piece.size, piece.digest)
            for buffer, piece in self._growing()
            if piece.size
        ]
        return {sink: sorted([*self._restored.get(sink, ()), *grown]) for sink in self.sinks}


@dataclass(frozen=True, eq=False)
class _Growth:
    """The next step of one piece."""

    chunk: Chunk
    buffer: ByteRangeBuffer
    piece: _GrowingPiece
    size: int
    """Bytes of the piece once this is stored."""

    @property
    def data(self) -> memoryview:
        return self.buffer.memory[self.piece.size : self.size]

    def hash(self) -> None:
        """Advance the digest, in a worker thread."""
        self.piece.hasher.update(self.data)
        self.piece.digest = self.piece.hasher.hexdigest()

    def write(self) -> PieceWrite:
        """Return the arguments for `PieceSink.write_pieces`, after `hash`."""
        start = self.buffer.start
        piece = Piece(start, self.size, self.piece.digest)
        return PieceWrite(self.chunk, piece, start + self.piece.size, self.data)

    def finish(self) -> None:
        """Record that the sinks have stored this."""
        self.piece.size = self.size


class Checkpointer:
    """Stores what has arrived of the chunks of all transfers of one client.

    Everything runs on the client's event loop, and worker threads hash and write. A chunk may not
    leave its memory while a thread reads it: `remove` waits for that.

    Args:
        hash_threads: limits the worker threads that hash.
        clock: seconds that only go forward.
    """

    def __init__(
        self, hash_threads: anyio.CapacityLimiter, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._hash_threads = hash_threads
        self._clock = clock
        self._in_flight: dict[ChunkProgress, None] = {}
        self._being_stored: set[ChunkProgress] = set()
        self._stored: anyio.Event | None = None
        """Set when the pieces of `_being_stored` are written; None while there are none."""
        self._stored_at = clock()

    def add(self, progress: ChunkProgress) -> None:
        """Look at a chunk from now on."""
        if progress.sinks:
            self._in_flight[progress] = None

    async def remove(self, progress: ChunkProgress) -> None:
        """Stop looking at a chunk; return when no thread uses its memory, even if cancelled."""
        self._in_flight.pop(progress, None)
        if self._stored is not None and progress in self._being_stored:
            with anyio.CancelScope(shield=True):
                await self._stored.wait()

    async def run(self) -> None:
        """Store pieces when they are due, until cancelled."""
        interval = _FIRST_INTERVAL
        while True:
            await anyio.sleep(interval)
            unstored = sum(progress.unstored() for progress in self._in_flight)
            seconds = self._clock() - self._stored_at
            if self._stored is None and is_due(unstored, seconds):
                await self.flush()
                interval = max(_MIN_INTERVAL, min(interval, seconds / 2))
            else:
                interval = next_look(unstored, seconds, interval)

    async def flush(self) -> None:
        """Store what has arrived. A failure is left to the chunk's own write, which repeats it."""
        growths: dict[tuple[PieceSink, ...], list[_Growth]] = {}
        for progress in self._in_flight:
            found = progress.collect()
            if found:
                growths.setdefault(tuple(progress.sinks), []).extend(found)
                self._being_stored.add(progress)
        if growths:
            stored = self._stored = anyio.Event()
            try:
                # A digest that was advanced must be recorded as such: no half step.
                with anyio.CancelScope(shield=True):
                    await self._store(growths)
            finally:
                self._being_stored.clear()
                self._stored = None
                stored.set()
        self._stored_at = self._clock()

    async def _store(self, growths: Mapping[tuple[PieceSink, ...], Sequence[_Growth]]) -> None:
        await anyio.to_thread.run_sync(
            _hash_all,
            [growth for found in growths.values() for growth in found],
            limiter=self._hash_threads,
        )
        async with anyio.create_task_group() as tasks:
            for sinks, found in growths.items():
                tasks.start_soon(partial(self._write, sinks, found))

    async def _write(self, sinks: Sequence[PieceSink], growths: Sequence[_Growth]) -> None:
        writes = [growth.write() for growth in growths]
        try:
            for sink in sinks:
                await sink.write_pieces(writes)
        except TransferError:
            for progress in self._being_stored:
                if tuple(progress.sinks) == tuple(sinks):
                    self._in_flight.pop(progress, None)
            return
        for growth in growths:
            growth.finish()


def _hash_all(growths: Sequence[_Growth]) -> None:
    for growth in growths:
        growth.hash()


def piece_sinks(sinks: Sequence[FileSink]) -> list[PieceSink]:
    """Return those of `sinks` that can store pieces."""
    return [sink for sink in sinks if isinstance(sink, PieceSink)]
