"""`hftransfer.stores.hub.source` against a Hub server: which requests it sends, and errors."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from huggingface_hub.utils import build_hf_headers

from hftransfer import AsyncClient, HubOptions, RetryPolicy, TransferOptions
from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._http.client import HttpClient
from hftransfer.errors import (
    AccessError,
    ExpiredError,
    LocationError,
    NotFoundError,
    RangeNotSupportedError,
    RejectedError,
    ServerError,
    ThrottledError,
    TransferError,
)
from hftransfer.locations import HubLocation
from hftransfer.options import Timeouts
from hftransfer.stores.base import Entry
from hftransfer.stores.hub.source import HubSource
from hftransfer.stores.local.sink import LocalSink
from hftransfer.testing import (
    ExpireUrls,
    Fault,
    HubServer,
    IgnoreRange,
    RandomFile,
    Redirect,
    RequestRecord,
    Status,
)

pytestmark = pytest.mark.asyncio

KIB = 1024
CHUNK = 64 * KIB
BIG = RandomFile(10 * CHUNK + 5, seed=7)
TOKEN = "hf_of_a_test"
NO_WAITING = RetryPolicy(attempts=4, wait_initial=0.0, wait_max=0.0)


@asynccontextmanager
async def open_source(
    hub: HubServer, location: HubLocation, *, token: str | None = None
) -> AsyncIterator[HubSource]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    client = HttpClient(Timeouts())
    try:
        yield HubSource(client, location, endpoint=hub.endpoint, headers=headers, retry=NO_WAITING)
    finally:
        await client.aclose()


async def read(source: HubSource, entry: Entry, start: int, stop: int) -> bytes:
    buffer = bytearray(stop - start)
    await source.fill(entry, ByteRangeBuffer(start, memoryview(buffer)))
    return bytes(buffer)


def options(hub: HubServer, **changed: Any) -> TransferOptions:
    return TransferOptions(
        chunk_size=CHUNK,
        connections=4,
        retry=NO_WAITING,
        hub=HubOptions(endpoint=hub.endpoint, token=changed.pop("token", None)),
        **changed,
    )


async def copy_big(hub: HubServer, folder: Path, **changed: Any) -> Any:
    """Copy acme/big with the real engine and check every byte; return the report."""
    async with AsyncClient(options(hub, **changed)) as client:
        report = await client.copy("hf://acme/big", folder)
    assert (folder / "model.safetensors").read_bytes() == b"".join(BIG.blocks())
    return report


def resolves(hub: HubServer) -> list[RequestRecord]:
    return [request for request in hub.requests if "/resolve/" in request.path]


def at_cdn(hub: HubServer) -> list[RequestRecord]:
    return [request for request in hub.requests if request.host == "cdn"]


# --- listing


@pytest.mark.parametrize("page_size", [1, 2, 5, 1000])
async def test_every_page_of_a_listing_is_read(page_size: int) -> None:
    """Five files and two folders are listed completely, for any page size."""
    names = ["a.json", "b/c.json", "b/d/e.json", "f g+h.json", "schön.json"]
    with HubServer(page_size=page_size) as hub:
        hub.create_repo("acme/tiny", files={name: name.encode() for name in names})
        async with open_source(hub, HubLocation("acme/tiny")) as source:
            entries = await source.list()
            contents = [await read(source, entry, 0, entry.size) for entry in entries]

        pages = [request for request in hub.requests if "/tree/" in request.path]
    assert sorted(entry.path for entry in entries) == sorted(names)
    assert contents == [entry.path.encode() for entry in entries]
    assert len(pages) == -(-7 // page_size)


async def test_entries_have_the_digests_of_the_hub(hub: HubServer) -> None:
    """LFS files are listed with their sha256, regular ones with git's sha1 of the blob."""
    repo = hub.create_repo("acme/tiny", files={"config.json": b"{}", "model.bin": b"weights"})
    async with open_source(hub, HubLocation("acme/tiny")) as source:
        config, model = await source.list()

    sha1 = hashlib.sha1(b"blob 2\0{}").hexdigest()
    assert str(config.digest) == f"git-sha1:{sha1}"
    assert str(model.digest) == f"sha256:{hashlib.sha256(b'weights').hexdigest()}"
    assert (config.size, model.size) == (2, 7)
    assert config.properties["blob-id"] == repo.blob("config.json").oid
    assert "lfs-sha256" not in config.properties
    assert model.properties["blob-id"] == repo.blob("model.bin").oid
    assert model.properties["lfs-sha256"] == repo.blob("model.bin").sha256
    assert model.properties["lfs-size"] == "7"
    assert source.commit == repo.head
    assert not source.single


@pytest.mark.parametrize(
    ("path", "expected", "single"),
    [
        ("", ["onnx/a.json", "onnx/b.json", "onnx.json", "onnx2/c.json"], False),
        ("onnx", ["a.json", "b.json"], False),
        ("onnx/a.json", ["a.json"], True),
        ("onnx.json", ["onnx.json"], True),
    ],
)
async def test_a_location_may_be_a_folder_or_one_file(
    hub: HubServer, path: str, expected: list[str], single: bool
) -> None:
    """Paths are relative to the location; `onnx` selects neither `onnx.json` nor `onnx2`."""
    names = ["onnx/a.json", "onnx/b.json", "onnx.json", "onnx2/c.json"]
    hub.create_repo("acme/tiny", files={name: name.encode() for name in names})
    async with open_source(hub, HubLocation("acme/tiny", path=path)) as source:
        entries = await source.list()
        contents = {await read(source, entry, 0, entry.size) for entry in entries}

    assert sorted(entry.path for entry in entries) == sorted(expected)
    assert source.single is single
    assert contents == {entry.properties["repo-path"].encode() for entry in entries}


@pytest.mark.parametrize("repo_type", ["model", "dataset", "space"])
async def test_every_repository_type_is_read(hub: HubServer, repo_type: Any) -> None:
    """Datasets and spaces have a prefix in API and in resolve URLs."""
    hub.create_repo(
        "acme/tiny", repo_type=repo_type, files={"a.json": b"{}", "b.bin": b"0123456789"}
    )
    async with open_source(hub, HubLocation("acme/tiny", repo_type)) as source:
        small, large = await source.list()

        assert await read(source, small, 0, 2) == b"{}"
        assert await read(source, large, 3, 6) == b"345"
        assert await read(source, large, 0, 10) == b"0123456789"


async def test_a_tag_and_a_branch_with_slashes_are_revisions(hub: HubServer) -> None:
    """The revision is quoted in URLs; files are read at the commit it resolves to."""
    repo = hub.create_repo("acme/tiny", files={"a.json": b"old"})
    repo.create_tag("v1.0")
    repo.create_branch("refs/pr/1")
    new = repo.commit({"a.json": b"pull"}, revision="refs/pr/1")
    for revision, commit, content in [("v1.0", repo.head, b"old"), ("refs/pr/1", new, b"pull")]:
        async with open_source(hub, HubLocation("acme/tiny", revision=revision)) as source:
            (entry,) = await source.list()

            assert source.commit == commit
            assert await read(source, entry, 0, entry.size) == content


async def test_a_commit_as_revision_needs_no_request(hub: HubServer) -> None:
    """A commit is not resolved again, and later commits do not change what is read."""
    repo = hub.create_repo("acme/tiny", files={"a.json": b"old"})
    pinned = repo.head
    repo.commit({"a.json": b"newer"})
    async with open_source(hub, HubLocation("acme/tiny", revision=pinned)) as source:
        (entry,) = await source.list()

        assert await read(source, entry, 0, entry.size) == b"old"
    assert not [request for request in hub.requests if "/revision/" in request.path]


async def test_a_commit_after_the_listing_is_not_read(hub: HubServer) -> None:
    """Files are read at the commit that was listed, whole or in ranges."""
    repo = hub.create_repo("acme/tiny", files={"a.bin": b"old bytes"})
    async with open_source(hub, HubLocation("acme/tiny")) as source:
        (entry,) = await source.list()
        repo.commit({"a.bin": b"new bytes"})

        assert await read(source, entry, 0, 9) == b"old bytes"
        assert await read(source, entry, 0, 3) == b"old"


async def test_a_path_outside_the_destination_is_rejected(hub: HubServer, tmp_path: Path) -> None:
    """A repository cannot write outside the folder that it is downloaded to; it can be listed."""
    hub.create_repo("acme/evil").commit({"../../etc/cron.d/x": b"!"})
    async with open_source(hub, HubLocation("acme/evil")) as source:
        entries = await source.list()
        with pytest.raises(LocationError, match="has a segment '.' or '..'"):
            await LocalSink(tmp_path).prepare(entries)


async def test_the_next_page_is_requested_from_the_endpoint(hub: HubServer) -> None:
    """A Link to another host (a mirror's upstream) is rewritten; the token is not sent there."""
    hub.create_repo("acme/tiny", files={"a.json": b"{}"})
    hub.add_token(TOKEN)
    foreign = f"{hub.cdn_endpoint}/api/models/acme/tiny/tree/main?recursive=true"
    page = Status(
        200, {"Link": f'<{foreign}>; rel="next"', "Content-Type": "application/json"}, b"[]"
    )
    hub.add_fault(Fault(action=page, path="*/tree/*"))
    async with open_source(hub, HubLocation("acme/tiny"), token=TOKEN) as source:
        entries = await source.list()

    assert [entry.path for entry in entries] == ["a.json"]
    assert {request.host for request in hub.requests} == {"hub"}


# --- content URLs


async def test_all_chunks_of_a_file_share_one_resolve(hub: HubServer, tmp_path: Path) -> None:
    """Eleven chunks need one resolve request, without a Range header, and no HEAD."""
    hub.create_repo("acme/big", files={"model.safetensors": BIG})
    report = await copy_big(hub, tmp_path / "out")

    assert hub.wait_idle()  # the server counts bytes after sending them
    assert (report.retries, report.verified) == (0, 1)
    assert {request.method for request in hub.requests} == {"GET"}
    assert [request.range for request in resolves(hub)] == [None]
    ranged = at_cdn(hub)
    assert len(ranged) == 11
    assert all(request.status == 206 for request in ranged)
    assert sum(request.bytes_sent for request in ranged) == BIG.size


async def test_the_token_is_sent_to_the_hub_only(hub: HubServer, tmp_path: Path) -> None:
    """Every request to the Hub's origin has Authorization, and no request to the CDN."""
    hub.create_repo("acme/big", private=True, token=TOKEN, files={"model.safetensors": BIG})
    await copy_big(hub, tmp_path / "out", token=TOKEN)

    assert at_cdn(hub)
    for request in hub.requests:
        sent = request.headers.get("Authorization")
        assert sent == (f"Bearer {TOKEN}" if request.host == "hub" else None)


async def test_requests_to_the_hub_have_huggingface_hubs_user_agent(
    hub: HubServer, tmp_path: Path
) -> None:
    """The user agent has huggingface_hub's format and names this library."""
    hub.create_repo("acme/big", files={"model.safetensors": BIG})
    await copy_big(hub, tmp_path / "out")

    expected = build_hf_headers(library_name="hftransfer")["user-agent"]
    agents = {r.headers.get("User-Agent", "") for r in hub.requests if r.host == "hub"}
    assert agents == {expected}


async def test_expired_urls_are_resolved_once_for_all_chunks(
    hub: HubServer, tmp_path: Path
) -> None:
    """If all URLs expire during a file, its chunks share one fresh URL."""
    hub.create_repo("acme/big", files={"model.safetensors": BIG})
    handle = hub.add_fault(Fault(action=ExpireUrls(), host="cdn", ranged=True, after=3))
    report = await copy_big(hub, tmp_path / "out")

    assert handle.count == 1
    assert len(resolves(hub)) == 2
    assert report.retries == len([r for r in at_cdn(hub) if r.status == 403]) >= 1


async def test_a_url_about_to_expire_is_not_used_again(hub: HubServer) -> None:
    """A signed URL with less than a minute left is resolved again for every read."""
    hub.create_repo("acme/big", files={"model.safetensors": BIG})
    for lifetime, expected in [(3600.0, 1), (30.0, 3)]:
        hub.url_lifetime = lifetime
        hub.clear_requests()
        async with open_source(hub, HubLocation("acme/big")) as source:
            (entry,) = await source.list()
            for start in (0, 100, 200):
                await read(source, entry, start, start + 100)

        assert len(resolves(hub)) == expected
        assert [request.status for request in at_cdn(hub)] == [206] * 3


async def test_concurrent_first_reads_resolve_once(hub: HubServer) -> None:
    """Ten concurrent reads of a file that is not resolved yet send one resolve request."""
    hub.create_repo("acme/big", files={"model.safetensors": BIG})
    async with open_source(hub, HubLocation("acme/big")) as source:
        (entry,) = await source.list()
        async with anyio.create_task_group() as tasks:
            for start in range(0, 1000, 100):
                tasks.start_soon(read, source, entry, start, start + 100)

    assert len(resolves(hub)) == 1
    assert len(at_cdn(hub)) == 10


async def test_a_file_of_one_chunk_is_read_without_a_range(hub: HubServer) -> None:
    """Each file costs two requests, a redirect and the body, neither with a Range header."""
    hub.create_repo("acme/tiny", files={"model.bin": b"0123456789", "config.json": b"{}"})
    async with open_source(hub, HubLocation("acme/tiny")) as source:
        for entry in await source.list():
            await read(source, entry, 0, entry.size)

    assert [request.range for request in hub.requests] == [None] * len(hub.requests)
    assert [request.host for request in hub.requests] == ["hub", "hub", "hub", "hub", "hub", "cdn"]


async def test_rejected_ranges_fall_back_to_one_stream(hub: HubServer, tmp_path: Path) -> None:
    """If fresh URLs reject every range, the file is read as one body and verified."""
    hub.create_repo("acme/big", files={"model.safetensors": BIG})
    hub.add_fault(Fault(action=Status(403), host="cdn", ranged=True, times=None))
    report = await copy_big(hub, tmp_path / "out")

    assert report.verified == 1
    assert [(r.range, r.status) for r in at_cdn(hub)][-1] == (None, 200)


async def test_ignored_ranges_fall_back_to_one_stream(hub: HubServer, tmp_path: Path) -> None:
    """A CDN that responds 200 to ranges is read as one body, and the file is verified."""
    hub.create_repo("acme/big", files={"model.safetensors": BIG})
    hub.add_fault(Fault(action=IgnoreRange(), host="cdn", times=None))
    report = await copy_big(hub, tmp_path / "out")

    assert report.verified == 1
    assert [r.range for r in at_cdn(hub)][-1] is None


async def test_ranges_are_given_up_after_three_rejections(hub: HubServer) -> None:
    """Two rejections in a row mean an expired URL, the third that ranges are not supported."""
    hub.create_repo("acme/big", files={"model.safetensors": BIG})
    handle = hub.add_fault(Fault(action=Status(403), host="cdn", ranged=True, times=4))
    seen: list[type[TransferError]] = []
    async with open_source(hub, HubLocation("acme/big")) as source:
        (entry,) = await source.list()
        for _ in range(3):
            with pytest.raises((ExpiredError, RangeNotSupportedError)) as caught:
                await read(source, entry, 0, 10)
            seen.append(type(caught.value))
            assert "Signature" not in str(caught.value)

    assert seen == [ExpiredError, ExpiredError, RangeNotSupportedError]
    assert handle.count == 3


async def test_a_hub_without_redirects_serves_ranges_itself(hub: HubServer, tmp_path: Path) -> None:
    """If `resolve` responds with the file, ranges are read from it, with the token."""
    hub.create_repo(
        "acme/big", direct=True, private=True, token=TOKEN, files={"model.safetensors": BIG}
    )
    report = await copy_big(hub, tmp_path / "out", token=TOKEN)

    assert report.retries == 0
    assert at_cdn(hub) == []
    assert len([request for request in resolves(hub) if request.status == 206]) == 11


async def test_a_renamed_repository_is_found(hub: HubServer, tmp_path: Path) -> None:
    """Listing and resolving follow redirects to the new name and send the token."""
    hub.create_repo("acme/old", private=True, token=TOKEN, files={"model.safetensors": BIG})
    hub.rename_repo("acme/old", "acme/new")
    hub.add_token(TOKEN, repos=["acme/new"])
    async with AsyncClient(options(hub, token=TOKEN)) as client:
        await client.copy("hf://acme/old", tmp_path / "out")

    assert (tmp_path / "out/model.safetensors").read_bytes() == b"".join(BIG.blocks())


async def test_a_redirect_loop_is_rejected(hub: HubServer) -> None:
    """Range, whole file and stream each stop after 20 redirects."""
    hub.create_repo("acme/big", files={"model.safetensors": BIG})
    loop = f"{hub.endpoint}/acme/big/resolve/main/model.safetensors"
    hub.add_fault(Fault(action=Redirect(loop), path="*/resolve/*", times=None))
    async with open_source(hub, HubLocation("acme/big")) as source:
        (entry,) = await source.list()
        with pytest.raises(RejectedError, match="more than 20 redirects"):
            await read(source, entry, 0, 10)
        with pytest.raises(RejectedError, match="more than 20 redirects"):
            await read(source, entry, 0, entry.size)
        with pytest.raises(RejectedError, match="more than 20 redirects"):
            async with source.stream(entry):
                pass


# --- retries and errors


@pytest.mark.parametrize("path", ["*/revision/*", "*/tree/*", "*/resolve/*"])
async def test_a_throttled_request_is_retried(hub: HubServer, path: str, tmp_path: Path) -> None:
    """429 with `Retry-After: 0` on revision, tree or resolve costs one more request."""
    hub.create_repo("acme/big", files={"model.safetensors": BIG})
    handle = hub.add_fault(Fault(action=Status(429, {"Retry-After": "0"}), path=path))

    report = await copy_big(hub, tmp_path)

    assert handle.count == 1
    # The engine retries the read that resolves; listings are the source's to retry.
    assert report.retries == (1 if "resolve" in path else 0)


async def test_retries_are_not_nested(hub: HubServer, tmp_path: Path) -> None:
    """A Hub that never resolves a file is asked as often as the policy says, not its square."""
    hub.create_repo("acme/big", files={"model.safetensors": BIG})
    handle = hub.add_fault(Fault(action=Status(503), path="*/resolve/*", times=None))

    with pytest.raises(ServerError, match=r"503.*gave up after 4 attempts"):
        await copy_big(hub, tmp_path, memory_budget=CHUNK)  # one chunk at a time

    assert handle.count == NO_WAITING.attempts


async def test_permanent_throttling_is_reported(hub: HubServer) -> None:
    """After the last attempt the error is the 429, with the number of attempts."""
    hub.create_repo("acme/tiny", files={"a.json": b"{}"})
    handle = hub.add_fault(Fault(action=Status(429, {"Retry-After": "0"}), times=None))
    async with open_source(hub, HubLocation("acme/tiny")) as source:
        with pytest.raises(ThrottledError, match=r"429.*gave up after 4 attempts"):
            await source.list()

    assert handle.count == 4


async def test_html_in_place_of_json_is_a_server_error(hub: HubServer) -> None:
    """The page of a captive portal gives an error that says so."""
    hub.create_repo("acme/tiny", files={"a.json": b"{}"})
    hub.add_fault(Fault(action=Status(200, {"Content-Type": "text/html"}, b"<html>"), times=None))
    async with open_source(hub, HubLocation("acme/tiny")) as source:
        with pytest.raises(ServerError, match="not JSON"):
            await source.list()


async def list_of(hub: HubServer, token: str | None = None, **where: Any) -> None:
    location = HubLocation(where.pop("repo_id", "acme/tiny"), **where)
    async with open_source(hub, location, token=token) as source:
        for entry in await source.list():
            await read(source, entry, 0, entry.size)


async def test_a_missing_repository_is_not_found(hub: HubServer) -> None:
    """The message has type, id and Hub, and says that the repository may be private."""
    with pytest.raises(NotFoundError, match=r"no dataset 'acme/none' on http.*or it is private"):
        await list_of(hub, repo_id="acme/none", repo_type="dataset")


@pytest.mark.parametrize("token", [None, TOKEN])
async def test_a_private_repository_looks_missing(hub: HubServer, token: str | None) -> None:
    """Without a token that may read it, a private repository is not found."""
    hub.create_repo("acme/tiny", private=True, files={"a.json": b"{}"})
    hub.add_token(TOKEN, repos=[])
    with pytest.raises(NotFoundError, match="private and the token given, if any, may not read"):
        await list_of(hub, token)


async def test_an_invalid_token_is_an_access_error(hub: HubServer) -> None:
    """An invalid token is not reported as a missing repository, and not shown."""
    hub.create_repo("acme/tiny", files={"a.json": b"{}"})
    with pytest.raises(AccessError, match="401") as caught:
        await list_of(hub, "hf_wrong")

    assert "hf_wrong" not in str(caught.value)


@pytest.mark.parametrize("token", [None, TOKEN])
async def test_the_error_of_a_gated_repository_says_what_to_do(
    hub: HubServer, token: str | None
) -> None:
    """The message asks to accept the conditions and to give a token."""
    hub.create_repo("acme/tiny", gated=True, files={"a.json": b"{}"})
    hub.add_token(TOKEN, repos=[])
    with pytest.raises(AccessError, match=r"accept its conditions.*HF_TOKEN"):
        await list_of(hub, token)


async def test_an_unknown_revision_is_not_found(hub: HubServer) -> None:
    """The message names the repository and the revision."""
    hub.create_repo("acme/tiny", files={"a.json": b"{}"})
    with pytest.raises(NotFoundError, match=r"model 'acme/tiny'.*has no revision 'v9'"):
        await list_of(hub, revision="v9")


async def test_an_unknown_path_is_not_found(hub: HubServer) -> None:
    """A prefix of a folder's name is neither a file nor a folder."""
    hub.create_repo("acme/tiny", files={"onnx/a.json": b"{}"})
    with pytest.raises(NotFoundError, match="hf://acme/tiny/on: no such file or folder"):
        await list_of(hub, path="on")


async def test_a_disabled_repository_is_reported_as_disabled(hub: HubServer) -> None:
    """The Hub's 403 for a disabled repository is not reported as a problem of the token."""
    hub.create_repo("acme/tiny", files={"a.json": b"{}"}).disabled = True
    with pytest.raises(AccessError, match=r"model 'acme/tiny' on .* is disabled$"):
        await list_of(hub)
