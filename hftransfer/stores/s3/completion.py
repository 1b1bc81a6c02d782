"""The completion of a multipart upload, and the proof that the object is whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hftransfer._core.checksums import element_name, encode_checksum, header_name
from hftransfer._io.retry import retrying
from hftransfer.errors import IntegrityError, Response, TransferError
from hftransfer.stores.s3.errors import error_code, is_precondition_failure, response_error
from hftransfer.stores.s3.etags import multipart_etag
from hftransfer.stores.s3.headers import customer_key_headers
from hftransfer.stores.s3.open_upload import OpenUpload, is_upload_gone, restart_error
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
        if response is None or not self._repeats_checksum(response):
            await self._check_size()
        if response is not None:
            etag = element(response.body.decode(errors="replace"), "ETag")
            self._target.on_created(etag)

    async def _complete(self) -> Response | None:
        """Send the request once; return None if an earlier attempt has completed the upload."""
        try:
            response = await self._target.client.send(
                "POST",
                *self._target.bucket_key,
                query=self._upload.query(),
                headers=self._headers(),
                body=complete_body(self._rows()),
            )
            # S3 sends the status before it assembles the object: the body tells the outcome.
            if b"CompleteMultipartUploadResult" not in response.body:
                raise response_error(response, self._target.description)
        except TransferError as error:
            if self._target.precondition and is_precondition_failure(error):
                raise self._target.exists_error() from error
            if error_code(error) == "NoSuchUpload" and await self._was_completed():
                return None
            if is_upload_gone(error):
                raise restart_error(error) from error
            raise
        return response

    def _headers(self) -> Mapping[str, str]:
        headers = {
            "content-type": "application/xml",
            "x-amz-mp-object-size": str(sum(self._sizes)),
            **self._target.precondition,
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
        etags = [etag for _, etag in sorted(self._uploaded.etags.items())]
        return headers is not None and headers.get("ETag", "").strip('"') == multipart_etag(etags)

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
