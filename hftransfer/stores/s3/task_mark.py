"""The mark of a task on its multipart uploads, by which its restart on another machine knows them.

S3 keeps no readable data with an upload in progress, but lists the MD5 of each part. So an upload
of a client with `TransferOptions.task` gets one more part, whose content is derived from the name
of the task: the restarted task knows that content, and so its MD5. The part is not named when
the upload is completed, so that the store discards it, and it is the last possible one, so that it
takes no number that a file needs. It may be small: the limit of 5 MiB holds for the parts of the
object (https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html).
"""

from __future__ import annotations

import hashlib

from hftransfer.stores.s3.target import PART_LIMITS

__all__ = ("MARK_PART", "MARK_SIZE", "mark_of")

MARK_PART = PART_LIMITS.count
"""Number of the part that carries the mark."""


def mark_of(task: str) -> bytes:
    """Return the content of the part: of one length for all tasks."""
    return f"hftransfer task {hashlib.sha256(task.encode()).hexdigest()}\n".encode()


MARK_SIZE = len(mark_of(""))
"""Bytes of a mark. A file with a part of that number and size is practically excluded."""
