"""`hftransfer.stores.memory`: listing, reading, writing, planned errors and blocked reads."""

from __future__ import annotations

import hashlib

import anyio
import pytest

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.digests import chunk_digest
from hftransfer._core.manifest import FileManifest, Manifest
from hftransfer._core.plan import PartLimits, plan_chunks
from hftransfer.errors import NetworkError, NotFoundError, RangeNotSupportedError
from hftransfer.stores.base import Entry
from hftransfer.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

CHUNK = 1000
CONTENT = bytes(index % 253 for index in range(2 * CHUNK + 345))
CHUNKS = plan_chunks(len(CONTENT), CHUNK)
MANIFEST = FileManifest(
    size=len(CONTENT),
    chunk_size=CHUNK,
    chunks=tuple(chunk_digest(memoryview(CONTENT)[c.start : c.stop]) for c in CHUNKS),
)


async def read(store: MemoryStore, entry: Entry, start: int, stop: int) -> bytes:
    buffer = bytearray(stop - start)
    await store.fill(entry, ByteRangeBuffer(start, memoryview(buffer)))
    return bytes(buffer)


async def test_files_are_listed_with_digests_and_read() -> None:
    """Entries are sorted and have a sha256; `fill` and `stream` return the same bytes."""
    store = MemoryStore({"b.bin": CONTENT, "a/c.json": b"{}"})
    small, large = await store.list()

    assert (small.path, large.path) == ("a/c.json", "b.bin")
    assert str(large.digest) == f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    assert await read(store, large, 10, 20) == CONTENT[10:20]
    head, rest = bytearray(7), bytearray(len(CONTENT) - 7)
    async with store.stream(large) as body:
        await body.readinto(memoryview(head))
        await body.readinto(memoryview(rest))
    assert bytes(head + rest) == CONTENT
    assert store.reads == [("b.bin", 10, 20), ("b.bin", 0, 7), ("b.bin", 7, len(CONTENT))]


async def test_without_digests_the_etag_identifies_the_content() -> None:
    """With `digests=False` an entry has no digest, and another content has another identity."""
    store = MemoryStore({"a": b"1"}, digests=False)
    (before,) = await store.list()
    store.files["a"] = b"2"
    (after,) = await store.list()

    assert before.digest is None
    assert before.identity != after.identity


async def test_an_empty_store_is_not_found() -> None:
    """Listing a store without files raises `NotFoundError`."""
    with pytest.raises(NotFoundError, match="memory://none/: nothing there"):
        await MemoryStore(location="memory://none/").list()


async def test_without_ranges_only_whole_files_are_read() -> None:
    """With `ranges=False` a partial read raises; a whole read and `stream` do not."""
    store = MemoryStore({"a": CONTENT}, ranges=False)
    (entry,) = await store.list()

    with pytest.raises(RangeNotSupportedError):
        await read(store, entry, 0, 10)
    assert await read(store, entry, 0, len(CONTENT)) == CONTENT
    async with store.stream(entry) as body:
        await body.readinto(memoryview(bytearray(10)))


async def test_a_planned_error_is_raised_by_matching_operations_only() -> None:
    """Operation, path and start must match; after `times` errors operations succeed again."""
    store = MemoryStore({"a": CONTENT, "b": CONTENT})
    first, second = await store.list()
    store.fail("read", NetworkError("planned"), path="a", start=10, times=2)

    await read(store, second, 10, 20)
    await read(store, first, 0, 20)
    for _ in range(2):
        with pytest.raises(NetworkError, match="planned"):
            await read(store, first, 10, 20)
    assert await read(store, first, 10, 20) == CONTENT[10:20]
    assert len(store.reads) == 5


async def test_a_blocked_read_waits_for_its_event() -> None:
    """Other reads continue, so that a test controls the order in which chunks arrive."""
    store = MemoryStore({"a": CONTENT})
    (entry,) = await store.list()
    event = store.hold("a", 0)
    order: list[int] = []

    async def read_at(start: int) -> None:
        await read(store, entry, start, start + 10)
        order.append(start)
        if start == 100:
            event.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read_at, 0)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(read_at, 100)

    assert order == [100, 0]


async def test_a_file_is_stored_on_commit() -> None:
    """Chunks are written in any order; before `commit` there is no file of that name."""
    store = MemoryStore(limits=PartLimits())
    await store.prepare([])
    file = await store.begin(Entry(path="a", size=len(CONTENT)), CHUNK)
    assert file is not None
    for chunk in reversed(CHUNKS):
        data = memoryview(CONTENT)[chunk.start : chunk.stop]
        await file.write(chunk, data, chunk_digest(data))

    assert store.files == {}
    assert store.open_files == 1
    await file.commit(MANIFEST)
    await store.finish(Manifest(source="test", files={"a": MANIFEST}))
    assert store.files == {"a": CONTENT}
    assert store.open_files == 0


@pytest.mark.parametrize("discard", [False, True])
async def test_an_aborted_file_keeps_its_chunks_unless_discarded(discard: bool) -> None:
    """The next `begin` finds the written chunks and their digests, or none after a discard."""
    store = MemoryStore()
    entry = Entry(path="a", size=len(CONTENT))
    first = await store.begin(entry, CHUNK)
    assert first is not None
    data = memoryview(CONTENT)[CHUNKS[1].start : CHUNKS[1].stop]
    await first.write(CHUNKS[1], data, chunk_digest(data))
    await first.abort(discard=discard)
    second = await store.begin(entry, CHUNK)
    assert second is not None

    assert store.files == {}
    assert dict(second.resumable_chunks) == ({} if discard else {1: MANIFEST.chunks[1]})
    if not discard:
        buffer = bytearray(CHUNK)
        await second.read_into(CHUNKS[1], memoryview(buffer))
        assert buffer == data
