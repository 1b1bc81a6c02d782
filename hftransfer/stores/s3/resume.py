"""Multipart uploads that a killed process left behind, and which of them can be gone on with.

S3 tells of an upload in progress only its key, and of its parts size and ETag. So one is
chosen whose parts all have the sizes of our own plan; whether a part holds the right bytes
is decided later, chunk by chunk.

An upload on which somebody works is none: neither one that a living process of this machine
has recorded, nor one of another machine to which a part was added lately.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import anyio.to_thread

from hftransfer._core.checksums import COMBINABLE
from hftransfer._http.status import parse_http_date
from hftransfer.errors import TransferError, TransientError
from hftransfer.stores.s3.client import S3Client
from hftransfer.stores.s3.headers import customer_key_headers
from hftransfer.stores.s3.upload_lock import UploadLock, claim, is_recorded, recover
from hftransfer.stores.s3.xml import records, text_of

__all__ = ("OrphanedUpload", "Part", "find_orphaned_upload", "fits")

# Of another machine nothing is known but when its last part came. Whoever still works on an
# upload adds parts all the time, or has given up trying much sooner: seconds.
_ABANDONED = 3600.0
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Part:
    """One part of an upload."""

    etag: str
    size: int

    @property
    def md5(self) -> str | None:
        """The MD5 of its bytes in hex, where the ETag is one."""
        text = self.etag.strip('"')
        return text if _MD5.fullmatch(text) else None


@dataclass(frozen=True)
class OrphanedUpload:
    """An upload that nobody completed."""

    upload_id: str
    checksum: str | None
    """The name of the checksum with which it was created."""
    parts: Mapping[int, Part]
    """By number, from 1 on."""
    idle: float | None = None
    """Seconds since the last part came, by the store's clock; None if it does not say."""
    claim: UploadLock | None = field(default=None, compare=False)
    """What tells others that it is ours now."""


def fits(leftover: OrphanedUpload, sizes: Sequence[int]) -> bool:
    """Return True if the parts can be those of a file whose chunks have `sizes`.

    One without parts is nobody's: another program may have begun it a moment ago.
    """
    return bool(leftover.parts) and all(
        1 <= number <= len(sizes) and part.size == sizes[number - 1] and part.md5 is not None
        for number, part in leftover.parts.items()
    )


async def find_orphaned_upload(
    session: S3Client, bucket: str, key: str, sizes: Sequence[int]
) -> OrphanedUpload | None:
    """Return the fullest upload of `key` that fits and is nobody's any more, or None.

    It is claimed for this process.

    Raises:
        TransientError: if the store cannot be asked.
    """
    try:
        answer = await session.call("GET", bucket, query={"uploads": "", "prefix": key})
        uploads = [each for each in records(answer.body, "Upload") if each.get("Key") == key]
        found = [await _leftover(session, bucket, key, each["UploadId"]) for each in uploads]
    except TransientError:
        raise
    except TransferError:
        return None  # not allowed or not known: then nothing is gone on with
    fitting = [each for each in found if each is not None and fits(each, sizes)]
    fitting.sort(key=lambda each: len(each.parts), reverse=True)
    # Not abandoned by a cancellation, so that a claim always reaches its owner.
    return await anyio.to_thread.run_sync(_first_free, bucket, key, fitting)


def _first_free(
    bucket: str, key: str, candidates: Sequence[OrphanedUpload]
) -> OrphanedUpload | None:
    for each in candidates:
        taken = recover(bucket, key, each.upload_id)
        if taken is not None:
            return replace(each, claim=taken)
        abandoned = each.idle is not None and each.idle >= _ABANDONED
        if abandoned and not is_recorded(bucket, key, each.upload_id):
            return replace(each, claim=claim(bucket, key, each.upload_id))
    return None


async def _leftover(
    session: S3Client, bucket: str, key: str, upload_id: str
) -> OrphanedUpload | None:
    """Return an upload with its parts, or None if it was made in a way that is not ours."""
    parts: dict[int, Part] = {}
    last = ""
    marker = "0"
    while True:
        answer = await session.call(
            "GET",
            bucket,
            key,
            query={"uploadId": upload_id, "part-number-marker": marker},
            headers=customer_key_headers(session.s3),
        )
        rows = list(records(answer.body, "Part"))
        listed = [(int(each["PartNumber"]), Part(each["ETag"], int(each["Size"]))) for each in rows]
        parts.update(listed)
        last = max([last, *(each.get("LastModified", "") for each in rows)])
        if text_of(answer.body, "IsTruncated") != "true" or not listed:
            break
        marker = str(listed[-1][0])
    name = text_of(answer.body, "ChecksumAlgorithm") or None
    kind = text_of(answer.body, "ChecksumType")
    if name is not None and (name not in COMBINABLE or kind not in ("", "FULL_OBJECT")):
        return None
    return OrphanedUpload(
        upload_id, name, parts, _seconds_since(last, answer.headers.get("Date", ""))
    )


def _seconds_since(moment: str, now: str) -> float | None:
    """Return the seconds between a time of a listing and one of a header."""
    from datetime import datetime  # rarely needed, and slow to load

    until = parse_http_date(now)
    try:
        since = datetime.fromisoformat(moment.replace("Z", "+00:00"))
    except ValueError:  # not said
        return None
    return None if until is None or since.tzinfo is None else until - since.timestamp()
