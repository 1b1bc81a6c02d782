"""Sink that writes to huggingface_hub's cache: content to blobs, and links to a snapshot.

While it writes a blob it holds the lock that huggingface_hub takes for that blob. Files that the
snapshot has already, and blobs of other snapshots, are not downloaded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from anyio import to_thread

from hftransfer._core.manifest import Manifest
from hftransfer._core.memory import available_page_cache
from hftransfer._core.plan import PartLimits
from hftransfer._hub_compat.cache import CachedRepo, content_etag, create_cachedir_tag
from hftransfer._hub_compat.locked_sink import LockedFileSink, LockedSmallFileSink, write_in_thread
from hftransfer._io.atomic_write import write_atomically
from hftransfer._io.disk_space import PlannedFile, check_destination, missing_space
from hftransfer._io.file_lock import FileLock
from hftransfer._io.os_errors import map_write_errors
from hftransfer._io.partial_file import remove_stale_partials
from hftransfer._io.thread_batch import ThreadBatch
from hftransfer._io.write_policy import WritePolicy
from hftransfer.options import TransferOptions
from hftransfer.stores.base import Entry, FileSink
from hftransfer.stores.local.sink import LocalFileSink, is_small_file

__all__ = ("HubCacheSink",)


class HubCacheSink:
    """Sink that adds files to the snapshot of one commit in huggingface_hub's cache.

    Files with equal content share a blob: the first path of each etag is transferred, and linking
    its blob links the other paths too.

    Args:
        repo: the repository in the cache.
        commit: of the files.
        options: of the transfer, for `fsync` and `direct_io`.
        force: download files that are already present. Default False.
    """

    def __init__(
        self,
        repo: CachedRepo,
        commit: str,
        options: TransferOptions,
        *,
        force: bool = False,
    ) -> None:
        self._repo = repo
        self._commit = commit
        self._options = options
        self._force = force
        self._write_policy: WritePolicy | None = None
        self._pointers: dict[str, list[Path]] = {}
        """Etag to the paths in the snapshot that get its content."""
        self._transferred: set[str] = set()
        """Paths of entries to transfer: the first one of each etag."""
        self._absent_blobs: set[str] = set()
        """Etags whose blob did not exist at `prepare`, or is to be replaced (`force`)."""
        self._batch = ThreadBatch(allow_inline=not options.fsync)

    @property
    def location(self) -> str:
        return str(self._repo.snapshot(self._commit))

    @property
    def limits(self) -> PartLimits:
        return PartLimits()

    async def prepare(self, entries: Sequence[Entry]) -> None:
        """Find out which files are missing, and check that the cache can hold them.

        Raises:
            LocationError: if a path would leave the snapshot.
            DestinationError: if the cache cannot be written, or is full.
        """
        await to_thread.run_sync(self._prepare, entries)

    def _prepare(self, entries: Sequence[Entry]) -> None:
        needed = 0
        planned: list[PlannedFile] = []
        for entry in entries:
            pointer = self._repo.pointer(self._commit, entry.path)
            etag = content_etag(entry)
            if not self._force and pointer.exists():
                continue
            if etag not in self._pointers:
                self._transferred.add(entry.path)
                if self._force or not self._repo.blob(etag).exists():
                    self._absent_blobs.add(etag)
                    needed += entry.size
                    blob = self._repo.blob(etag)
                    planned.append(
                        PlannedFile(blob, entry.size, self._repo.blobs, _partial_file_prefix(etag))
                    )
            self._pointers.setdefault(etag, []).append(pointer)
        if self._pointers:  # a complete snapshot may be in a read-only cache
            blobs = self._repo.blobs
            check_destination(blobs, needed, partial(missing_space, planned))
            self._write_policy = WritePolicy(
                self._options.direct_io, needed, available_page_cache()
            )
            with map_write_errors(blobs):
                blobs.mkdir(parents=True, exist_ok=True)
            create_cachedir_tag(self._repo.root)

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        """Open the blob of `entry`.

        Returns:
            None if the blob exists, or another path with the same content is transferred.
        """
        if entry.path not in self._transferred:
            return None
        etag = content_etag(entry)
        lock = FileLock(self._repo.lock(etag))
        if etag in self._absent_blobs and is_small_file(entry, chunk_size):
            blob = self._repo.blob(etag)
            publish = partial(self._publish_small, etag)
            return LockedSmallFileSink(publish, lock, self._batch, blob)
        try:
            await lock.acquire()
            blob = self._repo.blob(etag)
            pointers = self._pointers[etag]
            # Look again under the lock: another process may have written it since `prepare`.
            if not self._force and await to_thread.run_sync(blob.exists):
                await write_in_thread(
                    blob, partial(self._repo.link, etag, pointers, new_blob=False)
                )
                lock.release()
                return None
            inner = await LocalFileSink.open(
                blob,
                entry,
                chunk_size,
                prefix=_partial_file_prefix(etag),
                fsync=self._options.fsync,
                write_policy=self._write_policy,
            )
        except BaseException:
            lock.release()
            raise
        return LockedFileSink(
            inner, lock, partial(self._repo.link, etag, pointers, new_blob=True), blob
        )

    def _publish_small(self, etag: str, data: memoryview) -> None:
        """Write a small blob and its links; called under its lock, from `LockedSmallFileSink`."""
        blob, pointers = self._repo.blob(etag), self._pointers[etag]
        # Look again under the lock: another process may have written it since `prepare`.
        new_blob = self._force or not blob.exists()
        if new_blob:
            write_atomically(
                blob,
                data,
                folder=self._repo.blobs,
                prefix=_partial_file_prefix(etag),
                fsync=self._options.fsync,
            )
        self._repo.link(etag, pointers, new_blob=new_blob)

    async def finish(self, manifest: Manifest) -> None:
        """Remove partial files that interrupted downloads of these files left in the cache."""
        prefixes = set(self._pointers)
        await to_thread.run_sync(remove_stale_partials, self._repo.blobs, prefixes)


def _partial_file_prefix(etag: str) -> str:
    return f"{etag}.{etag[:16]}"
