"""Stores that deviate from AWS: transfers in both directions, within the store, and resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hftransfer.errors import OptionsError, RejectedError, Response
from hftransfer.stores.s3.redirects import foreign_headers, redirect_of
from hftransfer.stores.s3.upload_lock import UploadLock
from support.scripted_s3 import LARGE, MIB, SMALL, client_of, requests_of, running

FILES = {"large": LARGE, "a b+ü%2F.json": SMALL, "empty": b""}
SCRIPTS: dict[str, dict[str, Any]] = {
    "aws": {},
    "garage": {
        "put_conditions": False,
        "complete_conditions": False,
        "part_checksums_listed": False,
    },
    "s3proxy": {
        "complete_conditions": False,
        "refused_headers": frozenset({"x-amz-mp-object-size", "x-amz-checksum-mode"}),
    },
    "s3rver": {
        "put_conditions": False,
        "complete_conditions": False,
        "checksums": False,
        "content_md5": False,
        "copies": "undecoded",
    },
    "hugging face": {"metadata": False, "complete_conditions": False, "redirect_reads": True},
    "moved": {"redirect_requests": True},
    "kms": {"etags": "opaque"},
    "rclone": {"copies": "ignored", "checksums": False},
    "no copies": {"copies": "refused"},
}
EVERY_SCRIPT = pytest.mark.parametrize("name", SCRIPTS)


def make_files(folder: Path) -> Path:
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.asyncio
@EVERY_SCRIPT
@pytest.mark.parametrize("overwrite", [True, False])
async def test_files_are_moved_there_and_back(tmp_path: Path, name: str, overwrite: bool) -> None:
    """Up, within the store, and down: every byte is kept, and no upload stays open."""
    with running(**SCRIPTS[name]) as store:
        async with client_of(store, overwrite=overwrite) as client:
            await client.copy(make_files(tmp_path / "in"), "s3://bkt/m")
            copied = await client.copy("s3://bkt/m", "s3://bkt/copy")
            report = await client.copy("s3://bkt/copy", tmp_path / "out")

        assert store.open_uploads() == []
        assert copied.files == report.files == 3
    for path, data in FILES.items():
        assert (tmp_path / "out" / path).read_bytes() == data


@pytest.mark.asyncio
@pytest.mark.parametrize("name", sorted(SCRIPTS.keys() - {"kms"}))  # parts need an MD5
async def test_an_interrupted_upload_is_continued_or_begun_again(tmp_path: Path, name: str) -> None:
    """The first run after a kill succeeds, also where the store lists parts without checksum."""
    (tmp_path / "in").write_bytes(LARGE)
    with running(**SCRIPTS[name]) as store:
        async with client_of(store) as client:
            s3 = await client.s3_session()
            headers = {"x-amz-checksum-algorithm": "CRC32", "x-amz-checksum-type": "FULL_OBJECT"}
            await s3.call("POST", "bkt", "big", query={"uploads": ""}, headers=headers)
            (upload_id,) = store.uploads_of("bkt", "big")
            await s3.send(
                *("PUT", "bkt", "big"),
                query={"uploadId": upload_id, "partNumber": "1"},
                headers={"x-amz-checksum-crc32": crc32_of(LARGE[: 5 * MIB])},
                body=LARGE[: 5 * MIB],
            )
        lock = UploadLock.create("bkt", "big", upload_id)
        assert lock is not None
        lock.unlock()
        store.requests.clear()
        async with client_of(store) as client:
            await client.copy(tmp_path / "in", "s3://bkt/big")

        assert store.objects["bkt", "big"].data == LARGE
        assert store.open_uploads() == []


def crc32_of(data: bytes) -> str:
    from hftransfer._core.checksums import checksum, encode_checksum

    return encode_checksum(checksum("CRC32", memoryview(data), ""))


@pytest.mark.asyncio
async def test_a_header_that_is_refused_is_sent_once(tmp_path: Path) -> None:
    """Later objects are completed without ``x-amz-mp-object-size``, and their size is compared."""
    (tmp_path / "in").write_bytes(LARGE)
    with running(**SCRIPTS["s3proxy"]) as store:
        async with client_of(store) as client:
            for number in range(3):
                await client.copy(tmp_path / "in", f"s3://bkt/{number}")
        sent = [request for request in store.requests if "x-amz-mp-object-size" in request.headers]

        assert len(sent) == 1
        assert requests_of(store, "POST") == 7  # three creations, one refusal, three completions


@pytest.mark.asyncio
async def test_a_redirected_read_carries_no_credentials(tmp_path: Path) -> None:
    """The other host gets the range and nothing that belongs to the store."""
    with running(redirect_reads=True) as store:
        store.put("bkt", "big", LARGE)
        store.put("bkt", "small", SMALL)
        async with client_of(store) as client:
            for name in ("big", "small"):
                await client.copy(f"s3://bkt/{name}", tmp_path / name)
        received = [request.headers for request in store.requests if request.host == "cdn"]

    assert (tmp_path / "big").read_bytes() == LARGE
    assert len(received) >= 4
    for headers in received:
        names = {name.lower() for name in headers}
        assert names <= {"host", "range", "accept", "accept-encoding", "user-agent"}


@pytest.mark.asyncio
async def test_every_request_names_the_client(tmp_path: Path) -> None:
    """Some gateways refuse requests without a User-Agent."""
    with running() as store:
        async with client_of(store) as client:
            await client.copy(make_files(tmp_path / "in"), "s3://bkt/m")
            await client.copy("s3://bkt/m", tmp_path / "out")
        assert {request.headers.get("User-Agent") for request in store.requests} == {"hftransfer"}


@pytest.mark.asyncio
async def test_a_checksum_setting_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt value is an error before anything is sent."""
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "never")
    with running() as store:
        async with client_of(store) as client:
            with pytest.raises(OptionsError, match="must be when_supported or when_required"):
                await client.list("s3://bkt/")


@pytest.mark.asyncio
async def test_the_settings_are_read_from_a_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``request_checksum_calculation`` in the configuration file."""
    config = tmp_path / "config"
    config.write_text("[default]\nrequest_checksum_calculation = when_required\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    (tmp_path / "in").write_bytes(SMALL)
    with running() as store:
        async with client_of(store) as client:
            await client.copy(tmp_path / "in", "s3://bkt/a")
        names = {name.lower() for request in store.requests for name in request.headers}

    assert not any(name.startswith("x-amz-checksum") for name in names)


# --- redirects, as a decision


def redirect(location: str, status: int = 302, method: str = "GET") -> Response:
    return Response(method, "https://s3.example/b/k?x=1", status, {"Location": location})


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (redirect("/b/other"), ("https://s3.example/b/other", True)),
        (
            redirect("https://cdn.example/x?Signature=1"),
            ("https://cdn.example/x?Signature=1", False),
        ),
        (redirect("https://s3.example:8443/x"), ("https://s3.example:8443/x", False)),
        (redirect("https://cdn.example/x", 307, "PUT"), ("https://cdn.example/x", False)),
        (redirect("https://cdn.example/x", 302, "PUT"), None),
        (Response("GET", "https://h/", 200, {}), None),
        (Response("GET", "https://h/", 301, {"Location": "/x", "X-Amz-Bucket-Region": "r"}), None),
    ],
)
def test_where_a_redirect_leads(response: Response, expected: tuple[str, bool] | None) -> None:
    """Signatures go to the same origin only; a wrong region is corrected instead."""
    assert redirect_of(response, "k") == expected


@pytest.mark.parametrize("location", ["http://s3.example/x", "ftp://h/x", "https://["])
def test_an_unusable_redirect_is_rejected(location: str) -> None:
    """Above all one from https to http."""
    with pytest.raises(RejectedError, match=r"https://s3\.example/b/k\?… redirects to an unusable"):
        redirect_of(redirect(location), "k")


def test_what_another_origin_gets() -> None:
    """No credentials, no key of an encrypted object, no condition on the store's ETag."""
    headers = {
        "Range": "bytes=0-1",
        "If-Match": '"e"',
        "Content-MD5": "m",
        "Authorization": "secret",
        "x-amz-security-token": "secret",
        "x-amz-server-side-encryption-customer-key": "secret",
    }
    assert foreign_headers(headers) == {"Range": "bytes=0-1", "Content-MD5": "m"}
