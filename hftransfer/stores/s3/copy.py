"""Copies within S3: the store moves the bytes, and none of them passes through this machine.

A small object is copied by one CopyObject, a large one by a multipart upload whose parts are
copied concurrently. Each request names the version that was listed. If the store does not
support copying, the caller has to read and write the object.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial

import anyio

from hftransfer._core.plan import Chunk, fit_chunk_size, plan_chunks
from hftransfer._io.retry import retrying
from hftransfer.errors import (
    AccessError,
    NotFoundError,
    Response,
    SourceChangedError,
    TransferError,
    UnsupportedError,
    single_error,
)
from hftransfer.stores.base import Entry
from hftransfer.stores.s3.client import S3Client
from hftransfer.stores.s3.completion import Completion
from hftransfer.stores.s3.conditions import MAX_PROBE, ExclusiveWrites
from hftransfer.stores.s3.errors import error_code, is_precondition_failure, response_error
from hftransfer.stores.s3.headers import customer_key_headers, if_match_headers, object_headers
from hftransfer.stores.s3.open_upload import ABORT_GRACE, OpenUpload, create_upload
from hftransfer.stores.s3.parts import UploadedParts
from hftransfer.stores.s3.signing import encoded_path
from hftransfer.stores.s3.target import PART_LIMITS, UploadTarget
from hftransfer.stores.s3.xml import element

__all__ = ("ServerCopy",)

# The store responds when the copy is finished, so larger copies risk the read timeout.
_MAX_SINGLE_COPY = 256 << 20
_PART_SIZE = 64 << 20
_SOURCE = "x-amz-copy-source"


class ServerCopy:
    """Copies objects within one account.

    Args:
        client: open while this is in use.
        single: bytes up to which one request copies an object. Default 256 MiB.
        part: bytes per request above that. Default 64 MiB.
        exclusive_writes: counts the objects that must not replace others. Default: its own.
    """

    def __init__(
        self,
        client: S3Client,
        *,
        single: int = _MAX_SINGLE_COPY,
        part: int = _PART_SIZE,
        exclusive_writes: ExclusiveWrites | None = None,
    ) -> None:
        self._client = client
        self._single = single
        self._part = part
        self._exclusive_writes = exclusive_writes or ExclusiveWrites()

    async def copy(self, source: tuple[str, str], target: tuple[str, str], entry: Entry) -> None:
        """Copy one object.

        Args:
            source: its bucket and key.
            target: bucket and key of the copy.
            entry: the object as it was listed.

        Raises:
            UnsupportedError: if the store does not support copying.
            SourceChangedError: if the object has changed since it was listed.
            DestinationError: if the target exists and must not be replaced.
            TransferError: if the store rejects the copy or keeps failing.
        """
        source_headers = self._source_headers(source, entry)
        upload_target = UploadTarget(
            self._client, *target, entry, exclusive_writes=self._exclusive_writes
        )
        if upload_target.exclusive:
            condition = upload_target.conditions.copy
            await upload_target.check_absent(condition)
        try:
            if entry.size <= self._single:
                await self._copy_object(upload_target, source_headers)
            else:
                await self._copy_parts(upload_target, source_headers)
        except NotFoundError as error:
            if error_code(error) != "NoSuchKey":
                raise
            if await self._is_present(source, entry):
                raise UnsupportedError(
                    f"{upload_target.description}: the store does not find the source of a copy, "
                    "although it exists",
                    response=error.response,
                ) from error
            raise SourceChangedError(
                f"{error.message}; it was deleted during its transfer", response=error.response
            ) from error

    async def _is_present(self, source: tuple[str, str], entry: Entry) -> bool:
        """Return True if the listed version of the source still exists.

        Some stores, such as s3rver, do not decode the name of a copy's source.
        """
        headers = {**if_match_headers(entry), **customer_key_headers(self._client.s3)}
        try:
            await self._client.call("HEAD", *source, headers=headers)
        except (AccessError, NotFoundError, SourceChangedError):
            return False
        return True

    def _source_headers(self, source: tuple[str, str], entry: Entry) -> Mapping[str, str]:
        bucket, key = source
        headers = {_SOURCE: _copy_source(bucket, key)}
        if entry.etag is not None:
            headers[f"{_SOURCE}-if-match"] = entry.etag
        return headers | dict(
            customer_key_headers(self._client.s3, f"{_SOURCE}-server-side-encryption-customer")
        )

    async def _copy_object(self, target: UploadTarget, source_headers: Mapping[str, str]) -> None:
        copy = _ObjectCopy(target, source_headers)
        await retrying(copy.run, self._client.options.retry)
        if target.exclusive:
            target.exclusive_writes.record(target.conditions.copy)

    async def _copy_parts(self, target: UploadTarget, source_headers: Mapping[str, str]) -> None:
        part_size = fit_chunk_size(target.entry.size, self._part, [PART_LIMITS])
        chunks = plan_chunks(target.entry.size, part_size)
        # Without a checksum, because the bytes are not here; and never resumed, because the
        # content of another upload's parts is unknown.
        upload = await create_upload(target, None)
        parts = _PartCopier(upload, source_headers)
        try:
            with single_error():
                async with anyio.create_task_group() as tasks:
                    for chunk in chunks:
                        tasks.start_soon(parts.copy, chunk)
            await Completion(upload, [chunk.size for chunk in chunks], parts.uploaded).run()
            if target.exclusive:
                target.exclusive_writes.record(target.conditions.complete)
        except BaseException:
            with anyio.move_on_after(ABORT_GRACE, shield=True):
                await upload.abort()
            raise


class _ObjectCopy:
    """One object that is copied by one request. `run` may be repeated."""

    def __init__(self, target: UploadTarget, source_headers: Mapping[str, str]) -> None:
        self._target = target
        self._source_headers = source_headers
        self._attempts = 0

    async def run(self) -> None:
        """Copy the object, by one attempt.

        Raises:
            DestinationError: if the target exists and must not be replaced.
            UnsupportedError: if the store does not copy objects.
            TransferError: if it rejects the copy or fails.
        """
        self._attempts += 1
        condition = self._target.conditions.copy
        if not self._target.exclusive:
            _etag_of_copy(await self._send({}), self._target.description)
            return
        if self._attempts > 1 and await self._was_copied():
            return
        send = partial(self._send, condition.headers)
        try:
            response = await send()
        except TransferError as error:
            if is_precondition_failure(error) and await self._target.find_existing():
                condition.confirm()
                raise self._target.exists_error() from error
            raise
        try:
            _etag_of_copy(response, self._target.description)
        except UnsupportedError:
            with suppress(TransferError):  # the empty object would keep the file out
                await self._target.client.send("DELETE", *self._target.bucket_key)
            raise
        if self._target.entry.size <= MAX_PROBE and await condition.probe(send) is not None:
            condition.reject(self._target.description)

    async def _was_copied(self) -> bool:
        """Return True if an earlier attempt has created the object: its response was lost.

        Raises:
            DestinationError: if another writer has created it.
        """
        existing = await self._target.find_existing()
        if existing is None:
            return False
        entry = self._target.entry
        if existing.get("ETag", "").strip('"') != (entry.etag or "").strip('"'):
            raise self._target.exists_error()
        return True

    async def _send(self, condition: Mapping[str, str]) -> Response:
        client = self._target.client
        headers = {
            **object_headers(client.s3, self._target.entry),
            **self._source_headers,
            # Applies to type and metadata together, so `object_headers` states all of them.
            "x-amz-metadata-directive": "REPLACE",
            **condition,
        }
        return await client.send("PUT", *self._target.bucket_key, headers=headers)


class _PartCopier:
    """Makes the store copy ranges of an object into the parts of an upload."""

    def __init__(self, upload: OpenUpload, source_headers: Mapping[str, str]) -> None:
        self.uploaded = UploadedParts(verified=False)
        self._upload = upload
        self._client = upload.target.client
        self._source_headers = source_headers

    async def copy(self, chunk: Chunk) -> None:
        """Copy one part, with retries."""
        copy = partial(self._copy_once, chunk)
        self.uploaded.etags[chunk.index] = await retrying(copy, self._client.options.retry)

    async def _copy_once(self, chunk: Chunk) -> str:
        headers = {
            **customer_key_headers(self._client.s3),
            **self._source_headers,
            f"{_SOURCE}-range": f"bytes={chunk.start}-{chunk.stop - 1}",
        }
        async with self._client.upload_limiter:
            response = await self._client.send(
                "PUT",
                *self._upload.target.bucket_key,
                query=self._upload.query(partNumber=str(chunk.index + 1)),
                headers=headers,
            )
        return _etag_of_copy(response, self._upload.target.description)


def _copy_source(bucket: str, key: str) -> str:
    """Return the value of ``x-amz-copy-source``.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html
    """
    separator = "/object/" if bucket.startswith("arn:") else "/"
    return encoded_path(f"{bucket}{separator}{key}")


def _etag_of_copy(response: Response, description: str) -> str:
    """Return the ETag of a copied object or part.

    S3 sends the status before it copies, so the body tells the outcome. A store that ignores
    ``x-amz-copy-source`` writes an empty object or part and returns no document.

    Raises:
        UnsupportedError: if nothing was copied.
        TransferError: if the copy failed.
    """
    body = response.body.decode(errors="replace")
    if element(body, "Code"):
        raise response_error(response, description)
    etag = element(body, "ETag")
    if not etag:
        raise UnsupportedError(
            f"{description}: the store does not copy objects itself", response=response
        )
    return etag
