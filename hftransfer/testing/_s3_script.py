"""How a `ScriptedS3` deviates from AWS, what it stores, and what it records."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hftransfer._core.digests import new_hasher

__all__ = ("S3Request", "S3Script", "StoredObject", "checksum_of", "damaged", "etag_of_parts")


@dataclass(kw_only=True)
class S3Script:
    """How a `ScriptedS3` deviates from AWS. The defaults do not; every field may be changed at
    any time, and applies to the requests after that.

    Attributes:
        put_conditions: PutObject and CopyObject honour ``If-None-Match``; otherwise they ignore it,
            as garage and s3rver do.
        complete_conditions: CompleteMultipartUpload honours it; otherwise it ignores it, as
            gofakes3 and S3Proxy do.
        checksums: ``x-amz-checksum-*`` are verified, stored and repeated; otherwise ignored.
        content_md5: ``Content-MD5`` is verified; otherwise ignored.
        etags: ``"md5"``; ``"opaque"``, as with SSE-KMS; or ``"none"``, no ETag in any response.
        metadata: ``x-amz-meta-*`` are stored; otherwise dropped, as by Hugging Face's gateway.
        part_checksums_listed: ListParts names the checksums. Otherwise it does not, and the upload
            accepts no part without one, as in garage.
        refused_headers: names, in lower case, of headers that are answered by 501 NotImplemented,
            as S3Proxy does with ``x-amz-mp-object-size``.
        copies: what CopyObject and UploadPartCopy do: ``"yes"``; ``"undecoded"``, the source is
            taken as it is sent and percent-encoding not decoded, as by s3rver; ``"refused"``, 501;
            or ``"ignored"``, an empty object or part is written, as by rclone.
        redirect_reads: GetObject is answered by 302 to a signed URL of another host, which
            answers 400 to a request with credentials, as by Hugging Face's gateway.
        redirect_requests: each request is answered by 307 to another path of the same host.
        web_server: every request is answered by 200 and an HTML page: this is no S3 store.
        damaged_uploads: request bodies still to be damaged in transit: one bit of each is flipped.
        damaged_downloads: the same for bodies of GetObject.
        lost_responses: PutObject and CompleteMultipartUpload requests that are still to succeed
            without a response: the connection is closed.
        forbidden_reads: GET and HEAD are answered by 403 AccessDenied.
    """

    put_conditions: bool = True
    complete_conditions: bool = True
    checksums: bool = True
    content_md5: bool = True
    etags: Literal["md5", "opaque", "none"] = "md5"
    metadata: bool = True
    part_checksums_listed: bool = True
    refused_headers: frozenset[str] = frozenset()
    copies: Literal["yes", "undecoded", "refused", "ignored"] = "yes"
    redirect_reads: bool = False
    redirect_requests: bool = False
    web_server: bool = False
    damaged_uploads: int = 0
    damaged_downloads: int = 0
    lost_responses: int = 0
    forbidden_reads: bool = False


@dataclass(frozen=True)
class S3Request:
    """One request that a `ScriptedS3` received.

    Attributes:
        host: ``"store"``, or ``"cdn"`` for the host that reads are redirected to.
        method: of HTTP.
        bucket: decoded; empty for the CDN.
        key: decoded; empty for the bucket itself.
        query: decoded.
        headers: look-ups ignore case.
    """

    host: Literal["store", "cdn"]
    method: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class StoredObject:
    """One object, as it is stored.

    Attributes:
        data: its bytes.
        etag: without quotes.
        headers: type and metadata, names in lower case.
        checksums: of the whole object: name of the header to its value.
        parts: sizes of the parts of a multipart upload; empty for one PUT.
    """

    data: bytes
    etag: str
    headers: Mapping[str, str] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[int, ...] = ()


def damaged(body: bytes) -> bytes:
    """Return `body` with one bit flipped."""
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


def checksum_of(name: str, data: bytes) -> bytes:
    """Return a checksum of S3, by its name in upper case."""
    hasher = new_hasher(name.lower(), len(data))
    hasher.update(memoryview(data))
    return bytes.fromhex(hasher.hexdigest())


def etag_of_parts(digests: Sequence[str]) -> str:
    """Return the ETag of a multipart object from the MD5s of its parts in hex."""
    joined = hashlib.md5(b"".join(map(bytes.fromhex, digests)))
    return f"{joined.hexdigest()}-{len(digests)}"
