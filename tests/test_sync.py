"""The synchronous facade: threads, running loops, interruptions."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import hftransfer
from hftransfer.errors import NotFoundError
from hftransfer.sync import terminable
from hftransfer.testing import Fault, HubServer, RandomFile, Stall


def _source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.bin").write_bytes(os.urandom(3 << 20))
    (folder / "sub" / "b.txt").write_bytes(b"b")
    return folder


def test_copy_needs_no_client(tmp_path: Path) -> None:
    """`hftransfer.copy` is one call, and leaves no thread behind."""
    before = set(threading.enumerate())

    report = hftransfer.copy(_source(tmp_path), tmp_path / "target")

    assert (report.files, report.bytes) == (2, (3 << 20) + 1)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)  # told to end, it may need a moment to do so
        assert not thread.is_alive()


def test_one_client_serves_several_threads(tmp_path: Path) -> None:
    """A client may be used from many threads at once."""
    source = _source(tmp_path)
    reports: list[hftransfer.Report] = []

    with hftransfer.Client() as client:

        def copy(number: int) -> None:
            reports.append(client.copy(source, tmp_path / str(number)))

        threads = [threading.Thread(target=copy, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert [report.files for report in reports] == [2] * 4
    for number in range(4):
        assert (tmp_path / str(number) / "sub" / "b.txt").read_bytes() == b"b"


def test_works_inside_a_running_event_loop(tmp_path: Path) -> None:
    """As in a notebook: the facade has a loop of its own."""
    source = _source(tmp_path)

    async def main() -> hftransfer.Report:
        return hftransfer.copy(source, tmp_path / "target")

    assert asyncio.run(main()).files == 2


def test_a_closed_client_says_so(tmp_path: Path) -> None:
    """Using a client outside its `with` block is a clear error."""
    client = hftransfer.Client()

    with pytest.raises(RuntimeError, match="not open"):
        client.list(tmp_path)


def test_errors_arrive_as_they_are(tmp_path: Path) -> None:
    """What the engine raises reaches the caller of the facade."""
    with hftransfer.Client() as client, pytest.raises(NotFoundError, match="no such file"):
        client.copy(tmp_path / "nothing", tmp_path / "target")


def test_sigterm_keeps_a_handler_that_is_there() -> None:
    """Only the default action of SIGTERM is replaced, and only for the length of a call."""
    before = signal.getsignal(signal.SIGTERM)
    with terminable():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert before is signal.getsignal(signal.SIGTERM)

    def mine(*_: object) -> None: ...

    signal.signal(signal.SIGTERM, mine)
    try:
        with terminable():
            assert mine is signal.getsignal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


_TIMED_OUT = """
import os, signal, sys, threading
import hftransfer
from hftransfer.testing import Fault, HubServer, RandomFile, Stall

class Timeout(Exception): ...

def on_alarm(number, frame):
    raise Timeout

signal.signal(signal.SIGALRM, on_alarm)
target = sys.argv[1]
with HubServer() as hub:
    hub.create_repo("acme/big").commit({"model.safetensors": RandomFile(20 << 20, seed=1)})
    stalled = hub.add_fault(Fault(host="cdn", ranged=True, after=3, times=None, action=Stall()))
    def alarm():
        stalled.wait(30)
        os.kill(os.getpid(), signal.SIGALRM)
    threading.Thread(target=alarm).start()
    before = set(threading.enumerate())
    options = hftransfer.TransferOptions(
        chunk_size=1 << 20, hub=hftransfer.HubOptions(endpoint=hub.endpoint)
    )
    try:
        with hftransfer.Client(options) as client:
            client.copy("hf://acme/big", target)
    except Timeout:
        print("timed out")
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(10)  # told to end, it may need a moment to do so
    print("threads", [thread.name for thread in left if thread.is_alive()])
    sockets = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
               if os.path.exists(f"/proc/self/fd/{fd}")]
    print("files", [name for name in sockets if target in name])
print("names", sorted(name for name in os.listdir(target) if not name.endswith(".incomplete")))
"""


def test_an_exception_from_a_signal_handler_ends_the_transfer(tmp_path: Path) -> None:
    """As Metaflow's @timeout does it: the exception gets out, thread and files do not stay."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", _TIMED_OUT, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert ended.stdout == "timed out\nthreads []\nfiles []\nnames []\n", ended.stderr
    assert ended.stderr == ""


def test_cancelling_the_waiting_thread_stops_the_download(hub: HubServer, tmp_path: Path) -> None:
    """The async original, cancelled: only the resumable partial file stays."""
    hub.create_repo("acme/big").commit({"model.safetensors": RandomFile(20 << 20, seed=1)})
    stalled = hub.add_fault(Fault(host="cdn", ranged=True, after=3, times=None, action=Stall()))
    options = hftransfer.TransferOptions(
        chunk_size=1 << 20, hub=hftransfer.HubOptions(endpoint=hub.endpoint)
    )

    async def main() -> None:
        copying = asyncio.create_task(
            hftransfer.aio.copy("hf://acme/big", tmp_path, options=options)
        )
        await asyncio.to_thread(stalled.wait, 30)
        copying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await copying
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())

    assert all(name.endswith(".incomplete") for name in os.listdir(tmp_path))
