"""`hftransfer.stores.s3.headers`: request headers for options and entries."""

from __future__ import annotations

import base64

from hftransfer.options import S3Options
from hftransfer.stores.base import Entry
from hftransfer.stores.s3.headers import customer_key_headers, object_headers


def test_encryption_and_storage_class_become_headers() -> None:
    """Each option that is set has its header; options that are not set have none."""
    options = S3Options(
        server_side_encryption="aws:kms", kms_key_id="key-1", storage_class="STANDARD_IA"
    )
    entry = Entry(path="a.json", size=1, properties={"x-amz-meta-a": "1", "blob-id": "no"})

    assert object_headers(options, entry) == {
        "content-type": "application/json",
        "x-amz-meta-a": "1",
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "key-1",
        "x-amz-storage-class": "STANDARD_IA",
    }
    assert object_headers(S3Options(), Entry(path="a.bin", size=1)) == {
        "content-type": "application/octet-stream"
    }


def test_a_customer_key_is_sent_with_its_md5() -> None:
    """SSE-C requires the algorithm, the key and the key's MD5; the key is not in the repr."""
    key = base64.b64encode(b"k" * 32).decode()
    headers = customer_key_headers(S3Options(customer_key=key))

    assert set(headers.values()) == {"AES256", key, "mT2HRsMGJ5IX5C+0rreZ8Q=="}
    assert headers["x-amz-server-side-encryption-customer-algorithm"] == "AES256"
    assert customer_key_headers(S3Options()) == {}
    assert key not in repr(S3Options(customer_key=key))
