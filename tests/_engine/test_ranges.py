"""`hftransfer._engine.ranges`: files chunk by chunk, retried, resumed, within the budget."""

from __future__ import annotations

import os

import anyio
import anyio.lowlevel
import pytest

from hftransfer._core.events import Event, Retrying
from hftransfer._engine.transfer import Context, transfer
from hftransfer.errors import AccessError, IntegrityError, NetworkError
from hftransfer.stores.memory import MemoryStore
from support.engine import CHUNK, FILES, OPTIONS, move

pytestmark = pytest.mark.anyio


async def test_chunk_that_does_not_match_the_manifest_is_rejected() -> None:
    """One wrong byte is found, and the file is not published."""
    report = await move(MemoryStore(FILES), MemoryStore())
    damaged = {**FILES, "exact": b"x" + FILES["exact"][1:]}
    sink = MemoryStore()

    with pytest.raises(
        IntegrityError,
        match=r"exact: XXH3 mismatch at bytes 0-65535 of .*: expected [0-9a-f]{32}, got ",
    ):
        await move(MemoryStore(damaged, digests=False), sink, manifest=report.manifest)

    assert "exact" not in sink.files
    assert sink.open_files == 0


async def test_failed_reads_and_writes_are_retried() -> None:
    """A transient failure costs one more try of its chunk and nothing else."""
    source, sink = MemoryStore(FILES), MemoryStore()
    source.fail("read", NetworkError("cut"), path="folder/large", start=CHUNK, times=2)
    sink.fail("write", NetworkError("cut"), path="exact", times=2)
    events: list[Event] = []

    report = await move(source, sink, context=Context.make(OPTIONS, events.append))

    assert sink.files == FILES
    assert report.retries == 4
    assert sum(isinstance(event, Retrying) for event in events) == 4
    assert source.reads.count(("folder/large", CHUNK, 2 * CHUNK)) == 3


async def test_retries_end() -> None:
    """After the policy's attempts the last error is raised, with their number."""
    source, sink = MemoryStore(FILES), MemoryStore()
    source.fail("read", NetworkError("cut"), path="small", times=3)

    with pytest.raises(NetworkError, match=r"cut \(gave up after 3 attempts\)"):
        await move(source, sink)

    assert sink.open_files == 0


async def test_permanent_errors_are_not_retried() -> None:
    """Only a `TransientError` may succeed later."""
    source = MemoryStore(FILES)
    source.fail("read", AccessError("no"), path="small")

    with pytest.raises(AccessError):
        await move(source, MemoryStore())

    assert sum(read[0] == "small" for read in source.reads) == 1


async def test_interrupted_file_resumes_with_its_missing_chunks() -> None:
    """Chunks that the sink kept are verified and not read from the source."""
    source, sink = MemoryStore(FILES), MemoryStore()
    source.fail("read", AccessError("revoked"), path="folder/large", start=8 * CHUNK)
    with pytest.raises(AccessError):
        await move(source, sink)
    kept = set(sink.resumable_chunks["folder/large"])
    source.reads.clear()

    report = await move(source, sink)

    assert sink.files == FILES
    fetched = {start // CHUNK for path, start, _ in source.reads if path == "folder/large"}
    assert set(range(10)) - kept == fetched
    assert len(kept) * CHUNK == report.reused_bytes


async def test_damaged_kept_chunk_is_read_from_the_source() -> None:
    """A kept chunk is reused only if its bytes match its recorded digest."""
    source, sink = MemoryStore(FILES), MemoryStore()
    source.fail("read", AccessError("revoked"), path="folder/large", start=8 * CHUNK)
    with pytest.raises(AccessError):
        await move(source, sink)
    sink.corrupt_resumable_chunk("folder/large", min(sink.resumable_chunks["folder/large"]))

    await move(source, sink)

    assert sink.files == FILES


async def test_chunk_kept_by_one_sink_is_written_to_the_others() -> None:
    """It is not read from the source."""
    source, first = MemoryStore(FILES), MemoryStore()
    source.fail("read", AccessError("revoked"), path="folder/large", start=8 * CHUNK)
    with pytest.raises(AccessError):
        await move(source, first)
    kept = set(first.resumable_chunks["folder/large"])
    source.reads.clear()
    second = MemoryStore()

    await move(source, first, second)

    assert FILES == first.files == second.files
    fetched = {start // CHUNK for path, start, _ in source.reads if path == "folder/large"}
    assert not fetched & kept


async def test_early_chunks_wait_within_the_budget() -> None:
    """While a first chunk is late, later ones keep their buffers, and small files still move."""
    source, sink = MemoryStore({"file": os.urandom(40 * CHUNK)}), MemoryStore()
    small, beside = MemoryStore({"small": b"a few bytes"}), MemoryStore()
    context = Context.make(OPTIONS)
    release = source.hold("file", 0)

    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            await transfer(source, [sink], await source.list(), context)

        tasks.start_soon(run)
        while context.buffer_pool.in_use < 3 * CHUNK:
            await anyio.lowlevel.checkpoint()
        # Memory for a fourth chunk is reserved for small files.
        await transfer(small, [beside], await small.list(), context)
        assert context.buffer_pool.in_use == 3 * CHUNK
        release.set()

    assert source.files == sink.files
    assert small.files == beside.files
    assert context.buffer_pool.in_use == 0
