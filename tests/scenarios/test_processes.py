"""Forks, closed clients, the end of the interpreter, and Ctrl-C at many moments: real processes."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

import hftransfer
from hftransfer import AsyncClient, Client, HubOptions, TransferError, TransferOptions
from hftransfer._io.signals import INTERRUPTED
from hftransfer.testing import Fault, HubServer, RandomFile, Stall
from support.cli import DEADLINE, cli_command, cli_environ

KIB = 1024
FILE = RandomFile(1 << 20, seed=4)


def _in_fork(function: Callable[[], str]) -> str:
    """Return what `function` returns, or the traceback that it raises, in a forked process."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12+: there are threads
        child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            try:
                text = function()
            except BaseException:  # noqa: BLE001 - the parent reads it
                text = traceback.format_exc()
            os.write(writing, text.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        output = pipe.read().decode()
    os.waitpid(child, 0)
    return output


def _files(folder: Path) -> Path:
    folder.mkdir()
    (folder / "a.bin").write_bytes(os.urandom(3 << 20))
    (folder / "b.txt").write_bytes(b"b")
    return folder


def _options(hub: HubServer) -> TransferOptions:
    return TransferOptions(
        chunk_size=64 * KIB, hub=HubOptions(endpoint=hub.endpoint, token=False), loops=2
    )


def test_a_client_raises_in_a_fork_and_works_in_the_parent(tmp_path: Path) -> None:
    """Its calls raise a RuntimeError that names both processes; its ``with`` block can be left."""
    source = _files(tmp_path / "in")
    client = Client()
    with client:
        client.copy(source, tmp_path / "one")

        def use() -> str:
            with pytest.raises(RuntimeError, match=f"opened by process {os.getppid()}"):
                client.copy(source, tmp_path / "child")
            with pytest.raises(RuntimeError, match="open a new client"):
                client.list(source)
            client.close()
            return "done"

        assert _in_fork(use) == "done"
        client.copy(source, tmp_path / "two")

    assert (tmp_path / "two/a.bin").read_bytes() == (source / "a.bin").read_bytes()
    assert not (tmp_path / "child").exists()


def test_new_clients_work_in_a_fork_of_a_process_with_an_open_one(
    hub: HubServer, tmp_path: Path
) -> None:
    """`copy`, `Client` and the drop-in for huggingface_hub, after each was used in the parent."""
    hub.create_repo("acme/tiny", files={"model.bin": FILE, "c.json": b"{}"})

    def download(folder: Path) -> str:
        hftransfer.copy("hf://acme/tiny", folder / "a", options=_options(hub))
        with Client(_options(hub)) as other:
            other.copy("hf://acme/tiny/model.bin", folder / "b")
        path = hftransfer.hf_hub_download(
            "acme/tiny", "c.json", endpoint=hub.endpoint, token=False, cache_dir=folder / "cache"
        )
        return Path(path).read_text()

    with Client(_options(hub)) as client:
        client.copy("hf://acme/tiny", tmp_path / "before")
        assert download(tmp_path / "parent") == "{}"
        assert _in_fork(lambda: download(tmp_path / "child")) == "{}"
        client.copy("hf://acme/tiny", tmp_path / "after")

    assert (tmp_path / "child/b").read_bytes() == (tmp_path / "after/model.bin").read_bytes()


def test_an_async_client_raises_in_a_fork(tmp_path: Path) -> None:
    """In an event loop of the child, in which leaving the client closes nothing of the parent."""
    source = _files(tmp_path / "in")

    async def main() -> str:
        async with AsyncClient() as client:
            await client.copy(source, tmp_path / "one")

            def use() -> str:
                async def child() -> None:
                    with pytest.raises(RuntimeError, match="and this is its fork"):
                        await client.copy(source, tmp_path / "child")
                    await client.__aexit__(None, None, None)

                asyncio.events._set_running_loop(None)
                asyncio.run(child())
                return "done"

            output = _in_fork(use)
            await client.copy(source, tmp_path / "two")
            return output

    assert asyncio.run(main()) == "done"


def _descriptors() -> set[str]:
    gc.collect()
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name}: {os.readlink(f'/proc/self/fd/{name}')}")
        except OSError:
            pass  # that of the listing itself
    return found


@pytest.fixture
def stalled_hub(hub: HubServer) -> HubServer:
    """A Hub whose CDN sends the first chunks of a file and then nothing."""
    hub.create_repo("acme/big", files={"model.bin": FILE})
    hub.add_fault(Fault(action=Stall(1000), host="cdn", ranged=True, after=4, times=None))
    return hub


def _await_stall(hub: HubServer) -> None:
    assert hub._faults._handles[0].wait(DEADLINE)


def test_close_cancels_what_other_threads_move(stalled_hub: HubServer, tmp_path: Path) -> None:
    """They raise once they have cleaned up; no descriptor and no thread stays."""
    _in_fork(lambda: "")  # opens what is opened once per process
    before, threads = _descriptors(), set(threading.enumerate())
    client = Client(_options(stalled_hub)).__enter__()
    errors: list[BaseException] = []

    def copy(number: int) -> None:
        try:
            client.copy("hf://acme/big", tmp_path / str(number))
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    copying = [threading.Thread(target=copy, args=(number,)) for number in range(3)]
    for thread in copying:
        thread.start()
    _await_stall(stalled_hub)
    client.close()
    client.close()
    for thread in copying:
        thread.join(DEADLINE)

    assert [type(error) for error in errors] == [TransferError] * 3
    assert {str(error) for error in errors} == {
        "the client was closed before the operation had ended"
    }
    assert stalled_hub.wait_idle()
    assert _started_since(threads) == set()
    assert _own(_descriptors() - before, stalled_hub) == set()
    with pytest.raises(RuntimeError, match="not open"):
        client.copy("hf://acme/big", tmp_path / "again")


def _started_since(threads: set[threading.Thread]) -> set[str]:
    """Return the threads that were started and stay.

    Without those of the server's executor, and the one that closes clients when the interpreter
    exits, of which a process has one.
    """
    started = [
        thread
        for thread in set(threading.enumerate()) - threads
        if not thread.name.startswith(("asyncio_", "hftransfer-close"))
    ]
    for thread in started:
        thread.join(DEADLINE)  # idle workers are told to end, and take a moment
    return {thread.name for thread in started if thread.is_alive()}


def _own(descriptors: set[str], hub: HubServer) -> set[str]:
    """Return those descriptors that are not the server's: it runs in this process, too."""
    return {each for each in descriptors if "hftransfer-hub-" not in each}


def test_leaving_an_async_client_cancels_its_transfers(
    stalled_hub: HubServer, tmp_path: Path
) -> None:
    """Other tasks get the error; no task, thread or descriptor stays."""
    before, threads = _descriptors(), set(threading.enumerate())

    async def main() -> set[str]:
        async with AsyncClient(_options(stalled_hub)) as client:
            copies = [
                asyncio.create_task(client.copy("hf://acme/big", tmp_path / str(number)))
                for number in range(3)
            ]
            await anyio.to_thread.run_sync(_await_stall, stalled_hub)
        results = await asyncio.gather(*copies, return_exceptions=True)
        assert [type(result) for result in results] == [TransferError] * 3
        return {task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}}

    assert asyncio.run(main()) == set()
    assert stalled_hub.wait_idle()
    assert _started_since(threads) == set()
    assert _own(_descriptors() - before, stalled_hub) == set()


@pytest.mark.skipif(
    sys.version_info[:2] == (3, 12),
    reason="Python 3.12 starts no thread once the main thread has ended, so nothing can be copied",
)
def test_the_interpreter_ends_although_a_client_is_open(tmp_path: Path) -> None:
    """The client is closed, after the threads of the program that use it have ended."""
    _files(tmp_path / "in")
    script = """
import threading, hftransfer
client = hftransfer.Client().__enter__()
client.copy("in", "one")
used = threading.Event()
def later():
    client.list("in")
    used.set()
    threading.main_thread().join()
    client.copy("in", "two")
    print("copied", flush=True)
threading.Thread(target=later).start()
used.wait()
"""
    finished = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=cli_environ(),
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )

    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "copied\n", "")
    assert (tmp_path / "two/b.txt").read_bytes() == b"b"


# Sends SIGINT to its own process at the n-th audit event of a kind, or start of a thread, once the
# command line runs.
_INTERRUPTER = """
import os, signal, sys
kind, wanted = os.environ["INTERRUPT_AT"].rsplit(":", 1)
count = -1
def hook(event, arguments):
    global count
    if event == "import" and arguments[0] == "hftransfer.cli" and count < 0:
        count = 0
    if count < 0 or event != kind:
        return
    count += 1
    if count == int(wanted):
        os.mkdir(os.environ["INTERRUPT_SENT"])
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(hook)

import threading

def reporting(start):
    def report(*arguments, **options):
        hook("thread", ())
        return start(*arguments, **options)
    return report

for name in ("_start_new_thread", "_start_joinable_thread"):  # the latter since Python 3.13
    if hasattr(threading, name):
        setattr(threading, name, reporting(getattr(threading, name)))
"""

MOMENTS = [
    *(f"import:{number}" for number in (1, 2, 5, 15, 40, 80, 120, 160, 200, 240)),
    *(f"open:{number}" for number in (1, 3)),
    *(f"thread:{number}" for number in (1, 2, 3)),
    *(f"socket.__new__:{number}" for number in (1, 2, 3, 4)),
    "socket.getaddrinfo:1",
    "socket.connect:1",
]

ALWAYS = ("import:1", "import:40", "thread:1", "socket.connect:1")
"""Moments that come in every environment."""


@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_prints_one_line_at_any_moment(hub: HubServer, tmp_path: Path, moment: str) -> None:
    """During imports, the start of threads, the first look-up and connection: code 130.

    A moment that does not come lets the command succeed.
    """
    hub.create_repo("acme/tiny", files={"c.json": b"{}"})
    (tmp_path / "sitecustomize.py").write_text(_INTERRUPTER)
    sent = tmp_path / "sent"
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    finished = subprocess.run(
        cli_command("cp", "hf://acme/tiny", tmp_path / "out"),
        env={
            **cli_environ(hub),
            "PYTHONPATH": path,
            "INTERRUPT_AT": moment,
            "INTERRUPT_SENT": str(sent),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )

    assert "Traceback" not in finished.stderr, finished.stderr
    assert finished.returncode == (130 if sent.exists() else 0), finished.stderr
    shown = [line for line in finished.stderr.splitlines() if "%" not in line]
    assert shown == ([INTERRUPTED] if sent.exists() else [])
    assert sent.exists() or moment not in ALWAYS
