"""The digest of a whole file, fed in any order."""

from __future__ import annotations

import hashlib
import math
import os
import threading

import anyio
import anyio.lowlevel
import pytest

from hftransfer._core.digests import INLINE_HASH_LIMIT, Digest
from hftransfer._engine.file_digest import OrderedHasher
from hftransfer.errors import IntegrityError

pytestmark = pytest.mark.anyio

LONG = INLINE_HASH_LIMIT + 1  # such a chunk is added in a thread
CHUNKS = [os.urandom(LONG) for _ in range(8)]
SIZE = sum(map(len, CHUNKS))


class HeldHasher:
    """Adds the first chunk when it is released, and tells when it has added another one."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.went_on = threading.Event()
        self._sha256 = hashlib.sha256()
        self._updates = 0

    def update(self, data: memoryview) -> None:
        if self._updates == 0:
            self.release.wait()
        else:
            self.went_on.set()
        self._updates += 1
        self._sha256.update(data)

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


@pytest.fixture
def threads() -> anyio.CapacityLimiter:
    return anyio.CapacityLimiter(math.inf)


def _front(chunks: list[bytes] = CHUNKS) -> OrderedHasher:
    whole = b"".join(chunks)
    return OrderedHasher(
        Digest("sha256", hashlib.sha256(whole).hexdigest()), len(whole), len(chunks)
    )


async def _pass_by() -> None:
    """Let the loop go round until what can be handed to threads has been."""
    for _ in range(100):
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("size", [100, LONG])
@pytest.mark.parametrize(
    "order", [tuple(range(8)), tuple(range(7, -1, -1)), (3, 0, 1, 7, 6, 2, 5, 4)]
)
async def test_the_order_of_arrival_does_not_matter(
    order: tuple[int, ...], size: int, threads: anyio.CapacityLimiter
) -> None:
    """Chunks wait for their turn, in threads or without."""
    chunks = [os.urandom(size) for _ in range(8)]
    front = _front(chunks)

    async with anyio.create_task_group() as tasks:
        for index in order:
            tasks.start_soon(front.feed, index, memoryview(chunks[index]), threads)
            await anyio.lowlevel.checkpoint()

    front.check("file")


async def test_the_next_chunk_follows_without_the_event_loop(
    threads: anyio.CapacityLimiter,
) -> None:
    """While the loop is busy with something else, one thread goes on where another ended."""
    front = _front()
    front._hasher = hasher = HeldHasher()

    async with anyio.create_task_group() as tasks:
        for index in range(2):
            tasks.start_soon(front.feed, index, memoryview(CHUNKS[index]), threads)
        await _pass_by()
        assert threads.borrowed_tokens == 2
        # From here on nothing else runs in this thread.
        hasher.release.set()
        assert hasher.went_on.wait(30)


async def test_few_chunks_wait_in_threads(threads: anyio.CapacityLimiter) -> None:
    """Others wait as tasks, which cost nothing and can be cancelled."""
    front = _front()
    front._hasher = hasher = HeldHasher()

    async with anyio.create_task_group() as tasks:
        for index, chunk in enumerate(CHUNKS):
            tasks.start_soon(front.feed, index, memoryview(chunk), threads)
        await _pass_by()
        assert threads.borrowed_tokens == 3
        hasher.release.set()

    front.check("file")


async def test_a_cancelled_chunk_can_be_fed_again(threads: anyio.CapacityLimiter) -> None:
    """Whatever a cancellation found under way, the digest goes on where it has come to."""
    for rounds in range(12):
        front = _front()

        async with anyio.create_task_group() as tasks:
            for index, chunk in enumerate(CHUNKS[:-1]):
                tasks.start_soon(front.feed, index, memoryview(chunk), threads)
            for _ in range(rounds):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()

        front.resume()
        for index, chunk in enumerate(CHUNKS):
            await front.feed(index, memoryview(chunk), threads)
        front.check("file")


async def test_other_bytes_have_another_digest(threads: anyio.CapacityLimiter) -> None:
    """What is wrong is told with both digests."""
    front = OrderedHasher(Digest("sha256", "0" * 64), LONG, 1)

    await front.feed(0, memoryview(CHUNKS[0]), threads)

    with pytest.raises(IntegrityError, match=f"file: its sha256 is [0-9a-f]{{64}}, not {'0' * 64}"):
        front.check("file")
