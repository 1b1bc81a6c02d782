"""Sink that writes as huggingface_hub does into its cache: blobs, and links in a snapshot.

It holds the lock that huggingface_hub takes for the same blob while it writes it, and
leaves alone what is there already: a snapshot's file, or a blob of another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from anyio import to_thread

from hftransfer._core.manifest import Manifest
from hftransfer._core.memory import cache_room
from hftransfer._core.plan import PartLimits
from hftransfer._hub_compat.cache import RepoCache, content_etag, create_cachedir_tag
from hftransfer._hub_compat.locked_sink import LockedFileSink, LockedSmallFileSink, storing
from hftransfer._io.direct_io import WritePolicy
from hftransfer._io.file_lock import FileLock
from hftransfer._io.partial_file import remove_stale_partials, write_whole, writing
from hftransfer._io.thread_batch import ThreadBatch
from hftransfer.options import TransferOptions
from hftransfer.stores.base import Entry, FileSink
from hftransfer.stores.local.sink import LocalFileSink, check_destination, is_small_file

__all__ = ("HubCacheSink",)


class HubCacheSink:
    """Sink that adds files to the snapshot of one commit in huggingface_hub's cache.

    Args:
        repo: where the repository is cached.
        commit: whose files these are.
        options: of the transfer; `fsync` and `direct_io` say how files are written.
        force: fetch files that are there already, too.
    """

    def __init__(
        self,
        repo: RepoCache,
        commit: str,
        options: TransferOptions,
        *,
        force: bool = False,
    ) -> None:
        self._repo = repo
        self._commit = commit
        self._options = options
        self._force = force
        self._ways: WritePolicy | None = None
        # By etag: the snapshot's files with this content. The first one is transferred.
        self._pointers: dict[str, list[Path]] = {}
        self._leading: set[str] = set()
        self._absent: set[str] = set()
        """Etags of blobs that are to be fetched whatever others do meanwhile."""
        self._batch = ThreadBatch(quick=not options.fsync)

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
            self._ways = WritePolicy(self._options.direct_io, needed, cache_room())
            with writing(blobs):
                blobs.mkdir(parents=True, exist_ok=True)
            create_cachedir_tag(self._repo.root)

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        """Open the blob of `entry`; None if it is there, or comes with another path's."""
        if entry.path not in self._leading:
            return None
        etag = content_etag(entry)
        lock = FileLock(self._repo.lock(etag))
        if etag in self._absent and is_small_file(entry, chunk_size):
            blob = self._repo.blob(etag)
            publish = partial(self._publish_small, etag)
            return LockedSmallFileSink(publish, lock, self._batch, blob)
        try:
            await lock.acquire()
            blob = self._repo.blob(etag)
            pointers = self._pointers[etag]
            # Asked again under the lock: another process may just have finished it.
            if not self._force and await to_thread.run_sync(blob.exists):
                await storing(blob, partial(self._repo.link, etag, pointers, new_blob=False))
                lock.release()
                return None
            inner = await LocalFileSink.open(
                blob,
                entry,
                chunk_size,
                prefix=f"{etag}.{etag[:16]}",
                fsync=self._options.fsync,
                write_policy=self._ways,
            )
        except BaseException:
            lock.release()
            raise
        return LockedFileSink(
            inner, lock, partial(self._repo.link, etag, pointers, new_blob=True), blob
        )

    def _publish_small(self, etag: str, data: memoryview) -> None:
        blob, pointers = self._repo.blob(etag), self._pointers[etag]
        # Asked again under the lock: another process may just have finished it.
        new_blob = self._force or not blob.exists()
        if new_blob:
            stem = f"{etag}.{etag[:16]}"
            write_whole(blob, data, folder=self._repo.blobs, stem=stem, fsync=self._options.fsync)
        self._repo.link(etag, pointers, new_blob=new_blob)

    async def finish(self, manifest: Manifest) -> None:
        """Remove what earlier attempts at these files left behind."""
        stems = set(self._pointers)
        await to_thread.run_sync(remove_stale_partials, self._repo.blobs, stems)
