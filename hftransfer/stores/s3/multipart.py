"""A file of several chunks that is uploaded as a multipart upload.

An upload that a killed process left behind is resumed: only missing parts are sent. The store
does not return the bytes of a part, so a part counts as present if its size and MD5 are those
of the chunk.

`MultipartUpload` only connects its collaborators: `resume` finds an orphaned upload,
`open_upload` creates and aborts, `parts` sends, `completion` completes and checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import anyio.to_thread

from hftransfer._core.manifest import FileManifest
from hftransfer._core.plan import Chunk, plan_chunks
from hftransfer._io.file_range import FileRange
from hftransfer.errors import TransferError
from hftransfer.stores.s3.completion import Completion
from hftransfer.stores.s3.hashing import checksum_of
from hftransfer.stores.s3.open_upload import OpenUpload, create_upload
from hftransfer.stores.s3.parts import PartUploader
from hftransfer.stores.s3.resume import OrphanedUpload, find_orphans
from hftransfer.stores.s3.target import Upload, UploadTarget
from hftransfer.stores.s3.task_mark import MARK_PART
from hftransfer.stores.s3.upload_lock import has_any_lock_file

__all__ = ("MultipartUpload", "end_orphans")


class MultipartUpload(Upload):
    """A `FileSink` and `SendfileSink`; get one by `open`. Chunk `i` is part ``i + 1``."""

    def __init__(self, upload: OpenUpload, sizes: list[int], orphan: OrphanedUpload | None) -> None:
        super().__init__(upload.target)
        self._upload = upload
        self._sizes = sizes
        parts = {} if orphan is None else orphan.parts
        self._parts = PartUploader(upload, parts)
        self.kept_chunks = frozenset(number - 1 for number in parts)

    @classmethod
    async def open(cls, target: UploadTarget, chunk_size: int) -> MultipartUpload:
        """Resume an orphaned upload of the object, or create a new one.

        Args:
            target: the object to be created.
            chunk_size: bytes of every part but the last.

        Raises:
            DestinationError: if the object exists and must not be replaced.
            TransferError: if the store rejects the upload, or fails more often than the retry
                policy allows. Then, and after a cancellation, no new upload stays open.
        """
        if target.exclusive:
            await target.check_absent(target.conditions.complete)  # before any byte is sent
        sizes = [chunk.size for chunk in plan_chunks(target.entry.size, chunk_size)]
        orphans = await find_orphans(target.client, *target.bucket_key, sizes)
        await _abort_all(target, orphans.others)
        orphan = orphans.resumable
        if orphan is None:
            upload = await create_upload(
                target, target.client.part_checksums, may_mark=len(sizes) < MARK_PART
            )
        else:
            upload = OpenUpload(
                target, orphan.upload_id, orphan.checksum, orphan.lock, resumed=True
            )
        return cls(upload, sizes, orphan)

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        algorithm = self._upload.checksum
        checksum = None if algorithm is None else await checksum_of(algorithm, data, digest)
        await self._parts.put(chunk, data, checksum)

    @property
    def sendfile_checksum(self) -> str | None:
        return self._upload.checksum

    async def write_file_range(
        self, chunk: Chunk, file_range: FileRange, digest: str, checksum: bytes
    ) -> None:
        await self._parts.put(chunk, file_range, checksum)

    async def commit(self, manifest: FileManifest) -> None:
        uploaded = self._parts.uploaded
        await Completion(self._upload, self._sizes, uploaded).run()
        self.is_confirmed = uploaded.confirmed
        if self._upload.may_have_twin:
            await end_orphans(self._target)
        if self._target.exclusive:
            self._target.exclusive_writes.record(self._target.conditions.complete)

    async def abort(self, *, discard: bool) -> None:
        """Abort the upload and delete its parts; no effect after `commit`."""
        await self._upload.abort()


async def end_orphans(target: UploadTarget) -> None:
    """End own uploads of an object that needs none any more: another process has created it.

    No request is sent unless a process of this machine has left an upload, or the client has a
    task. A failure stops nothing.
    """
    client = target.client
    if client.options.task is None and not await anyio.to_thread.run_sync(has_any_lock_file):
        return
    with suppress(TransferError):
        orphans = await find_orphans(client, *target.bucket_key, [])
        found = [] if orphans.resumable is None else [orphans.resumable]
        await _abort_all(target, [*found, *orphans.others])


async def _abort_all(target: UploadTarget, orphans: Sequence[OrphanedUpload]) -> None:
    """End own uploads that cannot be resumed, which the store would keep, and charge, for ever.

    A failure to do so does not stop the new upload: the next process tries again.
    """
    for orphan in orphans:
        upload = OpenUpload(target, orphan.upload_id, orphan.checksum, orphan.lock)
        with suppress(TransferError):
            await upload.abort()
