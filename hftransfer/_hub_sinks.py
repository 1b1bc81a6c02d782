"""Sinks that write as huggingface_hub does: into its cache, or into a ``local_dir``.

Both hold the lock that huggingface_hub takes for the same file while they write it, and
leave alone what is there already: a snapshot's file, a blob, a file whose recorded or
computed digest is right.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from anyio import from_thread, to_thread

from hftransfer._batch import Batch
from hftransfer._digests import chunk_digest, new_hasher
from hftransfer._direct import DirectIO, WayChooser
from hftransfer._files import destination_error, remove_stale_partials, write_whole
from hftransfer._hub_cache import RepoCache, content_etag, create_cachedir_tag
from hftransfer._hub_local_dir import LocalDir
from hftransfer._hub_locks import FileLock
from hftransfer._manifest import FileManifest, Manifest
from hftransfer._memory import cache_room
from hftransfer._plan import Chunk, PartLimits
from hftransfer.errors import DestinationError, TransferError
from hftransfer.stores.base import Entry, FileSink
from hftransfer.stores.local import (
    SMALL_FILE,
    LocalFileSink,
    SmallFileSink,
    check_destination,
)

__all__ = ("HubCacheSink", "LocalDirSink", "has_content")

T = TypeVar("T")

_PIECE = 4 << 20  # bytes hashed or copied between two looks for cancellation


class HubCacheSink:
    """Sink that adds files to the snapshot of one commit in huggingface_hub's cache.

    Args:
        repo: where the repository is cached.
        commit: whose files these are.
        force: fetch files that are there already, too.
        fsync: flush each file to the disk before it gets its name.
        direct_io: whether to write past the page cache; see `TransferOptions.direct_io`.
    """

    def __init__(
        self,
        repo: RepoCache,
        commit: str,
        *,
        force: bool = False,
        fsync: bool = False,
        direct_io: DirectIO = "auto",
    ) -> None:
        self._repo = repo
        self._commit = commit
        self._force = force
        self._fsync = fsync
        self._direct_io = direct_io
        self._ways: WayChooser | None = None
        # By etag: the snapshot's files with this content. The first one is transferred.
        self._pointers: dict[str, list[Path]] = {}
        self._leading: set[str] = set()
        self._absent: set[str] = set()
        """Etags of blobs that are to be fetched whatever others do meanwhile."""
        self._batch = Batch()

    @property
    def location(self) -> str:
        return str(self._repo.snapshot(self._commit))

    @property
    def limits(self) -> PartLimits:
        return PartLimits()

    async def prepare(self, entries: Sequence[Entry]) -> None:
        """Find out what is missing, and whether it can be written.

        Raises:
            LocationError: if a path would leave the snapshot.
            DestinationError: if the cache cannot be written, or is full.
        """
        await to_thread.run_sync(self._prepare, entries)

    def _prepare(self, entries: Sequence[Entry]) -> None:
        needed = 0
        for entry in entries:
            pointer = self._repo.pointer(self._commit, entry.path)
            etag = content_etag(entry)
            if not self._force and pointer.exists():
                continue
            if etag not in self._pointers:
                self._leading.add(entry.path)
                if self._force or not self._repo.blob(etag).exists():
                    self._absent.add(etag)
                    needed += entry.size
            self._pointers.setdefault(etag, []).append(pointer)
        if self._pointers:  # a complete snapshot may lie in a cache that cannot be written
            blobs = self._repo.blobs
            check_destination(blobs, needed)
            self._ways = WayChooser(self._direct_io, needed, cache_room())
            _guarded(blobs, partial(blobs.mkdir, parents=True, exist_ok=True))
            create_cachedir_tag(self._repo.root)

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        """Open the blob of `entry`; None if it is there, or comes with another path's."""
        if entry.path not in self._leading:
            return None
        etag = content_etag(entry)
        lock = FileLock(self._repo.lock(etag))
        if entry.size <= min(SMALL_FILE, chunk_size) and etag in self._absent:
            blob = self._repo.blob(etag)
            publish = partial(self._publish_small, etag)
            return _LockedSmallFileSink(publish, lock, self._batch, blob)
        try:
            await lock.acquire()
            blob = self._repo.blob(etag)
            pointers = self._pointers[etag]
            # Asked again under the lock: another process may just have finished it.
            if not self._force and await to_thread.run_sync(blob.exists):
                await _storing(blob, partial(self._repo.link, etag, pointers, new_blob=False))
                lock.release()
                return None
            inner = await LocalFileSink.open(
                blob,
                entry,
                chunk_size,
                stem=f"{etag}.{etag[:16]}",
                fsync=self._fsync,
                ways=self._ways,
            )
        except BaseException:
            lock.release()
            raise
        return _LockedFileSink(
            inner, lock, partial(self._repo.link, etag, pointers, new_blob=True), blob
        )

    def _publish_small(self, etag: str, data: memoryview) -> None:
        blob, pointers = self._repo.blob(etag), self._pointers[etag]
        # Asked again under the lock: another process may just have finished it.
        new_blob = self._force or not blob.exists()
        if new_blob:
            stem = f"{etag}.{etag[:16]}"
            write_whole(blob, data, folder=self._repo.blobs, stem=stem, fsync=self._fsync)
        self._repo.link(etag, pointers, new_blob=new_blob)

    async def finish(self, manifest: Manifest) -> None:
        """Remove what earlier attempts at these files left behind."""
        stems = set(self._pointers)
        await to_thread.run_sync(remove_stale_partials, self._repo.blobs, stems)


class LocalDirSink:
    """Sink that writes plain files and remembers which version of the repository they are.

    Args:
        local_dir: where the files go.
        repo: the cache of the same repository, from which files are copied if they are there.
        commit: whose files these are.
        force: fetch files that are there already, too.
        fsync: flush each file to the disk before it gets its name.
        direct_io: whether to write past the page cache; see `TransferOptions.direct_io`.
    """

    def __init__(
        self,
        local_dir: LocalDir,
        repo: RepoCache,
        commit: str,
        *,
        force: bool = False,
        fsync: bool = False,
        direct_io: DirectIO = "auto",
    ) -> None:
        self._local_dir = local_dir
        self._repo = repo
        self._commit = commit
        self._force = force
        self._fsync = fsync
        self._direct_io = direct_io
        self._ways: WayChooser | None = None
        self._missing: dict[str, Path] = {}
        self._absent: set[str] = set()
        """Paths of which there is no copy that could be used, here or in the cache."""
        self._batch = Batch()

    @property
    def location(self) -> str:
        return str(self._local_dir.root)

    @property
    def limits(self) -> PartLimits:
        return PartLimits()

    async def prepare(self, entries: Sequence[Entry]) -> None:
        """Find out what is missing, and whether it can be written.

        Raises:
            LocationError: if a path would leave the folder.
            DestinationError: if a file is in the way of a folder or the other way round, if
                the folder cannot be written, or is full.
        """
        await to_thread.run_sync(self._prepare, entries)

    def _prepare(self, entries: Sequence[Entry]) -> None:
        needed = 0
        for entry in entries:
            file = self._local_dir.file(entry.path)
            if file.is_dir():
                raise DestinationError(f"cannot write {file}: it is a folder")
            if not self._force and self._is_current(entry):
                continue
            self._missing[entry.path] = file
            is_there = file.is_file()
            needed += entry.size - (file.stat().st_size if is_there else 0)
            if self._force or not (is_there or self._is_cached(entry)):
                self._absent.add(entry.path)
        if self._missing:
            check_destination(self._local_dir.root, max(0, needed))
            self._ways = WayChooser(self._direct_io, needed, cache_room())
            _guarded(self._local_dir.root, self._local_dir.create)

    def _is_cached(self, entry: Entry) -> bool:
        return self._repo.pointer(self._commit, entry.path).is_file()

    def _is_current(self, entry: Entry) -> bool:
        known = self._local_dir.read_metadata(entry.path)
        return known is not None and known.commit == self._commit

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        """Open `entry`; None if the file is right already or can be copied from the cache."""
        target = self._missing.get(entry.path)
        if target is None:
            return None
        etag = content_etag(entry)
        record = partial(self._local_dir.write_metadata, entry.path, self._commit, etag)
        lock = FileLock(self._local_dir.lock(entry.path))
        if entry.size <= min(SMALL_FILE, chunk_size) and entry.path in self._absent:
            publish = partial(self._publish_small, entry, target, record)
            return _LockedSmallFileSink(publish, lock, self._batch, target)
        try:
            await lock.acquire()
            if not self._force and await _storing(target, partial(self._reuse, entry, target)):
                await _storing(target, record)
                lock.release()
                return None
            inner = await LocalFileSink.open(
                target,
                entry,
                chunk_size,
                partial_folder=self._local_dir.metadata(entry.path).parent,
                stem=_partial_stem(entry),
                fsync=self._fsync,
                ways=self._ways,
            )
        except BaseException:
            lock.release()
            raise
        return _LockedFileSink(inner, lock, record, target)

    def _publish_small(
        self, entry: Entry, target: Path, record: Callable[[], None], data: memoryview
    ) -> None:
        folder = self._local_dir.metadata(entry.path).parent
        write_whole(target, data, folder=folder, stem=_partial_stem(entry), fsync=self._fsync)
        record()

    def _reuse(self, entry: Entry, target: Path) -> bool:
        """Whether `target` has the content of `entry`, if need be after copying it."""
        if target.is_file():
            known = self._local_dir.read_metadata(entry.path)
            if known is not None and known.etag == content_etag(entry):
                return True
            if known is None and has_content(target, entry):
                return True
        cached = self._repo.pointer(self._commit, entry.path)
        folder = self._local_dir.metadata(entry.path).parent
        temporary = folder / f"{_partial_stem(entry)}.{uuid.uuid4().hex}.incomplete"
        return cached.is_file() and _copy_verified(cached, target, temporary, entry)

    async def finish(self, manifest: Manifest) -> None:
        """Remove what earlier attempts at these files left behind."""

        def clean() -> None:
            stems: dict[Path, set[str]] = {}
            for path in self._missing:
                folder = self._local_dir.metadata(path).parent
                stems.setdefault(folder, set()).add(_short_stem(path))
            for folder, names in stems.items():
                remove_stale_partials(folder, names)

        await to_thread.run_sync(clean)


class _LockedSmallFileSink:
    """A small file that is locked only while it is written: two may fetch it, one after another
    they write the same.

    Args:
        publish: gives the file its content and does what belongs to it; called in a worker
            thread, with the lock held.
        lock: of the file.
        batch: shared by the small files of one sink.
    """

    def __init__(
        self, publish: Callable[[memoryview], None], lock: FileLock, batch: Batch, target: Path
    ) -> None:
        self._lock = lock
        self._locked_publish = publish
        self._target = target
        self._inner = SmallFileSink(self._publish, batch)

    @property
    def held(self) -> Mapping[int, str]:
        return self._inner.held

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        await self._inner.read_into(chunk, buffer)

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        await self._when_free(partial(self._inner.write, chunk, data, digest))

    async def commit(self, manifest: FileManifest) -> None:
        await self._when_free(partial(self._inner.commit, manifest))

    async def abort(self, *, discard: bool) -> None:
        await self._inner.abort(discard=discard)

    async def _when_free(self, action: Callable[[], Awaitable[None]]) -> None:
        """Run `action`; if another process holds the lock, again when it was given back."""
        try:
            await action()
        except _LockedError:
            await self._lock.acquire()
            await action()

    def _publish(self, data: memoryview) -> None:
        if not self._lock.is_held and self._lock.try_acquire() is None:
            raise _LockedError
        try:
            _guarded(self._target, partial(self._locked_publish, data))
        finally:
            self._lock.release()


class _LockedError(Exception):
    """Another process works on the file."""


class _LockedFileSink:
    """A local file that is locked until it is published and what belongs to it is done."""

    def __init__(
        self, inner: LocalFileSink, lock: FileLock, after: Callable[[], None], target: Path
    ) -> None:
        self._inner = inner
        self._lock = lock
        self._after = after
        self._target = target

    @property
    def held(self) -> Mapping[int, str]:
        return self._inner.held

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        await self._inner.read_into(chunk, buffer)

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        await self._inner.write(chunk, data, digest)

    async def commit(self, manifest: FileManifest) -> None:
        try:
            await self._inner.commit(manifest)
            await _storing(self._target, self._after)
        finally:
            self._lock.release()

    async def abort(self, *, discard: bool) -> None:
        try:
            await self._inner.abort(discard=discard)
        finally:
            self._lock.release()


def has_content(file: Path, entry: Entry) -> bool:
    """Return True if `file` has the size and digest of `entry`. Call it in a worker thread.

    Raises:
        OSError: if it cannot be read.
    """
    if entry.digest is None or file.stat().st_size != entry.size:
        return False
    hasher = new_hasher(entry.digest.algorithm, entry.size)
    buffer = memoryview(bytearray(_PIECE))
    with open(file, "rb", buffering=0) as source:
        while count := source.readinto(buffer):
            _check_cancelled()
            hasher.update(buffer[:count])
    return hasher.hexdigest() == entry.digest.value


def _copy_verified(source: Path, target: Path, temporary: Path, entry: Entry) -> bool:
    """Copy `source` to `target` if it has the digest of `entry`: a cache can be damaged."""
    if not has_content(source, entry):
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        buffer = memoryview(bytearray(_PIECE))
        with open(source, "rb", buffering=0) as reader, open(temporary, "xb") as writer:
            _lock(writer.fileno())
            while count := reader.readinto(buffer):
                _check_cancelled()
                writer.write(buffer[:count])
            writer.flush()
            os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _lock(descriptor: int) -> None:
    """Tell `remove_stale_partials` of other processes that somebody works on the file."""
    with suppress(OSError):  # there are file systems without locks
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _short_stem(path: str) -> str:
    """Names the partial files of `path`: a file name can be too long to be extended."""
    return chunk_digest(memoryview(path.encode()))


def _partial_stem(entry: Entry) -> str:
    return f"{_short_stem(entry.path)}.{content_etag(entry)[:16]}"


def _check_cancelled() -> None:
    """Raise the cancellation of the task that waits for this worker thread, if there is one."""
    from_thread.check_cancelled()


def _guarded(path: Path, action: Callable[[], T]) -> T:
    """Run `action`, whose ``OSError`` becomes a `DestinationError` about `path`."""
    try:
        return action()
    except OSError as error:
        if isinstance(error, TransferError):
            raise
        raise destination_error(error, path) from error


async def _storing(path: Path, action: Callable[[], T]) -> T:
    """Run `action` in a worker thread, guarded."""
    return await to_thread.run_sync(_guarded, path, action)
