"""`hftransfer.stores.s3.client`: requests, their recovery and retries, and its error messages.

Recoveries that need a whole transfer to be seen are in `scenarios/test_s3_faults.py`.
"""

from __future__ import annotations

import logging
import socket
import traceback
from dataclasses import replace
from typing import Any

import anyio
import pytest
from aiohttp import web

from hftransfer.errors import (
    AccessError,
    NetworkError,
    OptionsError,
    ThrottledError,
    TransferError,
)
from hftransfer.locations import S3Location
from hftransfer.options import RetryPolicy, S3Options, TransferOptions
from hftransfer.stores.s3.client import S3Client
from hftransfer.stores.s3.store import S3Sink, S3Source
from support.s3 import Bucket, put_object
from support.s3_files import read, upload
from support.s3_proxy import proxy_for, xml_error

pytestmark = pytest.mark.asyncio

OPTIONS = TransferOptions(
    connections=4, retry=RetryPolicy(attempts=3, wait_initial=0.0, wait_max=0.0)
)


def client_of(bucket: Bucket, **options: Any) -> S3Client:
    endpoint = options.pop("endpoint", bucket.server.endpoint)
    return S3Client(S3Options(endpoint_url=endpoint, **options), OPTIONS)


async def prepare(client: S3Client, location: S3Location) -> None:
    await S3Sink(client, location).prepare([])


# --- account


@pytest.mark.parametrize("wrong", ["access_key_id", "secret_access_key"])
async def test_wrong_credentials_are_rejected_before_bytes_move(bucket: Bucket, wrong: str) -> None:
    """Listing and `prepare` raise an `AccessError`, which never quotes the secret."""
    keys = {
        "access_key_id": bucket.server.access_key,
        "secret_access_key": bucket.server.secret_key,
        wrong: "wrong-and-secret",
    }
    async with client_of(bucket, **keys) as client:
        location = S3Location(bucket.name, "x")
        for attempt in (S3Source(client, location).list, lambda: prepare(client, location)):
            with pytest.raises(AccessError, match="AWS_ACCESS_KEY_ID") as caught:
                await attempt()

            shown = "".join(traceback.format_exception(caught.value))
            assert keys["secret_access_key"] not in shown


async def test_missing_credentials(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """If botocore finds no credentials, the error says how to provide some."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async with client_of(bucket) as client:
        with pytest.raises(AccessError, match="there are none"):
            await prepare(client, S3Location(bucket.name))
        with pytest.raises(AccessError, match="there are none"):
            await upload(S3Sink(client, S3Location(bucket.name)), "x", b"x")


async def test_an_unknown_profile_is_an_options_error() -> None:
    """A missing profile is reported when the client is opened."""
    with pytest.raises(OptionsError, match="no-such-profile"):
        async with S3Client(S3Options(profile="no-such-profile"), OPTIONS):
            pass


async def test_endpoint_and_credentials_come_from_the_environment(bucket: Bucket) -> None:
    """Without options the variables of the AWS tools apply."""
    put_object(bucket, "f/a", b"x")
    async with S3Client(S3Options(), OPTIONS) as client:
        listed = await S3Source(client, S3Location(bucket.name)).list()

    assert [entry.path for entry in listed] == ["f/a"]


async def test_signed_urls_are_never_shown(
    bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    """No error message, traceback or log record of any level contains a signed URL."""
    caplog.set_level(logging.DEBUG)
    put_object(bucket, "f/a", b"content")
    shown = []
    async with client_of(bucket) as client:
        source = S3Source(client, S3Location(bucket.name, "f"))
        (entry,) = await source.list()
        await read(source, entry)
        changed = replace(entry, etag='"another"')
        deleted = replace(entry, path="deleted")
        for wrong in (changed, deleted, replace(entry, size=3)):
            with pytest.raises(TransferError) as caught:
                await read(source, wrong)
            shown.append("".join(traceback.format_exception(caught.value)))
    async with client_of(bucket, secret_access_key="wrong", access_key_id="wrong") as client:
        sink = S3Sink(client, S3Location(bucket.name))
        with pytest.raises(TransferError) as caught:
            await upload(sink, "x", b"x")
        shown.append("".join(traceback.format_exception(caught.value)))

    assert caplog.records
    for text in (*shown, caplog.text):
        assert "X-Amz-Signature=" not in text


# --- retry


async def test_an_endpoint_without_a_server(bucket: Bucket) -> None:
    """A refused connection is retried as often as the policy allows, then is a `NetworkError`."""
    with socket.socket() as unserved:
        unserved.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{unserved.getsockname()[1]}"
        async with client_of(bucket, endpoint=f"http://{host}") as client:
            with pytest.raises(NetworkError, match=f"{host}.*gave up after 3 attempts"):
                await prepare(client, S3Location(bucket.name))


async def test_throttled_requests_are_retried_on_one_level(bucket: Bucket) -> None:
    """The number of requests is that of the retry policy; no other layer adds retries."""
    requests = 0
    throttled = 2

    async def slow_down(request: web.Request) -> web.StreamResponse | None:
        nonlocal requests
        requests += 1
        return xml_error(503, "SlowDown") if requests <= throttled else None

    async with (
        proxy_for(bucket, slow_down) as endpoint,
        client_of(bucket, endpoint=endpoint) as client,
    ):
        await prepare(client, S3Location(bucket.name))
        assert requests == 3
        requests, throttled = 0, 100
        with pytest.raises(ThrottledError, match="gave up after 3 attempts"):
            await prepare(client, S3Location(bucket.name))
        assert requests == 3


# --- recover


@pytest.mark.parametrize("s3_server", ["minio"], indirect=True)
async def test_concurrent_requests_recover_from_the_same_redirect(bucket: Bucket) -> None:
    """A request that learns of the region after another one has stored it recovers, too."""
    waiting = 0
    both_waiting = anyio.Event()

    async def redirect(request: web.Request) -> web.StreamResponse | None:
        nonlocal waiting
        if bucket.server.region in request.headers["Authorization"].split("/"):
            return None
        waiting += 1
        if waiting == 2:
            both_waiting.set()
        await both_waiting.wait()
        return xml_error(301, "PermanentRedirect", x_amz_bucket_region=bucket.server.region)

    async with (
        proxy_for(bucket, redirect) as endpoint,
        client_of(bucket, endpoint=endpoint, region_name="eu-north-1") as client,
        anyio.create_task_group() as tasks,
    ):
        for _ in range(2):
            tasks.start_soon(prepare, client, S3Location(bucket.name))

    assert waiting == 2
