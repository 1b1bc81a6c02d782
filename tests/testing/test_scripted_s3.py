"""`ScriptedS3` as another client sees it: a plain botocore client uses it unmodified."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import botocore.session
import pytest
from botocore.exceptions import ClientError, FlexibleChecksumError

from hftransfer.testing.s3 import S3Script, ScriptedS3

PART = bytes(5 << 20)


@pytest.fixture
def store() -> Iterator[ScriptedS3]:
    with ScriptedS3() as running:
        yield running


@pytest.fixture
def client(store: ScriptedS3) -> Any:
    return botocore.session.Session().create_client(
        "s3",
        endpoint_url=store.endpoint,
        region_name=store.region,
        aws_access_key_id=store.access_key,
        aws_secret_access_key=store.secret_key,
    )


def code_of(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return str(caught.value.response["Error"]["Code"])


def test_without_a_script_it_behaves_like_s3(store: ScriptedS3, client: Any) -> None:
    """Objects, ranges, listings, copies, conditions, checksums and multipart uploads."""
    target = {"Bucket": "bkt", "Key": "a b"}
    client.put_object(**target, Body=b"0123456789", Metadata={"note": "kept"})
    ranged = client.get_object(**target, Range="bytes=2-4")
    assert (ranged["Body"].read(), ranged["ContentRange"]) == (b"234", "bytes 2-4/10")
    assert client.head_object(**target)["Metadata"] == {"note": "kept"}
    client.copy_object(Bucket="bkt", Key="c", CopySource={"Bucket": "bkt", "Key": "a b"})
    listed = client.list_objects_v2(Bucket="bkt")["Contents"]
    assert [(each["Key"], each["Size"]) for each in listed] == [("a b", 10), ("c", 10)]
    with pytest.raises(ClientError) as caught:
        client.put_object(**target, Body=b"x", IfNoneMatch="*")
    assert code_of(caught) == "PreconditionFailed"
    with pytest.raises(ClientError) as caught:
        client.put_object(**target, Body=b"x", ChecksumCRC32="AAAAAA==")
    assert code_of(caught) == "XAmzContentChecksumMismatch"

    upload = client.create_multipart_upload(Bucket="bkt", Key="m")["UploadId"]
    of_upload = {"Bucket": "bkt", "Key": "m", "UploadId": upload}
    etag = client.upload_part(**of_upload, PartNumber=1, Body=PART)["ETag"]
    assert store.open_uploads() == [("bkt", "m")]
    parts = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
    client.complete_multipart_upload(**of_upload, MultipartUpload=parts)
    assert store.objects["bkt", "m"].data == PART
    assert client.head_object(Bucket="bkt", Key="m")["ETag"].endswith('-1"')


def test_the_script_may_change_at_any_time(store: ScriptedS3, client: Any) -> None:
    """Each deviation applies to the requests after it."""
    target = {"Bucket": "bkt", "Key": "a"}
    client.put_object(**target, Body=b"content")
    store.script = S3Script(put_conditions=False, metadata=False)
    client.put_object(**target, Body=b"content", IfNoneMatch="*", Metadata={"note": "dropped"})
    assert client.head_object(**target)["Metadata"] == {}
    store.script.damaged_downloads = 1
    with pytest.raises(FlexibleChecksumError):
        client.get_object(**target)["Body"].read()
    assert client.get_object(**target)["Body"].read() == b"content"
    store.script.refused_headers = frozenset({"x-amz-meta-note"})
    with pytest.raises(ClientError) as caught:
        client.put_object(**target, Body=b"content", Metadata={"note": "refused"})
    assert code_of(caught) == "NotImplemented"
    assert {request.method for request in store.requests} == {"PUT", "HEAD", "GET"}
