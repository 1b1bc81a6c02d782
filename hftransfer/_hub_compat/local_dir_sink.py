"""Sink that writes as huggingface_hub does into a ``local_dir``: plain files, and what they are.

It holds the lock that huggingface_hub takes for the same file while it writes it, and
leaves alone a file whose recorded or computed digest is right.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from anyio import to_thread

from hftransfer._core.digests import chunk_digest
from hftransfer._core.manifest import Manifest
from hftransfer._core.memory import cache_room
from hftransfer._core.plan import PartLimits
from hftransfer._hub_compat.cache import RepoCache, content_etag
from hftransfer._hub_compat.content import copy_verified, has_content
from hftransfer._hub_compat.local_dir import LocalDir
from hftransfer._hub_compat.locked_sink import LockedFileSink, LockedSmallFileSink, storing
from hftransfer._io.direct_io import WritePolicy
from hftransfer._io.file_lock import FileLock
from hftransfer._io.partial_file import remove_stale_partials, write_whole, writing
from hftransfer._io.thread_batch import ThreadBatch
from hftransfer.errors import DestinationError
from hftransfer.options import TransferOptions
from hftransfer.stores.base import Entry, FileSink
from hftransfer.stores.local.sink import LocalFileSink, check_destination, is_small_file

__all__ = ("LocalDirSink",)


class LocalDirSink:
    """Sink that writes plain files and remembers which version of the repository they are.

    Args:
        local_dir: where the files go.
        repo: the cache of the same repository, from which files are copied if they are there.
        commit: whose files these are.
        options: of the transfer; `fsync` and `direct_io` say how files are written.
        force: fetch files that are there already, too.
    """

    def __init__(
        self,
        local_dir: LocalDir,
        repo: RepoCache,
        commit: str,
        options: TransferOptions,
        *,
        force: bool = False,
    ) -> None:
        self._local_dir = local_dir
        self._repo = repo
        self._commit = commit
        self._options = options
        self._force = force
        self._ways: WritePolicy | None = None
        self._missing: dict[str, Path] = {}
        self._absent: set[str] = set()
        """Paths of which there is no copy that could be used, here or in the cache."""
        self._batch = ThreadBatch(quick=not options.fsync)

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
            self._ways = WritePolicy(self._options.direct_io, needed, cache_room())
            with writing(self._local_dir.root):
                self._local_dir.create()

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
        if entry.path in self._absent and is_small_file(entry, chunk_size):
            publish = partial(self._publish_small, entry, target, record)
            return LockedSmallFileSink(publish, lock, self._batch, target)
        try:
            await lock.acquire()
            if not self._force and await storing(target, partial(self._reuse, entry, target)):
                await storing(target, record)
                lock.release()
                return None
            inner = await LocalFileSink.open(
                target,
                entry,
                chunk_size,
                partial_folder=self._local_dir.metadata(entry.path).parent,
                prefix=_partial_stem(entry),
                fsync=self._options.fsync,
                write_policy=self._ways,
            )
        except BaseException:
            lock.release()
            raise
        return LockedFileSink(inner, lock, record, target)

    def _publish_small(
        self, entry: Entry, target: Path, record: Callable[[], None], data: memoryview
    ) -> None:
        folder = self._local_dir.metadata(entry.path).parent
        write_whole(
            target, data, folder=folder, stem=_partial_stem(entry), fsync=self._options.fsync
        )
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
        temporary = folder / f"{_partial_stem(entry)}.{os.urandom(16).hex()}.incomplete"
        return cached.is_file() and copy_verified(cached, target, temporary, entry)

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


def _short_stem(path: str) -> str:
    """Names the partial files of `path`: a file name can be too long to be extended."""
    return chunk_digest(memoryview(path.encode()))


def _partial_stem(entry: Entry) -> str:
    return f"{_short_stem(entry.path)}.{content_etag(entry)[:16]}"
