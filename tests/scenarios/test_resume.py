"""Interrupted processes: what they leave behind, and what the next process transfers."""

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
from support.hub import cdn_bytes
from support.s3 import Bucket, s3_client

SIZE = 40 << 20
CHUNK = 1 << 20
SERVED_CHUNKS = 12
TIMEOUT = 30


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


def _start_and_stall(
    hub: HubServer, destination: str, *, after: int = SERVED_CHUNKS
) -> subprocess.Popen[str]:
    """Start a copy and return when one of its requests stalls: all do after the first `after`."""
    stalled = hub.add_fault(Fault(host="cdn", ranged=True, after=after, times=None, action=Stall()))
    process = _start(hub, destination)
    assert stalled.wait(TIMEOUT)
    return process


def _start_and_stall_recorded(hub: HubServer, folder: Path) -> subprocess.Popen[str]:
    """As `_start_and_stall`, and return when every served chunk is in the journal."""
    process = _start_and_stall(hub, str(folder))
    while _count_recorded(folder) < SERVED_CHUNKS:  # bounded by the timeout of the test
        with pytest.raises(subprocess.TimeoutExpired):  # it must not end
            process.wait(0.05)
    return process


def _kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=TIMEOUT)


def _remove_faults(hub: HubServer) -> None:
    """Let the CDN respond again, and clear the log of requests."""
    hub.clear_faults()
    hub.release()
    assert hub.wait_idle()
    hub.clear_requests()


def _wait_for_report(process: subprocess.Popen[str]) -> dict[str, int]:
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, err
    report: dict[str, int] = json.loads(out)
    return report


@pytest.fixture
def repo(hub: HubServer) -> Repo:
    """The repository ``acme/big`` with one large and one small file."""
    repo = hub.create_repo("acme/big")
    repo.commit({"model.safetensors": RandomFile(SIZE, seed=3), "config.json": b"{}"})
    return repo


@pytest.fixture(scope="module")
def big() -> str:
    """sha256 of the large file, in hex."""
    digest = hashlib.sha256()
    for block in RandomFile(SIZE, seed=3).blocks():
        digest.update(block)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _count_recorded(folder: Path) -> int:
    """Return the number of chunks in the journal in `folder`; 0 if there is no journal yet."""
    journals = folder.glob(".model.safetensors.*.journal.incomplete")
    return sum(journal.read_bytes().count(b"\n") - 1 for journal in journals)


def test_after_sigkill_only_missing_chunks_are_transferred(
    hub: HubServer, repo: Repo, big: str, tmp_path: Path
) -> None:
    """The second process fetches exactly the chunks that are not in the journal."""
    _kill(_start_and_stall_recorded(hub, tmp_path))
    assert not (tmp_path / "model.safetensors").exists()
    recorded = _count_recorded(tmp_path)
    _remove_faults(hub)

    report = _wait_for_report(_start(hub, str(tmp_path)))

    assert recorded == SERVED_CHUNKS
    assert recorded * CHUNK == report["reused_bytes"]
    assert SIZE - recorded * CHUNK == cdn_bytes(hub)
    assert big == _sha256(tmp_path / "model.safetensors")
    assert {"config.json", "model.safetensors"} == set(os.listdir(tmp_path))


def test_a_chunk_lost_after_it_was_recorded_is_fetched_again(
    hub: HubServer, repo: Repo, big: str, tmp_path: Path
) -> None:
    """Bytes that a power failure lost do not match the digest in the journal."""
    _kill(_start_and_stall_recorded(hub, tmp_path))
    recorded = _count_recorded(tmp_path)
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
    _remove_faults(hub)

    report = _wait_for_report(_start(hub, str(tmp_path)))

    assert (recorded - 1) * CHUNK == report["reused_bytes"]
    assert big == _sha256(tmp_path / "model.safetensors")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_process_ends_and_is_resumed(
    hub: HubServer, repo: Repo, big: str, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """SIGINT and SIGTERM leave no file, no traceback, and a partial file that is resumed."""
    process = _start_and_stall_recorded(hub, tmp_path)

    process.send_signal(number)
    _, err = process.communicate(timeout=TIMEOUT)

    assert code == process.returncode
    assert "Traceback" not in err
    partial_files = {name for name in os.listdir(tmp_path) if name.startswith(".")}
    assert len(partial_files) == 2
    assert not (tmp_path / "model.safetensors").exists()
    _remove_faults(hub)
    report = _wait_for_report(_start(hub, str(tmp_path)))
    assert report["reused_bytes"] == SERVED_CHUNKS * CHUNK
    assert big == _sha256(tmp_path / "model.safetensors")


@pytest.mark.s3
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_upload_leaves_no_open_multipart_upload(
    hub: HubServer, repo: Repo, bucket: Bucket, number: signal.Signals
) -> None:
    """A multipart upload is open when the signal arrives; it is aborted, and there is no object."""
    client = s3_client(bucket.server)
    key = "models/x/model.safetensors"

    def open_uploads() -> int:
        # MinIO lists uploads only by the exact key.
        listed = client.list_multipart_uploads(Bucket=bucket.name, Prefix=key)
        return len(listed.get("Uploads", ()))

    process = _start_and_stall(hub, f"{bucket.url}/models/x", after=4)
    while not open_uploads():  # bounded by the timeout of the test
        with pytest.raises(subprocess.TimeoutExpired):  # it must not end
            process.wait(0.05)

    process.send_signal(number)
    _, err = process.communicate(timeout=TIMEOUT)

    assert "Traceback" not in err
    assert open_uploads() == 0
    stored = client.list_objects_v2(Bucket=bucket.name).get("Contents", ())
    assert key not in [item["Key"] for item in stored]


def test_two_processes_with_one_destination_both_succeed(
    hub: HubServer, repo: Repo, big: str, tmp_path: Path
) -> None:
    """The file has the right content, and no partial file is left."""
    processes = [_start(hub, str(tmp_path)) for _ in range(2)]

    for process in processes:
        _wait_for_report(process)

    assert big == _sha256(tmp_path / "model.safetensors")
    assert {"config.json", "model.safetensors"} == set(os.listdir(tmp_path))


def test_a_new_commit_does_not_resume_the_old_file(
    hub: HubServer, repo: Repo, tmp_path: Path
) -> None:
    """The partial file of the old content is not used, and removed after the transfer."""
    _kill(_start_and_stall(hub, str(tmp_path)))
    _remove_faults(hub)
    repo.commit({"model.safetensors": RandomFile(SIZE, seed=4)})

    report = _wait_for_report(_start(hub, str(tmp_path)))

    assert report["reused_bytes"] == 0
    assert {"config.json", "model.safetensors"} == set(os.listdir(tmp_path))


def test_a_finished_file_is_read_and_not_fetched_again(
    hub: HubServer, repo: Repo, big: str, tmp_path: Path
) -> None:
    """If it has the Hub's digest; a damaged one of the same size is replaced."""
    _wait_for_report(_start(hub, str(tmp_path)))
    target = tmp_path / "model.safetensors"
    inode = target.stat().st_ino
    hub.clear_requests()

    report = _wait_for_report(_start(hub, str(tmp_path)))

    assert report["skipped"] == 1
    assert cdn_bytes(hub) == 0
    assert target.stat().st_ino == inode
    with target.open("r+b") as file:
        file.seek(SIZE // 2)
        file.write(b"damage")
    _wait_for_report(_start(hub, str(tmp_path)))
    assert cdn_bytes(hub) == SIZE
    assert big == _sha256(target)
