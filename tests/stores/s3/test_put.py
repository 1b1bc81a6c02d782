"""How objects are stored and read: encryption, class, stored parts, damage on the way up."""

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
from support.s3 import Bucket, s3_client
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


def client(endpoint: str, **options: Any) -> AsyncClient:
    return AsyncClient(replace(OPTIONS, s3=S3Options(endpoint_url=endpoint, **options)))


def files(folder: Path) -> Path:
    folder.mkdir()
    (folder / "large").write_bytes(os.urandom(17 * MIB))
    (folder / "small").write_bytes(b"content")
    return folder


@MOTO
async def test_encryption_and_class_reach_the_store(bucket: Bucket, tmp_path: Path) -> None:
    """Small and large objects alike are stored as the options say."""
    options = {
        "server_side_encryption": "aws:kms",
        "kms_key_id": "key-1",
        "storage_class": "STANDARD_IA",
    }
    async with client(bucket.server.endpoint, **options) as mover:
        await mover.copy(files(tmp_path / "in"), bucket.url)

    for name in ("large", "small"):
        head = s3_client(bucket.server).head_object(Bucket=bucket.name, Key=name)
        assert head["ServerSideEncryption"] == "aws:kms"
        assert head["SSEKMSKeyId"] == "key-1"
        assert head["StorageClass"] == "STANDARD_IA"


@MOTO
async def test_a_customers_key_goes_with_every_request_for_the_object(
    bucket: Bucket, tmp_path: Path
) -> None:
    """SSE-C: writing, reading, parts and HEAD need the key; listings must not get it."""
    key = base64.b64encode(b"k" * 32).decode()
    keyed: set[str] = set()
    bare: set[str] = set()

    async def see(request: web.Request) -> web.StreamResponse | None:
        has = request.headers.get("x-amz-server-side-encryption-customer-key") == key
        kind = request.method
        if "partNumber" in request.query:
            kind = "part"
        elif request.query.keys() & {"list-type", "uploads"} and kind == "GET":
            kind = "list"
        (keyed if has else bare).add(kind)
        return None

    async with proxy_for(bucket, see) as endpoint, client(endpoint, customer_key=key) as mover:
        await mover.copy(files(tmp_path / "in"), bucket.url)
        await mover.copy(bucket.url, tmp_path / "out")

    assert {"PUT", "POST", "GET", "HEAD", "part"} <= keyed
    assert bare == {"list"}
    for name in ("large", "small"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "in" / name).read_bytes()


@MINIO
async def test_ranges_follow_the_stored_parts(bucket: Bucket, tmp_path: Path) -> None:
    """An object that was stored in parts of 5 MiB is read in those, not across their borders."""
    (tmp_path / "in").write_bytes(os.urandom(47 * MIB))
    async with AsyncClient(
        replace(OPTIONS, chunk_size=5 * MIB, s3=S3Options(endpoint_url=bucket.server.endpoint))
    ) as mover:
        await mover.copy(tmp_path / "in", f"{bucket.url}/big")
    starts: set[int] = set()

    async def see(request: web.Request) -> web.StreamResponse | None:
        if asked := request.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            starts.add(int(first))
            assert int(first) // (5 * MIB) == int(last) // (5 * MIB)
        return None

    async with proxy_for(bucket, see) as endpoint, client(endpoint) as mover:
        await mover.copy(f"{bucket.url}/big", tmp_path / "out")

    assert {start for start in starts if start % (5 * MIB) == 0} == {
        5 * MIB * index for index in range(10)
    }
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()


@MINIO
async def test_damage_on_the_way_up_is_refused_by_the_store(bucket: Bucket, tmp_path: Path) -> None:
    """A body that changes on its way does not fit its checksum: it is sent again, and is right."""
    folder = files(tmp_path / "in")
    damaged: set[str] = set()

    async def damage(request: web.Request) -> web.StreamResponse | None:
        if request.method != "PUT" or "x-amz-checksum-crc32" not in request.headers:
            return None
        which = request.path + request.query.get("partNumber", "")
        if which in damaged:
            return None
        damaged.add(which)
        body = bytearray(await request.read())
        body[len(body) // 2] ^= 1
        url = f"{bucket.server.endpoint}{request.raw_path}"
        async with (
            aiohttp.ClientSession() as session,
            session.put(url, data=bytes(body), headers=request.headers) as answer,
        ):
            return web.Response(status=answer.status, body=await answer.read())

    async with proxy_for(bucket, damage) as endpoint, client(endpoint) as mover:
        report = await mover.copy(folder, bucket.url)

    assert len(damaged) == 4  # three parts and the small one
    assert report.retries >= 4
    for name in ("large", "small"):
        stored = s3_client(bucket.server).get_object(Bucket=bucket.name, Key=name)["Body"].read()
        assert stored == (folder / name).read_bytes()
