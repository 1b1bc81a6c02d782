"""Uploads that were killed: what the next process still sends."""

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
from support.s3 import Bucket, s3_client
from support.s3_proxy import Hook, proxy_for

pytestmark = [pytest.mark.asyncio, pytest.mark.slow]

MIB = 1 << 20
PART = 5 * MIB
LETTING_THROUGH = 4
CONNECTIONS = 2


@asynccontextmanager
async def copying(
    source: str, destination: str, endpoint: str, **environ: str
) -> AsyncIterator[Any]:
    command = [sys.executable, "-m", "hftransfer", "cp", source, destination, "--json"]
    options = ["--chunk-size", "5MiB", "--connections", str(CONNECTIONS)]
    options += ["--s3-endpoint-url", endpoint]
    async with await anyio.open_process(
        [*command, *options], env={**os.environ, **environ}
    ) as process:
        yield process


async def finish(process: Any) -> dict[str, int]:
    out = b"".join([piece async for piece in process.stdout])
    error = b"".join([piece async for piece in process.stderr])
    assert await process.wait() == 0, error
    report: dict[str, int] = json.loads(out)
    return report


def counting(sent: list[str], held: anyio.Event | None, stuck: anyio.Event) -> Hook:
    """Note every body that is sent; hold those after the first few, if asked to.

    `stuck` is set when every connection is held: then what was let through is stored.
    """
    waiting = 0

    async def hook(request: web.Request) -> web.StreamResponse | None:
        if request.method != "PUT":
            return None
        nonlocal waiting
        await request.read()
        name = request.path.rpartition("/")[2] + "#" + request.query.get("partNumber", "")
        if held is not None and len(sent) >= LETTING_THROUGH:
            waiting += 1
            if waiting == CONNECTIONS:
                stuck.set()
            await held.wait()
            return web.Response(status=500)
        sent.append(name)
        return None

    return hook


async def killed_in_the_middle(
    bucket: Bucket, source: str, destination: str, **environ: str
) -> list[str]:
    """Kill a copy while all but its first bodies are held up; return those that got through."""
    sent: list[str] = []
    held, stuck = anyio.Event(), anyio.Event()
    async with proxy_for(bucket, counting(sent, held, stuck)) as endpoint:
        async with copying(source, destination, endpoint, **environ) as process:
            with anyio.fail_after(40):
                await stuck.wait()
            process.kill()
            await process.wait()
        held.set()
    return sent


async def test_a_killed_upload_sends_the_rest(bucket: Bucket, tmp_path: Path) -> None:
    """kill -9 in the middle of a large file: the next run sends the parts that are missing."""
    data = os.urandom(8 * PART + 17)
    (tmp_path / "model.bin").write_bytes(data)
    target = f"{bucket.url}/m/model.bin"
    first = await killed_in_the_middle(bucket, str(tmp_path / "model.bin"), target)
    again: list[str] = []
    async with (
        proxy_for(bucket, counting(again, None, anyio.Event())) as endpoint,
        copying(str(tmp_path / "model.bin"), target, endpoint) as process,
    ):
        report = await finish(process)

    assert len(first) == LETTING_THROUGH
    assert sorted(first + again) == sorted(f"model.bin#{number}" for number in range(1, 10))
    assert report["files"] == 1
    client = s3_client(bucket.server)
    assert client.get_object(Bucket=bucket.name, Key="m/model.bin")["Body"].read() == data
    listed = client.list_multipart_uploads(Bucket=bucket.name, Prefix="m/model.bin")
    assert not listed.get("Uploads")


async def test_files_that_were_finished_are_left_alone(bucket: Bucket, tmp_path: Path) -> None:
    """A folder goes on with the files that are missing; one that changed meanwhile goes again."""
    for name in ("a", "b", "c", "d", "e", "f"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(os.urandom(1000))
    target = f"{bucket.url}/m"
    first = await killed_in_the_middle(bucket, str(tmp_path / "in"), target)
    changed = first[0].rstrip("#")
    (tmp_path / "in" / changed).write_bytes(os.urandom(1000))
    again: list[str] = []
    async with (
        proxy_for(bucket, counting(again, None, anyio.Event())) as endpoint,
        copying(str(tmp_path / "in"), target, endpoint) as process,
    ):
        report = await finish(process)

    # What finds out which checksum is known may be sent twice.
    finished = set(first) - {first[0]}
    assert set(again) == {"a#", "b#", "c#", "d#", "e#", "f#"} - finished
    assert report["skipped"] == len(finished)
    client = s3_client(bucket.server)
    for path in (tmp_path / "in").iterdir():
        stored = client.get_object(Bucket=bucket.name, Key=f"m/{path.name}")["Body"].read()
        assert stored == path.read_bytes()


async def test_from_the_hub_finished_files_are_not_even_read(
    bucket: Bucket, hub: HubServer
) -> None:
    """What is in S3 under the digest that the Hub lists is neither downloaded nor sent again."""
    hub.create_repo("acme/m", files={"w.safetensors": RandomFile(2 * PART, seed=1)})
    endpoint = bucket.server.endpoint
    for expected in (0, 1):
        hub.clear_requests()
        async with copying("hf://acme/m", f"{bucket.url}/m", endpoint, **hub.environ()) as process:
            report = await finish(process)
        assert (report["skipped"] > 0) == bool(expected)
    assert not [request for request in hub.requests if request.host == "cdn"]
