"""The synchronous API: several threads, running event loops, interruptions."""

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
from hftransfer._core.events import BytesMoved, Event
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
    """`hftransfer.copy` is a single call, after which its threads end."""
    before = set(threading.enumerate())

    report = hftransfer.copy(_source(tmp_path), tmp_path / "target")

    assert (report.files, report.bytes) == (2, (3 << 20) + 1)
    started = set(threading.enumerate()) - before
    for thread in started:
        thread.join(10)
    assert [thread.name for thread in started if thread.is_alive()] == []


def test_one_client_serves_several_threads(tmp_path: Path) -> None:
    """A client may be used from several threads at once."""
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
    """As in a notebook: the call uses its own event loop, in its own thread."""
    source = _source(tmp_path)

    async def main() -> hftransfer.Report:
        return hftransfer.copy(source, tmp_path / "target")

    assert asyncio.run(main()).files == 2


def test_a_client_outside_its_with_block_raises(tmp_path: Path) -> None:
    """The error says that the client is not open."""
    client = hftransfer.Client()

    with pytest.raises(RuntimeError, match="not open"):
        client.list(tmp_path)


def test_errors_of_the_engine_reach_the_caller(tmp_path: Path) -> None:
    """The exception is the one that the engine raised, not a wrapper."""
    with hftransfer.Client() as client, pytest.raises(NotFoundError, match="no such file"):
        client.copy(tmp_path / "nothing", tmp_path / "target")


def test_only_the_default_action_of_sigterm_is_replaced() -> None:
    """It is restored after the call; a handler that the program has set stays in place."""
    before = signal.getsignal(signal.SIGTERM)
    with terminable():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert before is signal.getsignal(signal.SIGTERM)

    def own_handler(*_: object) -> None: ...

    signal.signal(signal.SIGTERM, own_handler)
    try:
        with terminable():
            assert own_handler is signal.getsignal(signal.SIGTERM)
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
        thread.join(10)
    print("threads", [thread.name for thread in left if thread.is_alive()])
    opened = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
              if os.path.exists(f"/proc/self/fd/{fd}")]
    print("files", [name for name in opened if target in name])
print("names", sorted(name for name in os.listdir(target) if not name.endswith(".incomplete")))
"""


def test_an_exception_from_a_signal_handler_ends_the_transfer(tmp_path: Path) -> None:
    """As with Metaflow's ``@timeout``: the exception is raised, threads end, files are closed."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", _TIMED_OUT, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert ended.stdout == "timed out\nthreads []\nfiles []\nnames []\n", ended.stderr
    assert ended.stderr == ""


def test_cancelling_the_async_copy_ends_the_transfer(hub: HubServer, tmp_path: Path) -> None:
    """After the cancellation no task is left, and only the resumable partial file is kept."""
    hub.create_repo("acme/big").commit({"model.safetensors": RandomFile(20 << 20, seed=1)})
    stalled = hub.add_fault(Fault(host="cdn", ranged=True, after=3, times=None, action=Stall()))
    options = hftransfer.TransferOptions(
        chunk_size=1 << 20, hub=hftransfer.HubOptions(endpoint=hub.endpoint)
    )

    async def main() -> None:
        stored = asyncio.Event()

        def observe(event: Event) -> None:
            if isinstance(event, BytesMoved):
                stored.set()

        async with hftransfer.AsyncClient(options, observer=observe) as client:
            copying = asyncio.create_task(client.copy("hf://acme/big", tmp_path))
            await asyncio.wait_for(stored.wait(), 30)
            assert await asyncio.to_thread(stalled.wait, 30)
            copying.cancel()
            with pytest.raises(asyncio.CancelledError):
                await copying
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())

    left = os.listdir(tmp_path)
    assert left
    assert [name for name in left if not name.endswith(".incomplete")] == []


def test_aio_has_the_copy_for_async_code(tmp_path: Path) -> None:
    """`hftransfer.aio.copy` is the coroutine function behind `hftransfer.copy`."""
    report = asyncio.run(hftransfer.aio.copy(_source(tmp_path), tmp_path / "target"))

    assert report.files == 2
    assert (tmp_path / "target" / "sub" / "b.txt").read_bytes() == b"b"
