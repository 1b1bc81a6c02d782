"""S3 that misbehaves: each fault has its right outcome, seen from `AsyncClient.copy`."""

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
    NetworkError,
    NotFoundError,
    OptionsError,
    RejectedError,
    SourceChangedError,
    ThrottledError,
    TransferError,
)
from hftransfer.options import RetryPolicy, S3Options, TransferOptions
from support.s3 import Bucket, s3_client
from support.s3_proxy import proxy_for, xml_error

pytestmark = [
    pytest.mark.asyncio,
    # What is scripted is the same before every server.
    pytest.mark.parametrize("s3_server", ["minio"], indirect=True),
]

MIB = 1 << 20
OPTIONS = TransferOptions(
    chunk_size=5 * MIB,
    connections=4,
    retry=RetryPolicy(attempts=4, wait_initial=0.0, wait_max=0.0),
)


def client(endpoint: str, **options: Any) -> AsyncClient:
    return AsyncClient(replace(OPTIONS, s3=S3Options(endpoint_url=endpoint, **options)))


def put(bucket: Bucket, **objects: bytes) -> None:
    for key, data in objects.items():
        s3_client(bucket.server).put_object(Bucket=bucket.name, Key=key, Body=data)


def get(bucket: Bucket, key: str) -> bytes:
    body = s3_client(bucket.server).get_object(Bucket=bucket.name, Key=key)["Body"].read()
    assert isinstance(body, bytes)
    return body


def uploads(bucket: Bucket, key: str) -> Sequence[Any]:
    listed = s3_client(bucket.server).list_multipart_uploads(Bucket=bucket.name, Prefix=key)
    return list(listed.get("Uploads", []))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# --- requests that have to be made otherwise


async def test_a_wrong_region_is_corrected(bucket: Bucket, tmp_path: Path) -> None:
    """The refusal names the region; one more request is made, and no error is seen."""
    put(bucket, a=b"content")
    regions: list[str] = []

    async def redirect(request: web.Request) -> web.StreamResponse | None:
        region = request.headers["Authorization"].split("/")[2]
        regions.append(region)
        if region == bucket.server.region:
            return None
        return xml_error(301, "PermanentRedirect", x_amz_bucket_region=bucket.server.region)

    async with (
        proxy_for(bucket, redirect) as endpoint,
        client(endpoint, region_name="eu-north-1") as mover,
    ):
        await mover.copy(bucket.url, tmp_path)

    assert (tmp_path / "a").read_bytes() == b"content"
    assert regions == ["eu-north-1", *[bucket.server.region] * (len(regions) - 1)]


async def test_a_region_that_stays_wrong_is_named(bucket: Bucket, tmp_path: Path) -> None:
    """A redirect that leads in a circle ends with the region that the store asked for."""

    async def elsewhere(request: web.Request) -> web.StreamResponse | None:
        region = "r1" if "/r2/" in request.headers["Authorization"] else "r2"
        return xml_error(301, "PermanentRedirect", x_amz_bucket_region=region)

    async with proxy_for(bucket, elsewhere) as endpoint, client(endpoint) as mover:
        with pytest.raises(RejectedError, match="the bucket is in r1"):
            await mover.copy(bucket.url, tmp_path)


async def test_a_wrong_clock_is_set_right(bucket: Bucket, tmp_path: Path) -> None:
    """The store's own Date says by how much, and later requests are signed accordingly."""
    put(bucket, a=b"content")
    there = datetime.now(timezone.utc) + timedelta(hours=2)
    stamps: list[str] = []

    async def skewed(request: web.Request) -> web.StreamResponse | None:
        stamps.append(request.headers["x-amz-date"])
        if stamps[-1] < (there - timedelta(minutes=15)).strftime("%Y%m%dT%H%M%SZ"):
            return xml_error(403, "RequestTimeTooSkewed", Date=format_datetime(there))
        if "list-type" in request.query:
            return web.Response(body=listing(["a"], etag='"x"', size=7))
        return web.Response(body=b"content", headers={"ETag": '"x"'})

    async with proxy_for(bucket, skewed) as endpoint, client(endpoint) as mover:
        await mover.copy(bucket.url, tmp_path)

    assert (tmp_path / "a").read_bytes() == b"content"
    assert sum(stamp < there.strftime("%Y%m%dT%H") for stamp in stamps) == 1


async def test_credentials_that_ran_out_are_looked_up_again(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of credentials that somebody renews meanwhile is read again, once, in the middle."""
    put(bucket, a=b"first", b=b"second")
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
    refused = 0

    async def expire(request: web.Request) -> web.StreamResponse | None:
        nonlocal refused
        if "expired-id" in request.headers["Authorization"]:
            refused += 1
            write(bucket.server.access_key)
            return xml_error(400, "ExpiredToken")
        return None

    async with proxy_for(bucket, expire) as endpoint, client(endpoint) as mover:
        await mover.copy(bucket.url, tmp_path / "out")

    assert names(tmp_path / "out") == ["a", "b"]
    assert refused == 1


async def test_credentials_that_stay_expired_are_an_access_error(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Nobody renewed them: no endless loop, and the message says what to do."""

    async def expire(request: web.Request) -> web.StreamResponse | None:
        return xml_error(400, "ExpiredToken")

    async with proxy_for(bucket, expire) as endpoint, client(endpoint) as mover:
        with pytest.raises(AccessError, match="get new ones"):
            await mover.copy(bucket.url, tmp_path)


async def test_anonymous_requests_carry_no_signature(bucket: Bucket, tmp_path: Path) -> None:
    """A public object is read without any credentials."""
    put(bucket, open=b"content")
    seen: list[bool] = []

    async def see(request: web.Request) -> web.StreamResponse | None:
        seen.append("Authorization" in request.headers)
        return None

    policy = (
        '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":'
        f'["s3:GetObject","s3:ListBucket"],"Resource":["arn:aws:s3:::{bucket.name}",'
        f'"arn:aws:s3:::{bucket.name}/*"]}}]}}'
    )
    s3_client(bucket.server).put_bucket_policy(Bucket=bucket.name, Policy=policy)
    async with proxy_for(bucket, see) as endpoint, client(endpoint, anonymous=True) as mover:
        await mover.copy(f"{bucket.url}/open", tmp_path / "copy")

    assert (tmp_path / "copy").read_bytes() == b"content"
    assert seen
    assert not any(seen)


async def test_whose_certificates_are_trusted(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private authority is refused unless it is named, in options or AWS_CA_BUNDLE, or waived."""
    put(bucket, a=b"content")
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))

    async def passing(request: web.Request) -> web.StreamResponse | None:
        return None

    async with proxy_for(bucket, passing, tls=context) as endpoint:
        async with client(endpoint) as mover:
            with pytest.raises(RejectedError, match="not trusted"):
                await mover.list(bucket.url)
        for verify in (str(bundle), False):
            async with client(endpoint, verify=verify) as mover:
                assert len(await mover.list(bucket.url)) == 1
        monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
        async with client(endpoint) as mover:
            assert len(await mover.list(bucket.url)) == 1


# --- refusals


async def test_no_permission_on_one_key(bucket: Bucket, tmp_path: Path) -> None:
    """One forbidden object stops the transfer with its name; nothing torn is left."""
    put(bucket, a=b"content", b=b"secret")

    async def forbid(request: web.Request) -> web.StreamResponse | None:
        return xml_error(403, "AccessDenied") if request.path.endswith("/b") else None

    async with proxy_for(bucket, forbid) as endpoint, client(endpoint) as mover:
        with pytest.raises(AccessError, match=r"/b at .*lack a permission"):
            await mover.copy(bucket.url, tmp_path)

    assert all(name == "a" or name.endswith(".incomplete") for name in names(tmp_path))


async def test_an_object_can_be_read_by_who_may_not_list(bucket: Bucket, tmp_path: Path) -> None:
    """The key of an object is enough where listing is denied; a folder is not."""
    put(bucket, **{"f/a": b"content"})

    async def deny(request: web.Request) -> web.StreamResponse | None:
        return xml_error(403, "AccessDenied") if "list-type" in request.query else None

    async with proxy_for(bucket, deny) as endpoint, client(endpoint) as mover:
        await mover.copy(f"{bucket.url}/f/a", tmp_path / "copy")
        with pytest.raises(AccessError, match="lack a permission"):
            await mover.copy(f"{bucket.url}/f", tmp_path / "folder")

    assert (tmp_path / "copy").read_bytes() == b"content"


async def test_a_missing_bucket_moves_nothing(bucket: Bucket, tmp_path: Path) -> None:
    """As a source and as a destination: not found, by name, before any byte moves."""
    (tmp_path / "file").write_bytes(b"x")
    async with client(bucket.server.endpoint) as mover:
        with pytest.raises(NotFoundError, match="s3://no-such-bucket"):
            await mover.copy("s3://no-such-bucket/x", tmp_path / "out")
        with pytest.raises(NotFoundError, match="s3://no-such-bucket"):
            await mover.copy(tmp_path / "file", "s3://no-such-bucket/x")

    assert names(tmp_path) == ["file"]


# --- failures that pass


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError")])
async def test_storms_are_sat_out(bucket: Bucket, tmp_path: Path, status: int, code: str) -> None:
    """Every request is refused twice: both ways the transfer ends with the right bytes."""
    data = bytes(range(256)) * (12 * MIB // 256)
    (tmp_path / "in").write_bytes(data)
    counts: dict[tuple[str, str, str], int] = {}

    async def storm(request: web.Request) -> web.StreamResponse | None:
        # A connection that helps another one moves the end of what that one still asks for.
        start = request.headers.get("Range", "").partition("-")[0]
        which = (request.method, request.raw_path, start)
        counts[which] = counts.get(which, 0) + 1
        if counts[which] > 2:
            return None
        await request.read()
        return xml_error(status, code)

    async with proxy_for(bucket, storm) as endpoint, client(endpoint) as mover:
        await mover.copy(tmp_path / "in", f"{bucket.url}/big")
        report = await mover.copy(f"{bucket.url}/big", tmp_path / "out")

    assert (tmp_path / "out").read_bytes() == data
    assert report.retries >= 6
    assert not uploads(bucket, "big")


async def test_a_storm_without_end_is_given_up(bucket: Bucket, tmp_path: Path) -> None:
    """After as many tries as the policy allows the error says so; no upload stays open."""
    (tmp_path / "in").write_bytes(bytes(12 * MIB))

    async def storm(request: web.Request) -> web.StreamResponse | None:
        if "partNumber" not in request.query:
            return None
        await request.read()
        return xml_error(503, "SlowDown")

    async with proxy_for(bucket, storm) as endpoint, client(endpoint) as mover:
        with pytest.raises(ThrottledError, match="gave up after 4 tries"):
            await mover.copy(tmp_path / "in", f"{bucket.url}/big")

    assert not uploads(bucket, "big")


async def test_a_truncated_body_is_gone_on_with(bucket: Bucket, tmp_path: Path) -> None:
    """A body that ends early is asked for again from where it ended, not from its start."""
    data = bytes(range(256)) * 4096
    put(bucket, a=data)
    asked: list[str | None] = []

    async def cut(request: web.Request) -> web.StreamResponse | None:
        if not request.path.endswith("/a"):
            return None
        asked.append(request.headers.get("Range"))
        if len(asked) > 1:
            return None
        response = web.StreamResponse(headers={"Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[:300_000])
        assert request.transport is not None
        request.transport.close()
        return response

    async with proxy_for(bucket, cut) as endpoint, client(endpoint) as mover:
        await mover.copy(f"{bucket.url}/a", tmp_path / "out")

    assert (tmp_path / "out").read_bytes() == data
    assert asked[0] is None  # an object of one chunk needs no range
    assert asked[1] is not None
    assert asked[1].endswith(f"-{len(data) - 1}")
    assert not asked[1].startswith("bytes=0-")


async def test_damage_on_the_way_is_noticed(bucket: Bucket, tmp_path: Path) -> None:
    """A small object is compared with the checksum that it comes with, and read once more."""
    async with client(bucket.server.endpoint) as mover:
        (tmp_path / "in").write_bytes(b"content")
        await mover.copy(tmp_path / "in", f"{bucket.url}/a")
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

    async with proxy_for(bucket, damage) as endpoint, client(endpoint) as mover:
        limit = 1
        report = await mover.copy(f"{bucket.url}/a", tmp_path / "out")
        limit = 100
        with pytest.raises(NetworkError, match="damaged in transit"):
            await mover.copy(f"{bucket.url}/a", tmp_path / "never")

    assert (tmp_path / "out").read_bytes() == b"content"
    assert report.retries == 1
    assert not (tmp_path / "never").exists()


async def test_damage_of_a_large_object_is_noticed(bucket: Bucket, tmp_path: Path) -> None:
    """The checksum of the whole is asked for once; a range that differs never gets a name."""
    data = bytes(range(256)) * (11 * MIB // 256)
    (tmp_path / "in").write_bytes(data)
    heads: list[str] = []

    async def damage(request: web.Request) -> web.StreamResponse | None:
        if request.method == "HEAD":
            heads.append(request.path)
        asked = re.fullmatch(rf"bytes={5 * MIB}-(\d+)", request.headers.get("Range", ""))
        if asked is None:
            return None
        stop = int(asked[1]) + 1
        etag = s3_client(bucket.server).head_object(Bucket=bucket.name, Key="big")["ETag"]
        return web.Response(
            status=206,
            body=b"\1" + data[5 * MIB + 1 : stop],
            headers={"ETag": etag, "Content-Range": f"bytes {5 * MIB}-{stop - 1}/{len(data)}"},
        )

    async with client(bucket.server.endpoint) as mover:
        await mover.copy(tmp_path / "in", f"{bucket.url}/big")
    async with proxy_for(bucket, damage) as endpoint, client(endpoint) as mover:
        with pytest.raises(IntegrityError, match="crc"):
            await mover.copy(f"{bucket.url}/big", tmp_path / "out")

    assert not (tmp_path / "out").exists()
    assert len(heads) == 1


async def test_an_object_deleted_meanwhile_is_a_changed_source(
    bucket: Bucket, tmp_path: Path
) -> None:
    """It was listed, so its absence is no mistake in what was asked for."""
    put(bucket, a=b"content")

    async def vanish(request: web.Request) -> web.StreamResponse | None:
        if "list-type" not in request.query:
            s3_client(bucket.server).delete_object(Bucket=bucket.name, Key="a")
        return None

    async with proxy_for(bucket, vanish) as endpoint, client(endpoint) as mover:
        with pytest.raises(SourceChangedError, match="deleted"):
            await mover.copy(bucket.url, tmp_path)


# --- files on their way up


async def test_a_file_written_to_during_its_upload_is_not_published(
    bucket: Bucket, tmp_path: Path
) -> None:
    """That is noticed, whether or not what was hashed has left before; nothing stays there."""
    path = tmp_path / "model.bin"
    path.write_bytes(bytes(24 * MIB))
    refused: list[int] = []

    async def write(request: web.Request) -> web.StreamResponse | None:
        if "partNumber" not in request.query:
            return None
        with path.open("r+b") as file:
            file.seek((int(request.query["partNumber"]) - 1) * 5 * MIB + 4 * MIB)
            file.write(b"x")
        refused.append(1)
        return None

    async with proxy_for(bucket, write) as endpoint, client(endpoint) as mover:
        with pytest.raises(SourceChangedError, match=r"model\.bin was changed while it was being"):
            await mover.copy(path, f"{bucket.url}/m/model.bin")

    assert refused
    assert not uploads(bucket, "m/")
    assert "Contents" not in s3_client(bucket.server).list_objects_v2(Bucket=bucket.name)


async def test_parts_of_files_under_way_are_not_bounded_by_memory(
    bucket: Bucket, tmp_path: Path
) -> None:
    """With room for one chunk, eight are on their way over twice four connections."""
    path = tmp_path / "model.bin"
    path.write_bytes(os.urandom(43 * MIB))
    options = replace(OPTIONS, memory_budget=5 * MIB)
    under_way = 0
    full = anyio.Event()

    async def hold(request: web.Request) -> web.StreamResponse | None:
        nonlocal under_way
        if "partNumber" in request.query:
            under_way += 1
            if under_way == 8:
                full.set()
            await full.wait()
        return None

    async with proxy_for(bucket, hold) as endpoint:
        s3 = S3Options(endpoint_url=endpoint)
        async with AsyncClient(replace(options, s3=s3)) as mover:
            with anyio.fail_after(30):
                await mover.copy(path, f"{bucket.url}/model.bin")

    assert get(bucket, "model.bin") == path.read_bytes()


# --- listings


def listing(keys: Sequence[str], *, etag: str = '"e"', size: int = 1, token: str = "") -> bytes:
    rows = "".join(
        f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>{escape(etag)}</ETag>"
        "</Contents>"
        for key in keys
    )
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
    return f"<ListBucketResult>{more if token else ''}{rows}</ListBucketResult>".encode()


async def test_twenty_thousand_keys(bucket: Bucket) -> None:
    """Pages are followed to the last, one request each, and every key is listed once."""
    keys = [f"many/{number:05}" for number in range(20_000)]
    requests = 0

    async def pages(request: web.Request) -> web.StreamResponse | None:
        nonlocal requests
        requests += 1
        start = int(request.query.get("continuation-token", "0"))
        token = str(start + 1000) if start + 1000 < len(keys) else ""
        return web.Response(body=listing(keys[start : start + 1000], token=token))

    async with proxy_for(bucket, pages) as endpoint, client(endpoint) as mover:
        entries = await mover.list(f"{bucket.url}/many/")

    assert [entry.path for entry in entries] == [key.removeprefix("many/") for key in keys]
    assert requests == 20


async def test_one_request_tells_an_object_from_a_folder(bucket: Bucket) -> None:
    """Neither needs a HEAD; siblings that only begin alike cost at most one page more."""
    put(bucket, **{"m": b"1", "n/a": b"1", "n/b": b"2", "n-1": b"", "n0": b""})
    requests: list[str] = []

    async def count(request: web.Request) -> web.StreamResponse | None:
        requests.append(request.method)
        return None

    async with proxy_for(bucket, count) as endpoint, client(endpoint) as mover:
        assert [entry.path for entry in await mover.list(f"{bucket.url}/m")] == ["m"]
        assert [entry.path for entry in await mover.list(f"{bucket.url}/n")] == ["a", "b"]

    assert requests == ["GET", "GET"]


@pytest.mark.parametrize(
    "key", ["f/../../etc/passwd", "f//abs", "f/a//b", "f/./a", "f/a%00b", "f/a\\b", "f/C:x"]
)
async def test_keys_that_are_no_paths(bucket: Bucket, tmp_path: Path, key: str) -> None:
    """A key that would leave the folder, or can be no file's name, is refused with its text."""

    async def evil(request: web.Request) -> web.StreamResponse | None:
        page = listing([key]).replace(
            b"<ListBucketResult>", b"<ListBucketResult><EncodingType>url</EncodingType>"
        )
        return web.Response(body=page)

    async with proxy_for(bucket, evil) as endpoint, client(endpoint) as mover:
        with pytest.raises(LocationError, match="cannot be a file's path"):
            await mover.copy(f"{bucket.url}/f", tmp_path / "out")

    assert not (tmp_path / "out").exists()


async def test_an_object_without_bytes_travels_both_ways(bucket: Bucket, tmp_path: Path) -> None:
    """A 0-byte file becomes a 0-byte object and a file again."""
    (tmp_path / "empty").touch()
    async with client(bucket.server.endpoint) as mover:
        await mover.copy(tmp_path / "empty", f"{bucket.url}/empty")
        await mover.copy(f"{bucket.url}/empty", tmp_path / "again")

    assert (tmp_path / "again").read_bytes() == b""


async def test_a_listing_that_is_none_is_asked_for_again(bucket: Bucket) -> None:
    """A proxy's page in place of a listing is a failure that may pass, never an empty folder."""
    put(bucket, a=b"content")
    asked = 0

    async def page(request: web.Request) -> web.StreamResponse | None:
        nonlocal asked
        asked += 1
        return web.Response(text="<html><br>login</html>") if asked == 1 else None

    async with proxy_for(bucket, page) as endpoint, client(endpoint) as mover:
        assert len(await mover.list(bucket.url)) == 1
    assert asked == 2


# --- options


@pytest.mark.parametrize("endpoint", ["ftp://host", "127.0.0.1:9000", "http://"])
async def test_an_endpoint_that_is_no_url(bucket: Bucket, endpoint: str) -> None:
    """It is named before anything is sent."""
    async with client(endpoint) as mover:
        with pytest.raises(OptionsError, match="not an http"):
            await mover.list(bucket.url)


async def test_an_existing_object_may_be_protected(bucket: Bucket, tmp_path: Path) -> None:
    """With ``overwrite=False`` the store itself refuses, for small and large objects alike."""
    data = {"small": b"new", "large": bytes(11 * MIB)}
    put(bucket, **dict.fromkeys(data, b"old"))
    async with client(bucket.server.endpoint, overwrite=False) as mover:
        for name, content in data.items():
            (tmp_path / name).write_bytes(content)
            with pytest.raises(TransferError, match="exists already"):
                await mover.copy(tmp_path / name, f"{bucket.url}/{name}")
            assert get(bucket, name) == b"old"
            assert not uploads(bucket, name)
            await mover.copy(tmp_path / name, f"{bucket.url}/new-{name}")
            assert get(bucket, f"new-{name}") == content


async def test_what_a_manifest_knows_is_not_hashed_for_the_store_too(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Objects bring their checksum along only where nothing else says what they must be."""
    put(bucket, a=b"content")
    asked: list[bool] = []

    async def watch(request: web.Request) -> web.StreamResponse | None:
        if request.method == "GET" and request.path.endswith("/a"):
            asked.append("x-amz-checksum-mode" in request.headers)
        return None

    async with proxy_for(bucket, watch) as endpoint, client(endpoint) as mover:
        report = await mover.copy(bucket.url, tmp_path / "first")
        await mover.copy(bucket.url, tmp_path / "second", manifest=report.manifest)
        wrong = replace(report.manifest.files["a"], chunks=("0" * 32,))
        other = replace(report.manifest, files={"a": wrong})
        with pytest.raises(IntegrityError):
            await mover.copy(bucket.url, tmp_path / "third", manifest=other)

    assert asked[:2] == [True, False]
    assert not (tmp_path / "third" / "a").exists()
