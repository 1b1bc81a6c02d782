"""Scripted faults of S3, and how `AsyncClient` recovers from each or fails."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import anyio
import pytest
import trustme
from aiohttp import web

from hftransfer import AsyncClient
from hftransfer.errors import (
    AccessError,
    IntegrityError,
    LocationError,
    NotFoundError,
    OptionsError,
    RejectedError,
    ServerError,
    SourceChangedError,
    ThrottledError,
    TransferError,
)
from hftransfer.options import RetryPolicy, S3Options, TransferOptions
from support.s3 import Bucket, get_object, open_uploads, put_object, s3_client
from support.s3_proxy import proxy_for, xml_error

pytestmark = [
    pytest.mark.asyncio,
    # The faults are scripted in the proxy, so one server behind it is enough.
    pytest.mark.parametrize("s3_server", ["minio"], indirect=True),
]

MIB = 1 << 20
OPTIONS = TransferOptions(
    chunk_size=5 * MIB,
    connections=4,
    retry=RetryPolicy(attempts=4, wait_initial=0.0, wait_max=0.0),
)


def client_of(endpoint: str, **options: Any) -> AsyncClient:
    return AsyncClient(replace(OPTIONS, s3=S3Options(endpoint_url=endpoint, **options)))


def put_objects(bucket: Bucket, **objects: bytes) -> None:
    for key, data in objects.items():
        put_object(bucket, key, data)


def file_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# --- recovery: the request is fixed and sent again


async def test_a_wrong_region_is_corrected(bucket: Bucket, tmp_path: Path) -> None:
    """The error response names the right region, which all later requests use."""
    put_objects(bucket, a=b"content")
    regions: list[str] = []

    async def redirect(request: web.Request) -> web.StreamResponse | None:
        region = request.headers["Authorization"].split("/")[2]
        regions.append(region)
        if region == bucket.server.region:
            return None
        return xml_error(301, "PermanentRedirect", x_amz_bucket_region=bucket.server.region)

    async with (
        proxy_for(bucket, redirect) as endpoint,
        client_of(endpoint, region_name="eu-north-1") as client,
    ):
        await client.copy(bucket.url, tmp_path)

    assert (tmp_path / "a").read_bytes() == b"content"
    assert regions == ["eu-north-1", *[bucket.server.region] * (len(regions) - 1)]


async def test_a_redirect_loop_is_an_error(bucket: Bucket, tmp_path: Path) -> None:
    """The region is corrected once; the error names the region that the store asks for then."""

    async def redirect(request: web.Request) -> web.StreamResponse | None:
        region = "r1" if "/r2/" in request.headers["Authorization"] else "r2"
        return xml_error(301, "PermanentRedirect", x_amz_bucket_region=region)

    async with proxy_for(bucket, redirect) as endpoint, client_of(endpoint) as client:
        with pytest.raises(RejectedError, match="the bucket is in r1"):
            await client.copy(bucket.url, tmp_path)


async def test_a_wrong_clock_is_corrected(bucket: Bucket, tmp_path: Path) -> None:
    """After one rejected request all others are signed by the clock of the store's Date header."""
    put_objects(bucket, a=b"content")
    server_time = datetime.now(timezone.utc) + timedelta(hours=2)
    stamps: list[str] = []

    async def skewed(request: web.Request) -> web.StreamResponse | None:
        stamps.append(request.headers["x-amz-date"])
        if stamps[-1] < (server_time - timedelta(minutes=15)).strftime("%Y%m%dT%H%M%SZ"):
            return xml_error(403, "RequestTimeTooSkewed", Date=format_datetime(server_time))
        if "list-type" in request.query:
            return web.Response(body=listing(["a"], etag='"x"', size=7))
        return web.Response(body=b"content", headers={"ETag": '"x"'})

    async with proxy_for(bucket, skewed) as endpoint, client_of(endpoint) as client:
        await client.copy(bucket.url, tmp_path)

    assert (tmp_path / "a").read_bytes() == b"content"
    assert sum(stamp < server_time.strftime("%Y%m%dT%H") for stamp in stamps) == 1


async def test_expired_credentials_are_looked_up_again(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The credentials file is read once more; new credentials in it are used from then on."""
    put_objects(bucket, a=b"first", b=b"second")
    file = tmp_path / "credentials"

    def write(access: str) -> None:
        file.write_text(
            f"[default]\naws_access_key_id={access}\n"
            f"aws_secret_access_key={bucket.server.secret_key}\n"
        )

    write("expired-id")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    rejected = 0

    async def expire(request: web.Request) -> web.StreamResponse | None:
        nonlocal rejected
        if "expired-id" in request.headers["Authorization"]:
            rejected += 1
            write(bucket.server.access_key)
            return xml_error(400, "ExpiredToken")
        return None

    async with proxy_for(bucket, expire) as endpoint, client_of(endpoint) as client:
        await client.copy(bucket.url, tmp_path / "out")

    assert file_names(tmp_path / "out") == ["a", "b"]
    assert rejected == 1


async def test_credentials_that_stay_expired_are_an_access_error(
    bucket: Bucket, tmp_path: Path
) -> None:
    """The lookup finds the same credentials, so the request is not sent again."""

    async def expire(request: web.Request) -> web.StreamResponse | None:
        return xml_error(400, "ExpiredToken")

    async with proxy_for(bucket, expire) as endpoint, client_of(endpoint) as client:
        with pytest.raises(AccessError, match="get new ones"):
            await client.copy(bucket.url, tmp_path)


async def test_anonymous_requests_carry_no_signature(bucket: Bucket, tmp_path: Path) -> None:
    """A public object is read without credentials."""
    put_objects(bucket, open=b"content")
    signed: list[bool] = []

    async def record(request: web.Request) -> web.StreamResponse | None:
        signed.append("Authorization" in request.headers)
        return None

    policy = (
        '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":'
        f'["s3:GetObject","s3:ListBucket"],"Resource":["arn:aws:s3:::{bucket.name}",'
        f'"arn:aws:s3:::{bucket.name}/*"]}}]}}'
    )
    s3_client(bucket.server).put_bucket_policy(Bucket=bucket.name, Policy=policy)
    async with proxy_for(bucket, record) as endpoint, client_of(endpoint, anonymous=True) as client:
        await client.copy(f"{bucket.url}/open", tmp_path / "copy")

    assert (tmp_path / "copy").read_bytes() == b"content"
    assert signed
    assert not any(signed)


async def test_trusted_certificates(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private authority is trusted only by an option, by AWS_CA_BUNDLE, or with verify=False."""
    put_objects(bucket, a=b"content")
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))

    async def forward(request: web.Request) -> web.StreamResponse | None:
        return None

    async with proxy_for(bucket, forward, tls=context) as endpoint:
        async with client_of(endpoint) as client:
            with pytest.raises(RejectedError, match="not trusted"):
                await client.list(bucket.url)
        for verify in (str(bundle), False):
            async with client_of(endpoint, verify=verify) as client:
                assert len(await client.list(bucket.url)) == 1
        monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
        async with client_of(endpoint) as client:
            assert len(await client.list(bucket.url)) == 1


# --- permanent errors


async def test_a_forbidden_object_stops_the_transfer(bucket: Bucket, tmp_path: Path) -> None:
    """The error names the object; no incomplete file gets its final name."""
    put_objects(bucket, a=b"content", b=b"secret")

    async def forbid(request: web.Request) -> web.StreamResponse | None:
        return xml_error(403, "AccessDenied") if request.path.endswith("/b") else None

    async with proxy_for(bucket, forbid) as endpoint, client_of(endpoint) as client:
        with pytest.raises(AccessError, match=r"/b at .*lack a permission"):
            await client.copy(bucket.url, tmp_path)

    complete = {name for name in file_names(tmp_path) if not name.endswith(".incomplete")}
    assert complete <= {"a"}


async def test_an_object_is_read_without_permission_to_list(bucket: Bucket, tmp_path: Path) -> None:
    """If the location is the key of an object; a folder has to be listed."""
    put_objects(bucket, **{"f/a": b"content"})

    async def deny(request: web.Request) -> web.StreamResponse | None:
        return xml_error(403, "AccessDenied") if "list-type" in request.query else None

    async with proxy_for(bucket, deny) as endpoint, client_of(endpoint) as client:
        await client.copy(f"{bucket.url}/f/a", tmp_path / "copy")
        with pytest.raises(AccessError, match="lack a permission"):
            await client.copy(f"{bucket.url}/f", tmp_path / "folder")

    assert (tmp_path / "copy").read_bytes() == b"content"


async def test_a_missing_bucket_is_named(bucket: Bucket, tmp_path: Path) -> None:
    """As a source and as a destination it is an error before any byte is transferred."""
    (tmp_path / "file").write_bytes(b"x")
    async with client_of(bucket.server.endpoint) as client:
        with pytest.raises(NotFoundError, match="s3://no-such-bucket"):
            await client.copy("s3://no-such-bucket/x", tmp_path / "out")
        with pytest.raises(NotFoundError, match="s3://no-such-bucket"):
            await client.copy(tmp_path / "file", "s3://no-such-bucket/x")

    assert file_names(tmp_path) == ["file"]


# --- transient errors


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError")])
async def test_every_request_is_retried(
    bucket: Bucket, tmp_path: Path, status: int, code: str
) -> None:
    """Upload and download succeed if each request fails twice."""
    data = bytes(range(256)) * (12 * MIB // 256)
    (tmp_path / "in").write_bytes(data)
    counts: dict[tuple[str, str, str], int] = {}

    async def fail_twice(request: web.Request) -> web.StreamResponse | None:
        # By the start of a range only: another connection may have taken over its end.
        start = request.headers.get("Range", "").partition("-")[0]
        identity = (request.method, request.raw_path, start)
        counts[identity] = counts.get(identity, 0) + 1
        if counts[identity] > 2:
            return None
        await request.read()
        return xml_error(status, code)

    async with proxy_for(bucket, fail_twice) as endpoint, client_of(endpoint) as client:
        await client.copy(tmp_path / "in", f"{bucket.url}/big")
        report = await client.copy(f"{bucket.url}/big", tmp_path / "out")

    assert (tmp_path / "out").read_bytes() == data
    assert report.retries >= 6
    assert not open_uploads(bucket, "big")


async def test_retries_end_with_the_policy(bucket: Bucket, tmp_path: Path) -> None:
    """The error states the number of attempts; no upload stays open."""
    (tmp_path / "in").write_bytes(bytes(12 * MIB))

    async def throttle(request: web.Request) -> web.StreamResponse | None:
        if "partNumber" not in request.query:
            return None
        await request.read()
        return xml_error(503, "SlowDown")

    async with proxy_for(bucket, throttle) as endpoint, client_of(endpoint) as client:
        with pytest.raises(ThrottledError, match="gave up after 4 attempts"):
            await client.copy(tmp_path / "in", f"{bucket.url}/big")

    assert not open_uploads(bucket, "big")


async def test_a_truncated_body_is_continued(bucket: Bucket, tmp_path: Path) -> None:
    """The next request asks for a range that starts where the body ended."""
    data = bytes(range(256)) * 4096
    put_objects(bucket, a=data)
    ranges: list[str | None] = []

    async def truncate(request: web.Request) -> web.StreamResponse | None:
        if not request.path.endswith("/a"):
            return None
        ranges.append(request.headers.get("Range"))
        if len(ranges) > 1:
            return None
        response = web.StreamResponse(headers={"Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[:300_000])
        assert request.transport is not None
        request.transport.close()
        return response

    async with proxy_for(bucket, truncate) as endpoint, client_of(endpoint) as client:
        await client.copy(f"{bucket.url}/a", tmp_path / "out")

    assert (tmp_path / "out").read_bytes() == data
    assert ranges[0] is None  # an object of one chunk is read without a range
    assert ranges[1] is not None
    assert ranges[1].endswith(f"-{len(data) - 1}")
    assert not ranges[1].startswith("bytes=0-")


async def test_a_damaged_small_object_is_read_again(bucket: Bucket, tmp_path: Path) -> None:
    """Its bytes are compared with the checksum in the response's headers, and count as verified."""
    async with client_of(bucket.server.endpoint) as client:
        (tmp_path / "in").write_bytes(b"content")
        await client.copy(tmp_path / "in", f"{bucket.url}/a")
    damaged = 0

    async def damage(request: web.Request) -> web.StreamResponse | None:
        nonlocal damaged
        if not request.path.endswith("/a") or damaged == limit:
            return None
        damaged += 1
        head = s3_client(bucket.server).head_object(
            Bucket=bucket.name, Key="a", ChecksumMode="ENABLED"
        )
        (name,) = {"ChecksumCRC32", "ChecksumCRC64NVME"} & head.keys()
        checksum = {f"x-amz-checksum-{name.removeprefix('Checksum').lower()}": head[name]}
        return web.Response(body=b"c0ntent", headers={"ETag": head["ETag"], **checksum})

    async with proxy_for(bucket, damage) as endpoint, client_of(endpoint) as client:
        limit = 1
        report = await client.copy(f"{bucket.url}/a", tmp_path / "out")
        limit = 100
        with pytest.raises(IntegrityError, match="mismatch: expected"):
            await client.copy(f"{bucket.url}/a", tmp_path / "never")

    assert (tmp_path / "out").read_bytes() == b"content"
    assert (report.retries, report.verified, report.unverified) == (1, 1, 0)
    assert not (tmp_path / "never").exists()


async def test_a_damaged_large_object_is_not_published(bucket: Bucket, tmp_path: Path) -> None:
    """One HEAD gets the checksum of the whole object; the file with a wrong range is discarded."""
    data = bytes(range(256)) * (11 * MIB // 256)
    (tmp_path / "in").write_bytes(data)
    heads: list[str] = []

    async def damage(request: web.Request) -> web.StreamResponse | None:
        if request.method == "HEAD":
            heads.append(request.path)
        matched = re.fullmatch(rf"bytes={5 * MIB}-(\d+)", request.headers.get("Range", ""))
        if matched is None:
            return None
        stop = int(matched[1]) + 1
        etag = s3_client(bucket.server).head_object(Bucket=bucket.name, Key="big")["ETag"]
        return web.Response(
            status=206,
            body=b"\1" + data[5 * MIB + 1 : stop],
            headers={"ETag": etag, "Content-Range": f"bytes {5 * MIB}-{stop - 1}/{len(data)}"},
        )

    async with client_of(bucket.server.endpoint) as client:
        await client.copy(tmp_path / "in", f"{bucket.url}/big")
    async with proxy_for(bucket, damage) as endpoint, client_of(endpoint) as client:
        with pytest.raises(IntegrityError, match="crc"):
            await client.copy(f"{bucket.url}/big", tmp_path / "out")

    assert not (tmp_path / "out").exists()
    assert len(heads) == 1


async def test_an_object_deleted_after_the_listing_is_a_changed_source(
    bucket: Bucket, tmp_path: Path
) -> None:
    """It was listed, so the location of the transfer is not wrong."""
    put_objects(bucket, a=b"content")

    async def delete(request: web.Request) -> web.StreamResponse | None:
        if "list-type" not in request.query:
            s3_client(bucket.server).delete_object(Bucket=bucket.name, Key="a")
        return None

    async with proxy_for(bucket, delete) as endpoint, client_of(endpoint) as client:
        with pytest.raises(SourceChangedError, match="deleted"):
            await client.copy(bucket.url, tmp_path)


# --- uploads of files


async def test_a_file_written_to_during_its_upload_is_not_published(
    bucket: Bucket, tmp_path: Path
) -> None:
    """The upload fails whether a part was sent before or after the write, and is aborted."""
    path = tmp_path / "model.bin"
    path.write_bytes(bytes(24 * MIB))
    writes = 0

    async def write(request: web.Request) -> web.StreamResponse | None:
        nonlocal writes
        if "partNumber" not in request.query:
            return None
        with path.open("r+b") as file:
            file.seek((int(request.query["partNumber"]) - 1) * 5 * MIB + 4 * MIB)
            file.write(b"x")
        writes += 1
        return None

    async with proxy_for(bucket, write) as endpoint, client_of(endpoint) as client:
        with pytest.raises(SourceChangedError, match=r"model\.bin was changed while it was being"):
            await client.copy(path, f"{bucket.url}/m/model.bin")

    assert writes > 0
    assert not open_uploads(bucket, "m/")
    assert "Contents" not in s3_client(bucket.server).list_objects_v2(Bucket=bucket.name)


async def test_parts_in_flight_are_not_bounded_by_the_memory_budget(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Sendfile needs no buffers: with a budget of one chunk, three parts are in flight."""
    path = tmp_path / "model.bin"
    path.write_bytes(os.urandom(43 * MIB))
    options = replace(OPTIONS, memory_budget=5 * MIB)
    in_flight = 0
    three_in_flight = anyio.Event()  # what the window of bytes in flight allows at first

    async def hold(request: web.Request) -> web.StreamResponse | None:
        nonlocal in_flight
        if "partNumber" in request.query:
            in_flight += 1
            if in_flight == 3:
                three_in_flight.set()
            await three_in_flight.wait()
        return None

    async with proxy_for(bucket, hold) as endpoint:
        s3 = S3Options(endpoint_url=endpoint)
        async with AsyncClient(replace(options, s3=s3)) as client:
            with anyio.fail_after(30):
                await client.copy(path, f"{bucket.url}/model.bin")

    assert get_object(bucket, "model.bin") == path.read_bytes()


# --- listings


def listing(keys: Sequence[str], *, etag: str = '"e"', size: int = 1, token: str = "") -> bytes:
    """Return a ListObjectsV2 document; `token` is that of the next page, if there is one."""
    rows = "".join(
        f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>{escape(etag)}</ETag>"
        "</Contents>"
        for key in keys
    )
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
    return f"<ListBucketResult>{more if token else ''}{rows}</ListBucketResult>".encode()


async def test_all_pages_of_twenty_thousand_keys_are_listed(bucket: Bucket) -> None:
    """Each page is one request, and every key is listed once."""
    keys = [f"many/{number:05}" for number in range(20_000)]
    requests = 0

    async def pages(request: web.Request) -> web.StreamResponse | None:
        nonlocal requests
        requests += 1
        start = int(request.query.get("continuation-token", "0"))
        token = str(start + 1000) if start + 1000 < len(keys) else ""
        return web.Response(body=listing(keys[start : start + 1000], token=token))

    async with proxy_for(bucket, pages) as endpoint, client_of(endpoint) as client:
        entries = await client.list(f"{bucket.url}/many/")

    assert [entry.path for entry in entries] == [key.removeprefix("many/") for key in keys]
    assert requests == 20


async def test_one_request_lists_an_object_or_a_folder(bucket: Bucket) -> None:
    """Neither needs a HEAD, even if other keys begin with the same letters."""
    put_objects(bucket, **{"m": b"1", "n/a": b"1", "n/b": b"2", "n-1": b"", "n0": b""})
    requests: list[str] = []

    async def record(request: web.Request) -> web.StreamResponse | None:
        requests.append(request.method)
        return None

    async with proxy_for(bucket, record) as endpoint, client_of(endpoint) as client:
        assert [entry.path for entry in await client.list(f"{bucket.url}/m")] == ["m"]
        assert [entry.path for entry in await client.list(f"{bucket.url}/n")] == ["a", "b"]

    assert requests == ["GET", "GET"]


@pytest.mark.parametrize(
    "key", ["f/../../etc/passwd", "f//abs", "f/a//b", "f/./a", "f/a%00b", "f/a\\b", "f/C:x"]
)
async def test_keys_that_cannot_be_paths_are_rejected(
    bucket: Bucket, tmp_path: Path, key: str
) -> None:
    """A key that would leave the folder, or is not a valid file name, is never written."""

    async def list_key(request: web.Request) -> web.StreamResponse | None:
        page = listing([key]).replace(
            b"<ListBucketResult>", b"<ListBucketResult><EncodingType>url</EncodingType>"
        )
        return web.Response(body=page)

    async with proxy_for(bucket, list_key) as endpoint, client_of(endpoint) as client:
        with pytest.raises(LocationError, match="1 name cannot be written: "):
            await client.copy(f"{bucket.url}/f", tmp_path / "out")
        await client.copy(f"{bucket.url}/f", tmp_path / "out", on_bad_name="skip")

    assert not (tmp_path / "out").exists()


async def test_an_empty_file_is_uploaded_and_downloaded(bucket: Bucket, tmp_path: Path) -> None:
    """A file of 0 bytes becomes an object of 0 bytes, and a file again."""
    (tmp_path / "empty").touch()
    async with client_of(bucket.server.endpoint) as client:
        await client.copy(tmp_path / "empty", f"{bucket.url}/empty")
        await client.copy(f"{bucket.url}/empty", tmp_path / "again")

    assert (tmp_path / "again").read_bytes() == b""


async def test_a_listing_that_was_cut_off_is_requested_again(bucket: Bucket) -> None:
    """A document that ends early is a transient error, and never an empty folder."""
    put_objects(bucket, a=b"content")
    requests = 0

    async def cut(request: web.Request) -> web.StreamResponse | None:
        nonlocal requests
        requests += 1
        return web.Response(body=listing(["a"])[:-10]) if requests == 1 else None

    async with proxy_for(bucket, cut) as endpoint, client_of(endpoint) as client:
        assert len(await client.list(bucket.url)) == 1
    assert requests == 2


async def test_a_listing_that_stays_cut_off_is_an_error(bucket: Bucket) -> None:
    """After the retries the error names the location and the endpoint."""

    async def cut(request: web.Request) -> web.StreamResponse | None:
        return web.Response(body=listing(["a"])[:-10])

    async with proxy_for(bucket, cut) as endpoint, client_of(endpoint) as client:
        with pytest.raises(ServerError, match=f"{bucket.url}/ at {endpoint}: .*not an XML"):
            await client.list(bucket.url)


async def test_a_page_in_place_of_a_listing_is_rejected(bucket: Bucket) -> None:
    """It is neither an empty folder nor asked for again: the endpoint is wrong."""
    requests = 0

    async def respond_html(request: web.Request) -> web.StreamResponse | None:
        nonlocal requests
        requests += 1
        return web.Response(text="<html><br>login</html>", content_type="text/html")

    async with proxy_for(bucket, respond_html) as endpoint, client_of(endpoint) as client:
        with pytest.raises(RejectedError, match=r"not an S3 store: .*'text/html', without the doc"):
            await client.list(bucket.url)
    assert requests == 1


# --- options


@pytest.mark.parametrize("endpoint", ["ftp://host", "127.0.0.1:9000", "http://"])
async def test_an_invalid_endpoint_is_an_options_error(bucket: Bucket, endpoint: str) -> None:
    """It is rejected before anything is sent."""
    async with client_of(endpoint) as client:
        with pytest.raises(OptionsError, match="not an http"):
            await client.list(bucket.url)


async def test_an_existing_object_is_kept_without_overwrite(bucket: Bucket, tmp_path: Path) -> None:
    """With ``overwrite=False`` the store rejects small and large uploads alike."""
    data = {"small": b"new", "large": bytes(11 * MIB)}
    put_objects(bucket, **dict.fromkeys(data, b"old"))
    async with client_of(bucket.server.endpoint, overwrite=False) as client:
        for name, content in data.items():
            (tmp_path / name).write_bytes(content)
            with pytest.raises(TransferError, match="exists already"):
                await client.copy(tmp_path / name, f"{bucket.url}/{name}")
            assert get_object(bucket, name) == b"old"
            assert not open_uploads(bucket, name)
            await client.copy(tmp_path / name, f"{bucket.url}/new-{name}")
            assert get_object(bucket, f"new-{name}") == content


async def test_checksums_are_not_requested_with_a_manifest(bucket: Bucket, tmp_path: Path) -> None:
    """The engine compares the chunks with the manifest, so the store's checksum is not needed."""
    put_objects(bucket, a=b"content")
    requested: list[bool] = []

    async def record(request: web.Request) -> web.StreamResponse | None:
        if request.method == "GET" and request.path.endswith("/a"):
            requested.append("x-amz-checksum-mode" in request.headers)
        return None

    async with proxy_for(bucket, record) as endpoint, client_of(endpoint) as client:
        report = await client.copy(bucket.url, tmp_path / "first")
        await client.copy(bucket.url, tmp_path / "second", manifest=report.manifest)
        wrong = replace(report.manifest.files["a"], chunks=("0" * 32,))
        other = replace(report.manifest, files={"a": wrong})
        with pytest.raises(IntegrityError):
            await client.copy(bucket.url, tmp_path / "third", manifest=other)

    assert requested[:2] == [True, False]
    assert not (tmp_path / "third" / "a").exists()
