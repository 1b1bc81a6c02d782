"""`hftransfer._engine.file_digest`: the digest of a whole file, from chunks in any order."""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from collections.abc import Iterator, Sequence

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.digests import INLINE_HASH_LIMIT, Digest, new_hasher, parts_digest
from hftransfer._engine.file_digest import CombinedCrc, CombinedMd5, OrderedHasher, new_file_digest
from hftransfer.errors import IntegrityError

LONG = INLINE_HASH_LIMIT + 1  # bytes of a chunk that is hashed in a thread
CHUNKS = [os.urandom(LONG) for _ in range(8)]


class BlockingHasher:
    """A SHA-256 whose first update waits for `release`; `second_update` is set by the second."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.second_update = threading.Event()
        self._sha256 = hashlib.sha256()
        self._updates = 0

    def update(self, data: memoryview) -> None:
        if self._updates == 0:
            self.release.wait()
        else:
            self.second_update.set()
        self._updates += 1
        self._sha256.update(data)

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


def _sha256_of(chunks: Sequence[bytes]) -> OrderedHasher:
    expected = Digest("sha256", hashlib.sha256(b"".join(chunks)).hexdigest())
    return OrderedHasher(expected, [len(chunk) for chunk in chunks], anyio.CapacityLimiter(1))


@pytest.fixture
def hasher() -> Iterator[OrderedHasher]:
    """A hasher that expects `CHUNKS`."""
    hasher = _sha256_of(CHUNKS)
    yield hasher
    hasher.close()


def _hashing_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name.startswith("hftransfer-hasher")]


async def _run_other_tasks() -> None:
    """Let the event loop run until every task waits for a thread or for its turn."""
    for _ in range(100):
        await anyio.lowlevel.checkpoint()


@pytest.mark.anyio
@pytest.mark.parametrize("size", [100, LONG])
@pytest.mark.parametrize(
    "order", [tuple(range(8)), tuple(range(7, -1, -1)), (3, 0, 1, 7, 6, 2, 5, 4)]
)
async def test_order_of_arrival_does_not_matter(order: tuple[int, ...], size: int) -> None:
    """Chunks are hashed in file order, on the event loop (short ones) or in a thread."""
    chunks = [os.urandom(size) for _ in range(8)]
    hasher = _sha256_of(chunks)

    async with anyio.create_task_group() as tasks:
        for index in order:
            tasks.start_soon(hasher.update, index, memoryview(chunks[index]))
            await anyio.lowlevel.checkpoint()

    hasher.check("file")
    hasher.close()


@pytest.mark.anyio
async def test_short_last_chunk_is_hashed_after_queued_ones() -> None:
    """A chunk that is short enough for the event loop waits while others are queued."""
    chunks = [*CHUNKS[:2], b"tail"]
    hasher = _sha256_of(chunks)
    hasher._hasher = blocking = BlockingHasher()

    async with anyio.create_task_group() as tasks:
        for index, chunk in enumerate(chunks):
            tasks.start_soon(hasher.update, index, memoryview(chunk))
        await _run_other_tasks()
        blocking.release.set()

    hasher.check("file")
    hasher.close()


@pytest.mark.anyio
async def test_file_of_one_chunk_takes_a_worker_thread() -> None:
    """It has no hashing thread, which would be started for a single use."""
    hasher = _sha256_of(CHUNKS[:1])

    await hasher.update(0, memoryview(CHUNKS[0]))

    assert hasher._queue is None
    hasher.check("file")


@pytest.mark.anyio
async def test_next_chunk_follows_without_the_event_loop(hasher: OrderedHasher) -> None:
    """The hashing thread continues with the second chunk while the event loop is blocked."""
    hasher._hasher = blocking = BlockingHasher()

    async with anyio.create_task_group() as tasks:
        for index in range(2):
            tasks.start_soon(hasher.update, index, memoryview(CHUNKS[index]))
        await _run_other_tasks()
        blocking.release.set()
        assert blocking.second_update.wait(30)  # blocks the event loop


@pytest.mark.anyio
async def test_three_chunks_are_queued_for_one_thread(hasher: OrderedHasher) -> None:
    """Further chunks wait as tasks, which occupy no thread and can be cancelled."""
    hasher._hasher = blocking = BlockingHasher()
    before = _hashing_threads()

    async with anyio.create_task_group() as tasks:
        for index, chunk in enumerate(CHUNKS):
            tasks.start_soon(hasher.update, index, memoryview(chunk))
        await _run_other_tasks()
        assert hasher._queue_limiter.in_use == 3
        assert len(set(_hashing_threads()) - set(before)) == 1
        blocking.release.set()

    hasher.check("file")


@pytest.mark.anyio
@pytest.mark.parametrize("checkpoints", range(12))
async def test_hashing_continues_after_a_cancellation(
    hasher: OrderedHasher, checkpoints: int
) -> None:
    """Whenever the cancellation came, each chunk is hashed exactly once."""
    async with anyio.create_task_group() as tasks:
        for index, chunk in enumerate(CHUNKS[:-1]):
            tasks.start_soon(hasher.update, index, memoryview(chunk))
        for _ in range(checkpoints):
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()

    for index, chunk in enumerate(CHUNKS):
        await hasher.update(index, memoryview(chunk))

    hasher.check("file")


@pytest.mark.anyio
async def test_cancelled_update_returns_after_its_chunk_is_hashed(hasher: OrderedHasher) -> None:
    """The chunk's memory is reused afterwards, so the thread must not read it any more."""
    hasher._hasher = blocking = BlockingHasher()
    has_returned = False

    async def update() -> None:
        nonlocal has_returned
        try:
            await hasher.update(0, memoryview(CHUNKS[0]))
        finally:
            has_returned = True

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(update)
        await _run_other_tasks()
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await _run_other_tasks()
            assert not has_returned
            blocking.release.set()

    assert has_returned
    assert blocking.hexdigest() == hashlib.sha256(CHUNKS[0]).hexdigest()


@pytest.mark.anyio
async def test_error_in_the_thread_is_raised_by_update(hasher: OrderedHasher) -> None:
    """It reaches the task of the chunk, which does not wait for ever."""
    released = memoryview(bytearray(LONG))

    class Failing(BlockingHasher):
        def update(self, data: memoryview) -> None:
            raise ValueError("released")

    hasher._hasher = Failing()

    with pytest.raises(ValueError, match="released"):
        await hasher.update(0, released)


@pytest.mark.anyio
async def test_close_ends_the_thread(hasher: OrderedHasher) -> None:
    """Nothing of a file outlives its transfer."""
    before = _hashing_threads()
    await hasher.update(0, memoryview(CHUNKS[0]))
    (thread,) = set(_hashing_threads()) - set(before)

    hasher.close()

    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.anyio
async def test_other_bytes_have_another_digest() -> None:
    """The error names the file, the algorithm and both digests."""
    hasher = OrderedHasher(Digest("sha256", "0" * 64), [LONG], anyio.CapacityLimiter(1))
    found = hashlib.sha256(CHUNKS[0]).hexdigest()

    await hasher.update(0, memoryview(CHUNKS[0]))

    message = f"file: sha256 mismatch: expected {'0' * 64}, got {found}"
    with pytest.raises(IntegrityError, match=message):
        hasher.check("file")


# --- CRCs


def _crc32_of(chunks: Sequence[bytes]) -> CombinedCrc:
    expected = Digest("crc32", f"{zlib.crc32(b''.join(chunks)):08x}")
    return CombinedCrc(expected, [len(chunk) for chunk in chunks])


@given(chunks=st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=8), data=st.data())
def test_crcs_of_chunks_combine_in_any_order(chunks: list[bytes], data: st.DataObject) -> None:
    """Their combination is the CRC of the file; a chunk that was read twice counts once."""
    crc = _crc32_of(chunks)

    for index in data.draw(st.permutations(range(len(chunks)))):
        crc.record(index, crc.compute(memoryview(b"damaged on its way")))
        crc.record(index, crc.compute(memoryview(chunks[index])))

    crc.check("file")


@pytest.mark.parametrize("content", [b"other bytes", None])
def test_wrong_or_missing_chunk_is_found(content: bytes | None) -> None:
    """One chunk decides about the file."""
    crc = _crc32_of([b"first", b"second"])
    crc.record(0, crc.compute(memoryview(b"first")))
    if content is not None:
        crc.record(1, crc.compute(memoryview(content)))

    with pytest.raises(IntegrityError, match="file: crc32 mismatch"):
        crc.check("file")


@pytest.mark.parametrize(
    ("algorithm", "kind"),
    [("sha256", OrderedHasher), ("md5", OrderedHasher), ("crc32", CombinedCrc)],
)
def test_algorithm_decides_how_a_digest_is_computed(algorithm: str, kind: type) -> None:
    """CRCs are combined; other digests need the bytes in file order."""
    digest = new_file_digest(Digest(algorithm, "00"), [1, 2], anyio.CapacityLimiter(1))

    assert isinstance(digest, kind)


@given(
    content=st.binary(min_size=1, max_size=64),
    part_size=st.integers(1, 9),
    parts_per_chunk=st.integers(1, 3),
    data=st.data(),
)
def test_the_md5_of_parts_is_combined_from_chunks_in_any_order(
    content: bytes, part_size: int, parts_per_chunk: int, data: st.DataObject
) -> None:
    """If chunks consist of whole parts; the result is that of hashing in file order."""
    hasher = new_hasher(f"md5-parts-{part_size}", len(content))
    hasher.update(memoryview(content))
    expected = parts_digest(hasher.hexdigest(), part_size)
    chunk_size = part_size * parts_per_chunk
    chunks = [content[start : start + chunk_size] for start in range(0, len(content), chunk_size)]
    digest = new_file_digest(expected, [len(each) for each in chunks], anyio.CapacityLimiter(1))
    assert isinstance(digest, CombinedMd5)
    for index in data.draw(st.permutations(range(len(chunks)))):
        digest.record(index, digest.compute(memoryview(chunks[index])))

    digest.check("file")
    digest.record(0, digest.compute(memoryview(bytes([chunks[0][0] ^ 1]) + chunks[0][1:])))
    with pytest.raises(IntegrityError, match="file: md5-parts-"):
        digest.check("file")


def test_parts_that_cross_chunks_are_hashed_in_file_order() -> None:
    """An MD5 cannot be combined from pieces."""
    expected = parts_digest("00-2", 4)

    assert isinstance(new_file_digest(expected, [3, 3], anyio.CapacityLimiter(1)), OrderedHasher)
