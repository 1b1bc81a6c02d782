"""Transfers to S3 that were killed: the next process sends only what is missing."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from hftransfer.testing import HubServer, RandomFile
from support.s3 import Bucket, get_object, open_uploads, s3_client
from support.s3_proxy import proxy_for

pytestmark = [pytest.mark.asyncio, pytest.mark.slow]

MIB = 1 << 20
PART = 5 * MIB
CONNECTIONS = 2


@asynccontextmanager
async def copying(
    source: str, destination: str, endpoint: str, **environ: str
) -> AsyncIterator[Any]:
    """Run ``hftransfer cp`` in a process of its own."""
    command = [sys.executable, "-m", "hftransfer", "cp", source, destination, "--json"]
    options = ["--chunk-size", "5MiB", "--connections", str(CONNECTIONS)]
    options += ["--s3-endpoint-url", endpoint]
    async with await anyio.open_process(
        [*command, *options], env={**os.environ, **environ}
    ) as process:
        yield process


async def finish(process: Any) -> dict[str, int]:
    """Wait for the process and return its report."""
    out = b"".join([piece async for piece in process.stdout])
    error = b"".join([piece async for piece in process.stderr])
    assert await process.wait() == 0, error
    report: dict[str, int] = json.loads(out)
    return report


class BodyRecorder:
    """A hook that records the bodies that reach the server, as ``KEY#PART``.

    Args:
        limit: number of bodies that pass; later ones are held back. None for all.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.passed: list[str] = []
        self.all_held = anyio.Event()
        """Set when every connection holds a body back: then the server has stored the others."""
        self._limit = limit
        self._held = 0
        self._released = anyio.Event()

    async def hook(self, request: web.Request) -> web.StreamResponse | None:
        if request.method != "PUT":
            return None
        await request.read()
        if self._limit is not None and len(self.passed) >= self._limit:
            self._held += 1
            if self._held == CONNECTIONS:
                self.all_held.set()
            await self._released.wait()
            return web.Response(status=500)
        key = request.path.rpartition("/")[2]
        self.passed.append(f"{key}#{request.query.get('partNumber', '')}")
        return None

    def release(self) -> None:
        """Let the requests that are held back end."""
        self._released.set()


async def kill_during_copy(bucket: Bucket, source: str, destination: str) -> list[str]:
    """Kill a copy after four bodies; return them."""
    recorder = BodyRecorder(limit=4)
    async with proxy_for(bucket, recorder.hook) as endpoint:
        async with copying(source, destination, endpoint) as process:
            with anyio.fail_after(40):
                await recorder.all_held.wait()
            process.kill()
            await process.wait()
        recorder.release()
    assert len(recorder.passed) == 4
    return recorder.passed


async def test_a_killed_upload_is_resumed(bucket: Bucket, tmp_path: Path) -> None:
    """After SIGKILL in the middle of a large file, the next process sends the missing parts."""
    data = os.urandom(8 * PART + 17)
    (tmp_path / "model.bin").write_bytes(data)
    target = f"{bucket.url}/m/model.bin"
    before = await kill_during_copy(bucket, str(tmp_path / "model.bin"), target)
    recorder = BodyRecorder()
    async with (
        proxy_for(bucket, recorder.hook) as endpoint,
        copying(str(tmp_path / "model.bin"), target, endpoint) as process,
    ):
        report = await finish(process)

    assert sorted(before + recorder.passed) == [f"model.bin#{number}" for number in range(1, 10)]
    assert report["files"] == 1
    assert get_object(bucket, "m/model.bin") == data
    assert not open_uploads(bucket, "m/model.bin")


async def test_parts_of_a_file_that_was_changed_since_are_not_used(
    bucket: Bucket, tmp_path: Path
) -> None:
    """The parts of a killed upload count by their content, whatever inode, size and time say."""
    path = tmp_path / "model.bin"
    path.write_bytes(os.urandom(8 * PART + 17))
    status = path.stat()
    target = f"{bucket.url}/m/model.bin"
    await kill_during_copy(bucket, str(path), target)
    data = os.urandom(8 * PART + 17)
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    async with copying(str(path), target, bucket.server.endpoint) as process:
        await finish(process)

    assert get_object(bucket, "m/model.bin") == data
    assert not open_uploads(bucket, "m/model.bin")


async def kill_before_the_first_part(bucket: Bucket, source: str, destination: str) -> None:
    """Kill a copy whose upload is open and has no part yet."""
    recorder = BodyRecorder(limit=0)
    async with proxy_for(bucket, recorder.hook) as endpoint:
        async with copying(source, destination, endpoint) as process:
            with anyio.fail_after(40):
                await recorder.all_held.wait()
            process.kill()
            await process.wait()
        recorder.release()


async def test_an_upload_without_parts_is_continued(bucket: Bucket, tmp_path: Path) -> None:
    """The next process does not leave it open at the store."""
    source = tmp_path / "model.bin"
    source.write_bytes(os.urandom(2 * PART + 17))
    target = f"{bucket.url}/m/model.bin"
    for _ in range(2):
        await kill_before_the_first_part(bucket, str(source), target)
        assert len(open_uploads(bucket, "m/model.bin")) == 1
    async with copying(str(source), target, bucket.server.endpoint) as process:
        await finish(process)

    assert get_object(bucket, "m/model.bin") == source.read_bytes()
    assert not open_uploads(bucket, "m/model.bin")


async def test_an_upload_whose_creation_had_no_response_is_ended(
    bucket: Bucket, tmp_path: Path
) -> None:
    """The store has created it, the response is lost, and the next attempt creates another."""
    source = tmp_path / "model.bin"
    source.write_bytes(os.urandom(2 * PART + 17))
    target = f"{bucket.url}/m/model.bin"
    creations = 0

    async def lose_first_response(request: web.Request) -> web.StreamResponse | None:
        nonlocal creations
        if request.method == "POST" and "uploads" in request.query:
            creations += 1
            if creations == 1:
                s3_client(bucket.server).create_multipart_upload(
                    Bucket=bucket.name, Key="m/model.bin"
                )
                assert request.transport is not None
                request.transport.abort()
                raise ConnectionResetError
        return None

    async with (
        proxy_for(bucket, lose_first_response) as endpoint,
        copying(str(source), target, endpoint) as process,
    ):
        await finish(process)

    assert creations == 2
    assert get_object(bucket, "m/model.bin") == source.read_bytes()
    assert not open_uploads(bucket, "m/model.bin")


async def test_an_own_upload_of_other_content_is_ended(bucket: Bucket, tmp_path: Path) -> None:
    """A killed upload of a file that has another size now can never be completed."""
    source = tmp_path / "model.bin"
    source.write_bytes(os.urandom(8 * PART + 17))
    target = f"{bucket.url}/m/model.bin"
    await kill_during_copy(bucket, str(source), target)
    source.write_bytes(os.urandom(3 * PART + 1))
    async with copying(str(source), target, bucket.server.endpoint) as process:
        await finish(process)

    assert get_object(bucket, "m/model.bin") == source.read_bytes()
    assert not open_uploads(bucket, "m/model.bin")


async def test_an_own_upload_is_ended_when_the_store_has_copied_the_object(
    bucket: Bucket, tmp_path: Path
) -> None:
    """A copy within the store completes the object, so the killed upload is of no use."""
    source = tmp_path / "model.bin"
    source.write_bytes(os.urandom(8 * PART + 17))
    target = f"{bucket.url}/m/model.bin"
    await kill_during_copy(bucket, str(source), target)
    assert len(open_uploads(bucket, "m/model.bin")) == 1
    other = f"{bucket.url}/n/model.bin"
    for location, destination in ((str(source), other), (other, target)):
        async with copying(location, destination, bucket.server.endpoint) as process:
            await finish(process)

    assert get_object(bucket, "m/model.bin") == source.read_bytes()
    assert not open_uploads(bucket, "m/model.bin")


async def test_a_task_continues_its_upload_on_another_machine(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the state folder of the killed process, the mark of the task is enough; another
    task begins an upload of its own and leaves that one alone."""
    source = tmp_path / "model.bin"
    source.write_bytes(os.urandom(8 * PART + 17))
    target = f"{bucket.url}/m/model.bin"
    monkeypatch.setenv("HFTRANSFER_TASK", "Flow/1/train/2")
    await kill_during_copy(bucket, str(source), target)

    sent: dict[str, list[str]] = {}
    for task in ("Flow/1/train/3", "Flow/1/train/2"):
        recorder = BodyRecorder()
        environ = {"XDG_STATE_HOME": str(tmp_path / task), "HFTRANSFER_TASK": task}
        # The other task has stored the object: then there would be nothing to send.
        s3_client(bucket.server).delete_object(Bucket=bucket.name, Key="m/model.bin")
        async with (
            proxy_for(bucket, recorder.hook) as endpoint,
            copying(str(source), target, endpoint, **environ) as process,
        ):
            await finish(process)
        sent[task] = recorder.passed
        assert get_object(bucket, "m/model.bin") == source.read_bytes()

    assert len(sent["Flow/1/train/3"]) == 9 + 1  # all parts, and the mark
    assert len(sent["Flow/1/train/2"]) == 9 - 4 + 1
    assert not open_uploads(bucket, "m/model.bin")


async def test_finished_files_of_a_killed_copy_are_skipped(bucket: Bucket, tmp_path: Path) -> None:
    """The next process sends the missing files, and those that have changed since."""
    names = ("a", "b", "c", "d", "e", "f")
    folder = tmp_path / "in"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(os.urandom(1000))
    target = f"{bucket.url}/m"
    before = await kill_during_copy(bucket, str(folder), target)
    (folder / before[0].rstrip("#")).write_bytes(os.urandom(1000))
    recorder = BodyRecorder()
    async with (
        proxy_for(bucket, recorder.hook) as endpoint,
        copying(str(folder), target, endpoint) as process,
    ):
        report = await finish(process)

    # As sets: the file that negotiates the checksum may be sent more than once.
    finished = set(before) - {before[0]}
    assert set(recorder.passed) == {f"{name}#" for name in names} - finished
    assert report["skipped"] == len(finished)
    for name in names:
        assert get_object(bucket, f"m/{name}") == (folder / name).read_bytes()


async def test_finished_files_from_the_hub_are_not_downloaded(
    bucket: Bucket, hub: HubServer
) -> None:
    """A file that S3 has under the digest that the Hub lists is neither read nor sent."""
    hub.create_repo("acme/m", files={"w.safetensors": RandomFile(2 * PART, seed=1)})
    endpoint = bucket.server.endpoint
    skipped = []
    for _ in range(2):
        hub.clear_requests()
        async with copying("hf://acme/m", f"{bucket.url}/m", endpoint, **hub.environ()) as process:
            report = await finish(process)
        skipped.append(report["skipped"])

    assert skipped[0] == 0
    assert skipped[1] > 0
    assert hub.requests
    assert [request for request in hub.requests if request.host == "cdn"] == []
