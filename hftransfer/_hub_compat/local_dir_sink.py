"""Sink that writes to a ``local_dir`` as huggingface_hub does: plain files, and their metadata.

While it writes a file it holds the lock that huggingface_hub takes for that file. A file whose
recorded or computed digest matches is not downloaded again, and one that the cache has is copied
from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from anyio import to_thread

from hftransfer._core.digests import chunk_digest
from hftransfer._core.manifest import Manifest
from hftransfer._core.memory import available_page_cache
from hftransfer._core.plan import PartLimits
from hftransfer._hub_compat.cache import CachedRepo, content_etag
from hftransfer._hub_compat.content import copy_verified, has_content
from hftransfer._hub_compat.local_dir import LocalDir
from hftransfer._hub_compat.locked_sink import LockedFileSink, LockedSmallFileSink, write_in_thread
from hftransfer._io.atomic_write import write_atomically
from hftransfer._io.buffers import BufferPool
from hftransfer._io.destination_folders import DestinationFolders
from hftransfer._io.disk_space import FreeSpace, PlannedFile
from hftransfer._io.existing_names import ExistingNames
from hftransfer._io.file_lock import FileLock
from hftransfer._io.file_range import HASH_WINDOW_SIZE
from hftransfer._io.os_errors import map_write_errors
from hftransfer._io.stale_partials import StalePartials
from hftransfer._io.thread_batch import ThreadBatch
from hftransfer._io.write_policy import WritePolicy
from hftransfer.errors import DestinationError
from hftransfer.options import TransferOptions
from hftransfer.stores.base import Entry, FileSink
from hftransfer.stores.local.sink import LocalFileSink, is_small_file

__all__ = ("LocalDirSink",)


class LocalDirSink:
    """Sink that writes plain files and records the commit and etag of each.

    Args:
        local_dir: the folder to write.
        repo: the same repository in the cache, from which files are copied if it has them.
        commit: of the files.
        options: of the transfer, for `fsync` and `direct_io`.
        buffers: the client's data memory, for comparing and copying files.
        force: download files that are already present. Default False.
    """

    is_file_tree: Literal[True] = True

    def __init__(
        self,
        local_dir: LocalDir,
        repo: CachedRepo,
        commit: str,
        options: TransferOptions,
        buffers: BufferPool,
        *,
        force: bool = False,
    ) -> None:
        self._local_dir = local_dir
        self._repo = repo
        self._commit = commit
        self._options = options
        self._buffers = buffers
        self._force = force
        self._write_policy: WritePolicy | None = None
        self._free_space: FreeSpace | None = None
        """Set by `prepare` once a file is missing, as is `_write_policy`."""
        self._names = ExistingNames()
        self._present: set[str] = set()
        """Prepared paths whose metadata records the commit, until they are begun."""
        self._absent: set[str] = set()
        """Prepared paths that have no file to reuse, or are to be replaced (`force`), until they
        are begun."""
        self._stale = StalePartials()
        self._batch = ThreadBatch(allow_inline=not options.fsync)
        self._file_folders = DestinationFolders(local_dir.root)
        self._metadata_folders = DestinationFolders(local_dir.download_root)

    @property
    def location(self) -> str:
        return str(self._local_dir.root)

    @property
    def limits(self) -> PartLimits:
        return PartLimits()

    async def prepare(self, entries: Sequence[Entry]) -> None:
        """Find out which files are missing, and check that the folder can hold them.

        Raises:
            LocationError: if a path would leave the folder.
            DestinationError: if a folder has the path of a file or a file that of a folder, or
                if the folder cannot be written or is full.
        """
        await to_thread.run_sync(self._prepare, entries)

    def _prepare(self, entries: Sequence[Entry]) -> None:
        missing: list[Entry] = []
        names = self._names
        for entry in entries:
            file = self._local_dir.file(entry.path)
            exists = names.exists(file)
            if exists and file.is_dir():
                raise DestinationError(f"cannot write {file}: it is a folder")
            if exists and not self._force and self._is_current(entry):
                self._present.add(entry.path)
                continue
            missing.append(entry)
            self._stale.find(self._local_dir.metadata(entry.path).parent, _path_prefix(entry.path))
            exists = exists and file.is_file()
            if self._force or not (exists or self._is_cached(entry, names)):
                self._absent.add(entry.path)
        if missing:
            self._prepare_writing(missing)

    def _prepare_writing(self, missing: Sequence[Entry]) -> None:
        root = self._local_dir.root
        needed = sum(entry.size for entry in missing)
        planned = partial(self._planned, missing)
        if self._free_space is None or self._write_policy is None:
            self._free_space = FreeSpace.of(root, self._stale)
            self._write_policy = WritePolicy(self._options.direct_io, 0, available_page_cache())
            self._free_space.require(needed, planned)
            with map_write_errors(root):
                self._local_dir.create()
        else:
            self._free_space.require(needed, planned)
        self._write_policy.grow(needed)

    def _planned(self, missing: Sequence[Entry]) -> list[PlannedFile]:
        return [
            PlannedFile(
                self._local_dir.file(entry.path),
                entry.size,
                self._local_dir.metadata(entry.path).parent,
                _partial_file_prefix(entry),
            )
            for entry in missing
        ]

    def _is_cached(self, entry: Entry, names: ExistingNames) -> bool:
        pointer = self._repo.pointer(self._commit, entry.path)
        return names.exists(pointer) and pointer.is_file()

    def _is_current(self, entry: Entry) -> bool:
        recorded = self._local_dir.read_metadata(entry.path)
        return recorded is not None and recorded.commit == self._commit

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        """Open the file of `entry`; None if it has the content or gets it from the cache."""
        if entry.path in self._present:
            self._present.remove(entry.path)
            return None
        is_absent = entry.path in self._absent
        self._absent.discard(entry.path)
        target = self._local_dir.file(entry.path)
        etag = content_etag(entry)
        record = partial(self._local_dir.write_metadata, entry.path, self._commit, etag)
        lock = FileLock(self._local_dir.lock(entry.path), self._metadata_folders.create)
        if is_absent and is_small_file(entry, chunk_size):
            publish = partial(self._publish_small, entry, target, record)
            return LockedSmallFileSink(publish, lock, self._batch, target)
        try:
            await lock.acquire()
            if not self._force and await self._reuse(entry, target):
                await write_in_thread(target, record)
                lock.release()
                return None
            partial_folder = self._local_dir.metadata(entry.path).parent
            inner = await LocalFileSink.open(
                target,
                entry,
                chunk_size,
                create_folders=partial(
                    self._create_folders, target, partial_folder, look_again=True
                ),
                partial_folder=partial_folder,
                prefix=_partial_file_prefix(entry),
                fsync=self._options.fsync,
                write_policy=self._write_policy,
            )
        except BaseException:
            lock.release()
            raise
        return LockedFileSink(inner, lock, record, target)

    def _create_folders(
        self, target: Path, metadata_folder: Path, *, look_again: bool = False
    ) -> None:
        self._file_folders.create(target.parent, look_again=look_again)
        self._metadata_folders.create(metadata_folder, look_again=look_again)

    def _publish_small(
        self, entry: Entry, target: Path, record: Callable[[], None], data: memoryview
    ) -> None:
        folder = self._local_dir.metadata(entry.path).parent
        self._create_folders(target, folder)
        write_atomically(
            target,
            data,
            folder=folder,
            prefix=_partial_file_prefix(entry),
            fsync=self._options.fsync,
        )
        record()

    async def _reuse(self, entry: Entry, target: Path) -> bool:
        """Return True if `target` has the content of `entry`, or got it from the cache."""
        size = max(1, min(HASH_WINDOW_SIZE, entry.size, self._buffers.budget))
        async with self._buffers.lease(size) as window:
            return await write_in_thread(
                target, partial(self._compare_or_copy, entry, target, window)
            )

    def _compare_or_copy(self, entry: Entry, target: Path, window: memoryview) -> bool:
        if target.is_file():
            recorded = self._local_dir.read_metadata(entry.path)
            if recorded is not None and recorded.etag == content_etag(entry):
                return True
            if recorded is None and has_content(target, entry, window):
                return True
        cached = self._repo.pointer(self._commit, entry.path)
        folder = self._local_dir.metadata(entry.path).parent
        prefix = _partial_file_prefix(entry)
        self._create_folders(target, folder, look_again=True)
        return cached.is_file() and copy_verified(
            cached, target, entry, window, folder=folder, prefix=prefix
        )

    async def finish(self, manifest: Manifest) -> None:
        """Remove partial files that interrupted downloads of these files left behind."""
        await to_thread.run_sync(self._stale.remove)


def _path_prefix(path: str) -> str:
    """Return the first part of the names of partial files of `path`, of a fixed length.

    A file name may have the maximum length, so that a suffix would make it too long.
    """
    return chunk_digest(memoryview(path.encode()))


def _partial_file_prefix(entry: Entry) -> str:
    return f"{_path_prefix(entry.path)}.{content_etag(entry)[:16]}"
