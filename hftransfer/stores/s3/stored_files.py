"""Which local files a destination on S3 has already: by a record, or by the object's digest.

A record of an earlier run of this machine needs no request and no read (`VersionRecords`), and it
serves stores that drop metadata, since it names the object by its ETag. Without a record,
one HEAD tells the digest of the object as the store computed it, which the engine compares with
the file. Metadata is not used: other tools keep it when they write other content.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

import anyio.to_thread

from hftransfer._core.checksums import decode_checksum, header_name
from hftransfer._core.content_digest import ContentDigest
from hftransfer._core.digests import is_supported
from hftransfer._core.plan import stored_part_size
from hftransfer._io.file_version import VersionGuard
from hftransfer._io.version_records import VersionRecords, record_of
from hftransfer.errors import AccessError, NotFoundError, UnsupportedError
from hftransfer.options import S3Options
from hftransfer.stores.base import Entry
from hftransfer.stores.s3.client import S3Client
from hftransfer.stores.s3.etags import etag_md5
from hftransfer.stores.s3.headers import CHECKSUM_MODE, are_etags_md5
from hftransfer.stores.s3.xml import ListedObject

__all__ = ("StoredFiles", "content_digest", "demands_storage")

_ETAG_OF_PARTS = re.compile(r'"?(?P<md5>[0-9a-f]{32})-(?P<count>\d{1,5})"?')
# Whole-object checksums that name a content; a CRC of 32 bits would be equal by accident once in
# 4 thousand million changes. The best first: XXH3 is ten times as fast as MD5.
_BEFORE_ETAG = ("XXHASH128",)
_AFTER_ETAG = ("CRC64NVME",)


def demands_storage(options: S3Options) -> bool:
    """Return True if new objects are to be stored in a way that existing ones may not be."""
    return bool(options.server_side_encryption or options.storage_class or options.customer_key)


def content_digest(headers: Mapping[str, str], size: int, chunk_size: int) -> ContentDigest | None:
    """Return the digest of an object's content, or None if the store tells none.

    Args:
        headers: of a response to HEAD with ``x-amz-checksum-mode``.
        size: of the object, bytes.
        chunk_size: of our own uploads of this size, bytes. The part size that other uploaders
            have used is a guess; a wrong one finds the contents different.
    """
    if found := _checksum(headers, _BEFORE_ETAG):
        return found
    etag = headers.get("ETag", "")
    if are_etags_md5(headers):
        if (md5 := etag_md5(etag)) is not None:
            return ContentDigest("md5", md5)
        if matched := _ETAG_OF_PARTS.fullmatch(etag):
            ours = -(-size // chunk_size) == int(matched["count"])
            part_size = chunk_size if ours else stored_part_size(size, etag)
            if part_size is not None:
                return ContentDigest("md5", matched["md5"], part_size)
    return _checksum(headers, _AFTER_ETAG)


def _checksum(headers: Mapping[str, str], names: tuple[str, ...]) -> ContentDigest | None:
    if headers.get("x-amz-checksum-type", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    if "x-amz-checksum-type" not in headers and etag_md5(headers.get("ETag", "")) is None:
        return None  # it may be a checksum of the parts' checksums
    for name in names:
        text = headers.get(header_name(name))
        value = decode_checksum(name, text) if text and is_supported(name.lower()) else None
        if value is not None:
            return ContentDigest(name.lower(), value.hex())
    return None


class StoredFiles:
    """The files of this machine that one destination has. Used on the event loop.

    Args:
        client: open while this is in use.
        records: of earlier runs; None to record nothing.
    """

    def __init__(self, client: S3Client, records: VersionRecords | None) -> None:
        self._client = client
        # Objects of other storage properties are replaced, whatever their content.
        self._may_skip = not demands_storage(client.s3)
        self._records = records if self._may_skip else None
        self._guard: VersionGuard | None = None
        """None if no version may be recorded."""
        self._compared: dict[str, str] = {}
        """ETags by key of the objects that are being compared."""
        self._recordable: set[str] = set()
        """Keys of the objects whose files had rested when they began to be read."""

    async def load(self) -> None:
        """Read the records; call this before any other method."""
        if self._records is not None:
            self._guard = await anyio.to_thread.run_sync(VersionGuard.now)
            if self._guard is not None:
                await anyio.to_thread.run_sync(self._records.load)

    async def save(self) -> None:
        """Write the records for later runs."""
        if self._records is not None:
            await anyio.to_thread.run_sync(self._records.save)

    def is_recorded(self, bucket_key: tuple[str, str], listed: ListedObject, entry: Entry) -> bool:
        """Return True if the object that is listed is known to be this version of the file."""
        if self._guard is None or self._records is None or entry.file_version is None:
            return False
        if listed.size != entry.size:
            return False
        return self._record(bucket_key, listed.etag, entry) in self._records

    async def content(
        self,
        bucket_key: tuple[str, str],
        listed: ListedObject | None,
        entry: Entry,
        chunk_size: int,
    ) -> ContentDigest | None:
        """Implement `ComparingSink.stored_content` for the object that is listed."""
        self._note_rest(bucket_key, entry)
        if not self._may_skip or listed is None or listed.size != entry.size:
            return None
        if self.is_recorded(bucket_key, listed, entry):
            return None
        try:
            head = await self._client.call("HEAD", *bucket_key, headers=CHECKSUM_MODE)
        except (AccessError, NotFoundError, UnsupportedError):
            return None
        if head.headers.get("Content-Length", "") != str(entry.size):
            return None  # replaced since it was listed
        self._compared[bucket_key[1]] = head.headers.get("ETag", "")
        return content_digest(head.headers, entry.size, chunk_size)

    def confirm(self, bucket_key: tuple[str, str], entry: Entry) -> None:
        """Record that the object last asked for by `content` has the bytes of the file."""
        self.add(bucket_key, entry, self._compared.pop(bucket_key[1], ""))

    def add(self, bucket_key: tuple[str, str], entry: Entry, etag: str) -> None:
        """Record that the object with `etag` has the bytes of the file."""
        is_version = etag_md5(etag) is not None or _ETAG_OF_PARTS.fullmatch(etag) is not None
        if self._records is not None and is_version and bucket_key[1] in self._recordable:
            self._records.add(self._record(bucket_key, etag, entry))
        self._recordable.discard(bucket_key[1])

    def _note_rest(self, bucket_key: tuple[str, str], entry: Entry) -> None:
        guard, version = self._guard, entry.file_version
        if guard is not None and version is not None and guard.accepts(version, time.time_ns()):
            self._recordable.add(bucket_key[1])

    def _record(self, bucket_key: tuple[str, str], etag: str, entry: Entry) -> bytes:
        return record_of(*bucket_key, etag.strip('"'), entry.etag or "")
