"""Buckets on the real S3 servers that tests start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hftransfer.testing.s3 import S3Server


@dataclass(frozen=True)
class Bucket:
    """An empty bucket of its own for one test."""

    server: S3Server
    name: str

    @property
    def url(self) -> str:
        """``s3://NAME``, without a trailing slash."""
        return f"s3://{self.name}"


def s3_client(server: S3Server) -> Any:
    """Return a plain botocore client of `server`, for setting up and looking behind the scenes."""
    import botocore.session

    return botocore.session.Session().create_client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=server.region,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
    )


def remove_bucket(client: Any, name: str) -> None:
    """Delete a bucket with all objects and unfinished uploads in it."""
    try:
        uploads = client.list_multipart_uploads(Bucket=name).get("Uploads", [])
    except client.exceptions.NoSuchUpload:  # how rclone says that there are none
        uploads = []
    for upload in uploads:
        client.abort_multipart_upload(Bucket=name, Key=upload["Key"], UploadId=upload["UploadId"])
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
        for entry in page.get("Contents", []):
            client.delete_object(Bucket=name, Key=entry["Key"])
    client.delete_bucket(Bucket=name)
