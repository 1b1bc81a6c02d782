"""Tar archives that are never a file on this disk: written and read chunk by chunk.

`TarSource` is the archive of a file or folder as a source of the engine: its layout is
worked out first, so any range of it can be read, and several at once. `TarSink` takes the
chunks of an archive in any order, unpacks them in order, and lets nothing leave the
destination. What comes out is what metaflow-checkpoint's own tar code writes and reads.
"""

from __future__ import annotations

import errno
import io
import os
import queue
import shutil
import stat
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
from hftransfer.stores.base import Entry, FileSink, FillStream

_ZEROS = bytes(tarfile.BLOCKSIZE)
# The reader below copies what it hands on; large steps keep Python out of the way.
_STEP = 1 << 20


class _Piece(NamedTuple):
    """Bytes ``[start, start + size)`` of the archive."""

    start: int
    size: int
    header: bytes | None
    path: str
    changed: tuple[int, int, int]
    """Inode, size and mtime_ns of the file at `path`."""


class TarSource:
    """The tar archive of `path`, as one file.

    A folder's content is stored without the folder's own name. Links are kept as links.

    Parameters
    ----------
    path : str
        A file or a folder.
    name : str
        Of the archive.

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
        # Never written to: it knows how members are described and which are hard links.
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
            return  # a socket; no archive holds one
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
            changed = (0, 0, 0) if status is None else _version(status)
            self._pieces.append(_Piece(self.size, size, header, path, changed))
            self.size += size

    async def list(self) -> Sequence[Entry]:
        return [Entry(path=self._name, size=self.size)]

    async def fill(self, entry: Entry, span: ByteRangeBuffer) -> None:
        rest = span.remaining
        await anyio.to_thread.run_sync(self._read_into, span.position, rest)
        span.advance(len(rest))

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
    filled = 0
    try:
        with open(piece.path, "rb", buffering=0) as file:
            while filled < len(buffer):
                count = os.preadv(file.fileno(), [buffer[filled:]], offset + filled)
                if count == 0:
                    break
                filled += count
            status = os.fstat(file.fileno())
    except FileNotFoundError as error:
        raise SourceChangedError(f"{piece.path} was removed while it was being saved") from error
    if filled < len(buffer) or _version(status) != piece.changed:
        raise SourceChangedError(f"{piece.path} was changed while it was being saved")


class TarSink:
    """Unpacks one archive into the folder `path`; other files there are left alone.

    Members are unpacked into a hidden folder inside of `path` and moved to their names when
    the whole archive is there and verified.
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
    """One archive on its way; a thread of its own reads what `write` hands over, in order."""

    def __init__(self, path: Path, entry: Entry) -> None:
        self.resumable_chunks: Mapping[int, str] = {}
        self._path = path
        self._what = entry.path
        self._next = 0
        self._turn = anyio.Condition()
        self._chunks: queue.Queue[tuple[memoryview, Future[None]] | None] = queue.Queue()
        path.mkdir(parents=True, exist_ok=True)
        self._staging = Path(
            tempfile.mkdtemp(prefix=".hftransfer-", suffix=".incomplete", dir=path)
        )
        self._done: Future[None] = Future()
        Thread(target=self._run, daemon=True, name="hftransfer-untar").start()

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        raise UnsupportedError(f"{self._what}: nothing of it is held")

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        async with self._turn:
            while chunk.index > self._next:
                await self._turn.wait()
            if chunk.index < self._next:
                return  # a second try of what was taken already
            taken: Future[None] = Future()
            self._chunks.put((data, taken))
            # The buffer is read until then, also when this is cancelled.
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(taken.result)
            self._next += 1
            self._turn.notify_all()
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
            with tarfile.open(fileobj=reader, mode="r|", bufsize=_STEP) as archive:
                archive.copybufsize = _STEP  # type: ignore[attr-defined]
                _unpack(archive, self._staging)
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits for the end
            self._done.set_exception(_explained(error, self._what))
        else:
            self._done.set_result(None)
        reader.drain()

    def _publish(self) -> None:
        _move_tree(self._staging, self._path)
        shutil.rmtree(self._staging, ignore_errors=True)


class _Reader(io.RawIOBase):
    """The archive's bytes, as they are handed over."""

    def __init__(self, chunks: queue.Queue[tuple[memoryview, Future[None]] | None]) -> None:
        self._chunks = chunks
        self._data = memoryview(b"")
        self._taken: Future[None] | None = None
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
                self._data, self._taken = following
        found = bytes(self._data[:size] if size >= 0 else self._data)
        self._data = self._data[len(found) :]
        if not self._data:
            self._release()
        return found

    def drain(self) -> None:
        """Take whatever else is handed over, so that nobody waits for it."""
        self._data = memoryview(b"")
        self._release()
        while not self._ended:
            following = self._chunks.get()
            if following is None:
                return
            following[1].set_result(None)

    def _release(self) -> None:
        self._data = memoryview(b"")
        if self._taken is not None:
            self._taken.set_result(None)
            self._taken = None


def _unpack(archive: tarfile.TarFile, folder: Path) -> None:
    for member in archive:
        if member.name.strip("/") in ("", "."):
            continue  # the archived folder itself
        archive.extract(member, folder, set_attrs=True, filter="data")


def _explained(error: BaseException, what: str) -> BaseException:
    if isinstance(error, tarfile.FilterError):
        return IntegrityError(f"{what}: refused to unpack it: {error}")
    if isinstance(error, tarfile.TarError):
        return IntegrityError(f"{what} is not a whole tar archive: {error}")
    if isinstance(error, OSError):
        from hftransfer import DestinationError, DiskFullError

        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        kind = DiskFullError if full else DestinationError
        return kind(f"{what}: cannot unpack it: {error.strerror or error}")
    return error


def _move_tree(source: Path, target: Path) -> None:
    """Move everything below `source` to the same place below `target`, replacing files."""
    for item in sorted(source.iterdir()):
        destination = target / item.name
        if stat.S_ISDIR(item.lstat().st_mode):
            if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
                destination.unlink()
            destination.mkdir(exist_ok=True)
            _move_tree(item, destination)
        else:
            if destination.is_dir() and not destination.is_symlink():
                shutil.rmtree(destination)
            os.replace(item, destination)
