"""What S3 says when it refuses, as errors of `hftransfer.errors`.

Servers differ in status codes and agree on codes, so the code decides first and the
status only where a code is missing or unknown: answers to HEAD have no body.
"""

from __future__ import annotations

from collections.abc import Mapping

from hftransfer._http.status import retry_after
from hftransfer.errors import (
    AccessError,
    DestinationError,
    DiskFullError,
    NetworkError,
    NotFoundError,
    RejectedError,
    Response,
    ServerError,
    SourceChangedError,
    ThrottledError,
    TransferError,
    TransientError,
    UnsupportedError,
)
from hftransfer.stores.s3.xml import element

__all__ = ("lacks_permission", "refusal_code", "response_error")

_WRONG_KEY = "the access key or its secret is wrong; check AWS_ACCESS_KEY_ID and its companions"
_WRONG_REGION = "the bucket is in {region}; set that as region_name or AWS_REGION"
_GONE = "the temporary credentials ran out; get new ones"
_SLOW = "the server asks for fewer requests"
_FAILED = "the server failed"
_DAMAGED = "the request was damaged on its way"

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html and what other servers add.
_CODES: Mapping[str, tuple[type[TransferError], str]] = {
    "NoSuchBucket": (NotFoundError, "the bucket does not exist"),
    "NoSuchKey": (NotFoundError, "the object does not exist"),
    "NoSuchVersion": (NotFoundError, "the object does not exist"),
    "NoSuchUpload": (
        NotFoundError,
        "its multipart upload is gone; another process or a lifecycle rule ended it",
    ),
    "AccessDenied": (AccessError, "access denied; these credentials lack a permission"),
    "AllAccessDisabled": (AccessError, "access to the bucket is disabled"),
    "AccountProblem": (AccessError, "the account has a problem"),
    "InvalidAccessKeyId": (AccessError, _WRONG_KEY),
    "SignatureDoesNotMatch": (AccessError, _WRONG_KEY),
    "InvalidToken": (AccessError, "the session token is not valid; get new credentials"),
    "ExpiredToken": (AccessError, _GONE),
    "TokenRefreshRequired": (AccessError, _GONE),
    "RequestTimeTooSkewed": (AccessError, "this machine's clock is wrong; set it"),
    "InvalidObjectState": (RejectedError, "the object is archived; restore it first"),
    "PermanentRedirect": (RejectedError, _WRONG_REGION),
    "TemporaryRedirect": (RejectedError, _WRONG_REGION),
    "AuthorizationHeaderMalformed": (RejectedError, _WRONG_REGION),
    "AuthorizationQueryParametersError": (RejectedError, _WRONG_REGION),
    "IllegalLocationConstraintException": (RejectedError, _WRONG_REGION),
    "PreconditionFailed": (SourceChangedError, "the object was replaced during its transfer"),
    "InvalidRange": (SourceChangedError, "the object became shorter during its transfer"),
    "EntityTooLarge": (DestinationError, "the object is too large for this store"),
    "EntityTooSmall": (DestinationError, "a part is too small for this store"),
    "InvalidPart": (DestinationError, "a part of the upload is missing or was replaced"),
    "InvalidPartOrder": (DestinationError, "a part of the upload is missing or was replaced"),
    "KeyTooLongError": (DestinationError, "the key is too long"),
    "QuotaExceeded": (DiskFullError, "the quota is used up"),
    "InsufficientStorage": (DiskFullError, "the store is full"),
    "XMinioStorageFull": (DiskFullError, "the store is full"),
    "XMinioAdminBucketQuotaExceeded": (DiskFullError, "the bucket's quota is used up"),
    "SlowDown": (ThrottledError, _SLOW),
    "SlowDownRead": (ThrottledError, _SLOW),
    "SlowDownWrite": (ThrottledError, _SLOW),
    "ServiceUnavailable": (ThrottledError, _SLOW),
    "Throttling": (ThrottledError, _SLOW),
    "ThrottlingException": (ThrottledError, _SLOW),
    "RequestLimitExceeded": (ThrottledError, _SLOW),
    "BandwidthLimitExceeded": (ThrottledError, _SLOW),
    "TooManyRequests": (ThrottledError, _SLOW),
    "InternalError": (ServerError, _FAILED),
    "InternalServerError": (ServerError, _FAILED),
    "RequestTimeout": (ServerError, "the server waited too long for the request"),
    "OperationAborted": (ServerError, "another operation on the object was in the way"),
    "ConditionalRequestConflict": (ServerError, "another operation on the object was in the way"),
    "IncompleteBody": (NetworkError, _DAMAGED),
    "BadDigest": (NetworkError, _DAMAGED),
    "InvalidDigest": (NetworkError, _DAMAGED),
    "XAmzContentChecksumMismatch": (NetworkError, _DAMAGED),
    "NotImplemented": (UnsupportedError, "the store cannot do this"),
    "MethodNotAllowed": (UnsupportedError, "the store cannot do this"),
}

_STATUSES: Mapping[int, tuple[type[TransferError], str]] = {
    301: (RejectedError, _WRONG_REGION),
    307: (RejectedError, _WRONG_REGION),
    401: (AccessError, "access denied; these credentials are wrong or lack a permission"),
    403: (AccessError, "access denied; these credentials are wrong or lack a permission"),
    404: (NotFoundError, "nothing is there"),
    408: _CODES["RequestTimeout"],
    409: _CODES["OperationAborted"],
    412: _CODES["PreconditionFailed"],
    416: _CODES["InvalidRange"],
    429: (ThrottledError, _SLOW),
    503: (ThrottledError, _SLOW),
    501: (UnsupportedError, "the store cannot do this"),
    507: (DiskFullError, "the store is full"),
}


def refusal_code(error: TransferError) -> str:
    """Return S3's code for what `error` is about, or nothing."""
    return "" if error.response is None else _text(error.response, "Code")


def lacks_permission(error: AccessError) -> bool:
    """Return True if a request was refused to credentials that are known and right."""
    return refusal_code(error) == "AccessDenied"


def response_error(response: Response, what: str) -> TransferError:
    """Return the error that stands for a refused request.

    Args:
        response: the refusal; also a 200 whose body is an error.
        what: what was being done to what, and where; begins the message.
    """
    code, message = _text(response, "Code"), _text(response, "Message")
    region = _text(response, "Region") or response.headers.get("X-Amz-Bucket-Region")
    return _error(what, code, message, region, response)


def _text(response: Response, name: str) -> str:
    return element(response.body.decode(errors="replace"), name)


def _error(
    what: str, code: str, message: str, region: str | None, response: Response
) -> TransferError:
    status = response.status
    kind, advice = _CODES.get(code) or _STATUSES.get(status) or _unknown(status, code)
    quoted = ": ".join(part for part in (code or str(status), message) if part)
    text = f"{what}: {advice.format(region=region or 'another region')} ({quoted})"
    if issubclass(kind, TransientError):
        return kind(text, response=response, retry_after=retry_after(response.headers))
    return kind(text, response=response)


def _unknown(status: int, code: str) -> tuple[type[TransferError], str]:
    # A 200 that turned into an error while its body was being sent is a failure of the server.
    if status >= 500 or (status < 300 and not code):
        return ServerError, _FAILED
    return RejectedError, "the server refused the request"
