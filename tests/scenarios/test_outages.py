"""Outages of the Hub, its CDN and S3: every transfer survives one, and says so meanwhile.

An outage ends when the client has announced that it waits for the third time, so nothing here
depends on time. `OutageProxy` is the server that is down.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import hftransfer
from hftransfer import Client, HubOptions, RetryPolicy, S3Options, TransferOptions
from hftransfer._core.events import Event, Recovered, Waiting
from hftransfer.errors import NetworkError, ThrottledError
from hftransfer.testing import (
    HubServer,
    Outage,
    OutageHandle,
    OutageProxy,
    RandomFile,
    Refuse,
    ResetConnection,
    Status,
)
from support.s3 import Bucket

KIB = 1024
MIB = 1 << 20
FILES: dict[str, bytes | Path | RandomFile] = {
    "a.bin": RandomFile(5 * MIB, seed=1),
    "b.bin": RandomFile(MIB, seed=2),
    "c.json": b"{}",
}
SOON = RetryPolicy(wait_initial=0.001, wait_max=0.01)
ACTIONS = [
    pytest.param(Refuse(), id="refused"),
    pytest.param(ResetConnection(), id="reset"),
    pytest.param(Status(503), id="503"),
    pytest.param(Status(429, {"Retry-After": "0"}), id="429"),
    pytest.param(Status(503, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), id="past-date"),
]


class Site:
    """A Hub whose two hosts are behind proxies."""

    def __init__(self, hub: HubServer, stack: ExitStack) -> None:
        self.hub = stack.enter_context(OutageProxy(hub.own_endpoint))
        self.cdn = stack.enter_context(
            OutageProxy(hub.cdn_endpoint.replace("localhost", "127.0.0.1"))
        )
        self.repo = hub.create_repo("acme/tiny", files=FILES)
        hub.public_url, hub.cdn_url = self.hub.url, self.cdn.url
        self.options = TransferOptions(
            chunk_size=64 * KIB, retry=SOON, hub=HubOptions(endpoint=self.hub.url, token=False)
        )


@pytest.fixture
def site(hub: HubServer) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(hub, stack)


class Ending:
    """An observer that ends an outage when the client waits for the third time."""

    def __init__(self, outage: OutageHandle) -> None:
        self.outage = outage
        self.events: list[Event] = []

    def __call__(self, event: Event, /) -> None:
        self.events.append(event)
        if len(self.waits) == 3:
            self.outage.end()

    @property
    def waits(self) -> list[Waiting]:
        return [event for event in self.events if isinstance(event, Waiting)]


def check_announced(ending: Ending, server: OutageProxy) -> None:
    """The waits name the server that is down, and its return is announced after them."""
    assert len(ending.waits) >= 3
    assert {event.origin for event in ending.waits} == {server.url}
    recovered = [event for event in ending.events if isinstance(event, Recovered)]
    assert {event.origin for event in recovered} == {server.url}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(("host", "after"), [("hub", 0), ("hub", 2), ("cdn", 0), ("cdn", 20)])
def test_a_download_survives_an_outage(
    site: Site, tmp_path: Path, host: str, after: int, action: Refuse | Status
) -> None:
    """From the first request on, or later; whichever of the two hosts is down; however it fails."""
    server: OutageProxy = getattr(site, host)
    ending = Ending(server.add_outage(Outage(action=action, after=after)))
    with Client(site.options, observer=ending) as client:
        report = client.copy("hf://acme/tiny", tmp_path / "out")

    assert report.files == 3
    for path in FILES:
        assert (tmp_path / "out" / path).read_bytes() == site.repo.blob(path).read_bytes()
    check_announced(ending, server)


def test_a_listing_survives_an_outage(site: Site) -> None:
    """Metadata is retried, and announced, like content."""
    ending = Ending(site.hub.add_outage(Outage(action=Refuse())))
    with Client(site.options, observer=ending) as client:
        assert len(client.list("hf://acme/tiny")) == 3

    check_announced(ending, site.hub)


def test_many_outages_are_survived(site: Site, tmp_path: Path) -> None:
    """Ten in one transfer, with progress between them."""
    outages = [
        site.cdn.add_outage(Outage(action=Status(503), after=5 + 10 * number, times=9))
        for number in range(10)
    ]
    with Client(site.options) as client:
        client.copy("hf://acme/tiny", tmp_path / "out")

    assert [outage.count for outage in outages] == [9] * 10


def test_one_request_at_a_time_probes_a_server_that_is_down(site: Site, tmp_path: Path) -> None:
    """16 connections at first, and then one request per back-off, not one per chunk."""
    outage = site.cdn.add_outage(Outage(action=Status(503), after=3, times=100))
    events: list[Event] = []
    with Client(site.options, observer=events.append) as client:
        client.copy("hf://acme/tiny", tmp_path / "out")

    assert outage.count == 100
    waits = len([event for event in events if isinstance(event, Waiting)])
    in_flight_when_it_began = 2 * (64 + 32)  # two rounds of all connections and small files
    assert waits >= 100 - in_flight_when_it_began
    assert waits <= 100


def test_the_error_names_file_server_time_and_cause(site: Site, tmp_path: Path) -> None:
    """Once the deadline has passed; the partial file stays for the next attempt."""
    site.cdn.add_outage(Outage(action=Refuse()))
    retry = dataclasses.replace(SOON, deadline=0.2)
    with (
        Client(dataclasses.replace(site.options, retry=retry)) as client,
        pytest.raises(NetworkError) as caught,
    ):
        client.copy("hf://acme/tiny/a.bin", tmp_path / "a.bin")

    message = str(caught.value)
    assert message.startswith("a.bin: cannot connect to 127.0.0.1")
    assert "Connection refused (gave up after " in message
    assert message.endswith(f"; server: {site.cdn.url})")
    assert str(caught.value.origin) == site.cdn.url


def test_a_wish_beyond_the_deadline_fails_at_once(site: Site, tmp_path: Path) -> None:
    """The one request that was answered so is the last one to that server."""
    outage = site.hub.add_outage(Outage(action=Status(429, {"Retry-After": "3600"})))
    with (
        Client(site.options) as client,
        pytest.raises(ThrottledError, match="asks to wait 3600 s, and retries end 600 s after"),
    ):
        client.copy("hf://acme/tiny", tmp_path / "out")

    assert outage.count == 1


def test_wrong_content_does_not_wait_for_the_deadline(hub: HubServer, tmp_path: Path) -> None:
    """A server that answers with a page instead of JSON is not asked until the deadline."""
    hub.create_repo("acme/tiny", files={"c.json": b"{}"})
    with OutageProxy(hub.own_endpoint) as proxy:
        page = proxy.add_outage(Outage(action=Status(200, {"Content-Type": "text/html"}, b"<p>")))
        options = TransferOptions(retry=SOON, hub=HubOptions(endpoint=proxy.url))
        with Client(options) as client, pytest.raises(hftransfer.ServerError, match="not JSON"):
            client.list("hf://acme/tiny")

    assert page.count <= 8


def test_a_cached_file_is_returned_at_once_without_the_hub(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drop-in asks once, with default options, and returns the copy on the disk."""
    path = hftransfer.hf_hub_download("acme/tiny", "c.json", endpoint=site.hub.url, token=False)
    folder = hftransfer.snapshot_download("acme/tiny", endpoint=site.hub.url, token=False)
    down = site.hub.add_outage(Outage(action=Status(503)))

    again = hftransfer.hf_hub_download("acme/tiny", "c.json", endpoint=site.hub.url, token=False)
    assert again == path
    assert hftransfer.snapshot_download("acme/tiny", endpoint=site.hub.url, token=False) == folder
    assert down.count == 2


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("direction", ["upload", "download"])
def test_s3_transfers_survive_an_outage(
    bucket: Bucket, tmp_path: Path, direction: str, action: Refuse | Status
) -> None:
    """Parts, the beginning and the completion of an upload, listings and ranges."""
    (tmp_path / "in").mkdir()
    content = {"large": bytes(range(256)) * (12 * MIB // 256), "small": b"x" * 1000}
    for name, data in content.items():
        (tmp_path / "in" / name).write_bytes(data)
    source, target = str(tmp_path / "in"), f"s3://{bucket.name}/p"
    if direction == "download":
        with Client() as client:
            client.copy(source, target)
        source, target = target, str(tmp_path / "out")
    with OutageProxy(bucket.server.endpoint) as proxy:
        options = TransferOptions(retry=SOON, s3=S3Options(endpoint_url=proxy.url))
        for after in (0, 1, 3, 5):
            ending = Ending(proxy.add_outage(Outage(action=action, after=after)))
            with Client(options, observer=ending) as client:
                report = client.copy(source, f"{target}{after}")
            assert report.files == 2
            ending.outage.end()
            if proxy.requests > after:
                check_announced(ending, proxy)
    for after in (0, 1, 3, 5):
        folder = Path(f"{target}{after}")
        if direction == "upload":
            folder = tmp_path / f"back{after}"
            with Client() as client:
                client.copy(f"{target}{after}", folder)
        assert {name: (folder / name).read_bytes() for name in content} == content


@pytest.mark.extended
def test_an_outage_of_five_seconds_is_survived_by_default_options(
    site: Site, tmp_path: Path
) -> None:
    """In real time: the defaults of `RetryPolicy`, connections refused for 5 s."""
    outage = site.cdn.add_outage(Outage(action=Refuse(), after=10))

    def end_later() -> None:
        outage.wait()
        threading.Timer(5.0, outage.end).start()

    ender: Callable[[], None] = end_later
    threading.Thread(target=ender).start()
    options = dataclasses.replace(site.options, retry=RetryPolicy())
    with Client(options) as client:
        client.copy("hf://acme/tiny", tmp_path / "out")

    assert (tmp_path / "out/a.bin").read_bytes() == site.repo.blob("a.bin").read_bytes()
