"""`hftransfer._engine.sendfile`: local files to sinks that send them from the page cache."""

from __future__ import annotations

import os
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from hftransfer._core.digests import chunk_digest
from hftransfer._core.plan import Chunk
from hftransfer._engine.transfer import Context, transfer
from hftransfer._io.file_range import FileRange
from hftransfer.errors import IntegrityError, NetworkError, SourceChangedError, TransferError
from hftransfer.stores.base import Entry, FileSink
from hftransfer.stores.local.source import LocalSource
from hftransfer.stores.memory import MemoryStore
from support.engine import CHUNK, FILES, OPTIONS, move

pytestmark = pytest.mark.anyio


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
        self, chunk: Chunk, file_range: FileRange, digest: str, checksum: bytes
    ) -> None:
        data = file_range.get(0, len(file_range))
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
        report = await move(LocalSource(folder), first, second, context=context)

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

    await move(LocalSource(folder), sending, other)
    assert sending.files == other.files == FILES
    await move(LocalSource(folder), sending, plain)
    assert sending.files == plain.files == FILES

    assert not sending.checksums


async def test_sendfile_chunk_that_does_not_match_the_manifest_is_rejected(folder: Path) -> None:
    """It is found before it is sent, and the file is not published."""
    report = await move(LocalSource(folder), MemoryStore())
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

    report = await move(LocalSource(folder), sink)

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
        await move(LocalSource(folder), sink, context=context)

    assert "folder/large" not in sink.files
    assert sink.open_files == 0
    assert set(os.listdir("/proc/self/fd")) <= before
    assert (
        context.sendfile_limiter.in_use,
        context.hash_windows.borrowed_tokens,
        context.buffer_pool.in_use,
    ) == (0, 0, 0)
