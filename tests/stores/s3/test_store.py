"""`hftransfer.stores.s3.store`: `S3Source` and `S3Sink` on real servers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from hftransfer._core.manifest import Manifest
from hftransfer._core.plan import Chunk
from hftransfer.errors import (
    AccessError,
    DestinationError,
    LocationError,
    NotFoundError,
    SourceChangedError,
)
from hftransfer.locations import S3Location
from hftransfer.options import RetryPolicy, S3Options, TransferOptions
from hftransfer.stores.base import Entry
from hftransfer.stores.local.source import LocalSource
from hftransfer.stores.s3.client import S3Client
from hftransfer.stores.s3.store import S3Sink, S3Source
from support.s3 import Bucket, get_object, numbered_bytes, put_object, s3_client
from support.s3_files import PART, manifest_of, read, upload, write
from support.s3_proxy import proxy_for, xml_error

pytestmark = pytest.mark.asyncio

OPTIONS = TransferOptions(
    connections=4, retry=RetryPolicy(attempts=3, wait_initial=0.0, wait_max=0.0)
)
AWKWARD_PATHS = [
    "with space.txt",
    "plus+sign",
    "per%cent%20",
    "a&b=c?d#e",
    "schön/模型.bin",
    "quote'\"(1)!*~",
]


def client_of(bucket: Bucket, **options: Any) -> S3Client:
    endpoint = options.pop("endpoint", bucket.server.endpoint)
    return S3Client(S3Options(endpoint_url=endpoint, **options), OPTIONS)


# --- source


async def test_uploaded_files_are_listed_and_read_back(bucket: Bucket) -> None:
    """Files of several chunks, of one and of none keep path, size and every byte."""
    data = {"big.bin": numbered_bytes(2 * PART + 3), "sub/small.json": b"{}", "empty": b""}
    async with client_of(bucket) as client:
        sink = S3Sink(client, S3Location(bucket.name, "models/x"))
        await sink.prepare([Entry(path=path, size=len(content)) for path, content in data.items()])
        for path, content in data.items():
            await upload(sink, path, content)
        await sink.finish(Manifest(source="memory://"))
        source = S3Source(client, S3Location(bucket.name, "models/x"))
        listed = await source.list()

        assert [(entry.path, entry.size) for entry in listed] == [
            (path, len(data[path])) for path in sorted(data)
        ]
        assert all(entry.identity for entry in listed)
        for entry in listed:
            if entry.size:
                assert await read(source, entry) == data[entry.path]
        big = listed[0]
        across_parts = await read(source, big, PART - 1, PART + 9)
        assert across_parts == data["big.bin"][PART - 1 : PART + 9]
        async with source.stream(big) as body:
            start, remaining = bytearray(10), bytearray(big.size - 10)
            await body.readinto(memoryview(start))
            await body.readinto(memoryview(remaining))
        assert bytes(start + remaining) == data["big.bin"]
        assert not source.single


async def test_a_folder_contains_only_keys_below_its_slash(bucket: Bucket) -> None:
    """``model`` lists ``model/…``, but not ``model-2/…``, ``model.bin`` or folder markers."""
    for key in ("model/a", "model/b/c", "model/", "model/b/", "model-2/a", "model.bin"):
        put_object(bucket, key, b"" if key.endswith("/") else b"x")
    async with client_of(bucket) as client:
        for key in ("model", "model/"):
            listed = await S3Source(client, S3Location(bucket.name, key)).list()

            assert [entry.path for entry in listed] == ["a", "b/c"]


async def test_the_key_of_an_object_is_one_file(bucket: Bucket) -> None:
    """Its path is the last segment of the key."""
    put_object(bucket, "models/weights.bin", b"12345")
    put_object(bucket, "models/weights.bin.index")
    async with client_of(bucket) as client:
        source = S3Source(client, S3Location(bucket.name, "models/weights.bin"))
        (entry,) = await source.list()

        assert (entry.path, entry.size) == ("weights.bin", 5)
        assert source.single
        assert await read(source, entry, 1, 4) == b"234"


async def test_awkward_keys_are_kept(bucket: Bucket) -> None:
    """Characters that are special in URLs stay part of the key, in requests and in listings."""
    async with client_of(bucket) as client:
        sink = S3Sink(client, S3Location(bucket.name, "p q+%"))
        for path in AWKWARD_PATHS:
            await upload(sink, path, path.encode())
        source = S3Source(client, S3Location(bucket.name, "p q+%"))
        listed = await source.list()

        assert sorted(AWKWARD_PATHS) == [entry.path for entry in listed]
        for entry in listed:
            assert await read(source, entry) == entry.path.encode()
    for path in AWKWARD_PATHS:
        assert get_object(bucket, f"p q+%/{path}") == path.encode()


@pytest.mark.slow
async def test_all_pages_are_listed(bucket: Bucket) -> None:
    """More objects than a page holds are all listed, each once."""
    backend = s3_client(bucket.server)
    paths = [f"{number:04}" for number in range(1003)]
    for path in paths:
        backend.put_object(Bucket=bucket.name, Key=f"many/{path}", Body=b"")
    async with client_of(bucket) as client:
        listed = await S3Source(client, S3Location(bucket.name, "many")).list()

    assert paths == [entry.path for entry in listed]


async def test_an_empty_location_is_not_found(bucket: Bucket) -> None:
    """For a missing object, folder or bucket the error names the location and the endpoint."""
    async with client_of(bucket) as client:
        for location in (S3Location(bucket.name, "no/thing"), S3Location("no-such-bucket", "x")):
            with pytest.raises(NotFoundError, match=str(location)) as caught:
                await S3Source(client, location).list()

            assert bucket.server.endpoint in str(caught.value)


async def test_a_key_that_cannot_be_a_path_is_listed_and_read(bucket: Bucket) -> None:
    """A key can be any text; what makes a local path of it checks it."""
    put_object(bucket, "odd/C:slash", b"x")
    put_object(bucket, "odd/D:/b", b"y")
    async with client_of(bucket) as client:
        source = S3Source(client, S3Location(bucket.name, "odd"))
        entries = await source.list()

        assert {entry.path: await read(source, entry) for entry in entries} == {
            "C:slash": b"x",
            "D:/b": b"y",
        }


async def test_a_name_that_is_not_utf8_is_rejected_before_bytes_move(bucket: Bucket) -> None:
    """Local names are bytes, and keys are text."""
    async with client_of(bucket) as client:
        sink = S3Sink(client, S3Location(bucket.name, "p"))
        with pytest.raises(
            LocationError, match=r"1 name cannot be written: 'a\\udcff' is not UTF-8"
        ):
            await sink.prepare([Entry(path="a\udcff", size=1), Entry(path="b", size=1)])


async def test_an_object_replaced_during_its_transfer_is_an_error(bucket: Bucket) -> None:
    """Every range carries If-Match, so bytes of two versions are never mixed."""
    put_object(bucket, "f/a", b"old content")
    async with client_of(bucket) as client:
        source = S3Source(client, S3Location(bucket.name, "f"))
        (entry,) = await source.list()
        assert await read(source, entry, 0, 3) == b"old"
        put_object(bucket, "f/a", b"new content")

        with pytest.raises(SourceChangedError, match=r"f/a .*replaced"):
            await read(source, entry, 3, 6)
        with pytest.raises(SourceChangedError):
            async with source.stream(entry):
                pass


# --- sink


async def test_content_types(bucket: Bucket) -> None:
    """The entry's own type comes first, then the file name's; compressed files have none."""
    entries = [
        Entry(path="a.json", size=1),
        Entry(path="b.json.gz", size=1),
        Entry(path="c.unknown-suffix", size=0),
        Entry(path="d", size=1, properties={"content-type": "text/x-own"}),
    ]
    async with client_of(bucket) as client:
        sink = S3Sink(client, S3Location(bucket.name))
        for entry in entries:
            file = await sink.begin(entry, PART)
            assert file is not None
            if entry.size:
                await write(file, Chunk(0, 0, 1), b"x")
            await file.commit(manifest_of(b"x" * entry.size))
        source = S3Source(client, S3Location(bucket.name, "a.json"))
        (entry,) = await source.list()
        listed = await source.with_details(entry, properties=True)

    backend = s3_client(bucket.server)
    types = [
        backend.head_object(Bucket=bucket.name, Key=entry.path)["ContentType"] for entry in entries
    ]
    assert types[0] == "application/json"
    assert types[1] in ("application/octet-stream", "application/gzip")  # SeaweedFS sets gzip
    assert types[2:] == ["application/octet-stream", "text/x-own"]
    assert listed.properties == {"content-type": "application/json"}


async def test_a_single_file_may_be_given_a_key(bucket: Bucket) -> None:
    """With `single` the location is the object; folders and several files are rejected."""
    async with client_of(bucket) as client:
        sink = S3Sink(client, S3Location(bucket.name, "models/renamed.bin"), single=True)
        await sink.prepare([Entry(path="w.bin", size=1)])
        await upload(sink, "w.bin", b"x")
        await sink.finish(Manifest(source="memory://"))
        with pytest.raises(DestinationError, match="2 files"):
            await sink.prepare([Entry(path="a", size=1), Entry(path="b", size=1)])
        for key in ("", "models/"):
            with pytest.raises(LocationError):
                S3Sink(client, S3Location(bucket.name, key), single=True)

    assert get_object(bucket, "models/renamed.bin") == b"x"


async def test_keys_longer_than_s3_allows_are_rejected_before_bytes_move(bucket: Bucket) -> None:
    """The limit counts bytes of UTF-8, including the prefix."""
    async with client_of(bucket) as client:
        sink = S3Sink(client, S3Location(bucket.name, "p"))
        await sink.prepare([Entry(path="x" * 1022, size=1)])
        with pytest.raises(LocationError, match="makes a key of 1025 bytes"):
            await sink.prepare([Entry(path="é" * 511 + "x", size=1)])


async def test_a_missing_bucket_is_reported_before_bytes_move(bucket: Bucket) -> None:
    """The error of `prepare` names the bucket."""
    async with client_of(bucket) as client:
        with pytest.raises(NotFoundError, match="s3://no-such-bucket"):
            await S3Sink(client, S3Location("no-such-bucket", "x")).prepare([])


async def test_write_permission_is_enough_to_upload(bucket: Bucket) -> None:
    """Uploads work with credentials that may neither list nor read; listing is an error."""
    data = numbered_bytes(PART + (1 << 20))

    async def deny(request: web.Request) -> web.StreamResponse | None:
        if request.method == "HEAD":
            return web.Response(status=403)
        return xml_error(403, "AccessDenied") if "list-type" in request.query else None

    async with (
        proxy_for(bucket, deny) as endpoint,
        client_of(bucket, endpoint=endpoint) as client,
    ):
        location = S3Location(bucket.name)
        sink = S3Sink(client, location)
        await sink.prepare([])
        await upload(sink, "w.bin", data)
        with pytest.raises(AccessError, match="lack a permission"):
            await S3Source(client, location).list()
    assert get_object(bucket, "w.bin") == data


@pytest.mark.slow
async def test_an_object_beyond_the_first_pages_is_found(bucket: Bucket, tmp_path: Path) -> None:
    """The destination has more objects than are listed for one file; that one is asked for."""
    content = numbered_bytes(256 * 1024)
    backend = s3_client(bucket.server)
    for number in range(1001):
        backend.put_object(Bucket=bucket.name, Key=f"p/{number:04}", Body=b"")
    backend.put_object(Bucket=bucket.name, Key="p/z", Body=content)
    (tmp_path / "z").write_bytes(content)
    (entry,) = await LocalSource(tmp_path).list()
    async with client_of(bucket) as client:
        sink = S3Sink(client, S3Location(bucket.name, "p"))
        await sink.prepare([entry])
        found = await sink.stored_content(entry, PART)

    assert found is not None
    assert found.matches([hashlib.md5(content).hexdigest()])
