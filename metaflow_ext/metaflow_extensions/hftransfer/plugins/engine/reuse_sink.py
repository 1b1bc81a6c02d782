"""A local folder as destination in which files that are already right stay as they are.

A retry on the same machine, and a load into a folder that persists, therefore transfers
only what is missing. Content decides: the chunks of a file must match the manifest. Where
only the Hub's digest of the whole file is known, the engine reads the existing bytes and
verifies them like bytes that it receives.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio.to_thread

from hftransfer import FileManifest, IntegrityError, Manifest
from hftransfer._core.plan import Chunk, PartLimits, plan_chunks
from hftransfer._io.buffers import BufferPool
from hftransfer._io.direct_io import DirectIO
from hftransfer._io.file_range import HASH_WINDOW_SIZE, FileRange, read_fully
from hftransfer.errors import TransferError
from hftransfer.locations import safe_path
from hftransfer.stores.base import Entry, FileSink
from hftransfer.stores.local.sink import LocalSink


class ReuseSink:
    """`LocalSink` for the folder `path` that does not write files which are already right.

    Parameters
    ----------
    path : Path
        The folder.
    buffers : BufferPool
        The client's: existing files are hashed through memory under its budget.
    fsync, direct_io
        As for `LocalSink`.
    """

    limits = PartLimits()

    def __init__(
        self,
        path: Path,
        buffers: BufferPool,
        *,
        fsync: bool = False,
        direct_io: DirectIO = "auto",
    ) -> None:
        self._path = path
        self._buffers = buffers
        self._sink = LocalSink(path, fsync=fsync, direct_io=direct_io)
        self._candidates: set[str] = set()
        """Existing files of the right size that are not known to be wrong."""

    @property
    def location(self) -> str:
        return self._sink.location

    async def prepare(self, entries: Sequence[Entry]) -> None:
        await self._sink.prepare(entries)
        # In one thread call: one call per file costs more than moving a small file.
        self._candidates |= await anyio.to_thread.run_sync(_of_right_size, self._path, entries)

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        recorded = entry.manifest
        if entry.path in self._candidates and (recorded is not None or entry.digest is not None):
            path = self._path / safe_path(entry.path)
            chunks = await chunk_digests(path, entry.size, chunk_size, self._buffers)
            if chunks is not None and recorded is not None and chunks == recorded.chunks:
                return None
            if chunks is not None and recorded is None:
                return _VerifiedFile(self, entry.path, path, chunks)
        return await self._sink.begin(entry, chunk_size)

    def reject(self, path: str) -> None:
        """Do not use the existing file `path` again: its content is wrong."""
        self._candidates.discard(path)

    async def finish(self, manifest: Manifest) -> None:
        await self._sink.finish(manifest)
        self._candidates.clear()


def _of_right_size(folder: Path, entries: Sequence[Entry]) -> set[str]:
    """Return the paths of those of `entries` that exist in `folder` with their size."""
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


class _VerifiedFile:
    """An existing file with all of its chunks; the engine reads and verifies them.

    Parameters
    ----------
    sink : ReuseSink
    name : str
        The path of the entry.
    path : Path
    chunks : sequence of str
        The XXH3-128 of each chunk.
    """

    def __init__(self, sink: ReuseSink, name: str, path: Path, chunks: Sequence[str]) -> None:
        self.resumable_chunks: Mapping[int, str] = dict(enumerate(chunks))
        self._sink = sink
        self._name = name
        self._path = path

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        def read() -> int:
            with open(self._path, "rb", buffering=0) as file:
                return read_fully(file.fileno(), buffer, chunk.start)

        if await anyio.to_thread.run_sync(read) != len(buffer):
            raise IntegrityError(f"{self._path} was changed while it was being read")

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        raise IntegrityError(f"{self._path} was changed while it was being read")

    async def commit(self, manifest: FileManifest) -> None:
        pass  # the file already has its name

    async def abort(self, *, discard: bool) -> None:
        if discard:
            self._sink.reject(self._name)


async def chunk_digests(
    path: Path, size: int, chunk_size: int, buffers: BufferPool, *, follow: bool = False
) -> tuple[str, ...] | None:
    """Return the XXH3-128 of each chunk of a file.

    Parameters
    ----------
    path : Path
    size : int
        The expected number of bytes.
    chunk_size : int
        Bytes.
    buffers : BufferPool
        The file is read through one window of at most 1 MiB of it.
    follow : bool
        Follow a link, and accept a file with several names. By default neither is accepted:
        the content may be part of a datastore.

    Returns
    -------
    tuple of str, optional
        None if there is no file of exactly this size, or it changes while it is read.
    """
    async with buffers.lease(min(HASH_WINDOW_SIZE, max(size, 1))) as window:
        return await anyio.to_thread.run_sync(
            _chunk_digests, path, size, chunk_size, window, follow
        )


def _chunk_digests(
    path: Path, size: int, chunk_size: int, window: memoryview, follow: bool
) -> tuple[str, ...] | None:
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
        file = FileRange.whole(fd, str(path))
        return tuple(
            file.subrange(chunk.start, chunk.size).digests(("xxhash128",), window)[0]
            for chunk in plan_chunks(size, chunk_size)
        )
    except (OSError, TransferError):
        return None
    finally:
        os.close(fd)
