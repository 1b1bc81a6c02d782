"""The engine against memory stores, on every anyio backend."""

from __future__ import annotations

import os

import anyio
import anyio.lowlevel
import pytest

from hftransfer._engine import Context, transfer
from hftransfer._manifest import Manifest
from hftransfer._plan import PartLimits
from hftransfer._progress import Event, FileFinished, Moved, Retrying, TransferStarted
from hftransfer._spans import Span
from hftransfer.errors import (
    AccessError,
    DestinationError,
    IntegrityError,
    LocationError,
    NetworkError,
    TransferError,
    UnsupportedError,
)
from hftransfer.options import RetryPolicy, TransferOptions
from hftransfer.report import Report
from hftransfer.stores.base import Entry
from hftransfer.stores.memory import MemoryStore

pytestmark = pytest.mark.anyio

CHUNK = 64 * 1024
RETRY = RetryPolicy(attempts=3, wait_initial=0.0, wait_max=0.0)
OPTIONS = TransferOptions(chunk_size=CHUNK, connections=4, memory_budget=4 * CHUNK, retry=RETRY)
FILES = {
    "empty": b"",
    "small": b"a few bytes",
    "exact": os.urandom(2 * CHUNK),
    "folder/large": os.urandom(9 * CHUNK + 17),
}


async def _move(
    source: MemoryStore,
    *sinks: MemoryStore,
    context: Context | None = None,
    manifest: Manifest | None = None,
) -> Report:
    entries = await source.list()
    if manifest is not None:
        entries = [
            Entry(path=entry.path, size=entry.size, manifest=manifest.files[entry.path])
            for entry in entries
        ]
    return await transfer(source, sinks, entries, context or Context.make(OPTIONS))


async def test_moves_every_file_into_every_sink_in_one_pass() -> None:
    """Each byte is read once, however many sinks there are."""
    source, first, second = MemoryStore(FILES), MemoryStore(), MemoryStore()

    report = await _move(source, first, second)

    assert first.files == FILES
    assert second.files == FILES
    assert len(source.reads) == len(set(source.reads))
    assert sum(map(len, FILES.values())) == report.bytes
    assert (report.files, report.verified, report.retries) == (4, 4, 0)


async def test_the_manifest_repeats_on_other_stores() -> None:
    """What one transfer recorded verifies the next one from a store without digests."""
    first = MemoryStore()
    report = await _move(MemoryStore(FILES), first)
    second = MemoryStore()

    again = await _move(MemoryStore(FILES, digests=False), second, manifest=report.manifest)

    assert second.files == FILES
    assert len(FILES) == again.verified
    recorded = {path: file.chunks for path, file in report.manifest.files.items()}
    assert recorded == {path: file.chunks for path, file in again.manifest.files.items()}


async def test_bytes_other_than_recorded_are_refused() -> None:
    """One wrong byte in one chunk is found by the manifest, and nothing is published."""
    report = await _move(MemoryStore(FILES), MemoryStore())
    damaged = {**FILES, "exact": b"x" + FILES["exact"][1:]}
    sink = MemoryStore()

    with pytest.raises(IntegrityError, match=r"exact: bytes 0-65535 .* other than recorded"):
        await _move(MemoryStore(damaged, digests=False), sink, manifest=report.manifest)

    assert "exact" not in sink.files
    assert sink.open_files == 0


async def test_a_manifest_that_a_sink_cannot_take_is_refused() -> None:
    """Verification is never given up silently because of part limits."""
    report = await _move(MemoryStore(FILES), MemoryStore())
    sink = MemoryStore(limits=PartLimits(minimum=2 * CHUNK))

    with pytest.raises(UnsupportedError, match="its manifest has chunks of 65536 bytes"):
        await _move(MemoryStore(FILES), sink, manifest=report.manifest)


async def test_part_limits_shape_the_chunks() -> None:
    """Chunks grow to the smallest part that every sink accepts."""
    source = MemoryStore(FILES)

    await _move(source, MemoryStore(), MemoryStore(limits=PartLimits(minimum=3 * CHUNK)))

    large = sorted(read for read in source.reads if read[0] == "folder/large")
    assert [stop - start for _, start, stop in large] == [3 * CHUNK, 3 * CHUNK, 3 * CHUNK, 17]


async def test_failed_reads_and_writes_are_tried_again() -> None:
    """A transient failure costs one more try of that chunk and nothing else."""
    source, sink = MemoryStore(FILES), MemoryStore()
    source.fail("read", NetworkError("cut"), path="folder/large", start=CHUNK, times=2)
    sink.fail("write", NetworkError("cut"), path="exact", times=2)
    events: list[Event] = []

    report = await _move(source, sink, context=Context.make(OPTIONS, events.append))

    assert sink.files == FILES
    assert report.retries == 4
    assert sum(isinstance(event, Retrying) for event in events) == 4
    assert source.reads.count(("folder/large", CHUNK, 2 * CHUNK)) == 3


async def test_retries_end() -> None:
    """After the policy's tries the error of the last one is raised, and says how many."""
    source, sink = MemoryStore(FILES), MemoryStore()
    source.fail("read", NetworkError("cut"), path="small", times=3)

    with pytest.raises(NetworkError, match=r"cut \(gave up after 3 tries\)"):
        await _move(source, sink)

    assert sink.open_files == 0


async def test_other_errors_are_not_tried_again() -> None:
    """What cannot succeed later fails at once."""
    source = MemoryStore(FILES)
    source.fail("read", AccessError("no"), path="small")

    with pytest.raises(AccessError):
        await _move(source, MemoryStore())

    assert sum(read[0] == "small" for read in source.reads) == 1


@pytest.mark.parametrize("operation", ["begin", "write", "commit", "finish"])
async def test_a_failing_sink_leaves_nothing_open(operation: str) -> None:
    """Whatever step fails, every file that was begun is ended and all memory is back."""
    sink, other = MemoryStore(), MemoryStore()
    sink.fail(operation, DestinationError("full"))
    context = Context.make(OPTIONS)

    with pytest.raises(DestinationError, match="full"):
        await _move(MemoryStore(FILES), other, sink, context=context)

    assert 0 == sink.open_files == other.open_files == context.pool.in_use


async def test_nothing_is_read_when_a_destination_is_not_ready() -> None:
    """Destinations are checked before bytes move."""
    source, sink = MemoryStore(FILES), MemoryStore()
    sink.fail("prepare", DestinationError("not writable"))

    with pytest.raises(DestinationError):
        await _move(source, MemoryStore(), sink)

    assert source.reads == []


async def test_sources_without_ranges_are_streamed() -> None:
    """A source that refuses ranges is read as one body per file, and verified all the same."""
    source, sink = MemoryStore(FILES, ranges=False), MemoryStore()

    report = await _move(source, sink)

    assert sink.files == FILES
    assert report.verified == 4


async def test_a_broken_stream_starts_over() -> None:
    """What was stored before the break is not stored again."""
    source, sink = MemoryStore(FILES, ranges=False), MemoryStore()
    source.fail("read", NetworkError("cut"), path="folder/large", start=3 * CHUNK)

    report = await _move(source, sink)

    assert sink.files == FILES
    assert report.retries == 1
    assert source.reads.count(("folder/large", 0, CHUNK)) == 2


class _Corrupting(MemoryStore):
    """Flips a byte of a file the first `times` times that its start is read."""

    def __init__(self, *, times: int) -> None:
        super().__init__(FILES)
        self.times = times

    async def fill(self, entry: Entry, span: Span) -> None:
        await super().fill(entry, span)
        if entry.path == "folder/large" and span.start == 0 and self.times:
            self.times -= 1
            span.buffer[100] ^= 1


async def test_a_file_with_wrong_bytes_is_fetched_once_more() -> None:
    """A digest that does not match discards the whole file, which then is fetched again."""
    source, sink = _Corrupting(times=1), MemoryStore()
    events: list[Event] = []

    await _move(source, sink, context=Context.make(OPTIONS, events.append))

    assert sink.files == FILES
    assert sink.held == {}
    moved = sum(event.bytes for event in events if isinstance(event, Moved))
    assert sum(map(len, FILES.values())) == moved


async def test_a_file_whose_bytes_stay_wrong_is_never_published() -> None:
    """Both tries wrong: IntegrityError that names file and digest, nothing kept."""
    sink = MemoryStore()

    with pytest.raises(IntegrityError, match="folder/large: its sha256 is"):
        await _move(_Corrupting(times=2), sink)

    assert "folder/large" not in sink.files
    assert sink.held == {}
    assert sink.open_files == 0


async def test_an_interrupted_file_goes_on_with_its_missing_chunks() -> None:
    """Chunks kept by the sink are checked and not read from the source again."""
    source, sink = MemoryStore(FILES), MemoryStore()
    source.fail("read", AccessError("revoked"), path="folder/large", start=8 * CHUNK)
    with pytest.raises(AccessError):
        await _move(source, sink)
    kept = set(sink.held["folder/large"])
    source.reads.clear()

    report = await _move(source, sink)

    assert sink.files == FILES
    fetched = {start // CHUNK for path, start, _ in source.reads if path == "folder/large"}
    assert set(range(10)) - kept == fetched
    assert len(kept) * CHUNK == report.reused_bytes


async def test_a_damaged_kept_chunk_is_fetched_again() -> None:
    """A kept chunk is believed only if its bytes match what was recorded of them."""
    source, sink = MemoryStore(FILES), MemoryStore()
    source.fail("read", AccessError("revoked"), path="folder/large", start=8 * CHUNK)
    with pytest.raises(AccessError):
        await _move(source, sink)
    sink.damage_held("folder/large", min(sink.held["folder/large"]))

    await _move(source, sink)

    assert sink.files == FILES


async def test_one_kept_chunk_feeds_the_sinks_that_lack_it() -> None:
    """With two sinks, what one kept is not fetched again for the other."""
    source, first = MemoryStore(FILES), MemoryStore()
    source.fail("read", AccessError("revoked"), path="folder/large", start=8 * CHUNK)
    with pytest.raises(AccessError):
        await _move(source, first)
    kept = set(first.held["folder/large"])
    source.reads.clear()
    second = MemoryStore()

    await _move(source, first, second)

    assert FILES == first.files == second.files
    fetched = {start // CHUNK for path, start, _ in source.reads if path == "folder/large"}
    assert not fetched & kept


async def test_early_chunks_wait_for_their_turn_within_the_budget() -> None:
    """When a first chunk is slow, later ones wait with their buffers, and small files pass by."""
    source, sink = MemoryStore({"file": os.urandom(40 * CHUNK)}), MemoryStore()
    small, beside = MemoryStore({"small": b"a few bytes"}), MemoryStore()
    context = Context.make(OPTIONS)
    release = source.hold("file", 0)

    async with anyio.create_task_group() as tasks:

        async def move() -> None:
            await transfer(source, [sink], await source.list(), context)

        tasks.start_soon(move)
        while context.pool.in_use < 3 * CHUNK:
            await anyio.lowlevel.checkpoint()
        # Memory for a fourth chunk is kept for small files.
        await transfer(small, [beside], await small.list(), context)
        assert context.pool.in_use == 3 * CHUNK
        release.set()

    assert source.files == sink.files
    assert small.files == beside.files
    assert context.pool.in_use == 0


async def test_cancellation_keeps_what_can_be_resumed_and_nothing_else() -> None:
    """A cancelled transfer publishes nothing, ends every file, and returns all memory."""
    source, sink = MemoryStore({"file": os.urandom(12 * CHUNK)}), MemoryStore()
    context = Context.make(OPTIONS)
    source.hold("file", 5 * CHUNK)

    async with anyio.create_task_group() as tasks:

        async def move() -> None:
            await transfer(source, [sink], await source.list(), context)

        tasks.start_soon(move)
        # Memory holds no more than four chunks: by now others have been stored.
        while ("file", 5 * CHUNK, 6 * CHUNK) not in source.reads:
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()

    assert sink.files == {}
    assert 0 == sink.open_files == context.pool.in_use
    assert sink.held["file"]


async def test_observers_see_all_bytes_once() -> None:
    """Progress adds up to the size, whatever failed meanwhile; an observer's error is harmless."""
    source, sink = MemoryStore(FILES), MemoryStore()
    source.fail("read", NetworkError("cut"), times=2)
    events: list[Event] = []

    def observe(event: Event) -> None:
        events.append(event)
        raise RuntimeError("a bug in the observer")

    await _move(source, sink, context=Context.make(OPTIONS, observe))

    size = sum(map(len, FILES.values()))
    assert TransferStarted(4, size) == events[0]
    assert size == sum(event.bytes for event in events if isinstance(event, Moved))
    assert sum(isinstance(event, FileFinished) for event in events) == 4


async def test_a_file_listed_twice_is_refused() -> None:
    """No file may overwrite another of the same transfer."""
    source = MemoryStore(FILES)
    entries = [*await source.list(), *await source.list()]

    with pytest.raises(LocationError, match="listed twice"):
        await transfer(source, [MemoryStore()], entries, Context.make(OPTIONS))


async def test_several_failures_end_as_one_error() -> None:
    """No exception group leaves the engine: further failures are notes."""
    source = MemoryStore(FILES)
    source.fail("read", AccessError("no"), times=100)

    with pytest.raises(TransferError) as caught:
        await _move(source, MemoryStore())

    assert isinstance(caught.value, AccessError)
