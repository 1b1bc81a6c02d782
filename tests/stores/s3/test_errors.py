"""`hftransfer.stores.s3.errors`: error responses and the errors that describe them."""

from __future__ import annotations

import pytest

from hftransfer.errors import (
    AccessError,
    NetworkError,
    NotFoundError,
    RejectedError,
    Response,
    ServerError,
    SourceChangedError,
    ThrottledError,
    TransferError,
    UnsupportedError,
)
from hftransfer.stores.s3.errors import response_error


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
def test_the_code_decides_and_else_the_status(
    status: int, code: str, expected: type[TransferError]
) -> None:
    """The message begins with the object; the response stays attached to the error."""
    body = f"<Error><Code>{code}</Code></Error>".encode() if code else b"<html>"
    response = Response("GET", "http://h/b/k?X-Amz-Signature=1", status, {"Retry-After": "7"}, body)
    error = response_error(response, "s3://b/k at http://h")

    assert type(error) is expected
    assert error.response is response
    assert str(error).startswith("s3://b/k at http://h: ")
    if isinstance(error, ThrottledError):
        assert error.retry_after == 7
