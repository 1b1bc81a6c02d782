"""The XML documents of `ScriptedS3`, in the form of AWS."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote_plus
from xml.sax.saxutils import escape

__all__ = (
    "completed",
    "completed_numbers",
    "copied",
    "created",
    "error",
    "listing",
    "parts",
    "uploads",
)

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


def error(code: str, message: str) -> bytes:
    """Return an error document."""
    fields = {"Code": code, "Message": message}
    return f"<Error>{_fields(fields)}</Error>".encode()


def listing(objects: Iterable[tuple[str, str, int]]) -> bytes:
    """Return a ListObjectsV2 document of key, ETag and size of each object."""
    rows = "".join(
        f"<Contents>{_fields({'Key': quote_plus(key), 'ETag': etag, 'Size': str(size)})}</Contents>"
        for key, etag, size in objects
    )
    return _root("ListBucketResult", f"<EncodingType>url</EncodingType>{rows}")


def uploads(found: Iterable[tuple[str, str]]) -> bytes:
    """Return a ListMultipartUploads document of key and id of each upload."""
    rows = "".join(
        f"<Upload>{_fields({'Key': key, 'UploadId': upload_id})}</Upload>"
        for key, upload_id in found
    )
    return _root("ListMultipartUploadsResult", rows)


def parts(rows: Iterable[tuple[int, str, int]], algorithm: str) -> bytes:
    """Return a ListParts document of number, ETag and size of each part.

    Args:
        rows: the parts.
        algorithm: of the checksums; empty to state none.
    """
    body = "".join(
        f"<Part>{_fields({'PartNumber': str(number), 'ETag': etag, 'Size': str(size)})}</Part>"
        for number, etag, size in rows
    )
    stated = {"ChecksumAlgorithm": algorithm, "ChecksumType": "FULL_OBJECT"} if algorithm else {}
    return _root("ListPartsResult", _fields(stated) + body)


def created(bucket: str, key: str, upload_id: str) -> bytes:
    """Return the response to CreateMultipartUpload."""
    fields = {"Bucket": bucket, "Key": key, "UploadId": upload_id}
    return _root("InitiateMultipartUploadResult", _fields(fields))


def completed(etag: str, checksums: Mapping[str, str]) -> bytes:
    """Return the response to CompleteMultipartUpload."""
    return _root("CompleteMultipartUploadResult", _fields({"ETag": etag, **checksums}))


def copied(root: str, etag: str) -> bytes:
    """Return the response to CopyObject or UploadPartCopy, whose root element is `root`."""
    return _root(root, _fields({"ETag": etag}))


def completed_numbers(body: bytes) -> Sequence[int]:
    """Return the numbers of the parts that a CompleteMultipartUpload request names."""
    return [int(number) for number in re.findall(rb"<PartNumber>(\d+)</PartNumber>", body)]


def _fields(fields: Mapping[str, str]) -> str:
    return "".join(f"<{name}>{escape(text)}</{name}>" for name, text in fields.items())


def _root(name: str, body: str) -> bytes:
    return f'<{name} xmlns="{_NAMESPACE}">{body}</{name}>'.encode()
