"""Interrupted processes: what is left of them, and what the next one still has to move."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hftransfer.testing import Fault, HubServer, RandomFile, Repo, Stall
from support.s3 import Bucket, s3_client

SIZE = 40 << 20
CHUNK = 1 << 20
LETTING_THROUGH = 12
WAIT = 30


def _start(hub: HubServer, *destinations: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hftransfer", "cp", "hf://acme/big", *destinations]
    options = ["--chunk-size", "1MiB", "--connections", "4", "--json"]
    return subprocess.Popen(
        [*command, *options],
        env={**os.environ, **hub.environ()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _stuck(
    hub: HubServer, destination: str, *, after: int = LETTING_THROUGH
) -> subprocess.Popen[str]:
    """Start a copy that is certain to be in its middle: all ranges but the first `after` stall."""
    stalled = hub.add_fault(Fault(host="cdn", ranged=True, after=after, times=None, action=Stall()))
    process = _start(hub, destination)
    assert stalled.wait(WAIT)
    return process


def _stuck_with_all_recorded(hub: HubServer, folder: Path) -> subprocess.Popen[str]:
    """Start a copy as `_stuck` does, and wait until all that it was sent is in its journal."""
    process = _stuck(hub, str(folder))
    while _journalled(folder) < LETTING_THROUGH:
        with pytest.raises(subprocess.TimeoutExpired):  # its end would be an error
            process.wait(0.05)
    return process


def _killed(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=WAIT)


def _healed(hub: HubServer) -> None:
    """Let the CDN answer again, and count from here."""
    hub.clear_faults()
    hub.release()
    assert hub.wait_idle()
    hub.clear_requests()


def _end(process: subprocess.Popen[str]) -> dict[str, int]:
    out, err = process.communicate(timeout=WAIT)
    assert process.returncode == 0, err
    report: dict[str, int] = json.loads(out)
    return report


@pytest.fixture
def repo(hub: HubServer) -> Repo:
    """The repository ``acme/big``, whose only large file has the sha256 `BIG`."""
    repo = hub.create_repo("acme/big")
    repo.commit({"model.safetensors": RandomFile(SIZE, seed=3), "config.json": b"{}"})
    return repo


@pytest.fixture(scope="module")
def big() -> str:
    """The sha256 of the large file."""
    digest = hashlib.sha256()
    for block in RandomFile(SIZE, seed=3).blocks():
        digest.update(block)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _journalled(folder: Path) -> int:
    """Chunks that the one journal in `folder`, if it is there yet, says are there."""
    journals = folder.glob(".model.safetensors.*.journal.incomplete")
    return sum(journal.read_bytes().count(b"\n") - 1 for journal in journals)


def _cdn_bytes(hub: HubServer) -> int:
    assert hub.wait_idle()  # it counts bytes after they have gone
    return sum(record.bytes_sent for record in hub.requests if record.host == "cdn")


def test_after_kill_9_only_missing_chunks_move(
    hub: HubServer, repo: Repo, big: str, tmp_path: Path
) -> None:
    """Killed in the middle and started again: exactly the chunks without a record are fetched."""
    _killed(_stuck_with_all_recorded(hub, tmp_path))
    assert not (tmp_path / "model.safetensors").exists()
    held = _journalled(tmp_path)
    _healed(hub)

    report = _end(_start(hub, str(tmp_path)))

    assert held == LETTING_THROUGH
    assert held * CHUNK == report["reused_bytes"]
    assert SIZE - held * CHUNK == _cdn_bytes(hub)
    assert big == _sha256(tmp_path / "model.safetensors")
    assert {"config.json", "model.safetensors"} == set(os.listdir(tmp_path))


def test_a_record_without_its_bytes_costs_one_chunk(
    hub: HubServer, repo: Repo, big: str, tmp_path: Path
) -> None:
    """Bytes lost after they were recorded, as by a power failure, are noticed and fetched."""
    _killed(_stuck_with_all_recorded(hub, tmp_path))
    held = _journalled(tmp_path)
    (partial,) = (
        path
        for path in tmp_path.glob(".model.safetensors.*.incomplete")
        if ".journal." not in path.name
    )
    journal = partial.with_name(partial.name.removesuffix("incomplete") + "journal.incomplete")
    index = int(journal.read_text().splitlines()[1].split()[0])
    with partial.open("r+b") as file:
        file.seek(index * CHUNK + 5)
        file.write(b"\0" * 100)
    _healed(hub)

    report = _end(_start(hub, str(tmp_path)))

    assert (held - 1) * CHUNK == report["reused_bytes"]
    assert big == _sha256(tmp_path / "model.safetensors")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_process_ends_at_once_and_can_go_on(
    hub: HubServer, repo: Repo, big: str, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Ctrl-C and SIGTERM: no final name, no traceback, one resumable partial file."""
    process = _stuck_with_all_recorded(hub, tmp_path)

    process.send_signal(number)
    _, err = process.communicate(timeout=WAIT)

    assert code == process.returncode
    assert "Traceback" not in err
    left = {name for name in os.listdir(tmp_path) if name.startswith(".")}
    assert len(left) == 2
    assert not (tmp_path / "model.safetensors").exists()
    _healed(hub)
    report = _end(_start(hub, str(tmp_path)))
    assert report["reused_bytes"] == LETTING_THROUGH * CHUNK
    assert big == _sha256(tmp_path / "model.safetensors")


@pytest.mark.s3
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_upload_leaves_no_open_multipart_upload(
    hub: HubServer, repo: Repo, bucket: Bucket, number: signal.Signals
) -> None:
    """Parts were stored already when the signal came: the upload is aborted, no object is there."""
    process = _stuck(hub, f"{bucket.url}/models/x", after=4)

    process.send_signal(number)
    _, err = process.communicate(timeout=WAIT)

    assert "Traceback" not in err
    client = s3_client(bucket.server)
    # MinIO finds uploads only by the exact key.
    key = "models/x/model.safetensors"
    open_uploads = client.list_multipart_uploads(Bucket=bucket.name, Prefix=key)
    assert not open_uploads.get("Uploads")
    stored = client.list_objects_v2(Bucket=bucket.name).get("Contents", ())
    assert key not in [item["Key"] for item in stored]


def test_two_processes_with_one_destination_do_not_disturb_each_other(
    hub: HubServer, repo: Repo, big: str, tmp_path: Path
) -> None:
    """Both succeed, the file is right, and no partial file stays."""
    processes = [_start(hub, str(tmp_path)) for _ in range(2)]

    for process in processes:
        _end(process)

    assert big == _sha256(tmp_path / "model.safetensors")
    assert {"config.json", "model.safetensors"} == set(os.listdir(tmp_path))


def test_a_new_commit_does_not_resume_the_old_file(
    hub: HubServer, repo: Repo, tmp_path: Path
) -> None:
    """What was kept of other content is not used, and goes when the new file is there."""
    _killed(_stuck(hub, str(tmp_path)))
    _healed(hub)
    repo.commit({"model.safetensors": RandomFile(SIZE, seed=4)})

    report = _end(_start(hub, str(tmp_path)))

    assert report["reused_bytes"] == 0
    assert {"config.json", "model.safetensors"} == set(os.listdir(tmp_path))
