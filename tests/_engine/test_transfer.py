"""`hftransfer._engine`: transfers between memory stores, on every anyio backend."""

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


async def test_every_file_reaches_every_sink_in_one_pass() -> None:
    """Each byte is read once, however many sinks there are."""
    source, first, second = MemoryStore(FILES), MemoryStore(), MemoryStore()

    report = await _move(source, first, second)

    assert first.files == FILES
    assert second.files == FILES
    assert len(source.reads) == len(set(source.reads))
    assert sum(map(len, FILES.values())) == report.bytes
    assert (report.files, report.verified, report.retries) == (4, 4, 0)


async def test_manifest_verifies_a_store_without_digests() -> None:
    """A transfer's manifest verifies the same files in another store, and repeats itself."""
    first = MemoryStore()
    report = await _move(MemoryStore(FILES), first)
    second = MemoryStore()

    again = await _move(MemoryStore(FILES, digests=False), second, manifest=report.manifest)

    assert second.files == FILES
    assert len(FILES) == again.verified
    recorded = {path: file.chunks for path, file in report.manifest.files.items()}
    assert recorded == {path: file.chunks for path, file in again.manifest.files.items()}


async def test_chunk_that_does_not_match_the_manifest_is_rejected() -> None:
    """One wrong byte is found, and the file is not published."""
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


async def test_manifest_that_a_sink_cannot_take_is_rejected() -> None:
    """Part limits never disable verification."""
    report = await _move(MemoryStore(FILES), MemoryStore())
    sink = MemoryStore(limits=PartLimits(minimum=2 * CHUNK))

    with pytest.raises(UnsupportedError, match="its manifest has chunks of 65536 bytes"):
        await _move(MemoryStore(FILES), sink, manifest=report.manifest)


async def test_chunks_fit_the_part_limits_of_every_sink() -> None:
    """They grow to the smallest part that all sinks accept."""
    source = MemoryStore(FILES)

    await _move(source, MemoryStore(), MemoryStore(limits=PartLimits(minimum=3 * CHUNK)))

    large = sorted(read for read in source.reads if read[0] == "folder/large")
    assert [stop - start for _, start, stop in large] == [3 * CHUNK, 3 * CHUNK, 3 * CHUNK, 17]


async def test_failed_reads_and_writes_are_retried() -> None:
    """A transient failure costs one more try of its chunk and nothing else."""
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
    """After the policy's tries the last error is raised, with their number."""
    source, sink = MemoryStore(FILES), MemoryStore()
    source.fail("read", NetworkError("cut"), path="small", times=3)

    with pytest.raises(NetworkError, match=r"cut \(gave up after 3 tries\)"):
        await _move(source, sink)

    assert sink.open_files == 0


async def test_permanent_errors_are_not_retried() -> None:
    """Only a `TransientError` may succeed later."""
    source = MemoryStore(FILES)
    source.fail("read", AccessError("no"), path="small")

    with pytest.raises(AccessError):
        await _move(source, MemoryStore())

    assert sum(read[0] == "small" for read in source.reads) == 1


@pytest.mark.parametrize("operation", ["begin", "write", "commit", "finish"])
async def test_failing_sink_leaves_nothing_open(operation: str) -> None:
    """Whichever step fails, every open file is committed or aborted, and all memory freed."""
    sink, other = MemoryStore(), MemoryStore()
    sink.fail(operation, DestinationError("full"))
    context = Context.make(OPTIONS)

    with pytest.raises(DestinationError, match="full"):
        await _move(MemoryStore(FILES), other, sink, context=context)

    assert 0 == sink.open_files == other.open_files == context.buffer_pool.in_use


async def test_destinations_are_checked_before_anything_is_read() -> None:
    """`Sink.prepare` of every sink comes first."""
    source, sink = MemoryStore(FILES), MemoryStore()
    sink.fail("prepare", DestinationError("not writable"))

    with pytest.raises(DestinationError):
        await _move(source, MemoryStore(), sink)

    assert source.reads == []


async def test_source_without_ranges_is_streamed() -> None:
    """It is read as one body per file, which is verified like any other."""
    source, sink = MemoryStore(FILES, ranges=False), MemoryStore()

    report = await _move(source, sink)

    assert sink.files == FILES
    assert report.verified == 4


@pytest.mark.parametrize("connections", [1, 2])
async def test_streams_and_chunks_do_not_wait_for_each_other(connections: int) -> None:
    """Streams hold connections and chunks hold memory: both are acquired in the same order."""
    large = {f"large-{index}": os.urandom(9 * CHUNK) for index in range(4)}
    small = {f"small-{index:02}": os.urandom(CHUNK) for index in range(32)}
    source, sink = MemoryStore({**large, **small}, ranges=False), MemoryStore()
    context = Context.make(replace(OPTIONS, connections=connections))

    with anyio.fail_after(30):
        await _move(source, sink, context=context)

    assert sink.files == source.files
    assert context.buffer_pool.in_use == 0
    assert context.large_chunks.in_use == 0


async def test_broken_stream_starts_again() -> None:
    """Chunks that were stored before are read, and not stored again."""
    source, sink = MemoryStore(FILES, ranges=False), MemoryStore()
    source.fail("read", NetworkError("cut"), path="folder/large", start=3 * CHUNK)

    report = await _move(source, sink)

    assert sink.files == FILES
    assert report.retries == 1
    assert source.reads.count(("folder/large", 0, CHUNK)) == 2


class _CorruptingSource(MemoryStore):
    """Flips a byte of ``folder/large`` the first `times` times that its start is read."""

    def __init__(self, *, times: int) -> None:
        super().__init__(FILES)
        self.times = times

    async def fill(self, entry: Entry, span: ByteRangeBuffer) -> None:
        await super().fill(entry, span)
        if entry.path == "folder/large" and span.start == 0 and self.times:
            self.times -= 1
            span.buffer[100] ^= 1


async def test_file_with_a_wrong_digest_is_moved_again() -> None:
    """All of it is discarded, and its progress rolled back."""
    source, sink = _CorruptingSource(times=1), MemoryStore()
    events: list[Event] = []

    await _move(source, sink, context=Context.make(OPTIONS, events.append))

    assert sink.files == FILES
    assert sink.resumable_chunks == {}
    moved = sum(event.bytes for event in events if isinstance(event, BytesMoved))
    assert sum(map(len, FILES.values())) == moved


async def test_file_whose_digest_stays_wrong_is_not_published() -> None:
    """After two attempts the error names file and digest, and no chunk is kept."""
    sink = MemoryStore()

    with pytest.raises(IntegrityError, match="folder/large: sha256 mismatch: expected"):
        await _move(_CorruptingSource(times=2), sink)

    assert "folder/large" not in sink.files
    assert sink.resumable_chunks == {}
    assert sink.open_files == 0


async def test_interrupted_file_resumes_with_its_missing_chunks() -> None:
    """Chunks that the sink kept are verified and not read from the source."""
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


async def test_damaged_kept_chunk_is_read_from_the_source() -> None:
    """A kept chunk is reused only if its bytes match its recorded digest."""
    source, sink = MemoryStore(FILES), MemoryStore()
    source.fail("read", AccessError("revoked"), path="folder/large", start=8 * CHUNK)
    with pytest.raises(AccessError):
        await _move(source, sink)
    sink.damage_held("folder/large", min(sink.resumable_chunks["folder/large"]))

    await _move(source, sink)

    assert sink.files == FILES


async def test_chunk_kept_by_one_sink_is_written_to_the_others() -> None:
    """It is not read from the source."""
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


async def test_early_chunks_wait_within_the_budget() -> None:
    """While a first chunk is late, later ones keep their buffers, and small files still move."""
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
        # Memory for a fourth chunk is reserved for small files.
        await transfer(small, [beside], await small.list(), context)
        assert context.buffer_pool.in_use == 3 * CHUNK
        release.set()

    assert source.files == sink.files
    assert small.files == beside.files
    assert context.buffer_pool.in_use == 0


async def test_cancellation_keeps_only_resumable_chunks() -> None:
    """A cancelled transfer publishes nothing, aborts every file, and frees all memory."""
    source, sink = MemoryStore({"file": os.urandom(12 * CHUNK)}), MemoryStore()
    context = Context.make(OPTIONS)
    source.hold("file", 5 * CHUNK)

    async with anyio.create_task_group() as tasks:

        async def move() -> None:
            await transfer(source, [sink], await source.list(), context)

        tasks.start_soon(move)
        # Memory holds four chunks at most, so others have been stored by now.
        while ("file", 5 * CHUNK, 6 * CHUNK) not in source.reads:
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()

    assert sink.files == {}
    assert 0 == sink.open_files == context.buffer_pool.in_use
    assert sink.resumable_chunks["file"]


async def test_progress_adds_up_to_the_size() -> None:
    """Despite retries, and although the observer raises an error."""
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


async def test_progress_of_a_failed_file_is_not_rolled_back() -> None:
    """Its chunks did arrive. Only the progress of a file that is moved again is rolled back."""
    source, sink = MemoryStore({"file": os.urandom(9 * CHUNK)}), MemoryStore()
    source.fail("read", AccessError("no"), start=8 * CHUNK, times=1)
    events: list[Event] = []

    with pytest.raises(AccessError):
        await _move(source, sink, context=Context.make(OPTIONS, events.append))

    moved = [event.bytes for event in events if isinstance(event, BytesMoved)]
    assert moved
    assert min(moved) > 0


class _FailingBegin(MemoryStore):
    """A store that fails to open one file."""

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        if entry.path == "exact":
            raise NotFoundError("gone")
        return await super().begin(entry, chunk_size)


def _capture_draining(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> list[Callable[[], bool]]:
    """Return a list that gets the function by which the scheduler asks for the end."""
    captured: list[Callable[[], bool]] = []

    async def run(is_draining: Callable[[], bool]) -> None:
        captured.append(is_draining)

    monkeypatch.setattr(context.scheduler, "run", run)
    return captured


async def test_transfer_drains_when_the_last_chunk_is_requested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not while chunks wait for memory, files for their turn, or sinks open a file."""
    source, sink = MemoryStore({"file": os.urandom(12 * CHUNK)}), MemoryStore()
    context = Context.make(OPTIONS)
    captured = _capture_draining(context, monkeypatch)
    first, last = source.hold("file", 0), source.hold("file", 11 * CHUNK)
    states: list[bool] = []

    async def observe() -> None:
        for start, release in ((0, first), (11 * CHUNK, last)):
            while ("file", start, start + CHUNK) not in source.reads:
                await anyio.lowlevel.checkpoint()
            states.append(captured[0]())
            release.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(observe)
        await transfer(source, [sink], await source.list(), context)

    assert states == [False, True]


@pytest.mark.parametrize("failing", ["begin", "read", "digest", "manifest"])
async def test_transfer_drains_although_a_file_failed(
    monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """The chunks that a failed file did not request are not waited for, whatever failed."""
    context = Context.make(OPTIONS)
    captured = _capture_draining(context, monkeypatch)
    source = _CorruptingSource(times=9) if failing == "digest" else MemoryStore(FILES)
    sink = _FailingBegin() if failing == "begin" else MemoryStore()
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
    assert captured[0]()


async def test_digest_that_cannot_be_computed_is_not_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the package for its algorithm, a file needs a manifest, or is rejected."""
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


async def test_path_that_is_listed_twice_is_rejected() -> None:
    """No file may overwrite another one of the same transfer."""
    source = MemoryStore(FILES)
    entries = [*await source.list(), *await source.list()]

    with pytest.raises(LocationError, match="listed twice"):
        await transfer(source, [MemoryStore()], entries, Context.make(OPTIONS))


async def test_several_failures_are_raised_as_one_error() -> None:
    """No exception group leaves the engine: further failures are notes of the first."""
    source = MemoryStore(FILES)
    source.fail("read", AccessError("no"), times=100)

    with pytest.raises(TransferError) as caught:
        await _move(source, MemoryStore())

    assert isinstance(caught.value, AccessError)


# --- local files to sinks that send them with sendfile(2)


class _SendfileStore(MemoryStore):
    """A store that reads chunks from the source's file, and records the checksums it gets."""

    def __init__(self, checksum: str | None) -> None:
        super().__init__()
        self.checksum = checksum
        self.checksums: dict[tuple[str, int], str] = {}

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        inner = await super().begin(entry, chunk_size)
        assert inner is not None
        return _SendfileFile(self, entry, inner)


class _SendfileFile:
    def __init__(self, store: _SendfileStore, entry: Entry, inner: FileSink) -> None:
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
        self._store.checksums[self._entry.path, chunk.index] = checksum.hex()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


SENDFILE_CHUNKS = {("exact", 0), ("exact", 1), *(("folder/large", index) for index in range(10))}


async def test_local_files_are_sent_without_buffers(folder: Path) -> None:
    """Each sink gets the digest of each chunk, and the checksum that it named."""
    first, second = _SendfileStore("CRC32"), _SendfileStore("XXHASH128")
    context = Context.make(OPTIONS)
    async with context.buffer_pool.lease(
        3 * CHUNK
    ):  # leaves memory for small files and hash windows
        report = await _move(LocalSource(folder), first, second, context=context)

    assert first.files == second.files == FILES
    assert first.checksums.keys() == second.checksums.keys() == SENDFILE_CHUNKS
    for (path, index), crc in first.checksums.items():
        data = FILES[path][index * CHUNK : (index + 1) * CHUNK]
        assert crc == f"{zlib.crc32(data):08x}"
        assert second.checksums[path, index] == report.manifest.files[path].chunks[index]
        assert second.checksums[path, index] == chunk_digest(memoryview(data))
    assert report.bytes == sum(map(len, FILES.values()))


async def test_chunks_are_read_into_memory_if_one_sink_cannot_send_files(folder: Path) -> None:
    """They are then read once, for all sinks."""
    sending, other, plain = _SendfileStore("CRC32"), _SendfileStore(None), MemoryStore()

    await _move(LocalSource(folder), sending, other)
    assert sending.files == other.files == FILES
    await _move(LocalSource(folder), sending, plain)
    assert sending.files == plain.files == FILES

    assert not sending.checksums


async def test_sendfile_chunk_that_does_not_match_the_manifest_is_rejected(folder: Path) -> None:
    """It is found before it is sent, and the file is not published."""
    report = await _move(LocalSource(folder), MemoryStore())
    (folder / "exact").write_bytes(b"x" + FILES["exact"][1:])
    source, sink = LocalSource(folder), _SendfileStore("CRC32")
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


async def test_failed_sendfile_writes_are_retried(folder: Path) -> None:
    """The chunk is hashed once, and sent again."""
    sink = _SendfileStore("CRC32")
    sink.fail("write", NetworkError("cut"), path="folder/large", times=2)

    report = await _move(LocalSource(folder), sink)

    assert sink.files == FILES
    assert report.retries == 2
    assert report.bytes == sum(map(len, FILES.values()))


async def test_file_that_changes_while_it_is_sent_is_a_changed_source(folder: Path) -> None:
    """That is the error, whichever one the sink raises; and nothing is left open."""

    class Writer(_SendfileStore):
        def _check(self, operation: str, path: str | None = None, start: int | None = None) -> None:
            if (operation, path, start) == ("write", "folder/large", CHUNK):
                os.utime(folder / "folder/large", ns=(0, 0))
                raise TransferError("the store rejects it")

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
