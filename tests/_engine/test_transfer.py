"""`hftransfer._engine.transfer`: whole transfers between memory stores."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest

from hftransfer._core import checksums
from hftransfer._core.digests import Digest
from hftransfer._core.events import BytesMoved, Event, FileFinished, TransferStarted
from hftransfer._core.manifest import FileManifest
from hftransfer._core.plan import PartLimits
from hftransfer._engine.transfer import Context, transfer
from hftransfer.errors import (
    AccessError,
    DestinationError,
    IntegrityError,
    LocationError,
    NetworkError,
    NotFoundError,
    TransferError,
    UnsupportedError,
)
from hftransfer.stores.base import Entry, FileSink
from hftransfer.stores.memory import MemoryStore
from support.engine import CHUNK, FILES, OPTIONS, CorruptingSource, move

pytestmark = pytest.mark.anyio


async def test_every_file_reaches_every_sink_in_one_pass() -> None:
    """Each byte is read once, however many sinks there are."""
    source, first, second = MemoryStore(FILES), MemoryStore(), MemoryStore()

    report = await move(source, first, second)

    assert first.files == FILES
    assert second.files == FILES
    assert len(source.reads) == len(set(source.reads))
    assert sum(map(len, FILES.values())) == report.bytes
    assert (report.files, report.verified, report.retries) == (4, 4, 0)


async def test_manifest_verifies_a_store_without_digests() -> None:
    """A transfer's manifest verifies the same files in another store, and repeats itself."""
    first = MemoryStore()
    report = await move(MemoryStore(FILES), first)
    second = MemoryStore()

    again = await move(MemoryStore(FILES, digests=False), second, manifest=report.manifest)

    assert second.files == FILES
    assert len(FILES) == again.verified
    recorded = {path: file.chunks for path, file in report.manifest.files.items()}
    assert recorded == {path: file.chunks for path, file in again.manifest.files.items()}


async def test_manifest_that_a_sink_cannot_take_is_rejected() -> None:
    """Part limits never disable verification."""
    report = await move(MemoryStore(FILES), MemoryStore())
    sink = MemoryStore(limits=PartLimits(minimum=2 * CHUNK))

    with pytest.raises(UnsupportedError, match="its manifest has chunks of 65536 bytes"):
        await move(MemoryStore(FILES), sink, manifest=report.manifest)


async def test_chunks_fit_the_part_limits_of_every_sink() -> None:
    """They grow to the smallest part that all sinks accept."""
    source = MemoryStore(FILES)

    await move(source, MemoryStore(), MemoryStore(limits=PartLimits(minimum=3 * CHUNK)))

    large = sorted(read for read in source.reads if read[0] == "folder/large")
    assert [stop - start for _, start, stop in large] == [3 * CHUNK, 3 * CHUNK, 3 * CHUNK, 17]


@pytest.mark.parametrize("operation", ["begin", "write", "commit", "finish"])
async def test_failing_sink_leaves_nothing_open(operation: str) -> None:
    """Whichever step fails, every open file is committed or aborted, and all memory freed."""
    sink, other = MemoryStore(), MemoryStore()
    sink.fail(operation, DestinationError("full"))
    context = Context.make(OPTIONS)

    with pytest.raises(DestinationError, match="full"):
        await move(MemoryStore(FILES), other, sink, context=context)

    assert 0 == sink.open_files == other.open_files == context.buffer_pool.in_use


async def test_destinations_are_checked_before_anything_is_read() -> None:
    """`Sink.prepare` of every sink comes first."""
    source, sink = MemoryStore(FILES), MemoryStore()
    sink.fail("prepare", DestinationError("not writable"))

    with pytest.raises(DestinationError):
        await move(source, MemoryStore(), sink)

    assert source.reads == []


async def test_file_with_a_wrong_digest_is_moved_again() -> None:
    """All of it is discarded, and its progress rolled back."""
    source, sink = CorruptingSource(times=1), MemoryStore()
    events: list[Event] = []

    await move(source, sink, context=Context.make(OPTIONS, events.append))

    assert sink.files == FILES
    assert sink.resumable_chunks == {}
    moved = sum(event.bytes for event in events if isinstance(event, BytesMoved))
    assert sum(map(len, FILES.values())) == moved


async def test_file_whose_digest_stays_wrong_is_not_published() -> None:
    """After two attempts the error names file and digest, and no chunk is kept."""
    sink = MemoryStore()

    with pytest.raises(IntegrityError, match="folder/large: sha256 mismatch: expected"):
        await move(CorruptingSource(times=2), sink)

    assert "folder/large" not in sink.files
    assert sink.resumable_chunks == {}
    assert sink.open_files == 0


async def test_cancellation_keeps_only_resumable_chunks() -> None:
    """A cancelled transfer publishes nothing, aborts every file, and frees all memory."""
    source, sink = MemoryStore({"file": os.urandom(12 * CHUNK)}), MemoryStore()
    context = Context.make(OPTIONS)
    source.hold("file", 5 * CHUNK)

    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            await transfer(source, [sink], await source.list(), context)

        tasks.start_soon(run)
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

    await move(source, sink, context=Context.make(OPTIONS, observe))

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
        await move(source, sink, context=Context.make(OPTIONS, events.append))

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
    source = CorruptingSource(times=9) if failing == "digest" else MemoryStore(FILES)
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

    report = await move(MemoryStore(FILES), MemoryStore())
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
        await move(source, MemoryStore())

    assert isinstance(caught.value, AccessError)
