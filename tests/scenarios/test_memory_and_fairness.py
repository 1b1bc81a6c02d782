"""Whole transfers: memory stays within the budget, and slow or large files delay no others."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import anyio
import pytest

import hftransfer
from hftransfer import AsyncClient, Client, HubOptions, Report, TransferOptions
from hftransfer._core.events import BytesMoved, Event, FileFinished
from hftransfer._engine.context import Context
from hftransfer._engine.transfer import transfer
from hftransfer._io.direct_io import DirectWriter
from hftransfer.stores.memory import MemoryStore
from hftransfer.testing import Fault, HubServer, RandomFile, Stall, Status

MIB = 1 << 20
CHUNK = 64 * 1024
# Memory for everything but file data: tasks, connections, thread stacks.
OBJECTS = 4 * MIB


def _options(hub: HubServer, **options: object) -> TransferOptions:
    return TransferOptions(hub=HubOptions(endpoint=hub.endpoint), **options)  # type: ignore[arg-type]


# Prints the bytes moved by the second transfer, and by how many bytes the resident memory of the
# process grew at most while it ran. Writing 5 to clear_refs resets the peak (proc(5)).
_MEASURE_MEMORY = """
import sys
from pathlib import Path
from hftransfer import Client, HubOptions, TransferOptions

def memory(name):
    (line,) = (line for line in open("/proc/self/status") if line.startswith(name))
    return int(line.split()[1]) * 1024

endpoint, folder, budget, chunk = sys.argv[1:]
hub = HubOptions(endpoint=endpoint)
options = TransferOptions(
    hub=hub, memory_budget=int(budget), chunk_size=int(chunk), connections=8
)
with Client(options) as client:
    client.copy("hf://acme/warm-up", Path(folder, "warm-up"))
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS:")
    report = client.copy("hf://acme/measured", Path(folder, "measured"))
    print(report.bytes, memory("VmHWM:") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("sizes", "budget"),
    [
        pytest.param([96 * MIB], 16 * MIB, id="one file"),
        pytest.param([24 * MIB] * 4, 48 * MIB, id="four files"),
        pytest.param([24 * MIB] * 3 + [MIB] * 24, 16 * MIB, id="large and small files"),
    ],
)
def test_the_peak_of_memory_is_within_the_budget(
    hub: HubServer, tmp_path: Path, sizes: list[int], budget: int
) -> None:
    """96 MiB are moved. The process grows by most of the budget, and by little more than it.

    The first transfer of the process loads modules and opens connections.
    """
    chunk = 2 * MIB
    hub.create_repo("acme/warm-up", files={"a.bin": RandomFile(CHUNK), "b.json": b"{}"})
    files = {f"{index}.bin": RandomFile(size, seed=index) for index, size in enumerate(sizes)}
    hub.create_repo("acme/measured", files=files)

    arguments = [hub.endpoint, str(tmp_path), str(budget), str(chunk)]
    finished = subprocess.run(
        [sys.executable, "-c", _MEASURE_MEMORY, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.returncode == 0, finished.stderr
    moved, growth = map(int, finished.stdout.split())
    assert moved == sum(sizes) == 96 * MIB
    assert budget // 2 < growth <= budget + OBJECTS


@pytest.mark.asyncio
@pytest.mark.parametrize("loops", [1, 2])
@pytest.mark.parametrize("count", [1, 3])
async def test_no_chunk_is_allocated_outside_the_buffer_pool(
    hub: HubServer, tmp_path: Path, loops: int, count: int
) -> None:
    """Bytes are received into the pool's mapping and written to the disk from there.

    The first transfer loads modules and opens connections. During the second, of 48 MiB in chunks
    of 4 MiB, the memory of all Python objects never grows by the size of a chunk.
    """
    chunk = 4 * MIB
    hub.create_repo("acme/warm-up", files={"w.bin": RandomFile(2 * chunk, seed=1)})
    size = 12 * chunk // count
    files = {f"{index}.bin": RandomFile(size, seed=2 + index) for index in range(count)}
    hub.create_repo("acme/measured", files=files)
    options = _options(hub, chunk_size=chunk, memory_budget=6 * chunk, connections=3, loops=loops)
    async with AsyncClient(options) as client:
        await client.copy("hf://acme/warm-up", tmp_path / "warm-up")
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            report = await client.copy("hf://acme/measured", tmp_path / "measured")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert report.bytes == 12 * chunk
    assert report.verified == count
    # The buffers for response headers have up to 256 KiB for each connection.
    assert peak - before < chunk


@pytest.mark.anyio
async def test_small_files_do_not_wait_for_large_ones() -> None:
    """While the first chunk of every large file is blocked, all small files are committed."""
    small = {f"small-{index:03}": b"%d" % index * 50 for index in range(200)}
    large = {f"large-{index}": bytes([index]) * (20 * CHUNK) for index in range(6)}
    source, sink = MemoryStore({**large, **small}), MemoryStore()
    blocked = [source.hold(path, 0) for path in large]
    small_finished = anyio.Event()

    def observe(event: Event) -> None:
        if isinstance(event, FileFinished) and len(sink.files) == len(small):
            small_finished.set()

    options = TransferOptions(chunk_size=CHUNK, connections=8, memory_budget=64 * CHUNK)
    context = Context.make(options, observe)

    async def move() -> None:
        await transfer(source, [sink], await source.list(), context)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(move)
        await small_finished.wait()
        assert sink.files == small
        for event in blocked:
            event.set()

    assert sink.files == {**large, **small}


def test_a_stalled_connection_does_not_delay_the_end(hub: HubServer, tmp_path: Path) -> None:
    """One response stalls and never resumes: other connections fetch its range."""
    hub.create_repo("acme/big", files={"b.bin": RandomFile(24 * MIB, seed=3)})
    stall = hub.add_fault(Fault(host="cdn", ranged=True, after=1, times=1, action=Stall()))

    with Client(_options(hub, connections=4)) as client:
        report = client.copy("hf://acme/big", tmp_path / "big")

    assert stall.count == 1
    assert report.verified == 1
    assert report.bytes == 24 * MIB


def test_the_bandwidth_can_be_changed_during_a_transfer(hub: HubServer, tmp_path: Path) -> None:
    """A limit with which the transfer would take more than an hour is removed while it runs."""
    hub.create_repo("acme/big", files={"b.bin": RandomFile(24 * MIB, seed=3)})
    removed: list[float | None] = []

    def remove_limit(event: Event) -> None:
        if not removed:
            removed.append(client.bandwidth)
            client.bandwidth = None

    client = Client(_options(hub, bandwidth=5000.0), observer=remove_limit)
    with client:
        report = client.copy("hf://acme/big", tmp_path / "big")

    assert removed == [5000.0]
    assert client.bandwidth is None
    assert report.verified == 1


@pytest.mark.parametrize("rate", [0, -1.0])
def test_a_bandwidth_must_be_positive(rate: float) -> None:
    """In the options, and when it is changed."""
    with pytest.raises(hftransfer.OptionsError, match="positive"):
        TransferOptions(bandwidth=rate)
    client = AsyncClient(TransferOptions())
    with pytest.raises(hftransfer.OptionsError, match="positive"):
        client.bandwidth = rate


@pytest.mark.parametrize("loops", [1, 2, 3])
def test_any_number_of_loops_gives_the_same_files(
    hub: HubServer, tmp_path: Path, loops: int
) -> None:
    """Two requests fail and are retried; every file has the right content."""
    repo = hub.create_repo(
        "acme/mixed",
        files={
            "a.safetensors": RandomFile(10 * MIB + 17, seed=1),
            "b.safetensors": RandomFile(3 * MIB, seed=2),
            "config.json": b"{}",
        },
    )
    hub.add_fault(Fault(host="cdn", times=2, action=Status(503)))

    with Client(_options(hub, chunk_size=2 * MIB, loops=loops)) as client:
        report: Report = client.copy("hf://acme/mixed", tmp_path)

    assert report.retries >= 2
    for path in ("a.safetensors", "b.safetensors", "config.json"):
        assert (tmp_path / path).read_bytes() == repo.blob(path).read_bytes()


@pytest.mark.asyncio
@pytest.mark.parametrize("mode", ["on", "off", "auto"])
async def test_a_file_is_the_same_with_and_without_direct_io(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Its last block is incomplete, and the transfer is cancelled and resumed in between.

    `on` writes every chunk with `DirectWriter`, `off` none; `auto` decides by measurements.
    """
    direct_writes: list[int] = []
    write = DirectWriter.write

    def counted(writer: DirectWriter, data: memoryview, start: int) -> int:
        direct_writes.append(start)
        return write(writer, data, start)

    monkeypatch.setattr(DirectWriter, "write", counted)
    chunks = 6
    content = RandomFile((chunks - 1) * MIB + 12345, seed=1)
    repo = hub.create_repo("acme/odd", files={"a.bin": content})
    stall = hub.add_fault(Fault(host="cdn", ranged=True, after=3, times=None, action=Stall()))
    options = _options(hub, chunk_size=MIB, connections=1, direct_io=mode)
    scope = anyio.CancelScope()
    moved: list[int] = []

    def cancel_after_three_chunks(event: Event) -> None:
        if isinstance(event, BytesMoved):
            moved.append(event.bytes)
            if len(moved) == 3:
                scope.cancel()

    async with AsyncClient(options, observer=cancel_after_three_chunks) as client:
        with scope:
            await client.copy("hf://acme/odd", tmp_path)
        assert scope.cancelled_caught
        hub.clear_faults()
        hub.release()
        report = await client.copy("hf://acme/odd", tmp_path)

    assert stall.count <= 1
    assert report.reused_bytes == 3 * MIB
    if mode != "auto":
        assert len(direct_writes) == (chunks if mode == "on" else 0)
    assert (tmp_path / "a.bin").read_bytes() == repo.blob("a.bin").read_bytes()
