"""`hftransfer._engine.stream`: files of sources that cannot read ranges."""

from __future__ import annotations

import os
from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest

from hftransfer._engine import stream
from hftransfer._engine.stream import StreamPatience
from hftransfer._engine.transfer import Context
from hftransfer.errors import IntegrityError, NetworkError
from hftransfer.stores.memory import MemoryStore
from support.engine import CHUNK, FILES, OPTIONS, move

pytestmark = pytest.mark.anyio


async def test_source_without_ranges_is_streamed() -> None:
    """It is read as one body per file, which is verified like any other."""
    source, sink = MemoryStore(FILES, ranges=False), MemoryStore()

    report = await move(source, sink)

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
        await move(source, sink, context=context)

    assert sink.files == source.files
    assert context.buffer_pool.in_use == 0
    assert context.large_chunks.in_use == 0


async def test_broken_stream_starts_again() -> None:
    """Chunks that were stored before are read, and not stored again."""
    source, sink = MemoryStore(FILES, ranges=False), MemoryStore()
    source.fail("read", NetworkError("cut"), path="folder/large", start=3 * CHUNK)

    report = await move(source, sink)

    assert sink.files == FILES
    assert report.retries == 1
    assert source.reads.count(("folder/large", 0, CHUNK)) == 2


async def test_streamed_chunk_that_does_not_match_the_manifest_is_rejected() -> None:
    """After two attempts the error names the bytes, and nothing is published."""
    report = await move(MemoryStore(FILES), MemoryStore())
    damaged = {"exact": FILES["exact"][:-1] + bytes([FILES["exact"][-1] ^ 1])}
    source, sink = MemoryStore(damaged, digests=False, ranges=False), MemoryStore()

    with pytest.raises(IntegrityError, match="exact: XXH3 mismatch at bytes 65536-131071 of"):
        await move(source, sink, manifest=report.manifest)

    assert not sink.files
    assert sink.open_files == 0


async def test_body_that_trickles_is_requested_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else would end it: the read timeout counts seconds without a byte."""
    monkeypatch.setattr(stream, "_MIN_SECONDS", 0.5)
    monkeypatch.setattr(stream, "_FLOOR", 2 * CHUNK)
    source, sink = MemoryStore(FILES, ranges=False), MemoryStore()
    source.hold("folder/large", start=3 * CHUNK)
    context = Context.make(OPTIONS)

    with anyio.fail_after(30):
        report = await move(source, sink, context=context)

    assert sink.files == FILES
    assert report.verified == 4
    assert source.reads.count(("folder/large", 0, CHUNK)) >= 2
    assert context.buffer_pool.in_use == context.scheduler.connections.in_use == 0


def test_a_body_may_trickle_for_as_long_as_it_took_to_arrive() -> None:
    """4 s at first and 30 s at most; twice as long for each further request."""
    patience = StreamPatience()
    assert (patience.seconds, patience.bytes) == (4.0, 4 * 16 * 1024)
    patience.record(10.0)
    assert patience.seconds == 10.0
    patience.record(1000.0)
    assert patience.seconds == 30.0

    patience.restart()
    assert patience.seconds == 8.0
    patience.record(10.0)
    patience.begin()  # after a failure, which is no reason for more patience
    assert patience.seconds == 8.0
