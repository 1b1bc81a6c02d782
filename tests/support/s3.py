"""Buckets on the real S3 servers that tests start, accessed by botocore instead of our client."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from hftransfer.testing.s3 import S3Server, ServerNotFoundError

__all__ = (
    "Bucket",
    "client_params",
    "get_object",
    "numbered_bytes",
    "open_uploads",
    "put_object",
    "remove_bucket",
    "run_server",
    "s3_client",
)


@dataclass(frozen=True)
class Bucket:
    """An empty bucket of its own for one test."""

    server: S3Server
    name: str

    @property
    def url(self) -> str:
        """``s3://NAME``, without a trailing slash."""
        return f"s3://{self.name}"


@contextmanager
def run_server(start: Callable[[], S3Server], *, optional: bool = False) -> Iterator[S3Server]:
    """Run the server that `start` returns; without it, skip the test, or fail it in CI.

    Args:
        start: starts the server.
        optional: skip the test in CI, too.
    """
    try:
        server = start()
    except ServerNotFoundError as error:
        if os.environ.get("CI") and not optional:
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    with server:
        yield server


def s3_client(server: S3Server) -> Any:
    """Return a plain botocore client of `server`, to prepare and to inspect buckets."""
    import botocore.session

    return botocore.session.Session().create_client("s3", **client_params(server))


def client_params(server: S3Server) -> dict[str, Any]:
    """Return the arguments with which a client of botocore or boto3 uses `server`."""
    return {
        "endpoint_url": server.endpoint,
        "region_name": server.region,
        "aws_access_key_id": server.access_key,
        "aws_secret_access_key": server.secret_key,
    }


def put_object(bucket: Bucket, key: str, data: bytes = b"", **parameters: object) -> None:
    """Create an object; `parameters` are those of botocore's ``put_object``."""
    s3_client(bucket.server).put_object(Bucket=bucket.name, Key=key, Body=data, **parameters)


def get_object(bucket: Bucket, key: str) -> bytes:
    """Return the bytes of an object.

    Raises:
        botocore.exceptions.ClientError: if there is none.
    """
    body = s3_client(bucket.server).get_object(Bucket=bucket.name, Key=key)["Body"].read()
    assert isinstance(body, bytes)
    return body


def open_uploads(bucket: Bucket, key: str) -> Sequence[Any]:
    """Return the open multipart uploads of `key`, which MinIO lists only by the exact key."""
    return _list_uploads(s3_client(bucket.server), bucket.name, Prefix=key)


def _list_uploads(client: Any, bucket: str, **parameters: str) -> Sequence[Any]:
    from botocore.exceptions import ClientError

    try:
        listed = client.list_multipart_uploads(Bucket=bucket, **parameters)
    except ClientError as error:
        # The responses of rclone, if there is none, and of s3rver, which lists none.
        if error.response["Error"]["Code"] not in ("NoSuchUpload", "NotImplemented"):
            raise
        return []
    return list(listed.get("Uploads", []))


def numbered_bytes(size: int) -> bytes:
    """Return consecutive 8-byte numbers, so that no two parts of an object are equal."""
    return b"".join(index.to_bytes(8, "little") for index in range(-(-size // 8)))[:size]


def remove_bucket(client: Any, name: str) -> None:
    """Delete a bucket with all objects and open uploads in it."""
    for upload in _list_uploads(client, name):
        client.abort_multipart_upload(Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"])
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
        for listed in page.get("Contents", []):
            client.delete_object(Bucket=name, Key=listed["Key"])
    client.delete_bucket(Bucket=name)
