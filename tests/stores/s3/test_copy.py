"""Copies from S3 to S3, by the store or through this machine, and from the Hub to S3."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from hftransfer import AsyncClient
from hftransfer.errors import DestinationError, SourceChangedError, UnsupportedError
from hftransfer.options import RetryPolicy, S3Options, TransferOptions
from hftransfer.stores.base import Entry
from hftransfer.stores.s3.client import S3Client
from hftransfer.stores.s3.copy import ServerCopy
from hftransfer.testing import HubServer, RandomFile
from support.s3 import Bucket, get_object, open_uploads, put_object, s3_client
from support.s3_proxy import proxy_for, xml_error

pytestmark = pytest.mark.asyncio
EVERY_SERVER = pytest.mark.parametrize(
    "s3_server", ["minio", "seaweedfs", "rclone", "moto"], indirect=True
)
MINIO = pytest.mark.parametrize("s3_server", ["minio"], indirect=True)

MIB = 1 << 20
OPTIONS = TransferOptions(
    chunk_size=5 * MIB,
    connections=4,
    retry=RetryPolicy(attempts=3, wait_initial=0.0, wait_max=0.0),
)


def client_of(endpoint: str, *, overwrite: bool = True) -> AsyncClient:
    s3 = S3Options(endpoint_url=endpoint, overwrite=overwrite)
    return AsyncClient(replace(OPTIONS, s3=s3))


@EVERY_SERVER
async def test_the_store_copies_objects(bucket: Bucket) -> None:
    """No byte of an object is read or sent by the client; type and metadata are copied, too."""
    files = {"a b+c.json": b"{}", "sub/b": b"12345", "empty": b""}
    for name, data in files.items():
        put_object(
            bucket, f"from/{name}", data, ContentType="text/x-own", Metadata={"note": "kept"}
        )
    puts: list[str] = []

    async def record(request: web.Request) -> web.StreamResponse | None:
        if request.method == "PUT":
            puts.append("copied" if "x-amz-copy-source" in request.headers else "sent")
        return None

    async with proxy_for(bucket, record) as endpoint, client_of(endpoint) as client:
        report = await client.copy(f"{bucket.url}/from", [f"{bucket.url}/to", f"{bucket.url}/too"])

    assert puts == ["copied"] * 6
    assert (report.files, report.bytes, report.server_side_bytes) == (3, 0, 14)
    for name, data in files.items():
        for folder in ("to", "too"):
            assert get_object(bucket, f"{folder}/{name}") == data
    head = s3_client(bucket.server).head_object(Bucket=bucket.name, Key="to/sub/b")
    assert head["ContentType"] == "text/x-own"
    kept = {name.lower(): value for name, value in head["Metadata"].items()}
    assert kept.get("note") == "kept"


@EVERY_SERVER
async def test_a_large_object_is_copied_in_parts(bucket: Bucket) -> None:
    """Above the size of a single copy, ranges of the object are copied concurrently."""
    data = os.urandom(11 * MIB + 7)
    put_object(bucket, "big", data)
    etag = s3_client(bucket.server).head_object(Bucket=bucket.name, Key="big")["ETag"]
    async with S3Client(S3Options(endpoint_url=bucket.server.endpoint), OPTIONS) as client:
        copier = ServerCopy(client, single=5 * MIB, part=5 * MIB)
        entry = Entry(path="big", size=len(data), etag=etag)
        if bucket.server.name == "rclone":  # ignores the copy source and stores an empty part
            with pytest.raises(UnsupportedError, match="does not copy"):
                await copier.copy((bucket.name, "big"), (bucket.name, "copy"), entry)
        else:
            await copier.copy((bucket.name, "big"), (bucket.name, "copy"), entry)
            assert get_object(bucket, "copy") == data

    assert not open_uploads(bucket, "copy")


@MINIO
@pytest.mark.parametrize("single", [0, 100 * MIB], ids=["in parts", "single"])
async def test_a_replaced_object_is_not_copied(bucket: Bucket, single: int) -> None:
    """Each request names the listed version; no object and no open upload remains."""
    put_object(bucket, "big", os.urandom(11 * MIB))
    async with S3Client(S3Options(endpoint_url=bucket.server.endpoint), OPTIONS) as client:
        copier = ServerCopy(client, single=single, part=5 * MIB)
        entry = Entry(path="big", size=11 * MIB, etag='"0123456789abcdef0123456789abcdef"')
        with pytest.raises(SourceChangedError, match="replaced"):
            await copier.copy((bucket.name, "big"), (bucket.name, "copy"), entry)
        deleted = replace(entry, etag=None)
        with pytest.raises(SourceChangedError, match="deleted"):
            await copier.copy((bucket.name, "gone"), (bucket.name, "copy"), deleted)

    listed = s3_client(bucket.server).list_objects_v2(Bucket=bucket.name)["Contents"]
    assert [each["Key"] for each in listed] == ["big"]
    assert not open_uploads(bucket, "copy")


@MINIO
async def test_without_copy_support_the_bytes_are_transferred(bucket: Bucket) -> None:
    """If the store rejects CopyObject, the client reads and writes the objects."""
    data = os.urandom(11 * MIB)
    put_object(bucket, "from/big", data, Metadata={"note": "kept"})
    put_object(bucket, "from/small", b"x")

    async def reject(request: web.Request) -> web.StreamResponse | None:
        is_copy = "x-amz-copy-source" in request.headers
        return xml_error(501, "NotImplemented") if is_copy else None

    async with proxy_for(bucket, reject) as endpoint, client_of(endpoint) as client:
        report = await client.copy(f"{bucket.url}/from", f"{bucket.url}/to")

    assert (report.files, report.bytes, report.server_side_bytes) == (2, 11 * MIB + 1, 0)
    assert get_object(bucket, "to/big") == data
    head = s3_client(bucket.server).head_object(Bucket=bucket.name, Key="to/big")
    assert head["Metadata"]["note"] == "kept"


@MINIO
async def test_an_error_document_in_a_200_is_an_error_of_the_copy(bucket: Bucket) -> None:
    """S3 may fail after it has sent the status; the retry copies the object."""
    put_object(bucket, "a", b"content")
    tries = 0

    async def fail_first(request: web.Request) -> web.StreamResponse | None:
        nonlocal tries
        if "x-amz-copy-source" not in request.headers:
            return None
        tries += 1
        return xml_error(200, "InternalError") if tries == 1 else None

    async with proxy_for(bucket, fail_first) as endpoint, client_of(endpoint) as client:
        await client.copy(f"{bucket.url}/a", f"{bucket.url}/b")

    assert tries == 2
    assert get_object(bucket, "b") == b"content"


@MINIO
async def test_an_object_is_read_once_for_disk_and_s3(bucket: Bucket, tmp_path: Path) -> None:
    """With a folder among the destinations the bytes are read, and then sent to S3 as well."""
    put_object(bucket, "from/a", b"content")
    reads: list[str] = []

    async def record(request: web.Request) -> web.StreamResponse | None:
        if request.method == "GET" and request.path.endswith("/a"):
            reads.append(request.path)
        return None

    async with proxy_for(bucket, record) as endpoint, client_of(endpoint) as client:
        await client.copy(f"{bucket.url}/from", [tmp_path / "out", f"{bucket.url}/to"])

    assert len(reads) == 1
    assert (tmp_path / "out" / "a").read_bytes() == b"content"
    assert get_object(bucket, "to/a") == b"content"


@MINIO
async def test_a_copy_does_not_replace_an_object_without_overwrite(bucket: Bucket) -> None:
    """``overwrite=False`` also applies to copies within the store."""
    put_object(bucket, "a", b"content")
    put_object(bucket, "b", b"old")
    async with client_of(bucket.server.endpoint, overwrite=False) as client:
        with pytest.raises(DestinationError, match="exists already"):
            await client.copy(f"{bucket.url}/a", f"{bucket.url}/b")

    assert get_object(bucket, "b") == b"old"


@MINIO
async def test_from_the_hub_to_s3_nothing_is_written_to_disk(
    bucket: Bucket, hub: HubServer, tmp_path: Path
) -> None:
    """A process that cannot write files transfers a repository: chunks become parts in memory."""
    big = RandomFile(12 * MIB, seed=5)
    hub.create_repo("acme/m", files={"config.json": b"{}", "w.safetensors": big})
    command = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "from hftransfer.cli import main\n"
        f"sys.exit(main(['cp', '--json', 'hf://acme/m', '{bucket.url}/m']))\n"
    )
    finished = await anyio.run_process(
        [sys.executable, "-B", "-c", command], env={**os.environ, **hub.environ()}, check=False
    )

    assert finished.returncode == 0, finished.stderr
    report = json.loads(finished.stdout)
    assert report["bytes"] == 12 * MIB + 2
    assert get_object(bucket, "m/w.safetensors") == b"".join(big.blocks())
    assert get_object(bucket, "m/config.json") == b"{}"
