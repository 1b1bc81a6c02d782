"""Tar archives that are written and read chunk by chunk, without a file on the local disk.

`TarSource` is the archive of a file or folder as a source of the engine. Its layout is
computed first, so that any ranges of it can be read at the same time. `TarSink` receives the
chunks of an archive in any order and unpacks them in order; no member can be written outside
of the destination. The archives are those that `tarfile` writes, so metaflow-checkpoint's own
code can read them, and the other way round.
"""

from __future__ import annotations

import errno
import io
import os
import queue
import shutil
import tarfile
import tempfile
from bisect import bisect_right
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from threading import Thread
from typing import NamedTuple, cast

import anyio
import anyio.to_thread

from hftransfer import FileManifest, IntegrityError, Manifest, SourceChangedError, UnsupportedError
from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.plan import Chunk, PartLimits
from hftransfer._core.streams import ByteStream
from hftransfer._io.file_range import read_fully
from hftransfer._io.move_tree import move_tree
from hftransfer.stores.base import Entry, FileSink, FillStream

# Bytes that `tarfile` reads at a time. It needs `bytes`, so they are copied from the engine's
# buffer: at most two of these copies exist per archive, besides the engine's memory budget.
_READ_SIZE = 1 << 20


class _Piece(NamedTuple):
    """Bytes ``[start, start + size)`` of the archive."""

    start: int
    size: int
    header: bytes | None
    """The bytes themselves, if they are not those of a file."""
    path: str
    """The file whose content the bytes are."""
    version: tuple[int, int, int]
    """Inode, size and mtime_ns of that file."""


class TarSource:
    """The tar archive of `path`, as a source with one file.

    The members of a folder's archive are named relative to the folder. Links stay links.

    Parameters
    ----------
    path : str
        A file or a folder.
    name : str
        The name of the archive.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    """

    commit: str | None = None

    def __init__(self, path: str, name: str) -> None:
        self._path = path
        self._name = name
        self._pieces: list[_Piece] = []
        self.size = 0
        self._plan()
        self._starts = [piece.start for piece in self._pieces]

    @property
    def location(self) -> str:
        return f"the tar archive of {self._path}"

    def _plan(self) -> None:
        # Never written to: it describes the members and recognizes hard links.
        with tarfile.open(fileobj=io.BytesIO(), mode="w") as archive:
            if os.path.isdir(self._path):
                for name in sorted(os.listdir(self._path)):
                    self._add(archive, os.path.join(self._path, name), name)
            else:
                self._add(archive, self._path, os.path.basename(self._path))
            end = 2 * tarfile.BLOCKSIZE
            end += -(self.size + end) % tarfile.RECORDSIZE
            self._append(bytes(end))

    def _add(self, archive: tarfile.TarFile, path: str, name: str) -> None:
        try:
            member = cast("tarfile.TarInfo | None", archive.gettarinfo(path, name))
        except FileNotFoundError:
            if path == self._path:
                raise
            return  # removed since the folder was listed
        if member is None:
            return  # a socket, which an archive cannot contain
        header = member.tobuf(archive.format, archive.encoding or "utf-8", archive.errors)
        self._append(header)
        if member.isreg() and member.size:
            status = os.stat(path)
            if status.st_size != member.size:
                raise SourceChangedError(f"{path} was changed while it was being saved")
            self._append(None, path, status)
            self._append(bytes(-member.size % tarfile.BLOCKSIZE))
        elif member.isdir():
            for inner in sorted(os.listdir(path)):
                self._add(archive, os.path.join(path, inner), f"{name}/{inner}")

    def _append(
        self, header: bytes | None, path: str = "", status: os.stat_result | None = None
    ) -> None:
        size = len(header) if header is not None else 0
        if status is not None:
            size = status.st_size
        if size:
            version = (0, 0, 0) if status is None else _version(status)
            self._pieces.append(_Piece(self.size, size, header, path, version))
            self.size += size

    async def list(self) -> Sequence[Entry]:
        return [Entry(path=self._name, size=self.size)]

    async def fill(self, entry: Entry, buffer: ByteRangeBuffer) -> None:
        remaining = buffer.remaining
        await anyio.to_thread.run_sync(self._read_into, buffer.position, remaining)
        buffer.advance(len(remaining))

    def _read_into(self, start: int, buffer: memoryview) -> None:
        filled = 0
        index = bisect_right(self._starts, start) - 1
        while filled < len(buffer):
            piece = self._pieces[index]
            offset = start + filled - piece.start
            count = min(piece.size - offset, len(buffer) - filled)
            part = buffer[filled : filled + count]
            if piece.header is not None:
                part[:] = piece.header[offset : offset + count]
            else:
                _read_file(piece, offset, part)
            filled += count
            index += 1

    @asynccontextmanager
    async def stream(self, entry: Entry) -> AsyncIterator[ByteStream]:
        yield FillStream(self, entry)


def _version(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read_file(piece: _Piece, offset: int, buffer: memoryview) -> None:
    """Fill `buffer` with the file of `piece` from `offset` on.

    Raises
    ------
    SourceChangedError
        If the file is no longer the one whose size is in the archive's header.
    """
    try:
        with open(piece.path, "rb", buffering=0) as file:
            count = read_fully(file.fileno(), buffer, offset)
            status = os.fstat(file.fileno())
    except FileNotFoundError as error:
        raise SourceChangedError(f"{piece.path} was removed while it was being saved") from error
    if count < len(buffer) or _version(status) != piece.version:
        raise SourceChangedError(f"{piece.path} was changed while it was being saved")


class TarSink:
    """Unpacks one archive into the folder `path`; other files there are not touched.

    Members are unpacked into a hidden folder below `path`, and moved to their names when the
    whole archive is unpacked and verified.
    """

    limits = PartLimits()

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def location(self) -> str:
        return str(self._path)

    async def prepare(self, entries: Sequence[Entry]) -> None:
        if not hasattr(tarfile, "data_filter"):
            raise UnsupportedError("this Python's tarfile cannot unpack safely (no data_filter)")

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        return await anyio.to_thread.run_sync(_Unpacking, self._path, entry)

    async def finish(self, manifest: Manifest) -> None:
        pass


class _Unpacking:
    """One archive that is being unpacked.

    A thread of its own runs `tarfile`. `write` gives it the chunks in order through `_chunks`,
    each with a future that the thread completes when it has read the chunk.
    """

    def __init__(self, path: Path, entry: Entry) -> None:
        self.resumable_chunks: Mapping[int, str] = {}
        self._path = path
        self._what = entry.path
        self._next = 0
        self._next_changed = anyio.Condition()
        self._chunks: queue.Queue[tuple[memoryview, Future[None]] | None] = queue.Queue()
        path.mkdir(parents=True, exist_ok=True)
        self._staging = Path(
            tempfile.mkdtemp(prefix=".hftransfer-", suffix=".incomplete", dir=path)
        )
        self._done: Future[None] = Future()
        Thread(target=self._run, daemon=True, name="hftransfer-untar").start()

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        raise UnsupportedError(f"{self._what}: no chunk of an archive can be resumed")

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        async with self._next_changed:
            while chunk.index > self._next:
                await self._next_changed.wait()
            if chunk.index < self._next:
                return  # a second try; the thread has read the chunk already
            is_read: Future[None] = Future()
            self._chunks.put((data, is_read))
            # The thread reads the buffer until then, even if this task is cancelled.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(is_read.result)
            self._next += 1
            self._next_changed.notify_all()
        if self._done.done():
            self._done.result()

    async def commit(self, manifest: FileManifest) -> None:
        self._chunks.put(None)
        await anyio.to_thread.run_sync(self._done.result)
        await anyio.to_thread.run_sync(self._publish)

    async def abort(self, *, discard: bool) -> None:
        self._chunks.put(None)

        def clean() -> None:
            self._done.exception()
            shutil.rmtree(self._staging, ignore_errors=True)

        await anyio.to_thread.run_sync(clean)

    def _run(self) -> None:
        reader = _Reader(self._chunks)
        try:
            with tarfile.open(fileobj=reader, mode="r|", bufsize=_READ_SIZE) as archive:
                archive.copybufsize = _READ_SIZE  # type: ignore[attr-defined]
                _unpack(archive, self._staging)
        except BaseException as error:  # noqa: BLE001 - raised by `commit`
            self._done.set_exception(_as_transfer_error(error, self._what))
        else:
            self._done.set_result(None)
        reader.drain()

    def _publish(self) -> None:
        move_tree(self._staging, self._path)
        shutil.rmtree(self._staging, ignore_errors=True)


class _Reader(io.RawIOBase):
    """The archive's bytes, chunk after chunk, for `tarfile`."""

    def __init__(self, chunks: queue.Queue[tuple[memoryview, Future[None]] | None]) -> None:
        self._chunks = chunks
        self._data = memoryview(b"")
        self._is_read: Future[None] | None = None
        self._ended = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._data and not self._ended:
            self._release()
            following = self._chunks.get()
            if following is None:
                self._ended = True
            else:
                self._data, self._is_read = following
        found = bytes(self._data[:size] if size >= 0 else self._data)
        self._data = self._data[len(found) :]
        if not self._data:
            self._release()
        return found

    def drain(self) -> None:
        """Discard the chunks that follow, so that no `write` waits for them."""
        self._data = memoryview(b"")
        self._release()
        while not self._ended:
            following = self._chunks.get()
            if following is None:
                return
            following[1].set_result(None)

    def _release(self) -> None:
        self._data = memoryview(b"")
        if self._is_read is not None:
            self._is_read.set_result(None)
            self._is_read = None


def _unpack(archive: tarfile.TarFile, folder: Path) -> None:
    for member in archive:
        if member.name.strip("/") in ("", "."):
            continue  # the archived folder itself
        archive.extract(member, folder, set_attrs=True, filter="data")


def _as_transfer_error(error: BaseException, what: str) -> BaseException:
    if isinstance(error, tarfile.FilterError):
        return IntegrityError(f"{what}: refused to unpack: {error}")
    if isinstance(error, tarfile.TarError):
        return IntegrityError(f"{what} is not a complete tar archive: {error}")
    if isinstance(error, OSError):
        from hftransfer import DestinationError, DiskFullError

        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        kind = DiskFullError if full else DestinationError
        return kind(f"{what}: cannot unpack: {error.strerror or error}")
    return error
