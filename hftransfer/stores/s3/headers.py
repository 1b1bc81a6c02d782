"""The headers of S3 requests that options and entries ask for. Pure."""

from __future__ import annotations

import base64
import hashlib
import mimetypes
import re
from collections.abc import Mapping
from functools import lru_cache

from hftransfer._core.checksums import decode_checksum, header_name, supported_checksums
from hftransfer._core.digests import Digest, chunk_digest
from hftransfer.options import S3Options
from hftransfer.stores.base import Entry

__all__ = (
    "CHECKSUM_MODE",
    "IDENTITY",
    "customer_key_headers",
    "identity_tag",
    "kept_properties",
    "known_digest",
    "md5_digest",
    "object_headers",
    "pinned",
)

CHECKSUM_MODE = {"x-amz-checksum-mode": "ENABLED"}
"""Asks for the checksum of what is read."""

IDENTITY = "x-amz-meta-hftransfer-identity"
"""Keeps `identity_tag` with an object, so that it is known again."""

_METADATA = "x-amz-meta-"
_KEPT = (
    *("content-type", "content-encoding", "content-language", "content-disposition"),
    *("cache-control", "expires"),
)
_CUSTOMER_KEY = "x-amz-server-side-encryption-customer"


def pinned(entry: Entry) -> Mapping[str, str]:
    """Return what makes a request fail if the object is no longer the listed one."""
    return {} if entry.etag is None else {"If-Match": entry.etag}


def customer_key_headers(options: S3Options, prefix: str = _CUSTOMER_KEY) -> Mapping[str, str]:
    """Return what every request for an object under SSE-C carries.

    Args:
        options: with the key, or without.
        prefix: another one for the source of a copy.
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
    """Return what says how an object is stored and what is kept beside its bytes."""
    headers = {
        name: value
        for name, value in entry.properties.items()
        if name in _KEPT or name.startswith(_METADATA)
    }
    headers.setdefault("content-type", _content_type(entry.path))
    headers.pop(IDENTITY, None)  # of whence it was copied before
    if tag := identity_tag(entry):
        headers[IDENTITY] = tag
    headers |= customer_key_headers(options)
    optional = {
        "x-amz-server-side-encryption": options.server_side_encryption,
        "x-amz-server-side-encryption-aws-kms-key-id": options.kms_key_id,
        "x-amz-storage-class": options.storage_class,
    }
    return headers | {name: value for name, value in optional.items() if value is not None}


def identity_tag(entry: Entry) -> str:
    """Return a name for the exact content of `entry`, or nothing if the source has none."""
    if not entry.identity:
        return ""
    return chunk_digest(memoryview(f"{entry.identity} {entry.size}".encode()))


def kept_properties(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return what of an answer's headers belongs to the object and goes into its copies."""
    lowered = {name.lower(): value for name, value in headers.items()}
    return {
        name: value
        for name, value in lowered.items()
        if name in _KEPT or name.startswith(_METADATA)
    }


def known_digest(headers: Mapping[str, str]) -> Digest | None:
    """Return the strongest checksum of an answer that can be checked here."""
    for name in supported_checksums():
        if (text := headers.get(header_name(name))) and (
            value := decode_checksum(name, text)
        ) is not None:
            return Digest(name.lower(), value.hex())
    return None


def md5_digest(etag: str | None, headers: Mapping[str, str]) -> Digest | None:
    """Return the MD5 that the ETag of an object of one part is, unless a key of KMS made it one.

    https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
    """
    matched = re.fullmatch(r'"?([0-9a-f]{32})"?', etag or "")
    encryption = headers.get("x-amz-server-side-encryption", "AES256")
    if matched is None or encryption != "AES256" or f"{_CUSTOMER_KEY}-algorithm" in headers:
        return None
    return Digest("md5", matched[1])


def _content_type(path: str) -> str:
    name = path.rpartition("/")[2]
    return _type_of(name[name.find(".") :] if "." in name else "")


@lru_cache(maxsize=1024)
def _type_of(suffixes: str) -> str:
    kind, encoding = mimetypes.guess_type(f"name{suffixes}")
    # The type of an archive's content is not the type of its compressed bytes.
    return kind if kind is not None and encoding is None else "application/octet-stream"
