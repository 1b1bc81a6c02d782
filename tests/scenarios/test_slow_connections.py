"""A connection that trickles delays a transfer by seconds, wherever it is, and never ends it.

A drip of 2,000 bytes per second would take more than an hour for a chunk: that the transfer ends
shows that the chunk was asked for again. How soon, is shown on a simulated clock in
`tests/_engine/test_hedging.py`; here the window is shortened.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from hftransfer import AsyncClient
from hftransfer._engine import scheduler
from hftransfer._engine.hedging import HedgePolicy
from hftransfer._http import hedging as http_hedging
from hftransfer.options import HubOptions, S3Options, TransferOptions
from hftransfer.testing import Drip, DripProxy, Fault, HubServer, RandomFile, Stall
from support.s3 import Bucket, get_object, put_object

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]

MIB = 1 << 20
RATE = 2000.0  # bytes per second
SIZE = 24 * MIB


@pytest.fixture
def short_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judge requests after half a second."""
    monkeypatch.setattr(
        scheduler, "DEFAULT_POLICY", HedgePolicy(window=0.5, margin=0.5, floor=16 * 1024)
    )
    monkeypatch.setattr(http_hedging, "_MIN_DELAY", 0.5)


def _options(hub: HubServer, **options: object) -> TransferOptions:
    return TransferOptions(
        hub=HubOptions(endpoint=hub.endpoint, token=False),
        **{"chunk_size": MIB, "memory_budget": 8 * MIB, **options},  # type: ignore[arg-type]
    )


def _offset(place: str) -> int:
    return {"first": 0, "middle": SIZE // 2, "last": SIZE - 1}[place]


def _content_requests(hub: HubServer) -> int:
    return len([record for record in hub.requests if record.host == "cdn"])


@pytest.mark.usefixtures("short_window")
@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
async def test_one_drip(hub: HubServer, tmp_path: Path, place: str, files: int) -> None:
    """At the first, a middle and the last chunk; the files are larger than memory, and their
    digests wait for every chunk. Each slow chunk is requested once more."""
    names = [f"m{index}.safetensors" for index in range(files)]
    repo = hub.create_repo(
        "acme/m", files={name: RandomFile(SIZE, seed=ord(name[1])) for name in names}
    )
    drips = [
        hub.add_fault(Fault(path=f"*/{name}", contains=_offset(place), action=Drip(RATE)))
        for name in names
    ]

    async with AsyncClient(_options(hub)) as client:
        report = await client.copy("hf://acme/m", tmp_path)

    assert [drip.count for drip in drips] == [1] * files
    assert report.verified == files
    for name in names:
        assert (tmp_path / name).read_bytes() == repo.blob(name).read_bytes()
    # One request for each chunk, for each slow one two, and a few for pieces of the first ones.
    assert _content_requests(hub) <= files * (SIZE // MIB) + 2 * files


@pytest.mark.usefixtures("short_window")
async def test_drip_that_begins_within_a_chunk_keeps_what_has_arrived(
    hub: HubServer, tmp_path: Path
) -> None:
    """The second request is for the missing bytes, over another connection."""
    hub.create_repo("acme/m", files={"m.safetensors": RandomFile(SIZE)})
    hub.add_fault(Fault(contains=_offset("middle"), action=Drip(RATE, after_bytes=MIB // 2)))

    async with AsyncClient(_options(hub)) as client:
        await client.copy("hf://acme/m", tmp_path)

    middle = [
        record
        for record in hub.requests
        if record.range is not None and record.range.endswith(f"-{_offset('middle') + MIB - 1}")
    ]
    starts = [int(str(record.range).removeprefix("bytes=").split("-")[0]) for record in middle]
    assert starts[0] == _offset("middle")
    assert starts[1] >= _offset("middle") + MIB // 2
    assert middle[0].connection != middle[1].connection


@pytest.mark.usefixtures("short_window")
async def test_one_small_file_of_many_drips(hub: HubServer, tmp_path: Path) -> None:
    """It is requested whole once more, whatever else is in flight."""
    files = {f"f{index}.bin": RandomFile(200_000, seed=index) for index in range(100)}
    repo = hub.create_repo("acme/m", files=dict(files))
    drip = hub.add_fault(Fault(host="cdn", path="*/f50.bin", action=Drip(RATE)))

    async with AsyncClient(_options(hub)) as client:
        report = await client.copy("hf://acme/m", tmp_path)

    assert drip.count == 1
    assert report.files == report.verified == 100
    assert (tmp_path / "f50.bin").read_bytes() == repo.blob("f50.bin").read_bytes()
    assert _content_requests(hub) == 101


@pytest.mark.usefixtures("short_window")
@pytest.mark.parametrize("options", [{}, {"connections": 1}, {"bandwidth": 50e6}], ids=str)
async def test_the_only_file_drips(
    hub: HubServer, tmp_path: Path, options: dict[str, object]
) -> None:
    """There is no peer to compare it with; with one connection the second request replaces it."""
    repo = hub.create_repo("acme/m", files={"f.bin": RandomFile(300_000)})
    drip = hub.add_fault(Fault(host="cdn", action=Drip(RATE)))

    async with AsyncClient(_options(hub, **options)) as client:
        await client.copy("hf://acme/m", tmp_path)

    assert drip.count == 1
    assert (tmp_path / "f.bin").read_bytes() == repo.blob("f.bin").read_bytes()
    assert _content_requests(hub) == 2


@pytest.mark.usefixtures("short_window")
@pytest.mark.parametrize(
    ("options", "rate"),
    [({}, 1e6), ({"connections": 4, "bandwidth": 4e6}, None)],
    ids=["each connection is limited", "the client's bandwidth is limited"],
)
async def test_nobody_is_replaced_if_all_are_slow_alike(
    hub: HubServer, tmp_path: Path, options: dict[str, object], rate: float | None
) -> None:
    """Every chunk is requested once."""
    hub.create_repo("acme/m", files={"m.safetensors": RandomFile(8 * MIB)})
    hub.cdn_bytes_per_second = rate

    async with AsyncClient(_options(hub, **options)) as client:
        await client.copy("hf://acme/m", tmp_path)

    ranges = [record.range for record in hub.requests if record.host == "cdn"]
    assert len(ranges) == len(set(ranges)) == 8


@pytest.mark.usefixtures("short_window")
@pytest.mark.parametrize(
    ("path", "action"),
    [
        ("/api/*", Drip(20.0)),
        ("/api/*", Stall()),
        ("*/resolve/*", Stall()),
    ],
    ids=["listing trickles", "listing has no answer", "redirect has no answer"],
)
async def test_requests_for_metadata(
    hub: HubServer, tmp_path: Path, path: str, action: Drip | Stall
) -> None:
    """Listing, revision and redirect are asked for again as well."""
    hub.create_repo("acme/m", files={"m.safetensors": RandomFile(3 * MIB), "a.txt": b"text" * 99})
    fault = hub.add_fault(Fault(host="hub", path=path, method="GET", action=action, times=1))

    async with AsyncClient(_options(hub)) as client:
        report = await client.copy("hf://acme/m", tmp_path)

    assert fault.count == 1
    assert report.files == report.verified == 2


@pytest.mark.slow
async def test_default_thresholds(hub: HubServer, tmp_path: Path) -> None:
    """The same with the thresholds of every client."""
    hub.create_repo("acme/m", files={"m.safetensors": RandomFile(SIZE)})
    drip = hub.add_fault(Fault(contains=0, action=Drip(RATE)))

    async with AsyncClient(_options(hub)) as client:
        report = await client.copy("hf://acme/m", tmp_path)

    assert drip.count == report.verified == 1


# --- S3


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[DripProxy]:
    """A proxy in front of the server of `bucket`."""
    with DripProxy(bucket.server.endpoint) as running:
        yield running


def _s3_options(proxy: DripProxy) -> TransferOptions:
    return TransferOptions(
        chunk_size=5 * MIB,
        memory_budget=40 * MIB,
        s3=S3Options(endpoint_url=proxy.endpoint),
    )


@pytest.mark.usefixtures("short_window")
@pytest.mark.parametrize("s3_server", ["minio"], indirect=True)
@pytest.mark.parametrize("size", [300_000, 60 * MIB])
async def test_object_that_drips(
    bucket: Bucket, proxy: DripProxy, tmp_path: Path, size: int
) -> None:
    """Read whole and read by ranges; another object shows what is possible."""
    data = _random(size)
    put_object(bucket, "m", data)
    drip = proxy.add_drip(
        RATE,
        when=lambda request: request.method == "GET" and request.target.endswith("/m"),
        after_bytes=1000,
    )

    async with AsyncClient(_s3_options(proxy)) as client:
        await client.copy(f"{bucket.url}/m", tmp_path / "m")

    assert drip.count == 1
    assert (tmp_path / "m").read_bytes() == data


@pytest.mark.usefixtures("short_window")
@pytest.mark.parametrize("s3_server", ["minio"], indirect=True)
@pytest.mark.parametrize("what", ["list-type", "HEAD"])
async def test_listing_of_s3_that_drips(
    bucket: Bucket, proxy: DripProxy, tmp_path: Path, what: str
) -> None:
    """Listings and HEADs are asked for again."""
    put_object(bucket, "m/a", _random(6 * MIB))
    drip = proxy.add_drip(20, when=lambda request: what in request.target or what == request.method)

    async with AsyncClient(_s3_options(proxy)) as client:
        report = await client.copy(f"{bucket.url}/m/", tmp_path)

    assert drip.count == report.files == 1


@pytest.mark.usefixtures("short_window")
@pytest.mark.parametrize("s3_server", ["minio"], indirect=True)
@pytest.mark.parametrize("part", [1, 3])
async def test_part_that_is_read_slowly(
    bucket: Bucket, proxy: DripProxy, tmp_path: Path, part: int
) -> None:
    """The server accepts a part at 2,000 bytes per second: it is sent again beside."""
    data = _random(60 * MIB)
    (tmp_path / "m").write_bytes(data)
    drip = proxy.add_drip(
        RATE,
        when=lambda request: request.method == "PUT" and f"partNumber={part}&" in request.target,
        direction="request",
    )

    async with AsyncClient(_s3_options(proxy)) as client:
        await client.copy(tmp_path / "m", f"{bucket.url}/m")

    assert drip.count == 1
    assert get_object(bucket, "m") == data


@pytest.mark.usefixtures("short_window")
@pytest.mark.parametrize("s3_server", ["minio"], indirect=True)
@pytest.mark.parametrize("files", [1, 40])
async def test_small_upload_that_is_read_slowly(
    bucket: Bucket, proxy: DripProxy, tmp_path: Path, files: int
) -> None:
    """One of many small files, or the only one: it is sent again beside."""
    for index in range(files):
        (tmp_path / f"f{index}").write_bytes(_random(20_000))
    drip = proxy.add_drip(
        100,
        when=lambda request: request.method == "PUT" and "/f0" in request.target,
        direction="request",
    )

    async with AsyncClient(_s3_options(proxy)) as client:
        report = await client.copy(tmp_path, f"{bucket.url}/m/")

    assert drip.count == 1
    assert report.files == files
    assert get_object(bucket, "m/f0") == _random(20_000)


@pytest.mark.usefixtures("short_window")
@pytest.mark.parametrize("s3_server", ["minio"], indirect=True)
async def test_hub_to_s3_with_a_drip_on_each_side(
    hub: HubServer, bucket: Bucket, proxy: DripProxy
) -> None:
    """No disk holds what waits: the chunks stay in memory until they are sent."""
    repo = hub.create_repo("acme/m", files={"m.safetensors": RandomFile(60 * MIB)})
    source = hub.add_fault(Fault(contains=30 * MIB, action=Drip(RATE)))
    target = proxy.add_drip(
        RATE, when=lambda request: "partNumber=4&" in request.target, direction="request"
    )
    options = _options(
        hub,
        chunk_size=5 * MIB,
        memory_budget=20 * MIB,
        s3=S3Options(endpoint_url=proxy.endpoint),
    )

    async with AsyncClient(options) as client:
        await client.copy("hf://acme/m", f"{bucket.url}/m/")

    assert source.count == target.count == 1
    assert get_object(bucket, "m/m.safetensors") == repo.blob("m.safetensors").read_bytes()


def _random(size: int) -> bytes:
    return random.Random(size).randbytes(size)
