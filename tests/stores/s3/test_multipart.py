"""Multipart uploads, from `MultipartUpload` down to the requests: creation, abort, completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from aiohttp import web
from botocore.exceptions import ClientError

from hftransfer._core.plan import Chunk, plan_chunks
from hftransfer.errors import IntegrityError, ThrottledError, UnsupportedError
from hftransfer.locations import S3Location
from hftransfer.options import RetryPolicy, S3Options, TransferOptions
from hftransfer.stores.base import FileSink, Sink
from hftransfer.stores.s3.client import S3Client
from hftransfer.stores.s3.store import S3Sink
from support.s3 import Bucket, get_object, numbered_bytes, open_uploads, put_object, s3_client
from support.s3_files import PART, manifest_of, open_file, upload, write
from support.s3_proxy import proxy_for, xml_error

pytestmark = pytest.mark.asyncio

ATTEMPTS = 3
OPTIONS = TransferOptions(
    connections=4, retry=RetryPolicy(attempts=ATTEMPTS, wait_initial=0.0, wait_max=0.0)
)


def client_of(bucket: Bucket, *, endpoint: str | None = None) -> S3Client:
    return S3Client(S3Options(endpoint_url=endpoint or bucket.server.endpoint), OPTIONS)


def is_completion(request: web.Request) -> bool:
    return request.method == "POST" and "uploadId" in request.query


# --- open, write, commit, abort


async def test_the_object_appears_when_it_is_committed(bucket: Bucket) -> None:
    """Before `commit` the key is absent; after it no upload is open, and `abort` has no effect."""
    data = numbered_bytes(2 * PART + 1)
    async with client_of(bucket) as client:
        sink = S3Sink(client, S3Location(bucket.name, "m"))
        file = await open_file(sink, "w.bin", len(data))
        for chunk in reversed(plan_chunks(len(data), PART)):
            await write(file, chunk, data)
            await write(file, chunk, data)  # as the engine's retry of a chunk does
        with pytest.raises(ClientError, match="NoSuchKey"):
            get_object(bucket, "m/w.bin")
        await file.commit(manifest_of(data))
        await file.abort(discard=False)

    assert get_object(bucket, "m/w.bin") == data
    assert not open_uploads(bucket, "m/w.bin")


async def test_abort_leaves_nothing_at_the_store(bucket: Bucket) -> None:
    """Neither an object nor an open multipart upload remains."""
    data = numbered_bytes(2 * PART)
    async with client_of(bucket) as client:
        file = await open_file(S3Sink(client, S3Location(bucket.name)), "w.bin", len(data))
        await write(file, Chunk(0, 0, PART), data)
        assert len(open_uploads(bucket, "w.bin")) == 1
        await file.abort(discard=False)

    assert not open_uploads(bucket, "w.bin")
    with pytest.raises(ClientError, match="NoSuchKey"):
        get_object(bucket, "w.bin")


async def test_an_upload_without_all_parts_is_not_completed(bucket: Bucket) -> None:
    """`commit` raises instead of publishing a shorter object."""
    data = numbered_bytes(2 * PART)
    async with client_of(bucket) as client:
        file = await open_file(S3Sink(client, S3Location(bucket.name)), "w.bin", len(data))
        await write(file, Chunk(1, PART, 2 * PART), data)
        with pytest.raises(IntegrityError, match="1 of 2 parts"):
            await file.commit(manifest_of(data))
        await file.abort(discard=True)

    assert not open_uploads(bucket, "w.bin")


@pytest.mark.parametrize("size", [8, 2 * PART], ids=["PUT", "multipart"])
async def test_chunks_cannot_be_read_back(bucket: Bucket, size: int) -> None:
    """No upload offers chunks to the engine, and asking for one is an error."""
    async with client_of(bucket) as client:
        file = await open_file(S3Sink(client, S3Location(bucket.name)), "w", size)

        assert dict(file.resumable_chunks) == {}
        with pytest.raises(UnsupportedError):
            await file.read_into(Chunk(0, 0, 8), memoryview(bytearray(8)))
        await file.abort(discard=True)


async def test_cancellation_while_the_upload_is_created(bucket: Bucket) -> None:
    """The response with the upload's id is still received, so that the upload can be aborted."""
    created = anyio.Event()
    cancelled = anyio.Event()
    opened: list[FileSink] = []

    async def hold(request: web.Request) -> web.StreamResponse | None:
        if request.method == "POST" and "uploads" in request.query:
            created.set()
            await cancelled.wait()
        return None

    async def begin(sink: Sink) -> None:
        opened.append(await open_file(sink, "w.bin", 2 * PART))

    async with (
        proxy_for(bucket, hold) as endpoint,
        client_of(bucket, endpoint=endpoint) as client,
    ):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(begin, S3Sink(client, S3Location(bucket.name)))
            await created.wait()
            tasks.cancel_scope.cancel()
            cancelled.set()
        assert len(open_uploads(bucket, "w.bin")) == 1
        await opened[0].abort(discard=False)
    assert not open_uploads(bucket, "w.bin")


# --- completion


async def test_an_error_document_in_a_200_is_an_error(bucket: Bucket) -> None:
    """S3 may fail after it has sent the status; the retry completes the upload."""
    data = numbered_bytes(2 * PART)
    completions = 0

    async def fail_first(request: web.Request) -> web.StreamResponse | None:
        nonlocal completions
        if is_completion(request):
            completions += 1
            if completions == 1:
                return xml_error(200, "InternalError")
        return None

    async with (
        proxy_for(bucket, fail_first) as endpoint,
        client_of(bucket, endpoint=endpoint) as client,
    ):
        await upload(S3Sink(client, S3Location(bucket.name)), "w.bin", data)
    assert completions == 2
    assert get_object(bucket, "w.bin") == data


def complete_behind_the_client(bucket: Bucket, upload_id: str) -> None:
    """Complete the upload of ``w.bin`` with all of its parts."""
    backend = s3_client(bucket.server)
    target = {"Bucket": bucket.name, "Key": "w.bin", "UploadId": upload_id}
    fields = ("PartNumber", "ETag", "ChecksumCRC32", "ChecksumCRC64NVME")
    parts: Sequence[Any] = [
        {name: part[name] for name in fields if name in part}
        for part in backend.list_parts(**target)["Parts"]
    ]
    backend.complete_multipart_upload(**target, MultipartUpload={"Parts": parts})


@pytest.mark.parametrize("was_completed", [True, False])
async def test_the_response_to_a_completion_is_lost(bucket: Bucket, was_completed: bool) -> None:
    """After NoSuchUpload the upload counts as completed only if the object has these parts."""
    data = numbered_bytes(2 * PART)

    async def lose_response(request: web.Request) -> web.StreamResponse | None:
        if not is_completion(request):
            return None
        if was_completed:
            complete_behind_the_client(bucket, request.query["uploadId"])
        return xml_error(404, "NoSuchUpload")

    put_object(bucket, "w.bin", data)  # the same bytes, but not from these parts
    async with (
        proxy_for(bucket, lose_response) as endpoint,
        client_of(bucket, endpoint=endpoint) as client,
    ):
        sink = S3Sink(client, S3Location(bucket.name))
        if was_completed:
            await upload(sink, "w.bin", data)
        else:
            with pytest.raises(IntegrityError, match="multipart upload is gone"):
                await upload(sink, "w.bin", data)
    assert get_object(bucket, "w.bin") == data


@pytest.mark.parametrize("s3_server", ["minio"], indirect=True)
async def test_the_check_after_a_lost_response_is_retried_on_one_level(bucket: Bucket) -> None:
    """Each attempt is one completion and one HEAD; the HEAD has no retries of its own."""
    data = numbered_bytes(2 * PART)
    sent: list[str] = []

    async def fail(request: web.Request) -> web.StreamResponse | None:
        if is_completion(request):
            sent.append("complete")
            return xml_error(404, "NoSuchUpload")
        if request.method == "HEAD":
            sent.append("head")
            return web.Response(status=503)
        return None

    async with (
        proxy_for(bucket, fail) as endpoint,
        client_of(bucket, endpoint=endpoint) as client,
    ):
        with pytest.raises(ThrottledError, match=f"gave up after {ATTEMPTS} attempts"):
            await upload(S3Sink(client, S3Location(bucket.name)), "w.bin", data)

    assert sent == ["complete", "head"] * ATTEMPTS


async def test_an_object_of_another_size_is_an_error(bucket: Bucket) -> None:
    """If the store verifies no checksum, the object's size is compared after the completion."""

    async def shrink(request: web.Request) -> web.StreamResponse | None:
        if request.method == "HEAD":
            return web.Response(headers={"Content-Length": "7", "ETag": '"x"'})
        if any("checksum" in name.lower() for name in request.headers):
            return xml_error(400, "InvalidArgument")
        return None

    async with (
        proxy_for(bucket, shrink) as endpoint,
        client_of(bucket, endpoint=endpoint) as client,
    ):
        with pytest.raises(IntegrityError, match="7 bytes"):
            await upload(S3Sink(client, S3Location(bucket.name)), "w.bin", numbered_bytes(2 * PART))
