"""Sink that writes to huggingface_hub's cache: content to blobs, and links to a snapshot.

While it writes a blob it holds the lock that huggingface_hub takes for that blob. Files that the
snapshot has already, and blobs of other snapshots, are not downloaded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal

from anyio import to_thread

from hftransfer._core.manifest import Manifest
from hftransfer._core.memory import available_page_cache
from hftransfer._core.plan import PartLimits
from hftransfer._hub_compat.cache import CachedRepo, content_etag, create_cachedir_tag
from hftransfer._hub_compat.locked_sink import LockedFileSink, LockedSmallFileSink, write_in_thread
from hftransfer._hub_compat.pending_links import PendingLinks
from hftransfer._io.atomic_write import write_atomically
from hftransfer._io.destination_folders import DestinationFolders
from hftransfer._io.disk_space import FreeSpace, PlannedFile
from hftransfer._io.existing_names import ExistingNames
from hftransfer._io.file_lock import FileLock
from hftransfer._io.os_errors import map_write_errors
from hftransfer._io.stale_partials import StalePartials
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

    is_file_tree: Literal[True] = True

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
        self._free_space: FreeSpace | None = None
        """Set by `prepare` once a file is missing, as is `_write_policy`."""
        self._names = ExistingNames()
        self._links = PendingLinks()
        self._present: set[str] = set()
        """Paths of prepared entries that need no transfer of their own, until they are begun."""
        self._absent_blobs: set[str] = set()
        """Etags whose blob did not exist at `prepare`, or is to be replaced, until it is there."""
        self._replaced: set[bytes] = set()
        """With `force`, the etags whose blob this sink has written, as 16 bytes of each."""
        self._stale = StalePartials()
        self._batch = ThreadBatch(allow_inline=not options.fsync)
        self._snapshot_folders = DestinationFolders(repo.snapshot(commit))
        self._blob_folders = DestinationFolders(repo.blobs)

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
        is_complete = True
        absent: list[tuple[str, int]] = []
        for entry in entries:
            pointer = self._repo.pointer(self._commit, entry.path)
            etag = content_etag(entry)
            replaces = self._replaces(etag)
            if not replaces and self._names.exists(pointer):
                self._present.add(entry.path)
                continue
            is_complete = False
            if not self._links.add(etag, pointer):
                self._present.add(entry.path)
                continue
            self._stale.find(self._repo.blobs, etag)
            if replaces or not self._names.exists(self._repo.blob(etag)):
                self._absent_blobs.add(etag)
                absent.append((etag, entry.size))
        if not is_complete:  # a complete snapshot may be in a read-only cache
            self._prepare_writing(absent)

    def _prepare_writing(self, absent: Sequence[tuple[str, int]]) -> None:
        """Check that the cache can hold blobs, of which etag and size are given."""
        blobs = self._repo.blobs
        needed = sum(size for _, size in absent)
        planned = partial(self._planned, absent)
        if self._free_space is None or self._write_policy is None:
            self._free_space = FreeSpace.of(blobs, self._stale)
            self._write_policy = WritePolicy(self._options.direct_io, 0, available_page_cache())
            self._free_space.require(needed, planned)
            with map_write_errors(blobs):
                blobs.mkdir(parents=True, exist_ok=True)
            create_cachedir_tag(self._repo.root)
        else:
            self._free_space.require(needed, planned)
        self._write_policy.grow(needed)

    def _planned(self, absent: Sequence[tuple[str, int]]) -> list[PlannedFile]:
        blobs = self._repo.blobs
        return [
            PlannedFile(self._repo.blob(etag), size, blobs, _partial_file_prefix(etag))
            for etag, size in absent
        ]

    def _replaces(self, etag: str) -> bool:
        """Return True if the blob is to be written even if it exists."""
        return self._force and _compact(etag) not in self._replaced

    async def begin(self, entry: Entry, chunk_size: int) -> FileSink | None:
        """Open the blob of `entry`.

        Returns:
            None if the blob exists, or another path with the same content is transferred.
        """
        if entry.path in self._present:
            self._present.remove(entry.path)
            return None
        etag = content_etag(entry)
        lock = FileLock(self._repo.lock(etag))
        if etag in self._absent_blobs and is_small_file(entry, chunk_size):
            blob = self._repo.blob(etag)
            publish = partial(self._publish_small, etag, lock)
            return LockedSmallFileSink(publish, lock, self._batch, blob)
        try:
            await lock.acquire()
            blob = self._repo.blob(etag)
            # Look again under the lock: another process may have written it since `prepare`.
            if not self._replaces(etag) and await to_thread.run_sync(blob.exists):
                await write_in_thread(blob, partial(self._link, etag, new_blob=False))
                lock.release()
                return None
            inner = await LocalFileSink.open(
                blob,
                entry,
                chunk_size,
                create_folders=partial(
                    self._blob_folders.create, self._repo.blobs, look_again=True
                ),
                prefix=_partial_file_prefix(etag),
                fsync=self._options.fsync,
                write_policy=self._write_policy,
            )
        except BaseException:
            lock.release()
            raise
        return LockedFileSink(inner, lock, partial(self._link, etag, new_blob=True), blob)

    def _link(self, etag: str, *, new_blob: bool) -> None:
        """Link all paths that wait for a blob; called under its lock, when it exists."""
        if self._force:
            self._replaced.add(_compact(etag))
        self._absent_blobs.discard(etag)
        self._repo.link(
            etag,
            self._links.take(etag),
            new_blob=new_blob,
            create_folder=self._snapshot_folders.create,
        )

    def _publish_small(self, etag: str, lock: FileLock, data: memoryview) -> None:
        """Write a small blob and its links; called under its lock, from `LockedSmallFileSink`."""
        blob = self._repo.blob(etag)
        # Look again under the lock: another process may have written it since `prepare`, unless
        # this one is the first that ever took the lock.
        new_blob = self._replaces(etag) or lock.is_first_holder or not blob.exists()
        if new_blob:
            write_atomically(
                blob,
                data,
                folder=self._repo.blobs,
                prefix=_partial_file_prefix(etag),
                fsync=self._options.fsync,
            )
        self._link(etag, new_blob=new_blob)

    async def finish(self, manifest: Manifest) -> None:
        """Remove partial files that interrupted downloads of these files left in the cache."""
        await to_thread.run_sync(self._stale.remove)


def _compact(etag: str) -> bytes:
    return bytes.fromhex(etag)[:16]


def _partial_file_prefix(etag: str) -> str:
    return f"{etag}.{etag[:16]}"
