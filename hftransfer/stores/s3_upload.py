"""One object on its way into S3: a single PUT, or a multipart upload.

The engine tries chunks again, so requests of `write` are made once; those of `commit`
and `abort` are tried again here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio

from hftransfer._manifest import FileManifest
from hftransfer._plan import Chunk
from hftransfer._retry import retrying
from hftransfer.errors import AccessError, IntegrityError, NotFoundError, UnsupportedError
from hftransfer.stores.s3_session import S3Session

__all__ = ("MultipartUpload", "SingleUpload", "multipart_etag")

# Longer than a round trip, shorter than anyone waits for Ctrl-C.
_CREATE_GRACE = 1.0
_ABORT_ROUNDS = 3


class _Upload:
    """What both kinds share: nothing is held, because nothing of S3 is resumed yet.

    Args:
        session: open until the upload is committed or aborted.
        bucket: name of the bucket.
        key: of the object.
        content_type: stored with the object.
    """

    def __init__(self, session: S3Session, bucket: str, key: str, content_type: str) -> None:
        self.held: Mapping[int, str] = {}
        self._session = session
        self._target: dict[str, Any] = {"Bucket": bucket, "Key": key}
        self._content_type = content_type
        self._what = session.describe(bucket, key)

    async def read_into(self, chunk: Chunk, buffer: memoryview) -> None:
        raise UnsupportedError(f"{self._what}: chunk {chunk.index} is not held")


class SingleUpload(_Upload):
    """A file of at most one chunk: one PUT of verified bytes, which is atomic."""

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        await self._session.put(
            "put_object",
            data,
            headers={"Content-Type": self._content_type},  # part of what is signed
            ContentType=self._content_type,
            **self._target,
        )

    async def commit(self, manifest: FileManifest) -> None:
        if manifest.size == 0:  # has no chunk that could have been written
            await self._session.call(
                "put_object", Body=b"", ContentType=self._content_type, **self._target
            )

    async def abort(self, *, discard: bool) -> None:
        pass  # the object is absent, or whole and verified


class MultipartUpload(_Upload):
    """A file of several chunks: chunk `i` is part ``i + 1``."""

    def __init__(self, session: S3Session, bucket: str, key: str, content_type: str) -> None:
        super().__init__(session, bucket, key, content_type)
        self._lock = anyio.Lock()
        self._upload_id: str | None = None
        self._etags: dict[int, str] = {}

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        async with self._lock:
            if self._upload_id is None:
                # An upload of whose id we never hear could not be aborted.
                await _with_grace(self._create, _CREATE_GRACE)
        self._etags[chunk.index] = await self._session.put(
            "upload_part",
            data,
            UploadId=self._upload_id,
            PartNumber=chunk.index + 1,
            **self._target,
        )

    async def _create(self) -> None:
        answer = await self._session.attempt(
            "create_multipart_upload", ContentType=self._content_type, **self._target
        )
        self._upload_id = answer["UploadId"]

    async def commit(self, manifest: FileManifest) -> None:
        """Complete the upload and check the size of the object that it became.

        Raises:
            IntegrityError: if parts are missing or the size is wrong.
        """
        indices = range(len(manifest.chunks))
        if self._etags.keys() != set(indices):
            raise IntegrityError(
                f"{self._what}: {len(self._etags)} of {len(indices)} parts were uploaded"
            )
        etags = [self._etags[index] for index in indices]
        parts = [{"PartNumber": index + 1, "ETag": etags[index]} for index in indices]

        async def complete() -> None:
            try:
                await self._session.attempt(
                    "complete_multipart_upload",
                    UploadId=self._upload_id,
                    MultipartUpload={"Parts": parts},
                    MpuObjectSize=manifest.size,
                    **self._target,
                )
            except NotFoundError:
                # A try whose answer was lost has completed the upload, and so ended it.
                if not await self._is_published(etags):
                    raise

        await retrying(complete, self._session.options.retry)
        self._upload_id = None
        await self._check_size(manifest.size)

    async def _is_published(self, etags: Sequence[str]) -> bool:
        try:
            head = await self._session.attempt("head_object", **self._target)
        except (AccessError, NotFoundError):
            return False
        return bool(head["ETag"].strip('"') == multipart_etag(etags))

    async def _check_size(self, size: int) -> None:
        try:
            head = await self._session.call("head_object", **self._target)
        except AccessError:
            return  # keys that may write and not read are good practice
        if head["ContentLength"] != size:
            raise IntegrityError(
                f"{self._what}: it has {head['ContentLength']} bytes, {size} were uploaded"
            )

    async def abort(self, *, discard: bool) -> None:
        """End the upload and drop its parts. No `write` may be under way."""
        if self._upload_id is None:
            return
        upload = {"UploadId": self._upload_id, **self._target}
        # A part whose answer was cut off may still arrive, and parts of an aborted upload
        # are billed until somebody aborts it again: S3 asks to look until none is left.
        try:
            for _ in range(_ABORT_ROUNDS):
                await self._session.call("abort_multipart_upload", **upload)
                await self._session.call("list_parts", MaxParts=1, **upload)
        except NotFoundError:
            pass
        self._upload_id = None


def multipart_etag(parts: Sequence[str]) -> str | None:
    """Return the ETag of the object that parts with these ETags make, without quotes.

    It is the MD5 of the parts' MD5s and their number; None where the parts' own ETags are
    no MD5s, as with SSE-KMS.
    """
    try:
        digests = [bytes.fromhex(part.strip('"')) for part in parts]
    except ValueError:
        return None
    if any(len(digest) != 16 for digest in digests):
        return None
    joined = hashlib.md5(b"".join(digests), usedforsecurity=False)
    return f"{joined.hexdigest()}-{len(parts)}"


async def _with_grace(operation: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Run `operation`; if this is cancelled meanwhile, let it go on for `seconds` at most."""
    failure: Exception | None = None

    async def watch(scope: anyio.CancelScope) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            scope.deadline = anyio.current_time() + seconds

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope(shield=True) as shielded:
            tasks.start_soon(watch, shielded)
            try:
                await operation()
            except Exception as error:  # noqa: BLE001 - raised below, outside of the group
                failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
