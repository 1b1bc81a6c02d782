"""A local folder as destination that keeps the files which are right already.

A retry on the same machine, and a load into a folder that persists, thus moves only what
is missing. What may be kept is decided by content: chunks that match the manifest, or,
where only the Hub's digest of the whole file is known, bytes that are read again and
checked like those that arrive.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio.to_thread

from hftransfer import FileManifest, IntegrityError, Manifest
from hftransfer._core.digests import chunk_digest
from hftransfer._core.plan import Chunk, PartLimits, plan_chunks
from hftransfer._io.direct_io import DirectIO
from hftransfer.locations import safe_path
from hftransfer.stores.base import Entry, FileSink
from hftransfer.stores.local.sink import LocalSink


class KeepingSink:
    """`LocalSink` for the folder `path`, with what is right there already left in place."""

    limits = PartLimits()

    def __init__(self, path: Path, *, fsync: bool = False, direct_io: DirectIO = "auto") -> None:
        self._path = path
        self._sink = LocalSink(path, fsync=fsync, direct_io=direct_io)
        self._there: set[str] = set()
        """Files of the right size that are there, and not known to be wrong."""

    @property
    def location(self) -> str:
        return self._sink.location

    async def prepare(self, entries: Sequence[Entry]) -> None:
        await self._sink.prepare(entries)
        # In one go: to ask for each file in a thread costs more than a small file itself.
        self._there = await anyio.to_thread.run_sync(_of_right_size, self._path, entries)

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        path = self._path / safe_path(entry.path)
        recorded = entry.manifest
        if entry.path in self._there and (recorded is not None or entry.digest is not None):
            found = await anyio.to_thread.run_sync(chunk_digests, path, entry.size, chunk_size)
            if found is not None and recorded is not None and found == recorded.chunks:
                return None
            if found is not None and recorded is None:
                return _KeptFile(self, entry.path, path, found)
        return await self._sink.begin(entry, chunk_size)

    def forget(self, path: str) -> None:
        self._there.discard(path)

    async def finish(self, manifest: Manifest) -> None:
        await self._sink.finish(manifest)


def _of_right_size(folder: Path, entries: Sequence[Entry]) -> set[str]:
    """Return the paths of those of `entries` that lie in `folder` with their size."""
    found = set()
    listed: dict[Path, Mapping[str, int]] = {}
    for entry in entries:
        path = folder / safe_path(entry.path)
        if path.parent not in listed:
            listed[path.parent] = _sizes_in(path.parent)
        if listed[path.parent].get(path.name) == entry.size:
            found.add(entry.path)
    return found


def _sizes_in(folder: Path) -> Mapping[str, int]:
    try:
        with os.scandir(folder) as items:
            return {
                item.name: item.stat(follow_symlinks=False).st_size
                for item in items
                if item.is_file(follow_symlinks=False)
            }
    except OSError:
        return {}


class _KeptFile:
    """A file that is there, all of whose chunks are held."""

    def __init__(self, sink: KeepingSink, name: str, path: Path, chunks: Sequence[str]) -> None:
        self.resumable_chunks: Mapping[int, str] = dict(enumerate(chunks))
        self._sink = sink
        self._name = name
        self._path = path

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        def read() -> int:
            with open(self._path, "rb", buffering=0) as file:
                return _fill(file.fileno(), chunk.start, buffer)

        if await anyio.to_thread.run_sync(read) < len(buffer):
            raise IntegrityError(f"{self._path} was changed while it was being read")

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        raise IntegrityError(f"{self._path} was changed while it was being read")

    async def commit(self, manifest: FileManifest) -> None:
        pass  # it has its name

    async def abort(self, *, discard: bool) -> None:
        if discard:
            self._sink.forget(self._name)


def chunk_digests(
    path: Path, size: int, chunk_size: int, *, follow: bool = False
) -> tuple[str, ...] | None:
    """Return the XXH3-128 of each chunk; None if there is no file of exactly this size.

    Without `follow` a link is no such file: what it points to may be part of a datastore.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            return None
        if status.st_nlink > 1 and not follow:
            return None
        buffer = memoryview(bytearray(min(chunk_size, size)))
        digests = []
        for chunk in plan_chunks(size, chunk_size):
            part = buffer[: chunk.size]
            if _fill(fd, chunk.start, part) < chunk.size:
                return None
            digests.append(chunk_digest(part))
        return tuple(digests)
    except OSError:
        return None
    finally:
        os.close(fd)


def _fill(fd: int, start: int, buffer: memoryview) -> int:
    filled = 0
    while filled < len(buffer):
        count = os.preadv(fd, [buffer[filled:]], start + filled)
        if count == 0:
            break
        filled += count
    return filled
