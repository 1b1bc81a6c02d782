"""Uploads and downloads on every S3 server there is, without a setting for any of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from hftransfer import AsyncClient
from hftransfer._core.checksums import COMBINABLE, offered
from hftransfer.errors import NotFoundError
from hftransfer.options import RetryPolicy, S3Options, TransferOptions
from hftransfer.stores.s3 import resume
from hftransfer.stores.s3.upload_lock import UploadLock
from support.s3 import Bucket, s3_client
from support.s3_proxy import proxy_for

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.parametrize("s3_server", ["minio", "seaweedfs", "rclone", "moto"], indirect=True),
]

MIB = 1 << 20
OPTIONS = TransferOptions(
    chunk_size=5 * MIB,
    connections=4,
    retry=RetryPolicy(attempts=3, wait_initial=0.0, wait_max=0.0),
)
# What each server repeats, and so verifies, of parts and of whole objects.
BEST = next(name for name in offered() if name in COMBINABLE)  # CRC64NVME, if awscrt is there
VERIFIED = {
    "minio": (BEST, BEST),
    "moto": (None, None),
    "rclone": (None, None),
    "seaweedfs": (BEST, BEST),
}


def client(endpoint: str) -> AsyncClient:
    return AsyncClient(replace(OPTIONS, s3=S3Options(endpoint_url=endpoint)))


def pattern(size: int) -> bytes:
    """Bytes in which no two parts of 5 MiB are alike."""
    return b"".join(index.to_bytes(8, "little") for index in range(-(-size // 8)))[:size]


def uploads(bucket: Bucket, key: str) -> Sequence[Any]:
    listed = s3_client(bucket.server).list_multipart_uploads(Bucket=bucket.name, Prefix=key)
    return list(listed.get("Uploads", []))


async def test_a_folder_travels_both_ways(bucket: Bucket, tmp_path: Path) -> None:
    """Objects of several parts, of one and of none come back byte for byte; nothing is open."""
    files = {"big.bin": pattern(11 * MIB + 3), "sub/a+b c.json": b"{}", "empty": b""}
    for name, data in files.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    async with client(bucket.server.endpoint) as mover:
        await mover.copy(tmp_path / "in", f"{bucket.url}/models/x")
        listed = await mover.list(f"{bucket.url}/models/x")
        report = await mover.copy(f"{bucket.url}/models/x", tmp_path / "out")
        await mover.copy(f"{bucket.url}/models/x/big.bin", tmp_path / "one.bin")
        with pytest.raises(NotFoundError):
            await mover.copy(f"{bucket.url}/models/none", tmp_path / "none")

    assert {entry.path: entry.size for entry in listed} == {
        name: len(data) for name, data in files.items()
    }
    assert report.files == 3
    for name, data in files.items():
        assert (tmp_path / "out" / name).read_bytes() == data
    assert (tmp_path / "one.bin").read_bytes() == files["big.bin"]
    assert not uploads(bucket, "models/x/big.bin")


async def test_which_checksum_the_store_has_verified(bucket: Bucket, tmp_path: Path) -> None:
    """Found out by asking, once; MinIO stores it with the object, of parts or not."""
    for name, size in {"large": 11 * MIB, "small": 100}.items():
        (tmp_path / name).write_bytes(pattern(size))
    async with client(bucket.server.endpoint) as mover:
        for name in ("", "/again", "/more"):  # each upload tries one checksum
            await mover.copy(tmp_path, bucket.url + name)
        session = await mover.s3_session()

    assert session.part_checksums.settled
    assert session.put_checksums.settled
    assert (session.part_checksums.candidate, session.put_checksums.candidate) == VERIFIED[
        bucket.server.name
    ]
    if bucket.server.name == "minio":
        for name in ("large", "small"):
            head = s3_client(bucket.server).head_object(
                Bucket=bucket.name, Key=name, ChecksumMode="ENABLED"
            )
            assert head[f"Checksum{BEST}"]
            assert head["ChecksumType"] == "FULL_OBJECT"


def record_of_a_killed_process(bucket: Bucket, key: str, upload: str) -> None:
    """Leave behind what a process does that dies while it works on an upload."""
    taken = UploadLock.create(bucket.name, key, upload)
    assert taken is not None
    taken.unlock()


async def test_what_a_killed_upload_left_is_not_sent_again(bucket: Bucket, tmp_path: Path) -> None:
    """Parts of the right size and MD5 stay; only what is missing is sent."""
    data = pattern(22 * MIB)
    (tmp_path / "in").write_bytes(data)
    backend = s3_client(bucket.server)
    upload = backend.create_multipart_upload(Bucket=bucket.name, Key="k/big")["UploadId"]
    record_of_a_killed_process(bucket, "k/big", upload)
    for number in (1, 3, 5):
        backend.upload_part(
            Bucket=bucket.name,
            Key="k/big",
            UploadId=upload,
            PartNumber=number,
            Body=data[5 * MIB * (number - 1) : 5 * MIB * number],
        )
    sent: list[str] = []

    async def count(request: web.Request) -> web.StreamResponse | None:
        if request.method == "PUT":
            sent.append(request.query["partNumber"])
        return None

    async with proxy_for(bucket, count) as endpoint, client(endpoint) as mover:
        await mover.copy(tmp_path / "in", f"{bucket.url}/k/big")

    assert sorted(sent) == ["2", "4"]
    assert not uploads(bucket, "k/big")
    stored = backend.get_object(Bucket=bucket.name, Key="k/big")["Body"].read()
    assert hashlib.md5(stored).digest() == hashlib.md5(data).digest()


async def test_what_is_left_of_other_content_is_dropped(bucket: Bucket, tmp_path: Path) -> None:
    """A part of the right size and other bytes never gets into the object; its upload is ended."""
    data = pattern(11 * MIB)
    (tmp_path / "in").write_bytes(data)
    backend = s3_client(bucket.server)
    upload = backend.create_multipart_upload(Bucket=bucket.name, Key="big")["UploadId"]
    record_of_a_killed_process(bucket, "big", upload)
    backend.upload_part(
        Bucket=bucket.name, Key="big", UploadId=upload, PartNumber=2, Body=bytes(5 * MIB)
    )
    async with client(bucket.server.endpoint) as mover:
        report = await mover.copy(tmp_path / "in", f"{bucket.url}/big")

    assert report.retries == 1
    assert not uploads(bucket, "big")
    assert backend.get_object(Bucket=bucket.name, Key="big")["Body"].read() == data


async def test_uploads_of_others_are_left_alone(bucket: Bucket, tmp_path: Path) -> None:
    """An upload of the same key with other part sizes, or without parts, is somebody else's."""
    (tmp_path / "in").write_bytes(pattern(11 * MIB))
    backend = s3_client(bucket.server)
    for body in (None, bytes(6 * MIB)):
        upload = backend.create_multipart_upload(Bucket=bucket.name, Key="big")["UploadId"]
        record_of_a_killed_process(bucket, "big", upload)
        if body is not None:
            backend.upload_part(
                Bucket=bucket.name, Key="big", UploadId=upload, PartNumber=1, Body=body
            )
    async with client(bucket.server.endpoint) as mover:
        await mover.copy(tmp_path / "in", f"{bucket.url}/big")

    assert len(uploads(bucket, "big")) == 2


@pytest.mark.parametrize("owner", ["this machine", "another machine"])
async def test_an_upload_on_which_somebody_works_is_left_alone(
    bucket: Bucket, tmp_path: Path, owner: str
) -> None:
    """Neither gone on with nor ended, whoever's it is: both uploads come to their end."""
    data = pattern(11 * MIB)
    (tmp_path / "in").write_bytes(data)
    backend = s3_client(bucket.server)
    target = {"Bucket": bucket.name, "Key": "big"}
    upload = backend.create_multipart_upload(**target)["UploadId"]
    held = UploadLock.create(bucket.name, "big", upload) if owner == "this machine" else None
    part = backend.upload_part(**target, UploadId=upload, PartNumber=1, Body=data[: 5 * MIB])
    async with client(bucket.server.endpoint) as mover:
        await mover.copy(tmp_path / "in", f"{bucket.url}/big")

    assert [each["UploadId"] for each in uploads(bucket, "big")] == [upload]
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    backend.complete_multipart_upload(**target, UploadId=upload, MultipartUpload=parts)
    if held is not None:
        held.delete()


async def test_an_upload_that_another_machine_has_long_left_is_gone_on_with(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the store's clock: no part was added for longer than anybody waits."""
    data = pattern(11 * MIB)
    (tmp_path / "in").write_bytes(data)
    backend = s3_client(bucket.server)
    target = {"Bucket": bucket.name, "Key": "big"}
    upload = backend.create_multipart_upload(**target)["UploadId"]
    backend.upload_part(**target, UploadId=upload, PartNumber=1, Body=data[: 5 * MIB])
    listed = backend.list_parts(**target, UploadId=upload)["Parts"][0]
    if "LastModified" not in listed:
        pytest.skip("the store does not say when a part came")
    monkeypatch.setattr(resume, "_ABANDONED_AFTER", -3600.0)
    async with client(bucket.server.endpoint) as mover:
        await mover.copy(tmp_path / "in", f"{bucket.url}/big")

    assert not uploads(bucket, "big")
    assert backend.get_object(**target)["Body"].read() == data


def recorded() -> Sequence[Path]:
    return list(Path(os.environ["XDG_STATE_HOME"]).rglob("*.upload"))


async def test_an_upload_leaves_no_record(bucket: Bucket, tmp_path: Path) -> None:
    """Neither one that is complete nor one that was ended."""
    (tmp_path / "in").write_bytes(pattern(11 * MIB))
    async with client(bucket.server.endpoint) as mover:
        await mover.copy(tmp_path / "in", f"{bucket.url}/big")

    assert recorded() == []


async def test_a_slow_part_is_sent_twice(bucket: Bucket, tmp_path: Path) -> None:
    """A part without an answer goes out once more; its first copy is given up, the object whole."""
    data = pattern(12 * 5 * MIB)
    (tmp_path / "in").write_bytes(data)
    stuck = anyio.Event()
    sent: list[str] = []

    async def slow(request: web.Request) -> web.StreamResponse | None:
        if "partNumber" in request.query:
            sent.append(request.query["partNumber"])
            if len(sent) == 12:
                await request.read()
                await stuck.wait()
        return None

    async with proxy_for(bucket, slow) as endpoint, client(endpoint) as mover:
        session = await mover.s3_session()
        for _ in range(10):
            session.hedge_timer.record_response(
                0.01
            )  # what this would have learnt from earlier parts
        await mover.copy(tmp_path / "in", f"{bucket.url}/big")
        stuck.set()

    assert len(sent) > 12  # a busy machine is slow with others, too
    assert len(set(sent)) == 12
    stored = s3_client(bucket.server).get_object(Bucket=bucket.name, Key="big")["Body"].read()
    assert hashlib.md5(stored).digest() == hashlib.md5(data).digest()
