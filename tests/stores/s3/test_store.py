"""`hftransfer.stores.s3.store` on real servers, and its tables and small parts by themselves."""

from __future__ import annotations

import logging
import socket
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import anyio
import pytest
from aiohttp import web
from botocore.exceptions import ClientError, NoCredentialsError, ReadTimeoutError

from hftransfer._core.byte_range import ByteRangeBuffer
from hftransfer._core.digests import chunk_digest
from hftransfer._core.manifest import FileManifest, Manifest
from hftransfer._core.plan import Chunk, plan_chunks
from hftransfer.errors import (
    AccessError,
    DestinationError,
    IntegrityError,
    LocationError,
    NetworkError,
    NotFoundError,
    OptionsError,
    RejectedError,
    Response,
    ServerError,
    SourceChangedError,
    StalledError,
    ThrottledError,
    TransferError,
    UnsupportedError,
)
from hftransfer.locations import S3Location
from hftransfer.options import RetryPolicy, S3Options, TransferOptions
from hftransfer.stores.base import Entry, FileSink, Sink, Source
from hftransfer.stores.s3.botocore import botocore_error
from hftransfer.stores.s3.client import S3Client
from hftransfer.stores.s3.errors import response_error
from hftransfer.stores.s3.etags import multipart_etag
from hftransfer.stores.s3.store import S3Sink, S3Source
from support.s3 import Bucket, s3_client
from support.s3_proxy import proxy_for, xml_error

pytestmark = pytest.mark.asyncio

MIB = 1 << 20
OPTIONS = TransferOptions(
    connections=4, retry=RetryPolicy(attempts=3, wait_initial=0.0, wait_max=0.0)
)
AWKWARD = [
    "with space.txt",
    "plus+sign",
    "per%cent%20",
    "a&b=c?d#e",
    "schön/模型.bin",
    "quote'\"(1)!*~",
]


def session_for(bucket: Bucket, **options: Any) -> S3Client:
    return S3Client(
        S3Options(endpoint_url=options.pop("endpoint", bucket.server.endpoint), **options), OPTIONS
    )


def pattern(size: int) -> bytes:
    """Bytes in which no two parts of 5 MiB are alike."""
    return b"".join(index.to_bytes(8, "little") for index in range(-(-size // 8)))[:size]


def manifest_of(data: bytes, chunk_size: int) -> FileManifest:
    chunks = plan_chunks(len(data), chunk_size)
    view = memoryview(data)
    digests = tuple(chunk_digest(view[chunk.start : chunk.stop]) for chunk in chunks)
    return FileManifest(size=len(data), chunk_size=chunk_size, chunks=digests)


async def open_file(sink: Sink, path: str, size: int, chunk_size: int = 5 * MIB) -> FileSink:
    opened = await sink.begin(Entry(path=path, size=size), chunk_size)
    assert opened is not None
    return opened


async def write(file: FileSink, chunk: Chunk, data: bytes) -> None:
    part = memoryview(data)[chunk.start : chunk.stop]
    await file.write(chunk, part, chunk_digest(part))


async def upload(sink: Sink, path: str, data: bytes, chunk_size: int = 5 * MIB) -> None:
    """Do with one file what the engine does, its chunks last to first."""
    file = await open_file(sink, path, len(data), chunk_size)
    for chunk in reversed(plan_chunks(len(data), chunk_size)):
        await write(file, chunk, data)
    await file.commit(manifest_of(data, chunk_size))


async def read(source: Source, entry: Entry, start: int = 0, stop: int | None = None) -> bytes:
    buffer = bytearray((entry.size if stop is None else stop) - start)
    await source.fill(entry, ByteRangeBuffer(start, memoryview(buffer)))
    return bytes(buffer)


def get(bucket: Bucket, key: str) -> Any:
    return s3_client(bucket.server).get_object(Bucket=bucket.name, Key=key)


def put(bucket: Bucket, key: str, data: bytes = b"") -> None:
    s3_client(bucket.server).put_object(Bucket=bucket.name, Key=key, Body=data)


def uploads(bucket: Bucket, key: str) -> Sequence[Any]:
    """Open multipart uploads; MinIO lists them only for the exact key."""
    client = s3_client(bucket.server)
    listed = client.list_multipart_uploads(Bucket=bucket.name, Prefix=key)
    return list(listed.get("Uploads", []))


# --- source


async def test_what_was_uploaded_is_listed_and_read_back(bucket: Bucket) -> None:
    """Files of several chunks, of one and of none keep path, size and every byte."""
    data = {"big.bin": pattern(11 * MIB + 3), "sub/small.json": b"{}", "empty": b""}
    async with session_for(bucket) as session:
        sink = S3Sink(session, S3Location(bucket.name, "models/x"))
        entries = [Entry(path=path, size=len(content)) for path, content in data.items()]
        await sink.prepare(entries)
        for path, content in data.items():
            await upload(sink, path, content)
        await sink.finish(Manifest(source="memory://"))
        source = S3Source(session, S3Location(bucket.name, "models/x"))
        listed = await source.list()

        assert [(entry.path, entry.size) for entry in listed] == [
            (path, len(data[path])) for path in sorted(data)
        ]
        assert all(entry.identity for entry in listed)
        for entry in listed:
            if entry.size:
                assert await read(source, entry) == data[entry.path]
        big = listed[0]
        assert (
            await read(source, big, 5 * MIB - 1, 5 * MIB + 9)
            == (data["big.bin"][5 * MIB - 1 : 5 * MIB + 9])
        )
        async with source.stream(big) as body:
            head, rest = bytearray(10), bytearray(big.size - 10)
            await body.readinto(memoryview(head))
            await body.readinto(memoryview(rest))
        assert bytes(head + rest) == data["big.bin"]
        assert not source.single


async def test_a_prefix_is_a_folder_and_not_the_beginning_of_a_name(bucket: Bucket) -> None:
    """``model`` lists ``model/…``, never ``model-2/…`` or ``model.bin``; markers are no files."""
    for key in ("model/a", "model/b/c", "model/", "model/b/", "model-2/a", "model.bin"):
        put(bucket, key, b"" if key.endswith("/") else b"x")
    async with session_for(bucket) as session:
        for key in ("model", "model/"):
            listed = await S3Source(session, S3Location(bucket.name, key)).list()

            assert [entry.path for entry in listed] == ["a", "b/c"]


async def test_an_object_is_one_file(bucket: Bucket) -> None:
    """A location that is exactly an object's key is that object under its last name."""
    put(bucket, "models/weights.bin", b"12345")
    put(bucket, "models/weights.bin.index", b"")
    async with session_for(bucket) as session:
        source = S3Source(session, S3Location(bucket.name, "models/weights.bin"))
        (entry,) = await source.list()

        assert (entry.path, entry.size) == ("weights.bin", 5)
        assert source.single
        assert await read(source, entry, 1, 4) == b"234"


async def test_awkward_keys_survive_both_ways(bucket: Bucket) -> None:
    """What URLs quote, separate or decode stays part of the key."""
    async with session_for(bucket) as session:
        sink = S3Sink(session, S3Location(bucket.name, "p q+%"))
        for path in AWKWARD:
            await upload(sink, path, path.encode())
        source = S3Source(session, S3Location(bucket.name, "p q+%"))
        listed = await source.list()

        assert sorted(AWKWARD) == [entry.path for entry in listed]
        for entry in listed:
            assert await read(source, entry) == entry.path.encode()
    for path in AWKWARD:
        assert get(bucket, f"p q+%/{path}")["Body"].read() == path.encode()


@pytest.mark.slow
async def test_listing_goes_on_after_the_first_page(bucket: Bucket) -> None:
    """More objects than a page holds are all listed, each once."""
    client = s3_client(bucket.server)
    paths = [f"{number:04}" for number in range(1003)]
    for path in paths:
        client.put_object(Bucket=bucket.name, Key=f"many/{path}", Body=b"")
    async with session_for(bucket) as session:
        listed = await S3Source(session, S3Location(bucket.name, "many")).list()

    assert paths == [entry.path for entry in listed]


async def test_nothing_there_is_an_error(bucket: Bucket) -> None:
    """A missing object, folder or bucket is a `NotFoundError` that names it and the endpoint."""
    async with session_for(bucket) as session:
        for location in (S3Location(bucket.name, "no/thing"), S3Location("no-such-bucket", "x")):
            with pytest.raises(NotFoundError, match=str(location)) as caught:
                await S3Source(session, location).list()

            assert bucket.server.endpoint in str(caught.value)


async def test_a_key_that_is_no_path_is_refused(bucket: Bucket) -> None:
    """A key that would leave its folder stops the listing with a message that quotes it."""
    put(bucket, "evil/C:slash", b"x")
    async with session_for(bucket) as session:
        with pytest.raises(LocationError, match="cannot be a file's path"):
            await S3Source(session, S3Location(bucket.name, "evil")).list()


async def test_an_object_replaced_during_its_transfer_is_noticed(bucket: Bucket) -> None:
    """Every range carries If-Match, so bytes of two versions are never mixed."""
    put(bucket, "f/a", b"old content")
    async with session_for(bucket) as session:
        source = S3Source(session, S3Location(bucket.name, "f"))
        (entry,) = await source.list()
        assert await read(source, entry, 0, 3) == b"old"
        put(bucket, "f/a", b"new content")

        with pytest.raises(SourceChangedError, match=r"f/a .*replaced"):
            await read(source, entry, 3, 6)
        with pytest.raises(SourceChangedError):
            async with source.stream(entry):
                pass


# --- sink


async def test_a_multipart_object_appears_when_it_is_committed(bucket: Bucket) -> None:
    """Before `commit` no reader sees the key; after it no upload is open."""
    data = pattern(10 * MIB + 1)
    async with session_for(bucket) as session:
        sink = S3Sink(session, S3Location(bucket.name, "m"))
        file = await open_file(sink, "w.bin", len(data))
        for chunk in reversed(plan_chunks(len(data), 5 * MIB)):
            await write(file, chunk, data)
            await write(file, chunk, data)  # the engine's second try of a chunk
        with pytest.raises(ClientError, match="NoSuchKey"):
            get(bucket, "m/w.bin")
        await file.commit(manifest_of(data, 5 * MIB))
        await file.abort(discard=False)  # too late to do harm

    assert get(bucket, "m/w.bin")["Body"].read() == data
    assert not uploads(bucket, "m/w.bin")


async def test_abort_leaves_nothing(bucket: Bucket) -> None:
    """An aborted upload leaves neither an object nor an open multipart upload."""
    data = pattern(10 * MIB)
    async with session_for(bucket) as session:
        file = await open_file(S3Sink(session, S3Location(bucket.name)), "w.bin", len(data))
        await write(file, Chunk(0, 0, 5 * MIB), data)
        assert len(uploads(bucket, "w.bin")) == 1
        await file.abort(discard=False)

    assert not uploads(bucket, "w.bin")
    with pytest.raises(ClientError, match="NoSuchKey"):
        get(bucket, "w.bin")


async def test_a_missing_part_is_never_completed(bucket: Bucket) -> None:
    """`commit` without all chunks raises instead of publishing a shorter object."""
    data = pattern(10 * MIB)
    async with session_for(bucket) as session:
        file = await open_file(S3Sink(session, S3Location(bucket.name)), "w.bin", len(data))
        await write(file, Chunk(1, 5 * MIB, 10 * MIB), data)
        with pytest.raises(IntegrityError, match="1 of 2 parts"):
            await file.commit(manifest_of(data, 5 * MIB))
        await file.abort(discard=True)

    assert not uploads(bucket, "w.bin")


async def test_nothing_is_held_for_resuming(bucket: Bucket) -> None:
    """A fresh upload holds no chunks, and says so when asked for one."""
    async with session_for(bucket) as session:
        file = await open_file(S3Sink(session, S3Location(bucket.name)), "w", 8)

        assert dict(file.resumable_chunks) == {}
        with pytest.raises(UnsupportedError):
            await file.read_into(Chunk(0, 0, 8), memoryview(bytearray(8)))


async def test_content_types(bucket: Bucket) -> None:
    """The entry's own type wins, the name's comes next, compressed files have a neutral one."""
    entries = [
        Entry(path="a.json", size=1),
        Entry(path="b.json.gz", size=1),
        Entry(path="c.unknown-suffix", size=0),
        Entry(path="d", size=1, properties={"content-type": "text/x-own"}),
    ]
    async with session_for(bucket) as session:
        sink = S3Sink(session, S3Location(bucket.name))
        for entry in entries:
            file = await sink.begin(entry, 5 * MIB)
            assert file is not None
            if entry.size:
                await write(file, Chunk(0, 0, 1), b"x")
            await file.commit(manifest_of(b"x" * entry.size, 5 * MIB))
        source = S3Source(session, S3Location(bucket.name, "a.json"))
        (listed,) = await source.with_properties(await source.list())

    kinds = [get(bucket, entry.path)["ContentType"] for entry in entries]
    assert kinds[0] == "application/json"
    assert kinds[1] in ("application/octet-stream", "application/gzip")  # SeaweedFS knows better
    assert kinds[2:] == ["application/octet-stream", "text/x-own"]
    assert listed.properties == {"content-type": "application/json"}


async def test_one_file_may_be_given_its_key(bucket: Bucket) -> None:
    """With `single` the location is the object; folders and several files are refused."""
    async with session_for(bucket) as session:
        sink = S3Sink(session, S3Location(bucket.name, "models/renamed.bin"), single=True)
        await sink.prepare([Entry(path="w.bin", size=1)])
        await upload(sink, "w.bin", b"x")
        with pytest.raises(DestinationError, match="2 files"):
            await sink.prepare([Entry(path="a", size=1), Entry(path="b", size=1)])
        for key in ("", "models/"):
            with pytest.raises(LocationError):
                S3Sink(session, S3Location(bucket.name, key), single=True)

    assert get(bucket, "models/renamed.bin")["Body"].read() == b"x"


async def test_keys_too_long_for_s3_are_refused_before_bytes_move(bucket: Bucket) -> None:
    """The limit counts bytes of UTF-8, the prefix included."""
    async with session_for(bucket) as session:
        sink = S3Sink(session, S3Location(bucket.name, "p"))
        await sink.prepare([Entry(path="x" * 1022, size=1)])
        with pytest.raises(DestinationError, match="1025 bytes"):
            await sink.prepare([Entry(path="é" * 511 + "x", size=1)])


# --- refusals


async def test_a_missing_bucket_is_found_before_bytes_move(bucket: Bucket) -> None:
    """`prepare` names the bucket that does not exist."""
    async with session_for(bucket) as session:
        with pytest.raises(NotFoundError, match="s3://no-such-bucket"):
            await S3Sink(session, S3Location("no-such-bucket", "x")).prepare([])


@pytest.mark.parametrize("wrong", ["access_key_id", "secret_access_key"])
async def test_wrong_keys_are_found_before_bytes_move(bucket: Bucket, wrong: str) -> None:
    """Reading and writing with wrong keys is an `AccessError` that never quotes the secret."""
    keys = {
        "access_key_id": bucket.server.access_key,
        "secret_access_key": bucket.server.secret_key,
        wrong: "wrong-and-secret",
    }
    async with session_for(bucket, **keys) as session:
        location = S3Location(bucket.name, "x")
        for attempt in (S3Source(session, location).list, lambda: prepare(session, location)):
            with pytest.raises(AccessError, match="AWS_ACCESS_KEY_ID") as caught:
                await attempt()

            shown = "".join(traceback.format_exception(caught.value))
            assert keys["secret_access_key"] not in shown


async def prepare(session: S3Client, location: S3Location) -> None:
    await S3Sink(session, location).prepare([])


async def test_no_credentials_at_all(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where botocore finds no credentials, the error says how to give some."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async with session_for(bucket) as session:
        with pytest.raises(AccessError, match="no usable credentials"):
            await prepare(session, S3Location(bucket.name))
        with pytest.raises(AccessError, match="no usable credentials"):
            await upload(S3Sink(session, S3Location(bucket.name)), "x", b"x")


async def test_an_unknown_profile_is_an_options_error() -> None:
    """A profile that does not exist is found when the session is opened."""
    with pytest.raises(OptionsError, match="no-such-profile"):
        async with S3Client(S3Options(profile="no-such-profile"), OPTIONS):
            pass


async def test_an_endpoint_that_nobody_serves(bucket: Bucket) -> None:
    """A refused connection is tried as often as the policy says, then it is a `NetworkError`."""
    with socket.socket() as unserved:
        unserved.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unserved.getsockname()[1]}"
        async with session_for(bucket, endpoint=f"http://{host}") as session:
            with pytest.raises(NetworkError, match=f"{host}.*gave up after 3 tries"):
                await prepare(session, S3Location(bucket.name))


async def test_the_environment_gives_the_endpoint_and_the_keys(bucket: Bucket) -> None:
    """Options that are left out are botocore's to resolve."""
    put(bucket, "f/a", b"x")
    async with S3Client(S3Options(), OPTIONS) as session:
        listed = await S3Source(session, S3Location(bucket.name)).list()

    assert [entry.path for entry in listed] == ["f/a"]


async def test_signed_urls_are_never_shown(
    bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    """No error's text or traceback and no log line, at any level, holds a signature's URL."""
    caplog.set_level(logging.DEBUG)
    put(bucket, "f/a", b"content")
    async with session_for(bucket) as session:
        source = S3Source(session, S3Location(bucket.name, "f"))
        (entry,) = await source.list()
        await read(source, entry)
        changed = replace(entry, etag='"another"')
        gone = replace(entry, path="gone")
        shown = []
        for wrong in (changed, gone, replace(entry, size=3)):
            with pytest.raises(TransferError) as caught:
                await read(source, wrong)
            shown.append("".join(traceback.format_exception(caught.value)))
    async with session_for(bucket, secret_access_key="wrong", access_key_id="wrong") as session:
        sink = S3Sink(session, S3Location(bucket.name))
        with pytest.raises(TransferError) as caught:
            await upload(sink, "x", b"x")
        shown.append("".join(traceback.format_exception(caught.value)))

    assert caplog.records
    for text in (*shown, caplog.text):
        assert "X-Amz-Signature=" not in text


# --- scripted faults


async def test_control_calls_are_tried_again_and_only_here(bucket: Bucket) -> None:
    """Throttling is waited for as often as the policy says: botocore adds no tries of its own."""
    calls = 0

    async def slow_down(request: web.Request) -> web.StreamResponse | None:
        nonlocal calls
        calls += 1
        return xml_error(503, "SlowDown") if calls <= 2 else None

    async with (
        proxy_for(bucket, slow_down) as endpoint,
        session_for(bucket, endpoint=endpoint) as session,
    ):
        await prepare(session, S3Location(bucket.name))
        assert calls == 3
        calls = -10
        with pytest.raises(ThrottledError, match="gave up after 3 tries"):
            await prepare(session, S3Location(bucket.name))
        assert calls == -7


async def test_an_error_inside_a_200_is_an_error(bucket: Bucket) -> None:
    """S3 may answer 200 to CompleteMultipartUpload and fail in the body; the retry completes."""
    data = pattern(10 * MIB)
    completions = 0

    async def fail_first(request: web.Request) -> web.StreamResponse | None:
        nonlocal completions
        if request.method == "POST" and "uploadId" in request.query:
            completions += 1
            if completions == 1:
                return xml_error(200, "InternalError")
        return None

    async with (
        proxy_for(bucket, fail_first) as endpoint,
        session_for(bucket, endpoint=endpoint) as session,
    ):
        await upload(S3Sink(session, S3Location(bucket.name)), "w.bin", data)
    assert completions == 2
    assert get(bucket, "w.bin")["Body"].read() == data


@pytest.mark.parametrize("published", [True, False])
async def test_a_lost_answer_to_completion(bucket: Bucket, published: bool) -> None:
    """NoSuchUpload counts as done only if the object is there and made of these very parts."""
    data = pattern(10 * MIB)

    async def gone(request: web.Request) -> web.StreamResponse | None:
        if request.method == "POST" and "uploadId" in request.query:
            if published:
                s3_client(bucket.server).complete_multipart_upload(
                    Bucket=bucket.name,
                    Key="w.bin",
                    UploadId=request.query["uploadId"],
                    MultipartUpload={"Parts": parts(request.query["uploadId"])},
                )
            return xml_error(404, "NoSuchUpload")
        return None

    def parts(upload_id: str) -> Sequence[Any]:
        listed = s3_client(bucket.server).list_parts(
            Bucket=bucket.name, Key="w.bin", UploadId=upload_id
        )
        kept = ("PartNumber", "ETag", "ChecksumCRC32", "ChecksumCRC64NVME")
        return [{name: part[name] for name in kept if name in part} for part in listed["Parts"]]

    put(bucket, "w.bin", pattern(10 * MIB))  # the same bytes, from another upload
    async with (
        proxy_for(bucket, gone) as endpoint,
        session_for(bucket, endpoint=endpoint) as session,
    ):
        sink = S3Sink(session, S3Location(bucket.name))
        if published:
            await upload(sink, "w.bin", data)
        else:
            with pytest.raises(IntegrityError, match="multipart upload is gone"):
                await upload(sink, "w.bin", data)
    assert get(bucket, "w.bin")["Body"].read() == data


async def test_an_object_of_another_size_is_noticed(bucket: Bucket) -> None:
    """Servers that ignore MpuObjectSize are checked afterwards."""
    data = pattern(10 * MIB)

    async def shrink(request: web.Request) -> web.StreamResponse | None:
        if request.method == "HEAD":
            return web.Response(headers={"Content-Length": "7", "ETag": '"x"'})
        # An endpoint that knows no checksums, so that the size is all that can be compared.
        if any("checksum" in name.lower() for name in request.headers):
            return xml_error(400, "InvalidArgument")
        return None

    async with (
        proxy_for(bucket, shrink) as endpoint,
        session_for(bucket, endpoint=endpoint) as session,
    ):
        with pytest.raises(IntegrityError, match="7 bytes"):
            await upload(S3Sink(session, S3Location(bucket.name)), "w.bin", data)


async def test_cancelled_while_the_upload_is_created(bucket: Bucket) -> None:
    """The id of an upload that the server has begun is still learnt, so that it is aborted."""
    created = anyio.Event()
    cancelled = anyio.Event()
    opened: list[FileSink] = []

    async def hold(request: web.Request) -> web.StreamResponse | None:
        if request.method == "POST" and "uploads" in request.query:
            created.set()
            await cancelled.wait()
        return None

    async def begin(sink: Sink) -> None:
        opened.append(await open_file(sink, "w.bin", 10 * MIB))

    async with (
        proxy_for(bucket, hold) as endpoint,
        session_for(bucket, endpoint=endpoint) as session,
    ):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(begin, S3Sink(session, S3Location(bucket.name)))
            await created.wait()
            tasks.cancel_scope.cancel()
            cancelled.set()
        assert len(uploads(bucket, "w.bin")) == 1
        await opened[0].abort(discard=False)
    assert not uploads(bucket, "w.bin")


async def test_keys_that_may_write_but_not_list_or_read(bucket: Bucket) -> None:
    """Denied listing and HEAD stop no upload: least privilege is not wrong privilege."""
    data = pattern(6 * MIB)

    async def deny(request: web.Request) -> web.StreamResponse | None:
        if request.method == "HEAD":
            return web.Response(status=403)
        return xml_error(403, "AccessDenied") if "list-type" in request.query else None

    async with (
        proxy_for(bucket, deny) as endpoint,
        session_for(bucket, endpoint=endpoint) as session,
    ):
        location = S3Location(bucket.name)
        await prepare(session, location)
        await upload(S3Sink(session, location), "w.bin", data)
        with pytest.raises(AccessError, match="lack a permission"):
            await S3Source(session, location).list()
    assert get(bucket, "w.bin")["Body"].read() == data


# --- pure


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "NoSuchKey", NotFoundError),
        (403, "AccessDenied", AccessError),
        (403, "RequestTimeTooSkewed", AccessError),
        (400, "RequestTimeout", ServerError),
        (503, "SlowDown", ThrottledError),
        (412, "PreconditionFailed", SourceChangedError),
        (500, "SomethingNew", ServerError),
        (400, "SomethingNew", RejectedError),
        (403, "", AccessError),
        (429, "", ThrottledError),
        (400, "ExpiredToken", AccessError),
        (501, "NotImplemented", UnsupportedError),
        (400, "XAmzContentChecksumMismatch", NetworkError),
        (200, "InternalError", ServerError),
        (200, "", ServerError),
    ],
)
async def test_refusals_have_one_table(
    status: int, code: str, expected: type[TransferError]
) -> None:
    """The code decides, the status where there is none; the response stays attached."""
    body = f"<Error><Code>{code}</Code></Error>".encode() if code else b"<html>"
    response = Response("GET", "http://h/b/k?X-Amz-Signature=1", status, {"Retry-After": "7"}, body)
    error = response_error(response, "s3://b/k at http://h")

    assert type(error) is expected
    assert error.response is response
    assert str(error).startswith("s3://b/k at http://h: ")
    if isinstance(error, ThrottledError):
        assert error.retry_after == 7


async def test_botocore_errors_become_ours() -> None:
    """What goes wrong while credentials are looked up names no URL and no secret."""
    assert type(botocore_error(NoCredentialsError(), "x")) is AccessError
    timeout = ReadTimeoutError(endpoint_url="http://h/?X-Amz-Signature=1")
    assert type(botocore_error(timeout, "x")) is StalledError
    assert "Signature" not in str(botocore_error(timeout, "x"))
    role: Any = {"Error": {"Code": "AccessDenied", "Message": "not you"}}
    assert type(botocore_error(ClientError(role, "AssumeRole"), "x")) is AccessError


async def test_the_etag_of_parts() -> None:
    """Only MD5s of parts add up to the ETag of a whole."""
    md5 = '"9e107d9d372bb6826bd81d3542a419d6"'

    assert multipart_etag([md5, md5]) == "e5f9e806d1cb7907955dc91054bb5527-2"
    assert multipart_etag([md5, '"not-an-md5"']) is None
    assert multipart_etag([md5, '"abcd"']) is None
