"""`hftransfer.stores.s3.botocore`: errors of botocore become ours."""

from __future__ import annotations

from typing import Any

from botocore.exceptions import ClientError, NoCredentialsError, ReadTimeoutError

from hftransfer.errors import AccessError, StalledError
from hftransfer.stores.s3.botocore import botocore_error


def test_errors_of_the_credential_lookup() -> None:
    """Each family has its own error; no message quotes a URL, which may be signed."""
    assert type(botocore_error(NoCredentialsError(), "x")) is AccessError
    timeout = ReadTimeoutError(endpoint_url="http://h/?X-Amz-Signature=1")
    assert type(botocore_error(timeout, "x")) is StalledError
    assert "Signature" not in str(botocore_error(timeout, "x"))
    role: Any = {"Error": {"Code": "AccessDenied", "Message": "not you"}}
    assert type(botocore_error(ClientError(role, "AssumeRole"), "x")) is AccessError
