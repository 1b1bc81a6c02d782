"""Orphaned multipart uploads of killed processes, and which of them can be resumed.

For an upload in progress S3 reports the key, and for its parts size and ETag, but not the bytes.
Therefore an upload is chosen whose parts all have the sizes of our own plan; `parts` compares
the content later, chunk by chunk.

An upload that is still in use is not orphaned: a process of this machine holds its lock file, or
a process of another machine has added a part recently. An upload is this process's own, so that it
is resumed or else ended, if a dead process of this machine left its lock file, or if it has the
mark of the same task (`task_mark`).
"""

from __future__ import annotations

import hashlib
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
from hftransfer.stores.s3.task_mark import MARK_PART, MARK_SIZE, mark_of
from hftransfer.stores.s3.upload_intent import UploadIntents
from hftransfer.stores.s3.upload_lock import UploadLock, has_lock_file
from hftransfer.stores.s3.xml import records, text_of

__all__ = ("OrphanedUpload", "Orphans", "Part", "find_orphans", "fits")

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
    """By part number, from 1, without the mark of a task."""
    idle: float | None = None
    """Seconds since the last part arrived, by the store's clock; None if unknown."""
    age: float | None = None
    """Seconds since it was created, by the store's clock; None if unknown."""
    mark: Part | None = None
    """The part with the mark of a task, if there is one."""
    is_usable: bool = True
    """False if its checksum is not one that we would use."""
    lock: UploadLock | None = field(default=None, compare=False)
    """Held by this process since it chose the upload; None if it has no lock file."""


@dataclass(frozen=True)
class Orphans:
    """The orphaned uploads of one key that this process has taken."""

    resumable: OrphanedUpload | None = None
    """The one to continue: of those that fit, the one with most parts."""
    others: Sequence[OrphanedUpload] = ()
    """Own ones that are of no use, to be aborted."""


def fits(orphan: OrphanedUpload, sizes: Sequence[int]) -> bool:
    """Return True if the parts can be those of a file whose chunks have `sizes` in bytes.

    An upload without parts fits only if it is locked, and so known to be one of ours: another
    program may have begun it a moment ago.
    """
    if not orphan.is_usable or not (orphan.parts or orphan.lock is not None):
        return False
    return all(
        1 <= number <= len(sizes) and part.size == sizes[number - 1] and part.md5 is not None
        for number, part in orphan.parts.items()
    )


async def find_orphans(client: S3Client, bucket: str, key: str, sizes: Sequence[int]) -> Orphans:
    """Return the orphaned uploads of `key` that this process may take, locked for it.

    Returns:
        None of them if the store does not list uploads.

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
        date = response.headers.get("Date", "")
        found = [
            replace(
                await _list_parts(client, bucket, key, row["UploadId"]),
                age=_seconds_between(row.get("Initiated", ""), date),
            )
            for row in uploads
        ]
    except TransientError:
        raise
    except TransferError:
        return Orphans()  # not permitted, or not supported
    found.sort(key=lambda orphan: len(orphan.parts), reverse=True)
    # A cancellation does not interrupt this call, so a lock that was taken is always returned.
    return await anyio.to_thread.run_sync(_take, bucket, key, found, sizes, client.options.task)


def _take(
    bucket: str,
    key: str,
    candidates: Sequence[OrphanedUpload],
    sizes: Sequence[int],
    task: str | None,
) -> Orphans:
    """Lock the own ones of `candidates`, or else one that fits and is abandoned."""
    intents = UploadIntents(bucket, key)
    own = [
        taken
        for orphan in candidates
        if (taken := _take_own(bucket, key, orphan, task, intents)) is not None
    ]
    intents.remove()
    resumable = next((orphan for orphan in own if fits(orphan, sizes)), None)
    others = [orphan for orphan in own if orphan is not resumable]
    if resumable is None:
        known = {orphan.upload_id for orphan in own}
        for orphan in candidates:
            is_abandoned = orphan.idle is not None and orphan.idle >= _ABANDONED_AFTER
            is_free = is_abandoned and not has_lock_file(bucket, key, orphan.upload_id)
            if is_free and orphan.upload_id not in known and fits(orphan, sizes):
                lock = UploadLock.create(bucket, key, orphan.upload_id)
                return Orphans(replace(orphan, lock=lock), others)
    return Orphans(resumable, others)


def _take_own(
    bucket: str, key: str, orphan: OrphanedUpload, task: str | None, intents: UploadIntents
) -> OrphanedUpload | None:
    """Lock an upload that a dead process of this machine, or the same task, has begun."""
    lock = UploadLock.adopt(bucket, key, orphan.upload_id)
    if lock is None and not has_lock_file(bucket, key, orphan.upload_id):
        is_intended = not orphan.parts and orphan.mark is None and intents.cover(orphan.age)
        if is_intended or _is_of(task, orphan):
            lock = UploadLock.create(bucket, key, orphan.upload_id)
    return None if lock is None else replace(orphan, lock=lock)


def _is_of(task: str | None, orphan: OrphanedUpload) -> bool:
    """Return True if an upload has the mark of `task`."""
    if task is None or orphan.mark is None:
        return False
    return orphan.mark.md5 == hashlib.md5(mark_of(task), usedforsecurity=False).hexdigest()


async def _list_parts(client: S3Client, bucket: str, key: str, upload_id: str) -> OrphanedUpload:
    """Return an upload with its parts."""
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
    is_usable = checksum is None or (checksum in COMBINABLE and kind in ("", "FULL_OBJECT"))
    idle = _seconds_between(last_modified, response.headers.get("Date", ""))
    last = parts.get(MARK_PART)
    mark = parts.pop(MARK_PART) if last is not None and last.size == MARK_SIZE else None
    return OrphanedUpload(upload_id, checksum, parts, idle=idle, mark=mark, is_usable=is_usable)


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
