"""Digests of whole files, computed while the chunks arrive in any order.

There are two kinds:

- SHA-256, MD5, git's SHA-1 and XXH3 need the bytes in file order. `OrderedHasher` holds a
  chunk that arrives early until all chunks before it are queued for hashing.
- The CRC of a file is combined from the CRCs of its chunks (`CombinedCrc`). Each of them is
  computed together with the chunk's XXH3, while the chunk is in the core's cache, and no
  chunk waits for another one. So is the MD5 of parts' MD5s, if each chunk consists of whole parts
  (`CombinedMd5`).

`new_file_digest` returns the one that an expected digest needs.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import TypeAlias

import anyio
import anyio.to_thread

from hftransfer._core.checksums import checksum, combine_crcs
from hftransfer._core.digests import (
    INLINE_HASH_LIMIT,
    Digest,
    Hasher,
    new_hasher,
    part_size_of,
)
from hftransfer._io.limiter import ResizableLimiter
from hftransfer.errors import IntegrityError

__all__ = (
    "CombinedCrc",
    "CombinedDigest",
    "CombinedMd5",
    "FileDigest",
    "OrderedHasher",
    "new_file_digest",
)

# Chunks of one file in the queue of its hashing thread, the one being hashed included. With
# one, the thread is idle between two chunks until the event loop runs again; the second
# keeps it busy, the third covers an event loop that is late. More would only delay a
# cancellation, which waits until the queue is empty.
_QUEUE_LIMIT = 3
_MD5_SIZE = 16  # bytes


class OrderedHasher:
    """The digest of a file whose bytes must be hashed in file order.

    A file of several chunks has one hashing thread, which reads a queue, so that it need not
    wait for the event loop between two chunks. The event loop fills the queue in file order.
    A chunk that arrives early waits outside the queue, as a task: it occupies no thread and
    can be cancelled. (Measured against worker threads that wait for each other, one per chunk,
    with 1 GiB in memory, chunks of 8 MiB and SHA-256: 0.53 s instead of 0.56 s, and a third of
    the context switches; with 12 files of 64 MiB at once, no difference beyond the noise of 5 %.)

    The event loop's thread owns every attribute, except that the hashing thread owns
    `_hasher` while an `update` waits for it.

    Args:
        expected: what the digest should be.
        sizes: bytes of each chunk.
        threads: the limiter of the worker threads that hash files of one chunk. For such a
            file, starting a thread would cost more than hashing.
    """

    def __init__(
        self, expected: Digest, sizes: Sequence[int], threads: anyio.CapacityLimiter
    ) -> None:
        self._expected = expected
        self._hasher = new_hasher(expected.algorithm, sum(sizes))
        self._has_one_chunk = len(sizes) == 1
        self._threads = threads
        self._position = 0
        """Index of the first chunk that is neither hashed nor queued."""
        self._turns: dict[int, anyio.Event] = {}
        """For each waiting chunk, the event that is set when the chunk before it is queued."""
        self._queue_limiter = ResizableLimiter(_QUEUE_LIMIT)
        self._queue: _Queue | None = None
        """Read by the hashing thread; None while there is no thread."""

    async def update(self, index: int, data: memoryview) -> None:
        """Hash chunk `index` after all chunks before it; return when it is hashed.

        A chunk that is hashed already is ignored. If this is cancelled, the chunk is either
        hashed or was not queued, so that a later `update` continues where this one ended.

        Args:
            index: of the chunk, from 0.
            data: its bytes, which must not change until this returns.
        """
        if index > self._position:
            await self._wait_for_turn(index)
        if index < self._position:
            return
        if len(data) <= INLINE_HASH_LIMIT and not self._queue_limiter.in_use:
            self._hasher.update(data)
            self._advance()
        elif self._has_one_chunk:
            self._advance()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._hasher.update, data, limiter=self._threads)
        else:
            async with self._queue_limiter:
                self._advance()
                await self._hash_in_thread(data)

    async def _wait_for_turn(self, index: int) -> None:
        turn = self._turns[index] = anyio.Event()
        try:
            await turn.wait()
        finally:
            del self._turns[index]

    def _advance(self) -> None:
        self._position += 1
        if turn := self._turns.get(self._position):
            turn.set()

    async def _hash_in_thread(self, data: memoryview) -> None:
        """Queue `data` for the hashing thread; wait until it is hashed, even if cancelled."""
        if self._queue is None:
            self._queue = SimpleQueue()
            threading.Thread(
                target=_hash_queue,
                args=(self._hasher, self._queue),
                name="hftransfer-hasher",
                daemon=True,
            ).start()
        chunk = _QueuedChunk(data)
        self._queue.put(chunk)
        with anyio.CancelScope(shield=True):
            await chunk.hashed.wait()
        if chunk.error is not None:
            raise chunk.error

    def close(self) -> None:
        """End the hashing thread. Every `update` must have returned."""
        if self._queue is not None:
            self._queue.put(None)
            self._queue = None

    def check(self, path: str) -> None:
        """Compare with the expected digest.

        Raises:
            IntegrityError: if they differ.
        """
        _compare(path, self._expected, self._hasher.hexdigest())


class _QueuedChunk:
    """The bytes of a chunk in the queue of a hashing thread. Made on the event loop."""

    __slots__ = ("_call_soon", "_data", "error", "hashed")

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._call_soon = _call_soon_threadsafe()
        self.hashed = anyio.Event()
        """Set, on the event loop, when the thread is done with the chunk."""
        self.error: BaseException | None = None
        """Raised by the hasher. Read once `hashed` is set."""

    def hash(self, hasher: Hasher) -> None:
        """Hash the chunk, in the hashing thread."""
        try:
            hasher.update(self._data)
        except BaseException as error:  # noqa: BLE001 - raised by `update`
            self.error = error
        with suppress(RuntimeError):  # the event loop was closed, and no task waits any more
            self._call_soon(self.hashed.set)


_Queue: TypeAlias = "SimpleQueue[_QueuedChunk | None]"
"""Chunks in file order, and None at the end."""


def _hash_queue(hasher: Hasher, queue: _Queue) -> None:
    """Hash the chunks of one file. This is all that a hashing thread runs."""
    while True:
        chunk = queue.get()
        if chunk is None:
            return
        chunk.hash(hasher)
        del chunk  # or its memory would stay in use while the queue is empty


def _call_soon_threadsafe() -> Callable[[Callable[[], None]], object]:
    """Return a function by which any thread can schedule a call on the running event loop.

    anyio has `anyio.from_thread.run_sync`, but that blocks the thread until the call has run.
    """
    try:
        return asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:  # not asyncio: the engine runs on trio, too
        import trio

        return trio.lowlevel.current_trio_token().run_sync_soon


class CombinedCrc:
    """The CRC of a file, combined from the CRCs of its chunks (see `combine_crcs`).

    Args:
        expected: what the CRC should be.
        sizes: bytes of each chunk.
    """

    def __init__(self, expected: Digest, sizes: Sequence[int]) -> None:
        self._expected = expected
        self._name = expected.algorithm.upper()
        self._sizes = sizes
        self._values: dict[int, bytes] = {}

    def compute(self, data: memoryview) -> bytes:
        """Return the CRC of a chunk. Touches no state, so any thread may call it."""
        return checksum(self._name, data, "")

    def record(self, index: int, value: bytes) -> None:
        """Record the CRC of chunk `index`, in place of an earlier one."""
        self._values[index] = value

    def close(self) -> None:
        """There is no thread to end."""

    def check(self, path: str) -> None:
        """Compare the CRC of all chunks with the expected one.

        Raises:
            IntegrityError: if they differ, or a chunk is missing.
        """
        parts = [(self._values.get(index, b""), size) for index, size in enumerate(self._sizes)]
        _compare(path, self._expected, combine_crcs(self._name, parts).hex())


class CombinedMd5:
    """The MD5 of parts' MD5s (see `parts_digest`), if each chunk consists of whole parts.

    MD5 is slow, and so every core computes it for another chunk.

    Args:
        expected: what the digest should be.
        part_size: bytes of every part but the last.
    """

    def __init__(self, expected: Digest, part_size: int) -> None:
        self._expected = expected
        self._part_size = part_size
        self._values: dict[int, bytes] = {}

    def compute(self, data: memoryview) -> bytes:
        """Return the MD5s of a chunk's parts in order. Touches no state, as in `CombinedCrc`."""
        starts = range(0, len(data), self._part_size)
        return b"".join(_md5(data[start : start + self._part_size]) for start in starts)

    def record(self, index: int, value: bytes) -> None:
        """Record the MD5s of chunk `index`, in place of earlier ones."""
        self._values[index] = value

    def close(self) -> None:
        """There is no thread to end."""

    def check(self, path: str) -> None:
        """Compare the MD5 of all parts' MD5s with the expected one.

        Raises:
            IntegrityError: if they differ, or a chunk is missing.
        """
        joined = b"".join(value for _, value in sorted(self._values.items()))
        _compare(path, self._expected, f"{_md5(joined).hex()}-{len(joined) // _MD5_SIZE}")


def _md5(data: memoryview | bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


CombinedDigest: TypeAlias = CombinedCrc | CombinedMd5
"""Digests that are combined from values of the chunks, in any order."""
FileDigest: TypeAlias = OrderedHasher | CombinedDigest


def new_file_digest(
    expected: Digest, sizes: Sequence[int], threads: anyio.CapacityLimiter
) -> FileDigest:
    """Return what computes and checks `expected` for a file with chunks of `sizes` bytes.

    Args:
        expected: the file's digest; its algorithm is supported (see `is_supported`).
        sizes: bytes of each chunk.
        threads: see `OrderedHasher`.
    """
    if not expected.is_strong:
        return CombinedCrc(expected, sizes)
    part_size = part_size_of(expected.algorithm)
    if part_size is not None and not any(size % part_size for size in sizes[:-1]):
        return CombinedMd5(expected, part_size)
    return OrderedHasher(expected, sizes, threads)


def _compare(path: str, expected: Digest, found: str) -> None:
    if found != expected.value:
        raise IntegrityError(
            f"{path}: {expected.algorithm} mismatch: expected {expected.value}, got {found}"
        )
