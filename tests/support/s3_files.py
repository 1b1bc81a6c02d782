"""Steps of the engine, done by hand on one file of an S3 sink or source."""

from __future__ import annotations

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.digests import chunk_digest
from hftransfer._core.manifest import FileManifest
from hftransfer._core.plan import Chunk, plan_chunks
from hftransfer.stores.base import Entry, FileSink, Sink, Source

__all__ = ("PART", "manifest_of", "open_file", "read", "upload", "write")

PART = 5 << 20
"""Bytes of a part: the smallest that S3 allows."""


def manifest_of(data: bytes) -> FileManifest:
    """Return the manifest of a file with chunks of `PART` bytes."""
    view = memoryview(data)
    chunks = plan_chunks(len(data), PART)
    digests = tuple(chunk_digest(view[chunk.start : chunk.stop]) for chunk in chunks)
    return FileManifest(size=len(data), chunk_size=PART, chunks=digests)


async def open_file(sink: Sink, path: str, size: int) -> FileSink:
    """Open a new file of `size` bytes."""
    opened = await sink.begin(Entry(path=path, size=size), PART)
    assert opened is not None
    return opened


async def write(file: FileSink, chunk: Chunk, data: bytes) -> None:
    """Write one chunk of the file's `data`."""
    part = memoryview(data)[chunk.start : chunk.stop]
    await file.write(chunk, part, chunk_digest(part))


async def upload(sink: Sink, path: str, data: bytes) -> None:
    """Write a whole file, last chunk first, and publish it."""
    file = await open_file(sink, path, len(data))
    for chunk in reversed(plan_chunks(len(data), PART)):
        await write(file, chunk, data)
    await file.commit(manifest_of(data))


async def read(source: Source, entry: Entry, start: int = 0, stop: int | None = None) -> bytes:
    """Return the bytes of `entry` from `start` to `stop`, or to its end."""
    buffer = bytearray((entry.size if stop is None else stop) - start)
    await source.fill(entry, ByteRangeBuffer(start, memoryview(buffer)))
    return bytes(buffer)
