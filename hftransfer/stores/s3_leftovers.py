"""Multipart uploads that a killed process left behind, and which of them can be gone on with.

S3 tells of an upload in progress only its key, and of its parts size and ETag. So one is
chosen whose parts all have the sizes of our own plan; whether a part holds the right bytes
is decided later, chunk by chunk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hftransfer._checksums import COMBINABLE
from hftransfer.errors import TransferError, TransientError
from hftransfer.stores.s3_headers import customer_key_headers
from hftransfer.stores.s3_session import S3Session
from hftransfer.stores.s3_xml import records, text_of

__all__ = ("Leftover", "Part", "find_leftover", "fits")

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
class Leftover:
    """An upload that nobody completed."""

    upload_id: str
    checksum: str | None
    """The name of the checksum with which it was created."""
    parts: Mapping[int, Part]
    """By number, from 1 on."""


def fits(leftover: Leftover, sizes: Sequence[int]) -> bool:
    """Return True if the parts can be those of a file whose chunks have `sizes`.

    One without parts is nobody's: another program may have begun it a moment ago.
    """
    return bool(leftover.parts) and all(
        1 <= number <= len(sizes) and part.size == sizes[number - 1] and part.md5 is not None
        for number, part in leftover.parts.items()
    )


async def find_leftover(
    session: S3Session, bucket: str, key: str, sizes: Sequence[int]
) -> Leftover | None:
    """Return the fullest upload of `key` that fits, or None.

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
    return max(fitting, key=lambda each: len(each.parts), default=None)


async def _leftover(session: S3Session, bucket: str, key: str, upload_id: str) -> Leftover | None:
    """Return an upload with its parts, or None if it was made in a way that is not ours."""
    parts: dict[int, Part] = {}
    marker = "0"
    while True:
        answer = await session.call(
            "GET",
            bucket,
            key,
            query={"uploadId": upload_id, "part-number-marker": marker},
            headers=customer_key_headers(session.s3),
        )
        listed = [
            (int(each["PartNumber"]), Part(each["ETag"], int(each["Size"])))
            for each in records(answer.body, "Part")
        ]
        parts.update(listed)
        if text_of(answer.body, "IsTruncated") != "true" or not listed:
            break
        marker = str(listed[-1][0])
    name = text_of(answer.body, "ChecksumAlgorithm") or None
    kind = text_of(answer.body, "ChecksumType")
    if name is not None and (name not in COMBINABLE or kind not in ("", "FULL_OBJECT")):
        return None
    return Leftover(upload_id, name, parts)
