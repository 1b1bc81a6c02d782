"""`hftransfer._core.content_digest`: digests of whole contents and of their parts."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from hftransfer._core.content_digest import ContentDigest
from hftransfer.stores.s3.etags import multipart_etag


def _digests(digest: ContentDigest, content: bytes) -> list[str]:
    parts = digest.parts(len(content))
    assert b"".join(content[part.start : part.stop] for part in parts) == content
    return [hashlib.md5(content[part.start : part.stop]).hexdigest() for part in parts]


@given(content=st.binary(max_size=40), other=st.binary(max_size=40))
def test_a_whole_content_is_hashed_as_one_part(content: bytes, other: bytes) -> None:
    """Also an empty one."""
    digest = ContentDigest("md5", hashlib.md5(content).hexdigest())

    assert digest.matches(_digests(digest, content))
    assert digest.matches(_digests(digest, other)) == (content == other)


@given(
    content=st.binary(min_size=1, max_size=40),
    other=st.binary(min_size=1, max_size=40),
    part_size=st.integers(1, 50),
)
def test_the_digest_of_parts_is_that_of_a_multipart_object(
    content: bytes, other: bytes, part_size: int
) -> None:
    """The reference is the ETag that S3 makes of the parts' ETags."""
    pieces = [content[start : start + part_size] for start in range(0, len(content), part_size)]
    etag = multipart_etag([hashlib.md5(piece).hexdigest() for piece in pieces])
    assert etag is not None
    digest = ContentDigest("md5", etag.partition("-")[0], part_size)

    assert digest.matches(_digests(digest, content))
    assert digest.matches(_digests(digest, other)) == (content == other)
