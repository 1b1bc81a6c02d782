"""How objects are stored and read: encryption, storage class, part borders, damaged bodies."""

from __future__ import annotations

import base64
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from hftransfer import AsyncClient
from hftransfer.options import RetryPolicy, S3Options, TransferOptions
from support.s3 import Bucket, get_object, s3_client
from support.s3_proxy import proxy_for

pytestmark = pytest.mark.asyncio
MINIO = pytest.mark.parametrize("s3_server", ["minio"], indirect=True)
MOTO = pytest.mark.parametrize("s3_server", ["moto"], indirect=True)

MIB = 1 << 20
OPTIONS = TransferOptions(
    chunk_size=8 * MIB,
    connections=4,
    retry=RetryPolicy(attempts=3, wait_initial=0.0, wait_max=0.0),
)


def client_of(endpoint: str, **options: Any) -> AsyncClient:
    return AsyncClient(replace(OPTIONS, s3=S3Options(endpoint_url=endpoint, **options)))


def make_files(folder: Path) -> Path:
    """Create a folder with a file of three chunks and one of one chunk."""
    folder.mkdir()
    (folder / "large").write_bytes(os.urandom(17 * MIB))
    (folder / "small").write_bytes(b"content")
    return folder


@MOTO
async def test_encryption_and_storage_class_reach_the_store(bucket: Bucket, tmp_path: Path) -> None:
    """Objects of one PUT and of a multipart upload are stored as the options demand."""
    options = {
        "server_side_encryption": "aws:kms",
        "kms_key_id": "key-1",
        "storage_class": "STANDARD_IA",
    }
    async with client_of(bucket.server.endpoint, **options) as client:
        await client.copy(make_files(tmp_path / "in"), bucket.url)

    for name in ("large", "small"):
        head = s3_client(bucket.server).head_object(Bucket=bucket.name, Key=name)
        assert head["ServerSideEncryption"] == "aws:kms"
        assert head["SSEKMSKeyId"] == "key-1"
        assert head["StorageClass"] == "STANDARD_IA"


@MOTO
async def test_a_customer_key_is_sent_with_every_request_for_the_object(
    bucket: Bucket, tmp_path: Path
) -> None:
    """SSE-C: PUT, parts, GET and HEAD need the key; listings must not carry it."""
    key = base64.b64encode(b"k" * 32).decode()
    with_key: set[str] = set()
    without_key: set[str] = set()

    async def record(request: web.Request) -> web.StreamResponse | None:
        has_key = request.headers.get("x-amz-server-side-encryption-customer-key") == key
        kind = request.method
        if "partNumber" in request.query:
            kind = "part"
        elif request.query.keys() & {"list-type", "uploads"} and kind == "GET":
            kind = "list"
        (with_key if has_key else without_key).add(kind)
        return None

    async with (
        proxy_for(bucket, record) as endpoint,
        client_of(endpoint, customer_key=key) as client,
    ):
        await client.copy(make_files(tmp_path / "in"), bucket.url)
        await client.copy(bucket.url, tmp_path / "out")

    assert {"PUT", "POST", "GET", "HEAD", "part"} <= with_key
    assert without_key == {"list"}
    for name in ("large", "small"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "in" / name).read_bytes()


@MINIO
async def test_ranges_do_not_cross_borders_of_stored_parts(bucket: Bucket, tmp_path: Path) -> None:
    """An object that was stored in parts of 5 MiB is read in ranges of these parts."""
    (tmp_path / "in").write_bytes(os.urandom(47 * MIB))
    async with AsyncClient(
        replace(OPTIONS, chunk_size=5 * MIB, s3=S3Options(endpoint_url=bucket.server.endpoint))
    ) as client:
        await client.copy(tmp_path / "in", f"{bucket.url}/big")
    ranges: set[tuple[int, int]] = set()

    async def record(request: web.Request) -> web.StreamResponse | None:
        if header := request.headers.get("Range"):
            first, _, last = header.removeprefix("bytes=").partition("-")
            ranges.add((int(first), int(last)))
        return None

    async with proxy_for(bucket, record) as endpoint, client_of(endpoint) as client:
        await client.copy(f"{bucket.url}/big", tmp_path / "out")

    part = 5 * MIB
    assert {first for first, _ in ranges if first % part == 0} == {
        part * index for index in range(10)
    }
    assert [(first, last) for first, last in ranges if first // part != last // part] == []
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()


@MINIO
async def test_a_damaged_body_is_rejected_by_the_store(bucket: Bucket, tmp_path: Path) -> None:
    """Its checksum does not match, so it is sent again, and the object is right."""
    folder = make_files(tmp_path / "in")
    damaged: set[str] = set()

    async def damage(request: web.Request) -> web.StreamResponse | None:
        if request.method != "PUT" or "x-amz-checksum-crc32" not in request.headers:
            return None
        part = request.path + request.query.get("partNumber", "")
        if part in damaged:
            return None
        damaged.add(part)
        body = bytearray(await request.read())
        body[len(body) // 2] ^= 1
        url = f"{bucket.server.endpoint}{request.raw_path}"
        async with (
            aiohttp.ClientSession() as session,
            session.put(url, data=bytes(body), headers=request.headers) as response,
        ):
            return web.Response(status=response.status, body=await response.read())

    async with proxy_for(bucket, damage) as endpoint, client_of(endpoint) as client:
        report = await client.copy(folder, bucket.url)

    assert len(damaged) == 4  # three parts of the large object, and the small object
    assert report.retries >= 4
    for name in ("large", "small"):
        assert get_object(bucket, name) == (folder / name).read_bytes()
