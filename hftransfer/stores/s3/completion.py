"""The completion of a multipart upload, and the proof that the object is whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hftransfer._core.checksums import element_name, encode_checksum, header_name
from hftransfer._io.retry import retrying
from hftransfer.errors import IntegrityError, Response, TransferError, UnsupportedError
from hftransfer.stores.s3.answers import check_document
from hftransfer.stores.s3.conditions import Condition
from hftransfer.stores.s3.errors import error_code, is_precondition_failure
from hftransfer.stores.s3.etags import multipart_etag
from hftransfer.stores.s3.headers import customer_key_headers
from hftransfer.stores.s3.open_upload import OpenUpload, restart_error
from hftransfer.stores.s3.parts import UploadedParts
from hftransfer.stores.s3.xml import complete_body, element

__all__ = ("Completion",)


class Completion:
    """Completes one upload. Use it once.

    Args:
        upload: open.
        sizes: bytes of every part, in order.
        uploaded: the parts.
    """

    def __init__(self, upload: OpenUpload, sizes: Sequence[int], uploaded: UploadedParts) -> None:
        self._upload = upload
        self._target = upload.target
        self._sizes = sizes
        self._uploaded = uploaded
        self._checksum: str | None = None  # of the whole object, encoded

    async def run(self) -> None:
        """Complete the upload, with retries, and check the object's checksum or else its size.

        Raises:
            IntegrityError: if parts are missing, if the upload is gone (then it has to restart),
                or if the object has another size than the parts.
            DestinationError: if the object exists and must not be replaced.
            TransferError: if the store rejects the completion or keeps failing.
        """
        count = len(self._sizes)
        if self._uploaded.etags.keys() != set(range(count)):
            raise IntegrityError(
                f"{self._target.description}: {len(self._uploaded.etags)} of {count} parts "
                "were uploaded, so the object was not created"
            )
        whole = self._uploaded.whole_checksum(self._upload.checksum, self._sizes)
        self._checksum = None if whole is None else encode_checksum(whole)
        response = await retrying(self._complete, self._target.retry)
        await self._upload.close()
        repeated = None
        if self._target.exclusive and response is not None:
            repeated = await self._condition.probe(self._send)
        if repeated is not None or response is None or not self._repeats_checksum(response):
            await self._check_size()
        if response is not None:
            etag = element(response.body.decode(errors="replace"), "ETag")
            self._target.on_created(etag)

    @property
    def _condition(self) -> Condition:
        return self._target.conditions.complete

    @property
    def _is_conditional(self) -> bool:
        return self._target.exclusive and bool(self._condition.headers)

    async def _send(self) -> Response:
        """Send the request once.

        Raises:
            RejectedError: if no S3 store has answered.
            TransferError: if the store rejects the completion or fails.
        """
        response = await self._target.client.send(
            "POST",
            *self._target.bucket_key,
            query=self._upload.query(),
            headers=self._headers(),
            body=complete_body(self._rows()),
        )
        # S3 sends the status before it assembles the object: the body tells the outcome.
        check_document(response, "CompleteMultipartUploadResult", self._target.description)
        return response

    async def _complete(self) -> Response | None:
        """Complete the upload; return None if an earlier attempt has done so."""
        # A store may ignore the condition, until the opposite is proven.
        if self._target.exclusive and not self._condition.is_proven:
            existing = await self._target.find_existing()
            if existing is not None:
                if self._is_ours(existing):
                    return None
                raise self._target.exists_error()
        try:
            return await self._send()
        except TransferError as error:
            if self._target.exclusive and is_precondition_failure(error):
                self._condition.confirm()
                if await self._was_completed():
                    return None
                raise self._target.exists_error() from error
            if error_code(error) == "NoSuchUpload" and await self._was_completed():
                return None
            if self._is_conditional and isinstance(error, UnsupportedError):
                self._condition.refuse(self._target.description)
                return await self._complete()  # looks for the object, then sends no condition
            if self._upload.must_restart(error):
                raise restart_error(error) from error
            raise

    def _headers(self) -> Mapping[str, str]:
        headers = {
            "content-type": "application/xml",
            "x-amz-mp-object-size": str(sum(self._sizes)),
            **(self._condition.headers if self._target.exclusive else {}),
            **customer_key_headers(self._target.client.s3),
        }
        if self._checksum is not None and self._upload.checksum is not None:
            headers[header_name(self._upload.checksum)] = self._checksum
            headers["x-amz-checksum-type"] = "FULL_OBJECT"
        return headers

    def _rows(self) -> Sequence[Mapping[str, str]]:
        rows = []
        for index, etag in sorted(self._uploaded.etags.items()):
            row = {"PartNumber": str(index + 1), "ETag": etag}
            if self._checksum is not None and self._upload.checksum is not None:
                row[element_name(self._upload.checksum)] = encode_checksum(
                    self._uploaded.checksums[index]
                )
            rows.append(row)
        return rows

    async def _was_completed(self) -> bool:
        """Return True if the object is made of these parts: only the response was lost.

        One HEAD without retries; if it fails, the completion is retried as a whole.
        """
        headers = await self._target.head()
        return headers is not None and self._is_ours(headers)

    def _is_ours(self, headers: Mapping[str, str]) -> bool:
        """Return True if the ETag of an object shows that it is made of these parts."""
        etags = [etag for _, etag in sorted(self._uploaded.etags.items())]
        return headers.get("ETag", "").strip('"') == multipart_etag(etags)

    def _repeats_checksum(self, response: Response) -> bool:
        if self._checksum is None or self._upload.checksum is None:
            return False
        name = element_name(self._upload.checksum)
        repeated = element(response.body.decode(errors="replace"), name)
        # Some stores append the number of parts.
        return repeated.removesuffix(f"-{len(self._sizes)}") == self._checksum

    async def _check_size(self) -> None:
        """Compare the object's size, since some stores ignore ``x-amz-mp-object-size``."""
        headers = await retrying(self._target.head, self._target.retry)
        expected = str(sum(self._sizes))
        if headers is not None and headers.get("Content-Length", "") != expected:
            found = headers.get("Content-Length", "an unknown number of")
            raise IntegrityError(
                f"{self._target.description}: the object has {found} bytes, "
                f"but {expected} bytes were uploaded"
            )
