"""The data path as a whole: no memory beside the buffers, small files beside large ones."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

import hftransfer
from hftransfer import AsyncClient, Client, HubOptions, Report, TransferOptions
from hftransfer._engine.context import Context
from hftransfer._engine.transfer import transfer
from hftransfer.stores.memory import MemoryStore
from hftransfer.testing import Fault, HubServer, RandomFile, Stall, Status

MIB = 1 << 20
CHUNK = 64 * 1024


def _options(hub: HubServer, **options: object) -> TransferOptions:
    return TransferOptions(hub=HubOptions(endpoint=hub.endpoint), **options)  # type: ignore[arg-type]


@pytest.mark.asyncio
@pytest.mark.parametrize("loops", [1, 2])
async def test_nobody_allocates_a_chunk_while_data_moves(
    hub: HubServer, tmp_path: Path, loops: int
) -> None:
    """Bytes go from the socket into the pool's mapping and from there to the disk.

    The first file warms up imports, connections and buffers; while the second, of 48 MiB in
    chunks of 4 MiB, is moved, all Python objects together never grow by a chunk.
    """
    chunk = 4 * MIB
    hub.create_repo("acme/warm", files={"w.bin": RandomFile(2 * chunk, seed=1)})
    hub.create_repo("acme/big", files={"b.bin": RandomFile(12 * chunk, seed=2)})
    options = _options(hub, chunk_size=chunk, memory_budget=6 * chunk, connections=3, loops=loops)
    async with AsyncClient(options) as client:
        await client.copy("hf://acme/warm", tmp_path / "warm")
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            report = await client.copy("hf://acme/big", tmp_path / "big")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    assert report.bytes == 12 * chunk
    assert report.verified == 1
    # aiohttp reads the head of each answer with what comes right behind it, 256 KiB at most.
    assert peak - before < chunk


@pytest.mark.anyio
async def test_small_files_do_not_wait_for_a_large_one() -> None:
    """While the first chunk of a large file hangs, every small file arrives."""
    small = {f"small-{index:03}": b"%d" % index * 50 for index in range(200)}
    large = {f"large-{index}": bytes([index]) * (20 * CHUNK) for index in range(6)}
    source, sink = MemoryStore({**large, **small}), MemoryStore()
    releases = [source.hold(path, 0) for path in large]
    options = TransferOptions(chunk_size=CHUNK, connections=8, memory_budget=64 * CHUNK)
    context = Context.make(options)

    async with anyio.create_task_group() as tasks:

        async def move() -> None:
            await transfer(source, [sink], await source.list(), context)

        tasks.start_soon(move)
        with anyio.fail_after(30):
            while len(sink.files) < len(small):
                await anyio.lowlevel.checkpoint()
        assert sink.files == small
        for release in releases:
            release.set()

    assert sink.files == {**large, **small}


def test_a_stalled_connection_does_not_hold_up_the_end(hub: HubServer, tmp_path: Path) -> None:
    """Its rest is shared out at once, and what it holds back is asked for anew."""
    hub.create_repo("acme/big", files={"b.bin": RandomFile(24 * MIB, seed=3)})
    hub.add_fault(Fault(host="cdn", ranged=True, after=1, times=1, action=Stall()))

    with Client(_options(hub, connections=4)) as client:
        report = client.copy("hf://acme/big", tmp_path / "big")

    assert report.verified == 1
    assert report.bytes == 24 * MIB


def test_the_bandwidth_can_be_changed_while_it_runs(hub: HubServer, tmp_path: Path) -> None:
    """A cap under which it would take an hour is lifted in the middle of the transfer."""
    hub.create_repo("acme/big", files={"b.bin": RandomFile(24 * MIB, seed=3)})
    client = Client(_options(hub, bandwidth=5000.0))
    lifted: list[float | None] = []

    def lift(event: object) -> None:
        if not lifted:
            lifted.append(client.bandwidth)
            client.bandwidth = None

    client._client._observer = lift
    with client:
        report = client.copy("hf://acme/big", tmp_path / "big")

    assert lifted == [5000.0]
    assert client.bandwidth is None
    assert report.verified == 1


@pytest.mark.parametrize("rate", [0, -1.0])
def test_a_bandwidth_that_lets_nothing_pass_is_refused(rate: float) -> None:
    """At making and at changing alike."""
    with pytest.raises(hftransfer.OptionsError, match="positive"):
        TransferOptions(bandwidth=rate)
    client = AsyncClient(TransferOptions())
    with pytest.raises(hftransfer.OptionsError, match="positive"):
        client.bandwidth = rate


@pytest.mark.parametrize("loops", [1, 2, 3])
def test_any_number_of_loops_gives_the_same_files(
    hub: HubServer, tmp_path: Path, loops: int
) -> None:
    """Also with failures in between, which are tried again in their own loop."""
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


@pytest.mark.parametrize("mode", ["on", "off", "auto"])
def test_direct_or_not_the_file_is_the_same(hub: HubServer, tmp_path: Path, mode: str) -> None:
    """With a tail that is no whole block, and a resume that reads it back."""
    repo = hub.create_repo("acme/odd", files={"a.bin": RandomFile(5 * MIB + 12345, seed=1)})

    with Client(_options(hub, chunk_size=MIB, direct_io=mode)) as client:
        client.copy("hf://acme/odd", tmp_path)

    assert (tmp_path / "a.bin").read_bytes() == repo.blob("a.bin").read_bytes()
