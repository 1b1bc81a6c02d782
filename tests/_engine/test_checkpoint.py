"""`hftransfer._engine.checkpoint`: what has arrived of unfinished chunks is stored in time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.digests import chunk_digest
from hftransfer._core.pieces import Piece, digest_with_pieces
from hftransfer._core.plan import Chunk
from hftransfer._engine.checkpoint import (
    FLUSH_SIZE,
    GRANULE,
    Checkpointer,
    ChunkProgress,
    is_due,
    next_look,
    storable,
)
from hftransfer.errors import DestinationError
from hftransfer.stores.base import PieceWrite

SIZE = 8 * GRANULE
START = 5 * SIZE
CHUNK = Chunk(5, START, START + SIZE)


class _Sink:
    """Keeps the bytes of pieces, and fails if it is told to."""

    def __init__(self, *, fails: bool = False) -> None:
        self.resumable_pieces: Mapping[int, Sequence[Piece]] = {}
        self.bytes = bytearray(SIZE)
        self.records: list[Piece] = []
        self.written = 0
        self._fails = fails

    async def write_pieces(self, writes: Sequence[PieceWrite]) -> None:
        if self._fails:
            raise DestinationError("disk full")
        for write in writes:
            offset = write.start - START
            self.bytes[offset : offset + len(write.data)] = write.data
            self.written += len(write.data)
            self.records.append(write.piece)

    async def write_ranges(
        self, chunk: Chunk, ranges: Sequence[tuple[int, memoryview]], digest: str
    ) -> None:
        raise AssertionError("only the pipeline of the chunk calls this")


def _progress(sink: _Sink) -> tuple[ChunkProgress, memoryview]:
    data = memoryview(bytearray(SIZE))
    return ChunkProgress(CHUNK, data, [sink]), data


def _checkpointer() -> Checkpointer:
    return Checkpointer(anyio.CapacityLimiter(1))


def _arrive(buffer: ByteRangeBuffer, count: int) -> None:
    start = buffer.position
    pattern = bytes((start + offset) % 251 for offset in range(min(count, buffer.missing)))
    buffer.append(pattern)


@given(unstored=st.integers(0, 1 << 40), seconds=st.floats(0, 1e6))
def test_much_is_stored_at_once_and_little_after_a_time(unstored: int, seconds: float) -> None:
    """Nothing is left longer than a few seconds, and nothing is written without need."""
    if unstored >= FLUSH_SIZE:
        assert is_due(unstored, seconds)
    if unstored < GRANULE:
        assert not is_due(unstored, seconds)
    assert is_due(max(unstored, GRANULE), 5.0)


@given(rate=st.floats(1e3, 3e9), elapsed=st.floats(1e-4, 10.0), previous=st.floats(0.002, 0.25))
def test_the_next_look_comes_before_much_more_has_arrived(
    rate: float, elapsed: float, previous: float
) -> None:
    """At any rate, at most the flush size or the shortest interval passes until then."""
    unstored = int(rate * elapsed)
    seconds = next_look(unstored, elapsed, previous)

    assert 0.002 <= seconds <= 0.25
    if 0 < unstored < FLUSH_SIZE:
        assert rate * seconds <= max(FLUSH_SIZE, rate * 0.002) * 1.01


@given(limit=st.integers(1, 1 << 30), data=st.data())
def test_pieces_grow_by_granules_up_to_the_limit(limit: int, data: st.DataObject) -> None:
    """At most what has arrived is stored, less than a granule is left, and nothing shrinks."""
    arrived = data.draw(st.integers(0, limit))
    stored = data.draw(st.integers(0, arrived))
    size = storable(arrived, stored, limit)

    assert stored <= size <= arrived
    assert arrived - size < GRANULE


@pytest.mark.anyio
async def test_what_arrives_is_stored_once_and_recorded() -> None:
    """Each byte is written once; the last record covers all that was stored."""
    sink = _Sink()
    progress, data = _progress(sink)
    checkpointer = _checkpointer()
    checkpointer.add(progress)
    (buffer,) = progress.gaps
    for count in (GRANULE + 5, 10, 2 * GRANULE):
        _arrive(buffer, count)
        await checkpointer.flush()

    assert sink.written == 3 * GRANULE
    assert sink.records[-1] == Piece(START, 3 * GRANULE, chunk_digest(data[: 3 * GRANULE]))
    assert sink.bytes[: 3 * GRANULE] == data[: 3 * GRANULE]
    assert progress.unstored() == 15


@pytest.mark.anyio
async def test_ranges_that_are_split_off_are_pieces_of_their_own() -> None:
    """Bytes that several connections read are stored, and match the whole chunk at its end."""
    sink = _Sink()
    progress, data = _progress(sink)
    checkpointer = _checkpointer()
    checkpointer.add(progress)
    (buffer,) = progress.gaps
    _arrive(buffer, GRANULE)
    other = buffer.split_off(GRANULE)
    assert other is not None
    _arrive(other, 2 * GRANULE)
    await checkpointer.flush()
    _arrive(buffer, SIZE)
    _arrive(other, SIZE)
    await checkpointer.remove(progress)

    stored = progress.stored()[sink]
    digest, intact = digest_with_pieces(data, START, stored)
    assert [piece.start for piece in stored] == [START, other.start]
    assert intact == stored
    assert digest == chunk_digest(data)


@pytest.mark.anyio
async def test_bytes_that_were_discarded_are_not_taken_for_stored() -> None:
    """After a reset the range begins anew: other bytes may arrive."""
    sink = _Sink()
    progress, data = _progress(sink)
    checkpointer = _checkpointer()
    checkpointer.add(progress)
    (buffer,) = progress.gaps
    _arrive(buffer, 2 * GRANULE)
    await checkpointer.flush()
    buffer.reset()
    buffer.append(bytes(SIZE))

    assert progress.stored()[sink] == []
    await checkpointer.flush()
    assert progress.stored()[sink] == [Piece(START, SIZE, chunk_digest(data))]


@pytest.mark.anyio
async def test_memory_that_changed_after_it_was_stored_is_noticed() -> None:
    """A piece whose bytes differ from those at the end is not intact, and is written again."""
    sink = _Sink()
    progress, data = _progress(sink)
    checkpointer = _checkpointer()
    checkpointer.add(progress)
    _arrive(progress.gaps[0], SIZE)
    await checkpointer.flush()
    data[7] ^= 1

    assert digest_with_pieces(data, START, progress.stored()[sink])[1] == []


@pytest.mark.anyio
async def test_a_failed_write_is_left_to_the_write_of_the_chunk() -> None:
    """The error is not raised here, where no file could be named as its cause."""
    sink = _Sink(fails=True)
    progress, _ = _progress(sink)
    checkpointer = _checkpointer()
    checkpointer.add(progress)
    _arrive(progress.gaps[0], SIZE)
    await checkpointer.flush()
    await checkpointer.flush()

    assert progress.stored()[sink] == []
    await checkpointer.remove(progress)


@settings(deadline=None, max_examples=25)  # each example runs an event loop
@given(
    steps=st.lists(st.tuples(st.integers(0, 7), st.integers(0, SIZE)), max_size=12),
    splits=st.sets(st.integers(0, 11)),
)
def test_every_record_is_true_whenever_the_process_dies(
    steps: list[tuple[int, int]], splits: set[int]
) -> None:
    """After each step, what is recorded is what the sink has."""

    async def run() -> None:
        sink = _Sink()
        progress, _ = _progress(sink)
        checkpointer = _checkpointer()
        checkpointer.add(progress)
        for number, (index, count) in enumerate(steps):
            ranges = list(progress.gaps[0].ranges())
            buffer = ranges[index % len(ranges)]
            if number in splits:
                buffer.split_off(1)
            _arrive(buffer, count)
            await checkpointer.flush()
            for piece in sink.records:
                kept = memoryview(sink.bytes)[piece.start - START : piece.stop - START]
                assert chunk_digest(kept) == piece.digest
        assert progress.unstored() < GRANULE * (1 + len(splits))

    anyio.run(run)
