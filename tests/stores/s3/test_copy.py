"""From S3 to S3, and from the Hub to S3: which bytes move, and which need not."""

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
from support.s3 import Bucket, s3_client
from support.s3_proxy import proxy_for, xml_error

pytestmark = pytest.mark.asyncio
EVERYWHERE = pytest.mark.parametrize(
    "s3_server", ["minio", "seaweedfs", "rclone", "moto"], indirect=True
)
MINIO = pytest.mark.parametrize("s3_server", ["minio"], indirect=True)

MIB = 1 << 20
OPTIONS = TransferOptions(
    chunk_size=5 * MIB,
    connections=4,
    retry=RetryPolicy(attempts=3, wait_initial=0.0, wait_max=0.0),
)


def client(endpoint: str, *, overwrite: bool = True) -> AsyncClient:
    s3 = S3Options(endpoint_url=endpoint, overwrite=overwrite)
    return AsyncClient(replace(OPTIONS, s3=s3))


def put(bucket: Bucket, key: str, data: bytes, **more: object) -> None:
    s3_client(bucket.server).put_object(Bucket=bucket.name, Key=key, Body=data, **more)


def get(bucket: Bucket, key: str) -> bytes:
    body = s3_client(bucket.server).get_object(Bucket=bucket.name, Key=key)["Body"].read()
    assert isinstance(body, bytes)
    return body


@EVERYWHERE
async def test_the_store_copies_by_itself(bucket: Bucket) -> None:
    """Not a byte of an object is read or sent, and type and metadata go along."""
    files = {"a b+c.json": b"{}", "sub/b": b"12345", "empty": b""}
    for name, data in files.items():
        put(bucket, f"from/{name}", data, ContentType="text/x-own", Metadata={"note": "kept"})
    seen: list[str] = []

    async def see(request: web.Request) -> web.StreamResponse | None:
        if request.method == "PUT":
            seen.append("copied" if "x-amz-copy-source" in request.headers else "sent")
        return None

    async with proxy_for(bucket, see) as endpoint, client(endpoint) as mover:
        report = await mover.copy(f"{bucket.url}/from", [f"{bucket.url}/to", f"{bucket.url}/too"])

    assert seen == ["copied"] * 6
    assert (report.files, report.bytes, report.server_side_bytes) == (3, 0, 14)
    for name, data in files.items():
        for folder in ("to", "too"):
            assert get(bucket, f"{folder}/{name}") == data
    head = s3_client(bucket.server).head_object(Bucket=bucket.name, Key="to/sub/b")
    assert head["ContentType"] == "text/x-own"
    kept = {name.lower(): value for name, value in head["Metadata"].items()}
    assert kept.get("note") == "kept"


@EVERYWHERE
async def test_a_large_object_is_copied_in_parts(bucket: Bucket) -> None:
    """Above one request's worth, stretches of the object are copied side by side."""
    data = os.urandom(11 * MIB + 7)
    put(bucket, "big", data)
    etag = s3_client(bucket.server).head_object(Bucket=bucket.name, Key="big")["ETag"]
    async with S3Client(S3Options(endpoint_url=bucket.server.endpoint), OPTIONS) as session:
        copier = ServerCopy(session, single=5 * MIB, part=5 * MIB)
        entry = Entry(path="big", size=len(data), etag=etag)
        if bucket.server.name == "rclone":  # takes the request for an empty part
            with pytest.raises(UnsupportedError, match="does not copy"):
                await copier.copy((bucket.name, "big"), (bucket.name, "copy"), entry)
        else:
            await copier.copy((bucket.name, "big"), (bucket.name, "copy"), entry)
            assert get(bucket, "copy") == data

    assert (
        not s3_client(bucket.server)
        .list_multipart_uploads(Bucket=bucket.name, Prefix="copy")
        .get("Uploads")
    )


@MINIO
@pytest.mark.parametrize("single", [0, 100 * MIB])
async def test_a_replaced_object_is_not_copied(bucket: Bucket, single: int) -> None:
    """Each request names the listed version; nothing of another one gets a name, nor stays open."""
    put(bucket, "big", os.urandom(11 * MIB))
    async with S3Client(S3Options(endpoint_url=bucket.server.endpoint), OPTIONS) as session:
        copier = ServerCopy(session, single=single, part=5 * MIB)
        entry = Entry(path="big", size=11 * MIB, etag='"0123456789abcdef0123456789abcdef"')
        with pytest.raises(SourceChangedError, match="replaced"):
            await copier.copy((bucket.name, "big"), (bucket.name, "copy"), entry)
        gone = replace(entry, etag=None)
        with pytest.raises(SourceChangedError, match="deleted"):
            await copier.copy((bucket.name, "gone"), (bucket.name, "copy"), gone)

    listed = s3_client(bucket.server).list_objects_v2(Bucket=bucket.name)["Contents"]
    assert [each["Key"] for each in listed] == ["big"]
    assert (
        not s3_client(bucket.server)
        .list_multipart_uploads(Bucket=bucket.name, Prefix="copy")
        .get("Uploads")
    )


@MINIO
async def test_what_the_store_does_not_copy_is_streamed(bucket: Bucket) -> None:
    """A store without CopyObject says so once; then the bytes take the way through here."""
    data = os.urandom(11 * MIB)
    put(bucket, "from/big", data, Metadata={"note": "kept"})
    put(bucket, "from/small", b"x")

    async def refuse(request: web.Request) -> web.StreamResponse | None:
        copying = "x-amz-copy-source" in request.headers
        return xml_error(501, "NotImplemented") if copying else None

    async with proxy_for(bucket, refuse) as endpoint, client(endpoint) as mover:
        report = await mover.copy(f"{bucket.url}/from", f"{bucket.url}/to")

    assert (report.files, report.bytes, report.server_side_bytes) == (2, 11 * MIB + 1, 0)
    assert get(bucket, "to/big") == data
    head = s3_client(bucket.server).head_object(Bucket=bucket.name, Key="to/big")
    assert head["Metadata"]["note"] == "kept"


@MINIO
async def test_an_error_inside_a_200_is_an_error_of_the_copy(bucket: Bucket) -> None:
    """The status comes before the copy is made: the body decides, and the retry copies."""
    put(bucket, "a", b"content")
    tries = 0

    async def fail_first(request: web.Request) -> web.StreamResponse | None:
        nonlocal tries
        if "x-amz-copy-source" not in request.headers:
            return None
        tries += 1
        return xml_error(200, "InternalError") if tries == 1 else None

    async with proxy_for(bucket, fail_first) as endpoint, client(endpoint) as mover:
        await mover.copy(f"{bucket.url}/a", f"{bucket.url}/b")

    assert tries == 2
    assert get(bucket, "b") == b"content"


@MINIO
async def test_disk_and_s3_are_fed_by_one_pass(bucket: Bucket, tmp_path: Path) -> None:
    """From S3 to a folder and to S3: each object is read once, both get it."""
    put(bucket, "from/a", b"content")
    reads: list[str] = []

    async def see(request: web.Request) -> web.StreamResponse | None:
        if request.method == "GET" and request.path.endswith("/a"):
            reads.append(request.path)
        return None

    async with proxy_for(bucket, see) as endpoint, client(endpoint) as mover:
        await mover.copy(f"{bucket.url}/from", [tmp_path / "out", f"{bucket.url}/to"])

    assert len(reads) == 1
    assert (tmp_path / "out" / "a").read_bytes() == b"content"
    assert get(bucket, "to/a") == b"content"


@MINIO
async def test_a_copy_does_not_replace_what_is_protected(bucket: Bucket) -> None:
    """``overwrite=False`` holds for copies within the store, too."""
    put(bucket, "a", b"content")
    put(bucket, "b", b"old")
    async with client(bucket.server.endpoint, overwrite=False) as mover:
        with pytest.raises(DestinationError, match="exists already"):
            await mover.copy(f"{bucket.url}/a", f"{bucket.url}/b")

    assert get(bucket, "b") == b"old"


@MINIO
async def test_from_the_hub_to_s3_no_byte_touches_the_disk(
    bucket: Bucket, hub: HubServer, tmp_path: Path
) -> None:
    """A process that may write no file moves a repository: the CDN's bytes go out as parts."""
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
    assert get(bucket, "m/w.safetensors") == b"".join(big.blocks())
    assert get(bucket, "m/config.json") == b"{}"
