"""The engine against memory stores, on every anyio backend."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from hftransfer._core import checksums
from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.digests import Digest, chunk_digest
from hftransfer._core.events import BytesMoved, Event, FileFinished, Retrying, TransferStarted
from hftransfer._core.manifest import FileManifest, Manifest
from hftransfer._core.plan import Chunk, PartLimits
from hftransfer._engine.transfer import Context, transfer
from hftransfer._io.file_range import FileRange
from hftransfer.errors import (
    AccessError,
    DestinationError,
    IntegrityError,
    LocationError,
    NetworkError,
    NotFoundError,
    SourceChangedError,
    TransferError,
    UnsupportedError,
)
from hftransfer.options import RetryPolicy, TransferOptions
from hftransfer.report import Report
from hftransfer.stores.base import Entry, FileSink
from hftransfer.stores.local.store import LocalSource
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
    source: MemoryStore | LocalSource,
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

    with pytest.raises(
        IntegrityError,
        match=r"exact: XXH3 mismatch at bytes 0-65535 of .*: expected [0-9a-f]{32}, got ",
    ):
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

    assert 0 == sink.open_files == other.open_files == context.buffer_pool.in_use


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

    async def fill(self, entry: Entry, span: ByteRangeBuffer) -> None:
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
    assert sink.resumable_chunks == {}
    moved = sum(event.bytes for event in events if isinstance(event, BytesMoved))
    assert sum(map(len, FILES.values())) == moved


async def test_a_file_whose_bytes_stay_wrong_is_never_published() -> None:
    """Both tries wrong: IntegrityError that names file and digest, nothing kept."""
    sink = MemoryStore()

    with pytest.raises(IntegrityError, match="folder/large: sha256 mismatch: expected"):
        await _move(_Corrupting(times=2), sink)

    assert "folder/large" not in sink.files
    assert sink.resumable_chunks == {}
    assert sink.open_files == 0


async def test_an_interrupted_file_goes_on_with_its_missing_chunks() -> None:
    """Chunks kept by the sink are checked and not read from the source again."""
    source, sink = MemoryStore(FILES), MemoryStore()
    source.fail("read", AccessError("revoked"), path="folder/large", start=8 * CHUNK)
    with pytest.raises(AccessError):
        await _move(source, sink)
    kept = set(sink.resumable_chunks["folder/large"])
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
    sink.damage_held("folder/large", min(sink.resumable_chunks["folder/large"]))

    await _move(source, sink)

    assert sink.files == FILES


async def test_one_kept_chunk_feeds_the_sinks_that_lack_it() -> None:
    """With two sinks, what one kept is not fetched again for the other."""
    source, first = MemoryStore(FILES), MemoryStore()
    source.fail("read", AccessError("revoked"), path="folder/large", start=8 * CHUNK)
    with pytest.raises(AccessError):
        await _move(source, first)
    kept = set(first.resumable_chunks["folder/large"])
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
        while context.buffer_pool.in_use < 3 * CHUNK:
            await anyio.lowlevel.checkpoint()
        # Memory for a fourth chunk is kept for small files.
        await transfer(small, [beside], await small.list(), context)
        assert context.buffer_pool.in_use == 3 * CHUNK
        release.set()

    assert source.files == sink.files
    assert small.files == beside.files
    assert context.buffer_pool.in_use == 0


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
    assert 0 == sink.open_files == context.buffer_pool.in_use
    assert sink.resumable_chunks["file"]


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
    assert size == sum(event.bytes for event in events if isinstance(event, BytesMoved))
    assert sum(isinstance(event, FileFinished) for event in events) == 4


async def test_progress_of_a_file_that_is_given_up_stays() -> None:
    """What arrived before a failure did arrive; only a file that comes again takes it back."""
    source, sink = MemoryStore({"file": os.urandom(9 * CHUNK)}), MemoryStore()
    source.fail("read", AccessError("no"), start=8 * CHUNK, times=1)
    events: list[Event] = []

    with pytest.raises(AccessError):
        await _move(source, sink, context=Context.make(OPTIONS, events.append))

    moved = [event.bytes for event in events if isinstance(event, BytesMoved)]
    assert moved
    assert min(moved) > 0


class _Begun(MemoryStore):
    """A store that fails in begin, for one file."""

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        if entry.path == "exact":
            raise NotFoundError("gone")
        return await super().begin(entry, chunk_size)


@pytest.mark.parametrize("failing", ["begin", "read", "digest", "manifest"])
async def test_the_end_is_known_although_a_file_failed(
    monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Of a file that is given up, in whatever stage, nothing is waited for."""
    context = Context.make(OPTIONS)
    last: list[Callable[[], bool]] = []

    async def run(draining: Callable[[], bool]) -> None:
        last.append(draining)

    monkeypatch.setattr(context.scheduler, "run", run)
    source = _Corrupting(times=9) if failing == "digest" else MemoryStore(FILES)
    sink = _Begun() if failing == "begin" else MemoryStore()
    if failing == "read":
        source.fail("read", AccessError("no"), path="folder/large", start=3 * CHUNK)
    entries = await source.list()
    if failing == "manifest":
        other = FileManifest(size=1, chunk_size=CHUNK, chunks=())
        entries = [replace(entry, manifest=other) for entry in entries]
    failed: list[str] = []

    def tolerate(entry: Entry, error: TransferError) -> bool:
        failed.append(entry.path)
        return True

    await transfer(source, [sink], entries, context, tolerated=tolerate)

    assert failed
    assert last[0]()


async def test_a_checksum_that_cannot_be_made_here_is_not_skipped_in_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the package that makes it, a file needs recorded digests, or is refused."""
    monkeypatch.setattr(checksums, "_crcs", dict)
    source, sink = MemoryStore(FILES, digests=False), MemoryStore()
    digest = Digest("crc64nvme", "0" * 16)
    entries = [replace(entry, digest=digest) for entry in await source.list()]

    with pytest.raises(UnsupportedError, match="its crc64nvme cannot be checked without .* awscrt"):
        await transfer(source, [sink], entries, Context.make(OPTIONS))
    assert not sink.files

    report = await _move(MemoryStore(FILES), MemoryStore())
    recorded = report.manifest.files
    known = [replace(entry, manifest=recorded[entry.path]) for entry in entries]
    await transfer(source, [sink], known, Context.make(OPTIONS))
    assert sink.files == FILES


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


# --- files that are read by the sink itself


class _Reader(MemoryStore):
    """A store that reads chunks from where they lie, and keeps what it was given with them."""

    def __init__(self, checksum: str | None) -> None:
        super().__init__()
        self.checksum = checksum
        self.taken: dict[tuple[str, int], str] = {}

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        inner = await super().begin(entry, chunk_size)
        assert inner is not None
        return _ReadingFile(self, entry, inner)


class _ReadingFile:
    def __init__(self, store: _Reader, entry: Entry, inner: FileSink) -> None:
        self._store = store
        self._entry = entry
        self._inner = inner
        self.resumable_chunks = inner.resumable_chunks
        self.sendfile_checksum = store.checksum
        self.read_into, self.write = inner.read_into, inner.write
        self.commit, self.abort = inner.commit, inner.abort

    async def write_file_range(
        self, chunk: Chunk, region: FileRange, digest: str, checksum: bytes
    ) -> None:
        data = region.get(0, len(region))
        assert chunk_digest(data) == digest
        await self._inner.write(chunk, data, digest)
        self._store.taken[self._entry.path, chunk.index] = checksum.hex()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


LENT = {("exact", 0), ("exact", 1), *(("folder/large", index) for index in range(10))}


async def test_chunks_of_local_files_are_lent_to_sinks_that_can_read_them(folder: Path) -> None:
    """With their digests and with the checksum that each sink wants; none of them is in memory."""
    first, second = _Reader("CRC32"), _Reader("XXHASH128")
    context = Context.make(OPTIONS)
    async with context.buffer_pool.lease(3 * CHUNK):  # small files and windows get by with the rest
        report = await _move(LocalSource(folder), first, second, context=context)

    assert first.files == second.files == FILES
    assert first.taken.keys() == second.taken.keys() == LENT
    for (path, index), crc in first.taken.items():
        data = FILES[path][index * CHUNK : (index + 1) * CHUNK]
        assert crc == f"{zlib.crc32(data):08x}"
        assert second.taken[path, index] == report.manifest.files[path].chunks[index]
        assert second.taken[path, index] == chunk_digest(memoryview(data))
    assert report.bytes == sum(map(len, FILES.values()))


async def test_chunks_are_in_memory_if_one_sink_cannot_read_files(folder: Path) -> None:
    """Then they are read once, for all."""
    reader, other, plain = _Reader("CRC32"), _Reader(None), MemoryStore()

    await _move(LocalSource(folder), reader, other)
    assert reader.files == other.files == FILES
    await _move(LocalSource(folder), reader, plain)
    assert reader.files == plain.files == FILES

    assert not reader.taken


async def test_lent_chunks_other_than_recorded_are_refused(folder: Path) -> None:
    """A recorded manifest holds for them, too, and nothing is published."""
    report = await _move(LocalSource(folder), MemoryStore())
    (folder / "exact").write_bytes(b"x" + FILES["exact"][1:])
    source, sink = LocalSource(folder), _Reader("CRC32")
    entries = [
        replace(entry, manifest=report.manifest.files[entry.path])
        for entry in await source.list()
        if entry.path == "exact"
    ]

    with pytest.raises(
        IntegrityError,
        match=r"exact: XXH3 mismatch at bytes 0-65535 of .*: expected [0-9a-f]{32}, got ",
    ):
        await transfer(source, [sink], entries, Context.make(OPTIONS))

    assert not sink.files
    assert sink.open_files == 0


async def test_lent_chunks_are_stored_again_after_a_failure(folder: Path) -> None:
    """They are hashed once, and written as often as it takes."""
    sink = _Reader("CRC32")
    sink.fail("write", NetworkError("cut"), path="folder/large", times=2)

    report = await _move(LocalSource(folder), sink)

    assert sink.files == FILES
    assert report.retries == 2
    assert report.bytes == sum(map(len, FILES.values()))


async def test_a_lent_file_that_is_written_to_is_a_changed_source(folder: Path) -> None:
    """Whatever the sink makes of it, this is what is said; and nothing is left open."""

    class Writer(_Reader):
        def _check(self, operation: str, path: str | None = None, start: int | None = None) -> None:
            if (operation, path, start) == ("write", "folder/large", CHUNK):
                os.utime(folder / "folder/large", ns=(0, 0))
                raise TransferError("the store refuses it")

    sink = Writer("CRC32")
    before = set(os.listdir("/proc/self/fd"))
    context = Context.make(OPTIONS)
    with pytest.raises(SourceChangedError, match="large was changed while it was being read"):
        await _move(LocalSource(folder), sink, context=context)

    assert "folder/large" not in sink.files
    assert sink.open_files == 0
    assert set(os.listdir("/proc/self/fd")) <= before
    assert (
        context.sendfile_limiter.in_use,
        context.hash_windows.borrowed_tokens,
        context.buffer_pool.in_use,
    ) == (0, 0, 0)
