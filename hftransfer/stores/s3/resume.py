"""Orphaned multipart uploads of killed processes, and which of them can be resumed.

For an upload in progress S3 reports the key, and for its parts size and ETag, but not the bytes.
Therefore an upload is chosen whose parts all have the sizes of our own plan; `parts` compares
the content later, chunk by chunk.

An upload that is still in use is not orphaned: a process of this machine holds its lock file, or
a process of another machine has added a part recently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import anyio.to_thread

from hftransfer._core.checksums import COMBINABLE
from hftransfer._core.units import parse_count
from hftransfer._http.status import parse_http_date
from hftransfer.errors import RejectedError, TransferError, TransientError
from hftransfer.stores.s3.answers import check_document
from hftransfer.stores.s3.client import S3Client
from hftransfer.stores.s3.etags import etag_md5
from hftransfer.stores.s3.headers import customer_key_headers
from hftransfer.stores.s3.upload_lock import UploadLock, has_lock_file
from hftransfer.stores.s3.xml import records, text_of

__all__ = ("OrphanedUpload", "Part", "find_resumable", "fits")

# Seconds without a new part after which an upload of another machine counts as abandoned. A
# process that works on it adds parts continually, or gives up much earlier (`RetryPolicy`).
_ABANDONED_AFTER = 3600.0


@dataclass(frozen=True)
class Part:
    """One part of an upload, as the store lists it."""

    etag: str
    size: int

    @property
    def md5(self) -> str | None:
        """MD5 of its bytes in hex, or None if the ETag is not one."""
        return etag_md5(self.etag)


@dataclass(frozen=True)
class OrphanedUpload:
    """An upload that was neither completed nor aborted."""

    upload_id: str
    checksum: str | None
    """Name of the checksum that it was created with; None for none."""
    parts: Mapping[int, Part]
    """By part number, from 1."""
    idle: float | None = None
    """Seconds since the last part arrived, by the store's clock; None if unknown."""
    lock: UploadLock | None = field(default=None, compare=False)
    """Held by this process since it chose the upload; None if it has no lock file."""


def fits(orphan: OrphanedUpload, sizes: Sequence[int]) -> bool:
    """Return True if the parts can be those of a file whose chunks have `sizes` in bytes.

    An upload without parts never fits: another program may have begun it a moment ago.
    """
    return bool(orphan.parts) and all(
        1 <= number <= len(sizes) and part.size == sizes[number - 1] and part.md5 is not None
        for number, part in orphan.parts.items()
    )


async def find_resumable(
    client: S3Client, bucket: str, key: str, sizes: Sequence[int]
) -> OrphanedUpload | None:
    """Return the orphaned upload of `key` that fits and has most parts, locked for this process.

    Returns:
        None if there is none, or if the store does not list uploads.

    Raises:
        TransientError: if the store fails more often than the retry policy allows.
    """
    try:
        response = await client.call("GET", bucket, query={"uploads": "", "prefix": key})
        check_document(response, "ListMultipartUploads", client.describe(bucket, key))
        uploads = [
            row
            for row in records(response.body, "Upload")
            if row.get("Key") == key and row.get("UploadId")
        ]
        found = [await _list_parts(client, bucket, key, row["UploadId"]) for row in uploads]
    except TransientError:
        raise
    except TransferError:
        return None  # not permitted, or not supported
    fitting = [orphan for orphan in found if orphan is not None and fits(orphan, sizes)]
    fitting.sort(key=lambda orphan: len(orphan.parts), reverse=True)
    # A cancellation does not interrupt this call, so a lock that was taken is always returned.
    return await anyio.to_thread.run_sync(_lock_first, bucket, key, fitting)


def _lock_first(
    bucket: str, key: str, candidates: Sequence[OrphanedUpload]
) -> OrphanedUpload | None:
    """Return the first candidate that is not in use, with its lock."""
    for orphan in candidates:
        lock = UploadLock.adopt(bucket, key, orphan.upload_id)
        if lock is not None:
            return replace(orphan, lock=lock)
        is_abandoned = orphan.idle is not None and orphan.idle >= _ABANDONED_AFTER
        if is_abandoned and not has_lock_file(bucket, key, orphan.upload_id):
            return replace(orphan, lock=UploadLock.create(bucket, key, orphan.upload_id))
    return None


async def _list_parts(
    client: S3Client, bucket: str, key: str, upload_id: str
) -> OrphanedUpload | None:
    """Return an upload with its parts, or None if its checksum is not one that we would use."""
    parts: dict[int, Part] = {}
    last_modified = ""
    marker = "0"
    while True:
        response = await client.call(
            "GET",
            bucket,
            key,
            query={"uploadId": upload_id, "part-number-marker": marker},
            headers=customer_key_headers(client.s3),
        )
        check_document(response, "ListParts", client.describe(bucket, key))
        rows = list(records(response.body, "Part"))
        page = [_listed_part(row) for row in rows]
        parts.update(page)
        # ISO 8601 times in UTC sort as text.
        last_modified = max([last_modified, *(row.get("LastModified", "") for row in rows)])
        if text_of(response.body, "IsTruncated") != "true" or not page:
            break
        if page[-1][0] <= int(marker):
            raise RejectedError("the store lists the same parts of an upload again and again")
        marker = str(page[-1][0])
    checksum = text_of(response.body, "ChecksumAlgorithm") or None
    kind = text_of(response.body, "ChecksumType")
    if checksum is not None and (checksum not in COMBINABLE or kind not in ("", "FULL_OBJECT")):
        return None
    idle = _seconds_between(last_modified, response.headers.get("Date", ""))
    return OrphanedUpload(upload_id, checksum, parts, idle)


def _listed_part(row: Mapping[str, str]) -> tuple[int, Part]:
    """Return the number of a part and the part, from one row of ListParts.

    Raises:
        RejectedError: if a field is missing or no number.
    """
    number, size = parse_count(row.get("PartNumber", "")), parse_count(row.get("Size", ""))
    if number is None or size is None or "ETag" not in row:
        raise RejectedError("the store lists a part of an upload without number, size or ETag")
    return number, Part(row["ETag"], size)


def _seconds_between(last_modified: str, date: str) -> float | None:
    """Return the seconds from an ISO 8601 time to the time of a Date header; None if unknown."""
    from datetime import datetime  # slow to import, and only needed if there is an upload

    now = parse_http_date(date)
    try:
        since = datetime.fromisoformat(last_modified.replace("Z", "+00:00"))
    except ValueError:  # missing or malformed
        return None
    return None if now is None or since.tzinfo is None else now - since.timestamp()
