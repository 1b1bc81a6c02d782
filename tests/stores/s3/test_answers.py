"""Servers that are no S3 stores, and answer 200 to everything."""

from __future__ import annotations

from pathlib import Path

import pytest

from hftransfer.errors import RejectedError, Response, ServerError, TransferError
from hftransfer.locations import S3Location
from hftransfer.options import S3Options
from hftransfer.stores.base import Entry
from hftransfer.stores.s3.answers import check_document, foreign_answer, required_etag
from hftransfer.stores.s3.client import S3Client
from hftransfer.stores.s3.copy import ServerCopy
from hftransfer.stores.s3.store import S3Sink
from support.s3_files import PART, upload
from support.scripted_s3 import OPTIONS, SMALL, client_of, running


@pytest.mark.asyncio
async def test_a_web_server_accepts_no_upload(tmp_path: Path) -> None:
    """Before any byte is sent the error names what answered."""
    (tmp_path / "in").write_bytes(SMALL)
    with running(web_server=True) as store:
        async with client_of(store) as client:
            local, remote, other = str(tmp_path / "in"), "s3://bkt/x", str(tmp_path / "o")
            for source, target in [(local, remote), (remote, other)]:
                with pytest.raises(RejectedError) as caught:
                    await client.copy(source, target)
                assert "not an S3 store: GET" in str(caught.value)
                assert "the server 'nginx' with 200, content type 'text/html'" in str(caught.value)
        assert len(store.requests) == 2
    assert not (tmp_path / "o").exists()


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [0, 7, 2 * PART])
async def test_a_put_needs_an_etag(size: int) -> None:
    """Each request of an upload is checked, not only the listing before it."""
    with running(web_server=True) as store:
        options = S3Options(endpoint_url=store.endpoint, access_key_id="a", secret_access_key="s")
        async with S3Client(options, OPTIONS) as client:
            with pytest.raises(RejectedError, match="not an S3 store"):
                await upload(S3Sink(client, S3Location("bkt", "m")), "f", bytes(size))


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [7, 2 * PART])
async def test_an_etag_is_missing(size: int) -> None:
    """A store that answers 200 without an ETag has proven nothing."""
    with running(etags="none") as store:
        options = S3Options(endpoint_url=store.endpoint, access_key_id="a", secret_access_key="s")
        async with S3Client(options, OPTIONS) as client:
            with pytest.raises(RejectedError, match="PUT .* without an ETag"):
                await upload(S3Sink(client, S3Location("bkt", "m")), "f", bytes(size))
        assert store.open_uploads() != [] or size == 7  # the engine aborts it


@pytest.mark.asyncio
async def test_a_head_of_a_page_is_no_object() -> None:
    """With ``overwrite=False`` the page is not an object that exists."""
    with running(web_server=True) as store:
        options = S3Options(
            endpoint_url=store.endpoint, access_key_id="a", secret_access_key="s", overwrite=False
        )
        async with S3Client(options, OPTIONS) as client:
            with pytest.raises(RejectedError, match="HEAD .* without an ETag"):
                await ServerCopy(client).copy(
                    ("bkt", "a"), ("bkt", "b"), Entry(path="a", size=1, etag='"e"')
                )


def answer(body: bytes, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response("PUT", "https://user:secret@h/b/k?X-Amz-Signature=secret", 200, named, body)


def test_the_error_names_no_secret() -> None:
    """Neither the user and password of the URL, nor its query, nor a header of many lines."""
    error = foreign_answer(answer(b"", Server="a\nb", Content_Type="text/html; x"), "k", "an ETag")

    assert "PUT https://h/b/k?… was answered by an unnamed server with 200" in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"<R/>", None),
        (b'<?xml version="1.0"?>\n<!-- x --><R xmlns="n"><A/></R>', None),
        (b"\xef\xbb\xbf  \n<s3:R>", None),
        (b"<R", RejectedError),
        (b"<html><R/></html>", RejectedError),
        (b"<!doctype html><html></html>", RejectedError),
        (b'{"R": 1}', RejectedError),
        (b"   ", ServerError),
        (b"", ServerError),
        (b"<Error><Code>InternalError</Code></Error>", ServerError),
    ],
)
def test_a_document_is_known_by_its_root(body: bytes, expected: type[TransferError] | None) -> None:
    """Only the first element counts; an empty body is a failure after the status was sent."""
    if expected is None:
        check_document(answer(body), "R", "k")
        return
    with pytest.raises(expected):
        check_document(answer(body), "R", "k")


def test_an_etag_is_required() -> None:
    """An error document says more than that it is missing."""
    assert required_etag(answer(b"", ETag='"e"'), "k") == '"e"'
    with pytest.raises(RejectedError, match="without an ETag"):
        required_etag(answer(b"", ETag='""'), "k")
    with pytest.raises(ServerError):
        required_etag(answer(b"<Error><Code>InternalError</Code></Error>"), "k")
