"""ETags that are MD5s: of an object or part, and of an object made of parts. No I/O.

https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

__all__ = ("etag_md5", "multipart_etag", "parts_count")

_MD5 = re.compile(r'"?([0-9a-f]{32})"?')
_MD5_OF_PARTS = re.compile(r'"?[0-9a-f]{32}-([1-9]\d{0,4})"?')


def etag_md5(etag: str) -> str | None:
    """Return the MD5 in hex that `etag` is, or None if it has another form."""
    matched = _MD5.fullmatch(etag)
    return None if matched is None else matched[1]


def parts_count(etag: str) -> int | None:
    """Return the number of parts that the ETag of a multipart object states, or None."""
    matched = _MD5_OF_PARTS.fullmatch(etag)
    return None if matched is None else int(matched[1])


def multipart_etag(parts: Sequence[str]) -> str | None:
    """Return the ETag, without quotes, of the object that is made of `parts`.

    It is the MD5 of the parts' MD5s, followed by their number.

    Args:
        parts: ETags of the parts in order.

    Returns:
        None if an ETag of a part is not an MD5, as with SSE-KMS.
    """
    joined = hashlib.md5(usedforsecurity=False)
    for part in parts:
        md5 = etag_md5(part)
        if md5 is None:
            return None
        joined.update(bytes.fromhex(md5))
    return f"{joined.hexdigest()}-{len(parts)}"
