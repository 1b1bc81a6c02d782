"""Uploads and downloads on every S3 server that tests can start, without special settings."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from aiohttp import web

from hftransfer import AsyncClient
from hftransfer._core.checksums import COMBINABLE, upload_checksums
from hftransfer.errors import NotFoundError
from hftransfer.options import RetryPolicy, S3Options, TransferOptions
from hftransfer.stores.s3 import resume
from hftransfer.stores.s3.hedging import HedgeTimer
from hftransfer.stores.s3.upload_lock import UploadLock
from support.s3 import (
    Bucket,
    get_object,
    numbered_bytes,
    open_uploads,
    s3_client,
)
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
BEST = next(
    name for name in upload_checksums() if name in COMBINABLE
)  # CRC64NVME if awscrt is installed
# The checksums that each server verifies, for parts and for objects of one PUT.
VERIFIED = {
    "minio": (BEST, BEST),
    "moto": (None, None),
    "rclone": (None, None),
    "seaweedfs": (BEST, BEST),
}


def client_of(endpoint: str) -> AsyncClient:
    return AsyncClient(replace(OPTIONS, s3=S3Options(endpoint_url=endpoint)))


def is_equal(found: bytes, expected: bytes) -> bool:
    """Compare two objects; unlike a bare assert this shows no difference of many MiB."""
    return found == expected


async def test_a_folder_is_uploaded_and_downloaded(bucket: Bucket, tmp_path: Path) -> None:
    """Objects of several parts, of one and of none keep every byte; no upload stays open."""
    files = {"big.bin": numbered_bytes(11 * MIB + 3), "sub/a+b c.json": b"{}", "empty": b""}
    for name, data in files.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    async with client_of(bucket.server.endpoint) as client:
        await client.copy(tmp_path / "in", f"{bucket.url}/models/x")
        listed = await client.list(f"{bucket.url}/models/x")
        report = await client.copy(f"{bucket.url}/models/x", tmp_path / "out")
        await client.copy(f"{bucket.url}/models/x/big.bin", tmp_path / "one.bin")
        with pytest.raises(NotFoundError):
            await client.copy(f"{bucket.url}/models/none", tmp_path / "none")

    assert {entry.path: entry.size for entry in listed} == {
        name: len(data) for name, data in files.items()
    }
    assert report.files == 3
    for name, data in files.items():
        assert (tmp_path / "out" / name).read_bytes() == data
    assert (tmp_path / "one.bin").read_bytes() == files["big.bin"]
    assert not open_uploads(bucket, "models/x/big.bin")


async def test_the_checksum_is_negotiated(bucket: Bucket, tmp_path: Path) -> None:
    """The client ends with what the server verifies; MinIO stores it with the whole object."""
    for name, size in {"large": 11 * MIB, "small": 100}.items():
        (tmp_path / name).write_bytes(numbered_bytes(size))
    async with client_of(bucket.server.endpoint) as client:
        for folder in ("", "/again", "/more"):  # each multipart upload tries one checksum
            await client.copy(tmp_path, bucket.url + folder)
        s3 = await client.s3_session()

    assert s3.part_checksums.settled
    assert s3.put_checksums.settled
    assert (s3.part_checksums.candidate, s3.put_checksums.candidate) == VERIFIED[bucket.server.name]
    if bucket.server.name == "minio":
        for name in ("large", "small"):
            head = s3_client(bucket.server).head_object(
                Bucket=bucket.name, Key=name, ChecksumMode="ENABLED"
            )
            assert head[f"Checksum{BEST}"]
            assert head["ChecksumType"] == "FULL_OBJECT"


def leave_lock_file(bucket: Bucket, key: str, upload: str) -> None:
    """Leave the lock file of a process that was killed while it worked on an upload."""
    lock = UploadLock.create(bucket.name, key, upload)
    assert lock is not None
    lock.unlock()


async def test_an_orphaned_upload_is_resumed(bucket: Bucket, tmp_path: Path) -> None:
    """Parts with the right size and MD5 are kept; only the missing parts are sent."""
    data = numbered_bytes(22 * MIB)
    (tmp_path / "in").write_bytes(data)
    backend = s3_client(bucket.server)
    upload = backend.create_multipart_upload(Bucket=bucket.name, Key="k/big")["UploadId"]
    leave_lock_file(bucket, "k/big", upload)
    for number in (1, 3, 5):
        backend.upload_part(
            Bucket=bucket.name,
            Key="k/big",
            UploadId=upload,
            PartNumber=number,
            Body=data[5 * MIB * (number - 1) : 5 * MIB * number],
        )
    sent: list[str] = []

    async def record(request: web.Request) -> web.StreamResponse | None:
        if request.method == "PUT":
            sent.append(request.query["partNumber"])
        return None

    async with proxy_for(bucket, record) as endpoint, client_of(endpoint) as client:
        await client.copy(tmp_path / "in", f"{bucket.url}/k/big")

    assert sorted(sent) == ["2", "4"]
    assert not open_uploads(bucket, "k/big")
    assert is_equal(get_object(bucket, "k/big"), data)


async def test_an_orphaned_upload_of_other_content_is_aborted(
    bucket: Bucket, tmp_path: Path
) -> None:
    """A part of the right size but with other bytes never becomes part of the object."""
    data = numbered_bytes(11 * MIB)
    (tmp_path / "in").write_bytes(data)
    backend = s3_client(bucket.server)
    upload = backend.create_multipart_upload(Bucket=bucket.name, Key="big")["UploadId"]
    leave_lock_file(bucket, "big", upload)
    backend.upload_part(
        Bucket=bucket.name, Key="big", UploadId=upload, PartNumber=2, Body=bytes(5 * MIB)
    )
    async with client_of(bucket.server.endpoint) as client:
        report = await client.copy(tmp_path / "in", f"{bucket.url}/big")

    assert report.retries == 1
    assert not open_uploads(bucket, "big")
    assert is_equal(get_object(bucket, "big"), data)


@pytest.mark.parametrize(("is_own", "left"), [(False, 2), (True, 0)])
async def test_uploads_that_do_not_fit_are_ended_if_they_are_own(
    bucket: Bucket, tmp_path: Path, is_own: bool, left: int
) -> None:
    """An upload with other part sizes, or without parts, may belong to another program; one with
    the lock file of a dead process of this machine does not."""
    (tmp_path / "in").write_bytes(numbered_bytes(11 * MIB))
    backend = s3_client(bucket.server)
    for body in (None, bytes(6 * MIB)):
        upload = backend.create_multipart_upload(Bucket=bucket.name, Key="big")["UploadId"]
        if is_own:
            leave_lock_file(bucket, "big", upload)
        if body is not None:
            backend.upload_part(
                Bucket=bucket.name, Key="big", UploadId=upload, PartNumber=1, Body=body
            )
    async with client_of(bucket.server.endpoint) as client:
        await client.copy(tmp_path / "in", f"{bucket.url}/big")

    assert len(open_uploads(bucket, "big")) == left


@pytest.mark.parametrize("owner", ["this machine", "another machine"])
async def test_an_upload_in_use_is_left_open(bucket: Bucket, tmp_path: Path, owner: str) -> None:
    """It is neither resumed nor aborted, so its owner can complete it."""
    data = numbered_bytes(11 * MIB)
    (tmp_path / "in").write_bytes(data)
    backend = s3_client(bucket.server)
    target = {"Bucket": bucket.name, "Key": "big"}
    upload = backend.create_multipart_upload(**target)["UploadId"]
    lock = UploadLock.create(bucket.name, "big", upload) if owner == "this machine" else None
    part = backend.upload_part(**target, UploadId=upload, PartNumber=1, Body=data[: 5 * MIB])
    async with client_of(bucket.server.endpoint) as client:
        await client.copy(tmp_path / "in", f"{bucket.url}/big")

    assert [each["UploadId"] for each in open_uploads(bucket, "big")] == [upload]
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    backend.complete_multipart_upload(**target, UploadId=upload, MultipartUpload=parts)
    if lock is not None:
        lock.delete()


async def test_an_abandoned_upload_of_another_machine_is_resumed(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No part was added for longer than a living process needs, by the store's clock."""
    data = numbered_bytes(11 * MIB)
    (tmp_path / "in").write_bytes(data)
    backend = s3_client(bucket.server)
    target = {"Bucket": bucket.name, "Key": "big"}
    upload = backend.create_multipart_upload(**target)["UploadId"]
    backend.upload_part(**target, UploadId=upload, PartNumber=1, Body=data[: 5 * MIB])
    listed = backend.list_parts(**target, UploadId=upload)["Parts"][0]
    if "LastModified" not in listed:
        pytest.skip("the store does not list the time of a part")
    monkeypatch.setattr(resume, "_ABANDONED_AFTER", -3600.0)
    async with client_of(bucket.server.endpoint) as client:
        await client.copy(tmp_path / "in", f"{bucket.url}/big")

    assert not open_uploads(bucket, "big")
    assert is_equal(get_object(bucket, "big"), data)


def lock_files() -> list[Path]:
    return list(Path(os.environ["XDG_STATE_HOME"]).rglob("*.upload"))


async def test_a_completed_upload_leaves_no_lock_file(bucket: Bucket, tmp_path: Path) -> None:
    """The lock file exists while parts are sent and is deleted with the upload."""
    (tmp_path / "in").write_bytes(numbered_bytes(11 * MIB))
    during: set[int] = set()

    async def record(request: web.Request) -> web.StreamResponse | None:
        if "partNumber" in request.query:
            during.add(len(lock_files()))
        return None

    async with proxy_for(bucket, record) as endpoint, client_of(endpoint) as client:
        await client.copy(tmp_path / "in", f"{bucket.url}/big")

    assert during == {1}
    assert lock_files() == []


class HedgeFirst(HedgeTimer):
    """Sends the first part a second time, at once, and no other part."""

    def __init__(self) -> None:
        super().__init__(1)
        self._is_first = True

    @property
    def delay(self) -> float | None:
        is_first, self._is_first = self._is_first, False
        return 0.0 if is_first else None


async def test_a_part_without_a_response_is_sent_again(bucket: Bucket, tmp_path: Path) -> None:
    """Its first copy is cancelled, and the object is whole."""
    data = numbered_bytes(12 * 5 * MIB)
    (tmp_path / "in").write_bytes(data)
    sent: list[str] = []
    sent_again: list[str] = []
    second_copy = anyio.Event()
    end = anyio.Event()

    async def hold_first_copy(request: web.Request) -> web.StreamResponse | None:
        number = request.query.get("partNumber")
        if number in sent:
            sent_again.append(number)
            second_copy.set()
        elif number is not None:
            sent.append(number)
            await request.read()
            await second_copy.wait()
            if number in sent_again:
                await end.wait()
                return web.Response(status=500)
        return None

    async with proxy_for(bucket, hold_first_copy) as endpoint, client_of(endpoint) as client:
        s3 = await client.s3_session()
        s3.hedge_timer = HedgeFirst()
        await client.copy(tmp_path / "in", f"{bucket.url}/big")
        end.set()

    assert sorted(sent, key=int) == [str(number) for number in range(1, 13)]
    assert len(sent_again) == 1
    assert is_equal(get_object(bucket, "big"), data)
