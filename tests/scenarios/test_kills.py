"""Processes that are killed at random moments: nothing is wrong or left, and little is lost.

The number of kills is small here; `KillLoop` takes any number and seed.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from hftransfer.testing import HubServer, KillLoop, Line, RandomFile, copy_command
from support.s3 import Bucket, get_object, open_uploads, put_object

MIB = 1 << 20
SIZE = 60 * MIB
SEED = 20261130
KILLS = 4  # of each test with one process
# The most bytes that one kill may cost.
BOUND = 16 * MIB
# Requests, responses without a body, what is sent of a part that its server has refused, and a
# chunk that is asked for again beside a request that a busy machine makes slow.
OVERHEAD = 10 * MIB


@pytest.fixture(scope="module")
def content() -> RandomFile:
    return RandomFile(SIZE, seed=SEED)


@pytest.fixture(scope="module")
def data(content: RandomFile) -> bytes:
    return b"".join(content.blocks())


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this machine's upload locks."""
    folder = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_kill_on_a_slow_line_loses_little(
    hub: HubServer, content: RandomFile, data: bytes, tmp_path: Path
) -> None:
    """At 10 MB/s, 16 chunks of 8 MiB are in flight, and none is complete when the kill comes:
    what has arrived of them is kept all the same."""
    hub.create_repo("acme/big").commit({"m.bin": content})
    with Line(hub.cdn_endpoint, bytes_per_second=10e6) as line:
        hub.cdn_url = line.url
        command = copy_command("hf://acme/big", str(tmp_path / "out"))
        outcome = KillLoop(command, environ=hub.environ(), seed=1, after=(3.0, 3.5)).run(1)

    assert outcome.kills == 1
    report = json.loads(outcome.reports[-1])
    assert report["reused_bytes"] > 8 * MIB
    assert report["reused_bytes"] + report["bytes"] == SIZE
    assert line.to_client - SIZE <= BOUND
    assert _sha256(tmp_path / "out/m.bin") == hashlib.sha256(data).hexdigest()
    assert os.listdir(tmp_path / "out") == ["m.bin"]


@pytest.mark.extended
@pytest.mark.parametrize("rate", [5e6, 20e6, None])
def test_killed_downloads(
    hub: HubServer, content: RandomFile, data: bytes, tmp_path: Path, rate: float | None
) -> None:
    hub.create_repo("acme/big").commit({"m.bin": content})
    with Line(hub.cdn_endpoint, bytes_per_second=rate) as line:
        hub.cdn_url = line.url
        command = copy_command("hf://acme/big", str(tmp_path / "out"))
        loop = KillLoop(command, environ=hub.environ(), seed=SEED, after=(0.5, 3.0))
        outcome = loop.run(KILLS)

    assert line.to_client - SIZE <= outcome.kills * BOUND + OVERHEAD
    assert _sha256(tmp_path / "out/m.bin") == hashlib.sha256(data).hexdigest()
    assert os.listdir(tmp_path / "out") == ["m.bin"]


@pytest.mark.extended
def test_killed_downloads_of_two_processes_with_one_target(
    hub: HubServer, content: RandomFile, data: bytes, tmp_path: Path
) -> None:
    hub.create_repo("acme/big").commit({"m.bin": content})
    with Line(hub.cdn_endpoint, bytes_per_second=20e6) as line:
        hub.cdn_url = line.url
        command = copy_command("hf://acme/big", str(tmp_path / "out"))
        loop = KillLoop(command, environ=hub.environ(), seed=SEED, after=(0.5, 3.0), processes=2)
        outcome = loop.run(KILLS)

    assert len(outcome.reports) == 2
    assert _sha256(tmp_path / "out/m.bin") == hashlib.sha256(data).hexdigest()
    assert os.listdir(tmp_path / "out") == ["m.bin"]


@pytest.mark.extended
@pytest.mark.s3
def test_killed_downloads_from_s3(bucket: Bucket, data: bytes, tmp_path: Path) -> None:
    put_object(bucket, "m.bin", data)
    target = tmp_path / "out/m.bin"
    with Line(bucket.server.endpoint, bytes_per_second=10e6) as line:
        options = ["--s3-endpoint-url", line.url]
        command = copy_command(f"{bucket.url}/m.bin", str(target), *options)
        outcome = KillLoop(command, environ={}, seed=SEED, after=(0.7, 3.0)).run(KILLS)

    assert line.to_client - SIZE <= outcome.kills * BOUND + OVERHEAD
    assert target.read_bytes() == data
    assert os.listdir(target.parent) == ["m.bin"]


@pytest.mark.extended
@pytest.mark.s3
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_uploads(
    bucket: Bucket, data: bytes, tmp_path: Path, state: Path, processes: int
) -> None:
    """Also those that have no part yet are continued or ended, and no lock file is left."""
    source = tmp_path / "m.bin"
    source.write_bytes(data)
    with Line(bucket.server.endpoint, bytes_per_second=10e6) as line:
        options = ["--s3-endpoint-url", line.url]
        command = copy_command(str(source), f"{bucket.url}/up.bin", *options)
        loop = KillLoop(command, environ={}, seed=SEED, after=(0.5, 4.0), processes=processes)
        outcome = loop.run(KILLS)

    assert get_object(bucket, "up.bin") == data
    assert not open_uploads(bucket, "up.bin")
    assert not list(state.rglob("*.upload"))
    if processes == 1:
        assert line.to_server - SIZE <= outcome.kills * BOUND + OVERHEAD


@pytest.mark.extended
@pytest.mark.s3
def test_killed_copies_from_the_hub_to_s3(
    hub: HubServer, content: RandomFile, bucket: Bucket, data: bytes, state: Path
) -> None:
    """Parts are not sent again, although their bytes are read again for the file's SHA-256."""
    hub.create_repo("acme/big").commit({"m.bin": content})
    with Line(bucket.server.endpoint, bytes_per_second=10e6) as line:
        options = ["--s3-endpoint-url", line.url]
        command = copy_command("hf://acme/big", f"{bucket.url}/up", *options)
        loop = KillLoop(command, environ=hub.environ(), seed=SEED, after=(0.7, 4.0))
        outcome = loop.run(KILLS)

    assert line.to_server - SIZE <= outcome.kills * BOUND + OVERHEAD
    assert get_object(bucket, "up/m.bin") == data
    assert not open_uploads(bucket, "up/m.bin")
    assert not list(state.rglob("*.upload"))
