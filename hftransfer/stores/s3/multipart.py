"""A file of several chunks on its way into S3, as a multipart upload.

One that a killed process left behind is gone on with. What its parts hold cannot be read,
so each is compared with the chunk that is to be sent, by size and MD5; only what is
missing is sent.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import anyio
import anyio.to_thread

from hftransfer._core.checksums import combine_crcs, element_name, encode_checksum, header_name
from hftransfer._core.manifest import FileManifest
from hftransfer._core.plan import Chunk, plan_chunks
from hftransfer._io.file_range import FileRange
from hftransfer._io.retry import retrying
from hftransfer.errors import (
    IntegrityError,
    NotFoundError,
    Response,
    TransferError,
    single_error,
)
from hftransfer.stores.base import Entry
from hftransfer.stores.s3.checksum_negotiation import ChecksumChoice
from hftransfer.stores.s3.client import S3Client
from hftransfer.stores.s3.errors import refusal_code, response_error
from hftransfer.stores.s3.headers import customer_key_headers, object_headers
from hftransfer.stores.s3.hedging import HedgeTimer
from hftransfer.stores.s3.put import Upload, checksum_of, is_precondition, md5_of
from hftransfer.stores.s3.resume import OrphanedUpload, Part, find_orphaned_upload
from hftransfer.stores.s3.upload_lock import UploadLock, claim
from hftransfer.stores.s3.xml import complete_body, element

__all__ = ("MultipartUpload", "multipart_etag")

# Longer than a round trip, shorter than anyone waits for Ctrl-C.
_CREATE_GRACE = 1.0
_ABORT_GRACE = 1.5
_ABORT_ROUNDS = 3


class MultipartUpload(Upload):
    """A file of several chunks: chunk `i` is part ``i + 1``.

    Args:
        chunk_size: bytes of every part but the last.
    """

    def __init__(
        self, session: S3Client, bucket: str, key: str, entry: Entry, chunk_size: int
    ) -> None:
        super().__init__(session, bucket, key, entry)
        self._sizes = [chunk.size for chunk in plan_chunks(entry.size, chunk_size)]
        self._upload_id: str | None = None
        self._claim: UploadLock | None = None
        self._checksum: str | None = None
        self._echoed = False
        """True if the store has repeated, and so verified, the checksum of every part so far."""
        self._leftover: OrphanedUpload | None = None
        self._etags: dict[int, str] = {}
        self._sums: dict[int, bytes] = {}

    async def open(self) -> None:
        """Go on with what a killed process has left of this upload, or begin one.

        It has tries of its own, so that those of the first chunk are not used up.

        Raises:
            TransferError: if the store refuses, or fails more often than the retry policy
                allows. Nothing is left then, nor after a cancellation.
        """
        try:
            await self._look_back()
            if self._upload_id is None:
                await self._begin()
        except BaseException:
            with anyio.move_on_after(_ABORT_GRACE, shield=True):
                await self.abort(discard=True)
            raise

    async def _look_back(self) -> None:
        found = await find_orphaned_upload(self._session, *self._target, self._sizes)
        if found is not None:
            self._leftover, self._claim = found, found.claim
            self._upload_id = found.upload_id
            self._checksum = found.checksum
            self._echoed = found.checksum is not None

    async def write(self, chunk: Chunk, data: memoryview, digest: str) -> None:
        value = None
        if self._checksum is not None:
            value = await checksum_of(self._checksum, data, digest)
        await self._put(chunk, data, value)

    @property
    def sendfile_checksum(self) -> str | None:
        return self._checksum

    async def write_file_range(
        self, chunk: Chunk, region: FileRange, digest: str, checksum: bytes
    ) -> None:
        await self._put(chunk, region, checksum)

    async def _put(
        self, chunk: Chunk, body: memoryview | FileRange, checksum: bytes | None
    ) -> None:
        if checksum is not None:
            self._sums[chunk.index] = checksum
        etag = await self._stored(chunk, body)
        self._etags[chunk.index] = etag or await self._send(chunk, body, checksum)

    def _choice(self) -> ChecksumChoice:
        return self._session.part_checksums

    def _part_query(self, chunk: Chunk) -> Mapping[str, str]:
        assert self._upload_id is not None
        return {"partNumber": str(chunk.index + 1), "uploadId": self._upload_id}

    async def _begin(self) -> None:
        # An upload of whose id we never hear could not be aborted.
        await _with_grace(self._create, _CREATE_GRACE)

    async def _create(self) -> None:
        choice = self._choice()
        while True:
            name = choice.name
            headers = dict(object_headers(self._session.s3, self._entry))
            if name is not None:
                headers |= {"x-amz-checksum-algorithm": name, "x-amz-checksum-type": "FULL_OBJECT"}
            try:
                answer = await self._session.call(
                    "POST", *self._target, query={"uploads": ""}, headers=headers
                )
            except TransferError as error:
                if name is None or not choice.may_be_about(error):
                    raise
                choice.reject(name)
                continue
            break
        self._upload_id = element(answer.body.decode(errors="replace"), "UploadId")
        if not self._upload_id:
            self._upload_id = None
            raise response_error(answer, self._what)
        self._checksum, self._echoed = name, name is not None
        self._claim = await anyio.to_thread.run_sync(claim, *self._target, self._upload_id)

    async def _stored(self, chunk: Chunk, body: memoryview | FileRange) -> str | None:
        """Return the ETag of a part that holds `body` already.

        Raises:
            IntegrityError: if the part that was left behind holds other bytes.
        """
        part = None if self._leftover is None else self._leftover.parts.get(chunk.index + 1)
        if part is None or chunk.index in self._etags:
            return None
        if part.md5 == await anyio.to_thread.run_sync(md5_of, body):
            return part.etag
        # Parts of two contents must not meet: the engine begins anew, without this upload.
        raise IntegrityError(f"{self._what}: an interrupted upload of other content was in the way")

    async def _send(self, chunk: Chunk, body: memoryview | FileRange, value: bytes | None) -> str:
        headers = dict(customer_key_headers(self._session.s3))
        if value is not None and self._checksum is not None:
            headers[header_name(self._checksum)] = encode_checksum(value)
        send = partial(
            self._session.send,
            "PUT",
            *self._target,
            query=self._part_query(chunk),
            headers=headers,
            body=body,
        )
        try:
            async with self._session.uploads:
                answer = await _hedged(send, self._session.hedge)
        except NotFoundError as error:
            raise self._ended(error) from error
        etag = answer.headers.get("ETag")
        if not etag:
            raise response_error(answer, self._what)
        if value is not None and self._checksum is not None:
            if answer.headers.get(header_name(self._checksum)) == encode_checksum(value):
                self._session.part_checksums.confirm(self._checksum)
            else:
                self._echoed = False
                self._session.part_checksums.reject(self._checksum)
        return etag

    def _ended(self, error: TransferError) -> TransferError:
        """Return what to raise for `error`: the upload's end at other hands means to begin anew."""
        if refusal_code(error) in ("NoSuchUpload", "InvalidPart"):
            return IntegrityError(error.message, response=error.response)
        return error

    async def commit(self, manifest: FileManifest) -> None:
        await self.complete(manifest.size)

    async def complete(self, size: int) -> None:
        """Complete the upload and check that an object of `size` bytes became of it.

        Raises:
            IntegrityError: if parts are missing, or the object has another size or checksum.
            DestinationError: if the object exists and is not to be replaced.
        """
        count = len(self._sizes)
        if self._etags.keys() != set(range(count)):
            raise IntegrityError(f"{self._what}: {len(self._etags)} of {count} parts were uploaded")
        whole = self._whole_checksum()
        answer = await retrying(partial(self._complete, size, whole), self._session.options.retry)
        await self._end()
        name = self._checksum
        if whole is not None and name is not None and answer is not None:
            echoed = element(answer.body.decode(errors="replace"), element_name(name))
            if echoed.removesuffix(f"-{count}") == encode_checksum(whole):
                return
        await self._check_size(size)

    def _whole_checksum(self) -> bytes | None:
        """Return the checksum of all parts, if the store has verified each of them."""
        if not self._echoed or self._checksum is None:
            return None
        return combine_crcs(
            self._checksum, [(self._sums[i], size) for i, size in enumerate(self._sizes)]
        )

    async def _complete(self, size: int, whole: bytes | None) -> Response | None:
        """Complete once; return the answer, or None if an earlier try has done it."""
        assert self._upload_id is not None
        headers = {"content-type": "application/xml", "x-amz-mp-object-size": str(size)}
        headers |= self._guard | dict(customer_key_headers(self._session.s3))
        rows = []
        for index, etag in sorted(self._etags.items()):
            row = {"PartNumber": str(index + 1), "ETag": etag}
            if whole is not None and self._checksum is not None:
                row[element_name(self._checksum)] = encode_checksum(self._sums[index])
            rows.append(row)
        if whole is not None and self._checksum is not None:
            headers |= {
                header_name(self._checksum): encode_checksum(whole),
                "x-amz-checksum-type": "FULL_OBJECT",
            }
        try:
            answer = await self._session.send(
                "POST",
                *self._target,
                query={"uploadId": self._upload_id},
                headers=headers,
                body=complete_body(rows),
            )
            # The status was sent before the parts were put together: the body decides.
            if b"CompleteMultipartUploadResult" not in answer.body:
                raise response_error(answer, self._what)
        except TransferError as error:
            if self._guard and is_precondition(error):
                raise self.exists() from error
            if refusal_code(error) == "NoSuchUpload" and await self._is_published():
                return None  # a try whose answer was lost has completed the upload, and ended it
            ended = self._ended(error)
            if ended is error:
                raise
            raise ended from error
        return answer

    async def _is_published(self) -> bool:
        head = await self._head()
        etags = [self._etags[index] for index in sorted(self._etags)]
        return head is not None and head.get("ETag", "").strip('"') == multipart_etag(etags)

    async def _check_size(self, size: int) -> None:
        head = await self._head()
        if head is not None and head.get("Content-Length", "") != str(size):
            found = head.get("Content-Length", "unknown")
            raise IntegrityError(f"{self._what}: it has {found} bytes, {size} were uploaded")

    async def abort(self, *, discard: bool) -> None:
        """End the upload and drop its parts. No `write` may be under way."""
        if self._upload_id is None:
            return
        try:
            await self._drop_parts(self._upload_id)
            await self._end()
        finally:
            if self._claim is not None:  # then the next process goes on with it
                self._claim.drop()

    async def _drop_parts(self, upload_id: str) -> None:
        query = {"uploadId": upload_id}
        # A part whose answer was cut off may still arrive, and parts of an aborted upload
        # are billed until somebody aborts it again: S3 asks to look until none is left.
        try:
            for _ in range(_ABORT_ROUNDS):
                await self._session.call("DELETE", *self._target, query=query)
                await self._session.call("GET", *self._target, query={**query, "max-parts": "1"})
        except NotFoundError:
            pass

    async def _end(self) -> None:
        """Note that the upload is no more."""
        self._upload_id = None
        if self._claim is not None:
            await anyio.to_thread.run_sync(self._claim.release)


def multipart_etag(parts: Sequence[str]) -> str | None:
    """Return the ETag of the object that parts with these ETags make, without quotes.

    It is the MD5 of the parts' MD5s and their number; None where the parts' own ETags are
    no MD5s, as with SSE-KMS.
    """
    digests = [Part(part, 0).md5 for part in parts]
    known = [bytes.fromhex(digest) for digest in digests if digest is not None]
    if len(known) < len(digests):
        return None
    joined = hashlib.md5(b"".join(known), usedforsecurity=False)
    return f"{joined.hexdigest()}-{len(parts)}"


async def _hedged(send: Callable[[], Awaitable[Response]], timer: HedgeTimer) -> Response:
    """Run `send`, and once more beside it if it takes unusually long; the first answer counts."""
    started = time.monotonic()
    answers: list[Response] = []
    failures: list[TransferError] = []
    running = 1

    async def attempt() -> None:
        nonlocal running
        try:
            answers.append(await send())
        except TransferError as error:
            failures.append(error)
        running -= 1
        if answers or not running:
            tasks.cancel_scope.cancel()

    with single_error():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attempt)
            if (limit := timer.limit) is not None:
                await anyio.sleep(limit)  # ends when the first has
                timer.timed_out()
                running += 1
                tasks.start_soon(attempt)
    if not answers:
        raise failures[0]
    timer.answered(time.monotonic() - started)
    return answers[0]


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
