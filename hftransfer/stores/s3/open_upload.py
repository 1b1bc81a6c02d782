"""A multipart upload that is open at the store: how it is created, aborted and closed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import anyio
import anyio.to_thread

from hftransfer._core.checksums import encode_checksum, header_name
from hftransfer._io.retry import retrying
from hftransfer.errors import (
    DestinationError,
    IntegrityError,
    NotFoundError,
    RejectedError,
    Response,
    TransferError,
    TransientError,
    UnsupportedError,
)
from hftransfer.stores.s3.answers import check_document, foreign_answer
from hftransfer.stores.s3.checksum_negotiation import ChecksumNegotiation
from hftransfer.stores.s3.errors import error_code
from hftransfer.stores.s3.hashing import checksum_of
from hftransfer.stores.s3.headers import customer_key_headers, object_headers
from hftransfer.stores.s3.target import UploadTarget
from hftransfer.stores.s3.task_mark import MARK_PART, mark_of
from hftransfer.stores.s3.upload_intent import UploadIntent
from hftransfer.stores.s3.upload_lock import UploadLock
from hftransfer.stores.s3.xml import element

__all__ = ("ABORT_GRACE", "OpenUpload", "create_upload", "is_upload_gone", "restart_error")

ABORT_GRACE = 1.5
"""Seconds that an abort may take after a cancellation: less than a person waits for Ctrl-C."""

# Seconds that creating an upload may continue after a cancellation: longer than a round trip.
_CREATE_GRACE = 1.0
_ABORT_ROUNDS = 3


class OpenUpload:
    """An upload whose id is known.

    Args:
        target: the object to be created.
        upload_id: given by the store.
        checksum: name of the checksum that the upload was created with; None for none.
        lock: tells other processes of this machine that the upload is in use; None for none.
        resumed: True if another process has created the upload.
        may_have_twin: True if the store may have created another upload, of unknown id, before.
    """

    def __init__(
        self,
        target: UploadTarget,
        upload_id: str,
        checksum: str | None,
        lock: UploadLock | None = None,
        *,
        resumed: bool = False,
        may_have_twin: bool = False,
    ) -> None:
        self.target = target
        self.may_have_twin = may_have_twin
        self.checksum = checksum
        self._upload_id = upload_id
        self._lock = lock
        self._is_open = True
        self._resumed = resumed

    def query(self, **parameters: str) -> dict[str, str]:
        """Return the query of a request about this upload."""
        return {"uploadId": self._upload_id, **parameters}

    def must_restart(self, error: TransferError) -> bool:
        """Return True if a new upload may succeed where this one has failed.

        That is so if it is gone, and also if the store rejects a request for an upload that
        another process created: a store may list it without all that it demands to continue.
        garage, for example, does not list the checksum that each part must have.

        Args:
            error: of a part or of the completion.
        """
        if is_upload_gone(error):
            return True
        rejections = (DestinationError, RejectedError, UnsupportedError)
        return self._resumed and isinstance(error, rejections)

    async def lock(self) -> None:
        """Create the lock file."""
        self._lock = await anyio.to_thread.run_sync(
            UploadLock.create, *self.target.bucket_key, self._upload_id
        )

    async def mark(self) -> None:
        """Add the mark of `TransferOptions.task`, if there is one.

        A store that rejects it does not stop the upload: it is then resumed on this machine only.
        """
        client = self.target.client
        if client.options.task is None:
            return
        body = mark_of(client.options.task)
        headers = dict(customer_key_headers(client.s3))
        if self.checksum is not None:
            value = await checksum_of(self.checksum, memoryview(body))
            headers[header_name(self.checksum)] = encode_checksum(value)
        query = self.query(partNumber=str(MARK_PART))
        send = partial(
            client.send,
            "PUT",
            *self.target.bucket_key,
            query=query,
            headers=headers,
            body=memoryview(body),
        )
        with suppress(TransferError):
            await retrying(send, self.target.retry)

    async def close(self) -> None:
        """Record that the store has completed or aborted the upload."""
        self._is_open = False
        if self._lock is not None:
            await anyio.to_thread.run_sync(self._lock.delete)

    async def abort(self) -> None:
        """Abort the upload and delete its parts, unless it is closed. No part may be in flight.

        If that fails, another process may resume the upload.

        Raises:
            TransferError: if the store does not abort it.
        """
        if not self._is_open:
            return
        try:
            await self._abort_until_gone()
            await self.close()
        finally:
            if self._lock is not None:
                self._lock.unlock()

    async def _abort_until_gone(self) -> None:
        # A part whose response was cut off may arrive after the abort, and is stored, and billed,
        # until the upload is aborted again. So S3 advises to abort until no part is listed:
        # https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html
        client, bucket_key = self.target.client, self.target.bucket_key
        try:
            for _ in range(_ABORT_ROUNDS):
                await client.call("DELETE", *bucket_key, query=self.query())
                await client.call("GET", *bucket_key, query=self.query(**{"max-parts": "1"}))
        except NotFoundError:
            pass


async def create_upload(
    target: UploadTarget, negotiation: ChecksumNegotiation | None, *, may_mark: bool = False
) -> OpenUpload:
    """Create a multipart upload, and its lock file.

    Args:
        target: the object to be created.
        negotiation: chooses the checksum of the parts; None for parts without one.
        may_mark: add the mark of the task. Default False.

    Raises:
        TransferError: if the store rejects the upload, or fails more often than the retry
            policy allows. Then, and after a cancellation, no upload stays open.
    """
    creation = _Creation(target, negotiation)
    try:
        await _with_grace(creation.run, _CREATE_GRACE)
        if may_mark and creation.upload is not None:
            await creation.upload.mark()
    except BaseException:
        if creation.upload is not None:
            with anyio.move_on_after(ABORT_GRACE, shield=True):
                await creation.upload.abort()
        raise
    assert creation.upload is not None
    return creation.upload


class _Creation:
    """Keeps the created upload where a cancellation cannot lose it."""

    def __init__(self, target: UploadTarget, negotiation: ChecksumNegotiation | None) -> None:
        self._target = target
        self._negotiation = negotiation
        self._may_be_lost = False
        """True if an attempt had no response: the store may have created an upload."""
        self.upload: OpenUpload | None = None

    async def run(self) -> None:
        intent = await anyio.to_thread.run_sync(UploadIntent, *self._target.bucket_key)
        try:
            await self._create()
        except BaseException as error:
            is_cancelled = not isinstance(error, Exception)
            self._may_be_lost = self._may_be_lost or (is_cancelled and self.upload is None)
            raise
        finally:
            # Not in a thread, which a cancelled task cannot wait for.
            if self._may_be_lost:
                intent.mark_lost()
            else:
                intent.remove()

    async def _create(self) -> None:
        checksum, response = await self._negotiate()
        context = self._target.description
        # gofakes3 and rclone shorten the name of the document.
        check_document(response, "InitiateMultipartUpload", context)
        upload_id = element(response.body.decode(errors="replace"), "UploadId")
        if not upload_id:
            raise foreign_answer(response, context, "an UploadId")
        self.upload = OpenUpload(self._target, upload_id, checksum, may_have_twin=self._may_be_lost)
        await self.upload.lock()

    async def _negotiate(self) -> tuple[str | None, Response]:
        """Create the upload with the best checksum that the store accepts; return its name."""
        while True:
            checksum = None if self._negotiation is None else self._negotiation.candidate
            try:
                return checksum, await self._send(checksum)
            except TransferError as error:
                if self._negotiation is None or checksum is None:
                    raise
                if not self._negotiation.may_have_caused(error):
                    raise
                self._negotiation.reject(checksum)

    async def _send(self, checksum: str | None) -> Response:
        headers = dict(object_headers(self._target.client.s3, self._target.entry))
        if checksum is not None:
            headers["x-amz-checksum-algorithm"] = checksum
            headers["x-amz-checksum-type"] = "FULL_OBJECT"
        client = self._target.client
        send = partial(
            client.send, "POST", *self._target.bucket_key, query={"uploads": ""}, headers=headers
        )

        async def attempt() -> Response:
            try:
                return await send()
            except TransientError as error:
                # A response of S3 says that nothing was created.
                self._may_be_lost = self._may_be_lost or error.response is None
                raise

        return await retrying(attempt, self._target.retry)


def is_upload_gone(error: TransferError) -> bool:
    """Return True if another process or a lifecycle rule has ended the upload or removed parts."""
    return error_code(error) in ("NoSuchUpload", "InvalidPart")


def restart_error(error: TransferError) -> IntegrityError:
    """Return the error that makes the engine restart the file with a new upload."""
    return IntegrityError(error.message, response=error.response)


async def _with_grace(operation: Callable[[], Awaitable[None]], seconds: float) -> None:
    """Run `operation`; a cancellation interrupts it only after `seconds` more.

    The store creates an upload before we know its id. If the request were cancelled at once,
    the upload could not be aborted.
    """
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope(shield=True) as shielded:
            tasks.start_soon(_set_deadline_when_cancelled, shielded, seconds)
            try:
                await operation()
            except Exception as error:  # noqa: BLE001 - raised below, outside of the task group
                failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _set_deadline_when_cancelled(scope: anyio.CancelScope, seconds: float) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        scope.deadline = anyio.current_time() + seconds
