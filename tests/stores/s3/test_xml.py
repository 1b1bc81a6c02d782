"""`hftransfer.stores.s3.xml`: documents that are parsed and written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftransfer.errors import ServerError
from hftransfer.stores.s3.xml import complete_body, element, parse_list, records

LISTING = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
<IsTruncated>true</IsTruncated><NextContinuationToken>a+b/c=</NextContinuationToken>%s
<Contents><Key>p/a%%20b%%2Bc+d</Key><Size>7</Size><ETag>&quot;e&quot;</ETag>
<Owner><ID>x</ID></Owner></Contents><CommonPrefixes><Prefix>p/q/</Prefix></CommonPrefixes>
</ListBucketResult>"""


@pytest.mark.parametrize(
    ("encoding", "key"),
    [(b"<EncodingType>url</EncodingType>", "p/a b+c d"), (b"", "p/a%20b%2Bc+d")],
    ids=["encoded", "not encoded"],
)
def test_keys_are_decoded_if_the_server_encoded_them(encoding: bytes, key: str) -> None:
    """A server that ignores ``encoding-type=url`` sends keys as they are."""
    page = parse_list(LISTING % encoding)

    assert [(listed.key, listed.size, listed.etag) for listed in page.objects] == [(key, 7, '"e"')]
    assert page.next_token == "a+b/c="


def test_the_last_page_has_no_token() -> None:
    """The token of a page that is not truncated is ignored."""
    assert parse_list(LISTING.replace(b"true", b"false") % b"").next_token is None


@pytest.mark.parametrize(
    "body",
    [b"", b"<html><br></html>", b"<L><Contents><Key>k</Key></Contents></L>"],
    ids=["empty", "not XML", "no size"],
)
def test_an_invalid_listing_is_a_server_error(body: bytes) -> None:
    """It is retried, and never taken for an empty folder."""
    with pytest.raises(ServerError):
        parse_list(body)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"])), min_size=1))
def test_completion_documents_keep_every_etag(etags: list[str]) -> None:
    """An XML parser reads the same rows from the document that were written."""
    rows = [{"PartNumber": str(i), "ETag": etag} for i, etag in enumerate(etags, 1)]

    assert [dict(row) for row in records(complete_body(rows), "Part")] == rows


def test_elements_of_a_truncated_document_are_found() -> None:
    """A complete element is read from a document that is cut off; a cut element is not."""
    assert element("<Error><Code> Slow&amp;Down </Code><Mess", "Code") == "Slow&Down"
    assert element("<Error><Code>Slow", "Code") == ""
