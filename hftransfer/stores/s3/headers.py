"""Headers of S3 requests, and what headers of responses say about an object. No I/O."""

from __future__ import annotations

import base64
import hashlib
import mimetypes
from collections.abc import Mapping
from functools import lru_cache

from hftransfer._core.checksums import decode_checksum, header_name, supported_checksums
from hftransfer._core.digests import Digest, chunk_digest
from hftransfer.options import S3Options
from hftransfer.stores.base import Entry
from hftransfer.stores.s3.etags import etag_md5

__all__ = (
    "CHECKSUM_MODE",
    "IDENTITY_HEADER",
    "are_etags_md5",
    "checksum_digest",
    "customer_key_headers",
    "identity_tag",
    "if_match_headers",
    "md5_digest",
    "object_headers",
    "object_properties",
)

CHECKSUM_MODE = {"x-amz-checksum-mode": "ENABLED"}
"""Makes the response to a GET or HEAD carry the object's checksum."""

IDENTITY_HEADER = "x-amz-meta-hftransfer-identity"
"""Metadata that holds `identity_tag`, so that a later upload of the same content is skipped."""

_METADATA_PREFIX = "x-amz-meta-"
# Headers that S3 stores with an object and returns with it.
_STORED_HEADERS = (
    *("content-type", "content-encoding", "content-language", "content-disposition"),
    *("cache-control", "expires"),
)
_CUSTOMER_KEY = "x-amz-server-side-encryption-customer"


def if_match_headers(entry: Entry) -> Mapping[str, str]:
    """Return the headers that make a request fail if the object changed since it was listed."""
    return {} if entry.etag is None else {"If-Match": entry.etag}


def customer_key_headers(options: S3Options, prefix: str = _CUSTOMER_KEY) -> Mapping[str, str]:
    """Return the headers of a request for an object that is encrypted with SSE-C.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/ServerSideEncryptionCustomerKeys.html

    Args:
        options: without a customer key there are no such headers.
        prefix: of the headers' names; the source of a copy has one of its own.
    """
    if options.customer_key is None:
        return {}
    digest = hashlib.md5(base64.b64decode(options.customer_key), usedforsecurity=False).digest()
    return {
        f"{prefix}-algorithm": "AES256",
        f"{prefix}-key": options.customer_key,
        f"{prefix}-key-md5": base64.b64encode(digest).decode(),
    }


def object_headers(options: S3Options, entry: Entry) -> Mapping[str, str]:
    """Return the headers of a new object: its type, metadata, encryption and storage class."""
    headers = {name: value for name, value in entry.properties.items() if _is_stored(name)}
    headers.setdefault("content-type", _content_type(entry.path))
    headers.pop(IDENTITY_HEADER, None)  # the source object's, if this is a copy
    if tag := identity_tag(entry):
        headers[IDENTITY_HEADER] = tag
    headers |= customer_key_headers(options)
    optional = {
        "x-amz-server-side-encryption": options.server_side_encryption,
        "x-amz-server-side-encryption-aws-kms-key-id": options.kms_key_id,
        "x-amz-storage-class": options.storage_class,
    }
    return headers | {name: value for name, value in optional.items() if value is not None}


def identity_tag(entry: Entry) -> str:
    """Return a digest that names the content of `entry`, or "" if the source has no identity.

    The version of a local file is no identity: it means nothing on another machine, and the
    file can be compared with the object itself (`stored_content`).
    """
    is_version = entry.file_version is not None and entry.digest is None
    if is_version or not entry.identity:
        return ""
    return chunk_digest(memoryview(f"{entry.identity} {entry.size}".encode()))


def object_properties(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the headers of a response that are stored with the object; names in lower case."""
    lowered = {name.lower(): value for name, value in headers.items()}
    return {name: value for name, value in lowered.items() if _is_stored(name)}


def _is_stored(name: str) -> bool:
    return name in _STORED_HEADERS or name.startswith(_METADATA_PREFIX)


def checksum_digest(headers: Mapping[str, str]) -> Digest | None:
    """Return the strongest checksum in a response's headers that can be computed here."""
    for name in supported_checksums():
        if (text := headers.get(header_name(name))) and (
            value := decode_checksum(name, text)
        ) is not None:
            return Digest(name.lower(), value.hex())
    return None


def md5_digest(etag: str | None, headers: Mapping[str, str]) -> Digest | None:
    """Return the MD5 of an object, or None if its ETag is not one.

    The ETag is the MD5 only of an object that was uploaded in one part and that is not encrypted
    with SSE-KMS or SSE-C. https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html

    Args:
        etag: of the object.
        headers: of a response about the object, which name the encryption.
    """
    md5 = etag_md5(etag or "")
    return Digest("md5", md5) if md5 is not None and are_etags_md5(headers) else None


def are_etags_md5(headers: Mapping[str, str]) -> bool:
    """Return True if the encryption that a response names leaves ETags MD5s, of parts, too.

    They are something else with a key of KMS or of the customer.

    Args:
        headers: of a response about the object.
    """
    encryption = headers.get("x-amz-server-side-encryption", "AES256")
    return encryption == "AES256" and f"{_CUSTOMER_KEY}-algorithm" not in headers


def _content_type(path: str) -> str:
    name = path.rpartition("/")[2]
    return _type_of(name[name.find(".") :] if "." in name else "")


@lru_cache(maxsize=1024)
def _type_of(suffixes: str) -> str:
    kind, encoding = mimetypes.guess_type(f"name{suffixes}")
    # guess_type("a.json.gz") is JSON with the encoding gzip, but the stored bytes are not JSON.
    return kind if kind is not None and encoding is None else "application/octet-stream"
