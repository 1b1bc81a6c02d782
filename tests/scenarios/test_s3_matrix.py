"""One matrix of stores: sizes and names, resume, overwrite, copy and damage on each of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import ClientSession, web

from hftransfer import AsyncClient
from hftransfer.errors import DestinationError, TransferError
from hftransfer.options import RetryPolicy, S3Options, TransferOptions
from hftransfer.stores.s3.upload_lock import UploadLock
from support.s3 import Bucket, get_object, numbered_bytes, open_uploads, put_object, s3_client
from support.s3_proxy import proxy_for

STORES = ("minio", "seaweedfs", "rclone", "moto", "versitygw", "gofakes3", "s3rver")
# Those that honour If-None-Match on PutObject, and those that also prove it on a completion.
HONOURS_PUT = {"minio", "seaweedfs", "moto", "versitygw", "gofakes3"}
PROVES_COMPLETION = {"minio", "seaweedfs"}

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.parametrize("s3_server", STORES, indirect=True),
]

MIB = 1 << 20
OPTIONS = TransferOptions(
    chunk_size=5 * MIB,
    connections=4,
    retry=RetryPolicy(attempts=3, wait_initial=0.0, wait_max=0.0),
)
LARGE = numbered_bytes(11 * MIB + 3)
FILES = {
    "three chunks": LARGE,
    "one chunk": LARGE[: 5 * MIB],
    "small/a b+c.json": b"{}",
    "small/schön.bin": b"12345",
    "empty": b"",
}


def client_of(endpoint: str, *, overwrite: bool = True) -> AsyncClient:
    s3 = S3Options(endpoint_url=endpoint, overwrite=overwrite)
    return AsyncClient(replace(OPTIONS, s3=s3))


def make_files(folder: Path) -> Path:
    for name, data in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def is_equal(found: bytes, expected: bytes) -> bool:
    """Compare two objects; unlike a bare assert this shows no difference of many MiB."""
    return found == expected


async def test_sizes_and_names(bucket: Bucket, tmp_path: Path) -> None:
    """Every byte arrives, and each file was compared with a digest in both directions."""
    async with client_of(bucket.server.endpoint) as client:
        sent = await client.copy(make_files(tmp_path / "in"), f"{bucket.url}/m")
        received = await client.copy(f"{bucket.url}/m", tmp_path / "out")

    for name, data in FILES.items():
        assert is_equal((tmp_path / "out" / name).read_bytes(), data), name
    assert (sent.files, sent.verified, sent.unverified) == (5, 5, 0)
    assert (received.files, received.unverified) == (5, 0)


async def test_copies(bucket: Bucket, tmp_path: Path) -> None:
    """Within the store, or through this machine where the store does not copy."""
    async with client_of(bucket.server.endpoint) as client:
        await client.copy(make_files(tmp_path / "in"), f"{bucket.url}/from")
        report = await client.copy(f"{bucket.url}/from", f"{bucket.url}/to")

    assert report.files == 5
    backend = s3_client(bucket.server)
    for name, data in FILES.items():
        found = backend.get_object(Bucket=bucket.name, Key=f"to/{name}")["Body"].read()
        assert is_equal(found, data), name


async def test_overwrite(bucket: Bucket, tmp_path: Path) -> None:
    """An existing object is never replaced; the report says where that is not atomic."""
    files = make_files(tmp_path / "in")
    names = ("three chunks", "small/a b+c.json")
    put_object(bucket, "taken", b"theirs")
    async with client_of(bucket.server.endpoint, overwrite=False) as client:
        reports = {}
        for name in names:
            with pytest.raises(DestinationError, match="exists already"):
                await client.copy(files / name, f"{bucket.url}/taken")
            reports[name] = await client.copy(files / name, f"{bucket.url}/new/{name}")
        with pytest.raises(DestinationError, match="exists already"):
            await client.copy(f"{bucket.url}/new/{names[1]}", f"{bucket.url}/taken")

    assert get_object(bucket, "taken") == b"theirs"
    for name in names:
        assert is_equal(get_object(bucket, f"new/{name}"), FILES[name])
        assert not open_uploads(bucket, f"new/{name}")
    store = bucket.server.name
    assert reports[names[0]].non_atomic == (0 if store in PROVES_COMPLETION else 1)
    assert reports[names[1]].non_atomic == (0 if store in HONOURS_PUT else 1)


async def test_resume(bucket: Bucket, tmp_path: Path) -> None:
    """The first run after a kill succeeds, whether or not the store lists what is there."""
    (tmp_path / "in").write_bytes(LARGE)
    backend = s3_client(bucket.server)
    target = {"Bucket": bucket.name, "Key": "big"}
    upload = backend.create_multipart_upload(**target)["UploadId"]
    backend.upload_part(**target, UploadId=upload, PartNumber=1, Body=LARGE[: 5 * MIB])
    lock = UploadLock.create(bucket.name, "big", upload)
    assert lock is not None
    lock.unlock()
    async with client_of(bucket.server.endpoint) as client:
        await client.copy(tmp_path / "in", f"{bucket.url}/big")

    assert is_equal(get_object(bucket, "big"), LARGE)


async def test_damage(bucket: Bucket, tmp_path: Path) -> None:
    """A bit that flips in the first attempt to send or read an object changes no file."""
    files = {"large": LARGE, "small": b"content"}
    damaged: set[str] = set()

    async def damage(request: web.Request) -> web.StreamResponse | None:
        name = request.method + request.path + request.query.get("partNumber", "")
        is_read = request.method == "GET" and request.path.rstrip("/").count("/") > 1
        if name in damaged or not (is_read or request.method == "PUT"):
            return None
        body = bytearray(await request.read())
        if request.method == "PUT":
            body[len(body) // 2] ^= 1
        damaged.add(name)
        url = f"{bucket.server.endpoint}{request.raw_path}"
        async with (
            ClientSession(auto_decompress=False) as session,
            session.request(
                request.method, url, data=bytes(body) or None, headers=request.headers
            ) as response,
        ):
            content = bytearray(await response.read())
            if is_read and response.status < 300:
                content[len(content) // 2] ^= 1
            headers = response.headers.copy()
            for each in ("Transfer-Encoding", "Content-Length"):
                headers.popall(each, None)
            return web.Response(status=response.status, body=bytes(content), headers=headers)

    async with proxy_for(bucket, damage) as endpoint, client_of(endpoint) as client:
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
            await client.copy(tmp_path / name, f"{bucket.url}/{name}")
            assert is_equal(get_object(bucket, name), data)
            try:
                report = await client.copy(f"{bucket.url}/{name}", tmp_path / f"{name} again")
            except TransferError as error:
                pytest.fail(f"{name}: {error}")
            assert is_equal((tmp_path / f"{name} again").read_bytes(), data)
            assert report.retries > 0
